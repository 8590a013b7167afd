"""A filesystem as buckets and network shares are mounted: a folder seen through FUSE, without what those lack.

``python bucket.py FOLDER MOUNTPOINT TYPE`` serves until it is killed, and prints a line when it is ready. It has no
links of either kind and no fsync, and a file cannot be renamed onto another one.
Source: the Linux kernel's include/uapi/linux/fuse.h, protocol 7.31.
"""

import ctypes
import errno
import os
import struct
import sys
from pathlib import Path

_ENTRY = struct.Struct("<QQQQII")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_NOTHING = {2, 36, 42}  # forget, interrupt, batch_forget: nobody waits for an answer


class Bucket:
    """Answers the kernel's questions about a folder.

    Args:
        folder: Where the files really are.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = {1: folder}
        self.device = os.open("/dev/fuse", os.O_RDWR)

    def mount(self, point: Path, kind: str) -> None:
        """Put it into the tree of files."""
        options = f"fd={self.device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"bucket", os.fsencode(point), kind.encode(), 0, options.encode()):
            raise OSError(ctypes.get_errno(), "cannot mount")

    def serve(self) -> None:
        """Answer until the kernel hangs up."""
        while True:
            try:
                request = os.read(self.device, 1 << 21)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode in _NOTHING:
                continue
            try:
                answer, failed = self.answer(opcode, node, request[40:]), 0
            except OSError as error:
                answer, failed = b"", error.errno or errno.EIO
            except KeyError:
                answer, failed = b"", errno.ENOSYS  # so it is with link, symlink and all that is not here
            os.write(self.device, struct.pack("<IiQ", 16 + len(answer), -failed, unique) + answer)

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """Do what one request asks for."""
        if opcode == 26:  # init
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 16, 0, 8, 8, 1 << 16, 1, 0, 0, 0)
        if opcode == 17:  # statfs
            return struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
        names = {1: self.lookup, 9: self.make_folder, 10: self.unlink, 11: self.remove_folder, 35: self.create}
        names |= {12: self.rename, 45: self.rename}
        files = {3: self.attributes, 4: self.set_attributes, 14: self.open, 15: self.read, 16: self.write}
        files |= {18: self.release, 20: self.sync, 25: self.done, 27: self.open_folder, 28: self.list}
        files |= {29: self.done, 30: self.sync}
        return {**names, **files}[opcode](node, body)

    def _child(self, node: int, name: bytes) -> Path:
        return self.paths[node] / os.fsdecode(name.rstrip(b"\0"))

    def _entry(self, path: Path) -> bytes:
        number = os.lstat(path).st_ino
        self.paths[number] = path
        return _ENTRY.pack(number, 0, 0, 0, 0, 0) + self._attributes(path)

    def _attributes(self, path: Path) -> bytes:
        s = os.lstat(path)
        times = (int(s.st_atime), int(s.st_mtime), int(s.st_ctime), 0, 0, 0)
        return _ATTR.pack(s.st_ino, s.st_size, s.st_blocks, *times, s.st_mode, 1, s.st_uid, s.st_gid, 0, 4096, 0)

    def lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._child(node, body))

    def make_folder(self, node: int, body: bytes) -> bytes:
        path = self._child(node, body[8:])
        path.mkdir()
        return self._entry(path)

    def unlink(self, node: int, body: bytes) -> bytes:
        self._child(node, body).unlink()
        return b""

    def remove_folder(self, node: int, body: bytes) -> bytes:
        self._child(node, body).rmdir()
        return b""

    def create(self, node: int, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", body)
        path = self._child(node, body[16:])
        opened = os.open(path, (flags | os.O_CREAT) & ~os.O_NOFOLLOW, mode)
        return self._entry(path) + struct.pack("<QII", opened, 0, 0)

    def rename(self, node: int, body: bytes) -> bytes:
        (folder,) = struct.unpack_from("<Q", body)
        old, new = body[8:].lstrip(b"\0").split(b"\0")[:2]  # rename2 has flags before them
        source, target = self._child(node, old), self._child(folder, new)
        if target.exists():
            raise FileExistsError(errno.EEXIST, "there is one")
        source.rename(target)
        for number, path in self.paths.items():
            if path.is_relative_to(source):
                self.paths[number] = target / path.relative_to(source)
        return b""

    def attributes(self, node: int, _: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(self.paths[node])

    def set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & 8:
            os.truncate(self.paths[node], size)
        return self.attributes(node, b"")

    def open(self, node: int, body: bytes) -> bytes:
        (flags,) = struct.unpack_from("<I", body)
        return struct.pack("<QII", os.open(self.paths[node], flags & ~os.O_NOFOLLOW), 0, 0)

    def read(self, _: int, body: bytes) -> bytes:
        opened, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(opened, size, offset)

    def write(self, _: int, body: bytes) -> bytes:
        opened, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(opened, body[40 : 40 + size], offset), 0)

    def release(self, _: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def sync(self, *_: object) -> bytes:
        raise OSError(errno.EINVAL, "no such thing here")

    def open_folder(self, *_: object) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def done(self, *_: object) -> bytes:
        return b""

    def list(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        for number, name in list(enumerate(sorted(os.listdir(self.paths[node])), 1))[offset:]:
            entry = struct.pack("<QQII", number, number, len(os.fsencode(name)), 0) + os.fsencode(name)
            entry += b"\0" * (-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer


if __name__ == "__main__":
    bucket = Bucket(Path(sys.argv[1]))
    bucket.mount(Path(sys.argv[2]), sys.argv[3])
    print("ready", flush=True)
    bucket.serve()

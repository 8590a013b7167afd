"""Files that are whole or not there."""

import csv
import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, Final

from clf.mounts import mount_of, scratch

_NO_WAITING: Final = getattr(os, "O_NONBLOCK", 0)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""How filesystems say that they have nothing to wait for."""


def open_whole(path: str | Path, *, most: int = sys.maxsize, buffering: int = -1) -> BinaryIO:
    """Open a file to be read; what could be read without end is refused before a byte of it is.

    Args:
        path: The file; a link is followed.
        most: Bytes that it may have.
        buffering: As `open` has it; 0 reads without a buffer.
    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is a pipe or a device, or larger.
    """
    # To open a pipe is to wait for somebody who writes, unless one says not to.
    file = open(path, "rb", buffering, opener=lambda name, flags: os.open(name, flags | _NO_WAITING))  # noqa: SIM115
    about = os.fstat(file.fileno())
    if stat.S_ISREG(about.st_mode) and about.st_size <= most:
        return file
    file.close()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is a pipe or a device, not a file")
    raise ValueError(f"its {about.st_size} bytes are more than {most}")


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Put a complete file in the place of the old one in one step; a failure leaves the old one as it was.

    Args:
        path: See `replacing`.
        write: Writes the content into the file that it gets.
    Raises:
        OSError: If that fails; its ``filename`` is the file's.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        write(file)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Name a file to write; once it is whole and on the disk, it takes the place of another one in one step.

    Args:
        path: The place; folders that are missing are made. A link there, a pipe or a device is replaced itself, not
            written to: what a link in a run directory leads to may be the only copy of a checkpoint, or a stranger's.
    Yields:
        What to write. If that fails, it is removed, and the old file is as it was.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(path)
        # What a killed process left here may be a second name of a good file: never write into it.
        partial.unlink(missing_ok=True)
        try:
            yield partial
            place(partial, path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)  # also there if both were names of one file: then nothing is replaced


def partial_of(path: Path) -> Path:
    """Name what is written before it takes a file's place; a process that is killed leaves it.

    It lies beside the file, or on a disk of this machine where files cannot be replaced in one step.
    """
    if mount_of(path.parent).renames:
        return path.with_name(f"{path.name}.partial")
    return scratch() / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]}-{path.name}"


def place(made: Path, path: Path) -> None:
    """Put a finished file in its place, see `partial_of`; when this returns, it is there after a power cut, too."""
    sync(made)
    if mount_of(path.parent).renames:
        made.replace(path)
    else:
        _deliver(made, path)
    sync(path.parent)


def _deliver(made: Path, path: Path) -> None:
    """Copy a file where it cannot be put in one step; at any moment the old one or a compared copy is there."""
    spare = path.with_name(f"{path.name}.partial")
    wanted = sha256(made)
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        path.unlink()
    _copy(made, spare, wanted)
    try:
        spare.replace(path)  # no single step, but quicker than to send all of it again
    except OSError:
        _copy(made, path, wanted)
        spare.unlink()
    if sha256(path) != wanted:
        raise OSError(errno.EIO, "what was copied there reads otherwise", str(path))
    made.unlink()


def _copy(source: Path, target: Path, wanted: str) -> None:
    shutil.copyfile(source, target)
    sync(target)
    if sha256(target) != wanted:
        raise OSError(errno.EIO, "what was copied there reads otherwise", str(target))


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error say which file it is about: a failed write does not know, nor does who opens a ``….partial``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, f"{path}.partial"):
            error.filename = str(path)
        raise


def is_refused(error: BaseException) -> bool:
    """Tell whether a file may not be written, because of permissions or of how its disk is mounted."""
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def is_full(error: BaseException) -> bool:
    """Tell whether there was no room, on the disk or in the user's share of it."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def replace_text(path: Path, text: str) -> None:
    """Replace a text file as a whole, see `replace_file`.

    Args:
        path: The file; folders that are missing are made.
        text: What it says from now on, UTF-8. What UTF-8 cannot hold (a file name may be any bytes) is spelled out.
    """
    replace_file(path, lambda file: file.write(spelled_out(text).encode()))


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk, where the filesystem can say so."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def spelled_out(text: str) -> str:
    """Write what UTF-8 cannot hold, half a surrogate pair, as the escape that JSON and Python have for it."""
    return text.encode("utf-8", "backslashreplace").decode()


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Lay rows out as CSV, each ended by a line feed; cells may hold any characters."""
    lines = []
    for row in rows:
        line = io.StringIO()
        # The writer quotes a lone carriage return only where its own line end holds one.
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill, and put it in its place in one step; a failure leaves nothing.

    A process that is killed outright may leave a hidden ``.<target>-….partial`` folder, which nothing ever reads.

    Args:
        target: Where the folder goes; nothing but an empty folder may be there.
    Yields:
        The folder to fill, beside the target.
    """
    target = target.absolute()
    with _beside(target) as partial:
        yield partial
        partial.rename(target)
        sync(target.parent)


@contextmanager
def replacement(target: Path) -> Iterator[Path]:
    """Give a folder to fill, and put it in the place of another one; a failure leaves that as it was.

    Args:
        target: The folder that is replaced as a whole, or does not exist yet; a link is followed.
    Yields:
        The folder to fill, beside the target.
    """
    target = target.resolve()
    with _beside(target) as made:
        yield made
        for path in (*made.rglob("*"), made):
            sync(path)
        with _only_one_in(target.parent):
            _swap(made, target)
            sync(target.parent)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside another one; what has not found its place by the end is removed."""
    partial = target.with_name(f".{target.name}-{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(made: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}-{secrets.token_hex(4)}.old")
    try:
        with suppress(FileNotFoundError):
            target.rename(aside)
        made.rename(target)
    finally:
        if aside.exists() and not target.exists():
            aside.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _only_one_in(folder: Path) -> Iterator[None]:
    """Wait until no other process, and no other thread, is in here for the same folder; where the system can say so."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and the lock with it


def replace_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace a CSV file as a whole, see `replace_file`.

    Args:
        path: The file; folders that are missing are made.
        columns: Its first line.
        rows: The cells of the others; whatever is in them stays in its cell.
    """
    replace_text(path, csv_text([columns, *rows]))

"""Where caches lie, on disk and in memory: who builds and who uses what is there, and how much room there is."""

import os
import shlex
import stat
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clf.cores import usable_memory
from clf.data.cachefile import Cache
from clf.errors import UserError
from clf.files import sync

if sys.platform != "win32":
    import fcntl

_TMPFS: Final = Path("/dev/shm")
_SUFFIX: Final = ".pixels"
_PARTIAL: Final = ".partial"
_LOCK: Final = ".lock"
_SPARE: Final = 1 << 28  # bytes of a disk that even a cache that was asked for leaves alone
_POLITE_SPARE: Final = 10**9  # ... and one that was not; or a tenth of the disk, if that is more


@dataclass(frozen=True)
class Room:
    """How much a cache may take.

    Args:
        asked: Bytes, if the user has asked for this place.
        auto: Bytes, if the choice is ours.
        words: What is free, for messages.
    """

    asked: int
    auto: int
    words: str


@dataclass(frozen=True)
class Place:
    """A folder for caches.

    Whoever looks for a cache or builds one holds its ``.lock``. The kernel frees a lock when its holder dies: what is
    locked is alive, and what is not may be removed. A lock's file goes when the lock is given back.

    Args:
        folder: Where the files are.
        stays: Whether a cache stays when nobody uses it any more. One in memory goes with the last run that uses it;
            its users hold a shared lock on the file itself.
    """

    folder: Path
    stays: bool

    @property
    def name(self) -> str:
        """What ``data.cache`` calls it."""
        return "disk" if self.stays else "ram"

    def file(self, key: str) -> Path:
        """Where a finished cache is."""
        return self.folder / f"{key}{_SUFFIX}"

    def prepare(self) -> None:
        """Make the folder, and see that it is ours.

        Raises:
            UserError: If it is not, or cannot be made.
        """
        try:
            self.folder.mkdir(parents=self.stays, exist_ok=True, mode=0o777 if self.stays else 0o700)
        except OSError as error:
            raise self.failure(error) from error
        if not self._is_ours():
            problem = f"data.cache=ram needs {self.folder}, which others may write to"
            raise UserError(f"{problem}; remove it, or choose data.cache=disk or none")

    def _is_ours(self) -> bool:
        """Whether nobody else can have put anything here; a folder on disk was the user's choice."""
        if self.stays:
            return True
        try:
            facts = self.folder.lstat()  # everybody may write to the folder above it
        except OSError:
            return False
        return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o077

    def failure(self, error: OSError) -> UserError:
        """Say that the folder cannot be used."""
        fix = "choose another data.cache_dir" if self.stays else "choose data.cache=disk"
        reason = (error.strerror or str(error)).lower()
        return UserError(f"data.cache={self.name} cannot write to {self.folder}: {reason}; {fix}, or data.cache=none")

    def room(self) -> Room:
        """Measure what is free."""
        facts = os.statvfs(self.folder)
        free, total = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
        if self.stays:
            return Room(free - _SPARE, free - max(_POLITE_SPARE, total // 10), f"{in_words(free)} on the disk")
        memory = usable_memory()
        smaller = min(free, memory)
        return Room(
            min(free, memory * 8 // 10), smaller // 2, f"{in_words(memory)} of memory, {in_words(free)} in {_TMPFS}"
        )

    @contextmanager
    def locked(self, key: str, *, waits: Callable[[], None]) -> Iterator[None]:
        """Keep others from looking for this cache, building or removing it; waits for whoever does so now."""
        path = self.folder / f"{key}{_LOCK}"
        handle = _lock(path, waits)
        assert handle is not None
        try:
            yield
        finally:
            _unlock(path, handle)

    def find(self, key: str, *, count: int) -> Cache | None:
        """Open a cache of so many images that is there; locked, because it may be about to go."""
        try:
            cache = Cache(self.file(key))
            if len(cache) != count:
                return None
            if not self.stays:
                self._hold(cache, key)
        except (OSError, ValueError):
            return None  # what is damaged is built again
        return cache

    @contextmanager
    def writing(self, key: str) -> Iterator[int]:
        """Give an empty file, which takes its place at the end; a failure leaves nothing.

        In memory it has no name until then: if the process is killed, the kernel gives the memory back at once.
        """
        partial = self.folder / f"{key}{_SUFFIX}{_PARTIAL}"
        nameless = None if self.stays else _nameless(self.folder)
        handle = nameless or os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            yield handle
            if nameless:
                partial.unlink(missing_ok=True)
                os.link(f"/proc/self/fd/{handle}", partial, src_dir_fd=handle)  # follows that link only with a folder
            partial.replace(self.file(key))
            sync(self.folder)
        finally:
            os.close(handle)
            partial.unlink(missing_ok=True)

    def sweep(self, *, but: str) -> None:
        """Remove what dead processes left; not a finished cache that is about to be looked for."""
        if not self._is_ours():
            return  # its links could lead anywhere
        names: list[str] = []
        with suppress(OSError):
            names = os.listdir(self.folder)
        for name in names:
            key, dot, rest = name.partition(".")
            is_partial = dot + rest == _SUFFIX + _PARTIAL
            if is_partial or (dot + rest == _SUFFIX and not self.stays and key != but):
                with suppress(OSError):
                    self._remove_unused(key, self.folder / name)

    def others(self, key: str) -> tuple[int, int]:
        """Count the other caches in the folder, and their bytes."""
        sizes = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # somebody removes it meanwhile
                sizes += [path.stat().st_size] if path != self.file(key) else []
        return len(sizes), sum(sizes)

    def removal(self, key: str | None) -> str:
        """Say how to remove a cache, or all of them, in a shell; nothing else that is in the folder is touched."""
        if key is not None:
            return f"rm {shlex.quote(str(self.file(key)))}"
        return f"rm {shlex.quote(str(self.folder))}/*{_SUFFIX}"

    def _remove_unused(self, key: str, path: Path) -> None:
        lock = self.folder / f"{key}{_LOCK}"
        handle = _lock(lock, None)
        if handle is None:
            return
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                if _only_user(file):
                    path.unlink()
            finally:
                os.close(file)
        finally:
            _unlock(lock, handle)

    def _hold(self, cache: Cache, key: str) -> None:
        """Keep a cache in memory as long as somebody needs it."""
        handle = os.open(cache.path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH)
        weakref.finalize(cache, _release, handle, self, key, os.getpid())


def disk(folder: str | None) -> Place:
    """Where caches stay: a folder of the user's choice, or the usual one for such files.

    Raises:
        UserError: If it is in the home of a user who has none.
    """
    chosen = folder or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "clf/pixels")
    try:
        return Place(Path(chosen).expanduser().absolute(), stays=True)
    except RuntimeError as error:
        raise UserError(f"there is no home folder for caches in {chosen}; set data.cache_dir") from error


def memory() -> Place | None:
    """Where caches lie in memory, if the system has such a place."""
    return Place(_TMPFS / f"clf-{os.getuid()}", stays=False) if _TMPFS.is_dir() else None


def require_locks() -> None:
    """Refuse systems where nobody can say who is alive.

    Raises:
        UserError: On Windows.
    """
    if sys.platform == "win32":
        raise UserError("data.cache needs file locks, which Windows has not; set data.cache=none")


def in_words(count: int) -> str:
    """Say bytes as people do."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def _release(handle: int, place: Place, key: str, pid: int) -> None:
    """End the use of a cache in memory; whoever is last removes it."""
    if os.getpid() != pid:
        return  # a worker, which was forked with what its parent holds
    path = place.file(key)
    with suppress(OSError):
        mine = os.fstat(handle)
        if os.path.samestat(mine, path.stat()):
            with place.locked(key, waits=lambda: None):
                if _only_user(handle):
                    path.unlink(missing_ok=True)
                fcntl.flock(handle, fcntl.LOCK_UN)  # also for workers that still have the file
    os.close(handle)


def _nameless(folder: Path) -> int | None:
    """Open a file that has no name; None where the system has no such files, or could not name it later."""
    try:
        handle = os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o600)
    except (AttributeError, OSError):
        return None
    if os.path.exists(f"/proc/self/fd/{handle}"):
        return handle
    os.close(handle)
    return None


def _only_user(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(path: Path, waits: Callable[[], None] | None) -> int | None:
    """Take a lock, or return None where others hold it and we are not to wait."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if not _only_user(handle):
                if waits is None:
                    os.close(handle)
                    return None
                waits()
                fcntl.flock(handle, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # whoever had the lock removed its file, and the next one is another
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _unlock(path: Path, handle: int) -> None:
    path.unlink(missing_ok=True)
    os.close(handle)

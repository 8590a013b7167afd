"""What the filesystem under a folder can do: found out by trying, for none says so."""

import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

COPIES = {"fuse.gcsfuse", "fuse.s3fs", "fuse.rclone"}
"""Buckets as folders: they rename by copying and deleting, which trying does not show."""


@dataclass(frozen=True)
class Mount:
    """What a filesystem can do.

    Args:
        renames: Puts a file in the place of another one in one step.
        links: Gives a file a second name.
        symlinks: Keeps a path as a file.
    """

    renames: bool = True
    links: bool = True
    symlinks: bool = True

    @property
    def lacks(self) -> str:
        """Name what it cannot do; empty where it can do everything."""
        words = {"renames": "atomic renames", "links": "hard links", "symlinks": "symbolic links"}
        return " and ".join(words[each.name] for each in fields(self) if not getattr(self, each.name))


_known: dict[int, Mount] = {}
_scratch: list[tempfile.TemporaryDirectory[str]] = []


def mount_of(folder: Path) -> Mount:
    """Find out what the filesystem of a folder can do; each filesystem is tried once, with files of a few bytes.

    Where nothing can be written (no room, no permission) nothing is found out: who writes next is told why.
    """
    try:
        device = folder.stat().st_dev
        if device not in _known:
            _known[device] = _try(folder, device)
        return _known[device]
    except OSError:
        return Mount()


def _try(folder: Path, device: int) -> Mount:
    one, other = (folder / f".clf-{secrets.token_hex(4)}.partial" for _ in range(2))
    try:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
        links = _works(lambda: os.link(one, _second(one)), _second(one))
        symlinks = _works(lambda: _second(one).symlink_to(one.name), _second(one))
        renames = _kind(device) not in COPIES and _works(lambda: one.replace(other)) and other.read_bytes() == b"one"
        return Mount(renames, links, symlinks)
    finally:
        for path in (one, other):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _second(path: Path) -> Path:
    return path.with_suffix(".second.partial")


def _works(attempt: Callable[[], object], made: Path | None = None) -> bool:
    try:
        attempt()
    except OSError:
        return False
    if made is not None:
        made.unlink()
    return True


def _kind(device: int) -> str:
    """Look up what a filesystem calls itself, e.g. ``ext4`` or ``fuse.gcsfuse``; empty where Linux does not say."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == number), "")


def scratch() -> Path:
    """Give a folder on a disk of this machine, for what has to be whole before it is copied; removed in the end."""
    if not _scratch:
        _scratch.append(tempfile.TemporaryDirectory(prefix="clf-"))
    return Path(_scratch[0].name)

"""Run directories: where a run lives, which one is the latest, and which file ``last``, ``best`` and ``auto`` mean."""

import logging
import os
import re
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clf.errors import UserError, did_you_mean
from clf.files import is_refused, replace_text
from clf.mounts import mount_of

log = logging.getLogger("clf")

RUNS = Path("runs")
"""Folder of all runs, in the working folder."""

BEST = "best.ckpt"
LAST = "last.ckpt"
"""The two checkpoints that every run has."""

PREVIOUS = "last-1.ckpt"
"""What ``last.ckpt`` was before, for the case that it is damaged."""

LOCK = ".lock"
"""Who trains in the directory at the moment."""

CHOICES = ("last", "best", "auto")
"""Words that ``--ckpt_path`` takes instead of a file."""


@dataclass(frozen=True)
class Run:
    """One run directory, e.g. ``runs/resnet18/003``.

    Args:
        path: The directory.
    """

    path: Path

    def __str__(self) -> str:
        """Show the path as a user would type it."""
        return str(self.path.relative_to(Path.cwd()) if self.path.is_relative_to(Path.cwd()) else self.path)

    @property
    def name(self) -> str:
        """Name that the run shares with its siblings."""
        return self.path.parent.name

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def owns(self, path: Path) -> bool:
        """Whether a file really lies in here: a directory from elsewhere may hold links to anything."""
        return path.is_file() and path.resolve().is_relative_to(self.path.resolve())

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on from, of whatever kind and in whatever state."""
        return any(os.path.lexists(self.checkpoints / name) for name in (LAST, PREVIOUS))


def reserve(name: str) -> Run:
    """Make the next free directory of a name; several processes never get the same one.

    Args:
        name: What the run is called; becomes a folder name.
    Raises:
        UserError: If the name cannot be a folder's or the folder cannot be made.
    """
    if not re.fullmatch(r"\w[\w.+=@ -]*", name) or name == "latest":
        raise UserError(f"name={name!r} cannot be a run's folder; give --name with letters, digits, '-', '_' and '.'")
    try:
        folder = RUNS / name
        folder.mkdir(parents=True, exist_ok=True)
        number = max([0, *_numbers(folder)])
        while True:
            number += 1
            try:
                (folder / f"{number:03d}").mkdir()
            except FileExistsError:
                continue
            return Run(folder / f"{number:03d}")
    except OSError as error:
        raise UserError(f"cannot make a run directory in {RUNS / name}: {error.strerror or error}") from error


def hold(run: Run) -> Callable[[], None]:
    """Keep other processes from training in a directory at the same time.

    The lock is of POSIX's kind: it is this process's alone, not also that of processes which it starts, and the kernel
    frees it when this one dies.

    Args:
        run: The run; what cannot be locked, on a mount without locks, is nobody's.
    Returns:
        Ends it.
    Raises:
        UserError: If another process of this machine trains in there, or nothing may be written there.
    """
    if sys.platform == "win32":
        return lambda: None
    import fcntl

    path = run.path / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if is_refused(error):
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"nothing can be written into {run}: {reason}; mend that, or go on in a copy") from error
        return lambda: None  # who writes next is told why
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        who = os.read(handle, 1000).decode(errors="replace").strip()
        os.close(handle)
        _refuse_company(run, who or "another process")
        return lambda: None
    except OSError:
        pass
    if not os.fstat(handle).st_nlink:  # whoever had it removed it meanwhile, and others take one of the same name
        os.close(handle)
        return hold(run)

    def end() -> None:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(handle)

    with suppress(OSError):  # no room for a name
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return end


def _refuse_company(run: Run, who: str) -> None:
    """Refuse a run that another process trains; a lock from another machine may have outlived it."""
    machine = who.partition(" on ")[2] or socket.gethostname()
    if machine != socket.gethostname():
        log.warning("%s: %s trains there, or did until its machine was lost; if it does, end one of the two", run, who)
        return
    raise UserError(f"{run} is being trained by {who}; wait for its end, or leave --ckpt_path out for a run of its own")


def publish(run: Run) -> None:
    """Point ``runs/latest`` at a run, atomically; without symbolic links it is a file that names the run.

    Raises:
        UserError: If a folder is in the way, as some copies of ``runs/`` leave it.
    """
    RUNS.mkdir(exist_ok=True)
    link = free_link()
    target = run.path.relative_to(RUNS) if run.path.is_relative_to(RUNS) else run.path.resolve()
    if not mount_of(RUNS).symlinks:
        replace_text(link, f"{target}\n")
        return
    temporary = RUNS / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def free_link() -> Path:
    """Give the place of the link to the latest run.

    Raises:
        UserError: If a folder is in the way, as some copies of ``runs/`` leave it.
    """
    link = RUNS / "latest"
    if link.is_dir() and not link.is_symlink():
        raise UserError(f"{link} is a folder, where the link to the newest run belongs; move it away")
    return link


def names() -> list[str]:
    """List the names under which something was run."""
    return sorted({config.parent.parent.name for config in RUNS.glob("*/*/config.yaml")})


def newest(name: str) -> Run | None:
    """Find the newest run of a name that was really started."""
    folder = RUNS / name
    runs = (Run(folder / f"{number:03d}") for number in sorted(_numbers(folder), reverse=True))
    return next((run for run in runs if run.config.is_file()), None)


def latest() -> Run:
    """Follow ``runs/latest``.

    Raises:
        UserError: If nothing was run here yet, or the directory is gone.
    """
    link = RUNS / "latest"
    if link.is_symlink() and not (link / "config.yaml").is_file():
        reason = "has no config.yaml" if link.exists() else "is gone"
        raise UserError(
            f"{link} points to {link.readlink()}, which {reason}; pick a run with --run runs/<name>/<number>"
        )
    if not link.exists():
        raise UserError(
            f"no run found: {Path.cwd()}/{link} does not exist; "
            "start one with `clf fit --config FILE`, or name one with --config, --run or --ckpt_path FILE"
        )
    return open_run(link)


def _named_in(file: Path) -> Path:
    """Read what `publish` writes where there are no symbolic links."""
    return RUNS / file.read_text(encoding="utf-8").strip()


def open_run(path: Path) -> Run:
    """Open the directory that ``--run`` names.

    Raises:
        UserError: If it is not a run directory.
    """
    if path.name == "latest" and path.is_file():
        path = _named_in(path)
    if (path / "config.yaml").is_file():
        return Run(_behind_link(path))
    known = [str(config.parent) for config in RUNS.glob("*/*/config.yaml")]
    reason = "has no config.yaml" if path.is_dir() else "does not exist"
    raise UserError(f"run={str(path)!r} {reason}{did_you_mean(str(path), known)}")


def run_of(checkpoint: Path) -> Run | None:
    """Find the run directory that a checkpoint file lies in."""
    folder = checkpoint.absolute().parent.parent
    if checkpoint.absolute().parent.name != "checkpoints" or not (folder / "config.yaml").is_file():
        return None
    folder = _behind_link(folder)
    return Run(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def checkpoint_file(value: str) -> Path:
    """Check a ``--ckpt_path`` that is meant to be a file.

    Raises:
        UserError: For URLs, folders and files that do not exist.
    """
    if re.match(r"\w+://", value):
        raise UserError(f"ckpt_path={value!r} is a URL; download the file first and give its path")
    path = Path(value)
    if path.is_file():
        return path
    options = [*CHOICES, *(str(path.parent / other.name) for other in path.parent.glob("*.ckpt"))]
    there = "is a folder" if path.is_dir() else "leads to no file" if os.path.lexists(path) else "does not exist"
    reason = there if value else "is empty"
    raise UserError(f"ckpt_path={value!r} {reason}; give last, best, auto or a file{did_you_mean(value, options)}")


def _behind_link(folder: Path) -> Path:
    """Follow ``runs/latest``: its target has the run's name and number."""
    return folder.parent / folder.readlink() if folder.is_symlink() else folder


def _numbers(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]

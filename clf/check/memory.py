"""Memory that this process and its loader workers take; exact on Linux, and what the system says elsewhere."""

import multiprocessing
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

_PROCESSES = Path("/proc")
_PARTS = ("Pss_Anon", "Pss_Shmem")  # a process's part of what is shared; files (libraries) are anybody's


def forget_peak() -> None:
    """Let `peak` count from now on; it may go on counting from the start of the process where the kernel refuses."""
    with suppress(OSError):
        (_PROCESSES / "self/clear_refs").write_text("5", "ascii")


def peak() -> int:
    """Say what this process took at most, in bytes."""
    if (found := _kilobytes(_PROCESSES / "self/status", "VmHWM")) is not None:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def of_workers() -> int:
    """Say what the processes that this one has started take besides its own memory, in bytes; on Linux alone.

    Forks share pages with who started them and with one another; each page counts once.
    """
    own = _kilobytes(_PROCESSES / "self/status", "RssAnon", "RssShmem")
    pids = ["self", *(each.pid for each in multiprocessing.active_children())]
    parts = [_kilobytes(_PROCESSES / f"{pid}/smaps_rollup", *_PARTS) for pid in pids]
    if own is None or parts[0] is None:
        return 0
    return max(0, sum(each for each in parts if each is not None) - own)


def _kilobytes(file: Path, *names: str) -> int | None:
    """Add up lines ``name:  123 kB``, in bytes; None where the system or the process has no such file or lines."""
    try:
        text = file.read_text("ascii")
    except OSError:
        return None
    found = re.findall(rf"^(?:{'|'.join(names)}):\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * sum(map(int, found)) if len(found) == len(names) else None

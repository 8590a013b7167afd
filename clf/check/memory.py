"""Memory that this process and its loader workers take; exact on Linux, and what the system says elsewhere."""

import multiprocessing
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

_PROCESSES = Path("/proc")


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
    """Say what the processes that this one has started take now, in bytes; what they share is counted once."""
    found = (_kilobytes(_PROCESSES / f"{each.pid}/smaps_rollup", "Pss") for each in multiprocessing.active_children())
    return sum(each for each in found if each is not None)


def _kilobytes(file: Path, name: str) -> int | None:
    """Read a line ``name:  123 kB``; None where the system or the process has no such file."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])

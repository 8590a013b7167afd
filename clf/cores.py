"""How much of a machine this process may use."""

import os
from pathlib import Path, PurePosixPath

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Count the cores that this process may use: its affinity, and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text("ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # not Linux, or no quota ("max")
        return cores


def usable_memory(root: Path = Path("/")) -> int:
    """Say how many bytes this process may still take: what the machine has, and what the limits of its groups leave.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    free = [_meminfo(root / "proc/meminfo"), *_left_by_groups(root)]
    return max(0, min(each for each in free if each is not None))


def _meminfo(path: Path) -> int:
    """Read what is free or would be at once; a system that does not say so has what is not used at all."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text("ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def _left_by_groups(root: Path) -> list[int | None]:
    """Look at a process's control groups and all above them, in both versions of these."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        names = PurePosixPath(group.lstrip("/"))
        for folder in (names, *names.parents):
            if not controllers:
                files = ("memory.max", "memory.current", "inactive_file")
                left.append(_left(root / "sys/fs/cgroup" / folder, *files))
            elif "memory" in controllers.split(","):
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                left.append(_left(root / "sys/fs/cgroup/memory" / folder, *files))
    return left


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Say what a group may still take: its use counts files that the kernel remembers and gives up when it must."""
    try:
        most, used = (int((folder / name).read_text("ascii")) for name in (limit, usage))
        rows = dict(row.split() for row in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):  # no limit ("max"), or no such group
        return None
    return most - used + int(rows.get(reclaimable, 0))

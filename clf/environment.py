"""The circumstances of a run, for people who want to repeat it: versions, code, machine."""

import logging
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clf.cores import usable_cores

log = logging.getLogger("clf")

_CPU_FACTS = Path("/proc/cpuinfo")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls its instructions on x86 and ARM

PACKAGES = ("clf", "torch", "torchvision", "lightning", "jsonargparse", "timm", "torchmetrics", "pillow", "numpy")


def environment() -> dict[str, Any]:
    """Describe versions, git state, machine and command line, as primitives for ``environment.json``."""
    return {
        "command": ["clf", *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(),
        "machine": _machine(),
    }


def git_state() -> dict[str, Any] | None:
    """Name the commit of the working folder and whether it has changes; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}


def device_name(accelerator: str = "auto") -> str:
    """Name a device, e.g. ``cuda (Tesla T4)`` or ``cpu (2 cores)``.

    Args:
        accelerator: The trainer's; ``auto`` takes the best device there is.
    """
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return "mps"
    return f"cpu ({usable_cores()} cores)"


def available_precision(wanted: Any, *, accelerator: str) -> Any:
    """Fall back from half precision where there is no GPU: on a CPU it would be bf16, several times slower.

    Args:
        wanted: The trainer's ``precision``.
        accelerator: The trainer's.
    """
    import torch

    if str(wanted) not in ("16", "16-mixed", "16-true") or (accelerator != "cpu" and torch.cuda.is_available()):
        return wanted
    log.info("trainer.precision=%s needs a GPU; using 32-true", wanted)
    return "32-true"


def has_bfloat16(device: str) -> bool:
    """Tell whether a type of device computes with bfloat16 itself; elsewhere it is emulated, and slow.

    Args:
        device: ``cuda``, ``cpu``, ``mps``, …
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    facts = _cpu_facts()
    return device == "cpu" and not _BFLOAT16.isdisjoint(facts.get("flags", facts.get("Features", "")).split())


def cpu_name() -> str:
    """Name the processor, as far as the system does."""
    return _cpu_facts().get("model name") or platform.processor() or platform.machine()


@cache
def _cpu_facts() -> dict[str, str]:
    """Read what Linux says about the first core; nothing elsewhere."""
    try:
        first = _CPU_FACTS.read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _machine() -> dict[str, Any]:
    import torch

    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": device_name(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

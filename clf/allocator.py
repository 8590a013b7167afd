"""How the C library treats memory that torch gives back: on a CPU, half of a training step can go into asking again."""

import ctypes
import os
import platform
from typing import Final

# <malloc.h>
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3

_GIBIBYTE: Final = 1 << 30


def keep_freed_memory() -> bool:
    """Have freed memory kept for the next step, where glibc would return it to the kernel.

    A training step on a CPU frees and asks for the same tensors again and again. Above 32 MiB glibc maps each of them
    anew, and the kernel fills every page with zeros first. Kept, the process is no larger: the pages it holds between
    two steps are those that the next step needs. Does nothing without glibc, or where ``MALLOC_…`` variables say that
    somebody has decided otherwise. ``benchmarks/allocator.py`` measures it.

    Returns:
        Whether it is done.
    Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    # What is larger than a gibibyte is still mapped, and unmapped when it is free.
    return bool(library.mallopt(_MMAP_THRESHOLD, _GIBIBYTE) and library.mallopt(_TRIM_THRESHOLD, 2 * _GIBIBYTE - 1))

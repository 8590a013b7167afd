"""Memory that torch frees on a CPU stays with the process, so that the next step need not ask the kernel for it."""

import os
import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, torch
from clf.allocator import keep_freed_memory
kept = keep_freed_memory() if {ask} else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(12_000_000)  # 48 MB, beyond what glibc keeps by itself
before = faults()
for _ in range(10):
    torch.ones(12_000_000)
print(kept, faults() - before)
"""


def faults(*, ask: bool, **environment: str) -> tuple[str, int]:
    """Whether memory is kept, and how many pages ten tensors of one size asked the kernel for."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS.format(ask=ask)],
        env={**plain, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_tensors_of_every_step_reuse_the_memory_of_the_last_one() -> None:
    _, plain = faults(ask=False)
    kept, count = faults(ask=True)
    assert kept == "True"
    assert count < plain / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_the_environment_has_the_last_word_on_memory() -> None:
    assert faults(ask=True, MALLOC_ARENA_MAX="2")[0] == "False"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from clf.allocator import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False

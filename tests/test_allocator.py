"""Memory that torch frees on a CPU stays with the process, so that the next step need not ask the kernel for it."""

import os
import platform
import subprocess
import sys

import pytest

_FAULTS = """
import os, resource, torch
from clf.allocator import keep_freed_memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for ask, more in ((False, {}), (True, {}), (True, {"MALLOC_ARENA_MAX": "2"})):
    if process := os.fork():
        os.waitpid(process, 0)
        continue
    os.environ.update(more)
    kept = keep_freed_memory() if ask else None
    for _ in range(20):
        torch.ones(12_000_000)  # 48 MB, beyond what glibc keeps by itself
    before = faults()
    for _ in range(10):
        torch.ones(12_000_000)
    print(kept, faults() - before, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_tensors_of_every_step_reuse_the_memory_of_the_last_one_unless_the_environment_says_otherwise() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _FAULTS]
    said = subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout
    # Not asked, asked, and asked where the environment has the last word: how many pages the kernel was asked for.
    (_, before), (kept, after), (refused, _) = (line.split() for line in said.splitlines())
    assert kept == "True"
    assert int(after) < int(before) / 10
    assert refused == "False"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from clf.allocator import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False

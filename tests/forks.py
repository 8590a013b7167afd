"""Processes that have imported everything: forks of the test's own, where a fresh interpreter would show no more."""

import ctypes
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import timm  # noqa: F401 - imported here, so that no fork does it
import torch

import clf.verbs  # noqa: F401 - with Lightning and all
from clf.artist import Artist
from clf.main import main

FORK = multiprocessing.get_context("fork")

# Autograd decides with its first step, once for a process, whether it needs threads, which no fork survives. After an
# export it finds that it does, for the devices that tracing pretends to have.
torch.ones(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]


def forked(folder: Path, *words: str, cut: str = "") -> int:
    """Run a command in a process of its own that has imported everything; returns its exit code, or minus the signal.

    What it says lies in ``output.txt``.
    """
    return ended(begun(folder, *words, cut=cut))


def ended(process: int) -> int:
    """Wait for a process; returns its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def begun(folder: Path, *words: str, cut: str = "", before: Callable[[], object] = lambda: None) -> int:
    """Begin what `forked` does, after something else; returns the process id."""
    if process := os.fork():
        return process
    code = 99
    try:
        os.chdir(folder)
        sys.path.append(str(folder))
        Artist.submit = lambda *_: None  # type: ignore[method-assign]
        os.environ["CUT"] = cut
        descriptor = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))  # noqa: SIM115
        before()
        code = main(words)
    finally:
        os._exit(code)


def begun_together(folder: Path, *words: str, cut: str = "") -> list[int]:
    """Begin a command in two processes, as torchrun does; returns their ids. The second may be cut."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def become(rank: str) -> None:
        os.environ.update(shared | {"RANK": rank, "LOCAL_RANK": rank})

    return [begun(folder, *words, cut=cut if rank == "1" else "", before=partial(become, rank)) for rank in "01"]


class Forked:
    """A process that does something and has a line to us.

    Args:
        action: What it does with its end of the line.
    """

    def __init__(self, action: Callable[[Connection], object]) -> None:
        self.line, theirs = FORK.Pipe()
        self.process = FORK.Process(target=action, args=(theirs,))
        self.process.start()
        theirs.close()

    def end(self) -> list[Any]:
        """Wait until it has ended; returns all that it sent."""
        said = []
        try:
            while True:
                said.append(self.line.recv())
        except EOFError:
            self.process.join()
            return said


def with_mounts(script: str, action: Callable[[], Any]) -> Any:
    """Let a shell mount something in a process with mounts of its own, and do something there.

    Args:
        script: What the shell does.
        action: What is done then; the result is returned.
    """

    def apart(line: Connection) -> None:
        line.send(_unshare())
        subprocess.run(["sh", "-ec", f"mount --make-rprivate /\n{script}"], check=True)
        line.send(action())

    process = Forked(apart)
    can, *result = process.end()
    if not can:
        pytest.skip("no mounts of one's own")
    assert process.process.exitcode == 0
    return result[0]


def _unshare() -> bool:
    """Get mounts of one's own, by way of users of one's own where one is not root."""
    mounts, users, ids = 0x00020000, 0x10000000, {"uid": os.getuid(), "gid": os.getgid()}
    root = ids["uid"] == 0
    if ctypes.CDLL(None).unshare(mounts if root else mounts | users):
        return False
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        for name, number in ids.items():
            Path(f"/proc/self/{name}_map").write_text(f"0 {number} 1")
    return True

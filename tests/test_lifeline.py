"""Lines between processes: a death and a failure are heard of by all, and whoever is stuck is ended."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The first process says its address and then the reason for which all end; each of the others gets a way to end.
FIRST = """
import sys, time
from clf.lifeline import Cause, First
first = First("127.0.0.1", patience=0.1, said=lambda cause: print(cause.message, flush=True), forced=lambda: None)
print(first.address, flush=True)
if sys.argv[1:] == ["die"]:
    sys.stdin.readline()
    import os; os._exit(9)
cause = first.cause(30)
first.leave(Cause("", cause.code if cause else 0))
sys.exit(cause.code if cause else 0)
"""
OTHER = """
import os, sys, time
from clf import lifeline
from clf.lifeline import Cause, Other
address, who, how = sys.argv[1:]
if how == "is stuck": lifeline._GRACE_SECONDS = 0.5
say = lambda cause: print(cause.message, flush=True)
line = Other(address, who=who, said=say, forced=lambda: print("forced to end", flush=True))
print("there", flush=True)
sys.stdin.readline()
if how == "fails": line.leave(Cause("the disk is full", 2)); sys.exit(2)
if how == "dies": os._exit(9)
if how == "ends": line.leave(Cause("", 0)); sys.exit(0)
if how == "follows": sys.exit(0 if line.cause(30) else 1)
time.sleep(60)  # stuck
"""


class Started:
    """The processes of one test, ended with it."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(self, code: str, *words: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, **pipes)  # type: ignore[call-overload]
        self.all.append(process)
        return process  # type: ignore[no-any-return]

    def first(self, *words: str) -> str:
        return read(self.start(FIRST, *words))

    def other(self, address: str, rank: int, how: str) -> subprocess.Popen[str]:
        process = self.start(OTHER, address, f"rank {rank} of 3", how)
        assert read(process) == "there"
        return process


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")


@pytest.fixture
def started() -> Iterator[Started]:
    group = Started()
    yield group
    for process in group.all:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("how", "message", "code"),
    [
        ("fails", "rank 1 of 3: the disk is full", 2),
        ("dies", "rank 1 of 3 was killed, perhaps because memory ran out", 1),
    ],
)
def test_all_end_for_the_reason_of_the_one_that_failed(started: Started, how: str, message: str, code: int) -> None:
    address = started.first()
    failing, stuck, following = (started.other(address, n, w) for n, w in ((1, how), (2, "is stuck"), (3, "follows")))
    for process in (stuck, following, failing):
        go(process)
    first = started.all[0]
    assert read(first) == message
    assert first.wait(30) == code
    assert following.wait(30) == 0
    assert stuck.wait(30) == code
    assert [read(stuck), read(stuck)] == [message, "forced to end"]


def test_all_end_when_the_first_process_dies(started: Started) -> None:
    address = started.first("die")
    stuck = started.other(address, 1, "is stuck")
    go(stuck)
    go(started.all[0])
    assert stuck.wait(30) == 1
    assert read(stuck).startswith("the first process is gone")


def test_whoever_is_done_may_go(started: Started) -> None:
    address = started.first()
    done, later = started.other(address, 1, "ends"), started.other(address, 2, "fails")
    go(done)
    assert done.wait(30) == 0
    go(later)
    assert read(started.all[0]) == "rank 2 of 3: the disk is full"


def test_a_stranger_is_not_listened_to(started: Started) -> None:
    address = started.first()
    port = int(address.split(",")[1])
    for line in (
        '{"token": "guessed", "who": "me"}\n{"message": "end", "code": 1}\n',
        '{"token": "erraten: ü"}\n',
        "[" * 100_000 + "\n",
        "no end of it" * 100_000,
    ):
        with socket.create_connection(("127.0.0.1", port)) as stranger, suppress(ConnectionError):
            stranger.sendall(line.encode())
            assert stranger.recv(10) == b""
    honest = started.other(address, 1, "fails")
    go(honest)
    assert read(started.all[0]) == "rank 1 of 3: the disk is full"

"""What the benchmarks share: fixed threads, turns, medians, the machine, and ``benchmarks/results.json``."""

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clf.cores import usable_cores
from clf.files import replace_text

Timed = Mapping[str, Callable[[], float]]

RESULTS = Path(__file__).parent / "results.json"
FEWEST = 5
"""Rounds that a median needs before it is recorded."""

_LEAST_SECONDS = 0.5  # of CPU, that a turn takes: what is shorter depends on what the caches still hold
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "pillow", "onnxruntime")


# -------------------------------------------------------------------------------------------------------- command line


def arguments(doc: str | None, *, rounds: int = FEWEST) -> argparse.ArgumentParser:
    """Begin a benchmark's command line.

    Args:
        doc: The script's docstring.
        rounds: How often everything is measured by default.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"turns of each (default: {rounds})")
    parser.add_argument(
        "--record", nargs="?", type=Path, const=RESULTS, metavar="FILE", help="write into benchmarks/results.json"
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; what is recorded is a median of at least five."""
    flags = parser.parse_args()
    if flags.rounds < 1 or (flags.record and flags.rounds < FEWEST):
        parser.error(f"--rounds {flags.rounds} is too few: at least 1, and {FEWEST} with --record")
    return flags


def fix_threads(count: int) -> None:
    """Let this process and its children compute with so many threads; before anything imports torch or numpy's BLAS."""
    assert "torch" not in sys.modules, "torch has chosen its threads already"
    for name in _THREADS:
        os.environ[name] = str(count)


# ----------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Series:
    """What several turns measured of one thing."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest."""
        return min(self.values), max(self.values)

    def __str__(self) -> str:
        low, high = self.spread
        return f"{self.median:.4g} ({low:.4g} to {high:.4g}, n = {len(self.values)})"


def alternate(measured: Mapping[str, Callable[[], float]], *, rounds: int, warm: bool = True) -> dict[str, Series]:
    """Measure several things in turn, so that what slows the machine down slows all of them.

    Args:
        measured: Each measures once and returns the number.
        rounds: Turns of each; who comes first moves on from turn to turn.
        warm: Whether a turn that does not count goes ahead.
    """
    found: dict[str, list[float]] = {name: [] for name in measured}
    names = list(measured)
    if warm:
        for name in names:
            measured[name]()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(measured[name]())
        print(f"  round {turn + 1} of {rounds}: " + ", ".join(f"{name} {found[name][-1]:.4g}" for name in names))
    return {name: Series(values) for name, values in found.items()}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Count the CPU time of this process while something runs, all its threads, user and system."""
    start = time.process_time()
    work()
    return time.process_time() - start


@contextmanager
def apart(passes: Mapping[str, Callable[[], object]], *, first: Mapping[str, Callable[[], object]]) -> Iterator[Timed]:
    """Give each of several pieces of work a process of its own, forked from this one.

    So none of them finds the memory or the settings that another has left.

    Args:
        passes: What is measured.
        first: What some of the processes do once, before anything else.
    Yields:
        For each: does it in its process, again and again for half a second, and returns the seconds of CPU that once
        took there.
    """
    context = multiprocessing.get_context("fork")
    processes, timed = [], {}
    for name, work in passes.items():
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, work, first.get(name, bool)), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        timed[name] = partial(_ask, here)
    try:
        yield timed
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(asked: Any, work: Callable[[], object], first: Callable[[], object]) -> None:
    first()
    while asked.recv():
        seconds: list[float] = []
        while sum(seconds) < _LEAST_SECONDS:
            seconds.append(cpu_seconds(work))
        asked.send(statistics.mean(seconds))


def _ask(process: Any) -> float:
    process.send(True)
    return float(process.recv())


@dataclass(frozen=True)
class Ran:
    """What a command took.

    Args:
        wall: Seconds on the clock.
        cpu: Seconds of CPU, user and system, of all its processes that it waited for.
        output: What it wrote to standard output.
    """

    wall: float
    cpu: float
    output: str


def said(command: Sequence[str | Path]) -> float:
    """Run a command that prints one number, and return it."""
    return float(run(command).output)


def run(command: Sequence[str | Path], *, cwd: Path | None = None) -> Ran:
    """Run a command to its end; where it fails, say what it said and stop."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Ran(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout)


class Runs:
    """Several commands in turn, and what they took of the clock and of the CPU.

    Args:
        runs: Each runs a command once.
    """

    def __init__(self, runs: Mapping[str, Callable[[], Ran]]) -> None:
        self._runs = runs
        self._cpu: dict[str, list[float]] = {name: [] for name in runs}

    def alternate(self, *, rounds: int) -> dict[str, Series]:
        """Measure seconds on the clock, see `alternate`."""
        return alternate({name: partial(self._wall, name) for name in self._runs}, rounds=rounds, warm=False)

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """Medians of the CPU time."""
        return {name: _rounded(statistics.median(values)) for name, values in self._cpu.items()}

    def _wall(self, name: str) -> float:
        ran = self._runs[name]()
        self._cpu[name].append(ran.cpu)
        return ran.wall


def clf(*words: str | Path) -> list[str]:
    """Spell a command of clf with this interpreter."""
    return [sys.executable, "-m", "clf", *map(str, words)]


# ----------------------------------------------------------------------------------------------------------- recording


def machine(threads: int) -> str:
    """Describe where something was measured.

    Args:
        threads: Those that each process computes with.
    """
    name = re.search(r"^model name\s*: (.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    processor = f"{platform.machine()}{f' ({name[1].strip()})' if name else ''}"
    each = f"{threads} thread{'' if threads == 1 else 's'} a process"
    packages = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return f"{usable_cores()} cores {processor}, {each}, Python {platform.python_version()}, {packages}"


def record(
    file: Path | None,
    measure: str,
    ours: Series | float,
    *,
    unit: str,
    n: int | None = None,
    peers: Mapping[str, Series | float] | None = None,
    threads: int,
    **facts: Any,
) -> None:
    """Print a result, and merge it into the file of results, which is whole at any time.

    Args:
        file: The file; None prints only.
        measure: Its name there.
        ours: What was measured of clf.
        unit: Of the values.
        n: How often it was measured; taken from a series where not given.
        peers: The same of others; what is written is ours divided by theirs.
        threads: Threads of each process.
        facts: What else belongs to it, as primitives.
    """
    values = {name: _rounded(_median(each)) for name, each in (peers or {}).items()}
    result: dict[str, Any] = {
        "value": _rounded(_median(ours)),
        "unit": unit,
        "n": n if n is not None else len(ours.values) if isinstance(ours, Series) else 1,
        "vs": {name: round(_median(ours) / _median(each), 3) for name, each in (peers or {}).items()},
        "machine": machine(threads),
        "command": _command(),
        **({"peers": values} if values else {}),
        **({"spread": [_rounded(value) for value in ours.spread]} if isinstance(ours, Series) else {}),
        **facts,
    }
    print(f"{measure}: {result['value']} {unit}", *(f"= {r} x {name}" for name, r in result["vs"].items()), sep="  ")
    if file is not None:
        known = json.loads(file.read_text("utf-8")) if file.exists() else {}
        merged = dict(sorted({**known, measure: result}.items()))
        replace_text(file, json.dumps(merged, indent=2, ensure_ascii=False) + "\n")


def _median(value: Series | float) -> float:
    return value.median if isinstance(value, Series) else float(value)


def _rounded(value: float) -> float:
    """Keep four digits: more are noise."""
    return float(f"{value:.4g}")


def _command() -> str:
    """The command that was typed, without where things lie on this machine and where results went."""
    words, skip = [], False
    for at, word in enumerate(sys.argv[1:], start=1):
        if word == "--record" or word.startswith("--record="):
            following = sys.argv[at + 1 : at + 2]
            skip = word == "--record" and bool(following) and not following[0].startswith("-")
        elif skip:
            skip = False
        else:
            words.append(re.sub(r"^(--\w+=)?(?:.*/)?([^/]+)/*$", r"\1\2", word) if "/" in word else word)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""

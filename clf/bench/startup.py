"""``clf bench startup``: what happens between the command and the end of its first step, and how long it takes."""

import argparse
import json
import logging
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clf import logs
from clf.bench.advice import advise_startup
from clf.bench.measuring import Report, Table, spread
from clf.errors import UserError
from clf.latest import with_configuration

log = logging.getLogger("clf")

PHASES: Final = (
    "python starts",
    "imports",
    "configuration",
    "data listing",
    "model",
    "trainer and callbacks",
    "first batch",
    "first step",
)
"""What a start consists of, in its order."""

_MOST_LIBRARIES = 8
_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")

Times = Mapping[str, tuple[float, float]]
"""Phase -> seconds on the wall, and of the processor."""


def bench(options: argparse.Namespace, words: Sequence[str]) -> Report:
    """Measure how a command line of ``clf fit`` starts."""
    typed = with_configuration(words)
    with logs.logging_to_terminal():
        log.info("bench startup: %d processes, one after the other; Ctrl-C ends it", options.repeats + 1)
        first, said = start(typed, "-X", "importtime")  # warms up, too: what lies in files gets into memory
        found = [start(typed)[0] for _ in range(options.repeats)]
        return _report(typed, [each["phases"] for each in found], by_library(said), first)


def start(words: Sequence[str], *python: str) -> tuple[dict[str, Any], str]:
    """Run a dry fit in a process of its own.

    Args:
        words: What follows ``clf fit``.
        python: Options of Python itself.
    Returns:
        ``phases``, and ``num_workers`` and ``compile`` as configured; and what went to the standard error.
    Raises:
        UserError: If it does not come to a training step; says what it said.
    """
    command = [sys.executable, *python, "-m", "clf.bench.first_step", repr(time.time()), *words]
    code, out, err = _finish(command)
    if code:
        said = [line for line in err.splitlines() if line.startswith("clf: ")] or err.splitlines()
        raise UserError((said or ["the process ended without a word"])[-1].removeprefix("clf: "))
    found: dict[str, Any] = json.loads(next(line for line in out.splitlines() if line.startswith('{"phases"')))
    return found, err


def _finish(command: Sequence[str]) -> tuple[int, str, str]:
    """Run a program: exit code, output, errors. At Ctrl-C it is waited for, since it gets that, too."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate()
        except KeyboardInterrupt:
            process.wait()
            raise
    if process.returncode == 130:
        raise KeyboardInterrupt
    return process.returncode, out, err


def by_library(text: str) -> dict[str, float]:
    """Add up what ``python -X importtime`` says: seconds by the package that a module is in, the longest first."""
    found: dict[str, float] = {}
    for microseconds, module in _IMPORT_LINE.findall(text):
        package = module.partition(".")[0]
        name = "Python's own" if package in sys.stdlib_module_names else package
        found[name] = found.get(name, 0.0) + int(microseconds) / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _report(
    typed: Sequence[str], found: Sequence[Times], libraries: Mapping[str, float], first: Mapping[str, Any]
) -> Report:
    phases = {name: Phase(*zip(*(times[name] for times in found), strict=True)) for name in PHASES}
    walls, processors = ([sum(values) for values in zip(*each, strict=True)] for each in _columns(phases))
    whole = Phase(tuple(walls), tuple(processors))
    settings = {"words": list(typed), "num_workers": first["num_workers"], "compile": first["compile"]}
    report = Report("startup", f"clf bench startup: clf fit {' '.join(typed)}", settings)
    report.tables = [_phase_table(phases, whole), _library_table(libraries)]
    report.measurements = {
        "phases": [phase.to_dict(name) for name, phase in phases.items()],
        "all": [whole.to_dict("all")],
        "imports": [Phase((seconds,), ()).to_dict(name) for name, seconds in libraries.items()],
    }
    medians = {name: phase.median for name, phase in phases.items()}
    report.bottleneck, report.advice = advise_startup(medians, workers=first["num_workers"], compiled=first["compile"])
    report.otherwise = "none; no key of the configuration shortens this"
    report.notes = [
        f"medians of {len(found)} processes; files were in memory, a first start after booting is slower",
        "CPU s are of the main process; where they are fewer than s, it waited: for workers, a disk or a network",
        "imports by library are of one process, in which timing them costs time, too",
        "the fit is a dry run: without loggers, checkpoints and the sanity check",
    ]
    return report


@dataclass(frozen=True)
class Phase:
    """A part of the start, in several processes.

    Args:
        walls: Seconds that it took.
        processors: Seconds that the main process worked in them; empty where nobody looked.
    """

    walls: tuple[float, ...]
    processors: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds that it takes."""
        return statistics.median(self.walls)

    def to_dict(self, name: str) -> dict[str, Any]:
        """Turn into primitives."""
        said = {"name": name, "n": len(self.walls), "seconds_per_repeat": _told(self.walls)}
        return {**said, "cpu_seconds_per_repeat": _told(self.processors)} if self.processors else said

    def cells(self, name: str, *, total: float) -> tuple[str, ...]:
        """Write a row of the table."""
        times = f"{self.median:.2f}", f"{spread(self.walls):.2f}", f"{statistics.median(self.processors):.2f}"
        return (name, *times, f"{self.median / total:.0%}")


def _told(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "spread": spread(seconds)}


def _columns(phases: Mapping[str, Phase]) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    return [phase.walls for phase in phases.values()], [phase.processors for phase in phases.values()]


def _phase_table(phases: Mapping[str, Phase], whole: Phase) -> Table:
    rows = [phase.cells(name, total=whole.median) for name, phase in {**phases, "all": whole}.items()]
    return Table("from the command to the first step", ("phase", "s", "spread", "CPU s", "share"), rows)


def _library_table(libraries: Mapping[str, float]) -> Table:
    total = sum(libraries.values())
    first = list(libraries.items())[:_MOST_LIBRARIES]
    rows = [(name, f"{seconds:.2f}", f"{seconds / total:.0%}") for name, seconds in first]
    return Table("imports by library, each module without those that it imports", ("library", "s", "share"), rows)

"""What a run directory says, read without trusting that any of it is there or whole."""

import csv
import heapq
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clf.errors import first_line
from clf.runs import Run

Row = Mapping[str, float | None]

_LEFT_BY = {
    "config.yaml": "the configuration",
    "environment.json": "versions, machine and data fingerprint; what differs from the defaults",
    "metrics.json": "the final numbers",
    "metrics.csv": "the curves",
    "timing.csv": "how long it took",
    "statistics.json": "what is in the data",
    "predictions": "what was predicted for each image",
    "plots": "the pictures",
    "checkpoints": "the weights, without which nothing can be resumed, tested or predicted",
}
"""File or folder of a run directory -> what is lost where it is not there."""

_UNREADABLE = (OSError, ValueError, KeyError, csv.Error, yaml.YAMLError, RecursionError)
"""What reading a damaged file can raise."""


@dataclass(frozen=True, order=True, slots=True)
class Mistake:
    """An image that was taken for something else.

    Args:
        confidence: Probability of the predicted class.
        path: The image.
        true: Its class.
        label: The predicted class.
    """

    confidence: float
    path: str
    true: str
    label: str


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the per-image predictions of a split say.

    Args:
        n: Images with a true class.
        wrong: How many of them were taken for something else, or for nothing.
        mistakes: The wrong ones that have a prediction, the most confident first.
        confusions: (true class, predicted class, images), the most frequent first.
    """

    n: int
    wrong: int
    mistakes: list[Mistake]
    confusions: list[tuple[str, str, int]]


@dataclass
class Records:
    """A run directory's content; what is not there is empty.

    Args:
        run: The directory.

    Attributes:
        config: ``config.yaml``, and as text in `config_text`.
        environment: ``environment.json``.
        metrics: ``metrics.json``.
        statistics: ``statistics.json``.
        history: Rows of ``metrics.csv``.
        timing: Rows of ``timing.csv``.
        predicted: By split, from ``predictions/``.
        pictures: Files of ``plots/`` by name.
        checkpoints: Names of the files of ``checkpoints/``.
        warnings: What ``log.txt`` warns of.
        started: When the first line of ``log.txt`` was written, to the minute.
        missing: (file, what is lost without it).
        damaged: (file, what is wrong with it).
    """

    run: Run
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    timing: list[Row] = field(default_factory=list)
    predicted: dict[str, Predicted] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    started: str = ""
    missing: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Name and number, e.g. ``resnet18/003``."""
        folder = self.run.path.absolute()
        return f"{folder.parent.name}/{folder.name}"


def read_records(run: Run, *, most: int = 20) -> Records:
    """Read a run directory.

    Args:
        run: The directory.
        most: How many mistakes and confusions are kept.
    """
    records = Records(run)
    folder = run.path
    records.missing = [(name, lost) for name, lost in _LEFT_BY.items() if not (folder / name).exists()]
    records.config_text = _read(records, "config.yaml", _text, "")
    records.config = _read(records, "config.yaml", _config, {})
    for name in ("environment", "metrics", "statistics"):
        setattr(records, name, _read(records, f"{name}.json", _mapping, {}))
    records.history = _read(records, "metrics.csv", _table, [])
    records.timing = _read(records, "timing.csv", _table, [])
    lines = _read(records, "log.txt", lambda path: _text(path).splitlines(), [])
    records.warnings = [line for line in lines if re.match(r"\S+ \S+ (WARNING|ERROR|CRITICAL) ", line)]
    records.started = lines[0][:16] if lines and re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d", lines[0]) else ""
    for split in ("val", "test"):
        found = _read(records, f"predictions/{split}.csv", lambda path: read_predicted(path, most=most), None)
        if found is not None:
            records.predicted[split] = found
    records.pictures = {path.stem: path for path in sorted(folder.glob("plots/*.png")) if run.owns(path)}
    records.checkpoints = sorted(path.name for path in folder.glob("checkpoints/*.ckpt"))
    return records


def read_predicted(path: Path, *, most: int) -> Predicted:
    """Read a split's per-image predictions, row by row.

    Args:
        path: A CSV file as the callback ``predictions`` writes it.
        most: How many mistakes and confusions are kept.
    Raises:
        ValueError: If it is no such file.
    """
    n, wrong, confusions = 0, 0, Counter[tuple[str, str]]()

    def found() -> Iterator[Mistake]:
        nonlocal n, wrong
        for row in _rows(path, "path", "true", "label", "confidence"):
            n += 1
            if row["label"] == row["true"]:
                continue
            wrong += 1
            if row["label"]:
                confusions[row["true"], row["label"]] += 1
                yield Mistake(number(row["confidence"]) or 0.0, row["path"], row["true"], row["label"])

    mistakes = heapq.nlargest(most, found())
    ranked = sorted(confusions.items(), key=lambda item: (-item[1], item[0]))[:most]
    return Predicted(n, wrong, mistakes, [(true, label, count) for (true, label), count in ranked])


def number(value: Any) -> float | None:
    """Turn what a file says into a finite number; None where it is none."""
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _read(records: Records, name: str, reader: Callable[[Path], Any], empty: Any) -> Any:
    """Read a file of a run; note what is wrong with it."""
    path = records.run.path / name
    if not path.is_file():
        return empty
    try:
        if not records.run.owns(path):
            raise ValueError("it leads out of the run directory")
        return reader(path)
    except _UNREADABLE as error:
        reason = first_line(error)
        if name not in dict(records.damaged):
            records.damaged.append((name, reason))
        return empty


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _config(path: Path) -> dict[str, Any]:
    return _checked(yaml.safe_load(_text(path)))


def _mapping(path: Path) -> dict[str, Any]:
    return _checked(json.loads(_text(path)))


def _checked(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected keys and values, found {type(value).__name__}")
    return value


def _table(path: Path) -> list[Row]:
    return [{name: number(cell) for name, cell in row.items() if name} for row in _rows(path, "epoch")]


def _rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restval="")
        if lacking := [name for name in columns if name not in (reader.fieldnames or [])]:
            raise ValueError(f"the column {lacking[0]!r} is missing")
        yield from reader

"""A run's final numbers: ``metrics.json``, each with the number of images and the interval it deserves."""

import csv
import json
import math
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from clf.files import replace_text
from clf.statistics import Proportion


def best_epoch(metrics_csv: Path, *, monitor: str, mode: str) -> dict[str, float]:
    """Find the epoch that checkpoints call the best.

    Args:
        metrics_csv: Written by the run.
        monitor: Column to judge by; epochs where it is not a number do not count.
        mode: ``max`` or ``min``; of equal epochs the first counts.
    Returns:
        The row's numbers; empty where no epoch has the column.
    """
    if not metrics_csv.is_file():
        return {}
    with metrics_csv.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not isnan(float(row.get(monitor) or "nan"))]
    sign = 1 if mode == "max" else -1
    best = max(rows, key=lambda row: sign * float(row[monitor]), default={})
    return {name: float(value) for name, value in best.items() if value}


def summarise(metrics: Mapping[str, float], *, split: str, images: Mapping[str, int]) -> dict[str, Any]:
    """Turn logged metrics into what ``metrics.json`` says about a split.

    Args:
        metrics: Logged values; keys start with the split, e.g. ``val/acc_top1``.
        split: ``val`` or ``test``.
        images: Images of each class that were scored, in the order of the classes.
    """
    values = {name.removeprefix(f"{split}/"): value for name, value in metrics.items() if name.startswith(f"{split}/")}
    n = sum(images.values())
    top1 = Proportion(round(values["acc_top1"] * n), n)
    summary: dict[str, Any] = {"n": n, **values, "acc_top1_interval": list(top1.interval())}
    by_class: list[dict[str, Any]] = [
        {"name": name, "acc": values[f"acc_class_{index}"], "n": count}
        for index, (name, count) in enumerate(images.items())
        if f"acc_class_{index}" in values
    ]
    if by_class:  # Of equally bad ones, the one that most images speak for.
        summary["worst_class"] = min(by_class, key=lambda entry: (entry["acc"], -entry["n"]))
    return {**summary, "epoch": int(metrics["epoch"])} if "epoch" in metrics else summary


def describe(summary: Mapping[str, Any]) -> str:
    """Say a summary in one line, e.g. ``top-1 95.00 % (n = 240, 95 % interval …), macro F1 0.948, …``."""
    top1 = Proportion(round(summary["acc_top1"] * summary["n"]), summary["n"])
    line = f"top-1 {top1}, macro F1 {summary['f1_macro']:.3f}, ECE {summary['ece']:.3f}"
    if "worst_class" not in summary:
        return line
    worst = summary["worst_class"]
    return f"{line}, worst class {worst['name']!r} {100 * worst['acc']:.0f} % of {worst['n']}"


def training_minutes(timing_csv: Path) -> float | None:
    """Sum up how long the epochs took, validation included and start-up not; None where nobody took the time."""
    if not timing_csv.is_file():
        return None
    with timing_csv.open(encoding="utf-8", newline="") as file:
        seconds = [float(row["time/epoch_s"]) for row in csv.DictReader(file) if row.get("time/epoch_s")]
    return sum(seconds) / 60 if seconds else None


def record(path: Path, values: Mapping[str, Any]) -> None:
    """Update top-level entries of a JSON file, in one step; other entries stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    replace_text(path, json.dumps(_finite({**known, **values}), indent=2, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run, e.g. ``metrics.json``; empty where there is none yet."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _finite(value: Any) -> Any:
    """Put null where JSON has no word: for NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

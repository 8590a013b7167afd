"""A run's final numbers: ``metrics.json``, each with the number of images and the interval it deserves."""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clf.errors import UserError
from clf.files import replace_text
from clf.history import read_table
from clf.statistics import Proportion


def describe(summary: Mapping[str, Any]) -> str:
    """Say a split's entry of ``metrics.json`` in one line: ``top-1 95.00 % (n = 240, 95 % interval …), macro F1 …``."""
    top1 = Proportion(round(summary["acc_top1"] * summary["n"]), summary["n"])
    lower, upper = summary["f1_macro_interval"]
    line = (
        f"top-1 {top1}, macro F1 {_three(summary['f1_macro'])} ({lower:.3f}–{upper:.3f}), ECE {_three(summary['ece'])}"
    )
    if "ece_calibrated" in summary:
        line += f" ({_three(summary['ece_calibrated'])} calibrated)"
    if summary["worst_class"] is None:
        return line
    worst = summary["worst_class"]
    return f"{line}, worst class {worst['name']!r} {100 * worst['acc']:.0f} % of {worst['n']}"


def _three(value: float | None) -> str:
    """Round to three digits; JSON has null where there is no number."""
    return "nan" if value is None else f"{value:.3f}"


def table(summary: Mapping[str, Any], *, most: int = 5) -> str:
    """Lay out what is worst in a split's entry of ``metrics.json``: classes and slices, each with n and interval.

    Args:
        summary: The entry.
        most: Rows of classes, and of slices.
    """
    judged = [("class", each["name"], each) for each in summary["classes"] if each["n"]]
    sliced = [(each["key"], each["value"], each) for each in summary["slices"]]
    rows = [row for kind in (judged, sliced) for row in sorted(kind, key=lambda row: row[2]["acc_interval"])[:most]]
    laid_out = Table("lowest", "", "n", "accuracy", "95 % interval", box=box.SIMPLE)
    for kind, name, entry in rows:
        lower, upper = entry["acc_interval"]
        share = f"{100 * lower:.1f}–{100 * upper:.1f} %"
        laid_out.add_row(Text(kind), Text(name), str(entry["n"]), f"{100 * entry['acc']:.1f} %", share)
    return as_text(laid_out)


def as_text(laid_out: Table, *, width: int = 100) -> str:
    """Turn a table into lines of at most so many characters, for terminals and log files."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(laid_out)
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines() if line.strip())


def training_minutes(timing_csv: Path) -> float | None:
    """Sum up how long the epochs took, validation included and start-up not; None where nobody took the time."""
    try:
        seconds = [row["time/epoch_s"] for row in read_table(timing_csv) if "time/epoch_s" in row]
    except UserError:  # damaged; nothing but this number depends on it
        return None
    return sum(seconds) / 60 if seconds else None


def record(path: Path, values: Mapping[str, Any]) -> None:
    """Update top-level entries of a JSON file, in one step; other entries stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    replace_text(path, json.dumps(_finite({**known, **values}), indent=2, ensure_ascii=False) + "\n")


def record_score(path: Path, split: str, entry: Mapping[str, Any], *, step: int) -> None:
    """Write down how a checkpoint scored, with the epoch that its weights are of, where the run knows it.

    Args:
        path: ``metrics.json``.
        split: What it scored on.
        entry: What is said about it; the epoch and step in it are those of a trainer that has not trained.
        step: Optimizer steps that its weights have seen.
    """
    known = read(path).get("val") or {}
    told = {key: value for key, value in entry.items() if key != "epoch"} | {"step": step}
    record(path, {split: told | ({"epoch": known["epoch"]} if known.get("step") == step and "epoch" in known else {})})


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run, e.g. ``metrics.json``; empty where there is none yet.

    Raises:
        UserError: If it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; mend it, or move it away") from error


def _finite(value: Any) -> Any:
    """Put null where JSON has no word, for NaN and infinities; NumPy's and torch's numbers become Python's."""
    if hasattr(value, "tolist"):  # a callback of the user's own may find anything
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

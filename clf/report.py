"""``report.html``: all that a run directory says, as one self-contained page; a run in, text out."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clf.captions import ALTERNATIVES, describe_picture, isolate
from clf.data.samples import SCORED_SPLITS
from clf.files import replace_text
from clf.illustrations import Illustration, illustrate
from clf.pages import render_page
from clf.records import Records, number, read_records
from clf.runs import Run

PICTURE_BYTES = 3_300_000
"""What all pictures may take: as text they grow by a third, and the page stays below 5 MB."""

MOST_EPOCHS = 100
DASH = "–"


@dataclass(frozen=True, slots=True)
class Score:
    """A number with its interval; each part is None where nobody knows it.

    Args:
        value: The number.
        lower: Lower end of the interval.
        upper: Upper end.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], key: str) -> "Score":
        """Take a number and its interval out of an entry of ``metrics.json``."""
        ends = entry.get(f"{key}_interval")
        lower, upper = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
        return cls(number(entry.get(key)), number(lower), number(upper))


def write_report(run: Run) -> Path:
    """Write a run's ``report.html``.

    Args:
        run: The run.
    Returns:
        The file.
    """
    path = run.path / "report.html"
    replace_text(path, render(run))
    return path


def render(run: Run) -> str:
    """Make the page.

    Args:
        run: The run; whatever its directory lacks is named on the page.
    Returns:
        The HTML.
    """
    records = read_records(run)
    pictures, damaged = illustrate(records.pictures, budget=PICTURE_BYTES)
    records.damaged += [(f"plots/{name}.png", reason) for name, reason in damaged.items()]
    text = render_page(
        "report",
        script="report.js",
        filters={"percent": percent, "decimal": decimal, "share": share, "shown": shown},
        number=number,
        isolate=isolate,
        dash=DASH,
        split_names=SCORED_SPLITS,
        **_summary(records),
        **_data(records),
        figures=_figures(records, pictures),
        tables={"classes": _rows(records, "classes", "name"), "slices": _rows(records, "slices", "key", "value")},
        history=_history(records),
        changes=_changes(records),
        commands=_commands(records),
        records=records,
        version=version("clf"),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair has no place in a file


# ---------------------------------------------------------------------- numbers as people read them


def percent(value: Any) -> str:
    """Write a share, e.g. ``95.0 %``; a dash where it is no number."""
    known = number(value)
    return DASH if known is None else f"{100 * known:.1f}\N{NARROW NO-BREAK SPACE}%"


def decimal(value: Any, digits: int = 3) -> str:
    """Write a number with so many digits behind the point; a dash where it is none."""
    known = number(value)
    return DASH if known is None else f"{known:.{digits}f}"


def share(score: Score) -> str:
    """Write an interval of shares, e.g. ``91.5–97.1 %``; a dash where there is none."""
    if score.lower is None or score.upper is None:
        return DASH
    return f"{100 * score.lower:.1f}–{100 * score.upper:.1f}\N{NARROW NO-BREAK SPACE}%"


def shown(value: Any) -> str:
    """Write a value as YAML would in one line; a dash for what is nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---------------------------------------------------------------------- what the page shows


def _entries(records: Records) -> dict[str, dict[str, Any]]:
    """Find what ``metrics.json`` says about each split."""
    found = {split: records.metrics.get(split) for split in SCORED_SPLITS}
    return {split: entry for split, entry in found.items() if isinstance(entry, dict) and entry}


def _summary(records: Records) -> dict[str, Any]:
    entries = _entries(records)
    scored = {
        split: {
            "title": SCORED_SPLITS[split].capitalize(),
            "entry": entry,
            "n": entry.get("n"),
            "top1": Score.of(entry, "acc_top1"),
            "f1": Score.of(entry, "f1_macro"),
            "worst": [(kind, name, worst.get("n"), Score.of(worst, "acc")) for kind, name, worst in _worst(entry)],
        }
        for split, entry in entries.items()
    }
    finished = records.metrics.get("finished")
    return {
        "title": records.title,
        "scored": scored,
        "finished": finished if isinstance(finished, dict) else None,
        "minutes": _minutes(records),
        "machine": _part(records.environment, "machine"),
        "precision": _part(records.config, "trainer").get("precision"),
        "network": _network(_part(records.environment, "model")),
    }


def _worst(entry: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
    for kind in ("class", "slice"):
        worst = entry.get(f"worst_{kind}")
        if isinstance(worst, dict):
            parts = [worst.get("name")] if kind == "class" else [worst.get("key"), worst.get("value")]
            yield kind, " = ".join(map(shown, parts)), worst


def _part(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _minutes(records: Records) -> float | None:
    """Say how long training took, validation included; also of a run that was never finished."""
    told = number(_part(records.metrics, "finished").get("minutes"))
    seconds = [row["time/epoch_s"] for row in records.timing if row.get("time/epoch_s") is not None]
    return told if told is not None or not seconds else sum(filter(None, seconds)) / 60


def _network(model: Mapping[str, Any]) -> str:
    """Say what the network costs, e.g. ``11.2 M parameters, 1.82 G MACs``; empty where nobody knows."""
    parameters, macs = number(model.get("parameters")), number(model.get("macs"))
    seconds = number(_part(_part(model, "latency"), "seconds").get("1"))
    parts = [
        None if parameters is None else f"{parameters / 1e6:.3g} M parameters",
        None if macs is None else f"{macs / 1e9:.3g} G MACs",
        None if seconds is None else f"{1000 * seconds:.3g} ms an image",
    ]
    return ", ".join(filter(None, parts))


def _data(records: Records) -> dict[str, Any]:
    """Say what ``statistics.json`` and ``environment.json`` know about the data."""
    splits = {split: found for split, found in _part(records.statistics, "splits").items() if isinstance(found, dict)}
    # The classes stand in a table of their own.
    shortened = {split: {key: about[key] for key in about if key != "classes"} for split, about in splits.items()}
    listed = _part(splits, "train").get("classes")
    counted = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return {
        "data": _part(records.environment, "data"),
        "split_rows": [_split_row(split, found) for split, found in splits.items()],
        "statistics": {**records.statistics, "splits": shortened} if splits else records.statistics,
        "train_counts": {str(each.get("name")): number(each.get("n")) for each in counted},
    }


def _split_row(split: str, found: Mapping[str, Any]) -> dict[str, Any]:
    images = _part(found, "images")
    formats = _part(images, "formats")
    return {
        "split": split,
        "n": found.get("n"),
        "imbalance": number(found.get("imbalance")),
        "sizes": [_range(_part(images, side)) for side in ("width", "height")],
        "formats": ", ".join(f"{name} ({count})" for name, count in formats.items()) or DASH,
    }


def _range(quantiles: Mapping[str, Any]) -> str:
    low, middle, high = (number(quantiles.get(name)) for name in ("min", "median", "max"))
    if low is None or middle is None or high is None:
        return DASH
    return f"{low:g}" if low == high else f"{low:g}–{high:g}, median {middle:g}"


def _rows(records: Records, what: str, *keys: str) -> dict[str, Any]:
    """Put what is said about classes or slices side by side: one row for each, one group of columns a split."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    splits = []
    for split, entry in _entries(records).items():
        listed = [each for each in entry.get(what) or [] if isinstance(each, dict)]
        splits += [split] if listed else []
        for each in listed:
            scores = {**each, "score": Score.of(each, "acc")}
            rows.setdefault(tuple(str(each.get(key, "")) for key in keys), {})[split] = scores
    return {"splits": {split: SCORED_SPLITS[split].capitalize() for split in splits}, "rows": rows}


def _history(records: Records) -> dict[str, Any]:
    """Choose the columns and rows of ``metrics.csv`` that people compare; of many epochs each n-th, and the last."""
    rows = records.history
    names = [name for name in (rows[0] if rows else {}) if name != "epoch" and not _is_detail(name)]
    step = max(1, math.ceil(len(rows) / MOST_EPOCHS))
    kept = [row for at, row in enumerate(rows) if at % step == 0 or at == len(rows) - 1]
    best = _part(records.metrics, "val").get("epoch")
    return {"columns": names, "rows": kept, "total": len(rows), "best": number(best)}


def _is_detail(name: str) -> bool:
    return name == "step" or "_class_" in name or name.startswith("lr-")


def _changes(records: Records) -> list[tuple[str, Any, Any]] | None:
    """List the keys that differ from the defaults; None where nobody wrote them down."""
    known = records.environment.get("config_changes")
    if not isinstance(known, dict):
        return None
    return [(key, each.get("value"), each.get("default")) for key, each in known.items() if isinstance(each, dict)]


def _figures(records: Records, pictures: Mapping[str, Illustration]) -> dict[str, list[dict[str, Any]]]:
    """Sort the pictures into sections, each with what it shows in words."""
    names = [*(section for section, _ in ALTERNATIVES.values()), "more"]
    sections: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    known = [name for name in ALTERNATIVES if name in pictures]
    for name in [*known, *(name for name in pictures if name not in ALTERNATIVES)]:
        section, title = ALTERNATIVES.get(name, ("more", name))
        sections[section].append({"title": title, "alt": describe_picture(name, records), "picture": pictures[name]})
    return sections


def _commands(records: Records) -> list[tuple[str, str]]:
    """Write the commands that go on from here: (what for, command)."""
    run = shlex.quote(str(records.run))
    epochs = number(_part(records.config, "trainer").get("max_epochs"))
    finished = isinstance(records.metrics.get("finished"), dict)
    longer = f" --trainer.max_epochs {2 * int(epochs)}" if finished and epochs and epochs > 0 else ""
    checkpoints: Sequence[str] = records.checkpoints
    which = " --ckpt_path last" if "best.ckpt" not in checkpoints and "last.ckpt" in checkpoints else ""
    return [
        ("Train it for longer" if longer else "Go on training", f"clf fit --run {run} --ckpt_path last{longer}"),
        ("Score the test images", f"clf test --run {run}{which}"),
        ("Predict", f"clf predict --run {run}{which} --data.predict FOLDER --output predictions.csv"),
        ("Export it to ONNX", f"clf export --run {run}{which}"),
        ("Write this page again", f"clf report {run}"),
    ]

"""``clf compare``: which of several runs is better, and whether the difference is more than noise."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from clf import comparison, results, runs
from clf.comparison import METHODS, SPLITS, Rows, Side
from clf.config import flatten
from clf.errors import UserError, name_some
from clf.files import spelled_out
from clf.options import OptionParser, write
from clf.runs import Run
from clf.scoreboard import as_html, as_text
from clf.statistics import Proportion
from clf.yamlfile import load_yaml

Report = dict[str, Any]

FIGURES = ("acc_top1", "f1_macro", "ece")
"""What is averaged over the seeds of a configuration."""


def main(argv: Sequence[str]) -> int:
    """Run ``clf compare``: print the comparison, and write it where that is asked for.

    Args:
        argv: The arguments after the verb.
    Returns:
        The exit code, 0.
    Raises:
        UserError: If a run is none, or the runs cannot be compared; says why.
    """
    flags = _parse(argv)
    found, notes = find_runs(flags.runs)
    report = make_report(found, split=flags.split)
    report["notes"] = notes + report["notes"]
    print(as_text(report))
    for flag, file, made in (("--html", flags.html, as_html), ("--json", flags.json, _as_json)):
        if file is not None:
            write(flag, file, made(report))
            print(f"written: {file}")
    return 0


# --------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Entry:
    """A run that takes part.

    Args:
        run: Its directory.
        name: What to call it, e.g. ``resnet18/003``.
        config: Its flat configuration.
        rows: Its predictions, by split.
        metrics: Its ``metrics.json``.
        device: What it was trained on.
        classes: What it can predict; empty where it does not say.
    """

    run: Run
    name: str
    config: Mapping[str, Any]
    rows: Mapping[str, Rows]
    metrics: Mapping[str, Any]
    device: str
    classes: Sequence[str]

    @property
    def seed(self) -> Any:
        """What it was seeded with."""
        return self.config.get("seed_everything")


def find_runs(words: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Find the runs that are meant, each once, in the order in which they are named.

    Args:
        words: Run directories, or folders of an experiment (``runs/resnet18``), which mean all its finished runs.
    Returns:
        The runs, and what should be said about them.
    Raises:
        UserError: If a word means no run, or all together fewer than two.
    """
    found: dict[Path, Run] = {}
    notes: list[str] = []
    for word in words:
        named = _finished(Path(word), notes) or [runs.open_run(Path(word))]
        for run in named:
            absolute = Run(Path(os.path.abspath(run.path)))
            found.setdefault(absolute.path.resolve(), absolute)
    if len(found) < 2:
        there = (
            f"{' and '.join(words)} {'is one run' if len(words) == 1 else 'are the same run'}" if words else "got none"
        )
        raise UserError(f"clf compare needs two runs or more, {there}; e.g. clf compare runs/a/001 runs/b/001")
    return list(found.values()), notes


def _finished(folder: Path, notes: list[str]) -> list[Run]:
    """List the finished runs of an experiment's folder; none where it is another folder."""
    started = [] if (folder / "config.yaml").is_file() else [config.parent for config in folder.glob("*/config.yaml")]
    started = sorted((path for path in started if path.name.isdecimal()), key=lambda path: int(path.name))
    done = [path for path in started if _read(path / "metrics.json").get("finished")]
    if started and not done:
        raise UserError(f"run={str(folder)!r} has no finished run; name one that was started, e.g. {started[0]}")
    if left := [path.name for path in started if path not in done]:
        notes.append(f"{folder}: not finished and left out: {', '.join(left)}")
    return [Run(path) for path in done]


def choose_splits(found: Sequence[Run], wanted: str | None) -> list[str]:
    """Decide what runs are compared on: what is wanted, else test if all have it, else validation.

    Raises:
        UserError: If a run has no predictions for it.
    """
    lacking = {split: [run for run in found if not _predictions(run, split).is_file()] for split in SPLITS}
    if wanted is None:
        wanted = next((split for split in ("test", "val") if not lacking[split]), "test")
    splits = list(SPLITS) if wanted == "both" else [wanted]
    for split in splits:
        if lacking[split]:
            verb = {"val": "validate", "test": "test"}[split]
            named = name_some([str(run) for run in lacking[split]])
            missing = f"no predictions/{split}.csv in {named}"
            raise UserError(f"{missing}; `clf {verb} --run {lacking[split][0]}` makes it")
    return splits


def _read(path: Path) -> dict[str, Any]:
    try:
        return results.read(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); mend or remove it") from error


def _predictions(run: Run, split: str) -> Path:
    return run.path / "predictions" / f"{split}.csv"


def _refuse_links_out(run: Run, *, splits: Sequence[str]) -> None:
    """Refuse a run directory that would have other people's files read."""
    names = ("config.yaml", "metrics.json", "environment.json", "labels_mapping.json", "timing.csv")
    for path in (*(run.path / name for name in names), *(_predictions(run, split) for split in splits)):
        if path.is_file() and not run.owns(path):
            raise UserError(f"{path} leads out of the run directory; put the file itself there, or remove it")


def read_entries(found: Sequence[Run], splits: Sequence[str]) -> list[Entry]:
    """Read what is compared.

    Raises:
        UserError: If a file cannot be read, or is a link that leads out of its run directory.
    """
    for run in found:
        _refuse_links_out(run, splits=splits)
    short = [f"{run.name}/{run.path.name}" for run in found]
    return [
        Entry(
            run=run,
            name=spelled_out(name if short.count(name) == 1 else str(run)),
            config=flatten(load_yaml(run.config)),
            rows={split: comparison.read_rows(_predictions(run, split), split=split) for split in splits},
            metrics=_read(run.path / "metrics.json"),
            device=str(_read(run.path / "environment.json").get("machine", {}).get("device", "")),
            classes=list(_read(run.path / "labels_mapping.json").get("class_to_idx", {})),
        )
        for run, name in zip(found, short, strict=True)
    ]


# ------------------------------------------------------------------------------------------------------------- report


def make_report(found: Sequence[Run], *, split: str | None) -> Report:
    """Compare runs.

    Args:
        found: The runs; the first is what the others are compared with.
        split: ``val``, ``test`` or ``both``; None takes what all have.
    Returns:
        All numbers, as primitives.
    Raises:
        UserError: If they cannot be compared; says why.
    """
    splits = choose_splits(found, split)
    entries = read_entries(found, splits)
    pooled = {entry.name: reduce(or_, entry.rows.values()) for entry in entries}
    comparison.check_same_images(pooled)
    _check_classes(entries, pooled)
    groups = [[entries[at] for at in group] for group in comparison.group([entry.config for entry in entries])]
    # Seeds of one configuration alone: then they are what is compared.
    sides = groups if len(groups) > 1 else [[entry] for entry in entries]
    compared = comparison.compare_all([Side(_name(side), [pooled[entry.name] for entry in side]) for side in sides])
    settings = comparison.differences([side[0].config for side in sides])
    return {
        "splits": splits,
        "n": {split: len(entries[0].rows[split].right) for split in splits},
        "settings": [{"key": key, "values": values} for key, values in settings.items()],
        "sides": [_name(side) for side in sides],
        "runs": [_figures(entry) for group in groups for entry in group],
        "groups": [_averages(group) for group in groups if len(group) > 1],
        "comparisons": [each.to_dict() for each in compared],
        "methods": METHODS,
        "notes": _notes(entries, groups, splits),
    }


def _name(side: Sequence[Entry]) -> str:
    """Name a side as a shell would: ``resnet18/003``, or ``resnet18/{001,002}``."""
    names = [entry.name.rpartition("/") for entry in side]
    if len(names) == 1:
        return side[0].name
    if len({folder for folder, *_ in names}) == 1:
        return f"{names[0][0]}/{{{','.join(number for *_, number in names)}}}"
    return f"{{{','.join(entry.name for entry in side)}}}"


def _figures(entry: Entry) -> Report:
    """Say what a run reached: top-1 from its predictions, all else from its ``metrics.json``."""
    splits = {}
    for split, rows in entry.rows.items():
        known = entry.metrics.get(split) or {}
        top1 = Proportion(rows.correct, len(rows.right))
        splits[split] = {
            "n": top1.n,
            "correct": top1.successes,
            "errors": rows.errors,
            "acc_top1": top1.value,
            "acc_top1_interval": [*top1.interval()],
            **{key: known.get(key) for key in ("f1_macro", "f1_macro_interval", "ece", "worst_class")},
        }
    minutes = results.training_minutes(entry.run.path / "timing.csv")
    return {
        "name": entry.name,
        "path": spelled_out(str(entry.run)),
        "seed": entry.seed,
        "minutes": minutes,
        "splits": splits,
    }


def _averages(group: Sequence[Entry]) -> Report:
    """Average over seeds: mean and standard deviation, with n - 1."""
    figures = [_figures(entry)["splits"] for entry in group]
    splits = {}
    for split in figures[0]:
        values = {key: [each[split][key] for each in figures] for key in FIGURES}
        splits[split] = {
            key: None if None in known else {"mean": fmean(known), "sd": stdev(known)} for key, known in values.items()
        }
    return {"name": _name(group), "runs": [entry.name for entry in group], "splits": splits}


def _check_classes(entries: Sequence[Entry], pooled: Mapping[str, Rows]) -> None:
    """Refuse runs that cannot be right: who does not know a class misses all its images."""
    for entry in entries:
        unknown = sorted(set(pooled[entry.name].labels.values()) - set(entry.classes))
        if entry.classes and unknown:
            raise UserError(
                f"{entry.name} does not know the class {name_some(unknown)}, of which images were scored: it cannot "
                "be right on them, and the comparison would say nothing else; compare runs that know all classes"
            )


def _notes(entries: Sequence[Entry], groups: Sequence[Sequence[Entry]], splits: Sequence[str]) -> list[str]:
    """Say what a reader must know to read the numbers right."""
    notes = [note for entry in entries for note in _notes_about(entry)]
    if len({frozenset(entry.classes) for entry in entries}) > 1:
        counts = ", ".join(f"{entry.name} {len(entry.classes)}" for entry in entries)
        notes.append(f"the runs choose among different classes ({counts}): fewer are easier")
    devices: dict[str, list[str]] = {}
    for entry in entries:
        devices.setdefault(entry.device or "an unknown device", []).append(entry.name)
    if len(devices) > 1:
        taken = "; ".join(f"{', '.join(names)} on {device}" for device, names in devices.items())
        notes.append(f"minutes are of different machines: {taken}")
    if any(len({entry.seed for entry in group}) < len(group) for group in groups):
        notes.append("runs of one configuration and one seed are no independent repetitions: their ± is too small")
    if "val" in splits:
        notes.append("validation chose the epoch of each run: its numbers flatter all of them")
    if len(groups) == 1:
        notes.append("all runs have one configuration; they are compared one by one")
    scope = "p and intervals say what other images of this kind could change, not what other seeds could"
    seeds = "; ± is the standard deviation over runs" if len(groups) < len(entries) else ""
    return [*notes, f"{scope}{seeds}"]


def _notes_about(entry: Entry) -> list[str]:
    notes = [] if entry.metrics.get("finished") else [f"{entry.name} is not finished"]
    for split, rows in entry.rows.items():
        known, n = entry.metrics.get(split) or {}, len(rows.right)
        if rows.errors:
            notes.append(f"{entry.name}: {rows.errors} of {n} {split} images have no prediction and count as wrong")
        elif known.get("acc_top1") is not None and round(known["acc_top1"] * known["n"]) != rows.correct:
            notes.append(
                f"{entry.name}: {split} in metrics.json ({100 * known['acc_top1']:.2f} %) is of another pass than the "
                f"predictions ({rows.correct} of {n}); macro F1, ECE and the worst class may not belong to them"
            )
    return notes


# ------------------------------------------------------------------------------------------------- flags and files


def _as_json(report: Report) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser(
        prog="clf compare",
        description="Compare runs image by image with the first of them: what they did differently, what each reached, "
        "and whether a difference is more than noise. Seeds of one configuration are averaged.",
        allow_abbrev=False,
    )
    run = "run directory, e.g. runs/resnet18/003 or runs/latest; runs/resnet18 means all its finished runs"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=run)
    splits = "images to compare on (default: test if all runs have predictions for it, else val)"
    parser.add_argument("--split", choices=(*SPLITS, "both"), help=splits)
    parser.add_argument("--html", metavar="FILE", help="write the comparison as one HTML file, too")
    parser.add_argument("--json", metavar="FILE", help="write all numbers as JSON, too")
    return parser.parse(argv)

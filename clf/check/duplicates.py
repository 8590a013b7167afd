"""Images that are there more than once: in train and in what scores it, under two labels, or merely twice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clf.check.findings import Finding, Severity
from clf.check.labels import SCORED
from clf.check.looks import Looks
from clf.data.samples import Sample, Split
from clf.data.scan import Files
from clf.errors import counted

Group = list["Entry"]
"""Entries of images that are all the same, or look the same."""


@dataclass(frozen=True)
class Entry:
    """An image as the dataset names it, once for all rows that say the same."""

    split: Split
    label: str | None
    path: str


@dataclass(frozen=True)
class _Rules:
    """How findings are called where images are the same, and where they look the same."""

    leak: str
    label: str
    twice: str
    leaking: Severity
    same: str


_EXACT = _Rules("leak", "contradicting-labels", "duplicate", "error", "are the same, pixel for pixel")
_NEAR = _Rules("near-leak", "near-contradicting-labels", "near-duplicate", "warning", "look the same")


def check_duplicates(listing: Mapping[Split, Sequence[Sample]], files: Files, looks: Looks) -> list[Finding]:
    """Look for images that are there more than once.

    Images are the same where their decoded pixels are, whatever their files are called and hold. A score of images that
    were trained on is none: that is an error. What only looks the same is a guess, a good one, and a warning.

    Args:
        listing: The samples of each split.
        files: The files of that listing.
        looks: What they look like.
    """
    same = looks.same_pixels()
    again = np.flatnonzero(np.bincount(np.concatenate([_rows(files, split) for split in listing])) > 1)
    grouped = {int(file) for group in same for file in group}
    exact = [*same, *(np.array([file]) for file in again if int(file) not in grouped)]
    near = looks.near()
    entries = _entries(listing, files, {*grouped, *map(int, again), *map(int, near.ravel())})
    return [
        *_found([[entry for file in group for entry in entries[int(file)]] for group in exact], _EXACT),
        *_listed_twice(listing, files),
        *_found([[*entries[int(one)], *entries[int(other)]] for one, other in near], _NEAR),
    ]


def _rows(files: Files, split: Split) -> NDArray[np.int64]:
    return np.array(files.rows[split], np.int64)


def _entries(listing: Mapping[Split, Sequence[Sample]], files: Files, wanted: set[int]) -> dict[int, Group]:
    """Say how the dataset names some of its files."""
    found: dict[int, dict[Entry, None]] = {file: {} for file in wanted}
    is_wanted = np.zeros(len(files.paths), bool)
    is_wanted[list(wanted)] = True
    for split, samples in listing.items():
        rows = _rows(files, split)
        for row in np.flatnonzero(is_wanted[rows]):
            sample = samples[int(row)]
            found[int(rows[row])][Entry(split, sample.label, sample.path)] = None
    return {file: list(entries) for file, entries in found.items()}


def _found(groups: Sequence[Group], rules: _Rules) -> Iterator[Finding]:
    for split in SCORED:
        yield from _leak(groups, split, rules)
    yield from _labels(groups, rules)
    yield from _between_scored(groups, rules)
    for split in ("train", *SCORED):
        yield from _twice(groups, split, rules)


def _leak(groups: Sequence[Group], split: str, rules: _Rules) -> Iterator[Finding]:
    """Find what is trained on and scored; to be left out of train, so that scores stay comparable."""
    pairs: dict[str, str] = {}
    for group in groups:
        if scored := [entry.path for entry in group if entry.split == split]:
            pairs |= {entry.path: scored[0] for entry in group if entry.split == "train" and entry.path not in pairs}
    if pairs:
        message = (
            f"{_shared(len(pairs), 'train', split)} {rules.same}{_example(pairs)}; a score would be of images trained "
            "on: leave them out of train"
        )
        yield Finding(rules.leak, "duplicates", rules.leaking, message, len(pairs), tuple(pairs), tuple(pairs.values()))


def _labels(groups: Sequence[Group], rules: _Rules) -> Iterator[Finding]:
    pairs: dict[str, str] = {}
    example = ""
    for group in groups:
        labels = {entry.label: entry.path for entry in group if entry.label is not None}
        if len(labels) > 1:
            (one, first), (other, second), *_ = labels.items()
            example = example or f", e.g. {first} ({one!r}) and {second} ({other!r})"
            pairs |= {entry.path: first if entry.path != first else second for entry in group}
    if pairs:
        images = counted(len(pairs), "image is listed with", f"images {rules.same}, but have")
        message = f"{images} different labels{example}; mend or leave out"
        yield Finding(rules.label, "duplicates", "warning", message, len(pairs), tuple(pairs), tuple(pairs.values()))


def _between_scored(groups: Sequence[Group], rules: _Rules) -> Iterator[Finding]:
    pairs: dict[str, str] = {}
    for group in groups:
        if tested := [entry.path for entry in group if entry.split == "test"]:
            pairs |= {entry.path: tested[0] for entry in group if entry.split == "val"}
    if pairs:
        severity: Severity = "warning" if rules.leaking == "error" else "note"
        message = (
            f"{_shared(len(pairs), 'val', 'test')} {rules.same}{_example(pairs)}; the test is no test of what was "
            "chosen by them: leave them out of val"
        )
        rule = f"{rules.twice}-in-val-and-test"
        yield Finding(rule, "duplicates", severity, message, len(pairs), tuple(pairs), tuple(pairs.values()))


def _twice(groups: Sequence[Group], split: str, rules: _Rules) -> Iterator[Finding]:
    """Find what is in one split, with one label, more than once; the first of each is no finding."""
    pairs: dict[str, str] = {}
    for group in groups:
        first: dict[str | None, str] = {}
        for entry in (entry for entry in group if entry.split == split):
            before = first.setdefault(entry.label, entry.path)
            if before != entry.path and before not in pairs:
                pairs[entry.path] = before
    if pairs:
        severity: Severity = "warning" if rules.leaking == "error" and split != "train" else "note"
        effect = "they are learnt more often" if split == "train" else "they count more than once"
        images = counted(len(pairs), "image and another", "images and others")
        message = f"{split}: {images} {rules.same}{_example(pairs)}; {effect}"
        yield Finding(rules.twice, "duplicates", severity, message, len(pairs), tuple(pairs), tuple(pairs.values()))


def _listed_twice(listing: Mapping[Split, Sequence[Sample]], files: Files) -> Iterator[Finding]:
    for split in listing:
        rows = _rows(files, split)
        times = np.bincount(rows, minlength=1)
        if more := int((times - 1).clip(0).sum()):
            example = files.paths[int(times.argmax())]
            named = f"{counted(more, 'row names', 'rows name')} a file that another row names"
            message = f"{split}: {named}, e.g. {example} {times.max():,} times"
            yield Finding("listed-twice", "duplicates", "note", message, more)


def _shared(count: int, one: str, other: str) -> str:
    return counted(count, f"image of {one} and one of {other}", f"images of {one} and of {other}")


def _example(pairs: Mapping[str, str]) -> str:
    one, other = next(iter(pairs.items()))
    return f", e.g. {one} and {other}" if one != other else f", e.g. {one}"

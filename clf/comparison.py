"""Whether one run is better than another: both are judged on the same images, one by one."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clf.data.samples import SCORED_SPLITS
from clf.errors import UserError, name_some
from clf.statistics import NOISE, holm, mcnemar_p, mean_interval, p_text, paired_interval, sign_flip_p

Key = tuple[str, int, str]
"""One scored row: split, which of the rows of the same image it is (from 0), and the image's path."""

SPLITS = tuple(SCORED_SPLITS)
NO_SETTING = ("seed_everything", "name")
"""Keys of a configuration that say nothing about what was tried."""

_FEWEST = 10  # The mean of fewer differences is not normal enough to be bracketed as if it were.

METHODS = {
    "top1_interval": "Wilson score, 95 %",
    "p": "McNemar, exact",
    "p_averaged": "sign-flip test over images, exact, of the mean of each side's runs",
    "interval": "Newcombe 1998, method 10, for paired proportions, 95 %",
    "interval_averaged": f"normal approximation over images, 95 %; none where fewer than {_FEWEST} images differ",
    "corrected": "Holm, over all comparisons",
    "noise": NOISE,
}
"""How the numbers of a comparison were made."""


@dataclass(frozen=True)
class Rows:
    """What a run said about images.

    Args:
        labels: The true label of each row.
        right: Whether the run got it.
        errors: Rows without a prediction; they count as wrong.
    """

    labels: Mapping[Key, str]
    right: Mapping[Key, bool]
    errors: int = 0

    @cached_property
    def correct(self) -> int:
        """How many it got."""
        return sum(self.right.values())

    def __or__(self, other: "Rows") -> "Rows":
        """Put two splits together."""
        return Rows({**self.labels, **other.labels}, {**self.right, **other.right}, self.errors + other.errors)


@dataclass(frozen=True)
class Side:
    """What stands on one side of a comparison: a run, or several that differ in nothing but their seed.

    Args:
        name: What to call it.
        rows: Of each of its runs.
    """

    name: str
    rows: Sequence[Rows]

    def hits(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Count, row by row, how many of its runs got it: int64 (N,)."""
        right = np.array([[rows.right[key] for key in keys] for rows in self.rows])  # (runs, N)
        return np.asarray(right.sum(axis=0), np.int64)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides on the same images; where a side has several runs, their average counts.

    Args:
        base: What the other is compared with.
        other: What is compared.
        n: The images.
        correct: How many images each gets right, the base first; an average where a side has several runs.
        gained: Images on which the other does better: it alone is right, or more of its runs are.
        lost: Images on which the base does better.
        interval: 95 % interval of the other's top-1 less the base's; None where there is none.
        p: How likely a difference like this is by chance, if both are equally good.
        corrected: The same, corrected for the other comparisons beside it.
        averaged: Whether a side has several runs.
    """

    base: str
    other: str
    n: int
    correct: tuple[float, float]
    gained: int
    lost: int
    interval: tuple[float, float] | None
    p: float
    corrected: float
    averaged: bool

    @property
    def difference(self) -> float:
        """Top-1 of the other less that of the base, in [-1, 1]."""
        return (self.correct[1] - self.correct[0]) / self.n

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``noise``."""
        return verdict(self.corrected, self.correct[1] - self.correct[0])

    @property
    def sentence(self) -> str:
        """Say it in words."""
        counts = f"{_images(self.gained)} won, {self.lost} lost"
        chance = f"({p_text(self.corrected)}; {counts})"
        by = abs(round(self.correct[1] - self.correct[0], 1))
        if self.verdict != "noise":
            average = " on average over the runs" if self.averaged else ""
            return f"{self.other} is {self.verdict} than {self.base}{average} {chance}"
        if not self.gained + self.lost:
            return f"{self.other} and {self.base} are right on the very same images"
        if not by:
            return f"{self.other} and {self.base} get equally many images right {chance}"
        return f"{self.other} against {self.base}: the difference of {_images(by)} is within noise {chance}"

    def to_dict(self) -> dict[str, Any]:
        """Turn into primitives."""
        keys = ("base", "other", "n", "correct", "difference", "interval", "gained", "lost", "p", "corrected")
        return {key: getattr(self, key) for key in (*keys, "averaged", "verdict", "sentence")}


def verdict(p: float, difference: float) -> str:
    """Call a difference ``better``, ``worse``, or, where chance makes such ones, ``noise``."""
    return "noise" if p > NOISE else "better" if difference > 0 else "worse"


def read_rows(path: Path, *, split: str) -> Rows:
    """Read a run's predictions, e.g. ``predictions/test.csv``.

    Raises:
        UserError: If the file is no table of predictions with labels, or holds none.
    """
    labels: dict[Key, str] = {}
    right: dict[Key, bool] = {}
    errors = 0
    seen: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                # As text of the folder that it was made in: `images/a.png` and `/here/images/a.png` are one image.
                image = os.path.abspath(row["path"])
                key = split, seen[image], image
                seen[image] += 1
                read = {"ok": True, "error": False}[row["status"]]
                labels[key], right[key] = row["true"], read and row["label"] == row["true"]
                errors += not read
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table of predictions with labels; `clf test --run` writes it anew") from error
    if not right:
        raise UserError(f"{path} holds no predictions; there is nothing to compare")
    return Rows(labels, right, errors)


def check_same_images(rows: Mapping[str, Rows]) -> None:
    """Refuse to compare what was measured on different images.

    Args:
        rows: What each run said, by its name.

    Raises:
        UserError: If a run was scored on other images than the first one, or with other labels; names some.
    """
    (first, base), *others = rows.items()
    for name, other in others:
        missing, added = base.right.keys() - other.right.keys(), other.right.keys() - base.right.keys()
        if missing or added:
            moved = len(missing) == len(base.right) == len(added)
            hint = "if the data has only moved, score one again: `clf test --run RUN --data.root …`"
            raise UserError(
                f"{first} and {name} were scored on different images: {len(missing)} of {len(base.right)} only in "
                f"{first}{_some(missing)}; {len(added)} of {len(other.right)} only in {name}{_some(added)}; "
                f"{hint if moved else 'score both on the same data'}"
            )
        if changed := sorted(key for key in base.labels if base.labels[key] != other.labels[key]):
            key = changed[0]
            raise UserError(
                f"{first} and {name} disagree about the labels of {len(changed)} of {len(base.labels)} images, e.g. "
                f"{key[-1]!r} is {base.labels[key]!r} and {other.labels[key]!r}: the data has changed between them; "
                "score both again, e.g. `clf test --run RUN`"
            )


def compare(base: Side, other: Side) -> Comparison:
    """Compare two sides image by image; `check_same_images` has been asked."""
    keys = list(base.rows[0].right)
    runs = len(base.rows), len(other.rows)
    hits = base.hits(keys), other.hits(keys)
    unit = lcm(*runs)
    differences = hits[1] * (unit // runs[1]) - hits[0] * (unit // runs[0])  # in units of 1 / unit, (N,)
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    averaged = runs != (1, 1)
    if averaged:
        p = sign_flip_p(differences.tolist())
        interval = mean_interval((differences / unit).tolist()) if gained + lost >= _FEWEST else None
    else:
        both = int((hits[0] & hits[1]).sum())
        p = mcnemar_p(gained, lost)
        interval = paired_interval(both=both, gained=gained, lost=lost, neither=len(keys) - both - gained - lost)
    correct = (float(hits[0].sum() / runs[0]), float(hits[1].sum() / runs[1]))
    return Comparison(base.name, other.name, len(keys), correct, gained, lost, interval, p, p, averaged)


def compare_all(sides: Sequence[Side]) -> list[Comparison]:
    """Compare each side with the first, p corrected for their number by Holm's method."""
    found = [compare(sides[0], other) for other in sides[1:]]
    corrected = holm([comparison.p for comparison in found])
    return [replace(each, corrected=p) for each, p in zip(found, corrected, strict=True)]


def group(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Gather runs of one configuration, whatever their seed and name.

    Args:
        configs: Flat configurations, see `clf.config.flatten`.
    Returns:
        Positions in `configs`, in groups, both in the order in which they come.
    """
    groups: dict[str, list[int]] = {}
    for at, config in enumerate(configs):
        groups.setdefault(json.dumps(_settings(config), sort_keys=True, default=str), []).append(at)
    return list(groups.values())


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """Find what configurations do not have in common.

    Args:
        configs: Flat configurations.
    Returns:
        By dotted key: each one's value as text, None where it has no such key.
    """
    settings = [_settings(config) for config in configs]
    keys = sorted({key for each in settings for key in each})
    # Where one has a value and another has keys below it (`ema: null`, `ema: {decay: …}`), the value is what differs.
    top = [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]
    texts = {key: [_value(each, key) for each in settings] for key in top}
    return {key: values for key, values in texts.items() if len(set(values)) > 1}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NO_SETTING}


def _value(settings: Mapping[str, Any], key: str) -> str | None:
    if key in settings:
        return _text(settings[key])
    start = f"{key}."
    below = {name.removeprefix(start): value for name, value in settings.items() if name.startswith(start)}
    return f"{{{', '.join(f'{name}: {_text(value)}' for name, value in below.items())}}}" if below else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _images(count: float) -> str:
    return f"{count:g} image{'' if count == 1 else 's'}"


def _some(keys: Iterable[Key]) -> str:
    keys = sorted(keys)
    return f" ({name_some([path for *_, path in keys], most=2)})" if keys else ""

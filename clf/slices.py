"""Accuracy by what is known about the images: one slice for every value of every metadata key."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, TypeGuard

from clf.statistics import Proportion

Value = str | int | float | bool | None

MOST_VALUES = 50
"""A key with more different values than this names single images rather than kinds of them."""

_RANGES_FROM = 10  # Numbers with more different values than this are cut into quarters.


@dataclass(frozen=True, slots=True)
class Slice:
    """The images that share a value.

    Args:
        key: Metadata key.
        value: The value, as text; a range like ``3 to 12.5`` where many numbers were cut into quarters.
        accuracy: How many of them are right.
    """

    key: str
    value: str
    accuracy: Proportion

    def to_dict(self) -> dict[str, Any]:
        """Turn into what ``metrics.json`` says about a slice."""
        return {
            "key": self.key,
            "value": self.value,
            "n": self.accuracy.n,
            "acc": self.accuracy.value,
            "acc_interval": [*self.accuracy.interval()],
        }


def slices(correct: Sequence[bool], metadata: Sequence[Mapping[str, Value]]) -> list[Slice]:
    """Count right predictions by key and value; keys and values in order, numbers by size.

    Images without a key are in none of its slices. A key with a single value, or with more than `MOST_VALUES` texts,
    tells nothing and is left out.

    Args:
        correct: Whether each prediction is right, N.
        metadata: What is known about each image, N.
    """
    keys = sorted({key for facts in metadata for key in facts})
    return [found for key in keys for found in _by_key(key, correct, metadata)]


def worst(found: Sequence[Slice]) -> Slice | None:
    """Find the slice that may be the worst: the one whose interval begins lowest, and then ends lowest."""
    return min(found, key=lambda each: each.accuracy.interval(), default=None)


def _by_key(key: str, correct: Sequence[bool], metadata: Sequence[Mapping[str, Value]]) -> list[Slice]:
    present = [(facts[key], right) for facts, right in zip(metadata, correct, strict=True) if key in facts]
    values = [value for value, _ in present]
    names = _ranges(values) if _are_many_numbers(values) else [_text(value) for value in values]
    order = {name: None for _, name in sorted(zip(values, names, strict=True), key=lambda pair: _rank(pair[0]))}
    if not 1 < len(order) <= MOST_VALUES:
        return []
    hits, totals = dict.fromkeys(order, 0), dict.fromkeys(order, 0)
    for name, (_, right) in zip(names, present, strict=True):
        totals[name] += 1
        hits[name] += right
    return [Slice(key, name, Proportion(hits[name], totals[name])) for name in order]


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_many_numbers(values: Sequence[Value]) -> bool:
    return all(_is_number(value) for value in values) and len(set(values)) > _RANGES_FROM


def _ranges(values: Sequence[Value]) -> list[str]:
    """Name the quarter that each number lies in by the smallest and largest number in there."""
    numbers = [value for value in values if _is_number(value)]
    cuts = quantiles(numbers, n=4, method="inclusive")
    places = [sum(number > cut for cut in cuts) for number in numbers]
    members = {place: [n for n, at in zip(numbers, places, strict=True) if at == place] for place in set(places)}
    ends = {place: (min(inside), max(inside)) for place, inside in members.items()}
    names = {place: f"{low:g}" if low == high else f"{low:g} to {high:g}" for place, (low, high) in ends.items()}
    return [names[place] for place in places]


def _text(value: Value) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _rank(value: Value) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, _text(value))

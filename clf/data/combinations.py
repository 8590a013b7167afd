"""Rendered numbers to measure: a YAML list of labels x colours with a count, read and held to what can be seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from clf.data.jersey import MIN_CONTRAST, PALETTE, Colours, contrast
from clf.data.rendering import FOLDERS, Group, require_number
from clf.errors import UserError, did_you_mean
from clf.yamlfile import display, load_yaml

REQUIRED: Final = ("labels", "jersey_colors", "number_colors", "count")
KEYS: Final = (*REQUIRED, "borders", "split")
EXAMPLE: Final = '- {labels: ["7", "23"], jersey_colors: [red, navy], number_colors: [white], count: 20}'


def read_groups(file: Path) -> list[Group]:
    """Read what is to be rendered.

    Args:
        file: A YAML list; each entry is a product of ``labels``, ``jersey_colors``, ``number_colors`` and, where given,
            ``borders``, with ``count`` images of each combination for ``split`` (train without it).
    Raises:
        UserError: If an entry cannot be rendered or a number could not be read on its jersey; names file and line.
    """
    entries = load_yaml(file)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{display(file)}: expected a list of entries like {EXAMPLE}")
    groups: dict[str, Group] = {}
    for number, values in enumerate(entries, start=1):
        if not isinstance(values, dict) or not values:
            raise UserError(f"{display(file)}: entry {number} is {values!r:.60}; expected one like {EXAMPLE}")
        entry = _Entry(display(file), values)
        for group in entry.groups():
            if group.key in groups:
                raise entry.error("labels", f"{group.key} is given twice; ask for each combination once")
            groups[group.key] = group
    return list(groups.values())


@dataclass(frozen=True)
class _Entry:
    """One entry of the list; its keys remember the lines that they stand on."""

    file: str
    values: dict[Any, Any]

    def groups(self) -> Iterator[Group]:
        for key in self.values:
            if key not in KEYS:
                raise self.error(key, f"unknown key {key!r}{did_you_mean(key, KEYS)}; the keys are {', '.join(KEYS)}")
        for key in REQUIRED:
            if key not in self.values:
                raise self.error(next(iter(self.values)), f"{key} is missing; expected an entry like {EXAMPLE}")
        labels = [require_number(label, key=f"{self._place('labels')}: labels") for label in self._list("labels")]
        jerseys, numbers = (self._names(key, [*PALETTE]) for key in ("jersey_colors", "number_colors"))
        borders: list[str | None] = [None]
        if "borders" in self.values:
            borders = [*self._names("borders", [*PALETTE, "none"])]
        split = self.values.get("split", "train")
        if split not in [*FOLDERS]:
            raise self.error("split", f"split={split!r} is none of {', '.join(FOLDERS)}")
        count = self.values["count"]
        if type(count) is not int or count < 1:
            raise self.error("count", f"count={count!r} is no number of images; choose 1 or more")
        self._refuse_unseen(jerseys, numbers, borders)
        for label, jersey, number, border in product(labels, jerseys, numbers, borders):
            yield Group(split, label, count, Colours(jersey, number, border))

    def _refuse_unseen(self, jerseys: list[str], numbers: list[str], borders: list[str | None]) -> None:
        pale = [
            f"{number} on {jersey}"
            for jersey, number in product(jerseys, numbers)
            if contrast(PALETTE[jersey], PALETTE[number]) < MIN_CONTRAST
        ]
        if pale:
            says = f"cannot be read (contrast below {MIN_CONTRAST:g}): {', '.join(pale)}"
            raise self.error("number_colors", f"{says}; divide the entry so that no such pair is left")
        if hidden := sorted({str(border) for border in borders} & {*jerseys, *numbers}):
            says = f"a {hidden[0]} border cannot be told from the {hidden[0]} it touches"
            raise self.error("borders", f"{says}; divide the entry so that no such pair is left")

    def _names(self, key: str, known: Sequence[str]) -> list[str]:
        names = self._list(key)
        for name in names:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise self.error(key, f"{key} has {name!r}{hint}; the colours are {', '.join(known)}")
        return names

    def _list(self, key: str) -> list[Any]:
        values = self.values[key]
        if not isinstance(values, list) or not values:
            raise self.error(key, f"{key}={values!r:.60} is no list with something in it; write [a, b]")
        if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
            raise self.error(key, f"{key} repeats {repeated[0]!r}; name it once")
        return values

    def error(self, key: str, says: str) -> UserError:
        return UserError(f"{self._place(key)}: {says}")

    def _place(self, key: str) -> str:
        return f"{self.file}:{next(written.line for written in self.values if written == key)}"

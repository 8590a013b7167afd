"""Augmentation that turns one class into another: mirrored text, digits upside down."""

import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clf.check.findings import Finding
from clf.preprocess import Preprocessing
from clf.recipes import Recipe, recipe
from clf.transforms import with_inner

_MIRRORS = re.compile(r"(?i)(horizontal|vertical)_?flip(_\w+)?$|[hv]flip$|transpose$")
_LEAST_SHARE = 0.8  # Of the names: "none" or "unreadable" stands beside many digits.
_UPSIDE_DOWN = str.maketrans("01689", "01986")
_QUARTER_TURN = 90
_FEWEST_READ = 10  # Names that only count up from the start are read from as many on: all digits, ten letters.


def check_augmentation(
    augment: Recipe | Sequence[Callable[..., Any]], classes: Sequence[str], *, preprocessing: Preprocessing
) -> list[Finding]:
    """Look for transforms that make another class, or none, of what can be read.

    Args:
        augment: As ``data.augment``.
        classes: Class names; whether images show digits or letters can only be told from these.
        preprocessing: The model's.
    """
    outer = recipe(augment, preprocessing=preprocessing) if isinstance(augment, str) else augment
    transforms = [inner for each in outer for inner in with_inner(each)]
    where = f"data.augment={augment}" if isinstance(augment, str) else "data.augment"
    return [*_mirrored(transforms, classes, where), *_turned(transforms, classes, where)]


def what_is_read(classes: Sequence[str]) -> str:
    """Say whether class names look like something that stands in the images: ``digits``, ``text``, or nothing.

    Names of up to three digits are digits; single characters, and names of two or three with a digit among them, text.
    Less than ten that only count up, like 0 and 1 or a, b and c, are numbers of something else.
    """
    if len(classes) < _FEWEST_READ and _count_up(classes):
        return ""
    digits = [name for name in classes if re.fullmatch(r"[0-9]{1,3}", name)]
    text = [name for name in classes if name.isalnum() and (len(name) == 1 or re.fullmatch(r"(?=\D*\d).{2,3}", name))]
    enough = max(2, _LEAST_SHARE * len(classes))
    return "digits" if len(digits) >= enough else "text" if len(text) >= enough else ""


def _count_up(classes: Sequence[str]) -> bool:
    """Tell whether names are 0, 1, 2, … or 1, 2, 3, … or a, b, c, … without a gap."""
    count = len(classes)
    series = [[str(number) for number in range(start, start + count)] for start in (0, 1)]
    series += [list(letters[:count]) for letters in (string.ascii_lowercase, string.ascii_uppercase)]
    return sorted(classes) in series


def _mirrored(transforms: Sequence[object], classes: Sequence[str], where: str) -> Iterator[Finding]:
    mirrors = [_name(each) for each in transforms if _MIRRORS.search(_name(each)) and getattr(each, "p", 1.0) > 0]
    if mirrors and (kind := what_is_read(classes)):
        shown = ", ".join(classes[:3])
        better = "take data.augment=light or ocr" if "=" in where else "leave that out"
        yield Finding(
            "mirrored-text",
            "configuration",
            "warning",
            f"{where} mirrors images ({', '.join(dict.fromkeys(mirrors))}), and the class names ({shown}, …) look like "
            f"{kind}, which cannot be read in a mirror; {better}, or ignore this if the names only number other things",
        )


def _turned(transforms: Sequence[object], classes: Sequence[str], where: str) -> Iterator[Finding]:
    turns = [(_name(each), turn) for each in transforms if (turn := _largest_turn(each)) >= _QUARTER_TURN]
    upside_down = {name: name.translate(_UPSIDE_DOWN)[::-1] for name in classes if re.fullmatch("[01689]+", name)}
    pairs = [(name, other) for name, other in upside_down.items() if other != name and other in classes]
    if turns and pairs and what_is_read(classes) == "digits":
        (one, other), (name, degrees) = pairs[0], max(turns, key=lambda turn: turn[1])
        yield Finding(
            "turned-digits",
            "configuration",
            "warning",
            f"{where} turns images by up to {degrees:g} degrees ({name}), and the class {one} upside down reads "
            f"{other}; turn by less than 45",
            count=len(pairs),
        )


def _name(transform: object) -> str:
    """Name a transform: its class, or itself where it is a function."""
    return str(getattr(transform, "__name__", None) or type(transform).__name__)


def _largest_turn(transform: object) -> float:
    degrees = getattr(transform, "degrees", None)
    if isinstance(degrees, int | float):
        return abs(degrees)
    return max((abs(each) for each in degrees), default=0.0) if isinstance(degrees, list | tuple) else 0.0

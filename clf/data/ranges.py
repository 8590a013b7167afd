"""What the numbers below ``data`` may be."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from clf.errors import UserError

_POSITIVE: Final = (lambda value: value is None or value >= 1, "choose 1 or more, or null")
_RULES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "val_fraction": (lambda value: 0 < value < 1, "choose a share between 0 and 1, e.g. 0.1"),
    "max_bad_fraction": (lambda value: 0 <= value <= 1, "choose a share from 0 to 1, e.g. 0.01"),
    "cache_size": _POSITIVE,
    "batch_size": (lambda value: value >= 1, "choose 1 or more"),
    "num_workers": (lambda value: value == "auto" or value >= 0, "choose 0 or more, or auto"),
    "prefetch_factor": _POSITIVE,
    "seed": (lambda value: value >= 0, "choose 0 or more"),
}


def require_in_range(**values: Any) -> None:
    """Refuse a value that means nothing.

    Args:
        values: Values of keys below ``data``, by their names.
    Raises:
        UserError: Naming the first that is out of its range.
    """
    for key, value in values.items():
        holds, fix = _RULES[key]
        if not holds(value):
            raise UserError(f"data.{key}={value} is out of range; {fix}")

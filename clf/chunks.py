"""Cutting what comes one by one into lists."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut into lists of so many; the last one may be shorter. Python has ``itertools.batched`` from 3.12 on.

    Args:
        items: What to cut; read no further than the list that is asked for.
        size: Items in a list, at least 1.
    """
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk

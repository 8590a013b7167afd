"""Many texts in little memory, which processes share."""

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class Strings(Sequence[str]):
    """A list of texts, as their bytes end to end: a `list` takes five times as much for paths.

    Forked processes share its pages, where those of a list are copied by counting references to its items.

    Args:
        texts: What it holds; may hold undecodable bytes, as file names do.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text to the end."""
        self._bytes += os.fsencode(text)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # from the end if negative; IndexError if there is none
        start = self._ends[place - 1] if place else 0
        return os.fsdecode(bytes(self._bytes[start : self._ends[place]]))

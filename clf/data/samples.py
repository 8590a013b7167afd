"""What a dataset is to the rest of the package: labelled files, found by a source, split by split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

Split = Literal["train", "val", "test"]
SCORED_SPLITS: Final[Mapping[str, str]] = {"val": "validation", "test": "test"}
"""Splits that a network is judged by, and what people call them."""

Metadata = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file with its label.

    Args:
        path: File to read; relative paths are relative to the working folder.
        label: Class name, always text (``0``, ``00`` and ``1`` are three classes); None where it is not known.
        metadata: Flat facts that came with the image, e.g. ``{"jersey_color": "red"}``.
    """

    path: str
    label: str | None = None
    metadata: Metadata = field(default_factory=dict)


class Source(Protocol):
    """Anything that lists samples: a shipped layout, or a user's own class named by ``class_path``."""

    def samples(self, split: Split) -> list[Sample]:
        """List a split in a stable order; an empty list where the source has no such split."""

    def __str__(self) -> str:
        """Say in a few words what this is, e.g. ``folder layout in data/birds``."""

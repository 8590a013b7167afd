"""What a dataset is to the rest of the package: labelled files, found by a source, split by split."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from typing import Any, Final, Literal, Protocol, overload

from clf.data.strings import Strings

Split = Literal["train", "val", "test"]
SCORED_SPLITS: Final[Mapping[str, str]] = {"val": "validation", "test": "test"}
"""Splits that a network is judged by, and what people call them."""

Metadata = Mapping[str, str | int | float | bool | None]
NO_METADATA: Final[Metadata] = {}
"""One for all: a dict for each of a million samples would cost 64 MB."""


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
    metadata: Metadata = field(default_factory=lambda: NO_METADATA)


class Samples(Sequence[Sample]):
    """A list of samples in a few arrays; each is made when it is asked for.

    A million with paths of 50 letters take 70 MB, where objects take three times as much; equal labels are kept once,
    and so is a mapping of metadata that samples share.
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.paths = Strings()
        self._label_codes, self._labels = array("i"), _Kept()
        self._metadata_codes, self._metadata = array("i"), _Kept()
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> None:
        """Add a sample to the end."""
        self.paths.append(sample.path)
        self._label_codes.append(self._labels.code(sample.label))
        self._metadata_codes.append(self._metadata.code(sample.metadata or NO_METADATA))

    def labels(self) -> Iterator[str | None]:
        """Go through the labels alone: of a million samples ten times as fast as through the samples."""
        return (self._labels.values[code] for code in self._label_codes)

    def __len__(self) -> int:
        return len(self._label_codes)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        label = self._labels.values[self._label_codes[index]]
        return Sample(self.paths[index], label, self._metadata.values[self._metadata_codes[index]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of every list


class _Kept:
    """Values that come again and again, by number: equal texts once, anything else as often as it is another object."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._codes: dict[object, int] = {}

    def code(self, value: Any) -> int:
        """Number of a value, which is kept if it is new."""
        key = value if isinstance(value, str) else id(value)
        code = self._codes.setdefault(key, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code


def count_labels(samples: Iterable[Sample]) -> Counter[str]:
    """Count the samples of each label, those without one left out."""
    labels = samples.labels() if isinstance(samples, Samples) else (sample.label for sample in samples)
    return Counter(label for label in labels if label is not None)


class Lister(Protocol):
    """Anything that lists samples."""

    def samples(self, split: Split) -> Sequence[Sample]:
        """List a split in a stable order; nothing where there is no such split."""

    def __str__(self) -> str:
        """Say in a few words what this is, e.g. ``folder layout in data/birds``."""


class Source(Protocol):
    """A lister that ``class_path`` names, shipped or a user's own; jsonargparse compares signatures with this one."""

    def samples(self, split: Split) -> list[Sample]:
        """List a split in a stable order; an empty list where the source has no such split."""

    def __str__(self) -> str:
        """Say in a few words what this is, e.g. ``folder layout in data/birds``."""

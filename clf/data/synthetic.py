"""The rendered dataset as a source of samples: needs no download, and draws its images on first use."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from clf.data.jersey import RENDERER
from clf.data.rendering import ANNOTATIONS, FOLDERS, Group, Order, Style, require_number, write
from clf.data.samples import Sample, Split
from clf.errors import UserError

CLASSES: Final = ("0", "00", "1", "2", "3", "5", "7", "8", "10", "11", "23", "45")


@dataclass(frozen=True)
class SyntheticJerseys:
    """Rendered jersey numbers, drawn on first use; needs no download and no network.

    Args:
        classes: Jersey numbers, each text of one to three digits.
        train_per_class: Training images of each class.
        val_per_class: Validation images of each class.
        test_per_class: Test images of each class.
        seed: Decides every image; no image of one split is drawn again in another.
        size_min: Smallest image height in pixels; without tightness, widths are 0.85 to 1 of the height.
        size_max: Largest image height in pixels.
        degradation: How much camera and codec spoil (downscaling, blur, noise, JPEG), from 0 (nothing) to 1 (cruel).
        rotation: Largest turn of a number, in degrees to either side.
        tightness: Share of the height that the number takes in a crop of the number alone, from 0.2 to 1; null draws
            the number with a margin of jersey around it.
        folder: Where the images lie; by default ``data/synthetic-<hash of all of the above>`` in the working folder.
    """

    classes: Sequence[str] = CLASSES
    train_per_class: int = 150
    val_per_class: int = 20
    test_per_class: int = 20
    seed: int = 42
    size_min: int = 36
    size_max: int = 60
    degradation: float = 0.5
    rotation: float = 10.0
    tightness: float | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, naming key, value and fix."""
        for label in self.classes:
            require_number(label, key="classes")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UserError(f"classes={list(self.classes)} is empty or repeats a class; name each class once")
        for split, count in self.counts.items():
            least = 1 if split == "train" else 0
            if count < least:
                raise UserError(f"{split}_per_class={count} is too few; choose {least} or more")
        _ = self.style

    @property
    def counts(self) -> dict[Split, int]:
        """Images per class in each split."""
        return {"train": self.train_per_class, "val": self.val_per_class, "test": self.test_per_class}

    @property
    def record(self) -> dict[str, object]:
        """What ``synthetic.json`` says: equal records are equal datasets, wherever they lie."""
        record = {"renderer": RENDERER, **asdict(self), "classes": sorted(self.classes), "folder": None}
        return {key: value for key, value in record.items() if value is not None}

    @property
    def style(self) -> Style:
        """How the images look."""
        return Style(
            seed=self.seed,
            size_min=self.size_min,
            size_max=self.size_max,
            degradation=self.degradation,
            rotation=self.rotation,
            tightness=self.tightness,
        )

    @property
    def order(self) -> Order:
        """What is to be rendered."""
        groups = [
            Group(split, label, count)
            for split, count in self.counts.items()
            for label in sorted(self.classes)
            if count
        ]
        return Order(groups, self.style, self.record)

    @property
    def root(self) -> Path:
        """The folder of the dataset."""
        digest = hashlib.sha256(json.dumps(self.record).encode()).hexdigest()
        return Path(self.folder or f"data/synthetic-{digest[:8]}")

    def samples(self, split: Split) -> list[Sample]:
        """List a split, rendering the dataset if it is not there yet."""
        write(self.order, output=self.root)
        if not self.counts[split]:
            return []
        folder = self.root / FOLDERS[split]
        try:
            rows = [json.loads(line) for line in (folder / ANNOTATIONS).read_text("utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder / ANNOTATIONS} is spoilt: {error}; remove {self.root} to render it anew"
            ) from error
        return [Sample(str(folder / row["image"]), row["suffix"], row["metadata"]) for row in rows]

    def __str__(self) -> str:
        """Say what this is and where."""
        return f"rendered jersey numbers in {self.root}"

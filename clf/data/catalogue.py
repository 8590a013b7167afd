"""What a dataset holds: every split listed once, held to the rules, counted and described."""

import os
from functools import cached_property
from typing import Literal

from clf.data import splits
from clf.data.layout import SPLITS
from clf.data.samples import Sample, Source, Split
from clf.errors import UserError


class Catalogue:
    """The samples of each split as training and scoring see them.

    Args:
        source: Lists the samples.
        root: Folder that the samples' paths count from; None takes the folder that holds them all.
        val_fraction: Share of train that becomes validation where the source has none.
        rule: What happens to labels that train lacks.
        seed: Decides which images become validation.
        checkpoint: Classes of the model that is scored; None for a model that is trained on this data.
    """

    def __init__(
        self,
        source: Source,
        *,
        root: str | None,
        val_fraction: float,
        rule: Literal["error", "skip"],
        seed: int,
        checkpoint: list[str] | None = None,
    ) -> None:
        self.source = source
        self._root = root
        self._val_fraction = val_fraction
        self._rule = rule
        self._seed = seed
        self._checkpoint = checkpoint
        self._notes: list[str] = []
        self._listed: dict[Split, list[Sample]] = {}
        self._samples: dict[Split, list[Sample]] = {}

    @cached_property
    def classes(self) -> list[str]:
        """The checkpoint's classes if there is one, else those of train.

        Raises:
            UserError: If there is no train, it has fewer than two classes, or they are not the checkpoint's.
        """
        if self._checkpoint is None:
            return splits.class_names(self._present("train"), where=str(self.source))
        if train := self._list("train"):
            found = splits.class_names(train, where=str(self.source))
            splits.require_same_classes(found, checkpoint=self._checkpoint, where=str(self.source))
        return self._checkpoint

    @property
    def class_counts(self) -> list[int]:
        """Training samples of each class."""
        return splits.count_classes(self.samples("train"), self.classes)

    @property
    def available(self) -> list[Split]:
        """The splits that there are; validation is one if it can be carved from train."""
        return [split for split in SPLITS if self._list(split) or (split == "val" and self._list("train"))]

    @property
    def notes(self) -> list[str]:
        """What was left out while listing, a line each."""
        return [*getattr(self.source, "notes", ()), *self._notes]

    def samples(self, split: Split) -> list[Sample]:
        """List a split, after the rules for labels and with validation carved if need be.

        Raises:
            UserError: If there is no such split, or a rule is broken.
        """
        if split not in self._samples:
            self._samples |= self._apply_rules(split)
        return self._samples[split]

    def _apply_rules(self, split: Split) -> dict[Split, list[Sample]]:
        classes = self.classes
        if split != "test" and not self._list("val"):
            train, fraction = self._present("train"), self._val_fraction
            train, val = splits.carve(train, fraction=fraction, seed=self._seed, base=self._base())
            if not val:
                raise UserError(
                    f"{self.source}: no validation split, and no class has two images to carve one; add images"
                )
            return {"train": train, "val": val}
        samples = self._present(split)
        if split == "train":
            return {split: samples}
        kept, dropped = splits.drop_unknown(
            samples, classes=classes, split=split, rule=self._rule, where=str(self.source)
        )
        if dropped:
            self._notes.append(f"{self.source}: skipped {dropped} {split} samples with labels that train lacks")
        return {split: kept}

    def _list(self, split: Split) -> list[Sample]:
        if split not in self._listed:
            self._listed[split] = self.source.samples(split)
        return self._listed[split]

    def _present(self, split: Split) -> list[Sample]:
        if samples := self._list(split):
            return samples
        there = ", ".join(name for name in SPLITS if self._list(name)) or "nothing"
        raise UserError(f"{self.source}: there is no {split} split (only {there}); add one, or use another dataset")

    def _base(self) -> str:
        if self._root is not None:
            return self._root.rstrip("/")
        folders = {os.path.dirname(sample.path) for split in SPLITS for sample in self._list(split)}
        return os.path.commonpath([os.path.abspath(folder) for folder in folders])

    def fingerprint(self) -> str:
        """Hash splits, relative paths and labels: SHA-256 in hexadecimal."""
        return splits.fingerprint({split: self.samples(split) for split in self.available}, base=self._base())

    def describe(self) -> str:
        """Say in one line what was recognised."""
        sizes = [f"{len(self.samples(split))} {split}" for split in self.available]
        carved = "" if self._list("val") or "val" not in self.available else ", val carved from train"
        missing = "".join(f", no {split}" for split in SPLITS if split not in self.available)
        return f"{self.source}: {len(self.classes)} classes, {' / '.join(sizes)} images{carved}{missing}"

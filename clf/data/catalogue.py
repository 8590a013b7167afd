"""What a dataset holds: every split listed once, held to the rules, counted and described."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, Literal

from clf.data import splits
from clf.data.disk import Disk
from clf.data.exclusion import Exclusion
from clf.data.layout import SPLITS
from clf.data.samples import Lister, Samples, Split
from clf.data.skipping import Skipping
from clf.data.train_only import TrainOnly
from clf.errors import UserError, counted

STAGE_SPLITS: Final[Mapping[str, tuple[Split, ...]]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
}
"""What each stage of a trainer looks at; what prediction looks at is not always a split."""


class Catalogue:
    """The samples of each split as training and scoring see them.

    Args:
        source: Lists the samples.
        roots: Folders that the samples' paths count from; none takes the folder that holds them all.
        val_fraction: Share of train that becomes validation where the source has none.
        rule: What happens to labels that train lacks.
        seed: Decides which images become validation.
        exclude: What is left out before anything else; None for nothing.
        skipping: Leaves out bad files next; None stops at them when they are read.
        train_only: Which samples are trained on but never scored; None for no such samples.
        checkpoint: Classes of the model that is scored; None for a model that is trained on this data.
    """

    def __init__(
        self,
        source: Lister,
        *,
        roots: Sequence[str],
        val_fraction: float,
        rule: Literal["error", "skip"],
        seed: int,
        exclude: Exclusion | None = None,
        skipping: Skipping | None = None,
        train_only: TrainOnly | None = None,
        checkpoint: list[str] | None = None,
    ) -> None:
        self.source = source
        self.roots = roots
        self._val_fraction = val_fraction
        self._rule = rule
        self._seed = seed
        self._exclude = exclude
        self.skipping = skipping
        self._train_only = train_only
        self._disk = Disk()
        self._checkpoint = checkpoint
        self._notes: list[str] = []
        self._found: dict[Split, Samples] = {}
        self._listed: dict[Split, Samples] = {}
        self._samples: dict[Split, Samples] = {}

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
        excluded: list[str] = []
        if self._exclude:
            for split in SPLITS:  # Only then is it known which lines of a list match nothing.
                self._list(split)
            excluded += self._exclude.notes
        if self.skipping:
            excluded += self.skipping.notes
        return [*getattr(self.source, "notes", ()), *excluded, *self._notes]

    def samples(self, split: Split) -> Samples:
        """List a split, after the rules for labels and with validation carved if need be.

        Raises:
            UserError: If there is no such split, or a rule is broken.
        """
        if split not in self._samples:
            self._samples |= self._apply_rules(split)
        return self._samples[split]

    def _apply_rules(self, split: Split) -> dict[Split, Samples]:
        classes = self.classes
        if split != "test" and not self._list("val"):
            return self._carve(self._present("train"))
        samples = self._present(split)
        if split == "train":
            return {split: samples}
        samples = self._drop_train_only(samples, split)
        kept, dropped = splits.drop_unknown(
            samples, classes=classes, split=split, rule=self._rule, where=str(self.source)
        )
        if dropped:
            left_out = counted(dropped, f"{split} sample with a label", f"{split} samples with labels")
            self._notes.append(f"{self.source}: skipped {left_out} that train lacks")
        self._refuse_leak(kept, split)
        return {split: kept}

    def _carve(self, train: Samples) -> dict[Split, Samples]:
        train, val = splits.carve(
            train,
            fraction=self._val_fraction,
            seed=self._seed,
            bases=self._bases(),
            kept={sample.path for sample in train if self._train_only and self._train_only(sample)},
            file=self._disk.real,
        )
        if not val:
            others = f" beside those of data.train_only ({self._train_only})" if self._train_only else ""
            raise UserError(
                f"{self.source}: no validation split, and no class has two images{others} to carve one; add images"
            )
        return {"train": train, "val": val}

    def _drop_train_only(self, samples: Samples, split: Split) -> Samples:
        if self._train_only is None:
            return samples
        kept = Samples(sample for sample in samples if not self._train_only(sample))
        if not kept:
            raise UserError(
                f"{self.source}: data.train_only ({self._train_only}) leaves no image in {split}; "
                "add others to it, or remove the split"
            )
        if len(kept) < len(samples):
            count = len(samples) - len(kept)
            self._notes.append(f"{self.source}: left {counted(count, f'{split} sample')} out, by data.train_only")
        return kept

    def _refuse_leak(self, samples: Samples, split: Split) -> None:
        """Refuse images that are scored and trained on; the same in val and test is no leak, but said."""
        files = {self._disk.real(sample.path): sample.path for sample in samples}
        others: list[Split] = ["train"] if split == "val" else ["train", "val"]
        for other in others:
            shared = {real: s.path for s in self._list(other) if (real := self._disk.real(s.path)) in files}
            if not shared:
                continue
            real, path = next(iter(shared.items()))
            same = counted(len(shared), f"image of {split} is", f"images of {split} are")
            same += f" also in {other}, e.g. {files[real]}"
            same += f" is {path}" if files[real] != path else ""
            if other == "train":
                raise UserError(f"{self.source}: {same}; a score would be of images trained on: remove them from one")
            self._notes.append(f"{self.source}: {same}")

    def found(self, split: Split) -> Samples:
        """List a split as its source does, but for what is excluded: before any rule, bad files among it.

        Raises:
            UserError: If the source cannot list it, or nothing is left.
        """
        if split not in self._found:
            listed = self.source.samples(split)
            found = listed if isinstance(listed, Samples) else Samples(listed)
            self._found[split] = self._exclude.remove_from(found) if self._exclude else found
            if found and not self._found[split]:
                raise UserError(f"{self.source}: data.exclude leaves no image in {split}; shorten the lists")
        return self._found[split]

    def _list(self, split: Split) -> Samples:
        if split not in self._listed:
            kept = self.found(split)
            if self.skipping and kept:
                kept = self.skipping.left(split, {each: self.found(each) for each in SPLITS})
                if not kept:
                    raise UserError(
                        f"{self.source}: data.on_error=skip leaves no image in {split}, all of its files are bad; mend "
                        "them (clf check says why), or remove the split"
                    )
            if split == "train" and kept and self._train_only:
                self._train_only.require_known(kept, where=str(self.source))
            self._listed[split] = kept
        return self._listed[split]

    def _present(self, split: Split) -> Samples:
        if samples := self._list(split):
            return samples
        there = ", ".join(name for name in SPLITS if self._list(name)) or "nothing"
        raise UserError(f"{self.source}: there is no {split} split (only {there}); add one, or use another dataset")

    def _bases(self) -> Sequence[str]:
        if self.roots:
            return self.roots
        folders = {os.path.dirname(sample.path) for split in SPLITS for sample in self._list(split)}
        return [os.path.commonpath([os.path.abspath(folder) for folder in folders])]

    def fingerprint(self) -> str:
        """Hash splits, relative paths and labels: SHA-256 in hexadecimal."""
        return splits.fingerprint({split: self.samples(split) for split in self.available}, bases=self._bases())

    def describe(self) -> str:
        """Say in one line what was recognised."""
        sizes = [f"{len(self.samples(split))} {split}" for split in self.available]
        carved = "" if self._list("val") or "val" not in self.available else ", val carved from train"
        missing = "".join(f", no {split}" for split in SPLITS if split not in self.available)
        bad = f", {counted(self.skipping.bad, 'bad file')} left out" if self.skipping and self.skipping.bad else ""
        return f"{self.source}: {len(self.classes)} classes, {' / '.join(sizes)} images{carved}{missing}{bad}"

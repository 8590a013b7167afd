"""What a dataset holds after the rules: splits, classes, counts, notes, description."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from clf.data.catalogue import Catalogue
from clf.data.samples import Sample, Split
from clf.errors import UserError


class Listed:
    """A source that counts how often it is asked."""

    def __init__(self, base: str = "birds", **splits: str) -> None:
        """Take splits like ``train="aab"``: a letter is the label of a sample."""
        self.asked: list[Split] = []
        self.base = base
        self.splits = splits

    def samples(self, split: Split) -> list[Sample]:
        self.asked.append(split)
        return [Sample(f"{self.base}/{split}/{i}.jpg", x) for i, x in enumerate(self.splits.get(split, ""))]

    def __str__(self) -> str:
        return "birds"


def catalogue(
    source: Listed,
    *,
    rule: Literal["error", "skip"] = "error",
    checkpoint: list[str] | None = None,
    seed: int = 1,
    fraction: float = 0.5,
) -> Catalogue:
    return Catalogue(source, roots=[source.base], val_fraction=fraction, rule=rule, seed=seed, checkpoint=checkpoint)


def labels(samples: Sequence[Sample]) -> str:
    return "".join(str(sample.label) for sample in samples)


def test_splits_are_listed_once_however_often_they_are_asked_for() -> None:
    source = Listed(train="aabb", val="ab", test="ba")
    held = catalogue(source)
    for _ in range(2):
        assert [labels(held.samples(split)) for split in held.available] == ["aabb", "ab", "ba"]
        assert (held.classes, held.class_counts) == (["a", "b"], [2, 2])
        assert held.samples("train") is held.samples("train")
        held.describe()
        held.fingerprint()
    assert sorted(source.asked) == ["test", "train", "val"]


def test_classes_come_from_train_alone() -> None:
    assert catalogue(Listed(train="ba", val="a", test="b")).classes == ["a", "b"]


def test_classes_need_no_look_at_the_other_splits() -> None:
    source = Listed(train="ba")
    assert catalogue(source).classes == ["a", "b"]
    assert source.asked == ["train"]


def test_missing_validation_is_carved_and_said() -> None:
    held = catalogue(Listed(train="aaaabbbb", test="a"))
    assert (labels(held.samples("val")), labels(held.samples("train"))) == ("aabb", "aabb")
    assert held.class_counts == [2, 2]
    assert held.describe() == "birds: 2 classes, 4 train / 4 val / 1 test images, val carved from train"


def test_carved_validation_is_the_same_whichever_split_is_asked_for_first() -> None:
    first, second = catalogue(Listed(train="aaaabbbb")), catalogue(Listed(train="aaaabbbb"))
    val, train = first.samples("val"), second.samples("train")
    assert (val, train) == (second.samples("val"), first.samples("train"))


def test_fraction_and_seed_change_what_is_carved() -> None:
    base = catalogue(Listed(train="a" * 20 + "b" * 20)).samples("val")
    assert len(catalogue(Listed(train="a" * 20 + "b" * 20), fraction=0.1).samples("val")) == 4
    assert catalogue(Listed(train="a" * 20 + "b" * 20), seed=2).samples("val") != base


def test_nothing_to_carve_is_refused() -> None:
    with pytest.raises(UserError, match="no class has two images to carve one"):
        catalogue(Listed(train="ab")).samples("val")


@pytest.mark.parametrize(
    ("source", "split", "there"),
    [
        (Listed(train="ab", val="a"), "test", "train, val"),
        (Listed(test="a"), "train", "test"),
        (Listed(test="a"), "val", "test"),
        (Listed(), "train", "nothing"),
    ],
)
def test_missing_split_is_refused_with_those_that_are_there(source: Listed, split: Split, there: str) -> None:
    missing = "test" if split == "test" else "train"
    with pytest.raises(UserError, match=rf"birds: there is no {missing} split \(only {there}\)"):
        catalogue(source).samples(split)


@pytest.mark.parametrize("split", ["val", "test"])
def test_label_that_train_lacks_is_refused_by_its_split(split: Split) -> None:
    with pytest.raises(UserError, match=f"birds: {split} has labels that train lacks: 'c' in 1 of 2"):
        catalogue(Listed(**{"train": "aabb", "val": "ab", split: "ac"})).samples(split)


def test_label_that_train_lacks_is_skipped_and_counted_when_asked_for() -> None:
    held = catalogue(Listed(train="aabb", val="accb"), rule="skip")
    assert labels(held.samples("val")) == "ab"
    assert held.samples("val") is held.samples("val")
    assert held.notes == ["birds: skipped 2 val samples with labels that train lacks"]


def test_checkpoints_classes_are_kept_where_there_is_no_train() -> None:
    held = catalogue(Listed(test="ab"), checkpoint=["a", "b", "c"])
    assert held.classes == ["a", "b", "c"]
    assert labels(held.samples("test")) == "ab"


def test_label_unknown_to_the_checkpoint_is_refused() -> None:
    with pytest.raises(UserError, match="'c' in 1 of 2 samples"):
        catalogue(Listed(test="ac"), checkpoint=["a", "b"]).samples("test")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_train_with_other_classes_than_the_checkpoint_is_refused_for_every_split(split: Split) -> None:
    held = catalogue(Listed(train="aacc", val="a", test="a"), checkpoint=["a", "b"])
    with pytest.raises(UserError, match="lacks 'b' and adds 'c'"):
        held.samples(split)


def test_available_splits_are_those_with_samples_and_what_can_be_carved() -> None:
    assert catalogue(Listed(train="ab")).available == ["train", "val"]
    assert catalogue(Listed(test="a")).available == ["test"]


def test_description_names_source_classes_sizes_and_what_is_missing() -> None:
    assert catalogue(Listed(train="aab", val="a")).describe() == "birds: 2 classes, 3 train / 1 val images, no test"


def test_fingerprint_depends_on_labels_but_not_on_the_place_or_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = catalogue(Listed(train="aab", val="ab")).fingerprint()
    assert catalogue(Listed(base="/mnt/x", train="aab", val="ab")).fingerprint() == here
    assert catalogue(Listed(train="aab", val="bb")).fingerprint() != here
    monkeypatch.chdir(tmp_path)
    without_root = Catalogue(Listed(train="aab", val="ab"), roots=[], val_fraction=0.1, rule="error", seed=1)
    assert without_root.fingerprint() == here

"""What is wrong with labels: each finding where it is, and none where it isn't."""

from collections.abc import Sequence
from typing import Any

import pytest

from clf.check.findings import Finding
from clf.check.labels import check_labels
from clf.data.samples import Sample, Samples, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def look(*splits: dict[str, int], **options: Any) -> dict[str, Finding]:
    """Look at splits that have so many images of each label."""
    listing = {
        split: Samples(Sample(f"{split}/{at}.jpg", name) for name, count in counts.items() for at in range(count))
        for split, counts in zip(SPLITS, splits, strict=False)
    }
    found = check_labels(listing, **options)
    assert len({finding.rule for finding in found}) == len(found)
    assert {finding.subject for finding in found} <= {"labels"}
    return {finding.rule: finding for finding in found}


def test_even_classes_in_all_splits_are_no_finding() -> None:
    assert look({"cat": 20, "dog": 30}, {"cat": 3, "dog": 2}, {"cat": 3, "dog": 2}) == {}
    assert look({"0": 20, "00": 30, "1": 20}) == {}
    assert look({}) == {}


def test_classes_that_a_split_lacks_are_counted() -> None:
    found = look({"a": 20, "b": 20, "c": 20}, {"a": 1}, {"a": 1, "b": 1, "c": 1})["missing-class"]
    assert (found.severity, found.count) == ("warning", 2)
    assert "val: 2 of 3 classes have no image: 'b', 'c'" in found.message


@pytest.mark.parametrize(("rule", "severity"), [("error", "error"), ("skip", "warning")])
def test_labels_that_train_lacks_are_as_bad_as_what_fit_does_with_them(rule: Any, severity: str) -> None:
    found = look({"a": 20, "b": 20}, {"a": 2, "b": 2, "x": 3}, on_unknown=rule)["unknown-label"]
    assert (found.severity, found.count, len(found.images)) == (severity, 3, 3)
    assert "'x'" in found.message


def test_classes_with_few_images_are_named_from_the_rarest_on() -> None:
    found = look({"a": 20, "b": 9, "c": 3, "d": 10})["rare-class"]
    assert (found.severity, found.count) == ("warning", 2)
    assert "'c' (3), 'b' (9)" in found.message
    assert "rare-class" not in look({"a": 20, "b": 9, "c": 3}, few=3)


@pytest.mark.parametrize(("smallest", "said"), [(10, True), (11, False)])
def test_one_class_ten_times_as_large_as_another_is_noted(smallest: int, said: bool) -> None:
    found = look({"a": 100, "b": smallest})
    assert ("imbalance" in found) == said
    assert all(finding.severity == "note" for finding in found.values())


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (["Cat", "cat"], "case"),
        (["blue tit", "blue  tit"], "white space"),
        (["cat", "cat "], "white space"),
        (["caf\u00e9", "cafe\u0301"], "Unicode form"),
        (["12", "\uff11\uff12"], "Unicode form"),
        (["cat", "\ufeffcat", "cat\u200b"], "invisible characters"),
        (["Stra\u00dfe", "STRASSE "], "white space, case"),
    ],
)
def test_labels_that_look_alike_are_found_with_their_difference(names: Sequence[str], difference: str) -> None:
    found = look(dict.fromkeys(names, 15) | {"dog": 20})["look-alike-labels"]
    assert (found.severity, found.count) == ("warning", 15 * len(names))
    assert f"differ only by {difference}: " in found.message


@pytest.mark.parametrize("names", [["a", "A"], ["0", "00"], ["1", "01"], ["cat", "cats"], ["x y", "xy"]])
def test_labels_that_are_different_classes_are_not(names: Sequence[str]) -> None:
    assert look(dict.fromkeys(names, 15)) == {}


def test_labels_are_compared_across_splits() -> None:
    found = look({"cat": 20, "dog": 20}, {"Cat": 2, "dog": 2})
    assert {"look-alike-labels", "unknown-label", "missing-class"} == set(found)


def test_rows_without_a_label_are_counted() -> None:
    found = look({"a": 20, "b": 20}, unlabelled=3)["empty-label"]
    assert (found.severity, found.count) == ("note", 3)

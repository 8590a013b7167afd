"""Class rules, unseen labels, the carved validation split, the fingerprint."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf.data.samples import Sample, Samples
from clf.data.splits import carve, class_names, count_classes, drop_unknown, fingerprint, relative, require_same_classes
from clf.errors import UserError


def sample(path: str, label: str | None) -> Sample:
    return Sample(path, label)


def samples(counts: dict[str, int], base: str = "root") -> list[Sample]:
    return [sample(f"{base}/train/{name}/{i}.jpg", name) for name, count in counts.items() for i in range(count)]


def carved(train: list[Sample], fraction: float = 0.25, seed: int = 1, base: str = "root") -> list[str]:
    return [relative(s.path, [base]) for s in carve(train, fraction=fraction, seed=seed, bases=[base])[1]]


def test_classes_are_sorted_by_code_point_and_text() -> None:
    assert class_names(samples({"b": 1, "10": 2, "a": 1, "00": 1, "B": 1, "1": 1, "0": 1, "é": 1}), where="x") == [
        *["0", "00", "1", "10", "B", "a", "b", "é"]
    ]


def test_a_single_class_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match="birds: train has only the class 'owl'; a classifier needs two or more"):
        class_names(samples({"owl": 3}), where="birds")


@pytest.mark.parametrize("label", [None, 3])
def test_label_of_a_users_source_has_to_be_text(label: object) -> None:
    with pytest.raises(UserError, match=f"a.jpg: label {label} is not text"):
        class_names([Sample("a.jpg", label)], where="x")  # type: ignore[arg-type]


def test_counts_follow_the_order_of_the_classes() -> None:
    assert count_classes(samples({"b": 2, "a": 3}), ["a", "b"]) == [3, 2]


def test_data_with_the_checkpoints_classes_passes_whatever_their_order() -> None:
    require_same_classes(["a", "b"], checkpoint=["b", "a"], where="x")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["a", "c"], "birds: the classes of train are not the checkpoint's: the data lacks 'b' and adds 'c'; use"),
        (["a"], "the data lacks 'b'; use"),
        (["a", "b", "c", "d"], "the data adds 'c', 'd'; use"),
    ],
)
def test_other_classes_than_the_checkpoints_are_refused_by_name(found: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        require_same_classes(found, checkpoint=["a", "b"], where="birds")
    assert message in str(caught.value)


def test_unknown_label_is_refused_with_example_and_suggestion() -> None:
    rows = Samples([sample("1.jpg", "cat"), sample("2.jpg", "dgo"), sample("3.jpg", "dgo")])
    with pytest.raises(UserError) as caught:
        drop_unknown(rows, classes=["cat", "dog"], split="val", rule="error", where="pets")
    expected = "pets: val has labels that train lacks: 'dgo' in 2 of 3 samples, e.g. 2.jpg; did you mean 'dog'?"
    assert str(caught.value).startswith(expected)
    assert "data.on_unknown_label=skip" in str(caught.value)


def test_unknown_labels_are_skipped_and_counted_when_asked_for() -> None:
    rows = Samples([sample("1.jpg", "cat"), sample("2.jpg", "emu"), sample("3.jpg", "yak")])
    assert drop_unknown(rows, classes=["cat", "dog"], split="val", rule="skip", where="pets") == (Samples(rows[:1]), 2)


def test_skipping_everything_is_refused() -> None:
    with pytest.raises(UserError, match="every label is unknown: is this the right dataset"):
        drop_unknown(Samples([sample("1.jpg", "emu")]), classes=["cat", "dog"], split="test", rule="skip", where="pets")


def test_carving_takes_the_share_of_every_class() -> None:
    train, val = carve(samples({"a": 100, "b": 40, "c": 8}), fraction=0.25, seed=1, bases=["root"])
    assert Counter(s.label for s in val) == {"a": 25, "b": 10, "c": 2}
    assert len(train) == 111


def test_carving_is_right_in_total_however_small_the_classes() -> None:
    train = samples({f"class {i:02}": 4 for i in range(20)})
    chosen = Counter(s.label for s in carve(train, fraction=0.1, seed=1, bases=["root"])[1])
    assert sum(chosen.values()) == 8
    assert set(chosen.values()) == {1}


def test_carving_leaves_every_class_an_image() -> None:
    left, val = carve(samples({"a": 1, "b": 2, "c": 3}), fraction=0.99, seed=1, bases=["root"])
    assert {s.label for s in left} == {"a", "b", "c"}
    assert len(val) == 3


def test_carving_takes_at_least_one_image_where_a_class_has_two() -> None:
    assert len(carved(samples({"a": 2, "b": 1}), fraction=0.01)) == 1
    assert carved(samples({"a": 1, "b": 1})) == []


def test_carving_is_the_same_wherever_the_dataset_lies_and_whatever_order_it_is_listed_in() -> None:
    here, there = samples({"a": 20, "b": 20}, base="root"), samples({"b": 20, "a": 20}, base="/mnt/x")
    assert sorted(carved(here)) == sorted(carved(there, base="/mnt/x"))


def test_carving_never_changes() -> None:
    # A dataset that was split once must be split the same for ever, or old scores would be of images trained on.
    assert carved(samples({"a": 8, "b": 4})) == ["train/a/0.jpg", "train/a/4.jpg", "train/b/1.jpg"]


def test_carving_depends_on_the_seed() -> None:
    assert carved(samples({"a": 20}), seed=1) != carved(samples({"a": 20}), seed=2)


def test_more_images_of_one_class_leave_the_choice_among_the_others() -> None:
    few, many = carved(samples({"a": 20, "b": 20})), carved(samples({"a": 20, "b": 40}))
    assert [path for path in few if "/a/" in path] == [path for path in many if "/a/" in path]


def test_rows_of_one_image_stay_on_one_side() -> None:
    rows = [sample(f"root/{i % 6}.jpg", "a") for i in range(18)] + [sample(f"root/b{i}.jpg", "b") for i in range(6)]
    left, val = carve(rows, fraction=0.5, seed=1, bases=["root"])
    assert not {s.path for s in left} & {s.path for s in val}
    assert Counter(s.label for s in val) == {"a": 9, "b": 3}


def test_image_whose_rows_disagree_stays_in_train() -> None:
    rows = [sample("root/x.jpg", "a"), sample("root/x.jpg", "b"), *samples({"a": 3, "b": 3})]
    assert "x.jpg" not in carved(rows, fraction=0.9)


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_carving_divides_without_loss_and_to_one_image_of_the_share(
    counts: list[int], fraction: float, seed: int
) -> None:
    train = samples({str(i): count for i, count in enumerate(counts)})
    left, val = carve(train, fraction=fraction, seed=seed, bases=["root"])
    assert sorted(s.path for s in [*left, *val]) == sorted(s.path for s in train)
    per_class = Counter(s.label for s in val)
    for i, count in enumerate(counts):
        assert abs(per_class[str(i)] - fraction * count) <= 1
        assert per_class[str(i)] < count


@pytest.mark.parametrize("path", ["/data/x/train/a.jpg", "/data/x/./train/a.jpg", "/data/y/../x/train/a.jpg"])
def test_paths_are_told_from_their_base(path: str) -> None:
    assert relative(path, ["/data/x"]).endswith("train/a.jpg")
    assert not relative(path, ["/data/x"]).startswith("/")


def test_fingerprint_is_the_same_wherever_the_data_lies() -> None:
    here, there = ({"train": samples({"a": 2, "b": 1}, base=base)} for base in ("root", "/mnt/x"))
    assert fingerprint(here, bases=["root"]) == fingerprint(there, bases=["/mnt/x"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"train": [Sample("r/1.jpg", "a"), Sample("r/2.jpg", "a")]},
        {"train": [Sample("r/1.jpg", "a"), Sample("r/3.jpg", "b")]},
        {"train": [Sample("r/2.jpg", "b"), Sample("r/1.jpg", "a")]},
        {"train": [Sample("r/1.jpg", "a")]},
        {"val": [Sample("r/1.jpg", "a"), Sample("r/2.jpg", "b")]},
    ],
)
def test_fingerprint_changes_with_label_path_order_and_split(other: dict[str, list[Sample]]) -> None:
    first = fingerprint({"train": [Sample("r/1.jpg", "a"), Sample("r/2.jpg", "b")]}, bases=["r"])
    assert fingerprint(other, bases=["r"]) != first  # type: ignore[arg-type]

"""Slices by metadata: counted by hand."""

from typing import Any

from clf.slices import MOST_VALUES, slices, worst


def counted(correct: list[bool], metadata: list[dict[str, Any]]) -> dict[str, list[tuple[str, int, int]]]:
    """(value, right, images) by key."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for each in slices(correct, metadata):
        found.setdefault(each.key, []).append((each.value, each.accuracy.successes, each.accuracy.n))
    return found


def test_each_value_of_each_key_is_counted() -> None:
    metadata: list[dict[str, Any]] = [
        {"colour": "red", "border": True},
        {"colour": "blue", "border": False},
        {"colour": "red", "border": None},
        {"colour": "red"},
    ]
    assert counted([True, False, False, True], metadata) == {
        "border": [("false", 0, 1), ("null", 0, 1), ("true", 1, 1)],
        "colour": [("blue", 0, 1), ("red", 2, 3)],
    }


def test_few_numbers_are_values_in_order_of_their_size() -> None:
    assert counted([True, False, True], [{"camera": 10}, {"camera": 9}, {"camera": 10}]) == {
        "camera": [("9", 0, 1), ("10", 2, 2)]
    }


def test_many_numbers_are_cut_into_quarters() -> None:
    metadata = [{"width": width} for width in range(20, 0, -1)]
    correct = [fact["width"] > 15 for fact in metadata]
    assert counted(correct, metadata) == {
        "width": [("1 to 5", 0, 5), ("6 to 10", 0, 5), ("11 to 15", 0, 5), ("16 to 20", 5, 5)]
    }


def test_a_key_that_tells_nothing_is_left_out() -> None:
    metadata = [{"file": f"{i}.png", "team": "a"} for i in range(MOST_VALUES + 1)]
    assert slices([True] * len(metadata), metadata) == []
    assert slices([], []) == []


def test_numbers_of_which_nearly_all_are_equal_still_are_slices() -> None:
    metadata: list[dict[str, Any]] = [{"x": 0}] * 30 + [{"x": value} for value in range(1, 12)]
    assert [(value, n) for value, _, n in counted([True] * 41, metadata)["x"]] == [("0", 30), ("1", 1), ("2 to 11", 10)]


def test_numbers_that_are_not_finite_are_values_like_any_text() -> None:
    metadata = [{"x": float("nan")}, {"x": 1.5}]
    assert counted([True, True], metadata) == {"x": [("1.5", 1, 1), ("nan", 1, 1)]}


def test_the_worst_slice_is_the_one_that_more_images_speak_against() -> None:
    metadata: list[dict[str, Any]] = [{"n": "one"}] + [{"n": "six"}] * 6 + [{"n": "many"}] * 20
    found = worst(slices([False] * 7 + [True] * 20, metadata))
    assert found is not None
    assert (found.value, found.to_dict()["acc"]) == ("six", 0.0)
    assert worst([]) is None

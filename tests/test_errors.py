"""A misprint is answered with what was probably meant, and with nothing where nothing is near."""

import pytest

from clf.errors import UserError, counted, did_you_mean, name_some


@pytest.mark.parametrize(
    ("word", "options", "hint"),
    [
        ("resnt18", ["resnet50", "resnet18", "vit"], "; did you mean 'resnet18'?"),
        ("fti", ["test", "fit", "predict"], "; did you mean 'fit'?"),
        ("zebra", ["fit", "test"], ""),
        ("fit", [], ""),
    ],
)
def test_the_nearest_word_is_suggested_if_any_is_near(word: str, options: list[str], hint: str) -> None:
    assert did_you_mean(word, options) == hint


def test_a_stricter_question_has_fewer_answers() -> None:
    assert did_you_mean("mine", ["timing"], cutoff=0.6) == "; did you mean 'timing'?"
    assert did_you_mean("mine", ["timing"], cutoff=0.8) == ""


def test_options_may_come_from_anything_that_can_be_walked_over_once() -> None:
    assert did_you_mean("emma", (name for name in ("checkpoint", "ema"))) == "; did you mean 'ema'?"


def test_long_lists_are_cut_short_and_counted() -> None:
    assert name_some(["a", "b"]) == "'a', 'b'"
    assert name_some(list("abcde")) == "'a', 'b', 'c' and 2 more"


def test_what_is_counted_agrees_with_its_number() -> None:
    assert [counted(count, "file") for count in (0, 1, 1200, 0.5)] == ["0 files", "1 file", "1,200 files", "0.5 files"]
    assert [counted(count, "batch is", "batches are") for count in (1, 2, 1.0)] == [
        "1 batch is",
        "2 batches are",
        "1 batch is",
    ]


def test_a_user_error_can_be_caught_as_a_value_error() -> None:
    with pytest.raises(ValueError, match="wrong"):
        raise UserError("wrong")

"""Confusion matrices: counts and averages agree with scikit-learn, intervals with drawing the images themselves."""

from math import isnan

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from clf import confusion


def predictions(n: int, *, num_classes: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of uneven classes, and predictions of which some three in four are right."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.integers(0, num_classes, n) ** 2 // num_classes)
    wrong = generator.integers(0, num_classes, n)
    return labels, np.where(generator.random(n) < 0.7, labels, wrong)


@pytest.mark.parametrize("num_classes", [2, 5, 200])
def test_counts_and_scores_are_those_of_scikit_learn(num_classes: int) -> None:
    labels, predicted = predictions(300, num_classes=num_classes)
    counts = confusion.count(labels, predicted, num_classes=num_classes)
    classes = list(range(num_classes))
    assert np.array_equal(counts, confusion_matrix(labels, predicted, labels=classes))
    occurring = sorted({*labels.tolist(), *predicted.tolist()})
    assert confusion.f1_macro(counts) == pytest.approx(f1_score(labels, predicted, labels=occurring, average="macro"))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    for score in confusion.class_scores(counts, [str(name) for name in classes]):
        index = int(score.name)
        assert score.n == support[index]
        assert score.accuracy is None or score.accuracy.value == pytest.approx(recall[index])
        assert score.precision is None or score.precision == pytest.approx(precision[index])
        assert score.f1 is None or score.f1 == pytest.approx(f1[index])
        assert (score.accuracy is None, score.f1 is None) == (support[index] == 0, index not in occurring)


def test_the_interval_of_macro_f1_is_that_of_images_drawn_again_and_again() -> None:
    labels, predicted = predictions(300, num_classes=5)
    generator = np.random.default_rng(1)
    averages = []
    for _ in range(4000):
        drawn = generator.integers(0, len(labels), len(labels))
        averages.append(f1_score(labels[drawn], predicted[drawn], average="macro"))
    found = confusion.f1_macro_interval(confusion.count(labels, predicted, num_classes=5), draws=4000)
    assert found == pytest.approx(tuple(np.percentile(averages, [2.5, 97.5])), abs=0.005)


def test_the_interval_holds_the_value_and_is_the_same_every_time() -> None:
    counts = confusion.count(*predictions(50, num_classes=5), num_classes=5)
    lower, upper = confusion.f1_macro_interval(counts)
    assert lower < confusion.f1_macro(counts) < upper
    assert confusion.f1_macro_interval(counts) == (lower, upper)
    assert confusion.f1_macro_interval(counts, confidence=0.5)[0] > lower


def test_without_images_everything_is_possible_and_nothing_is_worst() -> None:
    counts = np.zeros((2, 2), np.int64)
    assert isnan(confusion.f1_macro(counts))
    assert confusion.f1_macro_interval(counts) == (0.0, 1.0)
    assert confusion.worst(confusion.class_scores(counts, ["a", "b"])) is None


def test_a_single_class_that_is_all_right_has_no_doubt_left_in_its_average() -> None:
    assert confusion.f1_macro_interval(np.array([[7, 0], [0, 0]])) == (1.0, 1.0)


def test_the_worst_class_is_the_one_that_more_images_speak_against() -> None:
    # 0 of 1 may be chance; 0 of 6 hardly is. 1 of 9 begins higher than either.
    counts = np.array([[0, 1, 0], [0, 0, 6], [8, 0, 1]])
    worst = confusion.worst(confusion.class_scores(counts, ["a", "b", "c"]))
    assert worst is not None
    assert worst.name == "b"


def test_a_class_without_images_has_no_accuracy_but_a_precision() -> None:
    first, second = confusion.summarise(np.array([[1, 1], [0, 0]]), ["a", "b"])["classes"]
    assert first["acc"] == 0.5
    assert second == {"name": "b", "n": 0, "precision": 0.0, "f1": 0.0}

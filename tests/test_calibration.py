"""Calibration: the error of torchmetrics, and a temperature that undoes what sharpened the logits."""

from math import isnan

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import multiclass_calibration_error

from clf import calibration


def scores(
    n: int = 5000, *, num_classes: int = 7, sharpness: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and labels drawn by the probabilities of the logits before these were multiplied by the sharpness."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (n, num_classes)).astype(np.float32)
    cumulative = calibration.softmax(logits).cumsum(1)
    labels = (generator.random((n, 1)) > cumulative).sum(1).clip(max=num_classes - 1)
    return sharpness * logits, labels


def error(logits: NDArray[np.float32], labels: NDArray[np.int64], *, temperature: float = 1.0) -> float:
    """Expected calibration error of logits that are divided by a temperature."""
    probs = calibration.softmax(logits, temperature=temperature)
    return calibration.expected_calibration_error(calibration.reliability(probs.max(1), probs.argmax(1) == labels))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 30.0])
def test_the_error_is_that_of_torchmetrics(sharpness: float) -> None:
    logits, labels = scores(sharpness=sharpness)
    probs = torch.tensor(calibration.softmax(logits)).float()
    expected = multiclass_calibration_error(probs, torch.tensor(labels), num_classes=7, n_bins=15)
    assert error(logits, labels) == pytest.approx(float(expected), abs=1e-6)


def test_ranges_count_their_images_and_hold_their_confidence() -> None:
    confidence = np.array([0.05, 0.5, 0.55, 1.0, np.nan])
    bins = calibration.reliability(confidence, np.array([True, True, False, True, True]), bins=10)
    assert [(each.n, each.accuracy) for each in bins] == [(1, 1.0), (2, 0.5), (1, 1.0)]
    assert all(each.lower <= each.confidence <= each.upper for each in bins)
    assert bins[1].confidence == pytest.approx(0.525)


def test_nothing_has_no_error() -> None:
    assert calibration.reliability(np.array([]), np.array([], bool)) == []
    assert isnan(calibration.expected_calibration_error([]))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_the_temperature_undoes_what_sharpened_the_logits(sharpness: float) -> None:
    logits, labels = scores(sharpness=sharpness)
    temperature = calibration.fit_temperature(logits, labels)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    assert error(logits, labels, temperature=temperature) < 0.02


@pytest.mark.parametrize("n", [3, 300])
def test_the_temperature_is_where_the_likelihood_is_highest_with_one_more_image_of_all_classes(n: int) -> None:
    logits, labels = scores(n, sharpness=2.5)

    def nll(temperature: float) -> float:
        scaled = torch.tensor(logits).double() / temperature
        smoothing = 1 / (n + 1)
        return float(torch.nn.functional.cross_entropy(scaled, torch.tensor(labels), label_smoothing=smoothing))

    best = minimize_scalar(nll, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-7}).x
    assert calibration.fit_temperature(logits, labels) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("n", [10, 1000])
def test_a_network_without_a_mistake_is_as_sure_as_so_many_images_allow(n: int) -> None:
    logits, labels = np.tile(np.array([[3, 0], [0, 3]], np.float32), (n // 2, 1)), np.tile([0, 1], n // 2)
    temperature = calibration.fit_temperature(logits, labels)
    assert calibration.softmax(logits, temperature=temperature).max() == pytest.approx(1 - 0.5 / (n + 1), abs=1e-6)


def test_a_network_that_is_always_wrong_gets_the_highest_temperature() -> None:
    logits = np.array([[3, 0], [0, 3]], np.float32)
    assert calibration.fit_temperature(logits, np.array([1, 0])) == pytest.approx(20)


def test_rows_that_are_not_finite_do_not_count() -> None:
    logits, labels = scores(300, sharpness=2.0)
    broken = np.concatenate([logits, np.full((1, 7), np.nan, np.float32)])
    assert calibration.fit_temperature(broken, np.append(labels, 0)) == calibration.fit_temperature(logits, labels)
    assert calibration.fit_temperature(broken[-1:], np.array([0])) == 1.0


def test_of_very_many_images_a_part_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = scores(sharpness=2.0)
    whole = calibration.fit_temperature(logits, labels)
    monkeypatch.setattr(calibration, "_MOST_VALUES", 7000)
    part = calibration.fit_temperature(logits, labels)
    assert part != whole
    assert part == pytest.approx(whole, rel=0.1)

"""Losses against references written out in numpy, and class weights against counts by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from clf.losses import CrossEntropy, class_weights

LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 3, 3, 1, 0, 2, 3])
WEIGHTS = [0.5, 2.0, 1.0, 0.25]


def smoothed(logits: NDArray[np.float64], labels: NDArray[np.int64], smoothing: float, weights: list[float]) -> float:
    """Weigh every class's share of the target by that class, and divide by the weights of the labels."""
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    total = norm = 0.0
    for row, label in zip(log_probs, labels, strict=True):
        for index, weight in enumerate(weights):
            share = smoothing / len(weights) + (1 - smoothing) * (index == label)
            total -= weight * share * row[index]
        norm += weights[label]
    return total / norm


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_the_written_out_sum(smoothing: float, weights: list[float] | None) -> None:
    loss = CrossEntropy(label_smoothing=smoothing)
    loss.register_buffer("class_weights", None if weights is None else torch.tensor(weights))
    expected = smoothed(LOGITS.double().numpy(), LABELS.numpy(), smoothing, weights or [1.0] * 4)
    assert loss(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_smoothing_is_a_tenth_unless_said_otherwise() -> None:
    targets = 0.9 * F.one_hot(LABELS, 4) + 0.1 / 4
    torch.testing.assert_close(CrossEntropy()(LOGITS, LABELS), F.cross_entropy(LOGITS, targets))


def test_loss_of_indifferent_logits_is_the_log_of_the_number_of_classes() -> None:
    assert CrossEntropy()(torch.zeros(5, 4), LABELS[:5]).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 1.5, math.nan])
def test_smoothing_out_of_range_is_refused_by_name(smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"label_smoothing={smoothing} must be in \[0, 1\)"):
        CrossEntropy(label_smoothing=smoothing)


def test_no_class_is_weighed_unless_asked_for() -> None:
    loss = CrossEntropy()
    assert loss.class_weights is None
    assert loss.state_dict() == {}
    assert class_weights([1, 100], "none") is None


def test_inverse_weights_are_those_counted_by_hand() -> None:
    # 1/1, 1/1, 1/2 sum to 2.5; they shall sum to 3.
    weights = class_weights([1, 1, 2], "inverse")
    assert weights is not None
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([1.2, 1.2, 0.6])


@given(counts=st.lists(st.integers(1, 10**7), min_size=2, max_size=50))
def test_inverse_weights_sum_to_the_number_of_classes_and_even_out_the_counts(counts: list[int]) -> None:
    weights = class_weights(counts, "inverse")
    assert weights is not None
    assert weights.sum().item() == pytest.approx(len(counts), rel=1e-5)
    mass = weights.double() * torch.tensor(counts)
    torch.testing.assert_close(mass, mass[:1].expand_as(mass), rtol=1e-5, atol=0)

"""Losses against torch, timm, torchvision and sums written out in numpy; class weights against counts by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from clf.errors import UserError
from clf.losses import BinaryCrossEntropy, CrossEntropy, Focal, class_weights, correct_imbalance, log_prior

LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 3, 3, 1, 0, 2, 3])
WEIGHTS = [0.5, 2.0, 1.0, 0.25]
ONE_HOT = F.one_hot(LABELS, 4).float()
SOFT = torch.rand(7, 4, generator=torch.Generator().manual_seed(1)).softmax(1)


def weighed(loss: nn.Module, weights: list[float] | None = WEIGHTS) -> nn.Module:
    loss.register_buffer("class_weights", None if weights is None else torch.tensor(weights))
    return loss


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_labels_are_torch_s(smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, SOFT, label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(smoothing)(LOGITS, SOFT), expected)


def test_weighted_soft_labels_are_torch_s_sum_over_the_weight_of_the_labels() -> None:
    total = F.cross_entropy(LOGITS, SOFT, weight=torch.tensor(WEIGHTS), label_smoothing=0.1, reduction="sum")
    expected = total / sum(float(row @ torch.tensor(WEIGHTS)) for row in SOFT)
    torch.testing.assert_close(weighed(CrossEntropy())(LOGITS, SOFT), expected)


LOSSES = [CrossEntropy(0.1), Focal(2.0, 0.1), BinaryCrossEntropy(0.1), BinaryCrossEntropy(0.1, 0.3)]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighed"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_hard_labels_are_the_same_as_indices_and_as_shares(loss: nn.Module, weights: list[float] | None) -> None:
    weighed(loss, weights)
    torch.testing.assert_close(loss(LOGITS, LABELS), loss(LOGITS, ONE_HOT))
    assert loss(LOGITS, LABELS) != loss(LOGITS, SOFT)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_class_weights_change_a_loss_and_even_ones_do_not(loss: nn.Module) -> None:
    plain = weighed(loss, None)(LOGITS, LABELS)
    assert weighed(loss)(LOGITS, LABELS) != plain
    torch.testing.assert_close(weighed(loss, [1.0] * 4)(LOGITS, LABELS), plain)


# Focal


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_of_two_classes_is_torchvision_s_sigmoid_focal_loss(gamma: float) -> None:
    scores, labels = LOGITS[:, 0], (LABELS > 0).long()
    expected = sigmoid_focal_loss(scores, labels.float(), alpha=-1, gamma=gamma, reduction="mean")
    logits = torch.stack([torch.zeros_like(scores), scores], dim=1)
    torch.testing.assert_close(Focal(gamma)(logits, labels), expected)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_without_gamma_is_cross_entropy(labels: Tensor, weights: list[float] | None, smoothing: float) -> None:
    focal, cross_entropy = weighed(Focal(0.0, smoothing), weights), weighed(CrossEntropy(smoothing), weights)
    torch.testing.assert_close(focal(LOGITS, labels), cross_entropy(LOGITS, labels))


def test_focal_by_hand() -> None:
    # p = 3/4 and 1/4: (1/4)^2 log(4/3) and (3/4)^2 log(4), class 1 counting threefold.
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    sure, unsure = math.log(4 / 3) / 16, math.log(4) * 9 / 16
    assert Focal()(logits, torch.tensor([0, 1])).item() == pytest.approx((sure + unsure) / 2)
    loss = weighed(Focal(), [1.0, 3.0])
    assert loss(logits, torch.tensor([0, 1])).item() == pytest.approx((sure + 3 * unsure) / 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_a_certain_network_has_a_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    Focal(gamma)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# One question per class


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighed"])
def test_binary_cross_entropy_is_timm_s(smoothing: float, threshold: float | None, weights: list[float] | None) -> None:
    from timm.loss import BinaryCrossEntropy as Timm  # type: ignore[attr-defined]

    weight = None if weights is None else torch.tensor(weights)
    ours = weighed(BinaryCrossEntropy(smoothing, threshold), weights)
    # timm smooths before its threshold, which undoes it, and never smooths soft labels.
    if threshold is None:
        torch.testing.assert_close(ours(LOGITS, LABELS), Timm(smoothing, weight=weight)(LOGITS, LABELS))
    if not smoothing:
        timm = Timm(0.0, target_threshold=threshold, weight=weight)
        torch.testing.assert_close(ours(LOGITS, SOFT), timm(LOGITS, SOFT))


def test_a_threshold_makes_every_large_share_a_yes() -> None:
    shares = torch.tensor([[0.6, 0.4, 0.0, 0.0]])
    expected = F.binary_cross_entropy_with_logits(LOGITS[:1], torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(BinaryCrossEntropy(target_threshold=0.3)(LOGITS[:1], shares), expected)
    assert BinaryCrossEntropy()(LOGITS[:1], shares) != expected


# Logit adjustment


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
def test_logit_adjustment_adds_the_log_prior_in_training_and_leaves_evaluation_alone(labels: Tensor) -> None:
    loss = CrossEntropy(logit_adjustment=1.5)
    correct(loss, counts=[1, 3, 4, 2])
    prior = torch.tensor([0.1, 0.3, 0.4, 0.2]).log()
    torch.testing.assert_close(loss(LOGITS, labels), CrossEntropy()(LOGITS + 1.5 * prior, labels))
    torch.testing.assert_close(loss.eval()(LOGITS, labels), CrossEntropy()(LOGITS, labels))


def test_logit_adjustment_is_off_unless_asked_for() -> None:
    loss = CrossEntropy()
    correct(loss, counts=[1, 3, 4, 2])
    assert loss.log_prior is None
    assert log_prior([1, 3]).tolist() == pytest.approx([math.log(0.25), math.log(0.75)])


# Corrections for rare classes


def correct(loss: nn.Module, *, counts: list[int], **settings: Any) -> None:
    defaults: dict[str, Any] = {"scheme": "none", "beta": 0.999, "resampled": False, "double_correction": False}
    correct_imbalance(loss, counts=counts, **defaults | settings)


ADJUSTED = CrossEntropy(logit_adjustment=1.0)


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (
            CrossEntropy(),
            {"scheme": "inverse", "resampled": True},
            "class_weights=inverse and data.sampler",
        ),
        (
            Focal(),
            {"scheme": "effective", "resampled": True},
            "class_weights=effective and data.sampler",
        ),
        (ADJUSTED, {"resampled": True}, "data.sampler and model.loss.logit_adjustment"),
        (ADJUSTED, {"scheme": "inverse"}, "model.class_weights=inverse and model.loss.logit_adjustment"),
    ],
)
def test_the_same_imbalance_is_corrected_twice_only_on_request(
    loss: nn.Module, settings: dict[str, Any], message: str
) -> None:
    # Defect 5: with weights that were always on, each balanced sampler corrected twice.
    with pytest.raises(UserError, match=f"{message} correct the same imbalance.*set model.double_correction=true"):
        correct(loss, counts=[1, 2], **settings)
    correct(loss, counts=[1, 2], **settings, double_correction=True)


@pytest.mark.parametrize("settings", [{}, {"scheme": "inverse"}, {"resampled": True}])
def test_one_correction_is_nobody_s_business(settings: dict[str, Any]) -> None:
    correct(CrossEntropy(), counts=[1, 2], **settings)
    correct(ADJUSTED, counts=[1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (
                lambda kind=kind, value=value: kind(label_smoothing=value),
                rf"label_smoothing={value} must be in \[0, 1\)",
            )
            for kind in (CrossEntropy, Focal, BinaryCrossEntropy)
            for value in (-0.1, 1.0, 1.5, math.nan)
        ),
        (lambda: CrossEntropy(logit_adjustment=-1.0), "logit_adjustment=-1.0 must not be negative"),
        (lambda: Focal(gamma=-1.0), "gamma=-1.0 must not be negative"),
        (lambda: BinaryCrossEntropy(target_threshold=1.0), r"target_threshold=1.0 must be in \[0, 1\)"),
        (lambda: correct(CrossEntropy(), counts=[1], beta=1.0), r"model.class_weights_beta=1.0 must be in \[0, 1\)"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


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


def test_effective_weights_are_those_counted_by_hand() -> None:
    # beta 1/2: 1 - 1/2, 1 - 1/4 and 1 - 1/8 images of effect, each times 2: 1, 3/2, 7/4. Inverse: 1, 2/3, 4/7.
    weights = class_weights([1, 2, 3], "effective", beta=0.5)
    assert weights is not None
    total = 1 + 2 / 3 + 4 / 7
    assert weights.tolist() == pytest.approx([3 / total, 2 / total, 12 / 7 / total])


def test_beta_goes_from_even_weights_to_inverse_ones() -> None:
    counts = [3, 40, 500]
    found = {beta: class_weights(counts, "effective", beta=beta) for beta in (0.0, 0.9, 0.999, 1 - 1e-9)}
    assert all(each is not None and each.sum().item() == pytest.approx(3) for each in found.values())
    assert found[0.0].tolist() == pytest.approx([1, 1, 1])  # type: ignore[union-attr]
    torch.testing.assert_close(found[1 - 1e-9], class_weights(counts, "inverse"), rtol=1e-4, atol=1e-6)
    spread = [float(each.max() / each.min()) for each in found.values() if each is not None]
    assert spread == sorted(spread)
    torch.testing.assert_close(class_weights(counts, "effective"), found[0.999])

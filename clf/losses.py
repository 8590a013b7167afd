"""Losses over logits, and the corrections for rare classes that reach them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clf.errors import UserError

ClassWeights = Literal["none", "inverse", "effective"]

CORRECTIONS = ("class_weights", "log_prior")
"""Buffers of a loss that come from the training labels and travel in the checkpoint."""


class Loss(nn.Module):
    """A mean over images, weighed by class where that is asked for; the base of the losses here.

    The class weights are a buffer and not an argument: they come from the training labels and travel in the checkpoint.
    The weighted mean divides by the weight of the labels, for soft labels as for class indices (where torch divides
    soft ones by N): mixing changes the targets and not the scale of the loss.

    Args:
        label_smoothing: Mass moved off the target and spread over all classes, in [0, 1).
    Raises:
        UserError: If label_smoothing is outside [0, 1).
    """

    class_weights: Tensor | None

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        _require_share("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", None)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss.

        Args:
            logits: Unnormalised scores, float (N, C).
            labels: Class indices, int64 (N,), or the share of each class, float (N, C).
        Returns:
            Loss in nats, scalar.
        """
        raise NotImplementedError

    def weigh(self, labels: Tensor) -> Tensor:
        """Compute what the mean of a batch divides by, scalar: a mean over several batches must know."""
        if self.class_weights is None:
            return torch.full((), float(len(labels)), device=labels.device)
        return self.class_weights[labels].sum() if labels.ndim == 1 else (labels * self.class_weights).sum()


class CrossEntropy(Loss):
    """Cross-entropy with label smoothing, class weights and logit adjustment.

    The log prior is a buffer, like the class weights.

    Args:
        label_smoothing: Mass moved off the target and spread over all classes, in [0, 1).
        logit_adjustment: Adds this times the log of each class's share of the training images to the logits, so that
            the network itself need not favour frequent classes; 0 is off, 1 is usual. In training only: evaluation
            scores the logits that a prediction is made of.
    Raises:
        UserError: If label_smoothing is outside [0, 1) or logit_adjustment is negative.
    Source: Szegedy et al. 2016, arXiv:1512.00567, sec. 7; Menon et al. 2020, arXiv:2007.07314, eq. 10.
    """

    log_prior: Tensor | None

    def __init__(self, label_smoothing: float = 0.1, logit_adjustment: float = 0.0) -> None:
        super().__init__(label_smoothing)
        _require_not_negative("logit_adjustment", logit_adjustment)
        self.logit_adjustment = logit_adjustment
        self.register_buffer("log_prior", None)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of logits (N, C) and labels (N,) or (N, C), scalar."""
        if self.training and self.log_prior is not None:
            logits = logits + self.logit_adjustment * self.log_prior
        weight, smoothing = self.class_weights, self.label_smoothing
        if weight is None or labels.ndim == 1:
            return functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
        total = functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing, reduction="sum")
        return total / self.weigh(labels)


class Focal(Loss):
    """Cross-entropy that counts an image the less, the surer the network already is of its label.

    The term of a class with probability p is weighed by (1 - p)^gamma. The weighted mean is `CrossEntropy`'s, which
    this is with gamma 0.

    Args:
        gamma: How fast sure predictions stop to count, at least 0; 2 is the paper's.
        label_smoothing: Mass moved off the target and spread over all classes, in [0, 1).
    Raises:
        UserError: If gamma is negative or label_smoothing is outside [0, 1).
    Source: Lin et al. 2017, arXiv:1708.02002, eq. 4, with softmax instead of sigmoid.
    """

    def __init__(self, gamma: float = 2.0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        _require_not_negative("gamma", gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of logits (N, C) and labels (N,) or (N, C), scalar."""
        targets = _shares(labels, logits)
        log_probs = logits.log_softmax(1)  # (N, C)
        # By way of expm1, for the plain difference has no digits left where p is nearly 1; never 0, where a root of it
        # would have no gradient.
        doubts = (-log_probs.expm1()).clamp_min(torch.finfo(log_probs.dtype).tiny)  # 1 - p
        terms = -smooth(targets, self.label_smoothing) * doubts**self.gamma * log_probs
        if self.class_weights is None:
            return terms.sum(1).mean()
        return (terms * self.class_weights).sum() / self.weigh(targets)


class BinaryCrossEntropy(Loss):
    """One yes-or-no question per class instead of one choice among all, as in "ResNet strikes back".

    The loss is the mean over all N x C questions, so it is smaller than cross-entropy and asks for a higher learning
    rate. Class weights multiply the questions about a class.

    Args:
        label_smoothing: Mass moved off the target and spread over all classes, in [0, 1).
        target_threshold: Turn every share of a class above this into a full yes, and every other into a no, in [0, 1);
            for mixed images, which then show all of their classes. Null takes the shares as they are.
    Raises:
        UserError: If a value is outside [0, 1).
    Source: Wightman et al. 2021, arXiv:2110.00476.
    """

    def __init__(self, label_smoothing: float = 0.0, target_threshold: float | None = None) -> None:
        super().__init__(label_smoothing)
        if target_threshold is not None:
            _require_share("target_threshold", target_threshold)
        self.target_threshold = target_threshold

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of logits (N, C) and labels (N,) or (N, C), scalar."""
        targets = _shares(labels, logits)
        if self.target_threshold is not None:
            targets = (targets > self.target_threshold).float()
        targets = smooth(targets, self.label_smoothing)
        return functional.binary_cross_entropy_with_logits(logits, targets, weight=self.class_weights)

    def weigh(self, labels: Tensor) -> Tensor:
        """Count the images: the mean is over questions, and each image asks as many."""
        return torch.full((), float(len(labels)), device=labels.device)


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Move a share of each row's mass, (N, C), off its classes and spread it over all of them."""
    return (1 - smoothing) * targets + smoothing / targets.shape[1]


def class_weights(counts: Sequence[int], scheme: ClassWeights, *, beta: float = 0.999) -> Tensor | None:
    """Weigh classes against their imbalance.

    Args:
        counts: Training images per class, length C, all positive.
        scheme: ``inverse`` weighs by 1 / count, ``effective`` by (1 - beta) / (1 - beta^count), the effective number of
            samples: more images of a class add less and less. Both are normalised to sum to C; ``none`` does not weigh.
        beta: Of ``effective``, in [0, 1): near 0 all classes weigh the same, near 1 it is ``inverse``.
    Returns:
        float32 (C,), or None where nothing is weighed.
    Source: Cui et al. 2019, arXiv:1901.05555.
    """
    if scheme == "none":
        return None
    images = torch.tensor(counts, dtype=torch.float64)
    weights = 1 / images if scheme == "inverse" else (1 - beta) / (1 - beta**images)
    return (weights * len(counts) / weights.sum()).float()


def log_prior(counts: Sequence[int]) -> Tensor:
    """Compute the log of each class's share of the training images, float32 (C,)."""
    images = torch.tensor(counts, dtype=torch.float64)
    return (images / images.sum()).log().float()


def correct_imbalance(
    loss: nn.Module,
    *,
    scheme: ClassWeights,
    beta: float,
    counts: Sequence[int],
    resampled: bool,
    double_correction: bool,
) -> None:
    """Put what corrects an imbalance into the buffers of a loss.

    Args:
        loss: Has buffers named ``class_weights`` and ``log_prior`` as far as they are asked for.
        scheme: See `class_weights`.
        beta: See `class_weights`.
        counts: Training images per class; any of the right length where the values come with a checkpoint.
        resampled: Whether training draws classes more or less often than they occur.
        double_correction: Whether more than one correction is wanted.
    Raises:
        UserError: If the loss has no place for the weights, or the same imbalance would be corrected twice.
    """
    if not 0 <= beta < 1:
        raise UserError(f"model.class_weights_beta={beta} must be in [0, 1); usual values are 0.9 to 0.9999")
    adjusts = isinstance(loss, CrossEntropy) and loss.logit_adjustment > 0
    ways = {
        f"model.class_weights={scheme}": scheme != "none",
        "data.sampler": resampled,
        "model.loss.logit_adjustment": adjusts,
    }
    if sum(ways.values()) > 1 and not double_correction:
        on = " and ".join(way for way, is_on in ways.items() if is_on)
        raise UserError(
            f"{on} correct the same imbalance more than once: keep one of them, "
            "or set model.double_correction=true if that is what you want"
        )
    if scheme != "none":
        if not hasattr(loss, "class_weights"):
            name = type(loss).__name__
            raise UserError(f"model.class_weights={scheme!r}: {name} has no buffer named class_weights to put them in")
        loss.register_buffer("class_weights", class_weights(counts, scheme, beta=beta))
    if adjusts:
        loss.register_buffer("log_prior", log_prior(counts))


def _shares(labels: Tensor, logits: Tensor) -> Tensor:
    """Turn class indices into shares of the logits' shape (N, C)."""
    if labels.ndim == 2:
        return labels
    return functional.one_hot(labels, logits.shape[1]).float()  # Half precision would round what smoothing adds.


def _require_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name}={value} must be in [0, 1)")


def _require_not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise UserError(f"{name}={value} must not be negative")

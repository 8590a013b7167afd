"""Losses over logits, and the class weights that reach them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clf.errors import UserError

ClassWeights = Literal["none", "inverse"]


class CrossEntropy(nn.Module):
    """Cross-entropy with label smoothing and optional class weights.

    The weights are a buffer and not an argument: they come from the training labels and travel in the checkpoint.

    Args:
        label_smoothing: Mass moved off the target and spread over all classes, in [0, 1).
    Raises:
        ValueError: If label_smoothing is outside [0, 1).
    Source: Szegedy et al. 2016, arXiv:1512.00567, sec. 7.
    """

    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.1) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", None)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss.

        Args:
            logits: Unnormalised scores, float (N, C).
            labels: Class indices, int64 (N,).
        Returns:
            Loss in nats, scalar; with class weights the weighted mean.
        """
        return functional.cross_entropy(logits, labels, weight=self.class_weights, label_smoothing=self.label_smoothing)


def class_weights(counts: Sequence[int], scheme: ClassWeights) -> Tensor | None:
    """Weigh classes against their imbalance.

    Args:
        counts: Training images per class, length C, all positive.
        scheme: ``inverse`` weighs by 1 / count, normalised to sum to C; ``none`` does not weigh.
    Returns:
        float32 (C,), or None where nothing is weighed.
    """
    if scheme == "none":
        return None
    inverse = 1 / torch.tensor(counts, dtype=torch.float64)
    return (inverse * len(counts) / inverse.sum()).float()

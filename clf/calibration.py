"""Whether a network is as sure as it is right: reliability, its error, and the temperature that mends it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clf.statistics import wilson_interval

Floats = NDArray[np.floating[Any]]

BINS = 15
_TEMPERATURES = (0.05, 20.0)
_MOST_VALUES = 1 << 22  # One number is fitted: more logits than this do not move it.


@dataclass(frozen=True, slots=True)
class Bin:
    """The images whose confidence lies in one range.

    Args:
        lower: Where the range begins; the value itself is in it.
        upper: Where it ends; the value itself is not in it, but for the range that is 1 alone.
        n: Its images, at least 1.
        confidence: Their mean confidence.
        accuracy: How many of them are right, in [0, 1].
        interval: 95 % interval of the accuracy, Wilson's.
    """

    lower: float
    upper: float
    n: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Turn into primitives."""
        return asdict(self)


def softmax(logits: Floats, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Turn logits (N, C) into probabilities (N, C), of ``logits / temperature``."""
    scaled = logits.astype(np.float64) / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def reliability(confidence: Floats, correct: NDArray[np.bool_], *, bins: int = BINS) -> list[Bin]:
    """Sort images by confidence into equal ranges, and compare how sure with how right.

    Args:
        confidence: Probability of the predicted class, (N,); images where it is no number are left out.
        correct: Whether the prediction is right, (N,).
        bins: How many ranges; a confidence of exactly 1 has one to itself, as in torchmetrics.
    Returns:
        The ranges that hold images, from low to high.
    """
    known = np.isfinite(confidence)
    confidence, correct = confidence[known].astype(np.float32), correct[known]
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    places = np.digitize(confidence, edges) - 1
    found = []
    for place in np.unique(places):
        inside = places == place
        n, hits = int(inside.sum()), int(correct[inside].sum())
        upper = float(edges[min(place + 1, bins)])
        mean = float(confidence[inside].mean(dtype=np.float64))
        found.append(Bin(float(edges[place]), upper, n, mean, hits / n, wilson_interval(hits, n)))
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Average the distance between confidence and accuracy over images.

    Args:
        bins: Images by confidence, from `reliability`.
    Returns:
        The error, in [0, 1]; not a number without images.
    Source: Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning".
    """
    n = sum(each.n for each in bins)
    return sum(each.n * abs(each.confidence - each.accuracy) for each in bins) / n if n else float("nan")


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Find the temperature whose softmax gives the true classes the highest likelihood.

    As if one more image were of each class alike: otherwise a network without a single mistake, on however few images,
    would be told to be certain. The mean negative log-likelihood is convex in 1 / temperature, so that its slope has
    one root.

    Args:
        logits: Unnormalised scores, (N, C); rows that are not finite are left out.
        labels: True classes, int64 (N,).
    Returns:
        The temperature, in [0.05, 20]; 1 without any usable row.
    Source: Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, sec. 4.2; the image that is
        added is Platt's 1999 "Probabilistic outputs for support vector machines", sec. 2.2, for any number of classes.
    """
    usable = np.isfinite(logits).all(axis=1)
    logits, labels = logits[usable], labels[usable]
    if not len(logits):
        return 1.0
    stride = -(-logits.size // _MOST_VALUES)
    logits, labels = logits[::stride].astype(np.float64), labels[::stride]
    n = len(labels)
    target = float((n * logits[np.arange(n), labels].mean() + logits.mean()) / (n + 1))
    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    for _ in range(30):  # Halves the interval each time: exact to nine digits.
        middle = math.sqrt(low * high)
        expected = float((softmax(logits, temperature=1 / middle) * logits).sum(axis=1).mean())
        low, high = (low, middle) if expected > target else (middle, high)
    return round(1 / math.sqrt(low * high), 6)

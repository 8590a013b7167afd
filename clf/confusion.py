"""What a confusion matrix says, class by class and on average, with intervals; pure functions of counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clf.statistics import Proportion

Counts = NDArray[np.int64]
"""Images by true class (rows) and predicted class (columns), int64 (C, C)."""

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How one class fared.

    Args:
        name: The class.
        n: Its images.
        correct: How many of them were recognised.
        predicted: Images that were taken for it, rightly or not.
    """

    name: str
    n: int
    correct: int
    predicted: int

    @property
    def accuracy(self) -> Proportion | None:
        """Share of its images that were recognised (recall); None without images."""
        return Proportion(self.correct, self.n) if self.n else None

    @property
    def precision(self) -> float | None:
        """Share of what was taken for it that is it; None where nothing was."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where the class neither occurs nor was predicted."""
        return 2 * self.correct / (self.n + self.predicted) if self.n + self.predicted else None

    def to_dict(self) -> dict[str, Any]:
        """Turn into what ``metrics.json`` says about a class."""
        known = (
            {} if self.accuracy is None else {"acc": self.accuracy.value, "acc_interval": [*self.accuracy.interval()]}
        )
        return {"name": self.name, "n": self.n, **known, "precision": self.precision, "f1": self.f1}


def count(labels: NDArray[np.int64], predicted: NDArray[np.int64], *, num_classes: int) -> Counts:
    """Count images by true and predicted class.

    Args:
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        num_classes: C.
    Returns:
        int64 (C, C); row is the true class.
    """
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def class_scores(counts: Counts, classes: Sequence[str]) -> list[ClassScore]:
    """Score every class, in the order of the classes."""
    columns = (classes, counts.sum(1), counts.diagonal(), counts.sum(0))
    return [ClassScore(name, int(n), int(hits), int(said)) for name, n, hits, said in zip(*columns, strict=True)]


def summarise(counts: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """Say what ``metrics.json`` says about a confusion matrix."""
    scores, n = class_scores(counts, classes), int(counts.sum())
    top1, lowest = Proportion(int(counts.trace()), n), worst(scores)
    return {
        "n": n,
        "acc_top1": top1.value,
        "acc_top1_interval": [*top1.interval()],
        "f1_macro": f1_macro(counts),
        "f1_macro_interval": [*f1_macro_interval(counts)],
        "worst_class": None if lowest is None else lowest.to_dict(),
        "classes": [score.to_dict() for score in scores],
    }


def worst(scores: Sequence[ClassScore]) -> ClassScore | None:
    """Find the class that may be the worst: the one whose interval begins lowest, and then ends lowest.

    So one image that was missed does not outdo forty of fifty that were. Classes without images cannot be judged.
    """
    judged = [score for score in scores if score.accuracy is not None]
    return min(judged, key=lambda score: score.accuracy.interval() if score.accuracy else (1.0, 1.0), default=None)


def f1_macro(counts: Counts) -> float:
    """Average F1 over the classes that occur or were predicted; not a number without images."""
    return float(_f1_macro(counts.diagonal(), counts.sum(1) + counts.sum(0)))


def f1_macro_interval(counts: Counts, *, confidence: float = 0.95, draws: int = BOOTSTRAP_DRAWS) -> tuple[float, float]:
    """Bracket macro F1 by the percentile bootstrap over images.

    Drawing images with replacement is drawing the cells of the matrix from a multinomial distribution. The draws are
    seeded: the same matrix has the same interval.

    Args:
        counts: The matrix.
        confidence: How often such an interval holds the true value, in (0, 1).
        draws: How often a set of images as large as this is drawn.
    Returns:
        Lower and upper end; (0, 1) without images.
    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", ch. 13.
    """
    n = int(counts.sum())
    if n == 0:
        return 0.0, 1.0
    rows, columns = np.nonzero(counts)
    cells = np.random.default_rng(0).multinomial(n, counts[rows, columns] / n, size=draws)  # (draws, cells)
    occurring = _sum_by(cells, rows, len(counts)) + _sum_by(cells, columns, len(counts))  # (draws, C)
    hits = _sum_by(cells[:, rows == columns], rows[rows == columns], len(counts))
    tail = 100 * (1 - confidence) / 2
    lower, upper = np.percentile(_f1_macro(hits, occurring), [tail, 100 - tail])
    return float(lower), float(upper)


def _f1_macro(hits: NDArray[np.int64], occurring: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average 2·hits / (true + predicted) over the last axis, where there are any."""
    known = occurring > 0
    f1 = np.divide(2 * hits, occurring, out=np.zeros(hits.shape), where=known)
    with np.errstate(invalid="ignore"):  # 0 / 0: no images, no average
        return np.asarray(f1.sum(-1) / known.sum(-1))


def _sum_by(cells: NDArray[np.int64], classes: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Sum columns (draws, cells) by class: (draws, C)."""
    sums = np.zeros((len(cells), num_classes), np.int64)
    if len(classes):
        order = np.argsort(classes, kind="stable")
        present, starts = np.unique(classes[order], return_index=True)
        sums[:, present] = np.add.reduceat(cells[:, order], starts, axis=1)
    return sums

"""What one pass over a split gave, image by image, and everything that is said about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clf import calibration, confusion, slices
from clf.data.samples import Sample
from clf.metrics import Stage
from clf.preprocess import Preprocessing

INTERVALS = {
    "confidence": 0.95,
    "accuracies": "Wilson score",
    "f1_macro": f"percentile bootstrap over images, {confusion.BOOTSTRAP_DRAWS} draws",
}
"""How the intervals of ``metrics.json`` were made."""


@dataclass
class Evaluation:
    """A scored split. Callbacks get it instead of running the network again; see `clf.callbacks.evaluating`.

    Args:
        split: ``val`` or ``test``.
        epoch: The epoch that training is in, from 0.
        best: Whether this is what the run keeps: a test, or the best validation so far.
        classes: Class names, C.
        samples: All samples of the split.
        index: Position of each scored image in `samples`, int64 (N,), rising.
        labels: True class of each scored image, int64 (N,).
        logits: Unnormalised scores, float32 (N, C).
        preprocessing: What the network was fed with.
        metrics: What was logged about the pass, without the split in front, e.g. ``acc_top1``.
        step: Optimizer steps that the weights have seen; 0 where nobody counted.
        temperature: What the logits have to be divided by for calibrated probabilities; they are not, yet. In fit,
            whoever fits it to this pass does so before anybody else looks.
        findings: What callbacks add to the split's entry in ``metrics.json``.
    """

    split: Stage
    epoch: int
    best: bool
    classes: list[str]
    samples: Sequence[Sample]
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    preprocessing: Preprocessing
    metrics: Mapping[str, float]
    step: int = 0
    temperature: float = 1.0
    findings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the scored images."""
        return len(self.index)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted class of each image, int64 (N,)."""
        return np.asarray(self.logits.argmax(axis=1))

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is right, (N,)."""
        return np.asarray(self.predicted == self.labels)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Calibrated probability of each predicted class, (N,); not a number where a logit is none."""
        return self._confidence(self.temperature)

    def _confidence(self, temperature: float) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return calibration.softmax(self.logits, temperature=temperature)[np.arange(len(self)), self.predicted]

    @cached_property
    def counts(self) -> confusion.Counts:
        """Confusion matrix, int64 (C, C); row is the true class."""
        return confusion.count(self.labels, self.predicted, num_classes=len(self.classes))

    @cached_property
    def class_scores(self) -> list[confusion.ClassScore]:
        """How every class fared."""
        return confusion.class_scores(self.counts, self.classes)

    @cached_property
    def slices(self) -> list[slices.Slice]:
        """Accuracy by metadata."""
        return slices.slices(self.correct.tolist(), [self.samples[at].metadata for at in self.index])

    def reliability(self, *, temperature: float = 1.0) -> list[calibration.Bin]:
        """Compare how sure with how right, where logits are divided by a temperature."""
        return calibration.reliability(self._confidence(temperature), self.correct)

    def summary(self) -> dict[str, Any]:
        """Say what ``metrics.json`` says about the split."""
        logged = {name: value for name, value in self.metrics.items() if not name.startswith("acc_class_")}
        lowest = slices.worst(self.slices)
        return {
            **confusion.summarise(self.counts, self.classes),
            **logged,
            "intervals": INTERVALS,
            "slices": [found.to_dict() for found in self.slices],
            "worst_slice": None if lowest is None else lowest.to_dict(),
            "epoch": self.epoch,
            "step": self.step,
            **self.findings,
        }

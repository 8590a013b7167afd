"""Which training samples an epoch shows: all of them once, or as a sampler draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clf.data.samplers import Sampler
from clf.data.sampling import epoch_order


@dataclass(frozen=True)
class Drawing:
    """What epochs are made of, as a function of their number.

    Args:
        labels: Class index of each training sample, int64 (N,).
        classes: Class names.
        sampler: Draws them; None shows each once.
        seed: Decides the order.
    """

    labels: NDArray[np.int64]
    classes: Sequence[str]
    sampler: Sampler | None
    seed: int

    @property
    def count(self) -> int:
        """Samples that an epoch shows."""
        return len(self.labels) if self.sampler is None else self.sampler.count(self.labels)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Indices of the samples that an epoch shows, int64 (N,)."""
        if self.sampler is None:
            return epoch_order(len(self.labels), seed=self.seed, epoch=epoch)
        return self.sampler.order(self.labels, classes=self.classes, seed=self.seed, epoch=epoch)

    def class_draws(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Count the samples of each class that an epoch shows, (C,), and on average, (C,)."""
        drawn = np.bincount(self.labels[self.order(epoch)], minlength=len(self.classes))
        if self.sampler is None:
            return drawn, np.bincount(self.labels, minlength=len(self.classes)).astype(np.float64)
        return drawn, self.sampler.expected(self.labels, classes=self.classes)

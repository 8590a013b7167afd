"""Which samples an epoch shows, and how often: pure functions of labels, seed and epoch."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clf.data.sampling import random_bits
from clf.errors import UserError, did_you_mean

Labels = NDArray[np.int64]
Weights = NDArray[np.float64]


class Sampler:
    """Draws an epoch's samples by weight; subclass it and override `sample_weights` for weights of your own.

    Args:
        replacement: Whether a sample may come several times in an epoch, as rare classes then do. Without, light ones
            are left out, as far as ``num_samples`` allows; it must then be given.
        num_samples: Samples in an epoch, over all processes; null takes as many as there are.
    Raises:
        UserError: If num_samples is not positive.
    """

    def __init__(self, replacement: bool = True, num_samples: int | None = None) -> None:
        if num_samples is not None and num_samples < 1:
            raise UserError(f"{self._name}: num_samples={num_samples} must be 1 or more")
        if not replacement and num_samples is None:
            raise UserError(
                f"{self._name}: without replacement and num_samples an epoch is all samples, whatever their weights; "
                "give num_samples, or replacement: true"
            )
        self.replacement = replacement
        self.num_samples = num_samples

    @property
    def _name(self) -> str:
        return f"data.sampler ({type(self).__name__})"

    def sample_weights(self, labels: Labels, *, classes: Sequence[str]) -> Weights:
        """Weigh the samples.

        Args:
            labels: Class index of each sample, int64 (N,).
            classes: Class names.
        Returns:
            How likely each is drawn in relation to the others, float64 (N,), none negative.
        """
        raise NotImplementedError

    def count(self, labels: Labels) -> int:
        """Count the samples of an epoch."""
        return len(labels) if self.num_samples is None else self.num_samples

    def order(self, labels: Labels, *, classes: Sequence[str], seed: int, epoch: int) -> NDArray[np.int64]:
        """Draw an epoch.

        Args:
            labels: Class index of each sample, int64 (N,).
            classes: Class names.
            seed: The run's seed.
            epoch: Number of the epoch, from 0.
        Returns:
            Indices of samples in the order in which they come, int64 (count,).
        Raises:
            UserError: If the weights cannot be drawn by, or there are fewer samples than an epoch without replacement
                needs.
        """
        weights = self._checked_weights(labels, classes=classes)
        count = self.count(labels)
        if self.replacement:
            return _draw_with_replacement(weights, random_bits(count, seed=seed, epoch=epoch))
        bits = random_bits(len(labels) + count, seed=seed, epoch=epoch)
        drawn = _draw_without_replacement(weights, bits[: len(labels)])[:count]
        return drawn[np.argsort(bits[len(labels) :], kind="stable")]  # The heavy ones were drawn first.

    def expected(self, labels: Labels, *, classes: Sequence[str]) -> NDArray[np.float64]:
        """Say how often an epoch shows each class on average.

        With replacement exactly: the class's share of all weights. Without, to well under one sample in a hundred: a
        sample is in if its clock (see `_draw_without_replacement`) rings before the time by which as many have rung,
        on average, as an epoch has.

        Args:
            labels: Class index of each sample, int64 (N,).
            classes: Class names.
        Returns:
            Samples of each class, (C,); they add up to `count`.
        Raises:
            UserError: If the weights cannot be drawn by.
        """
        weights = self._checked_weights(labels, classes=classes)
        count = self.count(labels)
        if self.replacement:
            likely = count * weights / weights.sum()
        elif count == np.count_nonzero(weights):
            likely = (weights > 0).astype(np.float64)
        else:
            likely = -np.expm1(-weights * _time_until(count, weights))
        return np.bincount(labels, weights=likely, minlength=len(classes)).astype(np.float64)

    def _checked_weights(self, labels: Labels, *, classes: Sequence[str]) -> Weights:
        weights = np.asarray(self.sample_weights(labels, classes=classes), np.float64)
        if weights.shape != labels.shape or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise UserError(
                f"{self._name}: the weights must be numbers from 0 upwards, not all 0, one for each of {len(labels)} "
                "samples"
            )
        drawable = np.count_nonzero(weights)
        if not self.replacement and self.count(labels) > drawable:
            raise UserError(
                f"{self._name}: num_samples={self.count(labels)} is more than the {drawable} samples that can be drawn "
                "without replacement; choose fewer, or replacement: true"
            )
        return weights


class Balanced(Sampler):
    """Draws every class equally often, however many samples it has."""

    def sample_weights(self, labels: Labels, *, classes: Sequence[str]) -> Weights:
        """Weigh by 1 / (samples of the class)."""
        return 1 / np.bincount(labels, minlength=len(classes))[labels]


class Weighted(Sampler):
    """Draws samples of some classes more often, or less, than others.

    Args:
        weights: Weight of a sample by the name of its class, in quotes where it is a number; unlisted classes have 1.
        replacement: Whether a sample may come several times in an epoch.
        num_samples: Samples in an epoch, over all processes; null takes as many as there are.
    Raises:
        UserError: If a weight is negative, or names no class.
    """

    def __init__(self, weights: Mapping[str, float], replacement: bool = True, num_samples: int | None = None) -> None:
        super().__init__(replacement, num_samples)
        for name, weight in weights.items():
            if not 0 <= weight < np.inf:
                raise UserError(f"{self._name}: weights[{name!r}]={weight} must be a number from 0 upwards")
        self.weights = dict(weights)

    def sample_weights(self, labels: Labels, *, classes: Sequence[str]) -> Weights:
        """Look the weights of the classes up."""
        for name in self.weights:
            if name not in classes:
                raise UserError(f"{self._name}: weights names {name!r}, which is no class{did_you_mean(name, classes)}")
        return np.array([self.weights.get(name, 1.0) for name in classes])[labels]


def _draw_with_replacement(weights: Weights, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Draw as often as there are bits, by inverting the cumulative weights."""
    drawn = np.searchsorted(np.cumsum(weights) / weights.sum(), _unit(bits), side="right")
    drawn[drawn == len(weights)] = np.flatnonzero(weights)[-1]  # The last sum may be a rounding error below 1.
    return drawn


def _draw_without_replacement(weights: Weights, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Order all samples as if one after the other were drawn by weight from those that are left.

    Source: Efraimidis & Spirakis 2006, doi:10.1016/j.ipl.2005.11.003: the exponential clocks that ring first.
    """
    clocks = np.full(len(weights), np.inf)
    np.divide(-np.log1p(-_unit(bits)), weights, out=clocks, where=weights > 0)
    return np.argsort(clocks, kind="stable")


def _time_until(count: int, weights: Weights) -> float:
    """Find the time by which so many of the clocks have rung on average; fewer than there are."""
    low, high = 0.0, 1.0
    while -np.expm1(-weights * high).sum() < count:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if -np.expm1(-weights * middle).sum() < count else (low, middle)
    return high


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map random bits to floats in [0, 1), by the 53 that a float holds."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose_sampler(
    sampler: Literal["none", "balanced", "weighted"] | Sampler, weights: dict[str, float] | None
) -> Sampler | None:
    """Find the sampler that ``data.sampler`` and ``data.sampler_weights`` mean; None for the plain shuffle.

    Raises:
        UserError: If one of the two misses the other.
    """
    if sampler == "weighted":
        if not weights:
            raise UserError(
                'data.sampler=weighted needs data.sampler_weights, e.g. {"00": 2.0} to draw class 00 twice as often'
            )
        return Weighted(weights)
    if weights is not None:
        raise UserError("data.sampler_weights is for data.sampler=weighted; set that, or remove the weights")
    if isinstance(sampler, Sampler):
        return sampler
    return Balanced() if sampler == "balanced" else None

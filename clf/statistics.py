"""How sure a number is: intervals for what is counted on a finite set of images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, pi, sqrt
from statistics import NormalDist, fmean, stdev

import numpy as np

NOISE = 0.05
"""A difference that chance alone makes more often than this is called noise."""


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Bracket a proportion by Wilson's score interval.

    It never leaves [0, 1] and stays honest for few images and for proportions near 0 or 1, where the textbook
    interval (p ± z·sqrt(p(1-p)/n)) shrinks to nothing. Without any trial everything is possible: (0, 1).

    Args:
        successes: How often it happened, in [0, n].
        n: How often it was tried.
        confidence: How often such an interval holds the true proportion, in (0, 1).
    Returns:
        Lower and upper end.
    Raises:
        AssertionError: If an argument is outside its range.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22(158);
        recommended by Brown, Cai and DasGupta 2001, Statistical Science 16(2).
    """
    assert 0 <= successes <= n, f"{successes} successes of {n}"
    assert 0 < confidence < 1, f"confidence={confidence}"
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    proportion = successes / n
    centre = proportion + z**2 / (2 * n)
    reach = z * sqrt(proportion * (1 - proportion) / n + (z / (2 * n)) ** 2)
    scale = 1 + z**2 / n
    # The ends are exactly 0 and 1 there; rounding would leave 1e-17 or 0.9999999999999999.
    lower = 0.0 if successes == 0 else (centre - reach) / scale
    upper = 1.0 if successes == n else (centre + reach) / scale
    return lower, upper


def mcnemar_p(gained: int, lost: int) -> float:
    """Test whether two classifiers differ, from the images that exactly one of them gets right.

    Args:
        gained: Images that the second alone gets right.
        lost: Images that the first alone gets right.
    Returns:
        Two-sided exact p: how likely a split as uneven as this, or more so, is by chance when both are equally good.
    Source: McNemar 1947, Psychometrika 12(2), in its exact binomial form.
    """
    n, fewer = gained + lost, min(gained, lost)
    tail = sum(comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))  # exact, and no float is too small for 2**n


def paired_interval(
    *, both: int, gained: int, lost: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Bracket the difference of two proportions that were counted on the same images, by Newcombe's score method.

    The second one's share less the first one's. Wilson's intervals of both shares are squared and added, less what
    the two have in common; so it stays in [-1, 1], and is no point even where no image tells the two apart.

    Args:
        both: Images that both get right.
        gained: Images that the second alone gets right.
        lost: Images that the first alone gets right.
        neither: Images that none gets right.
        confidence: How often such an interval holds the true difference, in (0, 1).
    Returns:
        Lower and upper end; (-1, 1) without images.
    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
        paired data", Statistics in Medicine 17(22), method 10.
    """
    n = both + gained + lost + neither
    if n == 0:
        return -1.0, 1.0
    first, second = (both + lost) / n, (both + gained) / n
    low1, high1 = wilson_interval(both + lost, n, confidence=confidence)
    low2, high2 = wilson_interval(both + gained, n, confidence=confidence)
    product: float = both * neither - gained * lost
    if product > 0:  # The continuity correction that makes it method 10.
        product = max(product - n / 2, 0.0)
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    phi = product / sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        return sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    difference = (gained - lost) / n
    return difference - reach(second - low2, high1 - first), difference + reach(high2 - second, first - low1)


def sign_flip_p(differences: Sequence[int]) -> float:
    """Test whether paired differences are zero on average: how often random signs give a sum as far from zero.

    If two sides are equally good, each image's difference could as well have the other sign. All sign patterns are
    counted, none drawn: the sum's distribution is the product of its characteristic function, a cosine an image,
    turned back by a Fourier transform. With differences of -1, 0 and 1 it is McNemar's exact test.

    Args:
        differences: Of each image, as whole numbers of a common unit.
    Returns:
        Two-sided p, exact to about 1e-12.
    Source: Fisher 1935, "The design of experiments", sec. 21; Pesarin and Salmaso 2010, "Permutation tests for
        complex data", sec. 1.9.
    """
    sizes = Counter(abs(int(difference)) for difference in differences if difference)
    reach = sum(size * count for size, count in sizes.items())
    angles = 2 * pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    transform = np.ones(len(angles))
    for size, count in sizes.items():
        transform *= np.cos(size * angles) ** count
    mass = np.fft.ifft(transform).real  # of the sums 0, 1, … reach, -reach, … -1
    sums = np.minimum(np.arange(len(mass)), len(mass) - np.arange(len(mass)))
    p = float(mass[sums >= abs(int(sum(differences)))].sum())
    # Two patterns at least are as extreme: the observed one and its mirror image. Rounding must not go below.
    return min(1.0, max(p, 2.0 ** (1 - sizes.total())))


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Bracket the mean of many values by the normal approximation: mean ± z·sd/√n.

    Args:
        values: What was measured, N.
        confidence: How often such an interval holds the true mean, in (0, 1).
    Returns:
        Lower and upper end; None where nothing varies.
    """
    spread = stdev(values) if len(values) > 1 else 0.0
    if not spread:
        return None
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * spread / sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def holm(ps: Sequence[float]) -> list[float]:
    """Correct several p for being several, so that none of them is small by chance alone more often than it says.

    Args:
        ps: One of each comparison, in [0, 1].
    Returns:
        The corrected ones, in the same order; none is smaller than it was.
    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
    """
    corrected, highest = [1.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda at: ps[at])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[at]))
        corrected[at] = highest
    return corrected


def p_text(p: float) -> str:
    """Write a p: ``p = 0.013``, never ``p = 0.000``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share that was counted, e.g. top-1 accuracy; prints with its n and its interval.

    Args:
        successes: How often it happened.
        n: How often it was tried, at least 1.

    >>> print(Proportion(228, 240))
    95.00 % (n = 240, 95 % interval 91.47–97.12 %)
    """

    successes: int
    n: int

    @property
    def value(self) -> float:
        """The share itself, in [0, 1]."""
        return self.successes / self.n

    def interval(self, *, confidence: float = 0.95) -> tuple[float, float]:
        """Bracket the share; see `wilson_interval`."""
        return wilson_interval(self.successes, self.n, confidence=confidence)

    def __str__(self) -> str:
        percent, lower, upper = (f"{100 * share:.2f}" for share in (self.value, *self.interval()))
        return f"{percent} % (n = {self.n}, 95 % interval {lower}–{upper} %)"

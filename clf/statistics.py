"""How sure a number is: intervals for what is counted on a finite set of images."""

from dataclasses import dataclass
from fractions import Fraction
from math import comb, sqrt
from statistics import NormalDist


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

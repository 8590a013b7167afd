"""Intervals agree with published software and with their own definition."""

from math import sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf.statistics import Proportion, mcnemar_p, wilson_interval

# statsmodels 0.14: proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
STATSMODELS = [
    (5, 10, 0.95, 0.236593090512564, 0.7634069094874361),
    (0, 10, 0.95, 0.0, 0.2775327998628892),
    (10, 10, 0.95, 0.7224672001371107, 1.0),
    (1, 1, 0.95, 0.20654931437723745, 1.0),
    (228, 240, 0.95, 0.9146517753073891, 0.9711696967452079),
    (837, 1000, 0.99, 0.8047093070522185, 0.8648482478028853),
    (3, 7, 0.5, 0.3106034777497514, 0.5552572159915451),
    (999_999, 1_000_000, 0.95, 0.9999943350881957, 0.9999998234754233),
]


@pytest.mark.parametrize(("successes", "n", "confidence", "lower", "upper"), STATSMODELS)
def test_interval_agrees_with_statsmodels(
    successes: int, n: int, confidence: float, lower: float, upper: float
) -> None:
    assert wilson_interval(successes, n, confidence=confidence) == pytest.approx((lower, upper), abs=1e-12)


@given(n=st.integers(1, 10**6), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_at_both_ends_the_observation_is_just_as_far_off_as_the_confidence_allows(
    n: int, share: float, confidence: float
) -> None:
    successes = round(share * n)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for end in wilson_interval(successes, n, confidence=confidence):
        distance = abs(successes / n - end)
        # At the exact ends 0 and 1 both sides vanish.
        assert distance == pytest.approx(z * sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9)


@given(n=st.integers(1, 10**6), share=st.floats(0, 1))
def test_interval_holds_the_observed_share_and_stays_between_0_and_1(n: int, share: float) -> None:
    successes = round(share * n)
    lower, upper = wilson_interval(successes, n)
    assert 0 <= lower <= successes / n <= upper <= 1
    assert (lower == 0) == (successes == 0)
    assert (upper == 1) == (successes == n)


def test_without_any_image_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0)])
def test_impossible_counts_and_confidences_are_refused(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(AssertionError):
        wilson_interval(successes, n, confidence=confidence)


def test_a_proportion_prints_with_its_n_and_its_interval() -> None:
    assert str(Proportion(228, 240)) == "95.00 % (n = 240, 95 % interval 91.47–97.12 %)"
    assert str(Proportion(3, 3)) == "100.00 % (n = 3, 95 % interval 43.85–100.00 %)"


def test_a_proportion_of_another_confidence_has_another_interval() -> None:
    assert Proportion(837, 1000).interval(confidence=0.99) == pytest.approx((0.804709, 0.864848), abs=1e-6)
    assert Proportion(837, 1000).value == 0.837


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [  # scipy 1.17: binomtest(gained, gained + lost).pvalue
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (8, 2, 0.109375),
        (15, 4, 0.0192108154296875),
        (121, 59, 4.4344492637551645e-06),
        (600, 500, 0.0028195449914364284),
    ],
)
def test_a_difference_of_two_classifiers_is_as_likely_as_the_binomial_test_says(
    gained: int, lost: int, p: float
) -> None:
    assert mcnemar_p(gained, lost) == pytest.approx(p, rel=1e-9)
    assert mcnemar_p(lost, gained) == mcnemar_p(gained, lost)

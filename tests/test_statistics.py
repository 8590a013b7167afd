"""Intervals agree with published software and with their own definition."""

from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from clf.statistics import (
    Proportion,
    holm,
    mcnemar_p,
    mean_interval,
    p_text,
    paired_interval,
    sign_flip_p,
    wilson_interval,
)

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


@pytest.mark.parametrize(
    ("both", "lost", "gained", "neither", "lower", "upper"),
    [  # first minus second there, so that what we call lost counts for it
        (36, 12, 2, 0, 0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17, table II, method 10
        (18, 12, 2, 18, 0.0562, 0.3290),  # the same
        (53, 0, 0, 1, -0.0729, 0.0729),  # the same
        (59, 6, 16, 80, -0.1186, -0.0046),  # Fagerland, Lydersen and Laake 2017, chapter 8: consolidation therapy
        (1, 1, 7, 12, -0.507, -0.026),  # the same: airway hyper-responsiveness
    ],
)
def test_the_interval_of_a_paired_difference_is_the_published_one(
    both: int, lost: int, gained: int, neither: int, lower: float, upper: float
) -> None:
    digits = 5e-5 if abs(lower) != 0.507 else 5e-4
    ends = paired_interval(both=both, gained=lost, lost=gained, neither=neither)
    assert ends == pytest.approx((lower, upper), abs=digits)
    mirrored = paired_interval(both=both, gained=gained, lost=lost, neither=neither)
    assert mirrored == pytest.approx((-upper, -lower), abs=digits)


@given(*[st.integers(0, 300)] * 4)
def test_the_interval_of_a_paired_difference_holds_it_and_is_never_a_point(
    both: int, gained: int, lost: int, neither: int
) -> None:
    n = both + gained + lost + neither
    lower, upper = paired_interval(both=both, gained=gained, lost=lost, neither=neither)
    assert -1 - 1e-12 <= lower < upper <= 1 + 1e-12
    assert n == 0 or lower <= (gained - lost) / n <= upper
    narrower = paired_interval(both=both, gained=gained, lost=lost, neither=neither, confidence=0.8)
    assert n == 0 or narrower[1] - narrower[0] < upper - lower


@pytest.mark.parametrize("cells", [(0.8, 0.1, 0.05, 0.05), (0.45, 0.2, 0.05, 0.3), (0.9, 0.04, 0.04, 0.02)])
def test_the_interval_of_a_paired_difference_holds_the_true_one_as_often_as_it_says(cells: tuple[float, ...]) -> None:
    n, held = 30, 0.0
    log = [np.log(share) for share in cells]
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    for both in range(n + 1):
        for gained in range(n + 1 - both):
            for lost in range(n + 1 - both - gained):
                counts = (both, gained, lost, n - both - gained - lost)
                lower, upper = paired_interval(both=both, gained=gained, lost=lost, neither=counts[3])
                if lower <= cells[1] - cells[2] <= upper:
                    chance = factorials[n] + sum(k * p - factorials[k] for k, p in zip(counts, log, strict=True))
                    held += float(np.exp(chance))
    assert 0.93 < held < 0.998  # where few images differ, the counts are too coarse to come nearer


@settings(max_examples=50)
@given(st.lists(st.integers(-6, 6), min_size=2, max_size=11))
def test_signs_are_flipped_as_scipy_flips_them(differences: list[int]) -> None:
    values = np.array(differences)
    mirrored = stats.permutation_test(
        (values, np.zeros_like(values)),
        lambda one, other, axis: np.sum(one - other, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert sign_flip_p(differences) == pytest.approx(min(1.0, mirrored.pvalue), abs=1e-12)


@given(st.integers(0, 400), st.integers(0, 400))
def test_flipping_the_signs_of_single_images_is_mcnemar_s_test(gained: int, lost: int) -> None:
    assert sign_flip_p([1] * gained + [-1] * lost) == pytest.approx(mcnemar_p(gained, lost), abs=1e-12)
    assert sign_flip_p([3] * gained + [-3] * lost) == pytest.approx(mcnemar_p(gained, lost), abs=1e-12)


def test_a_p_of_many_images_is_never_zero() -> None:
    assert sign_flip_p([2] * 60 + [3] * 900) >= 2.0**-959
    assert sign_flip_p([]) == 1
    assert sign_flip_p([0, 0]) == 1


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_the_interval_of_a_mean_is_that_of_statsmodels(values: list[float]) -> None:
    ends = mean_interval(values)
    if ends is not None:
        assert ends == pytest.approx(DescrStatsW(values).zconfint_mean(alpha=0.05), abs=1e-9)


def test_the_mean_of_what_does_not_vary_has_no_interval() -> None:
    assert mean_interval([]) is None
    assert mean_interval([0.5]) is None
    assert mean_interval([0.5, 0.5, 0.5]) is None


@pytest.mark.parametrize(
    "ps", [[0.04], [0.03, 0.01, 0.04], [0.01, 0.011, 0.4, 0.01], [0.0, 1.0, 0.6], [0.5, 0.5, 0.02]]
)
def test_several_p_are_corrected_as_statsmodels_corrects_them(ps: list[float]) -> None:
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1].tolist(), rel=1e-12)


def test_a_p_is_never_printed_as_zero() -> None:
    assert [p_text(p) for p in (0.0, 0.0009, 0.001, 0.0128, 0.6, 1.0)] == [
        *("p < 0.001", "p < 0.001", "p = 0.001", "p = 0.013", "p = 0.600", "p = 1.000"),
    ]

"""An epoch shows what the weights say, the same on every machine, and a mistake is named before training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import WeightedRandomSampler

from clf.data.samplers import Balanced, Sampler, Weighted
from clf.errors import UserError

CLASSES = ["0", "00", "1"]
LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def order(sampler: Sampler, *, seed: int = 1, epoch: int = 0, labels: NDArray[np.int64] = LABELS) -> NDArray[np.int64]:
    return sampler.order(labels, classes=CLASSES, seed=seed, epoch=epoch)


def class_shares(sampler: Sampler, *, epochs: int = 100) -> NDArray[np.float64]:
    drawn = np.concatenate([order(sampler, epoch=epoch) for epoch in range(epochs)])
    return np.bincount(LABELS[drawn], minlength=3) / len(drawn)


def reference_shares(weights: NDArray[np.float64], *, count: int, replacement: bool) -> NDArray[np.float64]:
    """Shares of the classes that torch's own sampler draws."""
    generator = torch.Generator().manual_seed(0)
    sampler = WeightedRandomSampler(weights.tolist(), count, replacement, generator=generator)
    drawn = np.concatenate([list(sampler) for _ in range(300)])
    return np.bincount(LABELS[drawn], minlength=3) / len(drawn)


def test_balanced_draws_all_classes_equally_often() -> None:
    np.testing.assert_allclose(class_shares(Balanced()), 1 / 3, atol=0.02)


def test_weighted_draws_as_the_names_say_and_unlisted_classes_weigh_one() -> None:
    shares = class_shares(Weighted({"00": 4, "1": 0}))
    np.testing.assert_allclose(shares, [60 / 180, 120 / 180, 0], atol=0.02)


@pytest.mark.parametrize(("replacement", "count"), [(True, 100), (True, 20), (False, 20)])
def test_classes_are_drawn_as_often_as_by_torchs_sampler(replacement: bool, count: int) -> None:
    sampler = Weighted({"0": 0.5, "1": 5}, replacement=replacement, num_samples=count)
    weights = sampler.sample_weights(LABELS, classes=CLASSES)
    expected = reference_shares(weights, count=count, replacement=replacement)
    np.testing.assert_allclose(class_shares(sampler, epochs=300), expected, atol=0.02)


def test_samples_of_a_class_are_equally_likely() -> None:
    drawn = np.concatenate([order(Balanced(), epoch=epoch) for epoch in range(600)])
    counts = np.bincount(drawn, minlength=100)
    assert (abs(counts[:60] - 20000 / 60) < 5 * (20000 / 60) ** 0.5).all()
    assert (abs(counts[90:] - 2000) < 5 * 2000**0.5).all()


def test_without_replacement_no_sample_comes_twice() -> None:
    for epoch in range(5):
        drawn = order(Balanced(replacement=False, num_samples=40), epoch=epoch)
        assert len(set(drawn.tolist())) == 40
    assert sorted(order(Balanced(replacement=False, num_samples=100)).tolist()) == list(range(100))


def test_without_replacement_rare_classes_are_spread_over_the_epoch() -> None:
    """They are drawn first, and must not be trained on first."""
    places = [np.flatnonzero(LABELS[order(Balanced(False, num_samples=100), epoch=epoch)] == 2) for epoch in range(50)]
    assert 45 < np.mean(places) < 55


def test_with_replacement_rare_samples_come_often() -> None:
    assert len(set(order(Balanced()).tolist())) < 90


@pytest.mark.parametrize("count", [1, 40, 100, 250])
def test_an_epoch_has_as_many_samples_as_asked_for(count: int) -> None:
    sampler = Balanced(num_samples=count)
    assert len(order(sampler)) == sampler.count(LABELS) == count
    assert len(order(Balanced())) == Balanced().count(LABELS) == 100


@pytest.mark.parametrize("replacement", [True, False])
def test_epochs_and_seeds_draw_differently_and_always_the_same(replacement: bool) -> None:
    sampler = Balanced(replacement, num_samples=100)
    draws = [order(sampler, seed=seed, epoch=epoch).tolist() for seed, epoch in [(1, 0), (1, 1), (2, 0)]]
    assert len({tuple(draw) for draw in draws}) == 3
    assert order(Balanced(replacement, num_samples=100), seed=1, epoch=1).tolist() == draws[1]


def test_the_draw_never_changes() -> None:
    # A run that is resumed after an upgrade has to meet the same batches.
    assert order(Balanced(num_samples=6)).tolist() == [76, 98, 25, 98, 56, 68]
    assert order(Balanced(replacement=False, num_samples=6)).tolist() == [85, 61, 96, 93, 9, 75]


def test_a_class_of_weight_zero_is_never_drawn() -> None:
    for replacement in (True, False):
        sampler = Weighted({"0": 0, "1": 0}, replacement=replacement, num_samples=30)
        assert set(LABELS[order(sampler)]) == {1}


class ByIndex(Sampler):
    """A sampler of a user's own."""

    def sample_weights(self, labels: NDArray[np.int64], *, classes: Any) -> NDArray[np.float64]:
        return np.where(np.arange(len(labels)) < 3, 1.0, 0.0)


class Wrong(Sampler):
    """Returns what it was told to."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = weights

    def sample_weights(self, labels: NDArray[np.int64], *, classes: Any) -> NDArray[np.float64]:
        return np.array(self.weights)


def test_a_subclass_needs_nothing_but_weights() -> None:
    assert set(order(ByIndex()).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("weights", [[1.0], [0.0] * 100, [-1.0] + [1.0] * 99, [float("nan")] * 100])
def test_weights_that_cannot_be_drawn_by_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match=r"data.sampler \(Wrong\): the weights must be .* one for each of 100 samples"):
        order(Wrong(weights))


def test_more_samples_than_there_are_need_replacement() -> None:
    with pytest.raises(UserError, match=r"num_samples=101 is more than the 100 .* replacement: true"):
        order(Balanced(replacement=False, num_samples=101))
    with pytest.raises(UserError, match=r"num_samples=100 is more than the 40"):
        order(Weighted({"0": 0}, replacement=False, num_samples=100))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"1": -1}}, r"weights\['1'\]=-1 must be a number from 0 upwards"),
        ({"weights": {"1": float("inf")}}, r"weights\['1'\]=inf"),
        ({"weights": {}, "num_samples": 0}, "num_samples=0 must be 1 or more"),
        ({"weights": {}, "replacement": False}, "without replacement and num_samples an epoch is all samples"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Weighted(**settings)


def test_a_weight_for_no_class_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"weights names '000', which is no class; did you mean '00'"):
        order(Weighted({"000": 2}))


class Own(Sampler):
    """A user's own: heavier and heavier."""

    def sample_weights(self, labels: NDArray[np.int64], *, classes: Sequence[str]) -> NDArray[np.float64]:
        return np.linspace(0.1, 3.0, len(labels))


@pytest.mark.parametrize(
    "sampler",
    [
        Balanced(),
        Balanced(num_samples=70),
        Weighted({"00": 4, "1": 0}),
        Weighted({"00": 4, "1": 20}, replacement=False, num_samples=30),
        Weighted({"00": 4, "1": 0}, replacement=False, num_samples=90),
        Own(replacement=False, num_samples=50),
        Own(),
    ],
    ids=["balanced", "fewer", "weighted", "without-replacement", "all-that-weigh", "own", "own-with-replacement"],
)
def test_what_is_expected_is_what_many_epochs_show_on_average(sampler: Sampler) -> None:
    drawn = [np.bincount(LABELS[order(sampler, epoch=epoch)], minlength=3) for epoch in range(400)]
    expected = sampler.expected(LABELS, classes=CLASSES)
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected, atol=0.8)
    assert expected.sum() == pytest.approx(sampler.count(LABELS))

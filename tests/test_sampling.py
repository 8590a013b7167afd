"""Epochs dealt into batches: the same for every worker count, shared fairly among ranks, and resumable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf.data.sampling import (
    Key,
    count_eval_batches,
    count_repeats,
    count_train_batches,
    epoch_order,
    eval_batches,
    train_batches,
)


def indices(batches: list[list[Key]]) -> list[int]:
    return [key.index for batch in batches for key in batch]


def deal(
    count: int, *, batch_size: int = 4, rank: int = 0, world_size: int = 1, skip: int = 0, epoch: int = 0
) -> list[list[Key]]:
    place = {"rank": rank, "world_size": world_size, "skip": skip}
    return list(train_batches(epoch_order(count, seed=1, epoch=epoch), batch_size=batch_size, epoch=epoch, **place))


def test_order_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    orders = [epoch_order(50, seed=seed, epoch=epoch).tolist() for seed, epoch in [(1, 0), (1, 1), (2, 0), (0, 1)]]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_order_never_changes() -> None:
    # A run that is resumed after an upgrade has to meet the same batches.
    assert epoch_order(8, seed=42, epoch=3).tolist() == [0, 6, 5, 1, 3, 7, 4, 2]


def test_every_position_is_equally_likely() -> None:
    seen = np.stack([epoch_order(4, seed=7, epoch=epoch) for epoch in range(2000)])
    counts = np.stack([np.bincount(column, minlength=4) for column in seen.T])
    assert (abs(counts - 500) < 100).all()  # five standard deviations


def test_epoch_holds_every_sample_once_in_batches_of_the_size() -> None:
    batches = deal(10)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(indices(batches)) == list(range(10))


def test_keys_carry_the_epoch_so_that_waiting_workers_know_it() -> None:
    assert {key.epoch for batch in deal(10, epoch=5) for key in batch} == {5}


def test_single_sample_is_no_batch_and_another_one_is_left_out_each_time() -> None:
    assert [len(batch) for batch in deal(9)] == [4, 4]
    left_out = {epoch: set(range(9)) - set(indices(deal(9, epoch=epoch))) for epoch in range(8)}
    assert len({index for absent in left_out.values() for index in absent}) > 1


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(1, 4, [1]), (3, 4, [3]), (3, 1, [1, 1, 1]), (5, 5, [5])])
def test_small_sets_and_small_batches_are_trained_on_as_they_are(count: int, batch_size: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in deal(count, batch_size=batch_size)] == sizes


@pytest.mark.parametrize("skip", range(4))
def test_skipping_leaves_the_tail_of_the_same_epoch(skip: int) -> None:
    assert deal(10, skip=skip) == deal(10)[skip:]


@given(count=st.integers(1, 60), batch_size=st.integers(1, 9), world_size=st.integers(1, 5), epoch=st.integers(0, 3))
def test_ranks_share_an_epoch_fairly(count: int, batch_size: int, world_size: int, epoch: int) -> None:
    size = {"batch_size": batch_size, "epoch": epoch}
    dealt = [deal(count, rank=rank, world_size=world_size, **size) for rank in range(world_size)]
    alone = deal(count, batch_size=batch_size * world_size, epoch=epoch)
    steps = count_train_batches(count, batch_size=batch_size, world_size=world_size)
    assert [len(batches) for batches in dealt] == [steps] * world_size
    for step, batch in enumerate(alone):
        shares = [[key for key in batches[step] if not key.filler] for batches in dealt]
        assert sorted(key for share in shares for key in share) == sorted(batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(count=st.integers(1, 60), batch_size=st.integers(2, 9), world_size=st.integers(2, 5))
def test_fillers_come_last_and_only_where_a_rank_has_too_few_samples_for_batch_normalisation(
    count: int, batch_size: int, world_size: int
) -> None:
    for rank in range(world_size):
        for batch in deal(count, batch_size=batch_size, rank=rank, world_size=world_size):
            fillers = [key.filler for key in batch]
            assert fillers == sorted(fillers)
            assert len(batch) == 2 if any(fillers) else len(batch) >= 2


def test_a_sample_that_comes_again_in_an_epoch_is_another_key() -> None:
    order = np.array([3, 1, 3, 3, 0, 1])
    assert count_repeats(order).tolist() == [0, 0, 1, 2, 0, 1]
    keys = [key for batch in train_batches(order, batch_size=4, epoch=2) for key in batch]
    assert keys == [Key(2, 3, 0), Key(2, 1, 0), Key(2, 3, 1), Key(2, 3, 2), Key(2, 0, 0), Key(2, 1, 1)]
    ranks = [train_batches(order, batch_size=4, epoch=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(key for batches in ranks for batch in batches for key in batch) == sorted(keys)


@given(order=st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_repeats_are_counted_from_the_start(order: list[int]) -> None:
    expected = [order[:place].count(index) for place, index in enumerate(order)]
    assert count_repeats(np.array(order)).tolist() == expected


def test_evaluation_is_in_order() -> None:
    assert list(eval_batches(5, batch_size=2)) == [[Key(0, 0), Key(0, 1)], [Key(0, 2), Key(0, 3)], [Key(0, 4)]]


@given(count=st.integers(1, 60), batch_size=st.integers(1, 9), world_size=st.integers(1, 5))
def test_ranks_evaluate_every_sample_exactly_once_in_as_many_batches(
    count: int, batch_size: int, world_size: int
) -> None:
    dealt = [list(eval_batches(count, batch_size=batch_size, rank=r, world_size=world_size)) for r in range(world_size)]
    length = count_eval_batches(count, batch_size=batch_size, world_size=world_size)
    assert [len(batches) for batches in dealt] == [length] * world_size
    assert sorted(index for batches in dealt for index in indices(batches)) == list(range(count))

"""Which samples make which batch: pure functions of seed, epoch and rank, so that a run can be continued exactly."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """All that a worker has to know to load a sample.

    Args:
        epoch: Number of the epoch.
        index: Which sample.
        repeat: How often it came before in this epoch: each time it is augmented anew.
    """

    epoch: int
    index: int
    repeat: int = 0


def epoch_order(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle an epoch.

    Args:
        count: Number of samples.
        seed: The run's seed, not negative.
        epoch: Number of the epoch, from 0.
    Returns:
        A permutation of ``range(count)``, int64 (count,).
    """
    return np.argsort(random_bits(count, seed=seed, epoch=epoch), kind="stable")


def random_bits(count: int, *, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Draw what an epoch is made from: uint64 (count,).

    From the bits of PCG64, which NumPy keeps the same from version to version, as it does not with its shuffles.
    """
    return np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(count)


def rank_share(order: NDArray[np.int64], *, rank: int, world_size: int) -> NDArray[np.int64]:
    """One process's part of an epoch; all parts are equally long, for which the first samples may come twice.

    Args:
        order: The epoch's order, int64 (N,).
        rank: This process, from 0.
        world_size: Number of processes.
    Returns:
        int64 (ceil(N / world_size),).
    """
    return np.resize(order, math.ceil(len(order) / world_size) * world_size)[rank::world_size]


def count_train_batches(count: int, *, batch_size: int, world_size: int) -> int:
    """Count one process's batches of an epoch.

    The last batch may be short, but not a single sample: batch normalisation could not take it. Where it would be one,
    that sample is left out of the epoch, and the shuffle sees to it that it is another one each time.
    """
    full, rest = divmod(math.ceil(count / world_size), batch_size)
    return full + (rest > 1 or full == 0)


def train_batches(
    order: NDArray[np.int64], *, batch_size: int, epoch: int, rank: int = 0, world_size: int = 1, skip: int = 0
) -> Iterator[list[Key]]:
    """Deal an epoch into batches.

    Args:
        order: Indices of the epoch's samples over all processes, int64 (N,).
        batch_size: Samples in a batch, of one process.
        epoch: Number of the epoch.
        rank: This process.
        world_size: Number of processes.
        skip: Batches already done: they are left out, and the others are as if they had not been.
    Yields:
        The keys of a batch.
    """
    place = {"rank": rank, "world_size": world_size}
    share, repeats = rank_share(order, **place), rank_share(count_repeats(order), **place)
    for batch in range(skip, count_train_batches(len(order), batch_size=batch_size, world_size=world_size)):
        part = slice(batch * batch_size, (batch + 1) * batch_size)
        yield [Key(epoch, *pair) for pair in zip(share[part].tolist(), repeats[part].tolist(), strict=True)]


def count_repeats(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count for each entry how often the same one stands before it: int64 (N,)."""
    grouped = np.argsort(order, kind="stable")  # (N,), equal entries side by side, in their order
    first = np.diff(order[grouped], prepend=-1) != 0  # (N,), where another entry begins
    repeats = np.empty_like(order)
    repeats[grouped] = np.arange(len(order)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    return repeats


def count_eval_batches(count: int, *, batch_size: int, world_size: int) -> int:
    """Count one process's batches of an evaluation: the same for all processes, which have to meet after each."""
    return math.ceil(math.ceil(count / world_size) / batch_size)


def eval_batches(count: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[list[Key]]:
    """Deal an evaluation into batches: in order, every sample exactly once over all processes; the last may be empty.

    Args:
        count: Number of samples.
        batch_size: Samples in a batch, of one process.
        rank: This process.
        world_size: Number of processes.
    Yields:
        The keys of a batch.
    """
    share = range(rank, count, world_size)
    for batch in range(count_eval_batches(count, batch_size=batch_size, world_size=world_size)):
        yield [Key(0, index) for index in share[batch * batch_size : (batch + 1) * batch_size]]

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
        filler: Whether it only keeps its process busy, and counts for nothing.
    """

    epoch: int
    index: int
    repeat: int = 0
    filler: bool = False


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


def count_train_batches(count: int, *, batch_size: int, world_size: int) -> int:
    """Count the batches of an epoch, as many as one process had with all their images in a batch.

    The last batch may be short, but not a single sample: batch normalisation could not take it. Where it would be one,
    that sample is left out of the epoch, and the shuffle sees to it that it is another one each time.
    """
    full, rest = divmod(count, batch_size * world_size)
    return full + (rest > 1 or full == 0)


def train_batches(
    order: NDArray[np.int64], *, batch_size: int, epoch: int, rank: int = 0, world_size: int = 1, skip: int = 0
) -> Iterator[list[Key]]:
    """Deal an epoch into batches: all processes together see in each step what one would see in a larger batch.

    Where the last of them has less than two samples for a process, fillers are added: batch normalisation could take
    no less.

    Args:
        order: Indices of the epoch's samples over all processes, int64 (N,).
        batch_size: Samples in a batch, of one process.
        epoch: Number of the epoch.
        rank: This process.
        world_size: Number of processes.
        skip: Batches already done: they are left out, and the others are as if they had not been.
    Yields:
        The keys of a batch, fillers last.
    """
    repeats, together = count_repeats(order), batch_size * world_size
    least = min(2, batch_size) if world_size > 1 else 1
    for batch in range(skip, count_train_batches(len(order), batch_size=batch_size, world_size=world_size)):
        share = slice(batch * together + rank, (batch + 1) * together, world_size)
        keys = [Key(epoch, *pair) for pair in zip(order[share].tolist(), repeats[share].tolist(), strict=True)]
        fillers = np.resize(order, max(0, least - len(keys)))
        yield [*keys, *(Key(epoch, index, filler=True) for index in fillers.tolist())]


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

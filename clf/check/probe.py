"""A few steps of a real training and a real validation, measured: loader, network, optimizer; nothing is kept."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from clf.callbacks.timing import EpochClock
from clf.check import memory
from clf.classifier import Classifier
from clf.data.datamodule import ImageData
from clf.finders import train_plainly

MANY: Final = 40
"""Batches that say enough, if they took a fifth of the time that there is."""

_PARTS = 5  # of a measurement, which show how far it spreads
_GPU_STEPS = 5  # between two looks at the clock: each makes the host wait for the GPU


@dataclass(frozen=True)
class Span:
    """A duration that was measured or predicted, in seconds.

    Args:
        low: In the fastest part of the measurement.
        mean: On average.
        high: In the slowest part.
    """

    low: float
    mean: float
    high: float

    def times(self, factor: float) -> "Span":
        """Say how long so many of them take."""
        return Span(self.low * factor, self.mean * factor, self.high * factor)

    def plus(self, other: "Span") -> "Span":
        """Say how long both take, one after the other."""
        return Span(self.low + other.low, self.mean + other.mean, self.high + other.high)


NOTHING: Final = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Args:
        batches: Training batches.
        batch: Of a training batch, with waiting for it.
        waiting: Share of the time that training waited for the loader, in [0, 1].
        val_batches: Validation batches.
        val_batch: Of a validation batch, with waiting for it.
        memory: Bytes that the process and its workers took at most.
        gpu_memory: Bytes of the GPU that were reserved at most; None without one.
    """

    batches: int
    batch: Span
    waiting: float
    val_batches: int
    val_batch: Span
    memory: int
    gpu_memory: int | None = None


def probe(
    trainer: Trainer,
    model: Classifier,
    data: ImageData,
    *,
    callbacks: Mapping[str, Callback | None],
    val_batches: int,
    seconds: float,
) -> Probe:
    """Train a copy of a model for some steps, and validate it for some batches.

    Args:
        trainer: Made with `clf.finders.SETTINGS`, of one process.
        model: The classifier, which stays as it is.
        data: What it would be trained on.
        callbacks: Those of the run by name; a moving average is part of each step, the others are left out.
        val_batches: How many batches there are to validate.
        seconds: About how long to train after the first batches; two more are measured however long they take.
    Raises:
        UnreadableImage: If an image cannot be read.
        torch.cuda.OutOfMemoryError: If a step does not fit into the GPU's memory.
    """
    trained = copy.deepcopy(model)
    train_plainly(trained)
    averages = [copy.deepcopy(each) for each in callbacks.values() if isinstance(each, WeightAveraging)]
    watch = _Stopwatch(ahead=1 + data.train_dataloader().settings.made_ahead, seconds=seconds)
    _run(trainer, [*averages, watch], lambda: trainer.fit(trained, datamodule=data))
    validated = _validate(trainer, trained, data, watch, most=val_batches, seconds=seconds / 2)
    gpu = torch.cuda.max_memory_reserved() if _on_gpu(trainer) else None
    return Probe(
        batches=watch.measured,
        batch=watch.span,
        waiting=watch.waiting,
        val_batches=validated.measured if validated else 0,
        val_batch=validated.span if validated else NOTHING,
        memory=memory.peak() + watch.workers + (validated.workers if validated else 0),  # in a fit both stay
        gpu_memory=gpu,
    )


def _validate(
    trainer: Trainer, model: Classifier, data: ImageData, trained: "_Stopwatch", *, most: int, seconds: float
) -> "_Stopwatch | None":
    """Validate for so many batches as fit into some seconds: none takes longer than one of training."""
    if most == 0:
        return None
    watch = _Stopwatch(ahead=1 + data.train_dataloader().settings.made_ahead, seconds=seconds)
    configured = trainer.limit_val_batches
    trainer.limit_val_batches = min(most, watch.ahead + max(2, min(MANY, int(seconds / trained.span.mean))))
    try:
        _run(trainer, [watch], lambda: trainer.validate(model, datamodule=data, verbose=False))
    finally:
        trainer.limit_val_batches = configured
    return watch


def _run(trainer: Trainer, callbacks: list[Callback], work: Callable[[], object]) -> None:
    """Do something with a trainer and callbacks of the moment."""
    attributes: Any = trainer
    before, attributes.callbacks = attributes.callbacks, [*attributes.callbacks, *callbacks]
    try:
        work()
    finally:
        attributes.callbacks = before


class _Stopwatch(Callback):
    """Notes when batches are done with, from the time on when none that was made ahead is left; ends a fit in time.

    Args:
        ahead: Batches that do not count.
        seconds: About how long to look at the others; the first ones take no longer, either.
    """

    def __init__(self, *, ahead: int, seconds: float) -> None:
        self.ahead = ahead
        self.workers = 0
        self._seconds = seconds
        self._done = 0
        self._began = 0.0
        self._marks: list[tuple[float, int]] = []  # when, and how many batches were done by then
        self._clock = EpochClock(0.0)

    @property
    def measured(self) -> int:
        """How many batches count."""
        return self._window[-1][1] - self._window[0][1]

    @property
    def span(self) -> Span:
        """What a batch took."""
        window = self._window
        size = math.ceil((len(window) - 1) / _PARTS)
        ends = [*window[:-1:size], window[-1]]
        parts = [(after - before) / (last - first) for (before, first), (after, last) in pairwise(ends)]
        return Span(min(parts), (window[-1][0] - window[0][0]) / self.measured, max(parts))

    @property
    def waiting(self) -> float:
        """Share of the time that was spent waiting for batches."""
        return self._clock.wait_share or 0.0

    @property
    def _window(self) -> list[tuple[float, int]]:
        """From where on batches count; of fewer than are made ahead, all do."""
        return self._marks if len(self._marks) > 1 else [(self._began, 0), *self._marks]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        memory.forget_peak()
        if _on_gpu(trainer):
            torch.cuda.reset_peak_memory_stats()
        self._began = perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._began = perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note how long the batch took to come."""
        self._clock.begin_step(perf_counter(), images=len(batch["images"]))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note that it is done with, and end the fit where that is enough."""
        self._done += 1
        if self._done % (_GPU_STEPS if _on_gpu(trainer) else 1) == 0:
            self._mark(trainer)
        self._clock.end_step(perf_counter())
        if len(self._marks) > 2:
            took = self._marks[-1][0] - self._marks[0][0]
            trainer.should_stop = took >= self._seconds * (0.2 if self.measured >= MANY else 1.0)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note that it is done with."""
        self._done += 1
        if not _on_gpu(trainer):
            self._mark(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that all are."""
        if not self._marks or self._marks[-1][1] < self._done:
            self._mark(trainer, last=True)

    def _mark(self, trainer: Trainer, *, last: bool = False) -> None:
        if _on_gpu(trainer):
            torch.cuda.synchronize()
        waited = perf_counter() - self._began > self._seconds
        if not (last or waited or self._done >= self.ahead):
            return
        if not self._marks:
            self.workers = memory.of_workers()
            self._clock = EpochClock(perf_counter())
        self._marks.append((perf_counter(), self._done))


def _on_gpu(trainer: Trainer) -> bool:
    return bool(trainer.strategy.root_device.type == "cuda")

"""How fast training is and what it waits for: per epoch, on the host's clock, without ever waiting for the GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from lightning.pytorch import Callback, LightningModule, Trainer

from clf.metrics import Mode


@dataclass
class EpochClock:
    """Adds up where an epoch's time goes; every `now` is in seconds on one clock.

    Args:
        started: When the epoch began.
    """

    started: float
    images: int = 0
    waited: float = 0.0
    validated: float = 0.0

    def __post_init__(self) -> None:
        self._idle_since = self._validating_since = self.started

    def begin_step(self, now: float, *, images: int) -> None:
        """A batch has arrived."""
        self.waited += now - self._idle_since
        self.images += images

    def end_step(self, now: float) -> None:
        """The batch is done with; whatever comes before the next is waiting."""
        self._idle_since = now

    def begin_validation(self, now: float) -> None:
        """Validation interrupts training."""
        self._validating_since = now

    def end_validation(self, now: float) -> None:
        """Training goes on, or ends."""
        self.validated += now - self._validating_since
        self._idle_since = now

    @property
    def wait_share(self) -> float | None:
        """Share of the training time until the last step in which it waited; None before the first."""
        trained = self._idle_since - self.started - self.validated
        return self.waited / trained if self.images and trained > 0 else None

    def metrics(self, now: float, *, processes: int) -> dict[str, float]:
        """Sum the epoch up.

        Args:
            now: The epoch's end.
            processes: How many train side by side, each on as many images.
        """
        trained = now - self.started - self.validated
        return {
            "time/images_per_s": processes * self.images / trained,
            "time/data_wait_share": self.waited / trained,
            "time/epoch_s": now - self.started,
            "time/val_s": self.validated,
        }


class Timing(Callback):
    """Logs throughput and waiting times of each epoch, under ``time/``, to every logger.

    ``time/images_per_s``: training images per second, validation not counted. ``time/data_wait_share``: share of the
    training time between the end of one step and the start of the next, in which data is loaded and moved to the
    device (and the little that other callbacks do there); near 0 is good, more than some 0.2 asks for more workers
    or a cheaper augmentation. With a GPU, whose work the host only queues, it is an upper bound. ``time/epoch_s`` and
    ``time/val_s``: seconds of the whole epoch, without the checkpoint at its end, and of validation in it.

    Put it after callbacks that work at the end of a step, like a moving average: what they do is no waiting for data.
    """

    metric_modes: Final[Mapping[str, Mode]] = {
        "time/images_per_s": "max",
        "time/data_wait_share": "min",
        "time/epoch_s": "min",
        "time/val_s": "min",
    }
    """What is logged, and which way each is better."""

    def __init__(self) -> None:
        self._clock = EpochClock(0.0)

    @property
    def data_wait_share(self) -> float | None:
        """Share of the running epoch that was spent waiting for data; None before its first step."""
        return self._clock.wait_share

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; an epoch that is resumed in its middle does not start again."""
        self._clock = EpochClock(perf_counter())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = EpochClock(perf_counter())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the batch, and the time that it took to come."""
        self._clock.begin_step(perf_counter(), images=len(batch["images"]))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Wait for the next batch."""
        self._clock.end_step(perf_counter())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting time as training."""
        self._clock.begin_validation(perf_counter())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count time as training again."""
        self._clock.end_validation(perf_counter())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        pl_module.log_dict(
            self._clock.metrics(perf_counter(), processes=trainer.world_size), batch_size=1, sync_dist=True
        )

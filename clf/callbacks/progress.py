"""What a user watches: a bar with images per second in a terminal, and one plain line per epoch everywhere."""

import logging
import sys
from datetime import timedelta
from time import perf_counter
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console
from rich.progress import ProgressColumn, Task, TaskID
from rich.text import Text

log = logging.getLogger("clf")

_SHOWN = ("train/loss", "val/loss", "val/acc_top1")
_SECONDS_BETWEEN_METRICS = 0.5


class Progress(RichProgressBar):
    """Shows a progress bar in a terminal, and logs one line per epoch, and per evaluation outside of training.

    Where standard output is not a terminal there is no bar. The bar shows images per second and few metrics: the
    running loss, ``val/loss``, ``val/acc_top1`` and what checkpoints are chosen by. Where another callback measures
    it, as ``timing`` does, the share of the epoch that was spent waiting for data stands there, too. The bar
    disappears when it is done.

    Args:
        refresh_rate: How often a second the bar is drawn, at most; 0 for no bar.
        leave: Leave the last state of a bar on the screen.
    """

    def __init__(self, refresh_rate: int = 10, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)
        self.batch_images = 0
        self._images = 0
        self._terminal = False
        self._started = 0.0
        self._epochs_done = 0
        self._unreported: int | None = None
        self._running: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        self._read_at = float("-inf")

    @property
    def is_enabled(self) -> bool:
        """Whether there is a bar."""
        return super().is_enabled and self._terminal

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look whether somebody watches."""
        super().setup(trainer, pl_module, stage)
        # Rich on its own would draw into a file where FORCE_COLOR is set.
        self._terminal = sys.stdout.isatty() and Console().is_interactive
        self._started, self._images, self.batch_images = perf_counter(), 0, 0

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Put images per second in the place of Lightning's last column, steps per second."""
        return [*super().configure_columns(trainer)[:-1], _ImagesPerSecond(self)]

    def share_of_waiting(self, bar: TaskID | None) -> float | None:
        """Ask whoever measures it; None where nobody does, and for bars of anything but training."""
        if bar != self.train_progress_bar_id:
            return None
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        shares = (callback.data_wait_share for callback in callbacks if hasattr(callback, "data_wait_share"))
        return next(shares, None)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Choose the few metrics that the bar shows; read twice a second at most, for reading waits for the GPU."""
        now = perf_counter()
        if now - self._read_at >= _SECONDS_BETWEEN_METRICS:
            self._read_at = now
            logged = {key: value for key, value in trainer.progress_bar_metrics.items() if "_class_" not in key}
            self._running = {
                key.removeprefix("train/").removesuffix("_step"): float(value) for key, value in logged.items()
            }
        return {**self._running, **self._scores}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock that the remaining time is estimated by."""
        self._started, self._epochs_done = perf_counter(), 0
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch before: its metrics are complete only now."""
        self._report_epoch(trainer)
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        self._count(trainer, batch)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, *args: Any
    ) -> None:
        """Advance the bar."""
        self._count(trainer, batch)
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, *args)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, *args: Any
    ) -> None:
        """Advance the bar."""
        self._count(trainer, batch)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Advance the bar."""
        self._count(trainer, batch)
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, *args)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the new scores."""
        if not trainer.sanity_checking:
            self._scores = {key: value for key, value in _metrics(trainer).items() if key.startswith("val/")}
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is an epoch to report."""
        self._unreported = trainer.current_epoch
        self._epochs_done += 1
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last epoch."""
        self._report_epoch(trainer)
        super().on_train_end(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Report an evaluation and clear the screen."""
        if stage != TrainerFn.FITTING and trainer.is_global_zero:
            verb, seconds = TrainerFn(stage).value, perf_counter() - self._started
            log.info("%s: %d images in %s, %.0f images/s", verb, self._images, _clock(seconds), self._images / seconds)
        self._clear()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Clear the screen for the message."""
        self._clear()
        super().on_exception(trainer, pl_module, exception)

    def _count(self, trainer: Trainer, batch: Any) -> None:
        images = trainer.world_size * (len(batch["images"]) + len(batch.get("errors", [])))
        self._images += images
        self.batch_images = max(self.batch_images, images)

    def _clear(self) -> None:
        if self.progress is not None:
            self.progress.live.transient = not self._leave

    def _report_epoch(self, trainer: Trainer) -> None:
        if self._unreported is None or not trainer.is_global_zero:
            return
        epoch, last, self._unreported = self._unreported, (trainer.max_epochs or 0) - 1, None
        parts = [f"{key} {value:.4f}" for key, value in _metrics(trainer).items()]
        if "time/images_per_s" in trainer.callback_metrics:
            parts.append(f"{float(trainer.callback_metrics['time/images_per_s']):.0f} images/s")
        if "time/data_wait_share" in trainer.callback_metrics:
            parts.append(_waiting(float(trainer.callback_metrics["time/data_wait_share"])))
        if epoch < last and not trainer.should_stop:
            seconds_per_epoch = (perf_counter() - self._started) / self._epochs_done
            parts.append(f"{_clock(seconds_per_epoch * (last - epoch))} left")
        log.info("epoch %s: %s", f"{epoch}/{last}" if last >= 0 else epoch, ", ".join(parts))


class _ImagesPerSecond(ProgressColumn):
    """Speed of a bar whose steps are batches."""

    max_refresh = 0.5

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        share = self._bar.share_of_waiting(task.id)
        waiting = "" if share is None else f", {_waiting(share)}"
        return Text(f"{speed * self._bar.batch_images:.0f} images/s{waiting}", style="dim")


def _metrics(trainer: Trainer) -> dict[str, float]:
    """Read the few metrics that sum an epoch up."""
    monitors = [monitor for c in trainer.checkpoint_callbacks if (monitor := getattr(c, "monitor", None))]
    logged = trainer.callback_metrics
    return {key: float(logged[key]) for key in dict.fromkeys((*_SHOWN, *monitors)) if key in logged}


def _waiting(share: float) -> str:
    return f"{100 * share:.0f} % waiting for data"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))

"""The curves of a run, drawn anew after each epoch from what the run has written."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from clf.errors import UserError
from clf.figures.training import history
from clf.history import read_table
from clf.pictures import Pictures

log = logging.getLogger("clf")


class History(Callback):
    """Draws loss, accuracy, learning rate, throughput and waiting times by epoch, and marks the best epoch.

    The picture ``history`` shows what ``metrics.csv`` and ``timing.csv`` hold, so it goes on where a resumed run does.
    """

    def __init__(self) -> None:
        self.pictures = Pictures(None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the epochs that are done: an epoch's row is complete only when all its hooks have run."""
        self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last epoch, too."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        folder = self.pictures.folder
        if folder is None or not trainer.is_global_zero:
            return
        try:
            metrics, timing = (read_table(folder.parent / name) for name in ("metrics.csv", "timing.csv"))
        except UserError as error:
            log.warning("history.png was not drawn: %s", error)
            return
        if not metrics:
            return
        checkpoint: Any = next((c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)), None)
        self.pictures.draw(
            "history",
            history,
            key="history",
            step=trainer.global_step,
            metrics=metrics,
            timing=timing,
            monitor=checkpoint.monitor if checkpoint is not None else "val/acc_top1",
            mode=checkpoint.mode if checkpoint is not None else "max",
            title=f"Training history: {folder.parent.parent.name}/{folder.parent.name}",
        )

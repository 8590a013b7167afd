"""Which row of ``metrics.csv`` belongs to a checkpoint."""

from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

_KEY = "rows"
"""What the entry in a checkpoint is called."""


@runtime_checkable
class KeepsRows(Protocol):
    """The logger of the run's own table, as far as a checkpoint needs it."""

    def newest_rows(self) -> dict[str, Any]:
        """Write everything down, and say as primitives which row may still change."""

    def go_on_from(self, rows: dict[str, Any]) -> None:
        """Take up what `newest_rows` said."""


class Rows(Callback):
    """Keeps the unfinished row of ``metrics.csv`` in checkpoints, so that a resumed run completes just that.

    What is on the disk is no help there: it may be older than the checkpoint, as rows are not written at every step, or
    newer, and then it holds values of steps that are to be done again.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the row."""
        for logger in trainer.loggers:
            if isinstance(logger, KeepsRows) and trainer.state.fn == TrainerFn.FITTING:
                checkpoint[_KEY] = logger.newest_rows()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Hand the row back."""
        for logger in trainer.loggers:
            if isinstance(logger, KeepsRows) and _KEY in checkpoint:
                logger.go_on_from(checkpoint[_KEY])

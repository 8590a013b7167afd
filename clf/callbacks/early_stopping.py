"""Early stopping with the defaults of a classifier, which a resumed run neither forgets nor overrules."""

from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from typing_extensions import override


class EarlyStopping(LightningEarlyStopping):
    """Stop training when a metric has not improved for a number of validations.

    A run that had stopped when it was cut stays stopped when it is resumed, unless it is given more patience or another
    length.

    Args:
        monitor: Metric to watch.
        mode: ``max`` when more is better, ``min`` when less is.
        patience: Validations without an improvement after which training stops.
        min_delta: Smallest change that counts as an improvement, in the metric's unit.
    """

    def __init__(
        self,
        monitor: str = "val/acc_top1",
        mode: Literal["min", "max"] = "max",
        patience: int = 20,
        min_delta: float = 0.001,
    ) -> None:
        super().__init__(monitor=monitor, mode=mode, patience=patience, min_delta=min_delta)
        self._length: tuple[int | None, int] | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._length = trainer.max_epochs, trainer.max_steps

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay stopped: a run that was cut after its last step must not take another one."""
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the epoch, unless the run is over before its first validation: then there is nothing to stop."""
        if self.monitor in trainer.callback_metrics or not 0 <= trainer.max_steps <= trainer.global_step:
            super().on_train_epoch_end(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "length": self._length}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was counted; how patient a run is, its configuration says."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        if (state_dict["patience"], state_dict.get("length")) != (self.patience, self._length):
            self.stopped_epoch, self.stopping_reason = 0, EarlyStoppingReason.NOT_STOPPED

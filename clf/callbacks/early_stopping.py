"""Early stopping with the defaults of a classifier."""

from typing import Literal

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping


class EarlyStopping(LightningEarlyStopping):
    """Stop training when a metric has not improved for a number of validations.

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

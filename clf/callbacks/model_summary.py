"""How large the network is, said before training starts."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary as Table

from clf.errors import UserError

log = logging.getLogger("clf")


class ModelSummary(Callback):
    """Says how many parameters are trained; with a depth, also prints them module by module.

    Args:
        max_depth: Levels of modules in the table; 0 prints none, -1 all.
    Raises:
        UserError: If ``max_depth`` is below -1.
    """

    def __init__(self, max_depth: int = 0) -> None:
        if max_depth < -1:
            raise UserError(f"callbacks.model_summary.max_depth={max_depth} means nothing; give -1 (all), 0 or more")
        self.max_depth = max_depth

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it once, in the first process."""
        if not trainer.is_global_zero:
            return
        counts = [(parameter.numel(), parameter.requires_grad) for parameter in pl_module.parameters()]
        total = sum(count for count, _ in counts)
        trainable = sum(count for count, trained in counts if trained)
        trained = "all" if trainable == total else f"{trainable:,}"
        log.info("network: %.2f M parameters, %s trained", total / 1e6, trained)
        if self.max_depth:
            log.info("%s", Table(pl_module, max_depth=self.max_depth))

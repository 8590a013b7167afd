"""The moving average of the weights: what is validated, kept as the best checkpoint and exported."""

import logging
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from typing_extensions import override

from clf.errors import UserError

Tensors = tuple[Tensor, ...] | list[Tensor]

log = logging.getLogger("clf")


def decay_at(updates: int, *, decay: float, warmup: bool) -> float:
    """The share of the average that one update keeps.

    Args:
        updates: Updates made so far, t ≥ 0.
        decay: The share once the average is warm, in [0, 1).
        warmup: Whether the share grows from 1/10 with (1 + t) / (10 + t) until it reaches ``decay``.
    Returns:
        The share, in [0, ``decay``].
    Source: TensorFlow's ``ExponentialMovingAverage(num_updates=t)``.
    """
    return min(decay, (1 + updates) / (10 + updates)) if warmup else decay


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validation scores it, and checkpoints keep it.

    After each optimizer step ``average = d * average + (1 - d) * weights``. Floating-point buffers (the statistics of
    BatchNorm) are averaged like weights, integer buffers are copied. The first update takes the weights as they are:
    random initial weights have no place in the average. A checkpoint holds the average as ``state_dict``, so whoever
    reads it gets what was scored, and the weights that are trained as ``current_model_state``.

    Args:
        decay: d, the share of the average that each step keeps, in [0, 1). 0.9999 looks back over about 10,000 steps.
        warmup: Start with less, ``min(decay, (1 + t) / (10 + t))`` after t updates, so that the first steps do not
            dominate a short run.
    Raises:
        UserError: If ``decay`` is outside [0, 1).
    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".
    """

    def __init__(self, decay: float = 0.9999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise UserError(
                f"callbacks.ema.decay={decay} is outside [0, 1): 0 keeps nothing of the past, 1 would never learn;"
                " usual values are 0.99 to 0.9999"
            )
        super().__init__(multi_avg_fn=self._update)
        self.decay = decay
        self.warmup = warmup
        self._swapped = False  # whether the module holds the average, and the average's place the weights

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Outside fit there is nothing to average, and after a fit in the same process `state_dict` must load untouched.
        self._average_model, self._swapped, self._latest_update_step = None, False, 0
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # The counter is read at each step; on a GPU that would wait for the step to finish.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the model to its device: it was copied before it moved there."""
        self._average.module.to(pl_module.device)

    @property
    def _average(self) -> AveragedModel:
        assert self._average_model is not None, "there is an average only in fit"
        return self._average_model

    @property
    def _updates(self) -> int:
        return int(self._average.n_averaged)

    @torch.no_grad()
    def _update(self, average: Tensors, weights: Tensors, _: Tensor | int) -> None:
        """Move all tensors of one device and type; `AveragedModel` calls it from the second update on."""
        if average[0].is_floating_point():
            share = decay_at(self._updates, decay=self.decay, warmup=self.warmup)
            torch._foreach_lerp_(average, weights, 1 - share)
        else:
            torch._foreach_copy_(average, weights)

    @override
    def _swap_models(self, pl_module: LightningModule) -> None:
        # Until the first update the average *is* the weights, also where these changed after the copy in `setup`.
        if self._updates > 0:
            super()._swap_models(pl_module)
            self._swapped = not self._swapped

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module; the weights stay at hand for a checkpoint that is written from here on."""
        self._swap_models(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back when validation ends in an error or an interruption."""
        if self._swapped:
            self._swap_models(pl_module)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as ``state_dict`` and the weights beside it, whichever of them the module holds now."""
        if self._average_model is None:
            return
        weights = checkpoint["state_dict"]
        average = self._average.module.state_dict() if self._updates > 0 else weights
        if self._swapped:
            weights, average = average, weights
        checkpoint["state_dict"] = average
        checkpoint["current_model_state"] = weights
        checkpoint["averaging_state"] = {"n_averaged": self._average.n_averaged}

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Resume the average and the weights, or start the average where a checkpoint holds none."""
        if self._average_model is None:
            return  # validate, test and predict: the module has already loaded the average
        if "averaging_state" not in checkpoint:
            self._average.module.load_state_dict(checkpoint["state_dict"])
            self._average.n_averaged.fill_(1)
            self._latest_update_step = checkpoint["global_step"]
            if trainer.is_global_zero:
                log.warning("callbacks.ema is new to this run: its average starts from the checkpoint's weights")
            return
        self._average.module.load_state_dict(checkpoint["state_dict"])
        self._average.n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
        pl_module.load_state_dict(checkpoint["current_model_state"])

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._latest_update_step = state_dict["latest_update_step"]

"""A loss or an output that is no number any more: training stops at once, says where, and nothing of it is saved."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from clf.errors import UserError, WorkFailed, name_some

log = logging.getLogger("clf")


@dataclass(frozen=True)
class _Step:
    """What there is to say about a batch that was trained; the loss stays on its device."""

    loss: Tensor
    step: int
    epoch: int
    batch: int
    rate: float


class NonFinite(Callback):
    """Stops training where a loss, the weights or an output in validation is NaN or infinite.

    The message names step, epoch, learning rate, the loss and the images of the batch. ``best.ckpt`` and ``last.ckpt``
    stay as they were before. With 16-mixed, infinite gradients are no fault: their step is skipped, and only the loss
    counts. Losses stay on their device until somebody looks: on a CPU after each step, elsewhere when a row is logged
    (``trainer.log_every_n_steps``), and everywhere before a validation and before a checkpoint is written.

    Args:
        every_n_steps: Look after so many optimizer steps instead; looking waits for the device.
    Raises:
        UserError: If ``every_n_steps`` is not positive.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"callbacks.non_finite.every_n_steps={every_n_steps} must be positive")
        self._every = every_n_steps
        self._steps: list[_Step] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []  # of a validation: good or not, and which images; both (N,)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps.clear()

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        batch = trainer.fit_loop.epoch_loop.batch_idx
        self._steps.append(_Step(loss.detach(), trainer.global_step, trainer.current_epoch, batch, rate))

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        on_cpu = pl_module.device.type == "cpu"
        every = self._every or (1 if on_cpu else getattr(trainer, "log_every_n_steps", 0) or 50)
        if trainer.global_step % every == 0:
            self._look(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._outputs.clear()
        self._look(trainer)

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if isinstance(outputs, dict) and {"logits", "index"} <= outputs.keys():
            self._outputs.append((outputs["logits"].isfinite().all(dim=1), outputs["index"]))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._stop_if(trainer, self._about_outputs(trainer))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if trainer.state.fn == TrainerFn.FITTING and loss is not None and not bool(loss.isfinite()):
            when = _when(trainer.global_step, trainer.current_epoch, _rate(trainer))
            raise WorkFailed(f"the validation loss is {float(loss)} after {when}; {_what_to_do(trainer)}")

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._look(trainer)
        if not _are_finite(pl_module):
            when = _when(trainer.global_step, trainer.current_epoch, _rate(trainer))
            raise WorkFailed(f"weights are no numbers any more after {when}; {_what_to_do(trainer)}")

    def _look(self, trainer: Trainer) -> None:
        """Look at all losses since the last time; in all processes at the same step."""
        steps, self._steps = self._steps, []
        finite = torch.stack([each.loss for each in steps]).isfinite().tolist() if steps else []
        bad = next((step for step, good in zip(steps, finite, strict=True) if not good), None)
        self._stop_if(trainer, "" if bad is None else _about(bad, trainer))

    def _about_outputs(self, trainer: Trainer) -> str:
        flags, self._outputs = self._outputs, []
        if not flags:
            return ""
        good = torch.cat([flag for flag, _ in flags])  # (N,)
        if bool(good.all()):
            return ""
        index = torch.cat([each for _, each in flags])[~good].tolist()
        known = _paths(trainer, "val")
        paths = [known[number] for number in index] if known else []
        when = _when(trainer.global_step, trainer.current_epoch, _rate(trainer))
        said = f"in validation after {when} the network's outputs are no numbers for {len(index)} of {len(good)} images"
        return f"{said}{_shown(paths)}; {_what_to_do(trainer)}"

    def _stop_if(self, trainer: Trainer, reason: str) -> None:
        """Stop all processes if one of them has a reason."""
        if trainer.world_size > 1:
            if not trainer.strategy.reduce_boolean_decision(bool(reason), all=False):
                return
            reasons: list[str] = [""] * trainer.world_size
            torch.distributed.all_gather_object(reasons, reason)
            reason = next(filter(None, reasons))
        if reason:
            raise WorkFailed(reason)


def _about(bad: _Step, trainer: Trainer) -> str:
    data: Any = getattr(trainer, "datamodule", None)
    paths = []
    if hasattr(data, "train_plan"):
        known = _paths(trainer, "train")
        paths = [known[key.index] for key in next(iter(data.train_plan(bad.epoch, bad.batch)), [])]
        log.warning("the batch of step %d: %s", bad.step, ", ".join(paths))
    value = float(bad.loss)
    return (
        f"the loss is {value} in {_when(bad.step, bad.epoch, bad.rate)}, batch {bad.batch}{_shown(paths)}; "
        f"{_what_to_do(trainer)}"
    )


def _paths(trainer: Trainer, split: str) -> Any:
    data: Any = getattr(trainer, "datamodule", None)
    return data.samples(split).paths if hasattr(data, "samples") else []


def _shown(paths: list[str]) -> str:
    return f" ({name_some(paths, write=str)})" if paths else ""


def _when(step: int, epoch: int, rate: float) -> str:
    return f"step {step} (epoch {epoch}, learning rate {rate:.3g})"


def _rate(trainer: Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else math.nan


def _what_to_do(trainer: Trainer) -> str:
    kept = getattr(trainer.checkpoint_callback, "last_model_path", "")
    saved = bool(kept) and Path(kept).is_file()
    begin = f"{kept} is from before: clf fit --ckpt_path last" if saved else "nothing was saved: start again"
    clip = f"below {float(trainer.gradient_clip_val):g}" if trainer.gradient_clip_val else "such as 1.0"
    half = ", or bf16-mixed in place of 16-mixed" if str(trainer.precision) == "16-mixed" else ""
    return f"{begin} with a lower --model.optimizer.lr, or a --trainer.gradient_clip_val {clip}{half}"


def _are_finite(module: LightningModule) -> bool:
    """Tell whether weights and running statistics are numbers; a buffer may hold infinities on purpose."""
    tensors = [parameter.detach() for parameter in module.parameters()]
    tensors += [buffer for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all()) if tensors else True

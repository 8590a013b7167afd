"""Parameter groups and learning-rate schedules."""

import math
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clf.errors import UserError


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split trainable parameters by whether weight decay may act on them.

    Biases and the scales of normalisation layers (all parameters with fewer than two dimensions) are not decayed.

    Args:
        module: Network to train.
    Returns:
        Groups named ``decay`` and ``no_decay`` for an optimizer; the second has ``weight_decay`` 0. Empty groups are
        left out.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decay = {"name": "decay", "params": [parameter for parameter in trainable if parameter.ndim >= 2]}
    rest = {
        "name": "no_decay",
        "params": [parameter for parameter in trainable if parameter.ndim < 2],
        "weight_decay": 0.0,
    }
    return [group for group in (decay, rest) if group["params"]]


class WarmupCosine(LRScheduler):
    """Linear warm-up, then a cosine down to a fraction of the rate; stepped once per optimizer step.

    The length of the run is not typed by anybody: the classifier tells it through ``plan`` when training starts.

    Args:
        optimizer: Optimizer whose rates are scheduled.
        warmup_epochs: Length of the warm-up in epochs; at most a quarter of the run, so that short runs still train.
        warmup_start: Fraction of the rate at the first step.
        final: Fraction of the rate at the last step.
    Raises:
        ValueError: If warmup_epochs is negative or a fraction is outside [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, warmup_epochs: float = 5.0, warmup_start: float = 1e-3, final: float = 0.05
    ) -> None:
        if warmup_epochs < 0:
            raise UserError(f"warmup_epochs={warmup_epochs} must not be negative")
        for name, value in (("warmup_start", warmup_start), ("final", final)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value} must be in [0, 1]")
        self.warmup_epochs = warmup_epochs
        self.warmup_start = warmup_start
        self.final = final
        self.total_steps = 1
        self.warmup_steps = 0
        super().__init__(optimizer)

    def plan(self, total_steps: int, steps_per_epoch: int) -> None:
        """Fit the schedule to a run; `apply` puts it in force.

        Args:
            total_steps: Optimizer steps of the whole run.
            steps_per_epoch: Optimizer steps of an epoch.
        """
        self.total_steps = max(1, total_steps)
        self.warmup_steps = min(round(self.warmup_epochs * steps_per_epoch), self.total_steps // 4)

    def apply(self) -> None:
        """Give the optimizer the rates of the current step."""
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def factor(self, step: int) -> float:
        """Compute what the rate is multiplied with at a step, counted from 0."""
        if step < self.warmup_steps:
            return self.warmup_start + (1 - self.warmup_start) * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def get_lr(self) -> list[float | Tensor]:
        """Compute the rate of each parameter group."""
        return [rate * self.factor(self.last_epoch) for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Save the position only: rates and lengths are the configuration's, so that a resumed run may change them."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

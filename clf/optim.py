"""Learning-rate schedules over the length of a run, and the warm-up that is laid over any of them."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchPlateau

from clf.errors import UserError

Interval = Literal["auto", "step", "epoch"]


class PlannedSchedule(LRScheduler):
    """A schedule over the whole run, whose length nobody types: the classifier tells it through ``plan``.

    What multiplies the rate is a function of the step alone, so a resumed run may change rates and lengths.

    Args:
        optimizer: Optimizer whose rates are scheduled.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.total = 1
        self.held = 0.0
        super().__init__(optimizer)

    def plan(self, total: int, *, held: float) -> None:
        """Fit the schedule to a run; `apply` puts it in force.

        Args:
            total: Steps of the whole run.
            held: Steps at its start that belong to the warm-up; may end within one.
        """
        self.total = max(1, total)
        self.held = held

    def apply(self) -> None:
        """Give the optimizer the rates of the current step."""
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    @abstractmethod
    def factor(self, step: int) -> float:
        """Compute what the rate is multiplied with at a step, counted from 0."""

    def get_lr(self) -> list[float | Tensor]:
        """Compute the rate of each parameter group."""
        return [rate * self.factor(self.last_epoch) for rate in self.base_lrs]

    def go_to(self, step: int) -> None:
        """Put the rates of a step in force, counted from 0, whatever schedule led there."""
        self.last_epoch = step
        self.apply()

    def state_dict(self) -> dict[str, Any]:
        """Save nothing: rates and lengths are the configuration's, which a resumed run may change."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing over: it may be another schedule's, and where the run is, `go_to` says."""


class Cosine(PlannedSchedule):
    """Half a cosine wave from the rate down to a fraction of it, from the end of the warm-up to the end of the run.

    Args:
        optimizer: Optimizer whose rates are scheduled.
        final: Fraction of the rate at the last step.
    Raises:
        UserError: If the fraction is outside [0, 1].
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """

    def __init__(self, optimizer: Optimizer, final: float = 0.05) -> None:
        _require_fraction("final", final)
        self.final = final
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Compute what the rate is multiplied with at a step, counted from 0."""
        progress = (step - self.held) / max(1, self.total - 1 - self.held)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2


class OneCycle(PlannedSchedule):
    """Half a cosine wave up to the rate and one down to nearly nothing; the warm-up is its own.

    The optimizer's rate is the peak. Step by step the same as torch's ``OneCycleLR`` without a cycle of the momentum.

    Args:
        optimizer: Optimizer whose rates are scheduled.
        pct_start: Share of the run that goes up, in (0, 1).
        div_factor: The first rate is the peak divided by this, at least 1.
        final_div_factor: The last rate is the first one divided by this, at least 1.
    Raises:
        UserError: If a value is out of range.
    Source: Smith and Topin 2018, arXiv:1708.07120.
    """

    def __init__(
        self, optimizer: Optimizer, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
    ) -> None:
        if not 0 < pct_start < 1:
            raise UserError(f"pct_start={pct_start} must be in (0, 1)")
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not value >= 1:
                raise UserError(f"{name}={value} must be at least 1")
        self.pct_start = pct_start
        self.first = 1 / div_factor
        self.last = self.first / final_div_factor
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Compute what the rate is multiplied with at a step, counted from 0."""
        end = self.total - 1
        peak = self.pct_start * self.total - 1
        if step <= peak:
            return _wave(self.first, 1.0, step / peak if peak else 1.0)
        return _wave(1.0, self.last, min(1.0, (step - peak) / max(1.0, end - peak)))


class Warmup:
    """A linear warm-up over the first optimizer steps of a run, whatever schedule goes on below it.

    The rate that an optimizer steps with is the schedule's, times a factor that depends on the step alone. Each
    parameter group keeps the schedule's own rate beside the one in use, also in checkpoints: a schedule that computes
    its next rate from its last one must never see the factor.

    Args:
        epochs: Length in epochs; at most a quarter of the run, so that short runs still train.
        start: Fraction of the rate at the first step.
    Raises:
        UserError: If epochs is negative or start outside [0, 1].
    Source: Goyal et al. 2017, arXiv:1706.02677, sec. 2.2.
    """

    def __init__(self, epochs: float, start: float) -> None:
        if not 0 <= epochs < math.inf:
            raise UserError(f"model.warmup_epochs={epochs} must be 0 (no warm-up) or a number of epochs")
        _require_fraction("model.warmup_start", start)
        self.epochs = epochs
        self.start = start
        self.steps = 0

    def plan(self, total_steps: float, *, steps_per_epoch: int) -> None:
        """Fit the warm-up to a run of so many optimizer steps, which may be infinite."""
        wanted = round(self.epochs * steps_per_epoch)
        self.steps = wanted if total_steps == math.inf else min(wanted, int(total_steps) // 4)

    def factor(self, step: int) -> float:
        """Compute what the rate is multiplied with at an optimizer step, counted from 0."""
        return self.start + (1 - self.start) * step / self.steps if step < self.steps else 1.0

    def note(self, optimizer: Optimizer) -> None:
        """Take the rates that stand in the optimizer for the schedule's."""
        for group in optimizer.param_groups:
            group["scheduled_lr"] = group["lr"]

    def lift(self, optimizer: Optimizer) -> None:
        """Give the optimizer the schedule's own rates."""
        for group in optimizer.param_groups:
            group["lr"] = group["scheduled_lr"]

    def lower(self, optimizer: Optimizer, step: int) -> None:
        """Give the optimizer the rates of a step."""
        for group in optimizer.param_groups:
            group["lr"] = group["scheduled_lr"] * self.factor(step)


def describe_rates(optimizer: Optimizer, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Say what a resumed run must have in common with the one that it goes on with, as primitives.

    Args:
        optimizer: The optimizer.
        config: What `schedule_config` said; None without a schedule.
    """
    schedule = None if config is None else type(config["scheduler"]).__name__
    return {
        "optimizer": type(optimizer).__name__,
        "groups": [group["name"] for group in optimizer.param_groups],
        "schedule": schedule,
        "interval": None if config is None else config["interval"],
    }


def require_resumable(saved: Mapping[str, Any], optimizer: Optimizer, config: Mapping[str, Any] | None) -> None:
    """Refuse what a checkpoint's state of optimizer and schedule does not fit.

    Args:
        saved: What `describe_rates` said when the checkpoint was written.
        optimizer: The resumed run's.
        config: Its schedule's, as from `schedule_config`.
    Raises:
        UserError: Naming the key.
    """
    new = describe_rates(optimizer, config)
    advice = "keep what it was trained with, or start a new run"
    if new["optimizer"] != saved["optimizer"]:
        raise UserError(
            f"model.optimizer={new['optimizer']}: the checkpoint holds the state of {saved['optimizer']}; {advice}"
        )
    if new["groups"] != saved["groups"]:
        raise UserError(
            f"the checkpoint's optimizer has {len(saved['groups'])} parameter groups, this one {len(new['groups'])}: "
            f"model.layer_decay, or what the loss trains, has changed; {advice}"
        )
    was, now = (f"{each['schedule']} per {each['interval']}" for each in (saved, new))
    free = config is None or isinstance(config["scheduler"], PlannedSchedule)
    if not free and now != was:
        raise UserError(
            f"model.lr_scheduler={now}: the checkpoint was trained with {was}, and a schedule of torch's cannot begin "
            f"in the middle of a run; {advice}, or take clf.optim.Cosine or OneCycle"
        )


def brings_warmup(schedule: object) -> bool:
    """Say whether a schedule warms up itself."""
    return isinstance(schedule, OneCycle | OneCycleLR)


def sets_rates(schedule: object) -> bool:
    """Say whether a schedule of torch's replaces the rates of the optimizer by one of its own for all groups."""
    return isinstance(schedule, OneCycleLR | CyclicLR)


def schedule_config(schedule: LRScheduler | ReduceLROnPlateau, interval: Interval) -> dict[str, Any]:
    """Say in Lightning's terms when a schedule steps.

    Args:
        schedule: Any of torch's or ours.
        interval: ``auto`` is per optimizer step for those whose lengths count such, else per epoch.
    Raises:
        UserError: If it watches a metric without saying which.
    """
    if isinstance(schedule, TorchPlateau):
        if not isinstance(schedule, ReduceLROnPlateau):
            raise UserError(
                "model.lr_scheduler: torch's ReduceLROnPlateau does not say what it watches; "
                "use lightning.pytorch.cli.ReduceLROnPlateau with init_args: {monitor: val/loss}"
            )
        return {"scheduler": schedule, "monitor": schedule.monitor, "interval": "epoch"}
    if interval == "auto":
        interval = "step" if isinstance(schedule, PlannedSchedule | OneCycleLR | CyclicLR) else "epoch"
    return {"scheduler": schedule, "interval": interval}


def _wave(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _require_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value} must be in [0, 1]")

"""How fast a run learns at each step: optimizer, schedule and warm-up, from the first step or from any other."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from clf.errors import UserError
from clf.optim import (
    Interval,
    PlannedSchedule,
    Warmup,
    brings_warmup,
    describe_rates,
    require_resumable,
    schedule_config,
    sets_rates,
)
from clf.parameters import build_optimizer

log = logging.getLogger("clf")


class Rates:
    """Builds optimizer and schedule, and keeps the optimizer's rates what configuration and step say.

    Args:
        make_optimizer: Builds the optimizer over parameter groups.
        make_schedule: Builds the schedule of an optimizer; None for a constant rate.
        interval: How often the schedule steps, see `schedule_config`.
        warmup: What is laid over the schedule.
        layer_decay: What the rate is multiplied with from layer to layer, from the head down, in (0, 1].
    Raises:
        UserError: If layer_decay is out of range.

    Attributes:
        saved: What the checkpoint that a run is resumed from says about its rates, see `describe`; None for a new run.
    """

    def __init__(
        self,
        make_optimizer: Callable[[Any], Optimizer],
        make_schedule: Callable[[Optimizer], Any] | None,
        *,
        interval: Interval,
        warmup: Warmup,
        layer_decay: float,
    ) -> None:
        if not 0 < layer_decay <= 1:
            raise UserError(f"model.layer_decay={layer_decay} must be in (0, 1]; 1 is off, usual values are 0.6 to 0.9")
        self.make_optimizer = make_optimizer
        self.make_schedule = make_schedule
        self.interval = interval
        self.warmup = warmup
        self.layer_decay = layer_decay
        self.saved: Mapping[str, Any] | None = None

    def configure(
        self, module: nn.Module, network: nn.Module, *, total_steps: float, steps_per_epoch: int
    ) -> dict[str, Any]:
        """Build what trains a module.

        Args:
            module: What is trained; a loss may have parameters, too.
            network: The part of it that has layers.
            total_steps: Optimizer steps of the run, which may be infinite.
            steps_per_epoch: Optimizer steps of an epoch.
        Returns:
            Optimizer and schedule in Lightning's terms.
        Raises:
            UserError: If they cannot be built, do not go together, or do not fit the checkpoint of a resumed run.
        """
        try:
            self._optimizer = build_optimizer(self.make_optimizer, module, network, layer_decay=self.layer_decay)
            self._configured = [_without_parameters(group) for group in self._optimizer.param_groups]
            schedule = None if self.make_schedule is None else self.make_schedule(self._optimizer)
        except UserError:
            raise
        except ValueError as error:  # what torch says about a rate or a length that cannot be
            raise UserError(f"model.optimizer or model.lr_scheduler: {error}") from error
        if self.layer_decay < 1 and sets_rates(schedule):
            name = type(schedule).__name__
            raise UserError(f"model.layer_decay: torch's {name} gives all layers one rate; use clf.optim.OneCycle")
        self._config = None if schedule is None else schedule_config(schedule, self.interval)
        if self.saved is not None:
            require_resumable(self.saved, self._optimizer, self._config)
        self._plan(schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        lightning = {"optimizer": self._optimizer}
        return lightning if self._config is None else {**lightning, "lr_scheduler": self._config}

    def _plan(self, schedule: Any, *, total_steps: float, steps_per_epoch: int) -> None:
        planned, name = isinstance(schedule, PlannedSchedule), type(schedule).__name__
        if planned and total_steps == math.inf:
            raise UserError(f"{name} needs to know the run's length; set trainer.max_epochs or trainer.max_steps")
        if brings_warmup(schedule):
            self.warmup.steps = 0
            if self.warmup.epochs:
                log.info("model.warmup_epochs=%g is not used: %s has its own warm-up", self.warmup.epochs, name)
        else:
            self.warmup.plan(total_steps, steps_per_epoch=steps_per_epoch)
        if planned:
            unit = steps_per_epoch if self._per_epoch else 1
            schedule.plan(math.ceil(total_steps / unit), held=self.warmup.steps / unit)
            schedule.apply()

    @property
    def _per_epoch(self) -> bool:
        return self._config is not None and self._config["interval"] == "epoch"

    def describe(self) -> dict[str, Any]:
        """Say as primitives what a resumed run must have in common with this one."""
        return describe_rates(self._optimizer, self._config)

    def begin(self, *, step: int, epoch: int) -> None:
        """Put the rates of the first step in force.

        A resumed optimizer came back with the checkpoint's rates and decay, and is given the configuration's. So did a
        schedule of torch's, which goes on with those.

        Args:
            step: Optimizer steps that are done.
            epoch: Epochs that are done.
        """
        schedule = None if self._config is None else self._config["scheduler"]
        if self.saved is None:
            self.warmup.note(self._optimizer)
        elif isinstance(schedule, PlannedSchedule | None):
            for group, configured in zip(self._optimizer.param_groups, self._configured, strict=True):
                group.update(configured)
            if schedule is not None:
                schedule.go_to(epoch if self._per_epoch else step)
            self.warmup.note(self._optimizer)
        self.warmup.lower(self._optimizer, step)

    @contextmanager
    def without_warmup(self, *, step: int) -> Iterator[None]:
        """Give a schedule rates of its own to step on; afterwards the rates of a step are in force."""
        self.warmup.lift(self._optimizer)
        yield
        self.warmup.note(self._optimizer)
        self.warmup.lower(self._optimizer, step)

    def go_to(self, step: int) -> None:
        """Put the rates of a step in force, counted from 0."""
        self.warmup.lower(self._optimizer, step)


def _without_parameters(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}

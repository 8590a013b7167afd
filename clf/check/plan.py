"""How long a run is as it is configured: images, batches, steps and epochs, before there is a trainer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from clf.data.datamodule import ImageData
from clf.data.sampling import count_eval_batches, count_train_batches
from clf.environment import device_name
from clf.errors import UserError, counted

_TIME = ("days", "hours", "minutes", "seconds")


@dataclass(frozen=True)
class Plan:
    """What a configuration means in numbers.

    Args:
        device: Type of the device that trains: ``cuda``, ``cpu`` or ``mps``.
        processes: How many train side by side, on all machines.
        images: Training images that an epoch shows, over all processes.
        all_batches: Training batches of one process in an epoch.
        batches: How many of them are trained on.
        steps: Optimizer steps of an epoch.
        epochs: Length of the run, which may be infinite and need not be whole.
        all_val_batches: Validation batches of one process.
        val_batches: How many of them a validation scores.
        validations_per_epoch: How often an epoch is validated; less than 1 where not each is.
        longest: Seconds after which the run ends whatever it has reached; infinite where nothing says so.
    """

    device: str
    processes: int
    images: int
    all_batches: int
    batches: int
    steps: int
    epochs: float
    all_val_batches: int
    val_batches: int
    validations_per_epoch: float
    longest: float = math.inf

    @property
    def validations(self) -> float:
        """Validations of the run, which may be infinite."""
        return self.epochs * self.validations_per_epoch


def plan(data: ImageData, trainer: Mapping[str, Any]) -> Plan:
    """Work out how long a run is.

    Args:
        data: What it is trained on.
        trainer: The trainer's settings, as configured.
    Raises:
        UserError: If they mean nothing.
    """
    device = device_name(str(trainer["accelerator"])).split()[0]
    processes = count_processes(trainer, device=device)
    place = {"batch_size": data.batch_size, "world_size": processes}
    images = data.drawing.count
    all_batches = count_train_batches(images, **place)
    _require_possible(trainer, batches=all_batches)
    batches = _limited(all_batches, trainer["overfit_batches"] or trainer["limit_train_batches"])
    accumulate = trainer["accumulate_grad_batches"]
    steps = math.ceil(batches / accumulate) if accumulate else batches
    all_val_batches = count_eval_batches(len(data.samples("val")), **place)
    return Plan(
        device=device,
        processes=processes,
        images=images,
        all_batches=all_batches,
        batches=batches,
        steps=steps,
        epochs=_epochs(trainer, steps=steps),
        all_val_batches=all_val_batches,
        val_batches=_limited(all_val_batches, trainer["limit_val_batches"]),
        validations_per_epoch=_validations_per_epoch(trainer, batches=batches),
        longest=_seconds(trainer["max_time"]),
    )


def count_processes(trainer: Mapping[str, Any], *, device: str) -> int:
    """Count the processes that would train side by side, on all machines.

    Args:
        trainer: The trainer's settings; ``devices`` as Lightning takes it: a number, a list of devices, or ``auto``.
        device: Type of the device that trains.
    Raises:
        UserError: If there can be no such devices.
    """
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, list | tuple):
        here = len(devices)
    elif str(devices) in ("auto", "-1"):
        here = max(1, torch.cuda.device_count()) if device == "cuda" else 1
    elif str(devices).isdecimal() and int(devices) > 0:
        here = int(devices)
    else:
        raise UserError(f"trainer.devices={devices} must be a number from 1 on, a list of devices, or auto")
    return max(1, here) * max(1, int(trainer["num_nodes"]))


def _require_possible(trainer: Mapping[str, Any], *, batches: int) -> None:
    """Refuse what Lightning divides by zero for, or finds out late."""
    for key in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        if trainer[key] is not None and trainer[key] < 1:
            raise UserError(f"trainer.{key}={trainer[key]} must be 1 or more")
    interval = None if trainer.get("fast_dev_run") else trainer["val_check_interval"]
    batches = _limited(batches, trainer["overfit_batches"] or trainer["limit_train_batches"])
    if type(interval) is int and interval > batches and trainer["check_val_every_n_epoch"] is not None:
        raise UserError(
            f"trainer.val_check_interval={interval} is more than the {counted(batches, 'batch', 'batches')} of an "
            "epoch; choose less, or count over epochs by trainer.check_val_every_n_epoch=null"
        )


def _limited(batches: int, limit: int | float | None) -> int:
    """Cut batches down as Lightning does: a whole number counts them, a fraction is a share."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _epochs(trainer: Mapping[str, Any], *, steps: int) -> float:
    most_epochs, most_steps = trainer["max_epochs"], trainer["max_steps"]
    by_steps = most_steps / max(1, steps) if most_steps is not None and most_steps >= 0 else math.inf
    if most_epochs is None:
        return by_steps if by_steps < math.inf else 1000.0  # Lightning's own end of a run that has none
    return min(by_steps, float(most_epochs)) if most_epochs >= 0 else by_steps


def _validations_per_epoch(trainer: Mapping[str, Any], *, batches: int) -> float:
    every, interval = trainer["check_val_every_n_epoch"], trainer["val_check_interval"]
    if isinstance(interval, int) and not isinstance(interval, bool):
        within = batches / max(1, interval)
        return within if every is None else max(1, int(within)) / every
    if isinstance(interval, float) and interval < 1:
        return int(1 / interval) / (every or 1)
    return 1 / (every or 1)


def _seconds(limit: Any) -> float:
    """Say a ``max_time`` in seconds: DD:HH:MM:SS, a mapping of units, or a timedelta."""
    if limit is None:
        return math.inf
    if isinstance(limit, str):
        parts = limit.split(":")
        if len(parts) != len(_TIME) or not all(part.isdecimal() for part in parts):
            raise UserError(f"trainer.max_time={limit!r} must be written as days, hours, minutes, seconds: 00:12:00:00")
        limit = dict(zip(_TIME, map(int, parts), strict=True))
    return (limit if isinstance(limit, timedelta) else timedelta(**limit)).total_seconds()

"""A learning rate or a batch size, found by a few steps of training that are thrown away."""

import logging
import math
import re
import sys
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.tuner.tuning import Tuner
from torch.nn.functional import avg_pool1d
from torch.optim import Optimizer

from clf.artist import Drawing
from clf.classifier import Classifier
from clf.errors import UserError
from clf.figures.training import learning_rates
from clf.files import replace_csv

log = logging.getLogger("clf")

SEARCHES = {
    "find_lr": "Do not train: find a learning rate, write its curve to runs/NAME/find_lr-001.png, and end.",
    "find_batch_size": "Do not train: find the largest batch that fits into memory, and end.",
}
"""Flags of fit, with their help."""

LARGEST_BATCH = 8192
"""Where the search for a batch size ends on a GPU."""
LARGEST_BATCH_ON_CPU = 256
"""Where it ends without one: the memory of a computer shows no limit, it slows down."""

SETTINGS: dict[str, Any] = {
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": None,
    "min_steps": None,
    "max_time": None,
    "check_val_every_n_epoch": 1_000_000,
    "val_check_interval": 1.0,
    "num_sanity_val_steps": 0,
    "logger": False,
    "callbacks": [],
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "use_distributed_sampler": False,
}
"""What a trainer must not do while something is sought: end by itself, validate, log or write."""


def search(
    name: str, trainer: Trainer, model: Classifier, data: LightningDataModule, *, images: int, folder: Path
) -> str:
    """Do what one of `SEARCHES` asks for.

    Args:
        name: Which.
        trainer: See `find_lr`.
        model: See `find_lr`.
        data: See `find_lr`.
        images: See `find_batch_size`.
        folder: See `find_lr`.
    Returns:
        The flag that trains with what was found.
    """
    if name == "find_lr":
        return f"--model.optimizer.lr {find_lr(trainer, model, data, folder=folder):.1e}"
    return f"--data.batch_size {find_batch_size(trainer, model, data, images=images)}"


def find_lr(trainer: Trainer, model: Classifier, data: LightningDataModule, *, folder: Path) -> float:
    """Raise the learning rate from step to step until the loss rises, and take a tenth of the last good one.

    The curve is drawn and written as ``find_lr-001.png`` and ``.csv``; the numbers count up. Schedule, warm-up and
    frozen epochs are left out of the search. With layer-wise rates it is the head's that is found.

    Args:
        trainer: Made with `SETTINGS`; its ``default_root_dir`` holds the weights for as long as the search takes.
        model: The classifier; not to be used any more.
        data: What it would be trained on.
        folder: Where the curve is written.
    Raises:
        UserError: If the loss never falls, or with several processes, each of which would find its own.
    Source: Smith 2017, arXiv:1506.01186, sec. 3.3.
    """
    _require_one_process("find_lr", trainer)
    train_plainly(model)
    curve = _Curve(model)
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):  # of Lightning's own progress bar
        Tuner(trainer).lr_find(model, datamodule=data, min_lr=1e-6, max_lr=10.0, update_attr=False)
    smoothed = moving_average(curve.losses)
    found = suggest(curve.rates, smoothed)
    place = _next_place(folder)
    rows = zip(curve.rates, curve.losses, smoothed, strict=False)  # the last losses may be no numbers any more
    replace_csv(place.with_suffix(".csv"), ("lr", "loss", "smoothed"), rows)
    numbers = {"rates": curve.rates[: len(smoothed)], "losses": smoothed, "found": found}
    Drawing(place.with_suffix(".png"), learning_rates, numbers).draw()
    log.info("find_lr: the curve of %d steps is in %s and .csv", len(smoothed), place.with_suffix(".png"))
    if found is None:
        raise UserError("find_lr: the loss never falls; look at the curve, at the data and at the model")
    return found


class _Curve:
    """Rates and losses of a search, one of each per optimizer step.

    Lightning's own losses are smoothed over some fifty steps of its hundred: they lag far behind the rates.

    Args:
        model: What is trained; its optimizer steps with the rate that the search sets for all layers alike, scaled by
            that of the layer.
    """

    def __init__(self, model: Classifier) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._pending: list[float] = []
        model.loss.register_forward_hook(lambda *args: self._pending.append(float(args[-1].detach())))
        make = model.rates.make_optimizer
        model.rates.make_optimizer = lambda groups: self._follow(make(groups))

    def _follow(self, optimizer: Optimizer) -> Optimizer:
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        return optimizer

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        self.rates.append(float(optimizer.param_groups[0]["lr"]))
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rates[-1]
        self.losses.append(sum(self._pending) / len(self._pending))  # of all batches that were accumulated
        self._pending.clear()


def moving_average(losses: list[float], *, radius: int = 5) -> list[float]:
    """Average each loss with its neighbours, up to the first one that is no number."""
    curve = torch.tensor(losses, dtype=torch.float64)
    curve = curve[: int(curve.isfinite().cumprod(0).sum())]
    if not len(curve):
        return []
    means = avg_pool1d(curve[None], 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    return [float(mean) for mean in means[0]]


def suggest(rates: list[float], losses: list[float]) -> float | None:
    """Take a tenth of the rate at which the loss is lowest: there it is about to rise.

    Not where it falls most steeply, as Lightning does: in a search of a hundred steps that is mostly noise, and
    Lightning divides it by the differences of the rates, which at the start of the curve are next to nothing.

    Args:
        rates: Rising, one per step.
        losses: Smoothed, one per step; may end earlier.
    Returns:
        The rate; None where the loss is lowest at the start.
    """
    if not losses:
        return None
    rate = rates[losses.index(min(losses))] / 10
    return rate if rate >= rates[0] else None


def find_batch_size(trainer: Trainer, model: Classifier, data: LightningDataModule, *, images: int) -> int:
    """Double the batch size until memory runs out, and take the last one that went well.

    Args:
        trainer: Made with `SETTINGS`; its ``default_root_dir`` holds the weights for as long as the search takes.
        model: The classifier; not to be used any more.
        data: What it would be trained on; has a ``batch_size``.
        images: Training images; a batch cannot hold more.
    Raises:
        UserError: With several processes, whose batches would all have to be found at once.
    """
    _require_one_process("find_batch_size", trainer)
    train_plainly(model)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    most = LARGEST_BATCH if on_gpu else LARGEST_BATCH_ON_CPU
    # Lightning gives up before it tries its own maximum; the first power of two that holds all images is tried.
    limit = min(most, 2 ** math.ceil(math.log2(images))) + 1
    found = Tuner(trainer).scale_batch_size(model, datamodule=data, max_val=limit)
    assert found is not None, "only fast_dev_run finds nothing"
    if found < limit:
        return found
    if images <= most:
        log.info("find_batch_size: all %d training images fit into one batch", images)
    else:
        reason = "" if on_gpu else " (without a GPU there is no limit to find, and larger is hardly faster)"
        log.info("find_batch_size: larger batches than %d are not tried%s", most, reason)
    return min(images, most)


def _require_one_process(name: str, trainer: Trainer) -> None:
    if trainer.world_size > 1:
        raise UserError(f"{name} works in one process: add --trainer.devices 1 --trainer.strategy auto")


def train_plainly(model: Classifier) -> None:
    """Leave out what a search has no time for: schedule, warm-up, and epochs in which only the head is trained."""
    model.rates.make_schedule = None
    model.rates.warmup.epochs = 0.0
    model.freeze_epochs = 0


def _next_place(folder: Path) -> Path:
    """Name the next free ``find_lr-001``, without a suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(number[1]) for path in folder.iterdir() if (number := re.fullmatch(r"find_lr-(\d+)\..*", path.name))]
    return folder / f"find_lr-{max(taken, default=0) + 1:03d}"

"""Checkpoints: the best epochs by score, and one state from which training goes on bit for bit."""

import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal
from weakref import proxy

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import override

from clf.durable import WholeFiles, put, second_name
from clf.errors import UserError, did_you_mean
from clf.files import partial_of
from clf.processes import from_first
from clf.runs import BEST, LAST, PREVIOUS
from clf.sums import SUMS

log = logging.getLogger("clf")


class Checkpoint(ModelCheckpoint):
    """Keeps the best epochs, ``best.ckpt`` (the best of them) and ``last.ckpt`` (from where training goes on).

    Files are written where Lightning's loops stand still: before a batch, before an epoch, before or in a validation,
    and at the end of training. There everything that belongs to the steps behind is done (schedules, moving average,
    log rows, early stopping), and `settle` makes a resumed run start at just that point. A file is written under
    another name and then put in place, so that a kill or a full disk leaves the old one whole.

    Args:
        monitor: Metric that decides which epochs are the best.
        mode: ``max`` when more is better, ``min`` when less is.
        save_top_k: How many of the best epochs to keep; -1 keeps all.
        every_n_epochs: Consider every n-th epoch for the best.
        every_n_train_steps: Also refresh ``last.ckpt`` every n optimizer steps; null does not.
        every_n_minutes: Also refresh ``last.ckpt`` after so many minutes; null does not.
        filename: Name of a kept epoch with ``{epoch}``, ``{step}`` and metrics in braces, e.g.
            ``{epoch:03d}-{val/loss:.3f}``; slashes become underscores. Default: epoch and score.
        save_weights_only: Keep only the weights of the best epochs; ``last.ckpt`` always holds everything.
        dirpath: Folder of the files; in a run ``checkpoints`` in its directory and nothing else.
    Raises:
        UserError: If a value is out of range, or ``filename`` is no template.
    """

    def __init__(
        self,
        monitor: str = "val/acc_top1",
        mode: Literal["min", "max"] = "max",
        save_top_k: int = 3,
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        every_n_minutes: float | None = 5.0,
        filename: str | None = None,
        save_weights_only: bool = False,
        dirpath: str | None = None,
    ) -> None:
        if dirpath is not None and "://" in dirpath:
            raise UserError(f"callbacks.checkpoint.dirpath={dirpath!r} is a URL; give a folder, e.g. a mounted one")
        if save_top_k < 1 and save_top_k != -1:
            raise UserError(f"callbacks.checkpoint.save_top_k={save_top_k} keeps no best epoch; give 1 or more, or -1")
        intervals = {"epochs": every_n_epochs, "train_steps": every_n_train_steps, "minutes": every_n_minutes}
        for unit, value in intervals.items():
            if value is not None and not value > 0:
                raise UserError(f"callbacks.checkpoint.every_n_{unit}={value} must be positive")
        super().__init__(
            dirpath=dirpath,
            filename=filename or f"{{epoch:03d}}-{{{monitor}:.4f}}",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_weights_only=save_weights_only,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        try:
            super()._format_checkpoint_name(self.filename, {})
        except (KeyError, ValueError) as error:
            hint = "write e.g. '{epoch:03d}-{val/loss:.3f}'"
            raise UserError(f"callbacks.checkpoint.filename={filename!r}: {error}; {hint}") from error
        self._every_n_steps = every_n_train_steps
        self._every_n_seconds = None if every_n_minutes is None else 60 * every_n_minutes
        self._written_step = 0
        self._written_time = 0.0
        self._scored: dict[str, Tensor] | None = None  # the metrics of weights that wait to be considered
        self._epoch_ended = False  # whether an epoch waits for its last.ckpt
        self._told = False
        self._last_is_whole = False  # whether last.ckpt is worth keeping once there is a newer one
        self._off = False  # fast_dev_run leaves no files
        self._metrics_before: dict[str, Tensor] = {}  # of the run that is resumed

    @property
    @override
    def state_key(self) -> str:
        # Lightning's key names the intervals, too: a run resumed with other ones would forget its best epochs.
        return Checkpoint.__qualname__

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        assert self.dirpath is not None, "known from setup on"
        return Path(self.dirpath)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with warnings.catch_warnings():
            # A resumed run writes where its files are.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)
        self._scored, self._epoch_ended, self._told, self._metrics_before = None, False, False, {}
        self._off = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        taken = [name for name in (BEST, LAST, PREVIOUS, SUMS) if (self.folder / name).is_dir()]
        if taken and stage == "fit":
            raise UserError(f"{self.folder}/{taken[0]} is a folder, where a file belongs; move it away")
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the default, and nobody's choice
            trainer.strategy.checkpoint_io = WholeFiles()

    # When to write

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written_step, self._written_time = trainer.global_step, time.monotonic()
        # Not if the run goes on from an older file: that is kept, and not the damaged one.
        resumed = trainer.ckpt_path
        self._last_is_whole = resumed is not None and Path(resumed).resolve() == (self.folder / LAST).resolve()
        trainer.callback_metrics.update(self._metrics_before)
        epochs = trainer.fit_loop.epoch_progress.current
        if epochs.ready == epochs.completed:
            # With max_steps, Lightning takes every resumed run for one cut in mid-epoch and would skip a whole epoch.
            trainer.fit_loop.epoch_loop.restarting = False

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch_ended:
            self.write_last(trainer)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._keep_if_best(trainer)
        if self.can_write_last(trainer) and self._is_due(trainer):
            self.write_last(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _is_fitting(trainer):
            return
        # What `settle` told Lightning about an unfinished validation is not true of the next one.
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()
        if self.can_write_last(trainer) and self._is_due(trainer):
            self.write_last(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _is_fitting(trainer) and not self._trains_for_score:
            self._scored = self._monitor_candidates(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_ended = True
        if self._scored is not None or self._trains_for_score or not trainer.enable_validation:
            self._scored = self._monitor_candidates(trainer)  # now with the epoch's training metrics
        # Lightning would not step ReduceLROnPlateau at the end of an epoch that was resumed.
        trainer.fit_loop._restarting = False

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch_ended:
            self.write_last(trainer)
        if not self.best_model_path:
            self._say_there_is_no_best(trainer)

    @property
    def _trains_for_score(self) -> bool:
        return self.monitor is not None and self.monitor.startswith("train/")

    def can_write_last(self, trainer: Trainer) -> bool:
        """Say whether `write_last` would lose nothing: before a batch, and before or in a validation.

        It would inside an accumulation window: gradients are in no checkpoint. Before an epoch's first batch there is
        nothing to write that the end of the epoch before has not written.
        """
        loop = trainer.fit_loop.epoch_loop
        if trainer.validating:
            return not loop._should_accumulate()
        done = loop.batch_progress.current.completed
        return done > 0 and done % trainer.accumulate_grad_batches == 0

    def _is_due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        due = self._every_n_steps is not None and step % self._every_n_steps == 0 and step > self._written_step
        if self._every_n_seconds is not None:
            due |= time.monotonic() - self._written_time >= self._every_n_seconds
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    # What to write

    def write_last(self, trainer: Trainer) -> Path | None:
        """Write ``last.ckpt`` now; for all ranks, where `can_write_last` holds or between two epochs.

        Returns:
            The file; None under ``fast_dev_run``, which leaves no files.
        """
        if self._off:
            return None
        last = self.folder / LAST
        self.last_model_path = str(last)
        kept = self._keep_if_best(trainer)
        write = partial(_link, kept) if kept and not self.save_weights_only else partial(_save, trainer)
        _put(trainer, last, write=write, keeping_previous=self._last_is_whole)
        self._last_is_whole = True
        self._epoch_ended = False
        self._written_step, self._written_time = trainer.global_step, time.monotonic()
        return last

    def _keep_if_best(self, trainer: Trainer) -> Path | None:
        """Write the weights that wait to be considered if they are among the best; returns their file."""
        metrics, self._scored = self._scored, None
        if metrics is None or self._off or (int(metrics["epoch"]) + 1) % self._every_n_epochs:
            return None
        if self.monitor not in metrics:
            if trainer.enable_validation:
                raise _unknown_metric("monitor", self.monitor, str(self.monitor), metrics)
            self._say_there_is_no_best(trainer)
            return None
        self._last_checkpoint_saved = ""
        self._save_monitor_checkpoint(trainer, metrics)
        return Path(self._last_checkpoint_saved) if self._last_checkpoint_saved else None

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        write = partial(_save_weights if self.save_weights_only else _save, trainer)
        _put(trainer, Path(filepath), write=write)
        if filepath == self.best_model_path:
            _put(trainer, self.folder / BEST, write=partial(_link, Path(filepath)))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    def _say_there_is_no_best(self, trainer: Trainer) -> None:
        if not self._told and trainer.is_global_zero:
            log.warning("no epoch was scored by %s: %s is written, but no %s", self.monitor, LAST, BEST)
        self._told = True

    @override
    def _format_checkpoint_name(
        self, filename: str | None, metrics: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> str:
        known = dict(metrics)
        name: str = super()._format_checkpoint_name(filename, metrics, *args, **kwargs)
        if unknown := metrics.keys() - known:  # Lightning puts in zeros
            raise _unknown_metric("filename", filename, min(unknown), known)
        return name.replace("/", "_")

    # What to remember

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mode": self.mode}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up scores and files again, also in a run directory that was moved."""
        if (state_dict["monitor"], state_dict["mode"]) != (self.monitor, self.mode):
            before = f"{state_dict['mode']} {state_dict['monitor']}"
            log.warning("the best epochs were judged by %s, now by %s %s: start anew", before, self.mode, self.monitor)
            return
        # Of several machines, the others need not have the files.
        if state_dict["best_model_path"] and not from_first((self.folder / BEST).exists()):
            log.warning("%s has no %s: the best epochs of the resumed run lie elsewhere; start anew", self.folder, BEST)
            return

        def here(path: str) -> str:
            # What was kept will be removed one day: it must be a file, and in here.
            if path and not path.endswith(".ckpt"):
                raise UserError(f"the checkpoint to go on from speaks of {path!r} as one of its run; give another one")
            return str(self.folder / Path(path).name) if path else ""

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": scores, "dirpath": self.dirpath})
        self.current_score = state_dict["current_score"]

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            # Early stopping and ReduceLROnPlateau look at the newest metrics, of whichever epoch. What the clock says
            # is left out: equal runs have equal checkpoints.
            metrics = trainer.callback_metrics.items()
            checkpoint["callback_metrics"] = {key: value for key, value in metrics if not key.startswith("time/")}
            accumulate = trainer.accumulate_grad_batches
            settle(checkpoint["loops"]["fit_loop"], validating=trainer.validating, accumulate=accumulate)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._metrics_before = checkpoint.get("callback_metrics", {})
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        averaging = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        if "current_model_state" in checkpoint and not averaging:
            log.warning("the checkpoint holds a moving average, but callbacks.ema is off: training goes on without it")
            pl_module.load_state_dict(checkpoint["current_model_state"])


def settle(fit_loop: dict[str, Any], *, validating: bool, accumulate: int) -> None:
    """Rewrite the counters of a checkpoint so that a resumed run starts where it was written.

    Lightning counts batches and epochs as ready, started, processed and completed, and guesses from these where a run
    was cut. Of its guesses three are exact; the counters are made to mean one of them.

    Args:
        fit_loop: ``checkpoint["loops"]["fit_loop"]``; changed in place.
        validating: Whether a validation is about to start, or running: it will run again from its first batch.
        accumulate: Batches per optimizer step.
    """
    epochs, batches = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    nothing = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    if validating:
        # "Restarted mid-evaluation": the training step is done, and one batch of its validation was begun.
        validated = fit_loop["epoch_loop.val_loop.batch_progress"]
        before = validated["total"]["completed"] - validated["current"]["completed"]
        begun = {"ready": before + 1, "started": before + 1, "processed": before, "completed": before}
        validated |= {"total": begun, "current": nothing, "is_last_batch": False}
    elif epochs["current"]["started"] == epochs["current"]["processed"]:
        # Between two epochs: the next, which Lightning has already counted as ready, begins.
        for count in (epochs["total"], epochs["current"]):
            count["ready"] = count["started"]
    elif batches["current"]["ready"] > batches["current"]["started"] > 0:
        # Before a batch, which will be fetched again: "restarted on train batch end". Then Lightning itself completes
        # the batch before it, counts its optimizer step for the logs, and takes its validation, if any, for done.
        stepped = batches["current"]["started"] % accumulate == 0
        for count in (batches["total"], batches["current"]):
            count["ready"] -= 1
            count["completed"] -= 1
        batches["is_last_batch"] = False
        fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= stepped


def _is_fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _unknown_metric(key: str, value: str | None, metric: str, metrics: dict[str, Tensor]) -> UserError:
    names = sorted(metrics)
    there = f"{metric!r} is not logged; there are {', '.join(names)}{did_you_mean(metric, names)}"
    return UserError(f"callbacks.checkpoint.{key}={value!r}: {there}")


def _save(trainer: Trainer, path: Path) -> str | None:
    """Write everything; returns the file's SHA-256 where it is known."""
    trainer.save_checkpoint(path)
    return _sum(trainer, path)


def _save_weights(trainer: Trainer, path: Path) -> str | None:
    """Write the weights that a full checkpoint would hold.

    Lightning asks callbacks only about full ones: without this a moving average, which is what was scored, would be
    left out.
    """
    connector = trainer._checkpoint_connector
    checkpoint = connector.dump_checkpoint(weights_only=True)
    checkpoint["state_dict"] = connector.dump_checkpoint(weights_only=False)["state_dict"]
    trainer.strategy.save_checkpoint(checkpoint, path)
    return _sum(trainer, path)


@rank_zero_only
def _link(source: Path, target: Path) -> str | None:
    return second_name(source, target)


def _sum(trainer: Trainer, path: Path) -> str | None:
    io = trainer.strategy.checkpoint_io
    return io.take_sum(path) if isinstance(io, WholeFiles) else None


def _put(trainer: Trainer, path: Path, *, write: Callable[[Path], str | None], keeping_previous: bool = False) -> None:
    """Write a file beside its place, make it durable and put it there in one step.

    Args:
        trainer: Says which rank has the files.
        path: The place.
        write: Writes the file; called on all ranks, because they may have to gather what is written.
        keeping_previous: Whether the old file stays, under another name.
    """
    if trainer.is_global_zero:
        put(path, write=write, keeping_previous=keeping_previous)
    else:
        write(partial_of(path))

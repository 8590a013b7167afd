"""Which callbacks a verb works with, and where each of them writes."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.model_info import ModelInfo
from clf.callbacks.predictions import Predictions
from clf.errors import UserError
from clf.pictures import Pictures
from clf.runs import Run

log = logging.getLogger("clf")

EVALUATION_CALLBACKS = ("interrupt", "predictions", "progress", "report")
"""What is attached outside of fit, beside whatever wants to see evaluations; the others watch training."""

WRITING_CALLBACKS = (
    "checkpoint",
    "history",
    "lr_monitor",
    "model_info",
    "onnx_export",
    "predictions",
    "report",
    "timing",
)
"""What a dry run (``trainer.fast_dev_run``), which has no directory, goes without."""


def choose(configured: Mapping[str, Callback | None], *, verb: str, trainer: Mapping[str, Any]) -> dict[str, Callback]:
    """Choose a verb's callbacks.

    Args:
        configured: Callbacks by name; None is switched off.
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        trainer: The trainer's configuration.
    """
    callbacks = {name: callback for name, callback in configured.items() if callback is not None}
    if verb != "fit":
        callbacks = {
            name: callback
            for name, callback in callbacks.items()
            if name in EVALUATION_CALLBACKS or hasattr(callback, "on_evaluated")
        }
    stopper: Any = callbacks.get("early_stopping")
    if trainer["limit_val_batches"] == 0 and stopper and stopper.monitor.startswith("val/"):
        log.warning("callbacks.early_stopping is off: without validation there is no %s", stopper.monitor)
        del callbacks["early_stopping"]
    # What calibrates an evaluation does so before the others say how sure the network is.
    callbacks = dict(sorted(callbacks.items(), key=lambda item: item[0] != "calibration"))
    if trainer["fast_dev_run"]:
        return {name: callback for name, callback in callbacks.items() if name not in WRITING_CALLBACKS}
    return callbacks


def place(callbacks: Mapping[str, Callback], *, run: Run | None, predictions: Path, pictures: Pictures) -> None:
    """Tell callbacks where to write, unless the configuration does.

    Args:
        callbacks: Callbacks by name.
        run: The run directory; None where nothing is written.
        predictions: Folder of per-image files.
        pictures: Who draws.
    Raises:
        UserError: If checkpoints are to lie where nobody would find them.
    """
    checkpoint, writer, info = (callbacks.get(name) for name in ("checkpoint", "predictions", "model_info"))
    if run is not None and isinstance(checkpoint, Checkpoint):
        if checkpoint.dirpath and Path(checkpoint.dirpath) != run.checkpoints.resolve():
            raise UserError(
                f"callbacks.checkpoint.dirpath={checkpoint.dirpath!r}: every command looks for checkpoints in {run}, "
                "and runs that share a folder replace each other's; leave it out (runs/ may be a link to another disk)"
            )
        checkpoint.dirpath = str(run.checkpoints)
    if run is not None and isinstance(info, ModelInfo):
        info.path = run.path / "environment.json"
    if isinstance(writer, Predictions):
        writer.dirpath = writer.dirpath or str(predictions)
    for callback in callbacks.values():
        if hasattr(callback, "pictures"):
            callback.pictures = pictures

"""What the network costs, said once at the start and kept in ``environment.json``."""

import logging
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from clf import results
from clf.classifier import Classifier
from clf.environment import device_name
from clf.errors import UserError
from clf.model_info import COUNTED_BY, count_macs, count_parameters, describe, measure_latency

log = logging.getLogger("clf")


class ModelInfo(Callback):
    """Says parameters, multiply-accumulates and latency of the network, and writes them to ``environment.json``.

    At the end of training the size of the best checkpoint is added. The latency is that of a forward pass in
    evaluation, in the run's precision: the median of ten passes, or of as many as a fifth of a second allows, for a
    single image and for a batch.

    Args:
        latency: Measure how long the network takes.
        batch_size: Images in the larger of the two batches that are timed; null is the training batch.
    Raises:
        UserError: If ``batch_size`` is below 1.
    """

    def __init__(self, latency: bool = True, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise UserError(f"callbacks.model_info.batch_size={batch_size} is too small; give 1 or more")
        self.latency = latency
        self.batch_size = batch_size
        self.path: Path | None = None  # environment.json
        self._facts: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count and measure, in the first process."""
        if not trainer.is_global_zero:
            return
        classifier = cast(Classifier, pl_module)
        total, trained = count_parameters(classifier.network)
        self._facts = {
            "parameters": total,
            "trained": trained,
            "macs": None,
            "macs_counted_by": COUNTED_BY,
            "input": [3, *classifier.preprocessing.size],
        }
        try:
            self._facts["macs"] = count_macs(classifier.network, _images(classifier, 1))
            if self.latency:
                self._facts["latency"] = self._measure(trainer, classifier)
        except Exception as error:  # a network of the user's own may do anything; training need not know
            log.warning("model_info: the network could not be measured: %s: %s", type(error).__name__, error)
        log.info("model: %s", describe(self._facts))
        self._record()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add how large the best checkpoint is; it is written by now."""
        best = Path(getattr(trainer.checkpoint_callback, "best_model_path", ""))
        if trainer.is_global_zero and best.is_file():
            self._facts["checkpoint_bytes"] = best.stat().st_size
            log.info("model: the best checkpoint has %.1f MB", best.stat().st_size / 1e6)
            self._record()

    def _measure(self, trainer: Trainer, classifier: Classifier) -> dict[str, Any]:
        batch: int = self.batch_size or trainer.datamodule.batch_size  # type: ignore[attr-defined]
        with trainer.precision_plugin.forward_context():
            seconds = {
                str(count): measure_latency(classifier.network, _images(classifier, count))
                for count in sorted({1, batch})
            }
        accelerator = "cpu" if classifier.device.type == "cpu" else "auto"
        return {"device": device_name(accelerator), "precision": str(trainer.precision), "seconds": seconds}

    def _record(self) -> None:
        if self.path is not None:
            results.record(self.path, {"model": self._facts})


def _images(classifier: Classifier, count: int) -> torch.Tensor:
    """Make input, float (N, 3, H, W), as the network likes it; what it shows is of no importance."""
    weight = next(classifier.network.parameters())
    images = torch.zeros(count, 3, *classifier.preprocessing.size, device=weight.device, dtype=weight.dtype)
    return images.contiguous(memory_format=torch.channels_last) if classifier.channels_last else images

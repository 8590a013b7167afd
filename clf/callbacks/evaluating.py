"""One scored pass for all who want to look at it: callbacks with a method ``on_evaluated`` get every evaluation."""

import logging
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from clf import results
from clf.classifier import Classifier
from clf.errors import UserError
from clf.evaluation import Evaluation
from clf.metrics import Stage

log = logging.getLogger("clf")


class Evaluating(Callback):
    """Gathers what the one pass over validation or test images gave, and hands it on.

    After each validation of a fit, and after ``validate`` and ``test``, every callback that has a method
    ``on_evaluated(trainer, pl_module, evaluation)`` gets the same `clf.evaluation.Evaluation`, in the first process.
    The best so far goes to ``metrics.json`` at once, with what these callbacks have added to it.

    Args:
        path: ``metrics.json`` of the run; null writes nothing.

    Attributes:
        summary: What the last kept evaluation says.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.summary: dict[str, Any] | None = None
        self._best: dict[str, float] = {}  # by what was judged, e.g. {"max val/acc_top1": 0.93}
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        """Remember the best score, so that a worse epoch does not take its place after a resume."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the score up again."""
        self._best = state_dict["best"]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self._parts = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self._parts = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep what a batch gave."""
        self._keep(outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep what a batch gave."""
        self._keep(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the pass on; checkpoints are written after this hook."""
        if not trainer.sanity_checking:
            self._hand_on(trainer, cast(Classifier, pl_module), "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the pass on."""
        self._hand_on(trainer, cast(Classifier, pl_module), "test")

    def _keep(self, outputs: Any) -> None:
        # Where they are: fetching them from a GPU here would wait for it at every batch.
        self._parts.append((outputs["index"], outputs["labels"], outputs["logits"]))

    def _hand_on(self, trainer: Trainer, classifier: Classifier, split: Stage) -> None:
        columns = _gathered(self._parts)
        self._parts = []
        if not trainer.is_global_zero or columns is None:
            return
        index, labels, logits = columns
        if lost := int((~np.isfinite(logits)).any(axis=1).sum()):
            said = "%s: the network's output is not finite for %d of %d images; what is said of them means nothing"
            log.warning(said, split, lost, len(logits))
        evaluation = Evaluation(
            split,
            epoch=trainer.current_epoch,
            best=self._is_best(trainer),
            classes=classifier.classes,
            samples=trainer.datamodule.samples(split),  # type: ignore[attr-defined]
            index=index,
            labels=labels,
            logits=logits,
            preprocessing=classifier.preprocessing,
            metrics=_logged(trainer, split),
            step=trainer.global_step,
            temperature=classifier.temperature,
        )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "on_evaluated"):
                _tell(callback, trainer, evaluation)
        if evaluation.best:
            self.summary = evaluation.summary()
            if self.path is not None and trainer.state.fn == TrainerFn.FITTING:
                results.record(self.path, {split: self.summary})

    def _is_best(self, trainer: Trainer) -> bool:
        """Judge as `ModelCheckpoint` does: better is strictly better, NaN is the worst there is."""
        checkpoint: Any = next((c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)), None)
        if trainer.state.fn != TrainerFn.FITTING or checkpoint is None or checkpoint.monitor.startswith("train/"):
            return True
        if checkpoint.monitor not in trainer.callback_metrics:
            return True  # the checkpoint callback complains in a moment, and knows better what to say
        if (trainer.current_epoch + 1) % (checkpoint.every_n_epochs or 1):
            return False  # no checkpoint is made of this epoch
        score = float(trainer.callback_metrics[checkpoint.monitor])
        gain = score if checkpoint.mode == "max" else -score
        gain = -math.inf if math.isnan(gain) else gain
        judged_by = f"{checkpoint.mode} {checkpoint.monitor}"
        # Without the entry the score is another directory's, and there the checkpoints start anew, too.
        fresh = self.path is not None and "val" not in results.read(self.path)
        better = fresh or judged_by not in self._best or gain > self._best[judged_by]
        if better:
            self._best = {judged_by: gain}
        return better


def _tell(callback: Any, trainer: Trainer, evaluation: Evaluation) -> None:
    try:
        callback.on_evaluated(trainer, trainer.lightning_module, evaluation)
    except UserError:
        raise
    except Exception:
        # What is raised seldom says whose it is, and a callback may be of the user's own.
        log.error("%s.on_evaluated failed on %s, epoch %d", type(callback).__name__, evaluation.split, evaluation.epoch)
        raise


def _gathered(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Any, Any, Any] | None:
    """Put the batches of all processes into the order of the images: index (N,), labels (N,), logits (N, C)."""
    mine = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    everyone: list[list[Tensor]] = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everyone = [[]] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, mine)
    everyone = [columns for columns in everyone if columns]
    if not everyone:
        return None
    index, labels, logits = (torch.cat(column).numpy() for column in zip(*everyone, strict=True))
    order = np.argsort(index, kind="stable")
    return index[order], labels[order], logits[order]


def _logged(trainer: Trainer, split: str) -> dict[str, float]:
    start = f"{split}/"
    return {k.removeprefix(start): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(start)}

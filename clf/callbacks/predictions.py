"""Per-image predictions of the passes that run anyway, kept as files; the network never runs again for them."""

import logging
import math
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from clf.data.samples import Sample
from clf.errors import UserError
from clf.predictions import Prediction, PredictionWriter, check_suffix, rank
from clf.statistics import Proportion

log = logging.getLogger("clf")

_NOT_FINITE = "the network's output is not finite"


class Predictions(Callback):
    """Writes what was predicted for every image: ``val.csv``, ``test.csv`` and ``predict.csv``.

    ``fit`` leaves the validation predictions of the best epoch, judged by what the checkpoint callback monitors; where
    nothing that validation measures is monitored, those of the newest epoch. The rows are those of the one validation
    pass. A file is whole or not there: see `PredictionWriter`.

    Args:
        top_k: How many labels, with their probabilities, a row holds (fewer if there are fewer classes).
        dirpath: Folder of the files; null writes none. Default: ``predictions`` in the run directory.
        output: File that ``clf predict`` writes; its suffix (.csv, .jsonl, .parquet) decides the format.
            Default: ``predict.csv`` in `dirpath`.

    Attributes:
        rows: Images of the last pass.
        errors: How many of them have an error instead of a prediction.
        correct: How many of those with a label were predicted right.
        labelled: How many predicted images had a label.

    Raises:
        UserError: If `top_k` is below 1 or `output` has another suffix.
    """

    def __init__(self, top_k: int = 5, dirpath: str | None = None, output: str | None = None) -> None:
        if top_k < 1:
            raise UserError(f"callbacks.predictions.top_k={top_k} is too small; give 1 or more")
        if output is not None:
            check_suffix(Path(output))
        self.top_k = top_k
        self.dirpath = dirpath
        self.output = output
        self.rows = self.errors = self.correct = self.labelled = 0
        self._best: dict[str, float] = {}  # by what was judged, e.g. {"max val/acc_top1": 0.93}
        self._writer: PredictionWriter | None = None
        self._samples: list[Sample] = []

    @property
    def accuracy(self) -> Proportion | None:
        """Top-1 accuracy over the predicted images whose label is known; None where none is."""
        return Proportion(self.correct, self.labelled) if self.labelled else None

    def state_dict(self) -> dict[str, Any]:
        """Remember the score of the kept file, so that a worse epoch does not replace it after a resume."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the score up again."""
        self._best = state_dict["best"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say once what several processes cost here."""
        if trainer.world_size > 1 and trainer.is_global_zero:
            log.warning("predictions: only the images of the first of %d processes are written", trainer.world_size)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin ``val.csv``."""
        if not trainer.sanity_checking:
            self._start(trainer, pl_module, _datamodule(trainer).samples("val"), self._path("val.csv"))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin ``test.csv``."""
        self._start(trainer, pl_module, _datamodule(trainer).samples("test"), self._path("test.csv"))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin `output` or ``predict.csv``."""
        path = Path(self.output) if self.output is not None else self._path("predict.csv")
        self._start(trainer, pl_module, _datamodule(trainer).predict_samples, path)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write a batch."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write a batch."""
        self._write(trainer, pl_module, outputs, batch)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write a batch."""
        self._write(trainer, pl_module, outputs, batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep ``val.csv`` if this is the best epoch so far; checkpoints are written after this hook."""
        if self._writer is not None and not self._is_best(trainer):
            self._writer.abort()
            self._writer = None
        self._close()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish ``test.csv``."""
        self._close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the predictions."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half file behind."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def _path(self, name: str) -> Path | None:
        return None if self.dirpath is None else Path(self.dirpath) / name

    def _start(self, trainer: Trainer, pl_module: LightningModule, samples: list[Sample], path: Path | None) -> None:
        self.rows = self.errors = self.correct = self.labelled = 0
        self._samples = samples
        if path is None or not trainer.is_global_zero:
            return
        known = any(sample.label is not None for sample in samples)
        self._writer = PredictionWriter(path, top_k=min(self.top_k, len(_classes(pl_module))), labelled=known)

    def _write(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        logits: Tensor = outputs["logits"]  # (N, C)
        indices: list[int] = outputs["index"].tolist()
        ranked = rank(logits.float().cpu().numpy(), _classes(pl_module), top_k=self.top_k)
        # Whatever could not be read takes its place among the others.
        found = {index: (labels, "" if labels else _NOT_FINITE) for index, labels in zip(indices, ranked, strict=True)}
        found |= {index: ((), message) for index, message in batch.get("errors", [])}
        rows = [
            Prediction(self._samples[index].path, labels, self._samples[index].label, error)
            for index, (labels, error) in sorted(found.items())
        ]
        self._count(rows)
        if self._writer is not None:
            self._writer.write(rows)

    def _count(self, rows: list[Prediction]) -> None:
        known = [row for row in rows if row.true is not None and not row.error]
        self.rows += len(rows)
        self.errors += sum(bool(row.error) for row in rows)
        self.labelled += len(known)
        self.correct += sum(row.label == row.true for row in known)

    def _is_best(self, trainer: Trainer) -> bool:
        """Judge as `ModelCheckpoint` does: better is strictly better, NaN is the worst there is."""
        assert self._writer is not None
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
        # Without the file the score is another directory's, and there the checkpoints start anew, too.
        better = judged_by not in self._best or gain > self._best[judged_by] or not self._writer.path.exists()
        if better:
            self._best = {judged_by: gain}
        return better

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _datamodule(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]


def _classes(pl_module: LightningModule) -> list[str]:
    return cast(list[str], pl_module.classes)

"""Per-image predictions of the passes that run anyway, kept as files; the network never runs again for them."""

from pathlib import Path
from typing import Any, cast

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from clf.classifier import Classifier
from clf.data.samples import Sample
from clf.errors import UserError
from clf.evaluation import Evaluation
from clf.predictions import NOT_FINITE, Prediction, PredictionWriter, Ranked, Tally, check_suffix, rank

_ROWS_AT_ONCE = 4096


class Predictions(Callback):
    """Writes what was predicted for every image: ``val.csv``, ``test.csv`` and ``predict.csv``.

    Confidences are calibrated by the temperature of the checkpoint, see `clf.callbacks.calibration.Calibration`.
    ``fit`` leaves the validation predictions of the best epoch, judged by what the checkpoint callback monitors; where
    nothing that validation measures is monitored, those of the newest epoch. The rows are those of the one validation
    pass. A file is whole or not there: see `PredictionWriter`.

    Args:
        top_k: How many labels, with their probabilities, a row holds (fewer if there are fewer classes).
        dirpath: Folder of the files; null writes none. Default: ``predictions`` in the run directory.
        output: File that ``clf predict`` writes; its suffix (.csv, .jsonl, .parquet) decides the format.
            Default: ``predict.csv`` in `dirpath`.

    Attributes:
        tally: What became of the images of the last ``predict``, in the first process.

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
        self.tally = Tally()
        self._writer: PredictionWriter | None = None
        self._samples: list[Sample] = []

    def on_evaluated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        """Write ``val.csv`` or ``test.csv`` if this is what the run keeps."""
        path = self._path(f"{evaluation.split}.csv")
        if path is None or not evaluation.best:
            return
        classes, indices = evaluation.classes, evaluation.index.tolist()
        with PredictionWriter(path, top_k=min(self.top_k, len(classes)), labelled=True) as writer:
            for start in range(0, len(indices), _ROWS_AT_ONCE):
                batch = slice(start, start + _ROWS_AT_ONCE)
                ranked = rank(evaluation.logits[batch] / evaluation.temperature, classes, top_k=self.top_k)
                writer.write(
                    Prediction(evaluation.samples[index].path, labels, evaluation.samples[index].label, _error(labels))
                    for index, labels in zip(indices[batch], ranked, strict=True)
                )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin `output` or ``predict.csv``."""
        self.tally = Tally()
        self._samples = cast(Any, trainer).datamodule.predict_samples
        path = Path(self.output) if self.output is not None else self._path("predict.csv")
        if path is None or not trainer.is_global_zero:
            return
        known = any(sample.label is not None for sample in self._samples)
        self._writer = PredictionWriter(
            path, top_k=min(self.top_k, len(cast(Classifier, pl_module).classes)), labelled=known
        )

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write a batch."""
        classifier = cast(Classifier, pl_module)
        logits: Tensor = outputs["logits"].float() / classifier.temperature  # (N, C)
        indices: list[int] = outputs["index"].tolist()
        ranked = rank(logits.cpu().numpy(), classifier.classes, top_k=self.top_k)
        # Whatever could not be read takes its place among the others.
        found = {index: (labels, _error(labels)) for index, labels in zip(indices, ranked, strict=True)}
        found |= {index: ((), message) for index, message in batch.get("errors", [])}
        rows = [
            Prediction(self._samples[index].path, labels, self._samples[index].label, error)
            for index, (labels, error) in sorted(_of_all_processes(found).items())
        ]
        self.tally.add(rows)
        if self._writer is not None:
            self._writer.write(rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the predictions."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half file behind."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def _path(self, name: str) -> Path | None:
        return None if self.dirpath is None else Path(self.dirpath) / name


def _of_all_processes(found: dict[int, tuple[Ranked, str]]) -> dict[int, tuple[Ranked, str]]:
    """Bring a batch of all processes to the first one: together they are the next images in a row."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    first = torch.distributed.get_rank() == 0
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.gather_object(found, everyone if first else None, dst=0)
    return {index: row for one in everyone if one for index, row in one.items()}


def _error(labels: Ranked) -> str:
    return "" if labels else NOT_FINITE

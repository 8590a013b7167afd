"""What training draws, class by class, against what it should draw."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from clf.data.datamodule import ImageData
from clf.errors import UserError
from clf.figures import data as figures
from clf.files import replace_csv, spelled_out
from clf.pictures import Pictures

log = logging.getLogger("clf")

_COLUMNS = ["epoch", "class", "drawn", "expected"]
_Draws = dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]


class SamplerDistribution(Callback):
    """Compares the samples that each epoch draws of each class with what the sampler's weights let expect.

    Drawn as ``sampler`` and kept as ``sampler.csv`` beside it, one row for each epoch and class. Both come from the
    epoch's plan, over all processes, and not from the batches; a resumed run goes on in the same file.
    """

    def __init__(self) -> None:
        self.pictures = Pictures(None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch, in the first process."""
        folder = self.pictures.folder
        if folder is None or not trainer.is_global_zero:
            return
        data = cast(ImageData, cast(Any, trainer).datamodule)
        epoch, path = trainer.current_epoch, folder / "sampler.csv"
        try:
            draws = {at: row for at, row in _read(path, data.classes).items() if at < epoch}
        except UserError as error:
            log.warning("sampler.csv was not continued: %s", error)
            return
        draws[epoch] = data.drawing.class_draws(epoch)
        replace_csv(path, _COLUMNS, _rows(draws, data.classes))
        drawn, expected = zip(*draws.values(), strict=True)
        self.pictures.draw(
            "sampler",
            figures.sampler,
            key="data/sampler",
            step=trainer.global_step,
            classes=data.classes,
            images=data.class_counts,
            epochs=list(draws),
            drawn=np.stack(drawn),
            expected=np.stack(expected),
            title=f"Sampler: {'none' if data.sampler is None else type(data.sampler).__name__}",
        )


def _rows(draws: _Draws, classes: list[str]) -> Iterator[tuple[int, str, int, float]]:
    for epoch, columns in draws.items():
        for name, drawn, expected in zip(classes, *(column.tolist() for column in columns), strict=True):
            yield epoch, name, drawn, round(expected, 3)


def _read(path: Path, classes: list[str]) -> _Draws:
    """Read what earlier epochs drew; none where there is no file, or it is about other classes."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found: dict[int, list[tuple[str, int, float]]] = {}
        for row in rows:
            found.setdefault(int(row["epoch"]), []).append((row["class"], int(row["drawn"]), float(row["expected"])))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not what clf wrote there ({error}); mend or remove the file") from error
    return {
        epoch: (np.array([n for _, n, _ in each]), np.array([n for _, _, n in each]))
        for epoch, each in found.items()
        if [name for name, _, _ in each] == [spelled_out(name) for name in classes]
    }

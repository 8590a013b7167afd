"""What trackers get beside scalars: pictures, tables and final numbers, as each tracker's own objects."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger


def log_picture(loggers: Iterable[Logger], path: Path, *, key: str, step: int) -> None:
    """Send a picture to W&B and TensorBoard.

    Args:
        loggers: The trainer's.
        path: The file, a PNG.
        key: What it is called there, e.g. ``val/confusion_matrix``.
        step: The training step that it shows.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [str(path)])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, _pixels(path), step, dataformats="HWC")


def log_table(loggers: Iterable[Logger], *, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Send a table to W&B; TensorBoard has none."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key, columns=list(columns), data=[list(row) for row in rows])


def log_summary(loggers: Iterable[Logger], values: Mapping[str, Any]) -> None:
    """Set a run's final numbers in W&B; TensorBoard has the scalars already."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(values))


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))

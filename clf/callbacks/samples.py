"""A few validation images and what is predicted for them, drawn again with every best epoch."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer

from clf.errors import UserError
from clf.evaluation import Evaluation
from clf.figures.galleries import Tile, gallery
from clf.pictures import Pictures


class Samples(Callback):
    """Draws the first validation images with label, prediction and confidence.

    The picture, ``plots/samples.png``, shows what the network gets to see, with the best epoch's predictions.

    Args:
        count: How many images.
    Raises:
        UserError: If ``count`` is below 1.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise UserError(f"callbacks.samples.count={count} shows nothing; give 1 or more, or callbacks.samples=null")
        self.count = count
        self.pictures = Pictures(None)

    def on_evaluated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        """Draw, if this is the best validation so far."""
        if evaluation.split != "val" or not evaluation.best:
            return
        tiles = [_tile(evaluation, row) for row in range(min(self.count, len(evaluation)))]
        right = sum(tile.right for tile in tiles)
        self.pictures.draw(
            "samples",
            gallery,
            key="val/samples",
            step=trainer.global_step,
            title=f"The first {len(tiles)} validation images",
            subtitle=f"{right} of {len(tiles)} right in epoch {evaluation.epoch}",
            tiles=tiles,
            preprocessing=evaluation.preprocessing,
        )


def _tile(evaluation: Evaluation, row: int) -> Tile:
    sample, confidence = evaluation.samples[evaluation.index[row]], float(evaluation.confidence[row])
    predicted = None if math.isnan(confidence) else evaluation.classes[evaluation.predicted[row]]
    return Tile(sample.path, evaluation.classes[evaluation.labels[row]], predicted, confidence)

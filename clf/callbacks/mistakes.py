"""What a network gets most confidently wrong, and where it looked."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from clf.checkpoints import read_weights
from clf.classifier import Classifier
from clf.data.samples import SCORED_SPLITS
from clf.errors import UserError
from clf.evaluation import Evaluation
from clf.figures.galleries import Tile, gallery
from clf.files import replace_csv
from clf.gradcam import NoFeatureMap, heat_maps
from clf.pictures import Pictures
from clf.preprocess import decode, evaluation_array

log = logging.getLogger("clf")


@dataclass(frozen=True)
class Found:
    """The most confident mistakes of a pass, as primitives that a checkpoint can hold.

    Args:
        split: ``val`` or ``test``.
        epoch: The epoch that training was in.
        step: The training step.
        images: How many images were scored.
        wrong: How many of them were mistakes.
        rows: Path, class, predicted class and confidence of the most confident ones; not a number: no prediction.
    """

    split: str
    epoch: int
    step: int
    images: int
    wrong: int
    rows: list[tuple[str, str, str, float]]


class Mistakes(Callback):
    """Draws the most confident mistakes of the best epoch and of a test, and lists all of them.

    ``plots/mistakes_val.png`` and ``mistakes_test.png`` show each image as the network gets it, with label,
    prediction, confidence and path; ``mistakes_val.csv`` and ``mistakes_test.csv`` list all mistakes, the most
    confident first. Grad-CAM shows where a convolutional network saw the class that it named; networks without a map
    of features, as vision transformers, go without.

    Args:
        count: How many mistakes are drawn.
        grad_cam: Draw where the network looked.
    Raises:
        UserError: If ``count`` is below 1.
    """

    def __init__(self, count: int = 16, grad_cam: bool = True) -> None:
        if count < 1:
            raise UserError(
                f"callbacks.mistakes.count={count} shows nothing; give 1 or more, or callbacks.mistakes=null"
            )
        self.count = count
        self.grad_cam = grad_cam
        self.pictures = Pictures(None)
        self._best: Found | None = None  # of the fit; drawn at its end

    def state_dict(self) -> dict[str, Any]:
        """Remember the best epoch's: a run that is cut off and resumed may find no better one."""
        return {"best": None if self._best is None else asdict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was the best."""
        best = state_dict["best"]
        self._best = None if best is None else Found(**{**best, "rows": [tuple(row) for row in best["rows"]]})

    def on_evaluated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        """List all mistakes if this is what the run keeps; draw, unless a better epoch may come."""
        folder = self.pictures.folder
        if folder is None or not evaluation.best:
            return
        rows = mistakes(evaluation)
        columns = ["path", "true", "label", "confidence"]
        replace_csv(folder / f"mistakes_{evaluation.split}.csv", columns, map(_cells, rows))
        shown = rows[: self.count]
        found = Found(evaluation.split, evaluation.epoch, trainer.global_step, len(evaluation), len(rows), shown)
        if trainer.state.fn == TrainerFn.FITTING:
            self._best = found
        else:
            self._draw(trainer, cast(Classifier, pl_module), found)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw those of the best epoch, with its weights; the best checkpoint is written by now."""
        if self._best is not None and trainer.is_global_zero:
            named = {path for path, *_ in self._best.rows}
            # A checkpoint may come from elsewhere: no file is opened because it says so.
            ours = named.intersection(trainer.datamodule.samples("val").paths)  # type: ignore[attr-defined]
            rows = [row for row in self._best.rows if row[0] in ours]
            self._draw(trainer, cast(Classifier, pl_module), replace(self._best, rows=rows))

    def _draw(self, trainer: Trainer, classifier: Classifier, found: Found) -> None:
        heat = self._heat(trainer, classifier, found.rows)
        roots = trainer.datamodule.catalogue.roots  # type: ignore[attr-defined]
        places = _below(roots, [path for path, *_ in found.rows])
        tiles = [
            Tile(path, label, None if math.isnan(sure) else named, sure, place, heat=where)
            for (path, label, named, sure), place, where in zip(found.rows, places, heat, strict=True)
        ]
        share = f"{found.wrong} of {found.images} {SCORED_SPLITS[found.split]} images were mistaken"
        when = f" in epoch {found.epoch}" if found.split == "val" else ""
        seen = "; beside an image, where the network saw the class that it named (Grad-CAM)"
        self.pictures.draw(
            f"mistakes_{found.split}",
            gallery,
            key=f"{found.split}/mistakes",
            step=found.step,
            title="The most confident mistakes" if tiles else "No mistakes",
            subtitle=f"{share}{when}{seen if any(tile.heat is not None for tile in tiles) else ''}",
            tiles=tiles,
            preprocessing=classifier.preprocessing,
        )

    def _heat(
        self, trainer: Trainer, classifier: Classifier, rows: Sequence[tuple[str, str, str, float]]
    ) -> list[NDArray[Any] | None]:
        """Find where the network looked, on those images of which it said anything."""
        heat: list[NDArray[Any] | None] = [None] * len(rows)
        said = [place for place, (*_, sure) in enumerate(rows) if not math.isnan(sure)]
        if not self.grad_cam or not said:
            return heat
        try:
            arrays = [evaluation_array(decode(rows[place][0]), classifier.preprocessing) for place in said]
            found = heat_maps(
                classifier.network,
                torch.from_numpy(np.stack(arrays)),  # (N, 3, H, W)
                [classifier.classes.index(rows[place][2]) for place in said],
                # A fit ends with the last epoch's weights; a test has those that it tests.
                weights=_best_weights(trainer) if trainer.state.fn == TrainerFn.FITTING else None,
                device=trainer.strategy.root_device,
            )
            for place, where in zip(said, found, strict=True):
                heat[place] = where
        except NoFeatureMap as reason:
            log.info("mistakes: no Grad-CAM for this network: %s", reason)
        except Exception as error:  # a network of the user's own may do anything, and the gallery is whole without
            log.warning("mistakes: Grad-CAM failed, the images are drawn alone: %s: %s", type(error).__name__, error)
        return heat


def mistakes(evaluation: Evaluation) -> list[tuple[str, str, str, float]]:
    """List path, class, predicted class and confidence of all mistakes, the most confident first.

    Where the network's output is no number, the image is a mistake without a prediction: its confidence is no number
    either, and it comes last.
    """
    wrong = np.flatnonzero(~evaluation.correct | np.isnan(evaluation.confidence))
    order = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")]  # puts what is no number last
    return [
        (
            evaluation.samples[evaluation.index[row]].path,
            evaluation.classes[evaluation.labels[row]],
            evaluation.classes[evaluation.predicted[row]],
            float(evaluation.confidence[row]),
        )
        for row in order
    ]


def _cells(row: tuple[str, str, str, float]) -> tuple[str, str, str, str]:
    """Write a mistake as ``predictions/val.csv`` does: without a prediction two cells are empty."""
    path, label, named, sure = row
    return (path, label, "", "") if math.isnan(sure) else (path, label, named, f"{sure:.6g}")


def _best_weights(trainer: Trainer) -> dict[str, Tensor] | None:
    """Read the network's weights of the best epoch; None where no such checkpoint is kept."""
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        return None
    start = "network."
    weights = read_weights(Path(path))
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}


def _below(roots: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Cut the data's folders off."""
    starts = tuple(f"{root}/" for root in roots)
    return [path.removeprefix(next((start for start in starts if path.startswith(start)), "")) for path in paths]

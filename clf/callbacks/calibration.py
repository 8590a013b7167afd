"""Whether the network is as sure as it is right, and the temperature that makes it so."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from clf.calibration import expected_calibration_error, fit_temperature
from clf.classifier import Classifier
from clf.evaluation import Evaluation
from clf.figures.evaluation import reliability
from clf.pictures import Pictures


class Calibration(Callback):
    """Fits a temperature to each validation of fit, and measures the calibration error with and without it.

    The temperature, by which logits are divided for calibrated probabilities, travels in checkpoints. Whatever
    says how sure the network is (predictions, galleries) uses it, ``validate``, ``test`` and ``predict`` as it is.
    ``metrics.json`` gets ``temperature``, ``ece_calibrated`` beside ``ece``, and the images
    by confidence under ``calibration``; the pictures are ``calibration_val`` and ``calibration_test``.
    """

    def __init__(self) -> None:
        self.pictures = Pictures(None)

    def on_evaluated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        """Fit in fit, measure always."""
        if trainer.state.fn == TrainerFn.FITTING:
            evaluation.temperature = fit_temperature(evaluation.logits, evaluation.labels)
            cast(Classifier, pl_module).temperature = evaluation.temperature
        temperature = evaluation.temperature
        before, after = evaluation.reliability(), evaluation.reliability(temperature=temperature)
        evaluation.findings.update(
            temperature=temperature,
            ece_calibrated=expected_calibration_error(after),
            calibration={"before": [each.to_dict() for each in before], "after": [each.to_dict() for each in after]},
        )
        if evaluation.best:
            split = evaluation.split
            self.pictures.draw(
                f"calibration_{split}",
                reliability,
                key=f"{split}/calibration",
                step=trainer.global_step,
                before=before,
                after=after,
                temperature=temperature,
                title=f"Calibration: {split}",
            )

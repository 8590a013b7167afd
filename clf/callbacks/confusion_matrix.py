"""Who is taken for whom: the confusion matrix of every validation and of the test, drawn and counted."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from clf.confusion import Counts
from clf.errors import UserError
from clf.evaluation import Evaluation
from clf.figures.evaluation import confusion_matrix
from clf.files import csv_text, replace_text
from clf.pictures import Pictures


class ConfusionMatrix(Callback):
    """Draws the confusion matrix of validations and of the test, with the class names, by the share of the true class.

    ``confusion_matrix_val`` is the best epoch's, ``confusion_matrix_test`` the test's, each with the raw counts beside
    it as CSV; ``epochs/confusion_matrix_007`` is that of epoch 7.

    Args:
        every_n_epochs: How often a validation of fit is drawn under its epoch; 0 draws only the best.
    Raises:
        UserError: If `every_n_epochs` is negative.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 0:
            raise UserError(
                f"callbacks.confusion_matrix.every_n_epochs={every_n_epochs} is negative; give 1 or more, or 0 for the "
                "best epoch alone"
            )
        self.every_n_epochs = every_n_epochs
        self.pictures: Pictures | None = None

    def on_evaluated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        """Draw, and write the counts of what the run keeps."""
        if self.pictures is None or self.pictures.folder is None:
            return
        fitting, split, epoch = trainer.state.fn == TrainerFn.FITTING, evaluation.split, evaluation.epoch
        kept_key = key = f"{split}/confusion_matrix"
        title = f"Confusion matrix: {split}, epoch {epoch}" if fitting else f"Confusion matrix: {split}"
        numbers = {"counts": evaluation.counts, "classes": evaluation.classes, "title": title}
        if fitting and self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0:
            name = f"epochs/confusion_matrix_{epoch:03d}"
            self.pictures.draw(name, confusion_matrix, key=key, step=trainer.global_step, **numbers)
        if fitting:
            kept_key = f"{key}_best"  # a tracker shows the pictures of one key one after the other
        if evaluation.best:
            name = f"confusion_matrix_{split}"
            self.pictures.draw(name, confusion_matrix, key=kept_key, step=trainer.global_step, **numbers)
            replace_text(self.pictures.folder / f"{name}.csv", as_csv(evaluation.counts, evaluation.classes))


def as_csv(counts: Counts, classes: list[str]) -> str:
    """Write a confusion matrix as CSV: a row for each true class, a column for each predicted one.

    Args:
        counts: Images, int64 (C, C).
        classes: Class names, C.
    """
    rows = [[name, *row] for name, row in zip(classes, counts.tolist(), strict=True)]
    return csv_text([["true", *classes], *rows])

"""Real fits and tests over images on disk, and what they have drawn."""

from pathlib import Path
from typing import Any

from datasets import image_data
from lightning.pytorch import Callback, Trainer
from tiny import tiny
from toy import trainer

from clf.callbacks.evaluating import Evaluating
from clf.classifier import Classifier
from clf.pictures import Pictures


class Drawn(Pictures):
    """Keeps what it is asked to draw; draws it when the test wants to see it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def draw(self, name: str, figure: Any, *, key: str, step: int = 0, **numbers: Any) -> None:
        self.asked.append((name, key, {"figure": figure, "step": step, **numbers}))

    def last(self, name: str) -> dict[str, Any]:
        """What the newest picture of a name shows."""
        return next(numbers for asked, _, numbers in reversed(self.asked) if asked == name)

    def figure(self, name: str) -> Any:
        """Draw the newest picture of a name, here."""
        numbers = {key: value for key, value in self.last(name).items() if key not in ("figure", "step")}
        return self.last(name)["figure"](**numbers)


def pets(**settings: Any) -> Classifier:
    """Build a classifier of cats and dogs that crops what it is fed with."""
    return tiny(**{"classes": ["cat", "dog"]} | settings)


def look(
    root: Path,
    classifier: Classifier,
    callback: Any,
    *others: Callback,
    verb: str = "fit",
    resume: Path | None = None,
    **settings: Any,
) -> Drawn:
    """Fit, or test, on a folder of images with a callback that draws."""
    folder = root.parent / "run"
    drawn = Drawn(folder / "plots")
    callback.pictures = drawn
    data = image_data(root)
    data.bind(classifier.preprocessing, None if verb == "fit" else classifier.classes)
    checkpoints = any(hasattr(other, "best_model_path") for other in others)
    callbacks = [Evaluating(folder / "metrics.json"), callback, *others, drawn]
    made: Trainer = trainer(folder, *callbacks, **{"enable_checkpointing": checkpoints, "max_epochs": 1} | settings)
    if verb == "fit":
        made.fit(classifier, datamodule=data, ckpt_path=resume, weights_only=True)
    else:
        getattr(made, verb)(classifier, datamodule=data, verbose=False)
    return drawn

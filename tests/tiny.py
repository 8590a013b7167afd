"""The real classifier around a network of a few neurons: real fits on random images, in milliseconds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn
from toy import trainer

from clf.classifier import Batch, Classifier

CLASSES = ["0", "00", "1"]


class Net(nn.Sequential):
    """Convolution, BatchNorm, dropout, linear; also what a network of a user's own looks like."""

    def __init__(self, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32, num_classes),
        )


class Loader:
    """The same batches in each epoch."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Resumable(Loader):
    """Goes on where the resumed loop says, like our own loaders."""

    def __init__(self, batches: list[Batch], classifier: Classifier) -> None:
        super().__init__(batches)
        self.classifier = classifier

    def __iter__(self) -> Iterator[Batch]:
        # A generator: what it reads is read at the first batch, when the loops are restored.
        yield from self.batches[self.classifier.trainer.fit_loop.epoch_loop.batch_progress.current.ready :]

    def state_dict(self) -> dict[str, Any]:
        """Have nothing to say: only because Lightning asks for it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have nothing to learn."""


def batch(*labels: int, seed: int = 0) -> Batch:
    """Make a batch of noise with these labels."""
    images = torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return {"images": images, "labels": torch.tensor(labels), "index": torch.arange(len(labels))}


TRAIN = [batch(0, 1, 2, 0, seed=1), batch(1, 0, 0, 2, seed=2), batch(0, 2, seed=3)]
VAL = [batch(0, 0, 1, 2, seed=4), batch(2, seed=5)]


def tiny(**settings: Any) -> Classifier:
    """Build a classifier; equal settings give equal weights."""
    defaults: dict[str, Any] = {"classes": CLASSES, "network": Net, "image_size": 8}
    torch.manual_seed(0)
    return Classifier(**defaults | settings)


def from_yaml(text: str) -> Classifier:
    """Build a classifier from what stands below ``model:``, in YAML's flow style."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Classifier, "model")
    config = parser.parse_string(f"model: {{classes: ['0', '00', '1'], image_size: 8, {text}}}")
    torch.manual_seed(0)
    classifier: Classifier = parser.instantiate(config).model
    return classifier


def fit(
    folder: Path,
    classifier: Classifier,
    *callbacks: Callback,
    batches: list[Batch] | Loader = TRAIN,
    resume: Path | None = None,
    **settings: Any,
) -> Trainer:
    """Train with validation after each epoch; no files but those of the callbacks."""
    checkpoints = any(hasattr(callback, "best_model_path") for callback in callbacks)
    fitted = trainer(folder, *callbacks, **{"enable_checkpointing": checkpoints} | settings)
    train = batches if isinstance(batches, Loader) else Loader(batches)
    fitted.fit(classifier, train, Loader(VAL), ckpt_path=resume, weights_only=True)
    return fitted


def logged(fitted: Trainer) -> dict[str, float]:
    """Read what was logged last under each key."""
    return {name: float(value) for name, value in fitted.callback_metrics.items()}

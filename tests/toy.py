"""A classifier of noise: all that a resumed run can get wrong (BatchNorm, dropout, schedules), in milliseconds."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 3


class Batches:
    """Batches as a function of (epoch, index); goes on where the resumed loop says, like our own loaders.

    Args:
        module: The module that they train; None for batches that are the same in each epoch.
        number: Batches per epoch.
    """

    def __init__(self, module: LightningModule | None, number: int) -> None:
        self.module = module
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator: what it reads is read at the first batch, when the loops are restored.
        epoch, first = -1, 0
        if self.module is not None:
            epoch = self.module.trainer.current_epoch
            first = self.module.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        for index in range(first, self.number):
            generator = torch.Generator().manual_seed(1000 * (epoch + 1) + index)
            images = torch.randn(4, 1, 6, 6, generator=generator)
            yield images, torch.randint(CLASSES, (4,), generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """Have nothing to say: only because Lightning asks for it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have nothing to learn."""


class Toy(LightningModule):
    """Conv, BatchNorm, dropout, linear on noise.

    Args:
        schedule: Makes the ``lr_scheduler`` configuration of the optimizer.
        scores: ``val/acc_top1`` by epoch; default: measured.
        lr: Learning rate.
        dropout: Drop rate.
        batches: Training batches per epoch.
    """

    def __init__(
        self,
        schedule: Callable[["Toy", torch.optim.Optimizer], dict[str, Any]] | None = None,
        scores: Mapping[int, float] | None = None,
        lr: float = 0.05,
        dropout: float = 0.5,
        batches: int = 5,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, CLASSES)
        )
        self.schedule, self.scores, self.lr, self.batches = schedule, scores, lr, batches

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.default_generator.manual_seed(1000 * self.current_epoch + batch_idx)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.network(images)
        right = (logits.argmax(1) == labels).float().mean()
        score = right if self.scores is None else torch.tensor(self.scores[self.current_epoch])
        self.log("val/acc_top1", score, batch_size=len(labels))
        self.log("val/loss", F.cross_entropy(logits, labels), batch_size=len(labels))

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        logits: Tensor = self.network(batch[0])
        return logits

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(self, optimizer)}

    def train_dataloader(self) -> Batches:
        return Batches(self, self.batches)

    def val_dataloader(self) -> Batches:
        return Batches(None, 2)

    test_dataloader = predict_dataloader = val_dataloader


class Stop(Callback):
    """Ends a run as a kill would, before the batch that follows so many optimizer steps.

    Checkpoint callbacks come last: what they would write before this batch is not written any more.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise SystemExit(9)


class Rows(Logger):
    """Keeps what is logged, as (step, metrics)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    name = version = "rows"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    settings = {"max_epochs": 3, "log_every_n_steps": 1, "logger": False, "num_sanity_val_steps": 0} | settings
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic=True,
        **settings,
    )


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Name the places in which two nested states are not bit for bit the same."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            line for i, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{where}/{i}")
        ]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.shape == other.shape and bool(torch.equal(one, other))
    else:
        same = bool(one == other)
    return [] if same else [f"{where}: {one} != {other}"]


def final_state(folder: Path) -> dict[str, Any]:
    """Everything in last.ckpt but the folder's name."""
    state: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    kept = state["callbacks"]["Checkpoint"]
    kept |= {name: Path(path).name for name, path in kept.items() if isinstance(path, str) and "path" in name}
    kept |= {"dirpath": "", "best_k_models": {Path(path).name: score for path, score in kept["best_k_models"].items()}}
    return state

"""Where an epoch's time goes, on a clock that only moves when the toy's data, steps and validation say so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clf.callbacks import timing
from clf.callbacks.timing import EpochClock, Timing
from clf.loggers import RunLogger

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")  # the clock must not leave the process


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Toy(LightningModule):
    """A training step takes 30 s, a validation step 5 s."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.clock.now += 30
        return self.weight * batch["images"].mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.clock.now += 5

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Ten images; each takes some seconds to load."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.clock.now += self.seconds
        return {"images": torch.zeros(3, 1, 1)}


class Recorder(Callback):
    """Keeps what was logged, epoch by epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = {key: float(value) for key, value in trainer.logged_metrics.items()}
        self.epochs += [logged] if logged else []


def fit(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    load_s: float = 1.0,
    resume: str | None = None,
    checkpoint: Callback | None = None,
    **options: Any,
) -> list[dict[str, float]]:
    clock, recorder = Clock(), Recorder()
    monkeypatch.setattr(timing, "perf_counter", clock)
    loader = DataLoader(Images(clock, load_s), batch_size=5)
    defaults: dict[str, Any] = {
        "callbacks": [Timing(), recorder, *([checkpoint] if checkpoint else [])],
        "logger": RunLogger(str(tmp_path)),
        "max_epochs": 2,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": checkpoint is not None,
        "log_every_n_steps": 1,
    }
    trainer = Trainer(**(defaults | options))
    trainer.fit(Toy(clock), loader, DataLoader(Images(clock, 0), batch_size=5), ckpt_path=resume)
    return recorder.epochs


def test_each_epoch_s_time_is_split_into_steps_waiting_and_validation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Two batches: each 5 s of loading and 30 s of work; then two validation batches of 5 s.
    expected = {
        "time/images_per_s": pytest.approx(10 / 70),
        "time/data_wait_share": pytest.approx(10 / 70),
        "time/epoch_s": 80.0,
        "time/val_s": 10.0,
    }
    assert fit(monkeypatch, tmp_path) == [expected, expected]


def test_slow_loading_shows_as_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, _ = fit(monkeypatch, tmp_path, load_s=18.0)
    assert first["time/data_wait_share"] == pytest.approx(0.75)


def test_validation_in_mid_epoch_is_neither_training_nor_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, _ = fit(monkeypatch, tmp_path, val_check_interval=1)
    assert first["time/val_s"] == 20.0
    assert first["time/data_wait_share"] == pytest.approx(10 / 70)
    assert first["time/images_per_s"] == pytest.approx(10 / 70)


def test_an_epoch_without_validation_spent_no_time_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, _ = fit(monkeypatch, tmp_path, limit_val_batches=0)
    assert (first["time/val_s"], first["time/epoch_s"]) == (0.0, 70.0)


def test_the_logger_gets_it_once_per_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fit(monkeypatch, tmp_path, load_s=18.0)
    assert (tmp_path / "timing.csv").read_text() == (
        "epoch,step,time/data_wait_share,time/epoch_s,time/images_per_s,time/val_s\n"
        "0,1,0.75,250.0,0.0416666679084301,10.0\n"
        "1,3,0.75,250.0,0.0416666679084301,10.0\n"
    )


@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended"
)  # as meant here
def test_an_epoch_that_is_resumed_in_its_middle_counts_from_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first_step = ModelCheckpoint(tmp_path, filename="step", every_n_train_steps=1)
    fit(monkeypatch, tmp_path, max_steps=1, checkpoint=first_step)
    unused = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=0)
    resumed, whole = fit(monkeypatch, tmp_path, checkpoint=unused, resume=str(tmp_path / "step.ckpt"))
    assert resumed["time/epoch_s"] == 45.0
    assert resumed["time/images_per_s"] == pytest.approx(5 / 35)
    assert whole["time/epoch_s"] == 80.0


def test_processes_side_by_side_add_up() -> None:
    clock = EpochClock(0.0)
    clock.begin_step(1.0, images=8)
    assert clock.metrics(4.0, processes=2)["time/images_per_s"] == 4.0
    assert clock.metrics(4.0, processes=2)["time/data_wait_share"] == 0.25


def test_the_running_share_is_that_of_the_steps_so_far() -> None:
    clock = EpochClock(0.0)
    assert clock.wait_share is None
    clock.begin_step(1.0, images=8)
    assert clock.wait_share is None
    clock.end_step(4.0)
    assert clock.wait_share == 0.25
    clock.begin_step(8.0, images=8)
    clock.end_step(10.0)
    clock.begin_validation(10.0)
    assert clock.wait_share == 0.5
    clock.end_validation(90.0)
    assert clock.wait_share == 0.5

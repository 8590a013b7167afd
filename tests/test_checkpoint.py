"""Checkpoints: the right files with the right weights, and runs that go on from any of them as if never cut."""

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback
from toy import Rows, Toy, differences, final_state, trainer

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.ema import EMA
from clf.errors import UserError

SCORES = {0: 0.1, 1: 0.5, 2: 0.3, 3: 0.4, 4: 0.2, 5: 0.6}


def checkpoint(folder: Path, **settings: Any) -> Checkpoint:
    return Checkpoint(**({"dirpath": str(folder), "every_n_minutes": None} | settings))


def fit(
    folder: Path, *callbacks: Callback, toy: Toy | None = None, resume: Path | None = None, **settings: Any
) -> None:
    trainer(folder, *callbacks, **settings).fit(toy or Toy(scores=SCORES), ckpt_path=resume)


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def names(folder: Path) -> list[str]:
    """All files but those that stand by for a damaged one."""
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in there if name not in ("SHA256SUMS", "last-1.ckpt"))


class FailAt(Callback):
    """Ends the process, as far as a test can, before batch number `batch` (counted over epochs) is trained."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise SystemExit(9)


def cut(folder: Path, *callbacks: Callback, at: int, **settings: Any) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        fit(folder, *callbacks, FailAt(at), **settings)
    return load(folder / "last.ckpt")


# Which files there are


def test_the_best_epochs_the_best_and_the_last_lie_in_one_folder(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint(tmp_path), max_epochs=4)
    assert names(tmp_path) == [
        "best.ckpt",
        "epoch=001-val_acc_top1=0.5000.ckpt",
        "epoch=002-val_acc_top1=0.3000.ckpt",
        "epoch=003-val_acc_top1=0.4000.ckpt",
        "last.ckpt",
    ]
    best, last = load(tmp_path / "best.ckpt"), load(tmp_path / "last.ckpt")
    assert differences(best, load(tmp_path / "epoch=001-val_acc_top1=0.5000.ckpt")) == []
    assert (best["epoch"], best["global_step"]) == (2, 10)
    assert (last["epoch"], last["global_step"]) == (4, 20)


def test_mode_min_keeps_the_smallest(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint(tmp_path, mode="min", save_top_k=1), max_epochs=3)
    assert names(tmp_path) == ["best.ckpt", "epoch=000-val_acc_top1=0.1000.ckpt", "last.ckpt"]
    assert load(tmp_path / "best.ckpt")["global_step"] == 5


def test_save_top_k_and_every_n_epochs_each_decide_what_is_kept(tmp_path: Path) -> None:
    fit(tmp_path / "all", checkpoint(tmp_path / "all", save_top_k=-1), max_epochs=5)
    fit(tmp_path / "second", checkpoint(tmp_path / "second", every_n_epochs=2), max_epochs=5)
    kept = {kind: [name[:9] for name in names(tmp_path / kind) if "=" in name] for kind in ("all", "second")}
    assert kept["all"] == ["epoch=000", "epoch=001", "epoch=002", "epoch=003", "epoch=004"]
    assert kept["second"] == ["epoch=001", "epoch=003"]
    assert load(tmp_path / "second" / "last.ckpt")["epoch"] == 5


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("{epoch:02d}-{val/acc_top1:.2f}", "epoch=00-val_acc_top1=0.10.ckpt"),
        ("net/{step}", "net_step=5.ckpt"),
        ("{train/loss:.0f}-{val/acc_top1}", "train_loss=1-val_acc_top1=0.10000000149011612.ckpt"),
    ],
)
def test_no_file_name_makes_a_folder(tmp_path: Path, filename: str, name: str) -> None:
    """Defect 6: `{val/acc_top1}` in a file name made nested folders."""
    fit(tmp_path, checkpoint(tmp_path, filename=filename), max_epochs=1)
    assert names(tmp_path) == sorted(["best.ckpt", name, "last.ckpt"])


def test_weights_only_keeps_small_files_but_a_full_last_one(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint(tmp_path, save_weights_only=True), max_epochs=1)
    assert "optimizer_states" not in load(tmp_path / "best.ckpt")
    assert "optimizer_states" in load(tmp_path / "last.ckpt")
    assert differences(load(tmp_path / "best.ckpt")["state_dict"], load(tmp_path / "last.ckpt")["state_dict"]) == []


def test_an_epoch_without_a_number_is_never_the_best(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint(tmp_path), toy=Toy(scores={0: 0.1, 1: float("nan"), 2: 0.05}))
    assert load(tmp_path / "best.ckpt")["global_step"] == 5


def test_fast_dev_run_leaves_no_files(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint(tmp_path), fast_dev_run=True)
    assert names(tmp_path) == []


# When last.ckpt is written


def test_last_is_refreshed_every_n_steps_and_best_is_not(tmp_path: Path) -> None:
    assert cut(tmp_path, checkpoint(tmp_path, every_n_train_steps=2), at=9)["global_step"] == 8
    assert load(tmp_path / "best.ckpt")["global_step"] == 5
    assert cut(tmp_path / "plain", checkpoint(tmp_path / "plain"), at=9)["global_step"] == 5


def test_last_is_refreshed_every_n_minutes(tmp_path: Path) -> None:
    assert cut(tmp_path / "often", checkpoint(tmp_path / "often", every_n_minutes=1e-9), at=8)["global_step"] == 8
    assert cut(tmp_path / "seldom", checkpoint(tmp_path / "seldom", every_n_minutes=60), at=8)["global_step"] == 5


def test_last_is_never_written_while_gradients_accumulate(tmp_path: Path) -> None:
    often = checkpoint(tmp_path, every_n_minutes=1e-9)
    last = cut(tmp_path, often, at=3, accumulate_grad_batches=2, val_check_interval=1)
    assert last["global_step"] == 1
    assert last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["started"] == 2


def test_a_long_validation_is_not_lost_time_for_training(tmp_path: Path) -> None:
    """A run killed in validation goes on from the step before it, if that step was due."""

    class FailInValidation(Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        fit(tmp_path, checkpoint(tmp_path, every_n_train_steps=5), FailInValidation())
    assert load(tmp_path / "last.ckpt")["global_step"] == 5


@pytest.mark.parametrize("settings", [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 5}])
def test_without_validation_only_last_is_written_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    fit(tmp_path, checkpoint(tmp_path), **settings)
    assert names(tmp_path) == ["last.ckpt"]
    assert load(tmp_path / "last.ckpt")["epoch"] == 3
    assert caplog.text.count("no epoch was scored by val/acc_top1: last.ckpt is written, but no best.ckpt") == 1


@pytest.mark.parametrize("settings", [{"limit_val_batches": 0}, {}, {"val_check_interval": 2}])
def test_a_training_metric_can_decide(tmp_path: Path, settings: dict[str, Any]) -> None:
    watched = checkpoint(tmp_path, monitor="train/loss", mode="min", save_top_k=1)
    rows = Rows()
    fit(tmp_path, watched, logger=rows, **settings)
    at_epoch_ends = [row["train/loss"] for step, row in rows.rows if "train/loss" in row and step in (4, 9, 14)]
    assert watched.best_model_score == min(at_epoch_ends)


# Going on


def step_schedule(toy: Toy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    steps = int(toy.trainer.estimated_stepping_batches)
    return {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps), "interval": "step"}


def epoch_schedule(_: Toy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), "interval": "epoch"}


def plateau_schedule(_: Toy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return {"scheduler": plateau, "interval": "epoch", "monitor": "val/loss"}


class KeepAll(Checkpoint):
    """Keeps the folder as it is whenever last.ckpt is new, as if the process were killed there."""

    def write_last(self, trainer: Trainer) -> Path | None:
        path = super().write_last(trainer)
        kept = self.folder.with_name("cuts") / f"{len(list(self.folder.with_name('cuts').glob('*'))):03d}"
        shutil.copytree(self.folder, kept)
        return path


def patient(folder: Path, kind: type[Checkpoint], **settings: Any) -> list[Callback]:
    return [
        EMA(decay=0.9),
        EarlyStopping("val/loss", patience=2, mode="min"),
        kind(dirpath=str(folder), monitor="val/loss", mode="min", save_top_k=2, every_n_minutes=None, **settings),
    ]


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        (step_schedule, {}),
        (step_schedule, {"accumulate_grad_batches": 2, "max_epochs": 3}),
        (epoch_schedule, {}),
        (epoch_schedule, {"check_val_every_n_epoch": 2}),
        (epoch_schedule, {"max_steps": 8, "max_epochs": -1}),
        (plateau_schedule, {}),
        (plateau_schedule, {"val_check_interval": 2, "accumulate_grad_batches": 2}),
    ],
    ids=lambda value: value.__name__ if callable(value) else ",".join(f"{k}={v}" for k, v in value.items()) or "plain",
)
def test_a_run_that_goes_on_from_any_last_checkpoint_equals_the_uninterrupted_one(
    tmp_path: Path, schedule: Callable[..., dict[str, Any]], settings: dict[str, Any]
) -> None:
    settings = {"max_epochs": 2} | settings
    whole, rows = tmp_path / "whole", Rows()
    fit(whole, *patient(whole, KeepAll, every_n_train_steps=1), toy=Toy(schedule), logger=rows, **settings)
    *cuts, _ = sorted((tmp_path / "cuts").iterdir())
    assert len(cuts) >= 5
    for folder in cuts:
        rest = Rows()
        callbacks = patient(folder, Checkpoint)
        fit(folder, *callbacks, toy=Toy(schedule), resume=folder / "last.ckpt", logger=rest, **settings)
        assert differences(final_state(whole), final_state(folder)) == [], folder.name
        assert rest.rows == rows.rows[len(rows.rows) - len(rest.rows) :], folder.name


def test_a_finished_run_that_gets_more_epochs_equals_the_longer_one(tmp_path: Path) -> None:
    for folder, lengths in ((tmp_path / "long", [4]), (tmp_path / "twice", [2, 4])):
        for number, epochs in enumerate(lengths):
            resume = folder / "last.ckpt" if number else None
            fit(folder, *patient(folder, Checkpoint), toy=Toy(epoch_schedule), resume=resume, max_epochs=epochs)
    assert differences(final_state(tmp_path / "long"), final_state(tmp_path / "twice")) == []


@pytest.mark.parametrize("every", [1, 2])
def test_with_several_validations_an_epoch_each_score_is_that_of_the_weights_in_its_file(
    tmp_path: Path, every: int
) -> None:
    """Also of a validation inside an accumulation window, where last.ckpt has to wait."""
    keep = checkpoint(tmp_path, monitor="val/loss", mode="min", save_top_k=-1, filename="{epoch}-{step}-{val/loss:.9f}")
    fit(tmp_path, keep, toy=Toy(), max_epochs=1, val_check_interval=every, accumulate_grad_batches=2)
    assert len(keep.best_k_models) == 5 // every
    for path, score in keep.best_k_models.items():
        toy = Toy()
        toy.load_state_dict(load(Path(path))["state_dict"])
        assert trainer(tmp_path, enable_checkpointing=False).validate(toy, verbose=False)[0]["val/loss"] == score.item()


# Best epochs after a resume


def test_a_moved_run_keeps_its_best_epochs_and_a_worse_one_does_not_replace_the_best(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    fit(before, checkpoint(before, save_top_k=2), max_epochs=3)
    best = (before / "best.ckpt").read_bytes()
    before.rename(after)
    # Other intervals are no reason to forget anything.
    resumed = checkpoint(after, save_top_k=2, every_n_train_steps=3, every_n_minutes=60)
    fit(after, resumed, resume=after / "last.ckpt", max_epochs=5)
    assert (after / "best.ckpt").read_bytes() == best
    assert names(after) == [
        "best.ckpt",
        "epoch=001-val_acc_top1=0.5000.ckpt",
        "epoch=003-val_acc_top1=0.4000.ckpt",
        "last.ckpt",
    ]
    assert resumed.best_model_path == str(after / "epoch=001-val_acc_top1=0.5000.ckpt")
    fit(after, checkpoint(after, save_top_k=2), resume=after / "last.ckpt", max_epochs=6)
    assert load(after / "best.ckpt")["global_step"] == 30
    assert not before.exists()


@pytest.mark.parametrize(
    ("folder", "settings", "message"),
    [
        ("same", {"monitor": "val/loss", "mode": "min"}, "were judged by max val/acc_top1, now by min val/loss"),
        ("other", {}, "other has no best.ckpt"),
    ],
)
def test_best_epochs_that_cannot_be_taken_up_start_anew_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, folder: str, settings: dict[str, Any], message: str
) -> None:
    fit(tmp_path / "same", checkpoint(tmp_path / "same"), max_epochs=2)
    resumed = checkpoint(tmp_path / folder, **settings)
    fit(tmp_path / folder, resumed, resume=tmp_path / "same" / "last.ckpt", max_epochs=3)
    assert message in caplog.text
    assert load(tmp_path / folder / "best.ckpt")["global_step"] == 15
    assert len(resumed.best_k_models) == 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # Lightning, of the callback that is gone
def test_without_its_moving_average_a_run_goes_on_with_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path / "with", EMA(decay=0.5), checkpoint(tmp_path / "with"), max_epochs=1)
    fit(tmp_path / "plain", checkpoint(tmp_path / "plain"), max_epochs=2)
    fit(tmp_path / "with", checkpoint(tmp_path / "with"), resume=tmp_path / "with" / "last.ckpt", max_epochs=2)
    assert "callbacks.ema is off: training goes on without it" in caplog.text
    whole, resumed = load(tmp_path / "plain" / "last.ckpt"), load(tmp_path / "with" / "last.ckpt")
    assert differences(whole["state_dict"], resumed["state_dict"]) == []


# Safe writing


@pytest.fixture
def fill_disk() -> Iterator[Callable[[], None]]:
    """From the call on, no file can grow beyond 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_files_whole(tmp_path: Path, fill_disk: Callable[[], None]) -> None:
    class FillDisk(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            fill_disk()

    fit(tmp_path, checkpoint(tmp_path), max_epochs=1)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises((OSError, RuntimeError)):
        fit(tmp_path, checkpoint(tmp_path), FillDisk(), resume=tmp_path / "last.ckpt", max_epochs=2)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_failure_leaves_nothing_half_written(tmp_path: Path) -> None:
    meanwhile = LambdaCallback(on_train_start=lambda *_: (tmp_path / "last.ckpt").mkdir())
    with pytest.raises(IsADirectoryError):
        fit(tmp_path, checkpoint(tmp_path), meanwhile, max_epochs=1)
    assert names(tmp_path) == ["best.ckpt", "epoch=000-val_acc_top1=0.1000.ckpt"]


def test_what_a_killed_process_left_is_never_written_into(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint(tmp_path), max_epochs=2)
    best = (tmp_path / "best.ckpt").read_bytes()
    os.link(tmp_path / "best.ckpt", tmp_path / "last.ckpt.partial")
    fit(tmp_path, checkpoint(tmp_path), resume=tmp_path / "last.ckpt", max_epochs=3)
    assert (tmp_path / "best.ckpt").read_bytes() == best
    assert "last.ckpt.partial" not in names(tmp_path)


def test_a_filesystem_without_hard_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    fit(tmp_path, checkpoint(tmp_path), max_epochs=2)
    assert load(tmp_path / "best.ckpt")["global_step"] == load(tmp_path / "last.ckpt")["global_step"] == 10
    assert (tmp_path / "best.ckpt").stat().st_nlink == 1


# What a user gets wrong


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"save_top_k": 0}, r"save_top_k=0 keeps no best epoch"),
        ({"save_top_k": -2}, r"save_top_k=-2 keeps no best epoch"),
        ({"every_n_epochs": 0}, r"every_n_epochs=0 must be positive"),
        ({"every_n_train_steps": -1}, r"every_n_train_steps=-1 must be positive"),
        ({"every_n_minutes": 0.0}, r"every_n_minutes=0.0 must be positive"),
        ({"filename": "{epoch:03q}"}, r"filename='{epoch:03q}': Unknown format code"),
        ({"filename": "{epoch"}, r"filename='{epoch': expected '}'"),
        ({"dirpath": "s3://bucket/run"}, r"dirpath='s3://bucket/run' is a URL"),
    ],
)
def test_values_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.checkpoint.{message}"):
        Checkpoint(**settings)


@pytest.mark.parametrize(
    ("settings", "message", "guess"),
    [
        ({"monitor": "val/los"}, "monitor='val/los': 'val/los'", "val/loss"),
        ({"filename": "{epoch}-{val/acc}"}, "filename='{epoch}-{val/acc}': 'val/acc'", "val/acc_top1"),
    ],
)
def test_an_unknown_metric_is_named_with_those_there_are(
    tmp_path: Path, settings: dict[str, Any], message: str, guess: str
) -> None:
    with pytest.raises(UserError) as error:
        fit(tmp_path, checkpoint(tmp_path, **settings))
    there = f"there are epoch, step, train/loss, val/acc_top1, val/loss; did you mean {guess!r}?"
    assert str(error.value) == f"callbacks.checkpoint.{message} is not logged; {there}"

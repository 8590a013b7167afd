"""Losses that are no numbers: training ends where they begin, says where, and keeps what was good."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import draw_folders
from lightning.pytorch import Callback
from test_cli import FIT, TINY
from tiny import TRAIN, fit, tiny
from torch import Tensor, nn

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.non_finite import NonFinite
from clf.errors import UserError, WorkFailed
from clf.main import main


class Breaking(nn.Module):
    """Cross-entropy that turns into something else at one call in training.

    Args:
        call: Which call, from 0.
        value: What is added there.
    """

    def __init__(self, call: int, value: float = float("nan")) -> None:
        super().__init__()
        self.calls, self.call, self.value = 0, call, value

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, labels)
        if torch.is_grad_enabled():
            self.calls += 1
            loss = loss + self.value if self.calls == self.call + 1 else loss
        return loss


def keep(folder: Path, **settings: Any) -> Checkpoint:
    return Checkpoint(dirpath=str(folder), every_n_minutes=None, **settings)


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_training_stops_at_the_step_and_keeps_what_was_before(tmp_path: Path, value: float) -> None:
    message = rf"the loss is {value} in step 4 \(epoch 1, learning rate \S+\), batch 1; {tmp_path}/last.ckpt is from"
    with pytest.raises(WorkFailed, match=message):
        fit(tmp_path, tiny(loss=Breaking(4, value)), NonFinite(), keep(tmp_path))
    for name in ("last", "best"):
        checkpoint = load(tmp_path / f"{name}.ckpt")
        assert checkpoint["global_step"] == 3
        assert all(bool(value.isfinite().all()) for value in checkpoint["state_dict"].values())


@pytest.mark.parametrize(
    ("call", "settings"),
    [(4, {}), (0, {}), (1, {"every_n_train_steps": 2})],
    ids=["before validation", "the first", "before a checkpoint"],
)
def test_seldom_looks_name_the_same_step_and_save_nothing_of_it(
    tmp_path: Path, call: int, settings: dict[str, Any]
) -> None:
    with pytest.raises(WorkFailed, match=rf"the loss is nan in step {call} "):
        fit(tmp_path, tiny(loss=Breaking(call)), NonFinite(every_n_steps=50), keep(tmp_path, **settings))
    assert not (tmp_path / "last.ckpt").exists() or load(tmp_path / "last.ckpt")["global_step"] <= call


class Count(Callback):
    """Counts the batches that were trained."""

    def __init__(self) -> None:
        self.batches = 0

    def on_before_backward(self, *_: Any) -> None:
        self.batches += 1


@pytest.mark.parametrize(("every", "batches"), [(None, 1), (1, 1), (2, 2), (50, 3)])
def test_it_is_looked_as_often_as_asked_for_and_before_each_validation(
    tmp_path: Path, every: int | None, batches: int
) -> None:
    count = Count()
    with pytest.raises(WorkFailed, match="in step 0 "):
        fit(tmp_path, tiny(loss=Breaking(0)), count, NonFinite(every))
    assert count.batches == batches


class Spoil(Callback):
    """Makes weights infinite after a step, as a gradient would, with a loss that was a number."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 6:
            next(pl_module.parameters()).data.fill_(float("inf"))


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match=r"outputs are no numbers for 5 of 5|weights are no numbers any more after"):
        fit(tmp_path, tiny(), Spoil(), NonFinite(), keep(tmp_path))
    assert load(tmp_path / "last.ckpt")["global_step"] == 3
    with pytest.raises(WorkFailed, match=r"weights are no numbers any more after step 6"):
        fit(tmp_path / "x", tiny(), Spoil(), NonFinite(), keep(tmp_path / "x"), limit_val_batches=0)


def test_nan_in_validation_is_no_score(tmp_path: Path) -> None:
    """It would count as a prediction of the first class."""
    with pytest.raises(WorkFailed, match=r"in validation after step 6 .* outputs are no numbers for 5 of 5 images"):
        fit(tmp_path, tiny(), Spoil(), NonFinite(), keep(tmp_path))
    assert load(tmp_path / "best.ckpt")["global_step"] == 3


def test_switched_off_nobody_looks(tmp_path: Path) -> None:
    fit(tmp_path, tiny(loss=Breaking(4)), keep(tmp_path), batches=TRAIN)
    assert load(tmp_path / "last.ckpt")["global_step"] == 9


def test_looking_never_is_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks\.non_finite\.every_n_steps=0 must be positive"):
        NonFinite(0)


def test_a_rate_that_is_far_too_high_ends_with_the_images_and_advice(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folders(workdir / "images", {f"{split}/{name}": 8 for split in ("train", "valid") for name in "abc"})
    (workdir / "tiny.yaml").write_text(TINY)
    rate = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e30", "--model.warmup_epochs", "0"]
    assert main([*FIT, *rate, "--trainer.gradient_clip_val", "null"]) == 1
    assert not (workdir / "runs/tiny/001/metrics.csv").exists()
    said = capsys.readouterr().err.splitlines()
    assert "the batch of step 1: images/train/" in said[-2]
    assert said[-2].count(".png") == 4
    assert "the loss is nan in step 1 (epoch 0, learning rate 9.92e+29), batch 1 (images/train/" in said[-1]
    advice = "nothing was saved: start again with a lower --model.optimizer.lr, or a --trainer.gradient_clip_val "
    assert said[-1].endswith(f"{advice}such as 1.0")
    assert main([*FIT, *rate, "--trainer.gradient_clip_val", "0.5"]) == 1
    assert capsys.readouterr().err.endswith(f"{advice}below 0.5\n")
    assert not list(Path("runs").glob("*/*/checkpoints/*.ckpt"))

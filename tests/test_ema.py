"""The moving average: it follows its formula, it is what is scored and kept, and nothing that happens disturbs it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from toy import Toy, differences, trainer

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.ema import EMA, decay_at
from clf.errors import UserError

State = dict[str, Tensor]


def state_of(module: LightningModule) -> State:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def load(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


class Watch(Callback):
    """Keeps the module's state after each batch, and what `score` sees in validation."""

    def __init__(self) -> None:
        self.trained: list[State] = []
        self.validated: list[State] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.trained.append(state_of(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.validated.append(state_of(pl_module))


def recurrence(weights: list[State], *, decay: float, warmup: bool) -> State:
    average = dict(weights[0])
    for t, now in enumerate(weights[1:], start=1):
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        for name, tensor in now.items():
            average[name] = d * average[name] + (1 - d) * tensor if tensor.is_floating_point() else tensor
    return average


def fit_with(
    folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, toy: Toy | None = None, **kw: Any
) -> Toy:
    toy = toy or Toy()
    checkpoint = Checkpoint(dirpath=str(folder), monitor="val/loss", mode="min", every_n_minutes=None)
    if not any(isinstance(callback, Checkpoint) for callback in callbacks):
        callbacks += (checkpoint,)
    trainer(folder, *callbacks, **kw).fit(toy, ckpt_path=ckpt_path)
    return toy


@pytest.mark.parametrize(("decay", "warmup"), [(0.6, True), (0.6, False), (0.9, True), (0.9, False), (0.0, False)])
def test_the_average_follows_its_formula_for_weights_and_batchnorm(tmp_path: Path, decay: float, warmup: bool) -> None:
    watch = Watch()
    fit_with(tmp_path, EMA(decay=decay, warmup=warmup), watch, max_epochs=2)
    expected = recurrence(watch.trained, decay=decay, warmup=warmup)
    average = load(tmp_path / "last.ckpt")["state_dict"]
    assert average.keys() == expected.keys()
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, expected[name])
    assert expected["network.1.num_batches_tracked"] == 10


def test_decay_and_warmup_each_change_the_average(tmp_path: Path) -> None:
    averages = {}
    for setting in ((0.6, True), (0.9, True), (0.6, False), (0.9, False)):
        folder = tmp_path / str(setting)
        fit_with(folder, EMA(*setting), max_epochs=1)
        averages[setting] = load(folder / "last.ckpt")["state_dict"]["network.0.weight"]
    settings = list(averages)
    for one, other in [(0, 2), (1, 3), (2, 3)]:
        assert not torch.allclose(averages[settings[one]], averages[settings[other]])
    # Five steps are less than it takes to warm up: so early the two decays mean the same.
    assert torch.equal(averages[(0.6, True)], averages[(0.9, True)])


def test_warmup_reaches_the_decay_and_stays_there() -> None:
    assert [decay_at(t, decay=0.5, warmup=True) for t in (0, 1, 7, 8, 1000)] == [0.1, 2 / 11, 8 / 17, 0.5, 0.5]
    assert decay_at(0, decay=0.5, warmup=False) == 0.5


def test_the_average_is_updated_once_per_optimizer_step(tmp_path: Path) -> None:
    fit_with(tmp_path, EMA(), max_epochs=1, accumulate_grad_batches=2)  # 5 batches: 2 + 2 + 1
    checkpoint = load(tmp_path / "last.ckpt")
    assert checkpoint["averaging_state"]["n_averaged"] == checkpoint["global_step"] == 3


@pytest.mark.parametrize("weights_only", [False, True])
def test_the_kept_score_is_that_of_the_weights_in_the_file(tmp_path: Path, weights_only: bool) -> None:
    """Defect 2: raw weights lay beside the average's score, in files with nothing but weights too."""
    keep = Checkpoint(
        dirpath=str(tmp_path), monitor="val/loss", mode="min", save_top_k=-1, save_weights_only=weights_only
    )
    fit_with(tmp_path, EMA(decay=0.5), keep)
    assert len(keep.best_k_models) == 3
    for path, score in keep.best_k_models.items():
        toy = Toy()
        toy.load_state_dict(load(Path(path))["state_dict"])
        metrics = trainer(tmp_path, enable_checkpointing=False).validate(toy, verbose=False)
        assert metrics[0]["val/loss"] == score.item()
        assert ("optimizer_states" in load(Path(path))) is not weights_only


def test_validation_sees_the_average_and_training_goes_on_with_the_weights(tmp_path: Path) -> None:
    watch, plain = Watch(), Watch()
    fit_with(tmp_path / "ema", EMA(decay=0.5, warmup=False), watch, max_epochs=2)
    fit_with(tmp_path / "plain", plain, max_epochs=2)
    assert differences(watch.trained, plain.trained) == []
    expected = recurrence(watch.trained[:5], decay=0.5, warmup=False)
    torch.testing.assert_close(watch.validated[0], expected)


def test_resume_keeps_average_and_count(tmp_path: Path) -> None:
    """Defect 1: the average was loaded and then overwritten with the weights, its count was 0."""
    fit_with(tmp_path / "whole", EMA(decay=0.9), max_epochs=3)
    fit_with(tmp_path / "parts", EMA(decay=0.9), max_epochs=1)
    fit_with(tmp_path / "parts", EMA(decay=0.9), max_epochs=3, ckpt_path=tmp_path / "parts" / "last.ckpt")
    whole, parts = load(tmp_path / "whole" / "last.ckpt"), load(tmp_path / "parts" / "last.ckpt")
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert differences(whole[part], parts[part]) == []
    assert parts["averaging_state"]["n_averaged"] == 15
    assert differences(parts["state_dict"], parts["current_model_state"]) != []


def test_an_average_that_is_new_to_a_run_starts_from_its_weights_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit_with(tmp_path, max_epochs=1)
    before, watch = load(tmp_path / "last.ckpt"), Watch()
    ema = EMA(decay=0.5, warmup=False)
    fit_with(tmp_path, ema, watch, max_epochs=2, ckpt_path=tmp_path / "last.ckpt", accumulate_grad_batches=2)
    after_steps = [watch.trained[batch] for batch in (1, 3, 4)]
    expected = recurrence([before["state_dict"], *after_steps], decay=0.5, warmup=False)
    torch.testing.assert_close(load(tmp_path / "last.ckpt")["state_dict"], expected)
    assert caplog.text.count("callbacks.ema is new to this run") == 1
    caplog.clear()
    fit_with(tmp_path, EMA(decay=0.5), max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert "callbacks.ema" not in caplog.text


class Rewritten(Toy):
    """Changes its weights after callbacks are set up, as a new head or loaded weights do."""

    def on_fit_start(self) -> None:
        torch.nn.init.ones_(self.network[0].weight)  # type: ignore[arg-type]


class SaveOnStart(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "start.ckpt")


def test_before_the_first_update_the_average_is_the_weights(tmp_path: Path) -> None:
    watch = Watch()
    fit_with(tmp_path, EMA(), watch, SaveOnStart(), toy=Rewritten(), max_epochs=1, num_sanity_val_steps=1)
    start = load(tmp_path / "start.ckpt")
    assert torch.all(watch.validated[0]["network.0.weight"] == 1)
    assert torch.all(start["state_dict"]["network.0.weight"] == 1)
    assert differences(start["state_dict"], start["current_model_state"]) == []


class FailIn(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "inside.ckpt")
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("full"), SystemExit(1)])
def test_an_error_in_validation_leaves_the_weights_in_the_module(tmp_path: Path, error: BaseException) -> None:
    toy, watch = Toy(), Watch()
    with pytest.raises(type(error)):
        fit_with(tmp_path, EMA(decay=0.5), watch, FailIn(error), toy=toy)
    assert differences(state_of(toy), watch.trained[-1]) == []
    inside = load(tmp_path / "inside.ckpt")
    assert differences(inside["current_model_state"], watch.trained[-1]) == []
    assert differences(inside["state_dict"], watch.validated[-1]) == []


def test_after_fit_the_module_is_the_average_and_other_verbs_score_it_without_a_warning(tmp_path: Path) -> None:
    ema = EMA(decay=0.5)
    toy, verbs = Toy(), trainer(tmp_path, ema, Checkpoint(dirpath=str(tmp_path)))
    verbs.fit(toy)
    average = load(tmp_path / "last.ckpt")["state_dict"]
    assert differences(state_of(toy), average) == []
    for verb in (verbs.validate, verbs.test, verbs.predict):
        watch = Watch()
        verbs.callbacks.append(watch)  # type: ignore[attr-defined]
        verb(toy, ckpt_path=str(tmp_path / "last.ckpt"))
        assert differences(state_of(toy), average) == []
        assert all(differences(seen, average) == [] for seen in watch.validated)


def test_a_second_fit_with_the_same_callback_averages_anew(tmp_path: Path) -> None:
    ema = EMA()
    for name in ("first", "second"):
        fit_with(tmp_path / name, ema, max_epochs=1)
    one, other = load(tmp_path / "first" / "last.ckpt"), load(tmp_path / "second" / "last.ckpt")
    assert differences(one["state_dict"], other["state_dict"]) == []


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5, float("nan")])
def test_a_decay_that_cannot_work_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=rf"callbacks.ema.decay={decay} is outside \[0, 1\)"):
        EMA(decay=decay)

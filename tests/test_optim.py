"""Schedules and the warm-up over them: seen in the learning rates of real fits, and compared with torch's own."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from tiny import TRAIN, Resumable, fit, from_yaml, tiny
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler
from toy import Rows, Stop, differences

from clf.callbacks.checkpoint import Checkpoint
from clf.errors import UserError
from clf.optim import Cosine, OneCycle, Warmup


class Rates(Callback):
    """Keeps the learning rates with which the optimizer really steps, and the weights after it."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.decays: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        rates = {group["lr"] for group in optimizer.param_groups}
        assert len(rates) == 1
        self.rates += rates
        self.decays.append([group["weight_decay"] for group in optimizer.param_groups])


def rates_of(tmp_path: Path, yaml: str, **settings: Any) -> list[float]:
    """Train on three batches an epoch."""
    seen = Rates()
    fit(tmp_path, from_yaml(f"network: {{class_path: tiny.Net}}, {yaml}"), seen, **settings)
    return seen.rates


def warmup_cosine(*, steps: int, warmup: int, start: float = 1e-3, final: float = 0.05) -> list[float]:
    """List the factors step by step: a line from `start` to just below 1, then half a wave from 1 to `final`."""
    rise = np.linspace(start, 1, warmup + 1)[:-1]
    fall = final + (1 - final) * (np.cos(np.linspace(0, math.pi, steps - warmup)) + 1) / 2
    return [float(value) for value in (*rise, *fall)]


# The warm-up and the cosine


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        ("warmup_epochs: 2", 8, warmup_cosine(steps=24, warmup=6)),
        ("warmup_epochs: 0.5", 4, warmup_cosine(steps=12, warmup=2)),
        ("warmup_epochs: 0", 2, warmup_cosine(steps=6, warmup=0)),
        (
            "warmup_epochs: 2, warmup_start: 0.5, lr_scheduler: {class_path: clf.optim.Cosine, init_args: {final: 0}}",
            8,
            warmup_cosine(steps=24, warmup=6, start=0.5, final=0),
        ),
    ],
    ids=["two epochs", "half an epoch", "none", "start and final"],
)
def test_rates_follow_the_warm_up_and_the_cosine_step_by_step(
    settings: str, epochs: int, expected: list[float], tmp_path: Path
) -> None:
    # Defect 4: a warm-up that is stored and never used.
    yaml = f"{settings}, optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.2}}}}"
    assert rates_of(tmp_path, yaml, max_epochs=epochs) == pytest.approx([0.2 * factor for factor in expected])


def test_the_default_schedule_is_shortened_for_a_short_run(tmp_path: Path) -> None:
    # Five epochs of warm-up would be longer than the run; a quarter of its 12 steps is 3.
    expected = [1e-3 * factor for factor in warmup_cosine(steps=12, warmup=3)]
    assert rates_of(tmp_path, "seed: 1", max_epochs=4) == pytest.approx(expected)


def test_the_schedule_ends_where_max_steps_ends_the_run(tmp_path: Path) -> None:
    expected = [1e-3 * factor for factor in warmup_cosine(steps=5, warmup=1)]
    assert rates_of(tmp_path, "seed: 1", max_steps=5, max_epochs=-1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("accumulate", "steps", "warmup"), [(1, 24, 3), (2, 16, 2), (3, 8, 1), (4, 8, 1)], ids=lambda number: str(number)
)
def test_accumulated_batches_are_one_step_of_warm_up_and_schedule(
    accumulate: int, steps: int, warmup: int, tmp_path: Path
) -> None:
    # Eight epochs of three batches. By twos: a whole window and an incomplete one; by fours: one incomplete window.
    expected = [1e-3 * factor for factor in warmup_cosine(steps=steps, warmup=warmup)]
    found = rates_of(tmp_path, "warmup_epochs: 1", max_epochs=8, accumulate_grad_batches=accumulate)
    assert found == pytest.approx(expected)


def test_the_schedule_can_step_by_epochs_and_the_warm_up_still_goes_by_steps(tmp_path: Path) -> None:
    yaml = "warmup_epochs: 1, lr_scheduler_interval: epoch"
    fall = [factor for factor in warmup_cosine(steps=5, warmup=1)[1:] for _ in range(3)]
    expected = [1e-3 * factor for factor in [*warmup_cosine(steps=12, warmup=3)[:3], *fall]]
    assert rates_of(tmp_path, yaml, max_epochs=5) == pytest.approx(expected)


def test_a_run_without_an_end_is_refused_with_the_keys_to_set(tmp_path: Path) -> None:
    for name in ("Cosine", "OneCycle"):
        with pytest.raises(UserError, match=rf"{name} needs .* set trainer\.max_epochs or trainer\.max_steps"):
            rates_of(tmp_path, f"lr_scheduler: clf.optim.{name}", max_epochs=-1)


def test_a_run_without_an_end_warms_up_where_its_schedule_needs_none(tmp_path: Path) -> None:
    yaml = "lr_scheduler: null, warmup_epochs: 2, warmup_start: 0.0"
    found = rates_of(tmp_path, yaml, max_epochs=-1, max_time={"seconds": 0.3})
    assert found[:8] == pytest.approx([1e-3 * min(1.0, step / 6) for step in range(8)])


def test_the_warm_up_changes_what_is_learned(tmp_path: Path) -> None:
    with_warmup, without = tiny(), tiny(warmup_epochs=0)
    for classifier in (with_warmup, without):
        fit(tmp_path, classifier, max_epochs=4)
    name = "network.0.weight"
    assert not torch.allclose(weights(with_warmup)[name], weights(without)[name])


# The warm-up and torch's schedules


def fall(epoch: int) -> float:
    """A user's own function for LambdaLR."""
    return 1 / (1 + epoch)


SCHEDULES: dict[str, tuple[str, Any]] = {
    "constant": ("null", lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
    "StepLR": ("{step_size: 2, gamma: 0.5}", lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.5)),
    "MultiStepLR": (
        "{milestones: [1, 3], gamma: 0.5}",
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 3], gamma=0.5),
    ),
    "ExponentialLR": ("{gamma: 0.8}", lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.8)),
    "CosineAnnealingLR": ("{T_max: 9}", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9)),
    "LambdaLR": ("{lr_lambda: test_optim.fall}", lambda optimizer: lr_scheduler.LambdaLR(optimizer, fall)),
}


def as_yaml(name: str) -> str:
    arguments = SCHEDULES[name][0]
    if arguments == "null":
        return "lr_scheduler: null"
    return f"lr_scheduler: {{class_path: torch.optim.lr_scheduler.{name}, init_args: {arguments}}}"


def torch_s_own(name: str, number: int) -> list[float]:
    """Step a schedule of torch's by hand."""
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    schedule, rates = SCHEDULES[name][1](optimizer), []
    for _ in range(number):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_warm_up_multiplies_what_a_schedule_of_torch_s_says(
    name: str, interval: str, accumulate: int, tmp_path: Path
) -> None:
    yaml = (
        "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1.0}}, "
        f"{as_yaml(name)}, lr_scheduler_interval: {interval}, warmup_epochs: 1, warmup_start: 0.1"
    )
    found = rates_of(tmp_path, yaml, max_epochs=4, accumulate_grad_batches=accumulate)
    per_epoch = {1: 3, 2: 2}[accumulate]
    own = torch_s_own(name, 4 * per_epoch)
    scheduled = own if interval == "step" else [own[step // per_epoch] for step in range(4 * per_epoch)]
    factors = [min(1.0, 0.1 + 0.9 * step / per_epoch) for step in range(4 * per_epoch)]
    assert found == pytest.approx([rate * factor for rate, factor in zip(scheduled, factors, strict=True)])


def test_a_plateau_of_the_watched_metric_lowers_the_rate_below_the_warm_up(tmp_path: Path) -> None:
    # No loss falls by a million: every epoch after the first is a plateau.
    found = rates_of(tmp_path, f"{PLATEAU}, warmup_epochs: 1, warmup_start: 0.25", max_epochs=4)
    assert found == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 3, *[0.1] * 3, *[0.01] * 3])
    assert rates_of(tmp_path, f"{PLATEAU}, warmup_epochs: 0", max_epochs=3) == pytest.approx([1] * 6 + [0.1] * 3)


PLATEAU = (
    "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1.0}}, "
    "lr_scheduler: {class_path: lightning.pytorch.cli.ReduceLROnPlateau, "
    "init_args: {monitor: val/loss, factor: 0.1, patience: 0, threshold: 1e6, threshold_mode: abs}}"
)


def test_a_plateau_of_nothing_is_refused_with_the_class_to_use(tmp_path: Path) -> None:
    yaml = "lr_scheduler: {class_path: torch.optim.lr_scheduler.ReduceLROnPlateau}"
    with pytest.raises(UserError, match=r"use lightning\.pytorch\.cli\.ReduceLROnPlateau with .*monitor"):
        rates_of(tmp_path, yaml, max_epochs=1)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_monitor_shows_the_rates_that_are_used(interval: str, tmp_path: Path) -> None:
    rows, seen = Rows(), Rates()
    yaml = f"network: {{class_path: tiny.Net}}, {as_yaml('ExponentialLR')}, lr_scheduler_interval: {interval}"
    fit(tmp_path, from_yaml(yaml), LearningRateMonitor(), seen, logger=rows, max_epochs=4)
    shown = [row["lr-AdamW/decay"] for _, row in rows.rows if "lr-AdamW/decay" in row]
    assert shown == (seen.rates if interval == "step" else seen.rates[::3])
    assert shown[0] == pytest.approx(1e-6)


# One cycle


@pytest.mark.parametrize(
    "settings", [{}, {"pct_start": 0.5, "div_factor": 10.0, "final_div_factor": 100.0}], ids=["defaults", "others"]
)
@pytest.mark.parametrize("total", [7, 24, 100])
def test_one_cycle_is_torch_s_step_by_step(settings: dict[str, float], total: int) -> None:
    one, other = (SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in (0.3, 0.1)]) for _ in range(2))
    ours = OneCycle(one, **settings)
    ours.plan(total, held=0.0)
    ours.apply()
    options: dict[str, Any] = settings
    theirs = lr_scheduler.OneCycleLR(other, [0.3, 0.1], total, cycle_momentum=False, **options)
    for step in range(total):
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in (one, other)]
        assert rates[0] == pytest.approx(rates[1]), step
        for optimizer, schedule in ((one, ours), (other, theirs)):
            optimizer.step()
            schedule.step()


def test_one_cycle_knows_the_length_of_the_run_and_needs_no_warm_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="clf")
    sgd = "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1.0}}"
    ours = rates_of(tmp_path, f"{sgd}, lr_scheduler: clf.optim.OneCycle", max_epochs=4, accumulate_grad_batches=2)
    assert "model.warmup_epochs=5 is not used: OneCycle has its own warm-up" in caplog.text
    caplog.clear()
    typed = "{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {max_lr: 1.0, total_steps: 8}}"
    theirs = rates_of(
        tmp_path, f"{sgd}, lr_scheduler: {typed}, warmup_epochs: 0", max_epochs=4, accumulate_grad_batches=2
    )
    assert ours == pytest.approx(theirs)
    assert len(ours) == 8
    assert max(ours) == pytest.approx(1.0, rel=0.1)
    assert "is not used" not in caplog.text


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Warmup(-1.0, 0.1), r"model\.warmup_epochs=-1.0 must"),
        (lambda: Warmup(math.nan, 0.1), r"model\.warmup_epochs=nan must"),
        (lambda: Warmup(1.0, -0.1), r"model\.warmup_start=-0.1 must be in \[0, 1\]"),
        (lambda: Warmup(1.0, 1.1), r"model\.warmup_start=1.1 must be in \[0, 1\]"),
        (lambda: Cosine(SGD([torch.zeros(1)]), final=2.0), r"final=2.0 must be in \[0, 1\]"),
        (lambda: OneCycle(SGD([torch.zeros(1)]), pct_start=1.0), r"pct_start=1.0 must be in \(0, 1\)"),
        (lambda: OneCycle(SGD([torch.zeros(1)]), div_factor=0.5), "div_factor=0.5 must be at least 1"),
        (lambda: OneCycle(SGD([torch.zeros(1)]), final_div_factor=0.5), "final_div_factor=0.5 must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Going on


def weights(classifier: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


CUT = {
    "cosine": "warmup_epochs: 1.5",
    "one cycle": "lr_scheduler: clf.optim.OneCycle, warmup_epochs: 0",
    "exponential by steps": f"{as_yaml('ExponentialLR')}, lr_scheduler_interval: step, warmup_epochs: 1.5",
    "step by epochs": f"{as_yaml('StepLR')}, warmup_epochs: 1.5",
    "plateau": f"{PLATEAU}, warmup_epochs: 1.5",
    "constant": "lr_scheduler: null, warmup_epochs: 1.5",
    "mixing": "mixing: {class_path: clf.mixing.Mixing}, warmup_epochs: 1",
}


@pytest.mark.parametrize("name", CUT)
def test_a_run_that_is_cut_anywhere_and_resumed_is_the_whole_run(name: str, tmp_path: Path) -> None:
    yaml = f"network: {{class_path: tiny.Net}}, {CUT[name]}"
    whole = from_yaml(yaml)
    seen = Rates()
    fit(tmp_path / "whole", whole, Checkpoint(dirpath=str(tmp_path / "whole")), seen, max_epochs=4)
    for step in (2, 3, 8):  # in the warm-up, between two epochs, in mid-epoch
        folder = tmp_path / str(step)
        for stop, resume in ((step, None), (10**6, folder / "last.ckpt")):
            classifier, rates = from_yaml(yaml), Rates()
            callbacks = [rates, Stop(stop), Checkpoint(dirpath=str(folder), every_n_train_steps=1)]
            try:
                fit(folder, classifier, *callbacks, batches=Resumable(TRAIN, classifier), resume=resume, max_epochs=4)
            except SystemExit:
                continue
        assert 12 - step <= len(rates.rates) <= 12 - step + 1
        assert rates.rates == seen.rates[-len(rates.rates) :]
        assert differences(weights(classifier), weights(whole)) == []


def resume(tmp_path: Path, *, epochs: int, before: dict[str, Any] | None = None, **settings: Any) -> Rates:
    """Cut a run of four epochs after its second, and go on with other settings."""
    original = tiny(**before or {})
    fit(tmp_path, original, Checkpoint(dirpath=str(tmp_path), save_top_k=-1), max_epochs=4)
    [cut] = tmp_path.glob("epoch=001*.ckpt")
    seen = Rates()
    classifier = tiny(**settings)
    fit(
        tmp_path / "resumed",
        classifier,
        seen,
        Checkpoint(dirpath=str(tmp_path / "resumed")),
        resume=cut,
        max_epochs=epochs,
    )
    if not settings and not before and epochs == 4:
        torch.testing.assert_close(weights(classifier), weights(original), rtol=0, atol=0)
    return seen


@pytest.mark.filterwarnings("ignore:.*the best epochs of the resumed run")
@pytest.mark.parametrize(
    ("epochs", "settings", "expected"),
    [
        (4, {}, [1e-3 * factor for factor in warmup_cosine(steps=12, warmup=3)[6:]]),
        (8, {}, [1e-3 * factor for factor in warmup_cosine(steps=24, warmup=6)[6:]]),
        (12, {}, [1e-3 * factor for factor in warmup_cosine(steps=36, warmup=9)[6:]]),
        (4, {"warmup_epochs": 0}, [1e-3 * factor for factor in warmup_cosine(steps=12, warmup=0)[6:]]),
        (
            4,
            {"optimizer": lambda groups: AdamW(groups, lr=0.5)},
            [0.5 * f for f in warmup_cosine(steps=12, warmup=3)[6:]],
        ),
        (4, {"optimizer": lambda groups: AdamW(groups, lr=0.5), "lr_scheduler": None}, [0.5] * 6),
    ],
    ids=["unchanged", "longer", "back in the warm-up", "no warm-up", "other rate", "other constant rate"],
)
def test_a_resumed_run_has_the_rates_of_its_configuration(
    epochs: int, settings: dict[str, Any], expected: list[float], tmp_path: Path
) -> None:
    assert resume(tmp_path, epochs=epochs, **settings).rates == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*the best epochs of the resumed run")
@pytest.mark.parametrize(
    "before",
    [
        {"lr_scheduler": None},
        {"lr_scheduler": lambda optimizer: lr_scheduler.StepLR(optimizer, 1, gamma=0.1)},
        {"lr_scheduler_interval": "epoch"},
        {"lr_scheduler": OneCycle, "warmup_epochs": 0},
    ],
    ids=["constant", "StepLR", "per epoch", "one cycle"],
)
def test_a_resumed_run_may_change_to_a_planned_schedule(before: dict[str, Any], tmp_path: Path) -> None:
    expected = [1e-3 * factor for factor in warmup_cosine(steps=12, warmup=3)[6:]]
    assert resume(tmp_path, epochs=4, before=before).rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lr_scheduler": lambda optimizer: lr_scheduler.StepLR(optimizer, 1)},
            "model.lr_scheduler=StepLR per epoch: .*Cosine per",
        ),
        ({"optimizer": lambda groups: SGD(groups, lr=0.1)}, "model.optimizer=SGD: the checkpoint .* AdamW; keep what"),
        ({"layer_decay": 0.5, "network": None, "arch": "test_resnet", "pretrained": False}, "parameter groups"),
    ],
)
def test_a_resumed_run_cannot_take_on_a_state_that_is_another_s(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    plain = {key: value for key, value in settings.items() if key in ("network", "arch", "pretrained")}
    with pytest.raises(UserError, match=message):
        resume(tmp_path, epochs=4, before=plain, **settings)


def test_a_resumed_run_has_the_weight_decay_of_its_configuration(tmp_path: Path) -> None:
    seen = resume(tmp_path, epochs=3, optimizer=lambda groups: AdamW(groups, weight_decay=0.25))
    assert seen.decays == [[0.25, 0.0]] * 3

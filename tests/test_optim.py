"""Parameter groups and schedules: seen in the weights and learning rates of real fits."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny import Net, fit, from_yaml, tiny
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from clf.callbacks.checkpoint import Checkpoint
from clf.errors import UserError
from clf.optim import WarmupCosine, parameter_groups


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


def test_norms_and_biases_are_not_decayed_and_no_parameter_is_lost_or_doubled() -> None:
    network = nn.Sequential(Net(3), nn.LayerNorm(3), nn.MultiheadAttention(3, 1))
    decay, rest = parameter_groups(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [[names[id(parameter)] for parameter in group["params"]] for group in (decay, rest)]
    assert found[0] == ["0.0.weight", "0.6.weight", "2.in_proj_weight", "2.out_proj.weight"]
    assert sorted(found[0] + found[1]) == sorted(names.values())
    assert (decay["name"], rest["name"], rest["weight_decay"]) == ("decay", "no_decay", 0.0)
    assert "weight_decay" not in decay  # it is the optimizer's


def test_a_parameter_that_two_layers_share_is_trained_once() -> None:
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    [group] = parameter_groups(tied)
    assert len(group["params"]) == 1


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    network = Net(3)
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name == "6.bias"
    [group] = parameter_groups(network)
    assert (group["name"], [tuple(parameter.shape) for parameter in group["params"]]) == ("no_decay", [(3,)])


def test_weight_decay_shrinks_kernels_and_leaves_norms_and_biases_alone() -> None:
    network = Net(3)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = SGD(parameter_groups(network), lr=1.0, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.5 if parameter.ndim > 1 else 1.0))


@pytest.mark.parametrize(
    ("init_args", "epochs", "expected"),
    [
        ("warmup_epochs: 2", 8, warmup_cosine(steps=24, warmup=6)),
        ("warmup_epochs: 0.5", 4, warmup_cosine(steps=12, warmup=2)),
        ("warmup_epochs: 0", 2, warmup_cosine(steps=6, warmup=0)),
        ("warmup_epochs: 2, warmup_start: 0.5, final: 0.0", 8, warmup_cosine(steps=24, warmup=6, start=0.5, final=0)),
    ],
    ids=["two epochs", "half an epoch", "none", "start and final"],
)
def test_rates_follow_the_warm_up_and_the_cosine_step_by_step(
    init_args: str, epochs: int, expected: list[float], tmp_path: Path
) -> None:
    # Defect 4: a warm-up that is stored and never used.
    yaml = (
        f"lr_scheduler: {{class_path: clf.optim.WarmupCosine, init_args: {{{init_args}}}}}, "
        "optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.2}}"
    )
    assert rates_of(tmp_path, yaml, max_epochs=epochs) == pytest.approx([0.2 * factor for factor in expected])


def test_the_default_schedule_is_shortened_for_a_short_run(tmp_path: Path) -> None:
    # Five epochs of warm-up would be longer than the run; a quarter of its 12 steps is 3.
    expected = [1e-3 * factor for factor in warmup_cosine(steps=12, warmup=3)]
    assert rates_of(tmp_path, "seed: 1", max_epochs=4) == pytest.approx(expected)


def test_the_schedule_ends_where_max_steps_ends_the_run(tmp_path: Path) -> None:
    expected = [1e-3 * factor for factor in warmup_cosine(steps=5, warmup=1)]
    assert rates_of(tmp_path, "seed: 1", max_steps=5, max_epochs=-1) == pytest.approx(expected)


def test_accumulated_batches_are_one_step_of_the_schedule(tmp_path: Path) -> None:
    # Three batches by twos are two steps an epoch.
    yaml = "lr_scheduler: {class_path: clf.optim.WarmupCosine, init_args: {warmup_epochs: 1}}"
    expected = [1e-3 * factor for factor in warmup_cosine(steps=16, warmup=2)]
    assert rates_of(tmp_path, yaml, max_epochs=8, accumulate_grad_batches=2) == pytest.approx(expected)


def test_the_schedule_can_step_by_epochs(tmp_path: Path) -> None:
    yaml = (
        "lr_scheduler: {class_path: clf.optim.WarmupCosine, init_args: {warmup_epochs: 1}}, "
        "lr_scheduler_interval: epoch"
    )
    expected = [1e-3 * factor for factor in warmup_cosine(steps=5, warmup=1) for _ in range(3)]
    assert rates_of(tmp_path, yaml, max_epochs=5) == pytest.approx(expected)


@pytest.mark.parametrize(("interval", "expected"), [("step", [1, 1, 0.5, 0.5, 0.25, 0.25]), ("epoch", [1] * 6)])
def test_a_schedule_of_torch_steps_by_steps_or_by_epochs(interval: str, expected: list[float], tmp_path: Path) -> None:
    yaml = (
        "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1.0}}, "
        "lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 2, gamma: 0.5}}, "
        f"lr_scheduler_interval: {interval}"
    )
    assert rates_of(tmp_path, yaml, max_epochs=2) == expected


def test_without_a_schedule_the_rate_is_constant(tmp_path: Path) -> None:
    assert rates_of(tmp_path, "lr_scheduler: null", max_epochs=2) == [1e-3] * 6


def test_a_plateau_of_the_watched_metric_lowers_the_rate(tmp_path: Path) -> None:
    # No loss falls by a million: every epoch after the first is a plateau.
    init_args = "{monitor: val/loss, factor: 0.1, patience: 0, threshold: 1e6, threshold_mode: abs}"
    yaml = (
        "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1.0}}, "
        f"lr_scheduler: {{class_path: lightning.pytorch.cli.ReduceLROnPlateau, init_args: {init_args}}}"
    )
    assert rates_of(tmp_path, yaml, max_epochs=3) == pytest.approx([1] * 6 + [0.1] * 3)


def test_a_plateau_of_nothing_is_refused_with_the_class_to_use(tmp_path: Path) -> None:
    yaml = "lr_scheduler: {class_path: torch.optim.lr_scheduler.ReduceLROnPlateau}"
    with pytest.raises(UserError, match=r"use lightning\.pytorch\.cli\.ReduceLROnPlateau with .*monitor"):
        rates_of(tmp_path, yaml, max_epochs=1)


def test_a_run_without_an_end_is_refused_with_the_keys_to_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        rates_of(tmp_path, "seed: 1", max_epochs=-1)


@pytest.mark.parametrize(
    ("key", "value"), [("warmup_epochs", -1.0), ("warmup_start", -0.1), ("warmup_start", 1.1), ("final", 2.0)]
)
def test_a_value_out_of_range_is_refused_by_name(key: str, value: float) -> None:
    settings: dict[str, Any] = {key: value}
    with pytest.raises(ValueError, match=f"{key}={value} must"):
        WarmupCosine(SGD([torch.zeros(1)]), **settings)


def weights(classifier: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def test_the_warm_up_changes_what_is_learned(tmp_path: Path) -> None:
    with_warmup, without = tiny(), tiny(lr_scheduler=lambda optimizer: WarmupCosine(optimizer, warmup_epochs=0))
    for classifier in (with_warmup, without):
        fit(tmp_path, classifier, max_epochs=4)
    name = "network.0.weight"
    assert not torch.allclose(weights(with_warmup)[name], weights(without)[name])


def resume(tmp_path: Path, *, epochs: int, **settings: Any) -> Rates:
    """Cut a run of four epochs after its second, and go on with other settings."""
    original = tiny(lr_scheduler=WarmupCosine)
    fit(tmp_path, original, Checkpoint(dirpath=str(tmp_path), save_top_k=-1), max_epochs=4)
    [cut] = tmp_path.glob("epoch=001*.ckpt")
    seen = Rates()
    classifier = tiny(**{"lr_scheduler": WarmupCosine} | settings)
    fit(
        tmp_path / "resumed",
        classifier,
        seen,
        Checkpoint(dirpath=str(tmp_path / "resumed")),
        resume=cut,
        max_epochs=epochs,
    )
    if not settings and epochs == 4:
        torch.testing.assert_close(weights(classifier), weights(original), rtol=0, atol=0)
    return seen


@pytest.mark.filterwarnings("ignore:.*the best epochs of the resumed run")
@pytest.mark.parametrize(
    ("epochs", "settings", "expected"),
    [
        (4, {}, [1e-3 * factor for factor in warmup_cosine(steps=12, warmup=3)[6:]]),
        (8, {}, [1e-3 * factor for factor in warmup_cosine(steps=24, warmup=6)[6:]]),
        (
            4,
            {"optimizer": lambda groups: AdamW(groups, lr=0.5)},
            [0.5 * f for f in warmup_cosine(steps=12, warmup=3)[6:]],
        ),
        (4, {"optimizer": lambda groups: AdamW(groups, lr=0.5), "lr_scheduler": None}, [0.5] * 6),
    ],
    ids=["unchanged", "longer", "other rate", "other constant rate"],
)
def test_a_resumed_run_has_the_rates_of_its_configuration(
    epochs: int, settings: dict[str, Any], expected: list[float], tmp_path: Path
) -> None:
    assert resume(tmp_path, epochs=epochs, **settings).rates == pytest.approx(expected)


def test_a_resumed_run_has_the_weight_decay_of_its_configuration(tmp_path: Path) -> None:
    seen = resume(tmp_path, epochs=3, optimizer=lambda groups: AdamW(groups, weight_decay=0.25))
    assert seen.decays == [[0.25, 0.0]] * 3

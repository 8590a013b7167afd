"""What a network costs: counted by hand, and written by real runs."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from datasets import draw_folders
from tiny import fit, tiny
from torch import Tensor, nn

from clf.callbacks.model_info import ModelInfo
from clf.errors import UserError
from clf.main import main
from clf.model_info import count_macs, count_parameters, describe, measure_latency

FIT = (
    *("fit", "--config", "demo.yaml", "--data.root", "images", "--data.num_workers", "0", "--data.batch_size", "4"),
    *("--model.arch", "test_resnet", "--trainer.max_epochs", "1"),
)


@pytest.fixture
def folder(workdir: Path) -> Path:
    draw_folders(workdir / "images", {f"{split}/{name}": 4 for split in ("train", "valid") for name in "ab"})
    return workdir


def written() -> dict[str, Any]:
    model: dict[str, Any] = json.loads(Path("runs/latest/environment.json").read_text())["model"]
    return model


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "clf"]


def test_parameters_are_all_and_those_that_are_trained() -> None:
    network = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    assert count_parameters(network) == (54, 10)


def test_a_mac_is_one_weight_met_by_one_value() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    assert count_macs(network, torch.zeros(1, 3, 8, 8)) == 36 * 4 * 27 + 144 * 5


def test_attention_counts() -> None:
    network: Any = timm.create_model("test_vit", num_classes=2, img_size=32)
    tokens, width = 5, 64  # four patches and the class
    linear = sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Linear))
    head, patches = network.head.weight.numel(), 4 * network.patch_embed.proj.weight.numel()
    attention = len(network.blocks) * 2 * tokens * tokens * width  # queries with keys, their shares with values
    counted = count_macs(network, torch.zeros(1, 3, 32, 32))
    assert counted == tokens * (linear - head) + head + patches + attention


def refuse(*_: Any) -> Any:
    raise AssertionError("compiled after all")


class Random(nn.Module):
    """Draws numbers in every forward pass."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, num_classes, 3)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training or torch.is_grad_enabled()
        logits: Tensor = self.convolution(images + torch.rand(())).mean((2, 3))
        return logits


def test_measuring_leaves_modes_statistics_and_the_random_state_and_compiles_nothing() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), Random(5))
    network.train()
    network[0].eval()
    network.compile(backend=refuse)
    state, random = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    count_macs(network, torch.ones(1, 3, 8, 8))
    assert measure_latency(network, torch.ones(2, 3, 8, 8)) > 0
    assert [module.training for module in network.modules()] == [True, False, True, True, True]
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


class Timed(nn.Module):
    """Takes as long as it is told, on a clock of its own."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self.now = 0.0
        self.seconds = iter(seconds)

    def perf_counter(self) -> float:
        return self.now

    def forward(self, images: Tensor) -> Tensor:
        self.now += next(self.seconds)
        return images


@pytest.mark.parametrize(
    ("seconds", "latency"),
    [
        ([0.1, 0.1, *[0.01] * 4, 0.02, 0.02, *[0.03] * 4, 9.0], 0.02),  # two that warm up, then ten
        ([0.15, 0.1, 0.12, 0.14, 9.0], 0.13),  # no more begin after a fifth of a second
        ([1.5, 0.5, 9.0], 0.5),
    ],
)
def test_a_latency_is_the_median_of_passes_after_the_first_two_and_of_slow_ones_there_are_fewer(
    seconds: list[float], latency: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Timed(seconds)
    monkeypatch.setattr("clf.model_info.time", network)
    assert measure_latency(network, torch.zeros(1, 3, 8, 8)) == pytest.approx(latency)


def test_a_run_s_environment_says_what_the_network_costs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        assert main([*FIT, "--model.image_size", "64"]) == 0
    network: Any = timm.create_model("test_resnet", num_classes=2)
    model = written()
    assert (model["parameters"], model["trained"]) == count_parameters(network)
    assert model["macs"] == count_macs(network, torch.zeros(1, 3, 64, 64))
    assert model["input"] == [3, 64, 64]
    assert list(model["latency"]["seconds"]) == ["1", "4"]
    assert model["latency"]["precision"] == "32-true"
    assert model["checkpoint_bytes"] == Path("runs/latest/checkpoints/best.ckpt").stat().st_size
    start, end = (line for line in said(caplog) if line.startswith("model: "))
    assert start == f"model: {describe(model)}"
    assert end == f"model: the best checkpoint has {model['checkpoint_bytes'] / 1e6:.1f} MB"


def test_a_resumed_run_measures_again_and_keeps_one_environment(folder: Path) -> None:
    assert main([*FIT]) == 0
    path = Path("runs/latest/environment.json")
    before = json.loads(path.read_text())
    before["config_changes"]["trainer.max_epochs"]["value"] = 2  # else that would be what has changed
    path.write_text(json.dumps({**before, "model": {"stale": True}}, indent=2) + "\n")
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    after = json.loads(path.read_text())
    assert after["model"].keys() == before["model"].keys()
    assert [file.name for file in path.parent.glob("environment*")] == ["environment.json"]


def test_the_latency_can_be_left_out(folder: Path) -> None:
    assert main([*FIT, "--callbacks.model_info.latency", "false"]) == 0
    assert "latency" not in written()


def test_another_batch_can_be_timed(folder: Path) -> None:
    assert main([*FIT, "--callbacks.model_info.batch_size", "2"]) == 0
    assert list(written()["latency"]["seconds"]) == ["1", "2"]


def test_training_goes_on_where_a_network_cannot_be_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Pairs(Random):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) == 1 and not self.training:
                raise RuntimeError("only pairs")
            return super().forward(images)

    with caplog.at_level(logging.INFO, "clf"):
        fitted = fit(tmp_path, tiny(network=Pairs), ModelInfo(), max_epochs=1, limit_val_batches=0)
    assert fitted.current_epoch == 1
    assert said(caplog) == [
        "model_info: the network could not be measured: RuntimeError: only pairs",
        "model: 84 parameters (all trained)",
    ]


def test_a_description_is_one_line_and_names_what_is_not_trained() -> None:
    facts = {
        "parameters": 11_689_512,
        "trained": 513_000,
        "macs": 1_814_073_344,
        "input": [3, 224, 160],
        "latency": {"device": "cpu (2 cores)", "seconds": {"1": 0.0123456, "64": 0.5}},
    }
    assert describe(facts) == (
        "11.7 M parameters (513 k trained), 1.81 G MACs for an image of 224 x 160, "
        "forward pass 12.3 ms for 1, 500 ms for 64 on cpu (2 cores)"
    )


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks\.model_info\.batch_size=0"):
        ModelInfo(batch_size=0)

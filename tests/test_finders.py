"""The searches for a learning rate and a batch size: what they find, write, say, and leave alone."""

import csv
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from test_cli import FIT, folder
from test_parameters import TwoLayers
from tiny import TRAIN, Loader, batch, from_yaml, tiny
from torch.optim import SGD

from clf import finders, runs
from clf.classifier import Batch
from clf.errors import UserError
from clf.main import main

__all__ = ["folder"]

RATES = [10 ** (-6 + step / 10) for step in range(70)]


def curve(lowest: float) -> list[float]:
    """A loss that falls up to a rate and rises above it."""
    return [2 + abs(math.log10(rate / lowest)) / 10 for rate in RATES]


@pytest.mark.parametrize("lowest", [1e-3, 1e-2, 1.0])
def test_the_rate_is_a_tenth_of_that_with_the_lowest_loss(lowest: float) -> None:
    assert finders.suggest(RATES, curve(lowest)) == pytest.approx(lowest / 10)


def test_a_loss_that_is_lowest_at_the_start_suggests_nothing() -> None:
    assert finders.suggest(RATES, curve(1e-6)) is None
    assert finders.suggest(RATES, []) is None


def test_smoothing_averages_neighbours_and_ends_where_the_loss_is_no_number() -> None:
    assert finders.moving_average([1.0, 2.0, 6.0, 3.0], radius=1) == pytest.approx([1.5, 3.0, 11 / 3, 4.5])
    assert finders.moving_average([1.0, 3.0, math.nan, 1.0], radius=1) == pytest.approx([2.0, 2.0])
    assert finders.moving_average([math.inf]) == []


def searching(tmp_path: Path, **settings: Any) -> Trainer:
    return Trainer(**finders.SETTINGS | {"accelerator": "cpu", "default_root_dir": tmp_path} | settings)


class Batches(LightningDataModule):
    def train_dataloader(self) -> Loader:
        return Loader(TRAIN)

    def val_dataloader(self) -> Loader:
        raise AssertionError("a search validates nothing")


class Counting(Loader):
    """Notes the sizes that are really trained with."""

    def __init__(self, data: "Sized") -> None:
        super().__init__([batch(*[0] * data.batch_size)])
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        for one in self.batches:
            self.data.tried.add(self.data.batch_size)
            yield one


class Sized(Batches):
    """Has a batch size that a search can change."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 64
        self.tried: set[int] = set()

    def train_dataloader(self) -> Loader:
        return Counting(self)

    def val_dataloader(self) -> Loader:
        return Loader(TRAIN)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_search_raises_the_rate_step_by_step_and_knows_the_loss_of_each(accumulate: int, tmp_path: Path) -> None:
    classifier = tiny(optimizer=lambda groups: SGD(groups, lr=123.0), freeze_epochs=0, warmup_epochs=5)
    trainer = searching(tmp_path, accumulate_grad_batches=accumulate)
    found = finders.find_lr(trainer, classifier, Batches(), folder=tmp_path / "out")
    with (tmp_path / "out" / "find_lr-001.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    rates = [row["lr"] for row in rows]
    assert rates[0] == pytest.approx(1e-6)
    ratios = [after / before for before, after in pairwise(rates[2:])]
    assert ratios == pytest.approx([1e7**0.01] * len(ratios), rel=1e-3)
    assert rows[0]["loss"] == pytest.approx(1.1, abs=0.3)  # an untrained network's, of three classes
    assert found == pytest.approx(min(rows, key=lambda row: row["smoothed"])["lr"] / 10)


def test_the_rate_of_each_layer_is_scaled_in_the_search_too(tmp_path: Path) -> None:
    used: list[list[float]] = []

    class Seen(SGD):
        def __init__(self, groups: Any) -> None:
            super().__init__(groups, lr=1.0)
            self.register_step_post_hook(lambda *_: used.append([group["lr"] for group in self.param_groups]))

    classifier = from_yaml("network: {class_path: test_parameters.TwoLayers}, layer_decay: 0.5, freeze_epochs: 1")
    classifier.rates.make_optimizer = Seen
    finders.find_lr(searching(tmp_path), classifier, Batches(), folder=tmp_path)
    scales = [group["lr_scale"] for group in classifier.trainer.optimizers[0].param_groups]
    assert set(scales) == {0.5, 1.0}
    assert used[0] == pytest.approx([1e-6 * scale for scale in scales])


def test_find_lr_writes_its_curve_says_what_to_do_and_leaves_no_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs" / "tiny").mkdir(parents=True)
    (folder / "runs" / "tiny" / "find_lr-004.csv").touch()
    assert main([*FIT, "--find_lr"]) == 0
    lines = capsys.readouterr().err.splitlines()
    [*_, line] = lines
    assert line.startswith("next: clf fit … --model.optimizer.lr ")
    assert line.endswith(" (instead of --find_lr)")
    assert 1e-6 <= float(line.split()[5]) <= 1
    left = sorted(path.name for path in (folder / "runs").rglob("*"))
    assert left == ["find_lr-004.csv", "find_lr-005.csv", "find_lr-005.png", "tiny"]
    assert (folder / "runs/tiny/find_lr-005.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"images", "runs", "stopper.py", "tiny.yaml"}
    assert runs.newest("tiny") is None
    assert runs.reserve("tiny").path.name == "001"


@pytest.mark.parametrize(
    ("images", "most", "found", "reason"),
    [
        (3, 256, 3, "all 3 training images fit into one batch"),
        (100, 4, 4, "larger batches than 4 are not tried (without a GPU there is no limit to find"),
    ],
    ids=["all images", "a stated size"],
)
def test_find_batch_size_on_a_cpu_ends_somewhere_and_says_why(
    images: int, most: int, found: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level("INFO", logger="clf")
    monkeypatch.setattr(finders, "LARGEST_BATCH_ON_CPU", most)
    data, classifier = Sized(), tiny(network=TwoLayers, freeze_epochs=1)
    assert finders.find_batch_size(searching(tmp_path), classifier, data, images=images) == found
    assert data.tried == {2, 4}
    assert reason in caplog.text
    assert all(parameter.requires_grad for parameter in classifier.parameters())  # what is frozen needs less memory


MEMORY = """
import torch

class Greedy(torch.nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, num_classes))

    def forward(self, images):
        if len(images) > 10:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().forward(images)
"""


def test_find_batch_size_takes_the_last_one_that_fitted_into_memory(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "greedy.py").write_text(MEMORY)
    assert main([*FIT, "--find_batch_size", "--model.network", "greedy.Greedy", "--model.drop_rate", "0"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "next: clf fit … --data.batch_size 8 (instead of --find_batch_size)"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--find_lr", "--find_batch_size"], "first the batch size"),
        (["--find_lr", "--trainer.fast_dev_run", "true"], "find_lr finds nothing in a dry run"),
        (["--find_lr", "--ckpt_path", "runs/tiny/001/checkpoints/last.ckpt"], "find_lr starts from the configuration"),
        (["--find_batch_size", "--trainer.devices", "2"], "find_batch_size works in one process"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--ckpt_path" in words:
        assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    before = sorted(Path().rglob("*"))
    assert main([*FIT, *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(Path().rglob("*")) == before


def test_a_search_is_no_key_of_a_run_s_configuration(folder: Path) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    assert "find_" not in Path("runs/latest/config.yaml").read_text()


def test_a_loss_that_never_falls_is_told(tmp_path: Path) -> None:
    class Rising(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return logits.sum() * 0 + self.calls

    with pytest.raises(UserError, match="find_lr: the loss never falls"):
        finders.find_lr(searching(tmp_path), tiny(loss=Rising()), Batches(), folder=tmp_path)
    assert (tmp_path / "find_lr-001.png").is_file()

"""What ``clf fit`` does about its configuration before it trains: stops, warns, or looks away when told to."""

import csv
from pathlib import Path

import pytest
import yaml
from datasets import draw_folders

from clf.main import main

TINY = """
model: {arch: test_resnet, pretrained: false, image_size: 32, warmup_epochs: 0}
data: {batch_size: 8, num_workers: 0, augment: light, root: images}
trainer: {accelerator: cpu, max_epochs: 1, num_sanity_val_steps: 0}
callbacks: {model_info: null, report: null, statistics: null}
"""
FIT = ("fit", "--config", "tiny.yaml")
WRONG = ("--callbacks.early_stopping.mode", "min")
PROBLEM = "callbacks.early_stopping: val/acc_top1 is better the higher it is, but mode=min would take"


@pytest.fixture
def pets(workdir: Path) -> Path:
    counts = {f"{split}/{name}": 4 for split in ("train", "valid", "test") for name in ("cat", "dog")}
    draw_folders(workdir / "images", counts)
    (workdir / "tiny.yaml").write_text(TINY)
    return workdir


def checked(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("check: ")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--callbacks.checkpoint.monitor", "val/acc"), "clf: callbacks.checkpoint.monitor: 'val/acc' is not logged;"),
        (WRONG, f"clf: {PROBLEM}"),
    ],
)
def test_a_mistake_ends_the_command_before_it_leaves_anything(
    words: tuple[str, ...], message: str, pets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(pets.rglob("*"))
    assert main([*FIT, *words]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(message)
    assert said.endswith("(found before training; --skip_check trains all the same)")
    assert sorted(pets.rglob("*")) == before


def test_who_skips_the_check_trains_and_who_resumes_is_warned(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, *WRONG, "--trainer.detect_anomaly", "true", "--skip_check"]) == 0
    assert checked(capfd.readouterr().err) == []
    assert "skip_check" not in yaml.safe_load(Path("runs/latest/config.yaml").read_text())
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    said = checked(capfd.readouterr().err)
    assert [line.split(":")[1].split("=")[0] for line in said] == [
        *(" callbacks.early_stopping", " trainer.detect_anomaly", " train"),
    ]
    assert PROBLEM in said[0]
    assert "2 of 2 classes have fewer than 10 images" in said[2]
    kept = [line.split(" ", 2)[2] for line in Path("runs/latest/log.txt").read_text().splitlines() if "check: " in line]
    assert kept == [f"WARNING {line}" for line in said]
    with Path("runs/latest/metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]

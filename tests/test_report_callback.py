"""The report at the end of real commands: written last, switched off, and never in a run's way."""

import csv
import json
import re
import shlex
from html import unescape
from pathlib import Path

import pytest
import yaml
from datasets import draw_folders

from clf.main import main


def text_of(report: Path) -> str:
    """Read a page without its markup."""
    return " ".join(re.sub(r"<[^>]*>", " ", report.read_text("utf-8")).split())


@pytest.fixture
def tiny_run(workdir: Path) -> list[str]:
    """Start a fit of a tiny network on images made here, in two epochs."""
    draw_folders(workdir / "images", {f"{split}/{name}": 4 for split in ("train", "valid", "test") for name in "ab"})
    settings = {
        "model": {"arch": "test_resnet", "pretrained": False, "image_size": 32},
        "data": {"batch_size": 4, "num_workers": 0},
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
        "callbacks": {"ema": {"decay": 0.9}, "lr_monitor": None},
    }
    (workdir / "tiny.yaml").write_text(yaml.safe_dump(settings))
    return ["fit", "--config", "tiny.yaml", "--data.root", "images"]


@pytest.mark.drawn
def test_fit_and_test_write_the_report_after_everything_else(tiny_run: list[str]) -> None:
    assert main(tiny_run) == 0
    html = Path("runs/tiny/001/report.html")
    text = text_of(html)
    assert "Finished after 1 epoch (max_epochs or max_steps reached)." in text
    assert "Validation 8 images" in text
    assert "Test 8 images" not in text
    assert main(["test"]) == 0
    text = text_of(html)
    assert "Test 8 images, best.ckpt" in text
    with open("runs/latest/predictions/test.csv", encoding="utf-8", newline="") as file:
        wrong = sum(row["label"] != row["true"] for row in csv.DictReader(file))
    assert f"{wrong} of 8 test images are wrong." in text


def test_the_commands_of_the_report_do_what_they_say(tiny_run: list[str]) -> None:
    assert main(tiny_run) == 0
    html = Path("runs/tiny/001/report.html").read_text("utf-8")
    found = re.findall(r"<code>(clf .*?)</code>", html)
    resume, *others = (shlex.split(unescape(command).replace("FOLDER", "images/test"))[1:] for command in found)
    Path("runs/latest").unlink()  # they name the run and need no link
    for words in (resume, *others):
        assert main(words) == 0, words
    finished = json.loads(Path("runs/tiny/001/metrics.json").read_text("utf-8"))["finished"]
    assert finished["epochs"] == 2
    assert len(Path("predictions.csv").read_text("utf-8").splitlines()) == 9


def test_the_run_writes_down_what_differs_from_the_defaults(tiny_run: list[str]) -> None:
    sgd = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--model.optimizer.momentum", "0.9"]
    assert main([*tiny_run, *sgd]) == 0
    changes = json.loads(Path("runs/latest/environment.json").read_text("utf-8"))["config_changes"]
    monitor = changes.pop("callbacks.lr_monitor")
    assert monitor["value"] is None
    assert monitor["default"]["class_path"] == "lightning.pytorch.callbacks.LearningRateMonitor"
    assert {key: (each["value"], each["default"]) for key, each in changes.items()} == {
        "trainer.accelerator": ("cpu", "auto"),
        "trainer.max_epochs": (1, 100),
        "model.arch": ("test_resnet", "resnet18"),
        "model.pretrained": (False, "auto"),
        "model.image_size": (32, None),
        "model.optimizer.class_path": ("torch.optim.SGD", "torch.optim.AdamW"),
        "model.optimizer.lr": (0.1, 0.001),
        "model.optimizer.momentum": (0.9, 0),
        "data.root": ("images", None),
        "data.batch_size": (4, 64),
        "data.num_workers": (0, "auto"),
        "callbacks.ema.class_path": ("clf.callbacks.ema.EMA", None),
        "callbacks.ema.decay": (0.9, 0.9999),
    }


def test_the_report_is_switched_off_by_null(tiny_run: list[str]) -> None:
    assert main([*tiny_run, "--callbacks.report", "null"]) == 0
    assert main(["test"]) == 0
    assert not Path("runs/tiny/001/report.html").exists()


@pytest.mark.drawn
def test_a_report_that_cannot_be_written_is_a_warning_and_the_run_is_whole(
    tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (Path("in_the_way.py")).write_text(
        "from lightning.pytorch import Callback\n\n\nclass InTheWay(Callback):\n"
        "    def on_fit_end(self, trainer, pl_module):\n"
        "        import pathlib\n\n        (pathlib.Path(trainer.default_root_dir) / 'report.html').mkdir()\n"
    )
    assert main([*tiny_run, "--callbacks.own", "in_the_way.InTheWay"]) == 0
    assert "report.html was not written: IsADirectoryError" in capsys.readouterr().err
    assert json.loads(Path("runs/latest/metrics.json").read_text("utf-8"))["finished"]["epochs"] == 1

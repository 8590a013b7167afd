"""The verbs end to end, on images made on the spot: what a run leaves, and how it is found and continued."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import draw_folders
from torch import Tensor

from clf.main import main

TINY = """
model: {arch: test_resnet, pretrained: false, image_size: 32, drop_rate: 0.2}
data: {batch_size: 4, num_workers: 0, augment: standard}
trainer: {accelerator: cpu, max_epochs: 3, num_sanity_val_steps: 0}
callbacks: {ema: {decay: 0.9}}
"""
FIT = ("fit", "--config", "tiny.yaml", "--data.root", "images")

# A user's own callback, as one writes it beside one's configs: sends a real signal at a chosen step.
STOP = """
import os
import signal
from lightning.pytorch import Callback

class Stop(Callback):
    def __init__(self, step: int, name: str = "SIGTERM") -> None:
        self.step, self.name = step, name

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), getattr(signal, self.name))

class StopInValidation(Callback):
    def on_validation_batch_start(self, trainer, *_):
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
"""


def make_folder(folder: Path) -> Path:
    counts = {f"{split}/{name}": 8 if split == "train" else 3 for split in ("train", "valid", "test") for name in "abc"}
    draw_folders(folder / "images", counts)
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "stopper.py").write_text(STOP)
    return folder


@pytest.fixture
def folder(workdir: Path) -> Path:
    """A working folder with images of three classes and a config; six steps an epoch."""
    return make_folder(workdir)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Train for so many epochs, once, for all tests that do something to a copy."""

    @cache
    def once(epochs: int) -> Path:
        folder = make_folder(tmp_path_factory.mktemp("trained") / "work")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr("clf.artist.Artist.submit", lambda *_: None)
            assert main([*FIT, "--trainer.max_epochs", str(epochs)]) == 0
        return folder

    return once


@pytest.fixture
def one_epoch(trained: Callable[[int], Path], workdir: Path) -> Path:
    """The working folder with a run of one epoch."""
    return Path(shutil.copytree(trained(1), workdir, symlinks=True, dirs_exist_ok=True))


@pytest.fixture
def three_epochs(trained: Callable[[int], Path], workdir: Path) -> Path:
    """The working folder with a run as its config says."""
    return Path(shutil.copytree(trained(3), workdir, symlinks=True, dirs_exist_ok=True))


def weights(run: str, name: str = "last") -> dict[str, Tensor]:
    """What a checkpoint trains and what it averages, under one set of names."""
    checkpoint = torch.load(f"runs/{run}/checkpoints/{name}.ckpt", weights_only=True)
    both = {"average": checkpoint["state_dict"], "trained": checkpoint["current_model_state"]}
    return {f"{kind}.{key}": value for kind, state in both.items() for key, value in state.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different


def table(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_a_run_leaves_what_the_readme_lists(three_epochs: Path) -> None:
    there = {str(path.relative_to("runs/tiny/001")) for path in Path("runs/tiny/001").rglob("*") if path.is_file()}
    assert there >= {
        *("config.yaml", "environment.json", "labels_mapping.json", "metrics.csv", "metrics.json", "timing.csv"),
        *("log.txt", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "predictions/val.csv"),
    }
    assert Path("runs/latest").resolve() == three_epochs / "runs/tiny/001"
    metrics = table("runs/latest/metrics.csv")
    assert [row["epoch"] for row in metrics] == ["0", "1", "2"]
    best = max(metrics, key=lambda row: float(row["val/acc_top1"]))
    assert read_json("runs/latest/metrics.json")["val"]["acc_top1"] == float(best["val/acc_top1"])
    val = table("runs/latest/predictions/val.csv")
    assert len(val) == 9
    correct = sum(row["label"] == row["true"] for row in val)
    assert correct / 9 == pytest.approx(float(best["val/acc_top1"]), abs=1e-6)


def test_later_commands_need_no_config_in_a_new_process(one_epoch: Path) -> None:
    words = [sys.executable, "-m", "clf", "fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, len(table("runs/latest/metrics.csv"))) == (0, 2), done.stderr
    assert main(["predict", "--data.predict", "images/valid/a", "--output", "a.jsonl"]) == 0
    assert main(["test"]) == main(["predict"]) == 0
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [f"images/valid/a/{number}.png" for number in range(3)]
    assert len(table("runs/latest/predictions/test.csv")) == 9
    assert not list(Path("runs/tiny").glob("002"))


def test_two_runs_with_one_seed_have_identical_weights_whatever_the_number_of_workers(folder: Path) -> None:
    for workers in ("0", "1", "2"):
        assert main([*FIT, "--trainer.max_epochs", "2", "--data.num_workers", workers]) == 0
    assert main([*FIT, "--trainer.max_epochs", "2", "--seed_everything", "7"]) == 0
    assert_equal(weights("tiny/001"), weights("tiny/002"))
    assert_equal(weights("tiny/001"), weights("tiny/003"))
    assert Path("runs/tiny/001/metrics.csv").read_bytes() == Path("runs/tiny/003/metrics.csv").read_bytes()
    other = weights("tiny/004")
    key = next(name for name in other if name.startswith("trained.network") and name.endswith("weight"))
    assert not torch.equal(weights("tiny/001")[key], other[key])


@pytest.mark.parametrize(
    ("callback", "code"),
    [
        ({"class_path": "stopper.Stop", "init_args": {"step": 6}}, 143),  # the last step of an epoch
        ({"class_path": "stopper.Stop", "init_args": {"step": 9}}, 143),  # in the middle of one
        ({"class_path": "stopper.Stop", "init_args": {"step": 9, "name": "SIGINT"}}, 130),
        ({"class_path": "stopper.StopInValidation"}, 143),
    ],
    ids=["after-an-epoch", "mid-epoch", "ctrl-c", "in-validation"],
)
def test_a_stopped_and_continued_run_equals_the_uninterrupted_one(
    callback: dict[str, Any], code: int, three_epochs: Path
) -> None:
    (three_epochs / "stopped.yaml").write_text(yaml.safe_dump({"config": "tiny.yaml", "callbacks": {"stop": callback}}))
    assert main(["fit", "--config", "stopped.yaml", *FIT[3:]]) == code
    assert read_json("runs/stopped/001/metrics.json")["finished"] is None
    assert main(["fit", "--ckpt_path", "last", "--callbacks.stop", "null"]) == 0
    assert_equal(weights("tiny/001"), weights("stopped/001"))
    assert_equal(weights("tiny/001", "best"), weights("stopped/001", "best"))
    assert Path("runs/tiny/001/metrics.csv").read_bytes() == Path("runs/stopped/001/metrics.csv").read_bytes()


def test_a_second_run_gets_its_own_directory_and_last_never_means_another_experiment(one_epoch: Path) -> None:
    # Defects 15 and 8.
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    assert main([*FIT, "--trainer.max_epochs", "1", "--name", "other"]) == 0
    assert sorted(map(str, Path("runs").glob("[ot]*/*"))) == ["runs/other/001", "runs/tiny/001", "runs/tiny/002"]
    assert main([*FIT, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    lengths = {run: len(table(f"runs/{run}/metrics.csv")) for run in ("tiny/001", "tiny/002", "other/001")}
    assert lengths == {"tiny/001": 1, "tiny/002": 2, "other/001": 1}
    assert main([*FIT, "--name", "new", "--ckpt_path", "last"]) == 2
    assert main(["fit", "--run", "runs/tiny/001", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert len(table("runs/tiny/001/metrics.csv")) == 2


def test_auto_starts_once_and_then_continues_until_the_run_is_finished(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, "--ckpt_path", "auto"]
    assert main([*words, "--trainer.max_epochs", "1"]) == 0
    assert main([*words, "--trainer.max_epochs", "2"]) == 0
    capsys.readouterr()
    assert main([*words, "--trainer.max_epochs", "2"]) == 0
    assert "already finished" in capsys.readouterr().err
    assert [str(path) for path in Path("runs/tiny").iterdir()] == ["runs/tiny/001"]
    assert len(table("runs/latest/metrics.csv")) == 2


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_nothing_is_ever_scored_with_untrained_weights(
    verb: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Defect 13.
    assert main([verb, "--config", "tiny.yaml", "--data.root", "images"]) == 2
    assert "no run of this experiment in runs/tiny/" in capsys.readouterr().err


def test_scores_are_those_of_the_best_checkpoint(three_epochs: Path) -> None:
    in_fit = read_json("runs/latest/metrics.json")["val"]
    fitted = Path("runs/latest/predictions/val.csv").read_bytes()
    assert main(["validate"]) == 0
    validated = read_json("runs/latest/metrics.json")["val"]
    assert validated["acc_top1"] == in_fit["acc_top1"]
    assert validated["loss"] == pytest.approx(in_fit["loss"], rel=1e-6)
    assert Path("runs/latest/predictions/val.csv").read_bytes() == fitted


def test_a_checkpoint_alone_predicts_anywhere(one_epoch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["predict", "--data.predict", "images/test", "--output", "here.csv"]) == 0
    (tmp_path / "elsewhere").mkdir()
    best = (one_epoch / "runs/latest/checkpoints/best.ckpt").rename(tmp_path / "elsewhere" / "model.ckpt")
    monkeypatch.chdir(best.parent)
    assert main(["predict", "--ckpt_path", "model.ckpt", "--data.predict", str(one_epoch / "images/test")]) == 0
    here = [{**row, "path": ""} for row in table(str(one_epoch / "here.csv"))]
    assert [{**row, "path": ""} for row in table("predictions/predict.csv")] == here


def test_predict_writes_a_row_for_what_cannot_be_read_and_exits_with_1(
    one_epoch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("images/test/b/1.png").write_bytes(b"not an image")
    assert main(["predict"]) == 1
    rows = table("runs/latest/predictions/predict.csv")
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["error"] + ["ok"] * 4
    assert rows[4]["path"] == "images/test/b/1.png"
    assert "images/test/b/1.png" in rows[4]["error"]
    assert "1 of 9 images" in capsys.readouterr().err


def test_the_saved_config_reruns_to_the_identical_configuration(folder: Path) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.01"]) == 0
    assert main(["fit", "--config", "runs/tiny/001/config.yaml"]) == 0
    first, second = (yaml.safe_load(Path(f"runs/tiny/00{n}/config.yaml").read_text()) for n in (1, 2))
    assert first == second
    assert first["model"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert_equal(weights("tiny/001"), weights("tiny/002"))


def test_what_a_resumed_run_changes_is_said_and_saved(one_epoch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("runs/latest/config.yaml").read_text()
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert "config: trainer.max_epochs is now 2 (was 1)" in capsys.readouterr().err
    assert yaml.safe_load(Path("runs/latest/config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert Path("runs/latest/config.1.yaml").read_text() == before


def test_a_root_overrides_a_rendered_source_wherever_it_stands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"class_path": "clf.data.synthetic.SyntheticJerseys", "init_args": {"train_per_class": 2}}
    (folder / "rendered.yaml").write_text(yaml.safe_dump({"config": "tiny.yaml", "data": {"source": source}}))
    assert main(["fit", "--config", "rendered.yaml", "--data.root", "images", "--trainer.fast_dev_run", "true"]) == 0
    assert "folder layout in images" in capsys.readouterr().err
    assert not Path("data").exists()


def test_a_dry_run_leaves_nothing(folder: Path) -> None:
    assert main([*FIT, "--trainer.fast_dev_run", "true"]) == 0
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_a_run_that_never_began_leaves_no_directory(folder: Path) -> None:
    assert main([*FIT, "--model.arch", "no_such_network"]) == 2
    assert not list(Path("runs").glob("*/*"))


def test_without_a_gpu_half_precision_becomes_full_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1", "--trainer.precision", "16-mixed"]) == 0
    said = capsys.readouterr().err
    assert said.count("16-mixed needs a GPU; using 32-true") == 1


def test_a_class_of_ones_own_works_from_a_file_in_the_working_folder(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Sequential):\n"
        "    def __init__(self, num_classes: int, width: int = 2) -> None:\n"
        "        super().__init__(torch.nn.Conv2d(3, width, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),\n"
        "                         torch.nn.Linear(width, num_classes))\n"
    )
    (folder / "own.yaml").write_text(
        "config: tiny.yaml\nmodel.network: {class_path: mine.Net, init_args: {width: 5}}\nmodel.drop_rate: 0.0\n"
    )
    assert main(["fit", "--config", "own.yaml", *FIT[3:]]) == 0
    assert main(["test"]) == 0
    assert weights("own/001")["trained.network.0.weight"].shape == (5, 3, 3, 3)


def test_nobody_types_the_number_of_classes(one_epoch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Defect 7.
    assert main([*FIT, "--model.num_classes", "4"]) == 2
    assert "unknown key 'model.num_classes'" in capsys.readouterr().err
    mapping = read_json("runs/latest/labels_mapping.json")
    assert mapping["num_classes"] == 3
    assert mapping["idx_to_class"] == {"0": "a", "1": "b", "2": "c"}


def test_a_file_that_is_called_like_a_word_is_not_read_for_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("cpu", "auto"):
        Path(word).write_text("cuda\n")
    assert main([*FIT, "--trainer.strategy", "auto", "--print_config"]) == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert (trainer["accelerator"], trainer["strategy"]) == ("cpu", "auto")


def test_print_config_says_which_file_each_group_came_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--trainer", "trainer/smoke.yaml", "--print_config"]) == 0
    printed = capsys.readouterr().out
    [header] = [line for line in printed.splitlines() if line.startswith("# trainer: ")]
    assert header == "# trainer: configs/defaults.yaml, tiny.yaml, configs/trainer/smoke.yaml, --trainer"
    assert yaml.safe_load(printed)["trainer"]["limit_train_batches"] == 2


def test_the_first_line_announces_rendered_data_and_random_weights(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "{class_path: clf.data.synthetic.SyntheticJerseys, init_args: {train_per_class: 2, val_per_class: 1}}"
    small = ["--data.source", source, "--model.image_size", "32", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", "resnet18.yaml", "--trainer", "trainer/cpu.yaml", *small]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert "rendered jersey numbers in data/synthetic-" in first
    assert "weights: random (resnet18.a1_in1k cannot be had here)" in first
    facts = read_json("runs/latest/environment.json")
    assert facts["weights"] == "random (resnet18.a1_in1k cannot be had here)"
    assert facts["data"]["description"].startswith("rendered jersey numbers")


def test_help_explains_each_key_without_listing_hundreds_of_classes(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    assert "timm's name of the network" in " ".join(text.split())
    assert text.count("torch.nn.") < 30
    assert max(map(len, text.splitlines())) < 121

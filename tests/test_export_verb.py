"""``clf export`` and the callback: the file holds what was scored best, and predicts what the checkpoint predicts."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from datasets import draw_folders
from forks import begun, ended
from image_kinds import KINDS
from serving import serving

from clf.exported import METADATA
from clf.main import main
from clf.predictor import Predictor

EXPORT = Path("runs/tiny/001/export")

TINY = """
model: {arch: test_resnet, pretrained: false, image_size: 32, optimizer.lr: 0.05, warmup_epochs: 0}
data: {batch_size: 8, num_workers: 0}
trainer: {accelerator: cpu, max_epochs: 2, num_sanity_val_steps: 0}
callbacks:
  ema: {decay: 0.5}
  checkpoint: {monitor: train/loss, mode: min}
"""
"""At this rate the first epoch is the best one, so that the last one is another; the average is scored."""

# A user's own network that does one thing while it is traced, and another one later.
MOODY = """
import torch

class Moody(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(3, classes)

    def forward(self, images):
        logits = self.head(images.mean((2, 3)))
        return logits if torch.compiler.is_compiling() else logits + 1
"""

# Which way it goes is up to the pixels: no graph has that.
ODD = """
import torch

class Odd(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(3, classes)

    def forward(self, images):
        means = images.mean((2, 3))
        return self.head(means) if float(means.sum()) > 0 else self.head(-means)
"""


def make_folder(folder: Path) -> None:
    draw_folders(folder / "images", {f"{split}/{name}": 6 for split in ("train", "val", "test") for name in "abc"})
    (folder / "tiny.yaml").write_text(TINY)


@pytest.fixture
def folder(workdir: Path) -> Path:
    """A working folder with images of three classes and a config."""
    make_folder(workdir)
    return workdir


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Train once and export once; returns the folder as it was between the two and after them."""
    fitted, exported = (tmp_path_factory.mktemp("made") / name for name in ("fitted", "exported"))
    make_folder(fitted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clf.artist.Artist.submit", lambda *_: None)
        patch.chdir(fitted)
        assert fit() == 0
        shutil.copytree(fitted, exported, symlinks=True)
        patch.chdir(exported)
        assert main(["export"]) == 0
    return fitted, exported


@pytest.fixture
def fitted(made: tuple[Path, Path], workdir: Path) -> Path:
    """A working folder with a run of two epochs, too."""
    return Path(shutil.copytree(made[0], workdir, symlinks=True, dirs_exist_ok=True))


@pytest.fixture
def exported(made: tuple[Path, Path], workdir: Path) -> Path:
    """A working folder with a run whose best checkpoint was exported."""
    return Path(shutil.copytree(made[1], workdir, symlinks=True, dirs_exist_ok=True))


def fit(*flags: str) -> int:
    return main(("fit", "--config", "tiny.yaml", "--data.root", "images", *flags))


def rows(path: Path | str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def facts(path: Path = EXPORT / "model.onnx") -> Any:
    return json.loads({prop.key: prop.value for prop in onnx.load(path).metadata_props}[METADATA])


def predicted(checkpoint: Path | str, output: str, *, images: str = "images/test") -> list[tuple[str, list[float]]]:
    """What ``clf predict`` says about a folder, in its order: the label and the probability of each class."""
    words = ("--ckpt_path", str(checkpoint), "--data.predict", images, "--output", output)
    assert main(("predict", *words)) == 0
    found = []
    for row in rows(output):
        ranked = {row[f"label{place}"]: float(row[f"confidence{place}"]) for place in ("", "_2", "_3")}
        found.append((row["label"], [ranked[name] for name in "abc"]))
    return found


def assert_same(one: list[tuple[str, list[float]]], other: list[tuple[str, list[float]]]) -> None:
    assert [label for label, _ in one] == [label for label, _ in other]
    for (_, mine), (_, yours) in zip(one, other, strict=True):
        assert mine == pytest.approx(yours, abs=1e-4)


def test_the_file_predicts_what_the_best_checkpoint_predicts_and_not_the_last(exported: Path) -> None:
    checkpoints = Path("runs/tiny/001/checkpoints")
    best, last = predicted(checkpoints / "best.ckpt", "best.csv"), predicted(checkpoints / "last.ckpt", "last.csv")
    assert_same(predicted(EXPORT / "model.onnx", "onnx.csv"), best)
    assert max(abs(a - b) for (_, x), (_, y) in zip(best, last, strict=True) for a, b in zip(x, y, strict=True)) > 1e-3
    assert facts()["checkpoint"] == "best.ckpt"


def test_checkpoint_exported_model_and_service_agree_about_every_kind_of_image(exported: Path, tmp_path: Path) -> None:
    kinds = exported / "kinds"
    kinds.mkdir()
    for name, content in KINDS.items():
        (kinds / name).write_bytes(content)
    best, model = "runs/tiny/001/checkpoints/best.ckpt", EXPORT / "model.onnx"
    by_checkpoint = predicted(best, "checkpoint.csv", images="kinds")
    assert len(by_checkpoint) == len(KINDS)
    assert_same(predicted(model, "onnx.csv", images="kinds"), by_checkpoint)
    with serving(tmp_path / "server", "--model", str(EXPORT)) as server, httpx.Client(base_url=server.url) as client:
        answers = [client.post("/predict", content=path.read_bytes()).json() for path in sorted(kinds.iterdir())]
    ranked = [{each["label"]: each["confidence"] for each in answer["top_k"]} for answer in answers]
    by_service = [(answer["label"], [row[name] for name in "abc"]) for answer, row in zip(answers, ranked, strict=True)]
    assert_same(by_service, by_checkpoint)


def test_another_checkpoint_can_be_named(fitted: Path) -> None:
    assert main(("export", "--ckpt_path", "last")) == 0
    assert_same(
        predicted(EXPORT / "model.onnx", "onnx.csv"), predicted("runs/tiny/001/checkpoints/last.ckpt", "last.csv")
    )
    assert set(facts()["metrics"]) == {"val"}, "nothing that is monitored is validated, so the last epoch's is kept"
    assert main(["test"]) == 0
    assert main(["export"]) == 0
    assert set(facts()["metrics"]) == {"test"}, "of the best checkpoint only the test is known"


def test_the_file_says_where_it_comes_from(folder: Path) -> None:
    assert fit("--callbacks.checkpoint.monitor", "val/acc_top1", "--callbacks.checkpoint.mode", "max") == 0
    assert main(["test"]) == 0
    assert main(["export"]) == 0
    said = facts()
    environment = json.loads(Path("runs/tiny/001/environment.json").read_text(encoding="utf-8"))
    assert (said["run"], said["network"], said["classes"]) == ("tiny/001", "test_resnet", ["a", "b", "c"])
    assert said["data_fingerprint"] == environment["data"]["fingerprint"]
    assert said["torch"] == environment["packages"]["torch"]
    metrics = json.loads(Path("runs/tiny/001/metrics.json").read_text(encoding="utf-8"))
    card = (EXPORT / "README.md").read_text(encoding="utf-8")
    for split, name in (("val", "validation"), ("test", "test")):
        for key in ("n", "acc_top1", "f1_macro"):
            assert said["metrics"][split][key] == metrics[split][key]
        assert f"| {name} | top-1 {100 * metrics[split]['acc_top1']:.2f} % (n = 18, 95 % interval" in card
    assert "| network | test_resnet |" in card


def test_what_a_model_was_trained_on_is_not_what_it_is_proven_on(fitted: Path) -> None:
    draw_folders(fitted / "others", {f"{split}/{name}": 2 for split in ("train", "val") for name in "abc"})
    assert main(("export", "--data.root", "others")) == 0
    said = facts()
    environment = json.loads(Path("runs/tiny/001/environment.json").read_text(encoding="utf-8"))
    assert said["data"] == "3 classes, 18 train / 18 val / 18 test images"
    assert said["data_fingerprint"] == environment["data"]["fingerprint"]
    assert said["proven_on"] == "3 classes, 6 train / 6 val images, no test"
    assert "| trained on | 3 classes, 18 train" in (EXPORT / "README.md").read_text(encoding="utf-8")


def test_a_fit_can_end_with_an_export(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fit("--callbacks.onnx_export.embed", "full") == 0
    assert Predictor(EXPORT).exported.embed == "full"
    assert facts()["checkpoint"] == "best.ckpt"
    assert "18 val" in facts()["proven_on"]


def test_a_fit_without_checkpoints_says_that_there_is_nothing_to_export(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--callbacks.onnx_export", "{}", "--callbacks.checkpoint", "null") == 0
    assert "nothing was exported" in capsys.readouterr().err
    assert not EXPORT.exists()


@pytest.mark.parametrize("at", ["end of fit", "export"])
def test_a_network_that_cannot_be_proven_is_not_exported(
    folder: Path, at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "moody.py").write_text(MOODY)
    config = TINY.replace("arch: test_resnet, pretrained: false,", "network: moody.Moody,")
    (folder / "tiny.yaml").write_text(
        config.replace("image_size: 32", "image_size: 32, mean: [0, 0, 0], std: [1, 1, 1]")
    )
    if at == "export":
        assert fit() == 0
        assert main(["export"]) == 1
    else:
        assert fit("--callbacks.onnx_export", "{}") == 1
    assert "the exported model does not do what the network does: NOT EQUAL" in capsys.readouterr().err
    assert not EXPORT.exists()
    assert Path("runs/tiny/001/checkpoints/best.ckpt").is_file()


def test_an_export_without_a_place_is_refused_before_the_training(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--callbacks.onnx_export.output", "images") == 2
    assert "output='images' holds other things than an export" in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*/checkpoints/*"))


@pytest.mark.parametrize(
    ("lacking", "precision", "message"),
    [
        ("val", "fp32", "export needs validation images to prove the model on"),
        ("train", "int8", "int8 needs training images to calibrate on"),
    ],
)
def test_images_that_an_export_needs_are_asked_for(
    fitted: Path, lacking: str, precision: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("images", "some", ignore=shutil.ignore_patterns("val", "train", "test"))
    shutil.copytree("images/test", "some/test")
    if lacking != "val":
        shutil.copytree("images/val", "some/val")
    assert main(("export", "--data.root", "some", "--precision", precision)) == 2
    assert message in capsys.readouterr().err
    assert not EXPORT.exists()


def test_a_network_that_onnx_cannot_express_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "odd.py").write_text(ODD)
    config = TINY.replace("arch: test_resnet, pretrained: false,", "network: odd.Odd,")
    (folder / "tiny.yaml").write_text(config.replace("32", "32, mean: [0, 0, 0], std: [1, 1, 1]", 1))
    assert fit() == 0
    assert main(["export"]) == 2
    assert "network Odd cannot be written as ONNX: " in capsys.readouterr().err
    assert not EXPORT.exists()


def test_each_flag_changes_the_export(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("export", "--embed", "normalize", "--images", "5", "--output", "out/model")) == 0
    assert "equal on 5 images" in capsys.readouterr().err
    assert Predictor("out/model").exported.embed == "normalize"
    assert not EXPORT.exists()
    assert main(("export", "--precision", "int8", "--max_accuracy_drop", "1")) == 0
    assert facts()["precision"] == "int8"
    assert "## int8 against fp32" in (EXPORT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "0"), "images=0 is too small"),
        (("--max_accuracy_drop", "1.5"), r"max_accuracy_drop=1.5 is outside \[0, 1\]"),
        (("--precision", "fp8"), "precision"),
        (("--embd", "full"), "embd"),
        (("--data.root", "elsewhere"), "elsewhere"),
        (("--ckpt_path", "auto"), "auto"),
        (("--callbacks.onnx_export.embed", "full"), r"is for clf fit; clf export takes --embed full"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_the_earlier_export(
    exported: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in EXPORT.iterdir()}
    capsys.readouterr()
    assert main(("export", *words)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert {path.name: path.read_bytes() for path in EXPORT.iterdir()} == before


def test_sigterm_takes_away_what_is_half_made(exported: Path) -> None:
    before = {path.name: path.read_bytes() for path in EXPORT.iterdir()}
    process = begun(exported, "export", "--embed", "full")
    while not list(EXPORT.parent.glob(".export-*.partial/*")):
        assert os.waitpid(process, os.WNOHANG) == (0, 0)
        time.sleep(0.02)
    os.kill(process, signal.SIGTERM)
    assert ended(process) == 143
    assert Path("output.txt").read_text().splitlines()[-1] == "stopped by SIGTERM; nothing was exported"
    assert not list(EXPORT.parent.glob(".*"))
    assert {path.name: path.read_bytes() for path in EXPORT.iterdir()} == before


def test_a_disk_without_room_for_an_export_is_no_mistake_of_the_user_s(fitted: Path) -> None:
    small = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (51_200, 51_200))
    assert ended(begun(fitted, "export", before=small)) == 1
    said = Path("output.txt").read_text().splitlines()[-1]
    assert said == "no space left for runs/tiny/001/export; make room and run this again"
    assert not EXPORT.exists()


@pytest.mark.parametrize(
    ("content", "message"), [("{", "metrics.json cannot be read: .*; mend it"), ('{"val": {"step": -1}}', "")]
)
def test_scores_that_cannot_be_read_are_named(
    fitted: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (EXPORT.parent / "metrics.json").write_text(content)
    capsys.readouterr()
    assert main(["export"]) == (2 if message else 0)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("output", "message"),
    [("tiny.yaml/x", "output='tiny.yaml/x' cannot be written"), ("n" * 250, "too long"), ("/proc", "is a mount point")],
)
def test_a_folder_that_cannot_be_made_is_said_in_one_line(
    folder: Path, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--callbacks.onnx_export.output", output) == 2
    assert message in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*/checkpoints/*"))


def test_help_explains_the_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("export", "--help")) == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in ("--embed", "--precision", "--max_accuracy_drop", "calibrated on training images"):
        assert text in said

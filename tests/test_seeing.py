"""What a run shows: statistics, sampler, confusion matrix, history and calibration, by real commands."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import draw_folders
from drawn import Drawn
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from tiny import fit, tiny

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.history import History
from clf.checkpoints import read_facts, read_step
from clf.figures.data import class_counts
from clf.loggers import RunLogger
from clf.main import main
from clf.pictures import Pictures

TINY = """
model: {arch: test_resnet, pretrained: false, image_size: 32}
data: {batch_size: 4, num_workers: 0, augment: none, sampler: balanced}
trainer: {accelerator: cpu, max_epochs: 2, num_sanity_val_steps: 0}
"""
FIT = ("fit", "--config", "tiny.yaml", "--data.root", "images")
CLASSES = ["a", 'b, "$x$"', "c"]
TRAIN = {"a": 12, 'b, "$x$"': 4, "c": 4}
RUN = Path("runs/tiny/001")


def make_folder(folder: Path) -> None:
    counts = {f"{split}/{name}": 3 for split in ("valid", "test") for name in CLASSES}
    draw_folders(folder / "images", {f"train/{name}": n for name, n in TRAIN.items()} | counts)
    (folder / "tiny.yaml").write_text(TINY)


@pytest.fixture
def folder(workdir: Path) -> Path:
    make_folder(workdir)
    return workdir


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that was continued for a third, and tested; with what statistics said meanwhile."""
    folder = tmp_path_factory.mktemp("seen")
    make_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*FIT, "--trainer.logger", "logger/tensorboard.yaml"]) == 0
        assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"]) == 0
        assert main(["test"]) == 0
    return folder / RUN


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def pictures(run: Path) -> set[str]:
    return {path.relative_to(run / "plots").as_posix() for path in (run / "plots").rglob("*.png")}


def metrics(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text())


def test_a_run_leaves_all_its_pictures(seen: Path) -> None:
    assert pictures(seen) >= {
        *("classes.png", "image_sizes.png", "sampler.png", "history.png", "samples.png"),
        *(
            f"{name}_{split}.png"
            for name in ("calibration", "confusion_matrix", "mistakes")
            for split in ("val", "test")
        ),
        *(f"epochs/confusion_matrix_{epoch:03d}.png" for epoch in range(3)),
    }
    for name in pictures(seen):
        with Image.open(seen / "plots" / name) as picture:
            picture.load()


def test_statistics_say_what_is_in_the_data_once(seen: Path) -> None:
    found = json.loads((seen / "statistics.json").read_text())
    train = found["splits"]["train"]
    assert {each["name"]: each["n"] for each in train["classes"]} == TRAIN
    assert (train["imbalance"], train["images"]["n"], train["images"]["formats"]) == (3.0, 20, {"PNG": 20})
    assert train["images"]["width"]["median"] == 12
    assert train["images"]["height"]["median"] == 10
    assert found["splits"].keys() == {"train", "val", "test"}
    log = (seen / "log.txt").read_text()
    assert log.count("statistics:") == 1
    assert "fewest of a class" in log


def test_drawn_and_expected_counts_go_on_without_a_double_row(seen: Path) -> None:
    header, *found = rows(seen / "plots" / "sampler.csv")
    assert header == ["epoch", "class", "drawn", "expected"]
    assert [(row[0], row[1]) for row in found] == [(str(epoch), name) for epoch in range(3) for name in CLASSES]
    drawn = np.array([int(row[2]) for row in found]).reshape(3, 3)
    assert drawn.sum(axis=1).tolist() == [20, 20, 20]
    assert len(set(map(tuple, drawn.tolist()))) > 1
    assert {row[3] for row in found} == {"6.667"}


def test_the_counts_beside_the_picture_are_those_of_the_predictions(seen: Path) -> None:
    for split in ("val", "test"):
        header, *table = rows(seen / "plots" / f"confusion_matrix_{split}.csv")
        assert header == ["true", *CLASSES]
        columns, *predicted = rows(seen / "predictions" / f"{split}.csv")
        true, said = columns.index("true"), columns.index("label")
        predictions = Counter((row[true], row[said]) for row in predicted)
        counted = {(row[0], name): int(n) for row in table for name, n in zip(CLASSES, row[1:], strict=True)}
        assert {pair: n for pair, n in counted.items() if n} == predictions


def test_the_temperature_of_the_best_epoch_travels_with_it_and_is_used_for_the_test(seen: Path) -> None:
    val, test = metrics(seen)["val"], metrics(seen)["test"]
    temperature = read_facts(seen / "checkpoints" / "best.ckpt").temperature
    assert val["temperature"] == test["temperature"] == temperature != 1.0
    for entry in (val, test):
        assert sum(each["n"] for each in entry["calibration"]["before"]) == entry["n"]
        before = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in entry["calibration"]["before"]) / entry["n"]
        after = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in entry["calibration"]["after"]) / entry["n"]
        assert entry["ece"] == pytest.approx(before, abs=1e-6)
        assert entry["ece_calibrated"] == pytest.approx(after, abs=1e-6)
    assert f"({val['ece_calibrated']:.3f} calibrated)" in (seen / "log.txt").read_text()


def test_a_score_says_which_weights_it_is_of(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = metrics(seen)
    kept = {key: before["val"][key] for key in ("epoch", "step")}
    assert kept == {key: before["test"][key] for key in kept}
    assert kept["step"] == read_step(seen / "checkpoints" / "best.ckpt") == 5 * (kept["epoch"] + 1)
    monkeypatch.chdir(seen.parents[2])
    assert main(["validate"]) == 0
    assert {key: metrics(seen)["val"][key] for key in kept} == kept


def test_confidences_are_calibrated_wherever_they_are_written(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(seen.parents[2])
    assert main(["predict", "--output", "again.csv"]) == 0
    said = {}
    for name, path in {
        "val": RUN / "predictions/val.csv",
        "test": RUN / "predictions/test.csv",
        "again": Path("again.csv"),
    }.items():
        columns, *table = rows(path)
        said[name] = [(row[columns.index("path")], float(row[columns.index("confidence")])) for row in table]
    assert said["again"] == said["test"]
    for split in ("val", "test"):
        before, after = (metrics(seen)[split]["calibration"][kind] for kind in ("before", "after"))
        means = [sum(b["n"] * b["confidence"] for b in bins) / len(said[split]) for bins in (before, after)]
        found = sum(confidence for _, confidence in said[split]) / len(said[split])
        assert found == pytest.approx(means[1], abs=1e-5)
        assert found != pytest.approx(means[0], abs=1e-3)


def test_trackers_get_the_pictures_under_their_keys(seen: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(seen / "tensorboard")).Reload()
    assert set(events.Tags()["images"]) >= {
        *("data/class_counts", "data/image_sizes", "data/sampler", "history", "val/calibration"),
        *("val/confusion_matrix", "val/confusion_matrix_best"),
    }


@pytest.mark.drawn
def test_curves_show_every_finished_epoch_in_full_and_go_on_where_a_run_does(tmp_path: Path) -> None:
    pictures = Drawn(tmp_path / "run" / "plots")

    def train(epochs: int, resume: Path | None = None) -> None:
        callback = History()
        callback.pictures = pictures
        checkpoint = Checkpoint(monitor="val/loss", mode="min", dirpath=str(tmp_path / "checkpoints"))
        logger = RunLogger(str(tmp_path / "run"))
        fit(tmp_path, tiny(), callback, checkpoint, logger=logger, max_epochs=epochs, resume=resume)

    train(2)
    train(3, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert {name for name, _, _ in pictures.asked} == {"history"}
    asked = [numbers for _, _, numbers in pictures.asked]
    assert [[row["epoch"] for row in numbers["metrics"]] for numbers in asked] == [[0], [0, 1], [0, 1], [0, 1, 2]]
    assert all({"train/loss", "val/loss"} <= row.keys() for numbers in asked for row in numbers["metrics"])
    assert {(numbers["monitor"], numbers["mode"]) for numbers in asked} == {("val/loss", "min")}


@pytest.mark.drawn
def test_without_the_callbacks_nothing_of_theirs_is_there_and_the_temperature_stays_1(folder: Path) -> None:
    off = ("calibration", "confusion_matrix", "history", "mistakes", "samples", "sampler_distribution", "statistics")
    words = [word for name in off for word in (f"--callbacks.{name}", "null")]
    assert main([*FIT, *words, "--trainer.max_epochs", "1"]) == 0
    assert main(["test"]) == 0
    assert not (RUN / "plots").exists()
    assert not (RUN / "statistics.json").exists()
    assert read_facts(RUN / "checkpoints" / "best.ckpt").temperature == 1.0
    assert "ece_calibrated" not in metrics(RUN)["test"]


@pytest.mark.drawn
def test_matrices_are_drawn_every_so_many_epochs_or_only_for_the_best(folder: Path) -> None:
    every = "--callbacks.confusion_matrix.every_n_epochs"
    assert main([*FIT, every, "2", "--trainer.max_epochs", "3"]) == 0
    assert {name for name in pictures(RUN) if "matrix" in name} == {
        *("confusion_matrix_val.png", "epochs/confusion_matrix_001.png")
    }
    assert main([*FIT, every, "0", "--trainer.max_epochs", "1"]) == 0
    assert {name for name in pictures(Path("runs/tiny/002")) if "matrix" in name} == {"confusion_matrix_val.png"}


def test_statistics_open_as_many_images_as_they_are_told_and_count_what_they_cannot_open(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "images/test").rglob("*.png"):
        path.write_text("no image")
    assert main([*FIT, "--trainer.max_epochs", "1", "--data.sampler", "none"]) == 0
    assert "could not be opened" in capsys.readouterr().err
    assert read_statistics("001", "test") == (9, 9)
    assert main([*FIT, "--trainer.max_epochs", "1", "--callbacks.statistics.max_images", "19"]) == 0
    assert sum(read_statistics("002", split)[0] for split in ("train", "val", "test")) == 19
    drawn = [(row[1], row[2], float(row[3])) for row in rows(RUN / "plots" / "sampler.csv")[1:]]
    assert drawn == [(name, str(n), float(n)) for name, n in TRAIN.items()]  # no sampler: each image once


def read_statistics(run: str, split: str) -> tuple[int, int]:
    images = json.loads(Path(f"runs/tiny/{run}/statistics.json").read_text())["splits"][split]["images"]
    return images["n"], images["unreadable"]


def test_other_data_is_counted_anew_when_a_run_is_continued(folder: Path) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    draw_folders(folder / "images", {"train/c": 6})
    assert main([*FIT, "--ckpt_path", "last"]) == 0
    train = json.loads((RUN / "statistics.json").read_text())["splits"]["train"]
    assert {each["name"]: each["n"] for each in train["classes"]}["c"] == 6


@pytest.mark.parametrize("name", ["metrics.csv", "plots/sampler.csv"])
def test_a_damaged_table_is_said_and_stops_no_training(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    header, first, rest = (RUN / name).read_text().split("\n", 2)
    (RUN / name).write_text("\n".join([header, first.rpartition(",")[0] + ",x", rest]))
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    picture = {"metrics.csv": "history.png was not drawn", "plots/sampler.csv": "sampler.csv was not continued"}
    assert picture[name] in capsys.readouterr().err


@pytest.mark.drawn
def test_a_picture_of_the_data_that_a_killed_process_left_out_is_drawn_when_the_run_goes_on(folder: Path) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    (RUN / "plots" / "classes.png").unlink()
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert (RUN / "plots" / "classes.png").is_file()


class Fails(Callback):
    """Fails as soon as the first epoch is over."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("over")


@pytest.mark.drawn
def test_a_run_that_is_cut_off_has_the_pictures_of_what_it_did(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path / "plots")
    pictures.draw(
        "classes", class_counts, key="c", counts={"train": [1]}, classes=["a"], imbalance={"train": None}, title=""
    )
    with pytest.raises(RuntimeError, match="over"):
        fit(tmp_path, tiny(), pictures, Fails())
    assert (tmp_path / "plots" / "classes.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--callbacks.statistics.max_images", "0"], "callbacks.statistics.max_images=0 is too small"),
        (["--callbacks.confusion_matrix.every_n_epochs", "-1"], "callbacks.confusion_matrix.every_n_epochs=-1 is"),
    ],
)
def test_a_number_that_means_nothing_is_refused(
    flags: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.drawn
def test_a_dry_run_counts_but_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--trainer.fast_dev_run", "true"]) == 0
    assert "fewest of a class" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_class_whose_folder_is_no_text_is_trained_on_and_counted_like_any_other(workdir: Path) -> None:
    odd = b"caf\xe9".decode(errors="surrogateescape")
    draw_folders(workdir / "images", {f"{split}/{name}": 3 for split in ("train", "valid") for name in ("a", "b")})
    for split in ("train", "valid"):
        (workdir / "images" / split / "b").rename(workdir / "images" / split / odd)
    (workdir / "tiny.yaml").write_text(TINY)
    # A process of its own: pytest-xdist cannot send such a name from one of its processes to another.
    done = subprocess.run([sys.executable, "-m", "clf", *FIT], capture_output=True, check=False)
    assert done.returncode == 0
    assert [(row[0], row[1]) for row in rows(RUN / "plots" / "sampler.csv")[1:]] == [
        (str(epoch), name) for epoch in range(2) for name in ("a", "caf\\udce9")
    ]
    assert [each["name"] for each in metrics(RUN)["val"]["classes"]] == ["a", odd]

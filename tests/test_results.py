"""A run's final numbers: the best epoch is the one checkpoints call best, and each share carries n and interval."""

import json
from pathlib import Path

import pytest

from clf import results

CSV = """epoch,step,train/loss,val/acc_top1,val/loss
0,10,1.5,0.5,0.9
1,20,1.2,0.75,0.4
2,30,1.1,0.75,0.3
3,40,1.0,,
4,50,0.9,nan,nan
"""
LOGGED = {"val/acc_top1": 0.95, "val/f1_macro": 0.9481, "val/ece": 0.0312, "val/loss": 0.2, "train/loss": 0.1}
IMAGES = {"0": 100, "00": 100, "1": 40}


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    path.write_text(CSV)
    return path


@pytest.mark.parametrize(("monitor", "mode", "epoch"), [("val/acc_top1", "max", 1), ("val/loss", "min", 2)])
def test_of_equal_epochs_the_first_is_the_best_and_one_without_a_score_never_is(
    metrics: Path, monitor: str, mode: str, epoch: int
) -> None:
    assert results.best_epoch(metrics, monitor=monitor, mode=mode)["epoch"] == epoch


def test_the_best_epoch_brings_its_numbers(metrics: Path) -> None:
    best = results.best_epoch(metrics, monitor="val/loss", mode="max")
    assert best == {"epoch": 0, "step": 10, "train/loss": 1.5, "val/acc_top1": 0.5, "val/loss": 0.9}


def test_an_epoch_that_diverged_first_is_not_the_best_for_ever(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,val/loss\n0,nan\n1,0.5\n")
    assert results.best_epoch(tmp_path / "metrics.csv", monitor="val/loss", mode="min")["epoch"] == 1


def test_where_nothing_was_scored_there_is_no_best_epoch(metrics: Path) -> None:
    assert results.best_epoch(metrics, monitor="val/auroc", mode="max") == {}
    assert results.best_epoch(metrics.with_name("gone.csv"), monitor="val/loss", mode="min") == {}


def test_what_the_best_epoch_did_not_measure_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,val/loss\n0,,0.5\n")
    best = results.best_epoch(tmp_path / "metrics.csv", monitor="val/loss", mode="min")
    assert best == {"epoch": 0, "val/loss": 0.5}


def test_a_summary_has_the_numbers_of_its_split_with_n_and_interval() -> None:
    summary = results.summarise(LOGGED | {"test/acc_top1": 0.1}, split="val", images=IMAGES)
    lower, upper = summary.pop("acc_top1_interval")
    assert summary == {"n": 240, "acc_top1": 0.95, "f1_macro": 0.9481, "ece": 0.0312, "loss": 0.2}
    assert (lower, upper) == pytest.approx((0.914652, 0.971170), abs=1e-6)


def test_a_summary_of_an_epoch_names_it() -> None:
    assert results.summarise({**LOGGED, "epoch": 7.0}, split="val", images=IMAGES)["epoch"] == 7
    assert "epoch" not in results.summarise(LOGGED, split="val", images=IMAGES)


def test_a_summary_is_said_in_one_line() -> None:
    summary = results.summarise(LOGGED, split="val", images=IMAGES)
    assert results.describe(summary) == (
        "top-1 95.00 % (n = 240, 95 % interval 91.47–97.12 %), macro F1 0.948, ECE 0.031"
    )


def test_the_worst_class_is_named_with_its_images_and_a_class_without_images_is_none() -> None:
    classes = {"val/acc_class_0": 0.9, "val/acc_class_2": 0.5, "val/acc_class_3": 0.5}
    images = {"0": 100, "00": 0, "1": 40, "2": 100}
    summary = results.summarise(LOGGED | classes, split="val", images=images)
    assert summary["worst_class"] == {"name": "2", "acc": 0.5, "n": 100}
    assert results.describe(summary).endswith("ECE 0.031, worst class '2' 50 % of 100")


def test_minutes_are_the_sum_of_all_epochs(tmp_path: Path) -> None:
    path = tmp_path / "timing.csv"
    assert results.training_minutes(path) is None
    path.write_text("epoch,step,time/epoch_s\n0,10,90\n1,20,\n2,30,60\n")
    assert results.training_minutes(path) == 2.5
    path.write_text("epoch,step\n")
    assert results.training_minutes(path) is None


def test_a_later_command_adds_to_what_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert results.read(path) == {}
    results.record(path, {"finished": {"epochs": 3}, "val": {"n": 1}})
    results.record(path, {"val": {"n": 2}, "test": {"reason": "größer"}})
    assert results.read(path) == {"finished": {"epochs": 3}, "val": {"n": 2}, "test": {"reason": "größer"}}
    assert "größer" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    results.record(path, {"val": 1})
    with pytest.raises(TypeError):
        results.record(path, {"test": object()})
    assert json.loads(path.read_text()) == {"val": 1}

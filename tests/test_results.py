"""A run's final numbers, as they are said and kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clf import results

SUMMARY = {
    "n": 240,
    "acc_top1": 0.95,
    "f1_macro": 0.9481,
    "f1_macro_interval": [0.91, 0.97],
    "ece": 0.0312,
    "worst_class": {"name": "2", "acc": 0.5, "n": 100},
    "classes": [
        {"name": "0", "n": 100, "acc": 0.9, "acc_interval": [0.825, 0.945]},
        {"name": "00", "n": 0},
        {"name": "[red]2", "n": 100, "acc": 0.5, "acc_interval": [0.404, 0.596]},
    ],
    "slices": [{"key": "colour", "value": "red", "n": 7, "acc": 1.0, "acc_interval": [0.646, 1.0]}],
}


def test_a_summary_is_said_in_one_line() -> None:
    assert results.describe(SUMMARY) == (
        "top-1 95.00 % (n = 240, 95 % interval 91.47–97.12 %), macro F1 0.948 (0.910–0.970), ECE 0.031, "
        "worst class '2' 50 % of 100"
    )
    assert results.describe({**SUMMARY, "worst_class": None}).endswith("ECE 0.031")
    assert "ECE 0.031 (0.012 calibrated), worst" in results.describe({**SUMMARY, "ece_calibrated": 0.0124})


def test_the_table_names_what_is_lowest_first_and_leaves_out_what_has_no_images() -> None:
    _, _, *rows = results.table(SUMMARY).splitlines()
    assert [row.split() for row in rows] == [
        ["class", "[red]2", "100", "50.0", "%", "40.4–59.6", "%"],
        ["class", "0", "100", "90.0", "%", "82.5–94.5", "%"],
        ["colour", "red", "7", "100.0", "%", "64.6–100.0", "%"],
    ]
    assert len(results.table(SUMMARY, most=1).splitlines()) == 2 + 2


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


def test_what_is_no_number_is_null_wherever_it_stands(tmp_path: Path) -> None:
    results.record(tmp_path / "metrics.json", {"val": {"bins": [{"n": float("nan")}, (float("inf"), 1)]}})
    assert results.read(tmp_path / "metrics.json") == {"val": {"bins": [{"n": None}, [None, 1]]}}


def test_what_cannot_be_written_leaves_the_old_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    results.record(path, {"val": 1})
    with pytest.raises(TypeError):
        results.record(path, {"test": object()})
    assert json.loads(path.read_text()) == {"val": 1}


def test_what_a_callback_of_one_s_own_found_with_numpy_or_torch_is_kept(tmp_path: Path) -> None:
    found = {"share": np.float32(0.5), "none": np.float32("nan"), "counts": np.arange(3), "loss": torch.tensor(2.0)}
    results.record(tmp_path / "metrics.json", {"val": found})
    assert results.read(tmp_path / "metrics.json")["val"] == {
        "share": 0.5,
        "none": None,
        "counts": [0, 1, 2],
        "loss": 2.0,
    }

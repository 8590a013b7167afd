"""The numbers that stand for a run in a tracker's list of runs."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from tiny import fit, tiny

from clf.callbacks.tracked import Tracked, final_numbers

SUMMARY: dict[str, Any] = {
    "n": 10,
    "acc_top1": 0.5,
    "acc_top1_interval": [0.25, 0.75],
    "f1_macro": 0.4,
    "f1_macro_interval": [0.2, 0.6],
    "ece": 0.125,
    "epoch": 3,
    "worst_class": {"name": "a/<b>", "n": 4, "acc": 0.25, "acc_interval": [0.0, 0.5]},
    "classes": [{"name": "a/<b>", "n": 0, "precision": None, "f1": None}],
    "slices": [],
}


class Kept(WandbLogger):
    """Keeps what is sent instead of sending it."""

    def __init__(self) -> None:
        self.tables: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}

    name = version = "kept"
    save_dir = None

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def finalize(self, status: str) -> None: ...

    def log_table(self, key: str, *args: Any, **table: Any) -> None:
        self.tables[key] = table

    @property
    def experiment(self) -> Any:
        return self


def test_the_final_numbers_have_the_ends_of_their_intervals_and_the_worst_class() -> None:
    assert final_numbers(SUMMARY, split="val") == {
        "val/acc_top1": 0.5,
        "val/acc_top1_low": 0.25,
        "val/acc_top1_high": 0.75,
        "val/f1_macro": 0.4,
        "val/f1_macro_low": 0.2,
        "val/f1_macro_high": 0.6,
        "val/ece": 0.125,
        "val/best_epoch": 3,
        "val/worst_class": "a/<b>",
        "val/worst_class_acc": 0.25,
    }


def test_without_a_class_that_can_be_judged_there_is_no_worst() -> None:
    numbers = final_numbers({**SUMMARY, "worst_class": None}, split="test")
    assert (numbers["test/worst_class"], numbers["test/worst_class_acc"]) == (None, None)


def test_a_fit_that_finds_nothing_better_says_what_was_best_before(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"val": SUMMARY}))
    logger = Kept()
    fit(tmp_path, tiny(), Tracked(tmp_path / "metrics.json"), max_epochs=1, logger=logger)
    assert logger.summary == final_numbers(SUMMARY, split="val")
    assert logger.tables["val/classes"]["data"] == [["a/<b>", 0, None, None, None, None, None]]
    assert "val/slices" not in logger.tables


def test_a_fit_without_validation_says_nothing(tmp_path: Path) -> None:
    logger = Kept()
    fit(tmp_path, tiny(), Tracked(tmp_path / "metrics.json"), max_epochs=1, logger=logger)
    assert (logger.summary, logger.tables) == ({}, {})

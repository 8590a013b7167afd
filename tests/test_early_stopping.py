"""Early stopping: after how many epochs a real fit ends, given the scores of its validations."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import LightningArgumentParser
from toy import Toy, trainer

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.early_stopping import EarlyStopping


def epochs(tmp_path: Path, scores: list[float], **settings: Any) -> int:
    """Train for as many epochs as there are scores, at most; returns how many it were."""
    toy = Toy(scores=dict(enumerate(scores)), batches=1)
    stopping = EarlyStopping(**settings)
    fitted = trainer(tmp_path, stopping, max_epochs=len(scores), enable_checkpointing=False)
    fitted.fit(toy)
    return fitted.current_epoch


def test_a_run_that_stands_still_ends_after_the_default_patience_of_20(tmp_path: Path) -> None:
    assert epochs(tmp_path, [0.5] * 30) == 21


def test_patience_is_the_number_of_validations_without_improvement(tmp_path: Path) -> None:
    assert epochs(tmp_path, [0.5] * 9, patience=2) == 3
    assert epochs(tmp_path, [0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6], patience=2) == 5


def test_an_improvement_below_the_default_of_a_thousandth_does_not_count(tmp_path: Path) -> None:
    assert epochs(tmp_path, [0.5 + 0.0009 * (i % 2) for i in range(6)], patience=2) == 3
    assert epochs(tmp_path, [0.5 + 0.0011 * i for i in range(6)], patience=2) == 6


def test_min_delta_is_the_least_improvement(tmp_path: Path) -> None:
    rising = [0.5 + 0.01 * i for i in range(6)]
    assert epochs(tmp_path, rising, patience=2, min_delta=0.1) == 3
    assert epochs(tmp_path, rising, patience=2, min_delta=0.0) == 6


def test_mode_says_whether_more_or_less_is_better(tmp_path: Path) -> None:
    falling = [0.9, 0.8, 0.7, 0.6, 0.5]
    assert epochs(tmp_path, falling, patience=2) == 3
    assert epochs(tmp_path, falling, patience=2, mode="min") == 5


@pytest.mark.parametrize(
    ("patience", "length", "expected"),
    [(2, 9, 3), (2, 12, 4), (4, 9, 5)],  # unchanged; a longer run asks after one epoch; more patience
    ids=["unchanged", "longer", "more patience"],
)
def test_a_run_that_had_stopped_stays_stopped_unless_it_is_given_more(
    patience: int, length: int, expected: int, tmp_path: Path
) -> None:
    scores = dict.fromkeys(range(12), 0.5)
    keep = Checkpoint(dirpath=str(tmp_path))
    trainer(tmp_path, EarlyStopping(patience=2), keep, max_epochs=9).fit(Toy(scores=scores, batches=1))
    keep, stopping = Checkpoint(dirpath=str(tmp_path)), EarlyStopping(patience=patience)
    resumed = trainer(tmp_path, stopping, keep, max_epochs=length)
    resumed.fit(Toy(scores=scores, batches=1), ckpt_path=str(tmp_path / "last.ckpt"))
    assert (resumed.current_epoch, resumed.global_step) == (expected, expected)
    assert stopping.stopped_epoch == expected - 1  # what the end of a run looks for


def test_a_metric_that_nobody_logs_ends_the_run_with_its_name_and_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"`val/acc_top_1` which is not available.*`val/acc_top1`"):
        epochs(tmp_path, [0.5] * 3, monitor="val/acc_top_1")


def test_a_misspelt_mode_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(EarlyStopping, "early_stopping")
    with pytest.raises(SystemExit):
        parser.parse_args(["--early_stopping.mode", "maximum"])
    assert "'max'" in capsys.readouterr().err

"""The tables of a run, read back as numbers."""

import math
from pathlib import Path

import pytest

from clf.errors import UserError
from clf.history import read_table
from clf.loggers import RunLogger
from clf.results import training_minutes


def test_missing_cells_are_absent_and_nan_stays(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,val/loss,val/acc_top1\n0,10,nan,0.5\n1,20,,0.75\n")
    first, second = read_table(tmp_path / "metrics.csv")
    assert math.isnan(first.pop("val/loss"))
    assert (first, second) == (
        {"epoch": 0, "step": 10, "val/acc_top1": 0.5},
        {"epoch": 1, "step": 20, "val/acc_top1": 0.75},
    )


def test_a_table_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert read_table(tmp_path / "timing.csv") == []


@pytest.mark.parametrize("line", ["1,oops", "1,2,3"])
def test_a_cell_that_is_no_number_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(f"epoch,val/loss\n0,1.0\n{line}\n")
    with pytest.raises(UserError, match=r"metrics\.csv:3 holds what is no number"):
        read_table(tmp_path / "metrics.csv")


@pytest.mark.parametrize("content", [b"\0\xff", b"epoch\n" + b"1" * 200_000])
def test_a_file_that_is_no_table_is_a_mistake_that_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv is no table"):
        read_table(tmp_path / "metrics.csv")
    logger = RunLogger(str(tmp_path))
    with pytest.raises(UserError, match=r"metrics\.csv is no table"):
        logger.log_metrics({"epoch": 1, "loss": 1.0})
    assert training_minutes(tmp_path / "metrics.csv") is None

"""metrics.csv and timing.csv: one row per epoch, the same bytes for the same run, continued after a resume."""

import csv
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from clf.errors import UserError
from clf.loggers import RunLogger


def record(folder: Path, *calls: tuple[int, Mapping[str, Any]]) -> str:
    """Log as the Trainer does, in one process; each call is (step, metrics)."""
    logger = RunLogger(str(folder))
    for step, metrics in calls:
        logger.log_metrics(metrics, step=step)
        logger.save()
    logger.finalize("success")
    return text(folder)


def text(folder: Path, name: str = "metrics.csv") -> str:
    return (folder / name).read_bytes().decode()


def epoch(number: int, *, loss: float = 0.5) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    """Make the two calls of one epoch of ten steps: validation first, then training."""
    step = 10 * number + 9
    return (step, {"val/loss": loss, "epoch": number}), (step, {"train/loss": loss, "epoch": number})


def test_training_and_validation_of_an_epoch_share_a_row(tmp_path: Path) -> None:
    assert record(tmp_path, *epoch(0, loss=0.75), *epoch(1, loss=0.5)) == (
        "epoch,step,train/loss,val/loss\n0,9,0.75,0.75\n1,19,0.5,0.5\n"
    )


def test_columns_are_sorted_with_epoch_and_step_first_and_single_classes_last(tmp_path: Path) -> None:
    names = ["val/loss", "val/acc_class_10", "val/acc_class_9", "val/acc_top5", "lr-SGD", "val/acc_top1"]
    assert record(tmp_path, (3, {"epoch": 0, **dict.fromkeys(names, 1.0)})).splitlines()[0].split(",") == [
        "epoch",
        "step",
        "lr-SGD",
        "val/acc_top1",
        "val/acc_top5",
        "val/loss",
        "val/acc_class_9",
        "val/acc_class_10",
    ]


def test_numbers_are_written_in_full_and_odd_ones_by_name(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": float("nan"), "c": float("inf"), "d": 1e-12, "e": 3, "f": torch.tensor(0.5)}
    assert (
        record(tmp_path, (0, {"epoch": 0, **values})).splitlines()[1] == "0,0,0.30000000000000004,nan,inf,1e-12,3,0.5"
    )


def test_what_depends_on_the_clock_goes_to_timing_csv(tmp_path: Path) -> None:
    metrics = record(tmp_path, (9, {"epoch": 0, "val/loss": 0.5}), (9, {"epoch": 0, "time/epoch_s": 12.5}))
    assert metrics == "epoch,step,val/loss\n0,9,0.5\n"
    assert text(tmp_path, "timing.csv") == "epoch,step,time/epoch_s\n0,9,12.5\n"


def test_a_metric_that_comes_later_leaves_empty_cells_before_it(tmp_path: Path) -> None:
    calls = [*epoch(0), (19, {"val/f1_macro": 0.25, "val/loss": 0.5, "epoch": 1})]
    assert record(tmp_path, *calls) == ("epoch,step,train/loss,val/f1_macro,val/loss\n0,9,0.5,,0.5\n1,19,,0.25,0.5\n")


def test_per_step_values_are_left_out_and_of_others_the_last_of_the_epoch_stays(tmp_path: Path) -> None:
    calls: list[tuple[int, Mapping[str, Any]]] = [
        (0, {"epoch": 0, "train/loss_step": 3.0, "lr": 0.1}),
        (5, {"epoch": 0, "train/loss_step": 2.0, "lr": 0.2}),
        (9, {"epoch": 0, "train/loss_epoch": 2.5}),
    ]
    assert record(tmp_path, *calls) == "epoch,step,lr,train/loss_epoch\n0,9,0.2,2.5\n"


def test_metrics_without_an_epoch_belong_to_the_next_that_has_one(tmp_path: Path) -> None:
    # LearningRateMonitor logs at the start of an epoch, and does not say which.
    calls = [(0, {"lr": 0.1}), *epoch(0), (10, {"lr": 0.2}), *epoch(1)]
    assert record(tmp_path, *calls) == "epoch,step,lr,train/loss,val/loss\n0,9,0.1,0.5,0.5\n1,19,0.2,0.5,0.5\n"


def test_a_row_is_on_disk_as_soon_as_its_epoch_is_over(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    for step, metrics in epoch(0):
        logger.log_metrics(metrics, step=step)
        logger.save()
    assert text(tmp_path) == "epoch,step,train/loss,val/loss\n0,9,0.5,0.5\n"


def test_a_value_that_only_changes_waits_for_the_next_new_one_or_the_end(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    for step, rate in enumerate((0.1, 0.2, 0.3)):
        logger.log_metrics({"epoch": 0, "lr": rate}, step=step)
        logger.save()
    assert text(tmp_path) == "epoch,step,lr\n0,0,0.1\n"
    logger.finalize("failed")
    assert text(tmp_path) == "epoch,step,lr\n0,2,0.3\n"


def test_a_resume_after_an_epoch_continues_with_the_same_bytes(tmp_path: Path) -> None:
    whole = record(tmp_path / "whole", *epoch(0, loss=0.1 + 0.2), *epoch(1), *epoch(2))
    record(tmp_path / "cut", *epoch(0, loss=0.1 + 0.2), *epoch(1))
    assert record(tmp_path / "cut", *epoch(2)) == whole


def test_what_lies_beyond_the_point_of_the_resume_is_forgotten(tmp_path: Path) -> None:
    record(tmp_path, *epoch(0, loss=0.9), *epoch(1, loss=0.8), *epoch(2, loss=0.7))
    assert (
        record(tmp_path, (15, {"lr": 0.1, "epoch": 1}))
        == "epoch,step,lr,train/loss,val/loss\n0,9,,0.9,0.9\n1,15,0.1,,\n"
    )


def test_a_resume_in_mid_epoch_keeps_what_its_epoch_had_logged_by_then(tmp_path: Path) -> None:
    start = (10, {"lr": 0.2, "epoch": 1})
    whole = record(tmp_path / "whole", *epoch(0), start, *epoch(1))
    record(tmp_path / "cut", *epoch(0), start)
    logger = RunLogger(str(tmp_path / "cut"))
    for step, metrics in epoch(1):
        logger.log_metrics(metrics, step=step)
        logger.save()
    assert text(tmp_path / "cut") == whole


def test_a_resume_with_new_metrics_keeps_the_old_numbers_digit_by_digit(tmp_path: Path) -> None:
    record(tmp_path, *epoch(0, loss=0.1 + 0.2))
    assert record(tmp_path, (19, {"epoch": 1, "new": 1.0})) == (
        "epoch,step,new,train/loss,val/loss\n0,9,,0.30000000000000004,0.30000000000000004\n1,19,1.0,,\n"
    )


def test_a_resume_that_logs_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    before = record(tmp_path, *epoch(0))
    stamp = (tmp_path / "metrics.csv").stat().st_mtime_ns
    assert record(tmp_path) == before
    assert (tmp_path / "metrics.csv").stat().st_mtime_ns == stamp


def cut(folder: Path, *calls: tuple[int, Mapping[str, Any]], lost: tuple[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Log, take what a checkpoint keeps, and log something that is killed with the process."""
    logger = RunLogger(str(folder))
    for step, metrics in calls:
        logger.log_metrics(metrics, step=step)
        logger.save()
    rows = logger.newest_rows()
    logger.log_metrics(lost[1], step=lost[0])
    logger.save()
    return rows


def go_on(folder: Path, rows: dict[str, Any], *calls: tuple[int, Mapping[str, Any]]) -> str:
    logger = RunLogger(str(folder))
    logger.go_on_from(rows)
    for step, metrics in calls:
        logger.log_metrics(metrics, step=step)
    logger.finalize("success")
    return text(folder)


@pytest.mark.parametrize("lost", [0, 1, 2, 3], ids=["rate", "validation", "row", "epoch"])
def test_a_row_is_completed_as_the_checkpoint_has_it_whatever_came_on_the_disk_after(lost: int, tmp_path: Path) -> None:
    rate, validation = (12, {"epoch": 1, "lr": 0.5}), (14, {"epoch": 1, "val/loss": 0.25})
    rest = [(16, {"epoch": 1, "lr": 0.125}), (18, {"epoch": 1, "val/loss": 0.2}), *epoch(1), *epoch(2)]
    whole = record(tmp_path / "whole", *epoch(0), rate, validation, (15, {"epoch": 1, "lr": 0.75}), *rest)
    before = (*epoch(0), rate, validation, (15, {"epoch": 1, "lr": 0.75}))
    rows = cut(tmp_path / "cut", *before, lost=rest[(0, 1, 3, -1)[lost]])
    assert go_on(tmp_path / "cut", rows, *rest) == whole
    # The last values of the epoch may be those from before the checkpoint, which no later value replaces.
    rows = cut(tmp_path / "few", *before, lost=epoch(1)[1])
    assert go_on(tmp_path / "few", rows, (19, {"epoch": 1, "train/loss": 0.5})).splitlines()[2] == "1,19,0.75,0.5,0.25"


def test_what_waits_for_its_epoch_is_not_lost_with_the_process(tmp_path: Path) -> None:
    calls = [*epoch(0), (10, {"lr": torch.tensor(0.5)})]
    whole = record(tmp_path / "whole", *calls, *epoch(1))
    rows = cut(tmp_path / "cut", *calls, lost=epoch(1)[0])
    assert go_on(tmp_path / "cut", rows, *epoch(1)) == whole


def test_another_run_that_starts_from_a_checkpoint_begins_its_own_table(tmp_path: Path) -> None:
    rows = cut(tmp_path / "one", *epoch(0), *epoch(1), lost=epoch(2)[0])
    assert go_on(tmp_path / "other", rows, *epoch(2)) == "epoch,step,train/loss,val/loss\n2,29,0.5,0.5\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("epoch,step,loss\n0,9,0.5\noops,19,0.5\n", 3),
        ("epoch,step,loss\n0\n", 2),
        ("epoch,step,loss\n0,9,0.5,0.6\n", 2),
        ("loss\n0.5\n", 2),
    ],
)
def test_a_damaged_file_is_refused_by_file_and_line_and_left_as_it_is(tmp_path: Path, content: str, line: int) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(UserError, match=rf"metrics.csv:{line} is not a row of this table .* mend or remove the file"):
        record(tmp_path, *epoch(2))
    assert text(tmp_path) == content


def test_a_full_disk_leaves_the_last_complete_file(tmp_path: Path) -> None:
    before = record(tmp_path, *epoch(0))
    logger = RunLogger(str(tmp_path))
    logger.log_metrics({"epoch": 1, **{f"m{i}": 0.1 for i in range(100)}}, step=19)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            logger.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert text(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = RunLogger(str(tmp_path))
    logger.log_metrics({"epoch": 0, "loss": 1.0}, step=0)
    logger.save()
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


class Toy(LightningModule):
    """One weight on four numbers; everything it logs is a function of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.save_hyperparameters({"primitive": 1})

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = (self.weight * batch[0]).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", (self.weight * batch[0]).square().mean())

    def on_train_epoch_end(self) -> None:
        self.log("time/epoch_s", 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def fit(folder: Path, *, epochs: int, resume: str | None = None) -> Trainer:
    loader = DataLoader(TensorDataset(torch.arange(4.0)), batch_size=1)
    trainer = Trainer(
        logger=RunLogger(str(folder)),
        callbacks=[LearningRateMonitor(), ModelCheckpoint(save_last=True, enable_version_counter=False)],
        max_epochs=epochs,
        log_every_n_steps=2,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Toy(), loader, loader, ckpt_path=resume)
    return trainer


toy_training = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",  # four numbers need none
    "ignore:Checkpoint directory .* exists and is not empty",  # a resume is meant to go on there
)


@toy_training
def test_a_real_fit_writes_every_epoch_metric_once_per_epoch(tmp_path: Path) -> None:
    fit(tmp_path, epochs=3)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "lr-SGD", "train/loss_epoch", "val/loss"]
    assert [(row["epoch"], row["step"], row["lr-SGD"]) for row in rows] == [
        ("0", "3", "0.1"),
        ("1", "7", "0.05"),
        ("2", "11", "0.025"),
    ]
    assert all(float(cell) >= 0 for row in rows for cell in row.values())
    assert text(tmp_path, "timing.csv") == "epoch,step,time/epoch_s\n0,3,1.0\n1,7,1.0\n2,11,1.0\n"


@toy_training
def test_a_run_that_was_stopped_and_resumed_has_the_files_of_one_that_was_not(tmp_path: Path) -> None:
    fit(tmp_path / "whole", epochs=4)
    fit(tmp_path / "cut", epochs=2)
    fit(tmp_path / "cut", epochs=4, resume=str(tmp_path / "cut" / "checkpoints" / "last.ckpt"))
    for name in ("metrics.csv", "timing.csv"):
        assert text(tmp_path / "cut", name) == text(tmp_path / "whole", name)


@toy_training
def test_lightning_s_default_folders_stay_inside_the_run_directory(tmp_path: Path) -> None:
    trainer = fit(tmp_path / "001", epochs=1)
    assert trainer.log_dir == str(tmp_path / "001")
    assert sorted(path.name for path in (tmp_path / "001").iterdir()) == ["checkpoints", "metrics.csv", "timing.csv"]
    assert list(tmp_path.iterdir()) == [tmp_path / "001"]

"""Runs that are extended, dry-run, refused or started from: nothing of a run is lost or mixed up."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import draw
from test_cli import FIT, folder, one_epoch, table, three_epochs, trained, weights

from clf.main import main

__all__ = ["folder", "one_epoch", "three_epochs", "trained"]


def snapshot(run: str) -> dict[str, bytes]:
    files = (path for path in Path(run).rglob("*") if path.is_file() and path.name != "log.txt")
    return {str(path): path.read_bytes() for path in files}


def metrics(run: str = "runs/latest") -> Any:
    return json.loads(Path(run, "metrics.json").read_text())


def test_an_extended_run_that_is_interrupted_goes_on(one_epoch: Path) -> None:
    stop = '{"class_path": "stopper.Stop", "init_args": {"step": 9}}'
    extended = ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3", "--callbacks.stop", stop]
    assert main(extended) == 143
    assert not metrics()["finished"]
    assert main(["fit", "--ckpt_path", "last", "--callbacks.stop", "null"]) == 0
    assert len(table("runs/latest/metrics.csv")) == 3
    assert metrics()["finished"]["epochs"] == 3


def test_a_run_that_keeps_no_checkpoint_does_not_say_that_it_can_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = '{"class_path": "stopper.Stop", "init_args": {"step": 2}}'
    assert main([*FIT, "--callbacks.checkpoint", "null", "--callbacks.stop", stop]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by SIGTERM; nothing was saved"


def test_a_copy_of_the_link_is_told_before_there_is_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/latest").mkdir(parents=True)
    assert main(FIT) == 2
    assert "runs/latest is a folder, where the link to the newest run belongs" in capsys.readouterr().err
    assert [path.name for path in Path("runs").iterdir()] == ["latest"]


def test_the_rest_of_an_epoch_cannot_be_dealt_in_other_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = '{"class_path": "stopper.Stop", "init_args": {"step": 2}}'
    assert main([*FIT, "--trainer.max_epochs", "1", "--callbacks.stop", stop]) == 143
    go_on = ["fit", "--ckpt_path", "last", "--callbacks.stop", "null"]
    assert main([*go_on, "--data.batch_size", "2"]) == 2
    said = capsys.readouterr().err
    assert "lies within an epoch of 4 images a step, and now a step has 2: data.batch_size=2 in 1 process" in said
    assert main(go_on) == 0
    assert main([*go_on, "--data.batch_size", "2", "--trainer.max_epochs", "2"]) == 0  # between epochs it may


LATE = """
import os
import signal
from lightning.pytorch import Callback
from clf.callbacks.report import Report

class Drawing(Callback):
    def teardown(self, *_, **__):
        os.kill(os.getpid(), signal.SIGINT)

class Writing(Report):
    def write(self, run):
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("key", ["callbacks.late=late.Drawing", "callbacks.report=late.Writing"])
def test_ctrl_c_after_the_training_says_that_all_is_saved(
    folder: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "late.py").write_text(LATE)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main([*FIT, "--trainer.max_epochs", "1", f"--{key}"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones, for the process is about to end
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        last == "stopped by Ctrl-C; runs/tiny/001 is trained and saved; clf fit --ckpt_path last writes what is missing"
    )
    assert main(["fit", "--ckpt_path", "last", "--callbacks.late", "null", "--callbacks.report", "null"]) == 0
    assert metrics()["finished"]["epochs"] == 1


def test_a_refused_continuation_leaves_the_run_as_it_was(
    three_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot("runs/tiny/001")
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "1"]) == 2
    said = "last.ckpt has 3 epochs behind it, and trainer.max_epochs=1; raise that to go on"
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)
    assert snapshot("runs/tiny/001") == before


def test_a_dry_run_of_a_continuation_leaves_the_run_as_it_was(one_epoch: Path) -> None:
    before = snapshot("runs/tiny/001")
    main(["fit", "--ckpt_path", "last", "--trainer.fast_dev_run", "true"])
    assert snapshot("runs/tiny/001") == before


def test_another_experiment_may_start_from_a_run_s_checkpoint_without_touching_the_run(one_epoch: Path) -> None:
    before = snapshot("runs/tiny/001")
    start = ["--name", "longer", "--ckpt_path", "runs/tiny/001/checkpoints/last.ckpt", "--trainer.max_epochs", "2"]
    assert main([*FIT, *start]) == 0
    assert snapshot("runs/tiny/001") == before
    assert Path("runs/longer/001/checkpoints/last.ckpt").is_file()


def test_a_run_directory_that_was_copied_elsewhere_goes_on_there(
    one_epoch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("runs/tiny/001", tmp_path / "kept" / "run")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    words = ["--trainer.max_epochs", "2", "--data.root", str(one_epoch / "images")]
    assert main(["fit", "--ckpt_path", str(tmp_path / "kept/run/checkpoints/last.ckpt"), *words]) == 0
    assert len(table(str(tmp_path / "kept/run/metrics.csv"))) == 2
    assert Path("runs/latest").resolve() == tmp_path / "kept" / "run"


def test_data_that_changed_since_is_mentioned(one_epoch: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert "was trained on until now" not in caplog.text
    draw(next(Path("images/train").iterdir()) / "new.png", seed=1)
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"]) == 0
    assert caplog.text.count("data: not the images and labels that runs/tiny/001 was trained on until now") == 1


def test_n_counts_the_images_that_were_scored(folder: Path) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]) == 0
    assert metrics()["val"]["n"] == 4
    assert main(["test", "--trainer.limit_test_batches", "2"]) == 0
    assert metrics()["test"]["n"] == 8


def test_the_final_numbers_are_those_of_the_best_checkpoint(folder: Path) -> None:
    assert main([*FIT, "--callbacks.checkpoint.every_n_epochs", "2"]) == 0
    assert metrics()["val"]["epoch"] == 1  # the only epoch that was considered
    rows = table("runs/latest/metrics.csv")
    assert metrics()["val"]["loss"] == pytest.approx(float(rows[1]["val/loss"]))


def test_callbacks_of_ones_own_under_trainer_watch_training_only(folder: Path) -> None:
    (folder / "own.yaml").write_text(
        yaml.safe_dump(
            {
                "config": "tiny.yaml",
                "trainer": {
                    "max_epochs": 1,
                    "callbacks": [
                        {
                            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                            "init_args": {"dirpath": "own", "every_n_train_steps": 2},
                        }
                    ],
                },
            }
        )
    )
    assert main(["fit", "--config", "own.yaml", *FIT[3:]]) == 0
    assert list(Path("own").glob("*.ckpt"))
    assert main(["test"]) == 0


@pytest.mark.parametrize("value", ["true", "false"])
def test_the_seed_is_a_number(value: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--seed_everything", value]) == 2
    assert f"seed_everything={value} must be a number" in capsys.readouterr().err


def test_a_table_of_predictions_can_be_predicted_on_again(one_epoch: Path) -> None:
    assert main(["predict"]) == 0
    first = table("runs/latest/predictions/predict.csv")
    assert main(["predict", "--data.predict", "runs/latest/predictions/predict.csv", "--output", "again.csv"]) == 0
    assert table("again.csv") == first


def test_a_checkpoint_of_a_network_of_ones_own_asks_for_its_config(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "hers.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Sequential):\n"
        "    def __init__(self, num_classes: int) -> None:\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, num_classes))\n"
    )
    own = {"config": "tiny.yaml", "model": {"network": {"class_path": "hers.Net"}, "drop_rate": 0.0}}
    (folder / "own.yaml").write_text(yaml.safe_dump(own))
    assert main(["fit", "--config", "own.yaml", *FIT[3:], "--trainer.max_epochs", "1"]) == 0
    shutil.copy("runs/latest/checkpoints/best.ckpt", "model.ckpt")
    capsys.readouterr()
    assert main(["predict", "--ckpt_path", "model.ckpt", "--data.predict", "images"]) == 2
    assert "a network of your own, hers.Net" in capsys.readouterr().err
    assert weights("own/001")


def test_names_with_emoji_go_all_the_way(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        Path(f"images/{split}/a").rename(f"images/{split}/é'\"🙂")
    Path("images").rename("🙂 images")
    assert main([*FIT[:3], "--data.root", "🙂 images", "--trainer.max_epochs", "1"]) == 0
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert main(["test"]) == 0
    assert "é'\"🙂" in {row["true"] for row in table("runs/latest/predictions/test.csv")}


def test_predict_never_writes_over_what_it_is_asked_about(one_epoch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.jsonl").write_text('{"image": "images/test/a/0.png", "label": "a"}\n')
    assert main(["predict", "--data.predict", "own.jsonl", "--output", "./own.jsonl"]) == 2
    assert "give another file" in capsys.readouterr().err
    assert Path("own.jsonl").read_text() == '{"image": "images/test/a/0.png", "label": "a"}\n'


def test_a_schedule_of_torch_is_stepped_per_epoch_unless_told_otherwise(folder: Path) -> None:
    schedule = ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "1", "--callbacks.ema", "null"]
    schedule += ["--model.warmup_epochs", "0"]
    words = [*FIT, *schedule, "--model.optimizer.lr", "0.1", "--trainer.log_every_n_steps", "1"]
    assert main(words) == 0
    assert main([*words, "--model.lr_scheduler_interval", "step"]) == 0
    rates = [[float(row["lr-AdamW/decay"]) for row in table(f"runs/tiny/00{n}/metrics.csv")] for n in (1, 2)]
    assert rates[0] == pytest.approx([0.1, 0.01, 0.001])
    assert rates[1][0] < 1e-5


def test_without_validation_a_run_trains_and_says_what_is_off(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"]) == 0
    assert "callbacks.early_stopping is off" in capsys.readouterr().err
    assert Path("runs/latest/checkpoints/last.ckpt").is_file()


def test_a_run_of_less_than_an_epoch_ends_well_without_a_validation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.max_steps", "3"]) == 0
    said = capsys.readouterr().err
    assert "check: less than an epoch: the run ends without a validation" in said
    assert "no epoch was scored by val/acc_top1" in said
    assert Path("runs/latest/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches=0"),
        (["--model.optimizer.lr", "-1"], "model.optimizer or model.lr_scheduler: Invalid learning rate: -1"),
        (
            ["--callbacks.checkpoint.dirpath", "big"],
            "every command looks for checkpoints in runs/tiny/001, and runs that",
        ),
        (["--trainer.max_time", "abc"], "trainer.max_time='abc' must be written as days, hours, minutes, seconds"),
        (["--trainer.devices", "7x"], "trainer.devices=7x must be a number from 1 on"),
        (["--trainer.devices", "0"], "trainer.devices=0 must be a number from 1 on"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches=0 must be 1 or more"),
        (["--trainer.check_val_every_n_epoch", "0"], "trainer.check_val_every_n_epoch=0 must be 1 or more"),
        (["--trainer.val_check_interval", "100"], "trainer.val_check_interval=100 is more than the 6 batches of an"),
    ],
)
def test_numbers_that_cannot_be_are_mistakes_of_the_configuration(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*"))

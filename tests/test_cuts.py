"""Runs that are killed for good, at named places: what a resumed run leaves is what an uninterrupted one leaves."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import draw_folders
from forks import forked
from toy import differences

# A user's own callback: kills the process for good in the n-th call of a hook, or before the n-th file is put in place.
KILLER = """
import os
import signal
import sys
from lightning.pytorch import Callback

def strike():
    os.kill(os.getpid(), signal.SIGKILL)

class Killer(Callback):
    def __init__(self):
        self.place, _, count = os.environ.get("CUT", "").partition(":")
        self.left = int(count or 0)
        self.process = os.getpid()
        if "." in self.place:
            sys.addaudithook(self.on_file)

    def count(self):
        self.left -= 1
        if self.left < 0:
            strike()

    def on_file(self, event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith("/" + self.place) and os.getpid() == self.process:
            self.count()

def counting(hook):
    def count(self, *_, **__):
        if hook == self.place:
            self.count()
    return count

HOOKS = "on_train_batch_start on_after_backward on_train_batch_end on_validation_start on_validation_batch_end "
HOOKS += "on_validation_end on_train_epoch_end on_train_epoch_start on_train_end on_fit_end"
for hook in HOOKS.split():
    setattr(Killer, hook, counting(hook))
"""
EVERYTHING: dict[str, Any] = {
    "model": {
        "arch": "test_resnet",
        "pretrained": False,
        "image_size": 32,
        "drop_rate": 0.2,
        "mixing": {"class_path": "clf.mixing.Mixing"},
        "lr_scheduler": {"class_path": "clf.optim.OneCycle"},
        "warmup_epochs": 0,
    },
    "data": {"root": "images", "batch_size": 2, "num_workers": 0, "augment": "standard", "sampler": "balanced"},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 6,
        "accumulate_grad_batches": 2,
        "val_check_interval": 3,  # of 8 batches: in the middle of accumulating, and not at an epoch's end
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 2,
    },
    "callbacks": {
        "killer": {"class_path": "killer.Killer"},
        "ema": {"decay": 0.9},
        "checkpoint": {"monitor": "val/loss", "mode": "min", "save_top_k": 2, "every_n_train_steps": 3},
        # Of a hundred points no validation is an improvement: the run stops in its third epoch.
        "early_stopping": {"patience": 5, "min_delta": 100.0},
        **dict.fromkeys(("confusion_matrix", "history", "mistakes", "model_info", "progress", "samples", "statistics")),
    },
}


def prepared(folder: Path, config: dict[str, Any]) -> Path:
    """Make a working folder with ten images to train on and a configuration."""
    draw_folders(folder / "images", {"train/a": 9, "train/b": 5, "train/c": 2, "valid/a": 3, "valid/b": 2})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    (folder / "killer.py").write_text(KILLER)
    return folder


def left(run: Path) -> dict[str, Any]:
    """Everything that a run leaves but what the clock says, the folder's name and what Lightning only estimates."""
    found: dict[str, Any] = {"kept": sorted(path.name for path in (run / "checkpoints").iterdir())}
    for name in ("last.ckpt", "best.ckpt"):
        state = torch.load(run / "checkpoints" / name, weights_only=True)
        state["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"].pop("total")
        kept = state["callbacks"]["Checkpoint"]
        kept |= {key: Path(path).name for key, path in kept.items() if key.endswith("_path")} | {"dirpath": ""}
        kept["best_k_models"] = {Path(path).name: score for path, score in kept["best_k_models"].items()}
        found[name] = state
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["finished"].pop("minutes")
    found |= {"metrics.json": metrics, "report": (run / "report.html").is_file()}
    return found | {name: (run / name).read_text() for name in ("metrics.csv", "predictions/val.csv")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a run that nobody cut, and what it left."""
    folder = prepared(tmp_path_factory.mktemp("whole"), EVERYTHING)
    assert forked(folder, "fit", "--config", "tiny.yaml") == 0, (folder / "output.txt").read_text()
    return folder, left(folder / "runs/tiny/001")


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("runs", "output.txt"))
    return target


@pytest.mark.parametrize(
    "cut",
    [
        "config.yaml:0",  # before there is a run to go on with
        "last.ckpt:2",
        "metrics.csv:6",  # between checkpoint and log
        "on_validation_batch_end:4",
        "on_train_epoch_end:0",  # on an epoch's last batch
        "best.ckpt:1",
        "on_fit_end:0",  # stopped early, and saved
        "report.html:0",
    ],
)
def test_a_run_that_is_killed_anywhere_and_resumed_leaves_what_the_uninterrupted_one_does(
    cut: str, uninterrupted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole, expected = uninterrupted
    folder = copy(whole, tmp_path / "cut")
    assert forked(folder, "fit", "--config", "tiny.yaml", cut=cut) == -signal.SIGKILL
    began_anew = not (folder / "runs/tiny/001/checkpoints/last.ckpt").exists()
    code = forked(folder, "fit", "--config", "tiny.yaml", "--ckpt_path", "auto")
    assert code == 0, (folder / "output.txt").read_text()
    assert differences(expected, left(folder / "runs/tiny" / ("002" if began_anew else "001"))) == []


def test_neither_workers_nor_the_folder_of_the_resumed_command_change_anything(
    uninterrupted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole, expected = uninterrupted
    folder = copy(whole, tmp_path / "cut")
    assert forked(folder, "fit", "--config", "tiny.yaml", cut="on_train_batch_end:11") == -signal.SIGKILL
    there = copy(whole, tmp_path / "there")
    (there / "tiny.yaml").unlink()
    (folder / "runs").rename(there / "runs")
    code = forked(there, "fit", "--ckpt_path", "last", "--data.num_workers", "2")
    assert code == 0, (there / "output.txt").read_text()
    assert differences(expected, left(there / "runs/tiny/001")) == []

"""Weights & Biases (offline) and TensorBoard, for real: what is in the files that they leave."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import draw_folders

from clf.main import main

FIT = (
    *("fit", "--config", "demo.yaml", "--data.root", "images", "--data.num_workers", "0", "--data.batch_size", "4"),
    *("--model.arch", "test_resnet", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"),
)


@pytest.fixture
def folder(workdir: Path) -> Path:
    draw_folders(workdir / "images", {f"{split}/{name}": 4 for split in ("train", "valid") for name in "ab"})
    return workdir


def log_entries(data: bytes) -> Iterator[bytes]:
    """Take a file in LevelDB's log format apart: blocks of 32 KiB, entries that may go over several of them."""
    at, entry = 7, b""  # W&B's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too small for a header: filled up
            at += 32768 - at % 32768
            continue
        length, part = struct.unpack_from("<4xHB", data, at)
        entry += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


def records(path: Path, kind: str) -> Iterator[Any]:
    """Read the records of one kind from an offline run's file."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for entry in log_entries(path.read_bytes()):
        record = Record()
        record.ParseFromString(entry)
        if record.WhichOneof("record_type") == kind:
            yield getattr(record, kind)


def wandb_files() -> list[Path]:
    return sorted(Path("runs/latest/wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)


def test_wandb_gets_the_metrics_the_config_and_keeps_its_id_when_the_run_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ["--trainer.logger", "logger/wandb.yaml", "--trainer.logger.dict_kwargs.tags", '["first"]']
    assert main([*FIT, *words]) == 0
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0

    first, second = wandb_files()
    history: dict[str, float] = {}
    for step in records(first, "history"):
        history |= {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in step.item}
    assert {"train/loss", "train/acc_top1", "val/acc_top1", "val/loss", "val/f1_macro", "val/ece"} <= history.keys()
    runs = [next(records(file, "run")) for file in (first, second)]
    run_id = json.loads(Path("runs/latest/environment.json").read_text())["run_id"]
    assert [run.run_id for run in runs] == [run_id, run_id]
    assert (runs[0].project, runs[0].display_name, list(runs[0].tags)) == ("classifier-training", "demo/001", ["first"])
    logged: dict[str, Any] = {}
    for change in records(first, "config"):
        logged |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in change.update}
    saved = yaml.safe_load(Path("runs/latest/config.1.yaml").read_text())
    assert {key: logged[key] for key in saved} == saved


def test_tensorboard_gets_the_metrics(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*FIT, "--trainer.logger", "logger/tensorboard.yaml"]) == 0
    events = EventAccumulator("runs/latest/tensorboard").Reload()
    assert {"train/loss", "val/acc_top1", "val/loss"} <= set(events.Tags()["scalars"])
    logged = events.Scalars("val/acc_top1")[0].value
    assert f"{logged:.6f}" in Path("runs/latest/metrics.csv").read_text() or logged in (0.0, 0.5, 1.0)

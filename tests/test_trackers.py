"""Weights & Biases (offline) and TensorBoard, for real: what is in the files that they leave."""

import json
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import draw_folders, write_rows
from PIL import Image

from clf.callbacks.tracked import final_numbers
from clf.history import read_table
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


def records(path: Path, kind: str) -> list[Any]:
    """Read the records of one kind from an offline run's file; W&B's own process may take a moment to finish it."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for _ in range(300):
        read = []
        with suppress(DecodeError, struct.error):
            for entry in log_entries(path.read_bytes()):
                record = Record()
                record.ParseFromString(entry)
                read.append(record)
            if read and read[-1].WhichOneof("record_type") == "exit":
                break
        time.sleep(0.1)
    return [getattr(record, kind) for record in read if record.WhichOneof("record_type") == kind]


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
    runs = [records(file, "run")[0] for file in (first, second)]
    run_id = json.loads(Path("runs/latest/environment.json").read_text())["run_id"]
    assert [run.run_id for run in runs] == [run_id, run_id]
    assert (runs[0].project, runs[0].display_name, list(runs[0].tags)) == ("classifier-training", "demo/001", ["first"])
    logged: dict[str, Any] = {}
    for change in records(first, "config"):
        logged |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in change.update}
    saved = yaml.safe_load(Path("runs/latest/config.1.yaml").read_text())
    assert {key: logged[key] for key in saved} == saved


@pytest.mark.drawn
def test_wandb_gets_pictures_tables_and_the_best_epoch_s_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    rows = [
        {"image": f"{name}/{n}.png", "label": name, "metadata": {"even": n % 2 == 0}} for name in "ab" for n in range(4)
    ]
    for split in ("train", "valid"):
        write_rows(folder / "images", f"{split}/annotations.jsonl", *rows)
    draw_folders(folder / "images", {f"{split}/{name}": 4 for split in ("train", "valid") for name in "ab"})
    assert main([*FIT, "--trainer.logger", "logger/wandb.yaml"]) == 0

    (file,) = wandb_files()
    logged: dict[str, Any] = {}
    for step in records(file, "history"):
        logged |= {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in step.item}
    kinds = {key: logged[f"{key}._type"] for key in ("val/samples", "val/mistakes", "val/classes", "val/slices")}
    assert kinds == dict.fromkeys(("val/samples", "val/mistakes"), "images/separated") | dict.fromkeys(
        ("val/classes", "val/slices"), "table-file"
    )
    sent = [file.parent / "files" / name for key in ("samples", "mistakes") for name in logged[f"val/{key}.filenames"]]
    drawn = [Path(f"runs/latest/plots/{name}.png") for name in ("samples", "mistakes_val")]
    assert [path.read_bytes() for path in sent] == [path.read_bytes() for path in drawn]
    best = json.loads(Path("runs/latest/metrics.json").read_text())["val"]
    tables = {
        key: json.loads((file.parent / "files" / logged[f"{key}.path"]).read_text())
        for key in ("val/classes", "val/slices")
    }
    assert tables["val/classes"]["columns"] == ["class", "n", "acc", "acc_low", "acc_high", "precision", "f1"]
    assert tables["val/classes"]["data"] == [
        [c["name"], c["n"], c["acc"], *c["acc_interval"], c["precision"], c["f1"]] for c in best["classes"]
    ]
    assert tables["val/slices"]["columns"] == ["key", "value", "n", "acc", "acc_low", "acc_high"]
    assert tables["val/slices"]["data"] == [
        [s["key"], s["value"], s["n"], s["acc"], *s["acc_interval"]] for s in best["slices"]
    ]
    summary: dict[str, Any] = {}
    for change in records(file, "summary"):
        summary |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in change.update}
    numbers = {key: summary[key] for key in final_numbers(best, split="val")}
    assert numbers == final_numbers(best, split="val")
    assert numbers["val/acc_top1"] == best["acc_top1"]


@pytest.mark.drawn
def test_tensorboard_gets_pictures(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*FIT, "--trainer.logger", "logger/tensorboard.yaml"]) == 0
    events = EventAccumulator("runs/latest/tensorboard").Reload()
    assert {"val/samples", "val/mistakes"} <= set(events.Tags()["images"])
    with Image.open("runs/latest/plots/samples.png") as picture:
        (drawn,) = events.Images("val/samples")
        assert (drawn.width, drawn.height) == picture.size


def test_tensorboard_gets_the_metrics(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*FIT, "--trainer.logger", "logger/tensorboard.yaml"]) == 0
    events = EventAccumulator("runs/latest/tensorboard").Reload()
    assert {"train/loss", "val/acc_top1", "val/loss"} <= set(events.Tags()["scalars"])
    [row] = read_table(Path("runs/latest/metrics.csv"))
    assert events.Scalars("val/acc_top1")[0].value == pytest.approx(row["val/acc_top1"])

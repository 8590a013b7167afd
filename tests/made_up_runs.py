"""Run directories as clf leaves them, made up in milliseconds."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from clf.files import replace_text
from clf.predictions import Prediction, PredictionWriter
from clf.statistics import wilson_interval

NASTY = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "'; window.hacked = 1; //",
    "</style><style>body { display: none }</style>",
    "{{ 7 * 7 }}",
    "a/b\\c",
    "&lt;b&gt; & co.",
    "😀 emoji",
    "עברית (א) 12",
    "\u202egnp.exe",
    "half \ud800 pair",
    "very long " * 40,
]
"""Class names that would like to be more than text."""

HOSTILE = "</style><script>alert('1')</script> \u202e\u05d0\U0001f3c0 \"'\n\x1b[2J $x$ {{ 7 * 7 }}"
"""All of it in one name."""

CONFIG: dict[str, Any] = {"model": {"image_size": 80, "loss": {"label_smoothing": 0.1}}, "data": {"root": "images"}}
"""What the compared runs have in common."""


def entry(n: int, *, classes: Sequence[str] = ("0", "1", "7"), share: float = 0.95) -> dict[str, Any]:
    """Make up what ``metrics.json`` says about a split; the last class is the worst, the last but one has no images."""

    def scored(right: int, of: int) -> dict[str, Any]:
        return {"n": of, "acc": right / of, "acc_interval": [*wilson_interval(right, of)]}

    right = round(share * n)
    others: list[dict[str, Any]] = [
        {"name": name, **scored(at + 3, at + 4), "precision": 0.9, "f1": 0.85} for at, name in enumerate(classes[:-1])
    ]
    if others:
        others[-1] = {"name": classes[-2], "n": 0, "precision": None, "f1": None}
    worst = {"name": classes[-1], **scored(3, 5), "precision": 0.75, "f1": 2 / 3}
    dark = {"key": "light", "value": "dark", **scored(1, 2)}
    return {
        "n": n,
        "acc_top1": right / n,
        "acc_top1_interval": [*wilson_interval(right, n)],
        "f1_macro": 0.9366,
        "f1_macro_interval": [0.905, 0.962],
        "worst_class": worst,
        "classes": [*others, worst],
        "intervals": {"accuracies": "Wilson score", "f1_macro": "percentile bootstrap over images, 1000 draws"},
        "slices": [dark, {"key": "light", "value": "bright", **scored(40, 41)}],
        "worst_slice": dark,
        "epoch": 6,
        "ece": 0.0871,
    }


def make_run(
    folder: Path, *, name: str = "resnet18", classes: Sequence[str] = ("0", "1", "7"), test: bool = True
) -> Path:
    """Make up a run directory ``runs/<name>/003`` with everything in it."""
    run = folder / "runs" / name / "003"
    config = {"name": name, "trainer": {"max_epochs": 8, "precision": "16-mixed"}, "data": {"root": classes[0]}}
    replace_text(run / "config.yaml", yaml.safe_dump(config))
    _json(run / "metrics.json", _metrics(classes, test=test))
    _json(run / "environment.json", _environment())
    _json(run / "statistics.json", _statistics(classes))
    losses = "0,28,2.4,2.2,0.24,nan\n1,56,1.2,1.1,0.95,0.5\n"
    replace_text(run / "metrics.csv", f"epoch,step,train/loss,val/loss,val/acc_top1,val/acc_class_0\n{losses}")
    replace_text(run / "timing.csv", "epoch,step,time/epoch_s\n0,28,75.5\n1,56,44.5\n")
    (run / "predictions").mkdir()
    _predictions(run / "predictions/val.csv", classes)
    for picture in ("history", "classes", "confusion_matrix_val", "calibration_val", "mistakes_val", "samples"):
        _picture(run / "plots" / f"{picture}.png")
    _picture(run / "plots" / "my own.png")
    for checkpoint in ("best", "last"):
        replace_text(run / f"checkpoints/{checkpoint}.ckpt", "")
    log = "2026-11-22 06:27:53,316 INFO    fit\n2026-11-22 06:28:00,000 WARNING <b>data</b>: not the images\n"
    replace_text(run / "log.txt", log)
    return run


def _metrics(classes: Sequence[str], *, test: bool) -> dict[str, Any]:
    val = {**entry(240, classes=classes), "ece_calibrated": 0.0213, "temperature": 1.34}
    made: dict[str, Any] = {"finished": {"epochs": 8, "reason": "stopped early", "minutes": 12.5}, "val": val}
    if test:
        scored = entry(238, classes=classes, share=0.9)
        half = {"acc": 0.5, "acc_interval": [*wilson_interval(2, 4)]}
        scored["classes"][-1] = {"name": classes[-1], "n": 4, **half, "precision": None, "f1": float("nan")}
        third = {"n": 3, "acc": 1 / 3, "acc_interval": [*wilson_interval(1, 3)]}
        scored["slices"][0] = {"key": "light", "value": "dark", **third}
        made["test"] = {"checkpoint": "best.ckpt", **scored}
    return made


def _statistics(classes: Sequence[str]) -> dict[str, Any]:
    widths = {"min": 30, "p5": 31, "median": 42, "p95": 60, "max": 61}
    images = {"n": 1800, "unreadable": 0, "formats": {"JPEG": 1790, "PNG": 10}, "width": widths, "height": None}
    light = {"n": 1800, "distinct": 2, "values": [{"value": "dark", "n": 90}, {"value": None, "n": 1710}]}
    train = {
        "n": 1800,
        "imbalance": 51.25,
        "classes": [{"name": name, "n": 1230 - at, "share": 0.5} for at, name in enumerate(classes)],
        "images": images,
        "metadata": {"light": light},
    }
    return {"fingerprint": "20eb1485", "splits": {"train": train, "val": {"n": 240, "imbalance": None}}}


def _environment() -> dict[str, Any]:
    return {
        "command": ["clf", "fit", "--config", "resnet18.yaml"],
        "packages": {"torch": "2.14.1", "timm": None},
        "git": {"commit": "0123abcd", "dirty": True},
        "machine": {"device": "cuda (Tesla T4)", "cores": 4},
        "seed": 42,
        "weights": "ImageNet",
        "model": {"parameters": 11180103, "macs": 1818000000, "latency": {"seconds": {"1": 0.0121, "64": 0.3}}},
        "config_changes": {
            "trainer.max_epochs": {"value": 8, "default": 100},
            "model.loss": {"value": {"class_path": "clf.losses.Focal", "init_args": {"gamma": 2}}, "default": None},
        },
        "data": {"description": "3 classes, 1800 train / 240 val / 238 test images", "fingerprint": "20eb1485"},
    }


def _predictions(path: Path, classes: Sequence[str]) -> None:
    first, second, last = classes[0], classes[min(1, len(classes) - 1)], classes[-1]
    rows = [
        ("images/right.jpg", first, first, 0.99, ""),
        ("images/a.jpg", last, second, 0.6, ""),
        ("images/b.jpg", last, second, 0.97, ""),
        ("images/c<i>.jpg", first, last, 0.5, ""),
        ("images/d.jpg", second, second, 0.9, ""),
    ]
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "true", "label", "confidence", "error"))
        writer.writerows(rows)


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((640, 360), 40).save(path)


def _json(path: Path, value: dict[str, Any]) -> None:
    replace_text(path, json.dumps(value))  # half surrogates as escapes, NaN as Python writes it


def write_compared(
    name: str,
    *,
    test: str = "",
    val: str = "",
    seed: int = 42,
    config: dict[str, Any] | None = None,
    finished: bool = True,
    label: str = "a",
    device: str = "cpu (2 cores)",
    classes: tuple[str, ...] | None = None,
    **figures: Any,
) -> Path:
    """Write what ``clf compare`` reads of a run: images it got right (1), got wrong (0) or could not predict (x)."""
    path = Path("runs") / name
    settings = {"seed_everything": seed, "name": name.partition("/")[0], **CONFIG, **(config or {})}
    (path / "predictions").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    metrics: dict[str, Any] = {"finished": {"epochs": 3} if finished else None}
    for split, marks in (("test", test), ("val", val)):
        if not marks:
            continue
        with PredictionWriter(path / "predictions" / f"{split}.csv", top_k=1, labelled=True) as writer:
            said = {"1": ((label, 0.9),), "0": (("other", 0.9),), "x": ()}
            writer.write(
                Prediction(f"images/{split}/{at}.png", said[mark], label, "not finite" if mark == "x" else "")
                for at, mark in enumerate(marks)
            )
        share = marks.count("1") / len(marks)
        worst = {"name": label, "acc": share, "n": len(marks)}
        known = {"f1_macro": 0.5, "f1_macro_interval": [0.4, 0.6], "ece": 0.125, "worst_class": worst}
        metrics[split] = {"n": len(marks), "acc_top1": share, **known, **figures}
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "environment.json").write_text(json.dumps({"machine": {"device": device}}))
    names = classes or (label, "other")
    (path / "labels_mapping.json").write_text(json.dumps({"class_to_idx": {n: i for i, n in enumerate(names)}}))
    (path / "timing.csv").write_text("epoch,step,time/epoch_s\n0,1,30\n1,2,36\n")
    return path

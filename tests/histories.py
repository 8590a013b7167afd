"""Runs as a fit leaves them, without any training: configuration, checkpoints, and the link to the latest one."""

from pathlib import Path

import torch

from clf import runs
from clf.checkpoints import Facts
from clf.runs import Run

SPEC = {
    "size": (32, 48),
    "crop_mode": "squash",
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
}
FACTS = Facts(["0", "00"], {"arch": "resnet34"}, SPEC, "random")
CONFIG = "name: {name}\nmodel: {{arch: resnet34}}\ndata: {{root: birds}}\ntrainer: {{max_epochs: 3}}\n"


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"clf": FACTS.to_dict()}, path)
    return path


def make_run(name: str, *checkpoints: str) -> Run:
    """Make what a fit leaves."""
    run = runs.reserve(name)
    run.config.write_text(CONFIG.format(name=name))
    for checkpoint in checkpoints:
        save(run.checkpoints / f"{checkpoint}.ckpt")
    runs.publish(run)
    return run


def make_history() -> None:
    """Make two finished runs of one experiment, and then one of another, which is the latest."""
    Path("exp.yaml").write_text("model.arch: resnet18\ndata.root: fish\n")
    for name in ("exp", "exp", "other"):
        make_run(name, "last", "best")


LATEST, NEWEST = "runs/other/001", "runs/exp/002"
"""The latest run, and the newest one of ``exp.yaml``."""

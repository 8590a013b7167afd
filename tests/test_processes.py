"""Two processes, for real: each trains on its share, and together they report on every image."""

import csv
import json
import subprocess
import sys
from pathlib import Path

from datasets import draw_folders

FEATURES = """
model:
  arch: test_resnet
  pretrained: false
  image_size: 32
  auroc: true
  loss: {class_path: clf.losses.Focal}
  mixing: {class_path: clf.mixing.Mixing}
data: {augment: light, sampler: balanced, batch_size: 2, num_workers: 0}
trainer: {accelerator: cpu, devices: 2, strategy: ddp, max_epochs: 2, num_sanity_val_steps: 0, log_every_n_steps: 1}
callbacks.ema: {}
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_share_an_epoch_and_score_every_image_once(workdir: Path) -> None:
    draw_folders(workdir / "images", {"train/cat": 9, "train/dog": 3, "valid/cat": 3, "valid/dog": 2})
    (workdir / "two.yaml").write_text(FEATURES)
    command = [sys.executable, "-m", "clf", "fit", "--config", "two.yaml", "--data.root", "images"]
    done = subprocess.run(command, cwd=workdir, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    run = workdir / "runs" / "two" / "001"
    # 12 images, two processes, two in a batch: three steps an epoch, counted from 0.
    assert [row["step"] for row in rows(run / "metrics.csv")] == ["2", "5"]
    scored = json.loads((run / "metrics.json").read_text())["val"]
    assert scored["n"] == 5
    assert 0 <= scored["auroc"] <= 1
    assert [row["true"] for row in rows(run / "predictions" / "val.csv")] == ["cat"] * 3 + ["dog"] * 2
    assert [entry["n"] for entry in scored["classes"]] == [3, 2]

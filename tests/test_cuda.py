"""The main job on a CUDA device: fit, resume, validate, test and predict, in half precision, NHWC and compiled."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from datasets import draw_folders

from clf.main import main

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # 16-mixed leaves out steps until its loss scale fits; when that is the first one, torch takes it for a mistake.
    pytest.mark.filterwarnings(r"ignore:Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"),
    # Advice of torch.compile on GPUs that have TensorFloat32; 32-true means what it says.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),
]

CLASSES = ("0", "00", "1")
CONFIG = """
model:
  arch: test_resnet
  pretrained: false
  image_size: 64
  class_weights: inverse
data:
  augment: light
  batch_size: 4
  num_workers: 2
trainer:
  accelerator: gpu
  devices: 1
  max_epochs: 1
"""


@pytest.fixture
def root(workdir: Path) -> Path:
    (workdir / "gpu.yaml").write_text(CONFIG)
    # Ten training images in batches of four: the last batch has another shape, which a compiled network must bear.
    counts = {"train": (5, 3, 2), "val": (2, 2, 2), "test": (3, 2, 1)}
    folders = {f"{split}/{name}": n for split, of in counts.items() for name, n in zip(CLASSES, of, strict=True)}
    return draw_folders(workdir / "images", folders)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fit(root: Path, *flags: str) -> Path:
    assert main(["fit", "--config", "gpu.yaml", "--data.root", str(root), *flags]) == 0
    return Path("runs/latest").resolve()


@pytest.mark.parametrize(
    ("precision", "channels_last", "compiled"),
    [
        ("16-mixed", "true", "false"),
        ("16-mixed", "false", "true"),
        ("16-mixed", "true", "true"),
        ("bf16-mixed", "true", "false"),
        ("bf16-mixed", "false", "false"),
        ("32-true", "false", "false"),
    ],
)
def test_a_run_on_the_gpu_fits_resumes_scores_and_predicts(
    precision: str, channels_last: str, compiled: str, root: Path
) -> None:
    torch.cuda.reset_peak_memory_stats()
    model = ["--model.channels_last", channels_last, "--model.compile", compiled]
    run = fit(root, "--trainer.precision", precision, *model)
    assert torch.cuda.max_memory_allocated() > 0  # it was not the CPU that trained
    assert json.loads((run / "environment.json").read_text())["machine"]["device"].startswith("cuda")

    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    epochs = rows(run / "metrics.csv")
    assert [row["epoch"] for row in epochs] == ["0", "1"]
    assert all(math.isfinite(float(row[name])) for row in epochs for name in ("train/loss", "val/loss", "val/ece"))

    assert main(["validate"]) == 0
    assert main(["test"]) == 0
    assert main(["predict", "--data.predict", str(root / "test" / "0"), "--output", "out.csv"]) == 0
    assert len(rows(run / "predictions" / "test.csv")) == 6
    assert [row["status"] for row in rows(Path("out.csv"))] == ["ok"] * 3
    results = json.loads((run / "metrics.json").read_text())
    assert (results["val"]["n"], results["test"]["n"]) == (6, 6)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
def test_what_was_trained_on_the_gpu_predicts_the_same_on_the_cpu(precision: str, root: Path) -> None:
    run = fit(root, "--trainer.precision", precision)
    best = str(run / "checkpoints" / "best.ckpt")
    cpu = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    for flags in (["--output", "gpu.csv"], [*cpu, "--output", "cpu.csv"]):
        assert main(["predict", "--ckpt_path", best, "--data.predict", str(root / "test"), *flags]) == 0
    on_gpu, on_cpu = rows(Path("gpu.csv")), rows(Path("cpu.csv"))
    assert [row["path"] for row in on_gpu] == [row["path"] for row in on_cpu]
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=0.02)


def test_equal_seeds_train_equal_weights_on_the_gpu(root: Path) -> None:
    # Plain SGD: where sums differ in their last bits, AdamW would turn that into steps of full length.
    flags = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1", "--model.drop_rate", "0.5"]
    last = [fit(root, "--trainer.precision", "32-true", *flags) / "checkpoints" / "last.ckpt" for _ in range(2)]
    one, other = (torch.load(file, weights_only=True)["state_dict"] for file in last)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)

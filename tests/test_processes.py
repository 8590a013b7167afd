"""Two processes, for real: together they train as one would, score every image once, and end for one reason."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import draw_folders
from forks import begun_together, ended

from clf.errors import UserError
from clf.main import main
from clf.processes import Place, Processes, find_place

ROOT = Path(__file__).parent.parent

IMAGES = {"train/cat": 10, "train/dog": 3, "valid/cat": 4, "valid/dog": 3}
QUIET = "report: null, statistics: null, model_info: null, mistakes: null, samples: null, history: null"
PLAIN = f"""
model:
  network: plain_network.Plain
  image_size: 16
  class_weights: inverse
  warmup_epochs: 0
  optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.1, momentum: 0.9}}}}
data: {{root: images, augment: light, num_workers: 0}}
trainer: {{accelerator: cpu, max_epochs: 2, num_sanity_val_steps: 0, log_every_n_steps: 1}}
callbacks: {{{QUIET}, early_stopping: null}}
"""
# Without batch normalisation, whose statistics are of one process's images.
NETWORK = """
import os, signal
import torch.distributed as dist
from lightning.pytorch import Callback
from torch import nn

class Plain(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, num_classes))

class SameAverage(Callback):
    def on_validation_batch_start(self, trainer, pl_module, *_):
        everyone = [None, None]
        dist.all_gather_object(everyone, [buffer.tolist() for buffer in pl_module.network.buffers()])
        if everyone[0] != everyone[1]:
            raise ValueError("the processes score different averages")

class Dies(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""
FEATURES = """
model:
  arch: test_resnet
  pretrained: false
  image_size: 32
  auroc: true
  loss: {class_path: clf.losses.Focal}
  mixing: {class_path: clf.mixing.Mixing}
data: {root: images, augment: light, sampler: balanced, batch_size: 2, num_workers: 0, cache: disk, cache_dir: cache}
trainer: {accelerator: cpu, max_epochs: 2, num_sanity_val_steps: 0, log_every_n_steps: 1}
callbacks: {ema: {}, same: {class_path: plain_network.SameAverage}}
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images(workdir: Path) -> Path:
    draw_folders(workdir / "images", IMAGES)
    (workdir / "plain.yaml").write_text(PLAIN)
    (workdir / "plain_network.py").write_text(NETWORK)
    (workdir / "features.yaml").write_text(FEATURES)
    return workdir


def clf(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in processes of its own."""
    command = [sys.executable, "-m", "clf", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_train_as_one_does_with_their_images_in_one_batch(images: Path) -> None:
    # 13 images in steps of 8: the last has 3 for one process and 2 for the other, and classes weigh unequally.
    together = clf("fit", "--config", "plain.yaml", "--trainer.devices", "2", "--data.batch_size", "4")
    assert together.returncode == 0, together.stderr
    assert main(["fit", "--config", "plain.yaml", "--data.batch_size", "8"]) == 0
    two, one = (images / "runs" / "plain" / number for number in ("001", "002"))
    for of_two, of_one in zip(rows(two / "metrics.csv"), rows(one / "metrics.csv"), strict=True):
        assert {key: float(cell) for key, cell in of_two.items()} == pytest.approx(
            {key: float(cell) for key, cell in of_one.items()}, rel=1e-5
        )
    weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (two, one)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-5, atol=1e-6)
    scored = [[(row["path"], row["label"]) for row in rows(run / "predictions/val.csv")] for run in (two, one)]
    assert scored[0] == scored[1]
    assert len(scored[0]) == 7
    assert [together.stderr.count(said) for said in ("fit runs/", "data: ", "check: train", "finished: ")] == [
        1,
        1,
        1,
        1,
    ]


def test_what_torchrun_starts_is_one_run_with_everything_switched_on(images: Path) -> None:
    draw_folders(images / "images", {"train/dog": 4})  # 14: the last step has one image for each process
    codes = list(map(ended, begun_together(images, "fit", "--config", "features.yaml")))
    said = (images / "output.txt").read_text()
    assert codes == [0, 0], said
    assert [path.name for path in (images / "runs" / "features").iterdir()] == ["001"]
    run = images / "runs" / "features" / "001"
    assert [row["step"] for row in rows(run / "metrics.csv")] == ["3", "7"]
    scored = json.loads((run / "metrics.json").read_text())["val"]
    assert scored["n"] == 7
    assert 0 <= scored["auroc"] <= 1
    assert [row["true"] for row in rows(run / "predictions" / "val.csv")] == ["cat"] * 4 + ["dog"] * 3
    assert [entry["n"] for entry in scored["classes"]] == [4, 3]
    assert said.count("cache: 14 images") == 1


def test_a_process_that_is_killed_ends_the_run_with_one_line_and_two_predict_in_order_as_one(images: Path) -> None:
    flags = ("--config", "plain.yaml", "--callbacks.dies", "plain_network.Dies", "--trainer.devices", "2")
    killed = clf("fit", *flags, "--data.batch_size", "4")
    said = [line for line in killed.stderr.splitlines() if line.startswith("clf: ")]
    assert (killed.returncode, said) == (1, ["clf: rank 1 of 2 was killed by SIGKILL, perhaps because memory ran out"])
    assert "Traceback" not in killed.stderr
    # What was saved before is good: images that outnumber a batch, and one that cannot be read.
    draw_folders(images / "new", {"all": 8})
    (images / "new/all/3.png").write_bytes(b"no image")
    words = ("predict", "--data.predict", "new", "--data.batch_size", "2", "--trainer.devices")
    assert main([*words, "1", "--output", "one.csv"]) == 1
    predicted = clf(*words, "2", "--output", "two.csv")
    assert predicted.returncode == 1, predicted.stderr
    assert Path("two.csv").read_text() == Path("one.csv").read_text()
    assert predicted.stderr.count("8 rows in two.csv") == 1


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        (
            {"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"},
            Place(3, 1, 1, 4, "torchrun"),
        ),
        (
            {
                "SLURM_PROCID": "3",
                "SLURM_LOCALID": "1",
                "SLURM_NODEID": "1",
                "SLURM_NTASKS": "4",
                "SLURM_NTASKS_PER_NODE": "2",
                "SLURM_JOB_NAME": "train",
            },
            Place(3, 1, 1, 4, "srun"),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, Place()),
        ({"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Place(1, 0, 1, 0)),
    ],
)
def test_every_launcher_says_which_process_this_is(
    environment: dict[str, str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_place() == place


def test_tasks_of_slurm_that_no_node_is_known_of_are_refused_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with pytest.raises(UserError, match=r"4 tasks of SLURM, and nothing says how many on a node; add --ntasks-per-nod"):
        Processes(find_place()).meet()


def test_several_machines_without_a_number_for_each_are_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.num_nodes=2: start clf on each machine by torchrun or srun, or with"):
        Processes(Place()).counts({"num_nodes": 2})
    with pytest.raises(UserError, match=r"NODE_RANK and MASTER_ADDR are set, but trainer.num_nodes is 1"):
        Processes(Place(size=0)).counts({"num_nodes": 1})

"""One scored pass for all: who gets it, when, and what the run keeps of it."""

import csv
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import draw_folders
from lightning.pytorch import Callback

from clf.evaluation import Evaluation
from clf.main import main

CONFIG = """
model: {arch: test_resnet, pretrained: false, image_size: 32}
data: {root: images, augment: none, batch_size: 4, num_workers: 0}
trainer: {accelerator: cpu, max_epochs: 3, num_sanity_val_steps: 2}
callbacks: {looker: {class_path: looking.Looker}}
"""
# A user's own callbacks, as they are written beside one's configs.
LOOKING = """
import torch
from lightning.pytorch import Callback

class Looker(Callback):
    seen = []

    def on_evaluated(self, trainer, pl_module, evaluation):
        evaluation.findings["looked"] = len(evaluation)
        self.seen.append(evaluation)

class Forgetful(Callback):
    '''From the second epoch on, every prediction is wrong.'''

    def on_validation_batch_start(self, trainer, pl_module, batch, *_):
        if trainer.current_epoch > 0:
            pl_module.network.forward = lambda images: -torch.nn.functional.one_hot(self.labels, 3).float()
            self.labels = batch["labels"]

class Clumsy(Callback):
    def on_evaluated(self, trainer, pl_module, evaluation):
        raise KeyError("my key")

class Counter(Callback):
    passes = 0

    def on_validation_start(self, trainer, pl_module):
        pl_module.network.register_forward_hook(self.count)

    def count(self, module, inputs, output):
        if not torch.is_grad_enabled():
            Counter.passes += 1
"""


@pytest.fixture
def folder(workdir: Path) -> Path:
    draw_folders(
        workdir / "images", {f"{split}/{name}": 4 for split in ("train", "valid", "test") for name in ("a", "b", "c")}
    )
    (workdir / "tiny.yaml").write_text(CONFIG)
    (workdir / "looking.py").write_text(LOOKING)
    return workdir


@pytest.fixture
def looking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "looking", raising=False)
    return import_module("looking")


def fit(*words: str) -> None:
    assert main(["fit", "--config", "tiny.yaml", *words]) == 0


def with_callback(class_path: str) -> list[str]:
    """One more config, with one more callback."""
    Path("more.yaml").write_text(f"callbacks: {{more: {{class_path: {class_path}}}}}")
    return ["--config", "more.yaml"]


def read(path: str) -> dict[str, Any]:
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))


def test_a_callback_gets_every_validation_once_and_no_sanity_check(looking: Any) -> None:
    fit()
    seen: list[Evaluation] = looking.Looker.seen
    assert [(each.split, each.epoch) for each in seen] == [("val", 0), ("val", 1), ("val", 2)]
    assert seen[0].best


def test_what_it_gets_is_what_was_logged_image_by_image(looking: Any) -> None:
    fit("--trainer.max_epochs", "1")
    [seen] = looking.Looker.seen
    assert seen.index.tolist() == list(range(12))
    assert [seen.classes[label] for label in seen.labels] == [sample.label for sample in seen.samples]
    assert seen.correct.mean() == pytest.approx(seen.metrics["acc_top1"])
    loss = torch.nn.functional.cross_entropy(torch.tensor(seen.logits), torch.tensor(seen.labels), label_smoothing=0.1)
    assert float(loss) == pytest.approx(seen.metrics["loss"], abs=1e-5)


def test_validate_and_test_are_handed_on_too_and_are_always_kept(looking: Any) -> None:
    fit("--trainer.max_epochs", "1")
    assert main(["validate"]) == main(["test"]) == 0
    seen: list[Evaluation] = looking.Looker.seen
    assert [(each.split, each.best) for each in seen] == [("val", True), ("val", True), ("test", True)]
    assert read("runs/tiny/001/metrics.json")["test"]["looked"] == 12


def test_a_callback_of_one_s_own_that_fails_is_named(looking: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "tiny.yaml", *with_callback("looking.Clumsy")]) == 1
    said = capsys.readouterr().err
    assert "Clumsy.on_evaluated failed on val, epoch 0\nclf: KeyError: 'my key'" in said


def test_metrics_json_keeps_the_best_validation_with_what_callbacks_add(looking: Any) -> None:
    fit("--trainer.max_epochs", "1")
    kept = read("runs/tiny/001/metrics.json")["val"]
    with Path("runs/tiny/001/predictions/val.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["true"] for row in rows)
    assert (kept["n"], kept["looked"], kept["epoch"]) == (12, 12, 0)
    assert kept["acc_top1"] == pytest.approx(right / 12)
    assert [entry["n"] for entry in kept["classes"]] == [4, 4, 4]
    assert kept["f1_macro_interval"][0] <= kept["f1_macro"] <= kept["f1_macro_interval"][1]
    assert not [name for name in kept if name.startswith("acc_class")]


def test_a_worse_epoch_does_not_replace_it(looking: Any) -> None:
    fit(*with_callback("looking.Forgetful"), "--trainer.max_epochs", "2")
    first, second = looking.Looker.seen
    assert (first.best, second.best) == (True, False)
    assert second.correct.sum() == 0
    assert read("runs/tiny/001/metrics.json")["val"]["epoch"] == 0


def test_the_best_is_on_disk_before_the_run_ends(looking: Any, folder: Path) -> None:
    (folder / "stopping.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_epoch_start(self, trainer, *_):\n"
        "        if trainer.current_epoch == 1: raise OSError('gone')\n"
    )
    assert main(["fit", "--config", "tiny.yaml", *with_callback("stopping.Stop")]) == 1
    kept = read("runs/tiny/001/metrics.json")
    assert (kept["finished"], kept["val"]["epoch"]) == (None, 0)


def test_the_network_sees_each_validation_image_once_with_every_callback_on(looking: Any) -> None:
    # Defect 11 of earlier trainers: callbacks ran the forward pass again, and validation took twice as long.
    fit(*with_callback("looking.Counter"), "--trainer.max_epochs", "1", "--trainer.num_sanity_val_steps", "0")
    assert looking.Counter.passes == 3  # batches


def test_metadata_of_the_images_makes_slices(workdir: Path) -> None:
    draw_folders(workdir / "images", {f"{split}/{name}": 4 for split in ("train", "valid") for name in ("a", "b")})
    for split in ("train", "valid"):
        images = sorted((workdir / "images" / split).rglob("*.png"))
        rows = [
            {"image": str(path.relative_to(workdir / "images" / split)), "label": path.parent.name}
            | {"metadata": {"night": number % 2 == 1}}
            for number, path in enumerate(images)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (workdir / "images" / split / "annotations.jsonl").write_text(lines)
    (workdir / "tiny.yaml").write_text(CONFIG.partition("callbacks")[0])
    fit("--trainer.max_epochs", "1")
    kept = read("runs/tiny/001/metrics.json")["val"]
    assert [(found["key"], found["value"], found["n"]) for found in kept["slices"]] == [
        ("night", "false", 4),
        ("night", "true", 4),
    ]
    assert kept["worst_slice"] in kept["slices"]


def test_a_network_that_says_nan_is_scored_and_nothing_breaks_but_it_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "nothing.py").write_text(
        "import torch\n"
        "class Nan(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.zeros(num_classes))\n"
        "    def forward(self, images):\n"
        "        return self.weight + images.mean((1, 2, 3))[:, None] * float('nan')\n"
    )
    (folder / "tiny.yaml").write_text(
        CONFIG.replace("arch: test_resnet, pretrained: false", "network: nothing.Nan").partition("callbacks")[0]
    )
    fit("--trainer.max_epochs", "1", "--callbacks.non_finite", "null")
    kept = read("runs/tiny/001/metrics.json")["val"]
    assert (kept["n"], kept["loss"]) == (12, None)
    assert capsys.readouterr().err.count("val: the network's output is not finite for 12 of 12 images") == 1


def test_all_callbacks_that_users_know_are_callbacks() -> None:
    from clf.config import CALLBACKS

    for path in CALLBACKS.values():
        module, _, name = path.rpartition(".")
        assert issubclass(getattr(import_module(module), name), Callback)

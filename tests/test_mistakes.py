"""What users get wrong: each mistake costs one line that names it, exit code 2, and nothing on disk."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets import draw_folders, touch, write_rows

from clf.main import main

TINY = """
model: {arch: test_resnet, pretrained: false, image_size: 32}
data: {batch_size: 4, num_workers: 0, augment: none}
trainer: {accelerator: cpu, max_epochs: 1, limit_train_batches: 1, num_sanity_val_steps: 0}
"""


@dataclass(frozen=True)
class Mistake:
    """What is typed, after what was done to the folder, and the words that the message must have."""

    words: str
    message: tuple[str, ...]
    prepare: Callable[[], object] = lambda: None


def write(name: str, text: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(text)


def damage_checkpoints() -> None:
    for path in Path("runs/latest/checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:5000])


def relabel() -> None:
    for split in ("train", "valid", "test"):
        shutil.move(f"images/{split}/cat", f"images/{split}/lynx")


def empty_train() -> None:
    for name in ("cat", "dog"):
        shutil.rmtree(f"images/train/{name}")


def lose_image() -> None:
    write_rows(Path("rows"), "train/annotations.jsonl", {"image": "gone.png", "label": "a"})
    Path("rows/train/gone.png").unlink()


def train_on_validation() -> None:
    Path("copy").mkdir()
    Path("copy/train").symlink_to(Path("images/valid").resolve())


def inherit_in_a_circle() -> None:
    Path("a.yaml").write_text("config: b.yaml\n")
    Path("b.yaml").write_text("config: a.yaml\n")


FIT = "fit --config tiny.yaml --data.root images"
MISTAKES = {
    "key in YAML": Mistake(
        "fit --config typo.yaml",
        ("model.archh", "typo.yaml", "did you mean 'model.arch'"),
        write("typo.yaml", "model.archh: resnet18\n"),
    ),
    "key on the command line": Mistake(f"{FIT} --trainer.max_epoch 3", ("trainer.max_epoch", "'trainer.max_epochs'")),
    "argument of a class": Mistake(
        f"{FIT} --model.loss.label_smoothin 0.2", ("label_smoothin", "CrossEntropy", "'label_smoothing'")
    ),
    "verb": Mistake("fitt --config tiny.yaml", ("fitt", "did you mean 'fit'")),
    "model": Mistake(f"{FIT} --model.arch resnt18", ("model.arch", "resnt18", "did you mean 'resnet18'")),
    "class_path": Mistake(
        "fit --config typo.yaml",
        ("torch.optim.AdamWW", "typo.yaml", "did you mean 'AdamW'"),
        write("typo.yaml", "model.optimizer: {class_path: torch.optim.AdamWW}\n"),
    ),
    "class on the command line": Mistake(f"{FIT} --model.optimizer AdamWW", ("AdamWW", "did you mean 'AdamW'")),
    "file": Mistake("fit --config tinyy.yaml", ("tinyy.yaml", "did you mean 'tiny.yaml'")),
    "type": Mistake(f"{FIT} --trainer.max_epochs many", ("trainer.max_epochs", "many", "int")),
    "choice": Mistake(f"{FIT} --model.crop_mode centre", ("model.crop_mode", "centre", "did you mean 'center'")),
    "null": Mistake(f"{FIT} --data.batch_size null", ("data.batch_size", "null", "int")),
    "missing dataset": Mistake("fit --config tiny.yaml --data.root imags", ("data.root", "imags", "images")),
    "empty split": Mistake(FIT, ("images", "train"), empty_train),
    "empty class": Mistake(FIT, ("images/train/eel",), lambda: Path("images/train/eel").mkdir()),
    "label unseen in train": Mistake(
        FIT, ("eel", "valid", "on_unknown_label"), lambda: draw_folders(Path("images"), {"valid/eel": 1})
    ),
    "other classes than the checkpoint's": Mistake("test", ("cat", "lynx"), relabel),
    "other classes when resuming": Mistake(
        "fit --ckpt_path last --trainer.max_epochs 2", ("last.ckpt", "'cat'", "'lynx'"), relabel
    ),
    "nothing to resume": Mistake(
        "fit --config tiny.yaml --name other --ckpt_path last", ("last", "runs/other"), lambda: None
    ),
    "no run at all": Mistake("test", ("runs/latest", "clf fit"), lambda: shutil.rmtree("runs")),
    "checkpoint of another architecture": Mistake(
        "test --model.arch test_vit", ("best.ckpt", "test_resnet", "test_vit")
    ),
    "corrupt checkpoints": Mistake(
        "fit --ckpt_path last --trainer.max_epochs 2", ("last.ckpt", "damaged"), damage_checkpoints
    ),
    "checkpoint of somebody else": Mistake(
        "test --ckpt_path foreign.ckpt", ("foreign.ckpt", "clf"), lambda: torch.save({"state_dict": {}}, "foreign.ckpt")
    ),
    "URL as checkpoint": Mistake("test --ckpt_path https://example.org/a.ckpt", ("https://example.org", "URL")),
    "corrupt JSONL line": Mistake(
        "fit --config tiny.yaml --data.root rows",
        ("annotations.jsonl:2",),
        lambda: write_rows(Path("rows"), "train/annotations.jsonl", {"image": "a.png", "label": "a"}, "{oops"),
    ),
    "split in a manifest": Mistake(
        "fit --config tiny.yaml --data.root images/list.csv",
        ("images/list.csv:3", "split='trian'", "did you mean 'train'"),
        write("images/list.csv", "path,label,split\ntrain/cat/0.png,a,train\ntrain/dog/0.png,b,trian\n"),
    ),
    "validation images that are trained on": Mistake(
        f"{FIT} --data.root+ copy",
        ("images/valid/cat/0.png", "copy/train/cat/0.png", "remove them from one"),
        train_on_validation,
    ),
    "list of images to leave out": Mistake(
        f"{FIT} --data.exclude bda.txt", ("data.exclude", "bda.txt", "did you mean 'bad.txt'"), write("bad.txt", "")
    ),
    "metadata key": Mistake(f"{FIT} --data.train_only.source rendered", ("data.train_only", "'source'", "none")),
    "name of a dataset": Mistake(
        "fit --config typo.yaml",
        ("CIFAR1O", "did you mean 'CIFAR10'"),
        write("typo.yaml", "data.source: {class_path: clf.data.torchvision.TorchvisionSource, dataset: CIFAR1O}\n"),
    ),
    "image missing from disk": Mistake(
        "fit --config tiny.yaml --data.root rows",
        ("gone.png", "annotations.jsonl:1"),
        lose_image,
    ),
    "unreadable image": Mistake(
        "fit --config tiny.yaml --data.root broken",
        ("broken/train/cat/a.png",),
        lambda: touch(
            draw_folders(Path("broken"), {"train/dog": 1, "valid/dog": 1, "valid/cat": 1}), "train/cat/a.png"
        ),
    ),
    "duplicate YAML key": Mistake(
        "fit --config twice.yaml",
        ("twice.yaml:3", "batch_size", "twice"),
        write("twice.yaml", "data:\n  batch_size: 1\n  batch_size: 2\n"),
    ),
    "sampler without weights": Mistake(
        f"{FIT} --data.sampler weighted", ("data.sampler=weighted", "data.sampler_weights")
    ),
    "imbalance corrected twice": Mistake(
        f"{FIT} --data.sampler balanced --model.class_weights inverse",
        ("model.class_weights=inverse and data.sampler", "more than once", "model.double_correction=true"),
    ),
    "weight of no class": Mistake(
        "fit --config tiny.yaml --config weights.yaml --data.root images",
        ("data.sampler", "'catt'", "did you mean 'cat'"),
        write("weights.yaml", "data.sampler: {class_path: clf.data.samplers.Weighted, weights: {catt: 2}}\n"),
    ),
    "range of a transform": Mistake(
        "fit --config tiny.yaml --config range.yaml --data.root images",
        ("Pixelate", "scale=[0.5, 2.0]", "between 0.01 and 1"),
        write("range.yaml", "data.augment: [{class_path: clf.degradations.Pixelate, init_args: {scale: [0.5, 2]}}]\n"),
    ),
    "circular config": Mistake(
        "fit --config a.yaml",
        ("circular", "a.yaml -> b.yaml -> a.yaml"),
        inherit_in_a_circle,
    ),
    "pretrained without network": Mistake(
        f"{FIT} --model.pretrained true", ("model.pretrained", "cannot be had", "model.weights")
    ),
    "weights file": Mistake(
        f"{FIT} --model.weights wights.safetensors",
        ("model.weights", "wights.safetensors", "did you mean 'weights.safetensors'"),
        write("weights.safetensors", ""),
    ),
}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which a first, small run was made."""
    folder = tmp_path_factory.mktemp("started")
    counts = {f"{split}/{name}": 2 for split in ("train", "valid", "test") for name in ("cat", "dog")}
    draw_folders(folder / "images", counts)
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(FIT.split()) == 0
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_costs_one_line_and_leaves_nothing(
    name: str, started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[name]
    folder = shutil.copytree(started, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(folder)
    mistake.prepare()
    before = sorted(folder.glob("runs/*/*"))

    assert main(mistake.words.split()) == 2

    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("clf: ")]
    assert len(said) == 1, said
    for word in mistake.message:
        assert word in said[0]
    assert sorted(folder.glob("runs/*/*")) == before or name == "unreadable image"

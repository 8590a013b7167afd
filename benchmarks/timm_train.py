"""How well timm's own training script does on a dataset, with the network, weights, size and epochs of a run of clf.

The script is not part of the timm package: take ``train.py`` from the repository huggingface/pytorch-image-models, of a
version that fits the installed timm. Arguments after ``--`` are handed to it and win over the preset's. What comes out,
``result.json``, can go into docs/results and the tables there:
    python benchmarks/timm_train.py --script train.py --root FOLDER --data NAME --weights FILE --arch resnet18
        --preset photos --size 224 --epochs 12 --batch-size 32 --out OUT -- --lr 1e-3
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from timm.models import create_model, load_checkpoint
from torch import nn

from clf import confusion
from clf.data.datamodule import ImageData
from clf.data.samples import Split
from clf.environment import device_name
from clf.statistics import Proportion

FOLDERS: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}

# What fine-tuning a small network for some ten epochs asks for. Otherwise the script's defaults hold: weight decay on
# matrices only, colour jitter 0.4, a cosine down to 0.
SHARED = [
    *("--opt", "adamw", "--weight-decay", "1e-4", "--smoothing", "0.1"),
    # By updates: stepped by epochs, the whole first epoch would be spent at the warm-up's first rate of 1e-5.
    *("--sched", "cosine", "--sched-on-updates", "--warmup-epochs", "1"),
    # With its warm-up: an average of 0.999 alone would still hold a quarter of the untrained head after 1,400 updates.
    *("--model-ema", "--model-ema-decay", "0.999", "--model-ema-warmup"),
    *("--device", "cpu", "--channels-last"),
]
PRESETS: dict[str, list[str]] = {
    # Nothing is mirrored, and little is cut off: the number fills the image. A crop has the proportions that images of
    # numbers have, so that making it square stretches it as squashing does in evaluation.
    "digits": ["--lr", "1e-3", "--hflip", "0", "--scale", "0.8", "1.0", "--ratio", "0.55", "1.05", "--crop-pct", "1.0"],
    # The script's own: crops of 8 to 100 % of the image, mirrored half of the time. The rate suits batches of 32.
    "photos": ["--lr", "5e-4", "--hflip", "0.5"],
}
# The script itself knows no crop mode and validates on the middle of the image; timm's validate.py does know it.
EVALUATION: dict[str, dict[str, Any]] = {"digits": {"crop_pct": 1.0, "crop_mode": "squash"}, "photos": {}}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="timm's train.py")
    parser.add_argument("--root", type=Path, required=True, help="dataset, as data.root of clf")
    parser.add_argument("--weights", type=Path, required=True, help="starting weights, a file")
    parser.add_argument("--data", required=True, help="what to call the dataset in the tables of results")
    parser.add_argument("--arch", required=True, help="timm's name of the network")
    parser.add_argument("--preset", choices=PRESETS, required=True, help="what the images show")
    parser.add_argument("--size", type=int, required=True, help="pixels of a side")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="new folder for links, checkpoints and result.json")
    parser.add_argument("extra", nargs="*", help="further arguments of train.py, after --")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"--out {args.out} is there already; name a new folder")
    for path in (args.script, args.weights):
        if not path.is_file():
            parser.error(f"{path} is no file")
    return args


def link(data: ImageData, folder: Path) -> None:
    """Lay the dataset out as folders of classes.

    Folders are called by the number of the class: timm sorts names as people do, so that 0 and 00 are one to it and get
    their places by chance. Links end in .jpg whatever they are: timm skips other endings, and Pillow looks inside.
    """
    for split, name in FOLDERS.items():
        for number, sample in enumerate(data.samples(split)):
            assert sample.label is not None, sample
            place = folder / name / f"{data.classes.index(sample.label):04d}" / f"{number:06d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(Path(sample.path).resolve())
    # Without it every split counts its own classes, and one that lacks a class shifts those behind it.
    names = [f"{index:04d}" for index in range(len(data.classes))]
    (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def command(args: argparse.Namespace, *, num_classes: int) -> list[str]:
    """The script's arguments; paths are relative to the output folder, so that the result names no machine."""
    return [
        *("--data-dir", "data", "--class-map", "data/classes.txt", "--num-classes", str(num_classes)),
        # Not --initial-checkpoint: that keeps the file's head, and fails where the number of classes differs.
        *("--model", args.arch, "--pretrained", "--pretrained-path", args.weights.name),
        *("--img-size", str(args.size), "--epochs", str(args.epochs), "--batch-size", str(args.batch_size)),
        *("--workers", str(args.workers), "--output", ".", "--experiment", "run"),
        *("--checkpoint-hist", str(args.epochs)),
        *SHARED,
        *PRESETS[args.preset],
        *args.extra,
    ]


def predict(
    network: nn.Module, split: Split, *, folder: Path, args: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predict a split as timm's validate.py does: classes and labels, both (N,)."""
    name = FOLDERS[split]
    dataset = create_dataset("", root=str(folder), split=name, class_map=str(folder / "classes.txt"))  # type: ignore[arg-type]
    overrides = {"img_size": args.size, **EVALUATION[args.preset]}
    config = resolve_model_data_config(network, args=overrides)  # type: ignore[no-untyped-call]
    loader = create_loader(
        dataset, batch_size=args.batch_size, num_workers=args.workers, use_prefetcher=False, **config
    )
    predicted, labels = [], []
    with torch.inference_mode():
        for images, targets in loader:
            predicted.append(network(images.contiguous(memory_format=torch.channels_last)).argmax(1))
            labels.append(targets)
    return torch.cat(predicted), torch.cat(labels)


def load(checkpoint: Path, *, arch: str, num_classes: int) -> nn.Module:
    """The network with the averaged weights of a checkpoint, ready to predict."""
    network: nn.Module = create_model(arch, num_classes=num_classes)
    load_checkpoint(network, str(checkpoint), use_ema=True)
    return network.eval().to(memory_format=torch.channels_last)


def score(predicted: torch.Tensor, labels: torch.Tensor, *, classes: list[str]) -> dict[str, Any]:
    """Sum up predictions as a run's ``metrics.json`` does."""
    counts = confusion.count(labels.numpy(), predicted.numpy(), num_classes=len(classes))
    return {key: value for key, value in confusion.summarise(counts, classes).items() if key != "classes"}


def main() -> None:
    """Train, take the epoch that is best on validation, and print a line for each split."""
    args = arguments()
    data = ImageData(root=str(args.root))
    num_classes = len(data.classes)
    folder = args.out.resolve() / "data"
    link(data, folder)
    (args.out / args.weights.name).symlink_to(args.weights.resolve())
    words = command(args, num_classes=num_classes)
    start = time.perf_counter()
    subprocess.run([sys.executable, str(args.script.resolve()), *words], check=True, cwd=args.out)
    minutes = (time.perf_counter() - start) / 60

    # Every epoch is scored again, since the script chose its best by the middle of the images.
    by_epoch: dict[int, dict[str, Any]] = {}
    checkpoints = {int(re.findall(r"\d+", path.name)[0]): path for path in args.out.glob("run/checkpoint-*.pth.tar")}
    for epoch, checkpoint in sorted(checkpoints.items()):
        network = load(checkpoint, arch=args.arch, num_classes=num_classes)
        by_epoch[epoch] = score(*predict(network, "val", folder=folder, args=args), classes=data.classes)
    best = max(by_epoch, key=lambda epoch: by_epoch[epoch]["acc_top1"])  # The first of equals.
    network = load(checkpoints[best], arch=args.arch, num_classes=num_classes)
    val, test = by_epoch[best], score(*predict(network, "test", folder=folder, args=args), classes=data.classes)
    result = {
        "config": "timm's train.py",
        "data": args.data,
        "command": shlex.join(["python", "train.py", *words]),
        "device": device_name("cpu"),
        "epochs": args.epochs,
        "minutes": round(minutes, 1),
        "versions": {name: version(name) for name in ("timm", "torch", "torchvision")},
        "evaluation": EVALUATION[args.preset],
        "best_epoch": best,
        "val": val,
        "test": test,
    }
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"trained {args.epochs} epochs in {minutes:.1f} minutes, best epoch {best}")
    for split, summary in (("val", val), ("test", test)):
        top1 = Proportion(round(summary["acc_top1"] * summary["n"]), summary["n"])
        print(f"{split:4} top-1 {top1}, macro F1 {summary['f1_macro']:.4f}")


if __name__ == "__main__":
    main()

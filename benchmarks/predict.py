"""Predictions of an exported model against PyTorch: ``python benchmarks/predict.py``.

- ``predict_network_1`` and ``predict_network_64``: milliseconds of one batch of 1 and of 64, ResNet-18 at 224 pixels:
  the exported file with ONNX Runtime, as our predictor opens it, against the network in eager PyTorch, in channels_last
  and inference mode. Processes of their own take turns, for the threads of one would disturb the other.
- ``predict_command``: seconds of ``clf predict`` over a folder, start-up and table included, against a plain loop as a
  process (Pillow, timm's evaluation transform, eager PyTorch in batches of 64, a CSV file), and against the same with
  timm's loader and as many workers as there are cores.

The images are made by benchmarks/photos.py, or lie in ``--data FOLDER``. The network is trained for two batches.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring

from clf.cores import usable_cores

KINDS = ("onnx", "eager", "loop", "loader")
SIZE, BATCH = 224, 64


def network() -> Any:
    """The peers' network."""
    import torch
    from timm.models import create_model

    model: Any = create_model("resnet18", num_classes=4)
    return model.eval().to(memory_format=torch.channels_last)


def once(work: Callable[[], object], *, runs: int) -> None:
    """Print the milliseconds of one run, the mean of several after two that do not count."""
    for run in range(-2, runs):
        if run == 0:
            start = time.perf_counter()
        work()
    print(1000 * (time.perf_counter() - start) / runs)


def onnx(flags: argparse.Namespace) -> None:
    """Run the exported network."""
    import numpy as np

    from clf.predictor import Predictor

    predictor = Predictor(flags.model, device="cpu", threads=flags.threads)
    shape = (flags.batch_size, 3, SIZE, SIZE)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    once(lambda: predictor.run(images), runs=flags.runs)


def eager(flags: argparse.Namespace) -> None:
    """Run the network in PyTorch."""
    import torch

    torch.set_num_threads(flags.threads)
    model = network()
    images = torch.randn(flags.batch_size, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        once(lambda: model(images), runs=flags.runs)


def whole(flags: argparse.Namespace, batches: Callable[[argparse.Namespace, Any], Iterator[Any]]) -> None:
    """Predict a folder in PyTorch and write a table."""
    import torch
    from timm.data.config import resolve_data_config

    torch.set_num_threads(flags.threads)
    model = network()
    config = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    with torch.inference_mode(), Path(flags.out).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for paths, images in batches(flags, config):
            probs = model(images.contiguous(memory_format=torch.channels_last)).softmax(1)
            scores, labels = probs.topk(4)
            writer.writerows([path, *row] for path, *row in zip(paths, labels.tolist(), scores.tolist(), strict=True))


def loop(flags: argparse.Namespace, config: Any) -> Iterator[Any]:
    """Batches as a plain loop makes them."""
    import torch
    from PIL import Image
    from timm.data.transforms_factory import create_transform

    transform: Any = create_transform(**config)
    paths = sorted(Path(flags.data).rglob("*.jpg"))
    for start in range(0, len(paths), BATCH):
        some = paths[start : start + BATCH]
        yield some, torch.stack([transform(Image.open(path).convert("RGB")) for path in some])


def loader(flags: argparse.Namespace, config: Any) -> Iterator[Any]:
    """Batches as timm's loader makes them."""
    import torch
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader

    dataset: Any = create_dataset("", root=str(flags.data), search_split=False)
    wanted = {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}
    device = torch.device("cpu")
    batches: Any = create_loader(dataset, batch_size=BATCH, num_workers=usable_cores(), device=device, **wanted)
    names = dataset.filenames()
    for number, (images, _) in enumerate(batches):
        yield names[number * BATCH : (number + 1) * BATCH], images


def child(kind: str, *, flags: argparse.Namespace, **more: Any) -> list[str]:
    """Spell this script as one of those that are compared."""
    more = {"threads": flags.threads, "runs": flags.runs, **more}
    return [
        sys.executable,
        __file__,
        "--kind",
        kind,
        *(w for key, value in more.items() for w in (f"--{key}", str(value))),
    ]


def export(folder: Path, *, data: Path, arch: str = "resnet18", size: int = SIZE) -> Path:
    """Train hardly at all, and export: the ONNX file."""
    keys = {"model.pretrained": "false", "model.image_size": size, "model.warmup_epochs": 0, "data.root": data}
    keys |= {"model.arch": arch}
    keys |= {"trainer.max_epochs": 1, "trainer.limit_train_batches": 2, "trainer.limit_val_batches": 1}
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    fit = measuring.clf("fit", "--config", "resnet18.yaml", "--trainer", "trainer/cpu.yaml", "--name", "bench", *words)
    measuring.run(fit, cwd=folder)
    measuring.run(measuring.clf("export"), cwd=folder)
    return folder / "runs" / "bench" / "001" / "export" / "model.onnx"


def networks(model: Path, *, flags: argparse.Namespace) -> None:
    """Record the network alone."""

    def milliseconds(kind: str, batch_size: int) -> float:
        runs = max(5, flags.runs // batch_size)
        return measuring.said(child(kind, flags=flags, model=model, batch_size=batch_size, runs=runs))

    for size in (1, BATCH):
        found = measuring.alternate(
            {kind: partial(milliseconds, kind, size) for kind in ("onnx", "eager")}, rounds=flags.rounds, warm=False
        )
        name, peers = f"predict_network_{size}", {"torch": found["eager"]}
        measuring.record(flags.record, name, found["onnx"], unit="ms", peers=peers, threads=flags.threads)


def commands(model: Path, folder: Path, *, flags: argparse.Namespace) -> None:
    """Record whole commands."""
    numbers = count()

    def clf() -> measuring.Ran:
        words = ("--ckpt_path", model, "--data.predict", flags.data, "--output", folder / f"{next(numbers)}.csv")
        return measuring.run(measuring.clf("predict", *words))

    def other(kind: str) -> measuring.Ran:
        return measuring.run(child(kind, flags=flags, data=flags.data, out=folder / f"{kind}.csv"))

    runs = measuring.Runs({"clf": clf, "torch": partial(other, "loop"), "timm_loader": partial(other, "loader")})
    seconds = runs.alternate(rounds=flags.rounds)
    ours, images = seconds.pop("clf"), sum(1 for _ in flags.data.rglob("*.jpg"))
    facts: dict[str, Any] = {"cpu_seconds": runs.cpu_seconds, "images": images}
    measuring.record(flags.record, "predict_command", ours, unit="s", peers=seconds, threads=flags.threads, **facts)


def main() -> None:
    """Compare, or be one of those that are compared."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder of JPEGs for the whole command; without it, photos are made")
    parser.add_argument("--images", type=int, default=1024, help="made for it (default: 1024)")
    parser.add_argument("--runs", type=int, default=300, help="images that go through the network alone in a turn")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: the cores")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    for name in ("model", "out"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int, help=argparse.SUPPRESS)
    flags = measuring.parse(parser)
    measuring.fix_threads(flags.threads)
    if flags.kind in ("onnx", "eager"):
        {"onnx": onnx, "eager": eager}[flags.kind](flags)
        return
    if flags.kind:
        whole(flags, {"loop": loop, "loader": loader}[flags.kind])
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        import photos

        photos.make(folder / "data", kind="photos", count=flags.images if flags.data is None else 128, val=64)
        flags.data = (flags.data or folder / "data" / "train").resolve()
        model = export(folder, data=folder / "data")
        networks(model, flags=flags)
        commands(model, folder, flags=flags)


if __name__ == "__main__":
    main()

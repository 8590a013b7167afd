"""Whole trainings: ``clf fit`` against the same training written with timm's public API, from command to exit.

Processes take turns, with ResNet-18 at 96 pixels for two epochs: the same files, batches, workers, threads, crops,
colours, AdamW, warm-up and cosine, smoothed loss, clipped gradients, moving average, validation of the average after
each epoch, and checkpoints. clf has all else that it does by default on top: tables, figures, report. Of timm there are
two: with channels_last, and without, as its loader and models come.

The images are made by benchmarks/photos.py, or lie in ``--data FOLDER`` with train and valid (val, validation) inside.
"""

import argparse
import csv
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring

Epochs = dict[str, list[float]]  # seconds of all epochs of a run, by who ran

RATE, DECAY, AVERAGE = 5e-4, 1e-4, 0.999


def peer(flags: argparse.Namespace) -> None:
    """Train with timm, as its train script does."""
    import torch
    from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
    from timm.models import create_model
    from timm.optim._optim_factory import create_optimizer_v2
    from timm.scheduler.scheduler_factory import create_scheduler_v2
    from timm.utils.model_ema import ModelEmaV3

    torch.set_num_threads(flags.threads)
    torch.manual_seed(42)
    train, val = peer_loader(flags, training=True), peer_loader(flags, training=False)
    classes = len(train.loader.dataset.reader.class_to_idx)
    model: Any = create_model("resnet18", num_classes=classes)
    if flags.channels_last:
        model = model.to(memory_format=torch.channels_last)
    average = ModelEmaV3(model, decay=AVERAGE, use_warmup=True)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=flags.epochs,
        warmup_epochs=1,
        step_on_epochs=False,
        updates_per_epoch=len(train),
    )
    loss = LabelSmoothingCrossEntropy(0.1)  # type: ignore[no-untyped-call]
    best = -1.0
    for epoch in range(flags.epochs):
        begun = time.perf_counter()
        model.train()
        for step, (images, labels) in enumerate(train, start=epoch * len(train)):
            images = images.contiguous(memory_format=torch.channels_last) if flags.channels_last else images
            loss(model(images), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update(model, step=step)
            scheduler.step_update(step + 1)
        accuracy = peer_accuracy(average.module.eval(), val, flags=flags)
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, Path(flags.out, "last.pth"))
        if accuracy > best:
            best = accuracy
            torch.save(state, Path(flags.out, "best.pth"))
        print(f"epoch {epoch}: {accuracy:.3f} in {time.perf_counter() - begun:.1f} s", flush=True)


def peer_loader(flags: argparse.Namespace, *, training: bool) -> Any:
    """timm's loader of a split."""
    import torch
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader

    names = ["train"] if training else ["valid", "val", "validation"]
    folder = next(Path(flags.data, name) for name in names if Path(flags.data, name).is_dir())
    dataset: Any = create_dataset("", root=str(folder), search_split=False, is_training=training)
    crop: dict[str, Any] = {"scale": (0.35, 1.0), "color_jitter": 0.4} if training else {"crop_pct": 0.95}
    return create_loader(
        dataset,
        input_size=(3, flags.size, flags.size),
        batch_size=flags.batch_size,
        is_training=training,
        interpolation="bicubic",
        num_workers=flags.workers,
        device=torch.device("cpu"),
        **crop,
    )


def peer_accuracy(network: Any, loader: Any, *, flags: argparse.Namespace) -> float:
    """Share of the validation images that are right."""
    import torch

    right = seen = 0
    with torch.inference_mode():
        for images, labels in loader:
            images = images.contiguous(memory_format=torch.channels_last) if flags.channels_last else images
            right += int((network(images).argmax(1) == labels).sum())
            seen += len(labels)
    return right / seen


def ours(folder: Path, *, flags: argparse.Namespace, number: Callable[[], int], epochs: Epochs) -> measuring.Ran:
    """Run ``clf fit``, and note the seconds of its epochs."""
    work = folder / f"clf{number()}"
    work.mkdir()
    keys = {
        "model.pretrained": "false",
        "model.image_size": flags.size,
        "model.warmup_epochs": 0.5,  # at most a quarter of the run
        "model.optimizer.lr": RATE,
        "callbacks.ema.decay": AVERAGE,
        "data.root": flags.data,
        "data.batch_size": flags.batch_size,
        "data.num_workers": flags.workers,
        "trainer.max_epochs": flags.epochs,
    }
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    command = measuring.clf("fit", "--config", "resnet18.yaml", "--trainer", "trainer/cpu.yaml", *words)
    ran = measuring.run(command, cwd=work)
    with (work / "runs" / "resnet18" / "001" / "timing.csv").open(encoding="utf-8", newline="") as file:
        epochs["clf"].append(sum(float(row["time/epoch_s"]) for row in csv.DictReader(file)))
    return ran


def theirs(folder: Path, *, flags: argparse.Namespace, channels_last: bool, epochs: Epochs) -> measuring.Ran:
    """Run the peer, and note the seconds of its epochs."""
    keys = ("data", "size", "epochs", "batch_size", "workers", "threads")
    words = [word for key in keys for word in (f"--{key}", str(getattr(flags, key)))]
    words += ["--channels_last"] if channels_last else []
    ran = measuring.run([sys.executable, __file__, "--peer", "--out", folder, *words])
    said = re.findall(r"^epoch .* in ([\d.]+) s$", ran.output, re.MULTILINE)
    epochs["timm_channels_last" if channels_last else "timm"].append(sum(map(float, said)))
    return ran


def main() -> None:
    """Compare, or be the peer."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with train and valid, class folders inside")
    parser.add_argument("--images", type=int, default=1024, help="made where no folder is given (default: 1024)")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--channels_last", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    flags = measuring.parse(parser)
    measuring.fix_threads(flags.threads)
    if flags.peer:
        peer(flags)
        return
    measure = "whole_run_folder" if flags.data else "whole_run"
    with TemporaryDirectory() as name:
        folder = Path(name)
        if flags.data is None:
            import photos

            flags.data = folder / "data"
            photos.make(flags.data, kind="photos", count=flags.images, val=flags.images // 4)
        flags.data = flags.data.resolve()
        epochs: Epochs = defaultdict(list)
        peers = {"timm": False, "timm_channels_last": True}
        runs = measuring.Runs(
            {
                "clf": partial(ours, folder, flags=flags, number=partial(next, count()), epochs=epochs),
                **{k: partial(theirs, folder, flags=flags, channels_last=v, epochs=epochs) for k, v in peers.items()},
            }
        )
        seconds = runs.alternate(rounds=flags.rounds)
    clf = seconds.pop("clf")
    facts: dict[str, Any] = {"cpu_seconds": runs.cpu_seconds, "workers": flags.workers}
    facts["epoch_seconds"] = {name: round(statistics.median(values), 1) for name, values in epochs.items()}
    measuring.record(flags.record, measure, clf, unit="s", peers=seconds, threads=flags.threads, **facts)


if __name__ == "__main__":
    main()

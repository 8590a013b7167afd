"""What a training step costs beside its arithmetic: ``python benchmarks/step.py``.

Fresh processes in turn train timm's test_resnet on the same 8-bit batches, which are in memory, with AdamW, smoothed
cross-entropy and clipped gradients: a raw loop; plain Lightning (torchmetrics' accuracy of step and epoch and the loss
logged, Lightning's progress bar and CSV logger, no checkpoints); and ``clf fit`` with all callbacks that are on by
default. Each has a terminal (pty), so that bars are drawn. Measured is the mean time from step to step within an epoch,
after ``--warmup`` steps, on the clock and as CPU time of the process. The overhead is what a step takes longer than
in the raw loop.
"""

import argparse
import contextlib
import cProfile
import json
import os
import pstats
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring

measuring.fix_threads(1)

KINDS = ("raw", "lightning", "clf")
CLASSES, BATCHES = 12, 8


class Clock:
    """Notes when steps end, and writes the mean time between them.

    Args:
        flags: Says how many steps count, how many do not, and where the result goes.
    """

    def __init__(self, flags: argparse.Namespace) -> None:
        self._flags = flags
        self._ends: list[tuple[float, float]] = []
        self._profile = cProfile.Profile(time.process_time) if flags.profile else None

    def tick(self) -> None:
        """End a step."""
        self._ends.append((time.perf_counter(), time.process_time()))
        if len(self._ends) == self._flags.warmup and self._profile:
            self._profile.enable()
        if len(self._ends) != self._flags.warmup + self._flags.steps:
            return
        spans = [last - first for first, last in zip(self._ends[self._flags.warmup - 1], self._ends[-1], strict=True)]
        if self._profile:
            self._profile.disable()
            with Path(self._flags.out).with_suffix(".txt").open("w", encoding="utf-8") as file:
                stats = pstats.Stats(self._profile, stream=file)
                for order in ("cumulative", "tottime"):
                    stats.sort_stats(order).print_stats(70)
                stats.sort_stats("cumulative").print_stats(r"/clf/|/connectors/logger_connector/|/call\.py", 60)
        Path(self._flags.out).write_text(
            json.dumps([1000 * span / self._flags.steps for span in spans]), encoding="utf-8"
        )


class Batches:
    """The same few batches again and again: ``images`` uint8 (N, 3, H, W), channels last, and ``labels`` (N,)."""

    def __init__(self, flags: argparse.Namespace) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        shape = (flags.batch_size, flags.size, flags.size, 3)
        images = [torch.randint(256, shape, dtype=torch.uint8, generator=generator) for _ in range(BATCHES)]
        self._batches = [
            {"images": each.permute(0, 3, 1, 2), "labels": torch.randint(CLASSES, shape[:1], generator=generator)}
            for each in images
        ]
        self._length = flags.warmup + flags.steps

    def __len__(self) -> int:
        return int(self._length)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self._length):
            yield dict(self._batches[number % BATCHES])


def floats(images: Any) -> Any:
    """Normalise as one writes it down."""
    import torch

    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return images.float().div_(255).sub_(mean).div_(std)


def network() -> Any:
    """The network of all three."""
    import timm
    import torch

    return timm.create_model("test_resnet", num_classes=CLASSES).to(memory_format=torch.channels_last)


def raw(flags: argparse.Namespace) -> None:
    """Train by hand."""
    import torch
    from torch.nn import functional

    model, clock = network().train(), Clock(flags)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-4)
    for batch in Batches(flags):
        logits = model(floats(batch["images"]))
        loss = functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clock.tick()


def lightning(flags: argparse.Namespace) -> None:
    """Train with Lightning alone."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger
    from torch.nn import functional
    from torchmetrics.classification import MulticlassAccuracy

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.accuracy = MulticlassAccuracy(CLASSES, average="micro")

        def training_step(self, batch: dict[str, Any], _: int) -> Any:
            logits = self.network(floats(batch["images"]))
            loss = functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
            self.accuracy(logits, batch["labels"])
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/acc", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.network.parameters(), lr=5e-4, weight_decay=1e-4)

    class Ticking(Callback):
        def __init__(self) -> None:
            self._clock = Clock(flags)

        def on_train_batch_end(self, *_: Any) -> None:
            self._clock.tick()

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        logger=CSVLogger("logs"),
        callbacks=[Ticking()],
    )
    trainer.fit(Module(), Batches(flags))


def clf(flags: argparse.Namespace) -> None:
    """Train with clf: only where its batches come from is changed, and somebody looks at the clock."""
    from clf.callbacks.timing import Timing
    from clf.data.datamodule import ImageData
    from clf.main import main

    clock, at_end = Clock(flags), Timing.on_train_batch_end

    def tick(self: Timing, *args: Any) -> None:
        at_end(self, *args)
        clock.tick()

    ImageData.train_dataloader = lambda self: Batches(flags)  # type: ignore[assignment,method-assign,return-value]
    Timing.on_train_batch_end = tick  # type: ignore[assignment,method-assign]
    words = ["fit", "--config", "resnet18.yaml", "--data.root", flags.data, "--trainer", "trainer/cpu.yaml"]
    words += ["--trainer.max_epochs", "1", "--model.arch", "test_resnet", "--model.pretrained", "false"]
    words += ["--model.image_size", str(flags.size), "--data.batch_size", str(flags.batch_size)]
    sys.exit(main(words))


def measure(kind: str, folder: Path, *, flags: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds of a step of one kind, on the clock and of CPU, in a process and a terminal of its own."""
    out = folder / f"{kind}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--kind", kind, "--out", str(out), "--data", str(folder / "data")]
    command += [word for name in ("steps", "warmup", "size", "batch_size") for word in number(name, flags)]
    command += ["--profile"] if flags.profile else []
    said = in_terminal(command, cwd=folder)
    if not out.exists():
        raise SystemExit(f"{kind} did not come to its last step:\n{said[-3000:]}")
    if flags.profile:
        print(out.with_suffix(".txt").read_text("utf-8"))
    clock, cpu = json.loads(out.read_text("utf-8"))
    return float(clock), float(cpu)


def number(name: str, flags: argparse.Namespace) -> tuple[str, str]:
    return f"--{name}", str(getattr(flags, name))


def in_terminal(command: list[str], *, cwd: Path) -> str:
    """Run a command that sees a terminal, and return what it drew."""
    ours, theirs = pty.openpty()
    said: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # what reading says when the other end is closed
            while chunk := os.read(ours, 65536):
                said.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    subprocess.run(command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    reader.join()
    os.close(ours)
    return b"".join(said).decode("utf-8", "replace")


def main() -> None:
    """Compare, or be one of those that are compared."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--warmup", type=int, default=100, help="steps before them")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side (default: 32)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="print where the time goes; counts for nothing else")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    flags = measuring.parse(parser)
    if flags.kind:
        {"raw": raw, "lightning": lightning, "clf": clf}[flags.kind](flags)
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        few = ("--train_per_class", "2", "--val_per_class", "2", "--test_per_class", "1")
        measuring.run(measuring.clf("synth", "--output", folder / "data", *few))
        if flags.profile:
            measure("clf", folder, flags=flags)
            return
        found = turns(folder, flags=flags)
    for at, measure_name in enumerate(("step_overhead", "step_overhead_cpu")):
        steps = {kind: [both[at] for both in values] for kind, values in found.items()}
        over = {
            kind: measuring.Series([step - plain for step, plain in zip(steps[kind], steps["raw"], strict=True)])
            for kind in ("clf", "lightning")
        }
        medians = {kind: round(measuring.Series(values).median, 3) for kind, values in steps.items()}
        peers = {"lightning": over["lightning"]}
        measuring.record(flags.record, measure_name, over["clf"], unit="ms", peers=peers, threads=1, step_ms=medians)


def turns(folder: Path, *, flags: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Measure all kinds in turn."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for turn in range(flags.rounds):
        for kind in KINDS[turn % len(KINDS) :] + KINDS[: turn % len(KINDS)]:
            found[kind].append(measure(kind, folder, flags=flags))
        each = ", ".join(f"{kind} {values[-1][0]:.3f} ({values[-1][1]:.3f} of CPU)" for kind, values in found.items())
        print(f"  round {turn + 1} of {flags.rounds}: {each} ms")
    return found


if __name__ == "__main__":
    main()

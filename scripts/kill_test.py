"""Kill real trainings at random moments, resume them, and compare what they leave with an uninterrupted run.

    python scripts/kill_test.py --points 30
    python scripts/kill_test.py --points 30 --processes 2

Each point starts `clf fit`, kills it by SIGKILL or SIGTERM, kills every second one once more after it was resumed, and
lets it end. Then weights, moving average, optimizer and everything else in last.ckpt and best.ckpt, metrics.csv, the
predictions and metrics.json have to be those of the run that nobody touched. Of two processes the first, the second or
both are killed, and whatever is left of them has to end by itself. What is drawn depends on the seed alone; how far a
run has come by then, on the machine. Needs Linux.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CONFIG = """
model:
  arch: test_resnet
  pretrained: false
  image_size: 32
  drop_rate: 0.2
  mixing: {class_path: clf.mixing.Mixing}
  lr_scheduler: {class_path: clf.optim.OneCycle}
  warmup_epochs: 0
data: {root: images, batch_size: 4, sampler: balanced, augment: standard}
trainer: {accelerator: cpu, max_epochs: 8, accumulate_grad_batches: 2, val_check_interval: 0.5, log_every_n_steps: 3}
callbacks:
  ema: {decay: 0.9}
  checkpoint: {monitor: val/loss, mode: min, every_n_train_steps: 3}
  early_stopping: {patience: 12}
  calibration: null
  confusion_matrix: null
  history: null
  mistakes: null
  model_info: null
  report: null
  sampler_distribution: null
  samples: null
  statistics: null
"""
IMAGES = {"train/cat": 24, "train/dog": 17, "train/emu": 7, "valid/cat": 5, "valid/dog": 4, "valid/emu": 2}
SECONDS_TO_END = 120.0  # until a process that was asked to end, or one of whose fellows died, is taken for hanging
SECONDS_LEFT_OVER = 15.0  # until what is left of a run counts as not ending by itself
MARK = "CLF_KILL_TEST"  # in the environment of all processes of a start
SAME = "same"


@dataclass
class Cut:
    """What was done to a run, and how it took it.

    Args:
        signum: The signal.
        target: Who got it: ``first``, ``second`` or ``all`` of the processes.
        late: Whether the clock starts with the training, not with the process.
        share: When, as a share of the time that the uninterrupted run took from there.
    """

    signum: signal.Signals
    target: str
    late: bool
    share: float
    code: int | None = None
    step: int = 0
    left_over: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether all processes ended by themselves."""
        return self.code is not None and self.left_over < SECONDS_LEFT_OVER

    def __str__(self) -> str:
        what = f"{self.signum.name} {self.target}" + (" in training" if self.late else " since start")
        code = "hung" if self.code is None else self.code
        return f"{what:<32} code {code:>4}, {self.left_over:4.1f} s left over, saved step {self.step:>2}"


@dataclass
class Runner:
    """Starts `clf fit` in a folder.

    Args:
        folder: The working folder.
        processes: How many train together.
        prefix: Words before the command, e.g. ``chrt -i 0``.
        seconds: How long an uninterrupted run takes until training starts, and from there to its end.
    """

    folder: Path
    processes: int
    prefix: list[str]
    seconds: tuple[float, float] = (0.0, 0.0)
    mark: str = field(default_factory=lambda: f"{os.getpid()}-{random.random()}")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a fit that goes on from where it is told to."""
        several = ["--trainer.devices", str(self.processes), "--trainer.strategy", "ddp"] if self.processes > 1 else []
        command = [*self.prefix, sys.executable, "-m", "clf", "fit", *words, *several]
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", MARK: self.mark},
            )

    def living(self) -> dict[int, tuple[int, bytes]]:
        """Find the processes of this folder that live: their parents and environments by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    environment, stat = (entry / "environ").read_bytes(), (entry / "stat").read_text()
                except OSError:
                    continue
                state, parent = stat.rpartition(")")[2].split()[:2]
                if f"{MARK}={self.mark}\0".encode() in environment and state != "Z":
                    found[int(entry.name)] = int(parent), environment
        return found

    def second(self, first: int) -> int | None:
        """Find the process that the first one started to train beside it."""
        for process, (parent, environment) in self.living().items():
            if parent == first and b"\0LOCAL_RANK=1\0" in b"\0" + environment:
                return process
        return None

    def newest(self) -> Path | None:
        """Find the newest run directory in which training has begun."""
        return max((config.parent for config in self.folder.glob("runs/tiny/*/config.yaml")), default=None)

    def beginnings(self) -> int:
        """Say when training began for the last time; it writes its configuration then."""
        return max((config.stat().st_mtime_ns for config in self.folder.glob("runs/tiny/*/config.yaml")), default=0)


def main() -> None:
    """Run all points and say how many ended as the uninterrupted run did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=30, help="how many runs are killed")
    parser.add_argument("--first", type=int, default=1, help="number of the first one, e.g. to repeat a single one")
    parser.add_argument("--seed", type=int, default=0, help="decides when and how")
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2), help="how many train together")
    parser.add_argument("--prefix", default="", help="words before each command, e.g. 'nice -n 19'")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-test-") as root:
        same, hung = run_all(Path(root), given)
    print(f"{same} of {given.points} ended as the uninterrupted run did ({given.processes} process(es), CPU)")
    print(f"{hung} times a process was left that did not end within {SECONDS_LEFT_OVER:.0f} seconds")
    sys.exit(same < given.points or hung > 0)


def run_all(root: Path, given: argparse.Namespace) -> tuple[int, int]:
    """Run the uninterrupted training and all points; returns how many are the same, and how often something hung."""
    whole = Runner(prepare(root / "whole"), given.processes, given.prefix.split())
    whole.seconds = time_whole(whole)
    run = whole.newest()
    assert run is not None
    expected = contents(run)
    print("uninterrupted: {:.1f} s until training starts, {:.1f} s from there".format(*whole.seconds))
    good = hung = 0
    for number in range(given.first - 1, given.first - 1 + given.points):
        draw = random.Random(f"{given.seed}-{number}")
        runner = Runner(prepare(root / f"{number:03d}"), given.processes, given.prefix.split(), whole.seconds)
        cuts, verdict = run_point(runner, draw, expected)
        good += verdict == SAME
        hung += sum(not cut.ended for cut in cuts)
        print(f"{number + 1:>3}  {'; again '.join(map(str, cuts))}: {verdict}", flush=True)
        if verdict == SAME:
            shutil.rmtree(runner.folder)
        else:
            print((runner.folder / "output.txt").read_text(errors="replace")[-3000:])
    return good, hung


def prepare(folder: Path) -> Path:
    """Make a working folder with images of noise and a configuration."""
    for number, (name, count) in enumerate(IMAGES.items()):
        (folder / "images" / name).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (count, 20, 24, 3), np.uint8)
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(folder / "images" / name / f"{index}.png")
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def time_whole(runner: Runner) -> tuple[float, float]:
    """Run a training that nobody touches; returns the seconds until training starts, and from there to the end."""
    start = time.monotonic()
    process = runner.start("--config", "tiny.yaml", "--data.num_workers", "1")
    wait_until(lambda: process.poll() is not None or runner.beginnings() > 0, SECONDS_TO_END)
    began = time.monotonic()
    if process.wait() != 0:
        sys.exit((runner.folder / "output.txt").read_text(errors="replace"))
    return began - start, time.monotonic() - began


def run_point(runner: Runner, draw: random.Random, expected: dict[str, Any]) -> tuple[list[Cut], str]:
    """Kill a run once or twice, let it end, and compare; returns what was done, and `SAME` or what is wrong."""
    cuts: list[Cut] = []
    planned = draw.choice((1, 2))
    while len(cuts) < planned:
        before = runner.beginnings()
        process = runner.start(*words(runner, draw))
        cut = draw_cut(draw, runner.processes)
        if not strike(runner, process, cut, before):  # it was done before the blow
            if cuts:
                break
            shutil.rmtree(runner.folder / "runs")
            continue
        cuts.append(cut)
    code = runner.start(*words(runner, draw)).wait()
    run = runner.newest()
    if code != 0 or run is None:
        return cuts, f"the resumed run ended with {code}"
    wrong = differences(expected, contents(run))
    return cuts, "; ".join(wrong[:5]) or SAME


def words(runner: Runner, draw: random.Random) -> list[str]:
    """Say how the run is started, or goes on; in any number of workers."""
    run, short = runner.newest(), draw.choice((True, False))
    workers = ["--data.num_workers", str(draw.choice((0, 1, 2)))]
    if short and run is not None and (run / "checkpoints/last.ckpt").is_file():
        return ["--ckpt_path", "last", *workers]
    return ["--config", "tiny.yaml", "--ckpt_path", "auto", *workers]


def draw_cut(draw: random.Random, processes: int) -> Cut:
    """Choose signal, target and moment; most moments lie in the training."""
    signum = draw.choice((signal.SIGKILL, signal.SIGTERM))
    target = draw.choice(("first", "second", "all") if processes > 1 else ("first",))
    return Cut(signum, target, late=draw.random() < 0.8, share=draw.random())


def strike(runner: Runner, process: subprocess.Popen[bytes], cut: Cut, before: int) -> bool:
    """Kill a run at its moment and wait until nothing of it lives; false if it was done by then."""
    if cut.late:
        wait_until(lambda: process.poll() is not None or runner.beginnings() != before, SECONDS_TO_END)
    time.sleep(cut.share * runner.seconds[cut.late])
    if process.poll() is not None:
        return False
    second = runner.second(process.pid)
    if cut.target == "all":
        os.killpg(process.pid, cut.signum)
    else:
        cut.target = "first" if second is None else cut.target  # too early: there is no second one yet
        os.kill(second if second is not None and cut.target == "second" else process.pid, cut.signum)
    struck = time.monotonic()
    wait_until(lambda: process.poll() is not None, SECONDS_TO_END)
    cut.code = process.returncode
    ended = time.monotonic() if cut.code is not None else struck
    wait_until(lambda: not runner.living(), SECONDS_LEFT_OVER)
    cut.left_over = time.monotonic() - ended
    for left in runner.living():
        os.kill(left, signal.SIGKILL)
    process.wait()
    run = runner.newest()
    cut.step = saved_step(run) if run else 0
    return True


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait until something holds, or the time is over."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)


def saved_step(run: Path) -> int:
    """Say at which optimizer step a run's last checkpoint was written; 0 if there is none."""
    path = run / "checkpoints" / "last.ckpt"
    return int(torch.load(path, weights_only=True, mmap=True)["global_step"]) if path.is_file() else 0


def contents(run: Path) -> dict[str, Any]:
    """Read everything that equal runs have in common: all but paths and what the clock says."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics["finished"].pop("minutes")
    found: dict[str, Any] = {"metrics.json": metrics}
    found |= {name: (run / name).read_bytes() for name in ("metrics.csv", "predictions/val.csv")}
    for name in ("last.ckpt", "best.ckpt"):
        state = torch.load(run / "checkpoints" / name, weights_only=True)
        # How many validation batches there were in all, Lightning estimates when a run goes on, and never looks at.
        state["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"].pop("total")
        found[name] = dict(without_paths(state))
    return found | {"kept": sorted(path.name for path in (run / "checkpoints").iterdir())}


def without_paths(mapping: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Leave of every path what comes after the run directory: the same run in another one is no other run."""

    def short(value: Any) -> Any:
        return re.sub(r"^.*/checkpoints\b", "", value) if isinstance(value, str) else value

    for key, value in mapping.items():
        yield short(key), dict(without_paths(value)) if isinstance(value, dict) else short(value)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Name the places in which two nested values are not bit for bit the same."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for place, pair in pairs for line in differences(*pair, f"{where}/{place}")]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one, other))
    else:
        same = bool(one == other)
    return [] if same else [f"{where.strip('/') or 'everything'} differs"]


if __name__ == "__main__":
    main()

"""What looking costs: a validation with all callbacks on against one without; ``python benchmarks/callbacks.py``.

Alternates two runs of ``clf fit`` on the same rendered images, each in a fresh process and a folder of its own, and
compares the medians of ``time/val_s`` (timing.csv) over all their epochs: from the start of a validation to the moment
when every callback is done with it. The first epoch of each run warms up and does not count. Also compared is the wall
clock of whole runs, start-up and the drawing process included.
"""

import csv
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import measuring

from clf.config import CALLBACKS
from clf.cores import usable_cores

KEPT = ("timing",)  # what measures
KINDS = ("with", "without")


def measure(kind: str, folder: Path, *, words: list[str]) -> tuple[list[float], float]:
    """Run once: seconds of each validation but the first, and of the whole command."""
    off = [word for name in CALLBACKS if name not in KEPT for word in (f"--callbacks.{name}", "null")]
    command = [sys.executable, "-m", "clf", "fit", "--config", "demo.yaml", "--data.root", str(folder / "data"), *words]
    work = Path(folder, kind)
    work.mkdir(exist_ok=True)
    start = time.perf_counter()
    subprocess.run(command + (off if kind == "without" else []), cwd=work, check=True, capture_output=True)
    wall = time.perf_counter() - start
    newest = max(work.glob("runs/demo/*/timing.csv"))
    with newest.open(encoding="utf-8", newline="") as file:
        return [float(row["time/val_s"]) for row in csv.DictReader(file)][1:], wall


def main() -> None:
    """Print medians and ratios."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=1200, help="validation images")
    flags, words = parser.parse_known_args()
    words = ["--trainer.max_epochs", str(flags.epochs), *words]
    validations: dict[str, list[float]] = {kind: [] for kind in KINDS}
    walls: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with TemporaryDirectory() as folder:
        synth = [sys.executable, "-m", "clf", "synth", "--output", f"{folder}/data"]
        synth += ["--train_per_class", "50", "--val_per_class", str(flags.images // 12), "--test_per_class", "1"]
        subprocess.run(synth, check=True, capture_output=True)
        for _ in range(flags.rounds):
            for kind in KINDS:
                seconds, wall = measure(kind, Path(folder), words=words)
                validations[kind] += seconds
                walls[kind].append(wall)
    for name, found in (("callbacks_validation", validations), ("callbacks_run", walls)):
        ours, peers = measuring.Series(found["with"]), {"without": measuring.Series(found["without"])}
        facts = {"epochs": flags.epochs, "validation_images": flags.images}
        measuring.record(flags.record, name, ours, unit="s", peers=peers, threads=usable_cores(), **facts)


if __name__ == "__main__":
    main()

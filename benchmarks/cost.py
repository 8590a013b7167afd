"""What ``clf check`` predicts against what ``clf fit`` takes: time and memory of the same command line, side by side.

``clf check --only cost`` and ``clf fit`` take turns; what is compared is the sum of the epochs in timing.csv, without
the start of the command and its report. The memory is that of the processes of another fit, of one epoch, looked at
twice a second, which slows it down. Words behind ``--`` go to all; without any, rendered digits train ResNet-18 for
three epochs:

    python benchmarks/cost.py
    python benchmarks/cost.py --rounds 1 -- --config resnet18.yaml --data.root FOLDER --trainer.max_epochs 2
"""

import contextlib
import csv
import json
import re
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring

from clf.cores import usable_cores

THREADS = usable_cores()
measuring.fix_threads(THREADS)

import first_step

DEFAULT = ["--config", "demo.yaml", "--trainer.max_epochs", "3", "--callbacks.early_stopping", "null"]


def predicted(words: list[str], *, work: Path) -> dict[str, Any]:
    """Let ``clf check`` measure a few steps."""
    ran = measuring.run(measuring.clf("check", "--only", "cost", "--json", *words), cwd=work)
    found: dict[str, Any] = json.loads(ran.output)["cost"]
    return found


def taken(words: list[str], *, work: Path) -> float:
    """Train; returns seconds of all epochs."""
    measuring.run(measuring.clf("fit", *words, "--name", "cost"), cwd=work)
    newest = max((work / "runs" / "cost").glob("*/timing.csv"))
    with newest.open(encoding="utf-8", newline="") as file:
        return sum(float(row["time/epoch_s"]) for row in csv.DictReader(file))


def most_memory(words: list[str], *, work: Path) -> int:
    """Train for an epoch; returns the most bytes that its processes took."""
    command = measuring.clf("fit", *words, "--trainer.max_epochs", "1")
    with subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as fit:
        most = 0
        while fit.poll() is None:
            time.sleep(0.5)
            with contextlib.suppress(OSError):  # it has ended
                most = max(most, sum(map(memory_of, first_step.family(fit.pid))))
    if fit.returncode:
        raise SystemExit(f"clf fit failed with {fit.returncode}")
    return most


def memory_of(pid: int) -> int:
    """Bytes of a process, of what it shares its part; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except OSError:
        return 0
    return 1024 * sum(map(int, re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)))


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("words", nargs="*", help="a command line of clf fit, behind --")
    flags = measuring.parse(parser)
    # Both work in a folder of their own.
    words = [str(Path(word).absolute()) if Path(word).exists() else word for word in flags.words or DEFAULT]
    ratios: dict[str, list[float]] = {"time": [], "memory": []}
    with TemporaryDirectory() as folder:
        for turn in range(flags.rounds):
            cost = predicted(words, work=Path(folder))
            seconds = taken(words, work=Path(folder))
            most = most_memory(words, work=Path(folder))
            run, memory = cost["run_seconds"], cost["measured"]["memory_bytes"]
            ratios["time"].append(run["mean"] / seconds)
            ratios["memory"].append(memory / most)
            print(
                f"round {turn + 1}: predicted {run['low']:.1f} to {run['high']:.1f} s, on average {run['mean']:.1f} s, "
                f"from {cost['measured']['batches']} batches and {cost['measured']['val_batches']} of validation; "
                f"the epochs took {seconds:.1f} s; memory: predicted {memory / 1e9:.2f} GB, at most {most / 1e9:.2f} GB"
            )
    for name, values in ratios.items():
        measuring.record(
            flags.record, f"cost_{name}", measuring.Series(values), unit="predicted / taken", threads=THREADS
        )


if __name__ == "__main__":
    main()

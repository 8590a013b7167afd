"""How much CPU time the command line takes to start, against what importing its libraries takes.

Runs the commands in turn, each in a fresh process, and compares medians of user plus system time of all their
processes. ``startup_first_step``: from the command ``clf fit --config configs/demo.yaml`` to the end of its first step,
on images that are rendered already, against ``import torch, lightning.pytorch, timm``. The process ends itself there
(benchmarks/first_step.py); loader workers and whatever else it has started count, too.
"""

import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import measuring

CONFIG = ("fit", "--config", "demo.yaml")
OUT = "CLF_BENCHMARK_OUT"  # as in first_step.py, which is not imported here: it imports torch
IMPORTS = "import torch, lightning.pytorch, timm"
ENDS_AFTER_A_STEP = ("--trainer.callbacks", '[{"class_path": "first_step.FirstStep"}]')
"""Words of a command; they need the `surroundings`."""


def surroundings(out: Path) -> dict[str, str]:
    """Name the environment in which a fit finds the callback, and the file for its CPU seconds."""
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {OUT: str(out), "PYTHONPATH": places}


def to_first_step(folder: Path) -> float:
    """CPU seconds until the first step of the demo is done."""
    out = folder / "cpu_seconds"
    out.unlink(missing_ok=True)
    command = measuring.clf(*CONFIG, "--data.root", folder / "data", *ENDS_AFTER_A_STEP)
    environment = {**os.environ, **surroundings(out)}
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True, stdout=said, stderr=said
        )
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it has left behind
    if not out.exists():
        raise SystemExit(f"the demo came to no first step:\n{(folder / 'said').read_text()}")
    return float(out.read_text())


def cpu_seconds(command: list[str]) -> float:
    """Run a command and count its CPU time."""
    return measuring.run(command).cpu


def main() -> None:
    """Measure all commands, and record the ratios that count."""
    parser = measuring.arguments(__doc__)
    flags = measuring.parse(parser)
    measuring.fix_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        measuring.run(measuring.clf("synth", "--output", folder / "data"))
        imports = [sys.executable, "-c", IMPORTS]
        found = measuring.alternate(
            {
                "imports": partial(cpu_seconds, imports),
                "first_step": partial(to_first_step, folder),
                "print_config": partial(cpu_seconds, measuring.clf(*CONFIG, "--print_config")),
                "help": partial(cpu_seconds, measuring.clf("--help")),
            },
            rounds=flags.rounds,
        )
    peers = {"imports": found["imports"]}
    for each in ("first_step", "print_config", "help"):
        measuring.record(flags.record, f"startup_{each}", found[each], unit="CPU s", peers=peers, threads=1)


if __name__ == "__main__":
    main()

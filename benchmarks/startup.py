"""How much CPU time the command line takes to start, against what importing its libraries takes.

Runs the commands in turn, several times, each in a fresh process, and compares medians of user plus system time.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path

CLF = (sys.executable, "-m", "clf")
COMMANDS = {
    "clf --help": (*CLF, "--help"),
    "clf fit --config configs/demo.yaml --print_config": (*CLF, "fit", "--config", "demo.yaml", "--print_config"),
    "import torch, lightning.pytorch.cli": (sys.executable, "-c", "import torch, lightning.pytorch.cli"),
}


def cpu_seconds(command: tuple[str, ...]) -> float:
    """Run a command and count its CPU time in seconds, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print one line per command, and the ratio that counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each command runs")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, command in COMMANDS.items():
            seconds[name].append(cpu_seconds(command))
    # The first round fills the disk cache.
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"CPU seconds, median of n = {rounds}, Python {platform.python_version()} on {platform.machine()}")
    for name, median in medians.items():
        print(f"  {median:6.2f}  {name}")
    print_config, imports = list(medians.values())[1:]
    print(f"  {print_config / imports:6.2f}  ratio of --print_config to the imports")


if __name__ == "__main__":
    main()

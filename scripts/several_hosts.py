"""Train on two hosts that are network namespaces of this machine, and say what came of it, scenario by scenario.

usage: sudo .venv/bin/python scripts/several_hosts.py [SCENARIO …]

Needs root, `ip` and two cores. Each host has one network card and, where a scenario says so, a disk of its own.
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
ADDRESS = "10.77.0.1"
IMAGES = {"train/cat": 10, "train/dog": 3, "valid/cat": 4, "valid/dog": 3}
CONFIG = """
model: {network: own.Plain, image_size: 16, warmup_epochs: 0}
data: {root: images, augment: light, batch_size: 4, num_workers: 0}
trainer: {accelerator: cpu, max_epochs: 2, num_sanity_val_steps: 0, log_every_n_steps: 1}
callbacks: {report: null, statistics: null, model_info: null, mistakes: null, fate: {class_path: own.Fate}}
"""
OWN = """
import os, signal, subprocess, sys, time
from lightning.pytorch import Callback
from torch import nn

class Plain(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, num_classes))

class Fate(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        how, _, rank = os.environ.get("FATE", "").partition(":")
        if how and trainer.global_rank == int(rank) and trainer.global_step == 2:
            with open("died", "w") as file:
                file.write(str(time.time()))
            if how == "raise" or (how == "once" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"):
                raise ValueError("a bug")
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "cut":
                subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
"""


@dataclass(frozen=True)
class Ended:
    """How one host's command ended: exit code, what it printed, and when."""

    code: int
    said: str
    when: float

    @property
    def lines(self) -> list[str]:
        """What clf said of errors."""
        return [line for line in self.said.splitlines() if line.startswith("clf: ")]


@contextmanager
def two_hosts() -> Iterator[None]:
    """Make two namespaces with a cable between them, and remove them."""
    try:
        for host in ("clf-a", "clf-b"):
            _ip("netns", "add", host)
        _ip("link", "add", "eth0", "netns", "clf-a", "type", "veth", "peer", "name", "eth0", "netns", "clf-b")
        for number, host in enumerate(("clf-a", "clf-b"), start=1):
            _ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for card in ("lo", "eth0"):
                _ip("-n", host, "link", "set", card, "up")
        yield
    finally:
        for host in ("clf-a", "clf-b"):
            subprocess.run(["ip", "netns", "delete", host], check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def disk(folder: Path) -> Path:
    """Fill a host's disk with images, the configuration and its network."""
    for name, count in IMAGES.items():
        for number in range(count):
            file = folder / "images" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(len(name) * 100 + number).integers(0, 256, (10, 12, 3), np.uint8)
            Image.fromarray(pixels).save(file)
    (folder / "plain.yaml").write_text(CONFIG)
    (folder / "own.py").write_text(OWN)
    return folder


Start = Callable[[int, list[str]], tuple[list[str], dict[str, str]]]
"""Node, words of clf -> the command on that host, and its environment."""


def torchrun(node: int, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Start one process on each host by torchrun."""
    nodes = ["--nnodes", "2", "--node_rank", str(node), "--nproc_per_node", "1", "--rdzv_backend", "static"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *nodes,
        "--master_addr",
        ADDRESS,
        "--master_port",
        "29500",
    ]
    return [*command, "-m", "clf", *words], {}


def torchrun_again(node: int, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Start one process on each host by torchrun, and again if one dies."""
    command, facts = torchrun(node, words)
    at = command.index("--nnodes")
    return [*command[:at], "--max_restarts", "1", *command[at:]], facts


def srun(node: int, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Start one process on each host in the environment that srun makes."""
    names = {"NTASKS": 2, "NTASKS_PER_NODE": 1, "NNODES": 2, "PROCID": node, "LOCALID": 0, "NODEID": node}
    facts = {f"SLURM_{name}": str(value) for name, value in names.items()}
    job = {"SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1234", "SLURM_NODELIST": f"{ADDRESS},10.77.0.2"}
    return [sys.executable, "-m", "clf", *words], {**facts, **job}


def by_hand(node: int, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Start clf on each host, and let it make two processes there."""
    command = [sys.executable, "-m", "clf", *words, "--trainer.num_nodes", "2", "--trainer.devices", "2"]
    return command, {"NODE_RANK": str(node), "MASTER_ADDR": ADDRESS, "MASTER_PORT": "29501"}


def both(folders: tuple[Path, Path], start: Start, *words: str, fate: str = "", verb: str = "fit") -> list[Ended]:
    """Run a command on both hosts to its end; the folders are their disks."""
    running = []
    for node, (host, folder) in enumerate(zip(("clf-a", "clf-b"), folders, strict=True)):
        command, facts = start(node, [verb, "--config", "plain.yaml", *words])
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1",
            "FATE": fate,
        }
        said = (folder / f"said-{node}.txt").open("w+")
        namespace = ["ip", "netns", "exec", host]
        process = subprocess.Popen([*namespace, *command], cwd=folder, env={**env, **facts}, stdout=said, stderr=said)
        running.append((process, said))
    ended: dict[int, Ended] = {}
    while len(ended) < 2:
        for node, (process, said) in enumerate(running):
            if node not in ended and process.poll() is not None:
                said.seek(0)
                ended[node] = Ended(process.returncode, said.read(), time.time())
                said.close()
        time.sleep(0.1)
    return [ended[0], ended[1]]


def rows(file: Path) -> list[dict[str, str]]:
    """Read a table."""
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def runs(folder: Path) -> list[str]:
    """List a host's run directories."""
    return sorted(str(path.parent.relative_to(folder)) for path in folder.glob("runs/*/*/config.yaml"))


def expect(holds: bool, what: str, ended: list[Ended]) -> None:
    """Stop with everything that was said where something is not as it has to be."""
    if not holds:
        said = "\n".join(
            f"--- host {name}: exit code {one.code}\n{one.said}" for name, one in zip("ab", ended, strict=True)
        )
        sys.exit(f"NOT SO: {what}\n{said}")


def _trained(folder: Path, ended: list[Ended], *, epochs: int = 2, per_step: int = 8) -> None:
    expect([one.code for one in ended] == [0, 0], "both hosts end with 0", ended)
    expect(runs(folder) == ["runs/plain/001"], "there is one run", ended)
    run = folder / "runs/plain/001"
    steps = -(-13 // per_step)
    found = [row["step"] for row in rows(run / "metrics.csv")]
    expect(found == [str(steps * epoch - 1) for epoch in range(1, epochs + 1)], f"the steps are right: {found}", ended)
    expect([row["true"] for row in rows(run / "predictions/val.csv")] == ["cat"] * 4 + ["dog"] * 3, "all scored", ended)
    expect(ended[0].said.count("finished:") == 1 and "finished:" not in ended[1].said, "said once", ended)


def shared_disk(work: Path) -> None:
    """Torchrun on both hosts, one disk: one run, every image scored once, each line said once."""
    folder = disk(work)
    _trained(folder, both((folder, folder), torchrun))


def own_disks(work: Path) -> None:
    """torchrun, a disk for each host: only the first writes; resuming needs the checkpoint everywhere, and says so."""
    a, b = disk(work / "a"), disk(work / "b")
    _trained(a, both((a, b), torchrun))
    expect(not (b / "runs").exists(), "the second host's disk stays as it was", [])
    more = ("--ckpt_path", "last", "--trainer.max_epochs", "3")
    ended = both((a, b), srun, *more)
    expect("has not runs/plain/001/checkpoints/last.ckpt" in " ".join(ended[0].lines), "what is missing is said", ended)
    expect([one.code for one in ended] == [2, 2], "both hosts end with 2", ended)
    shutil.copytree(a / "runs/plain/001", b / "runs/plain/001")
    _trained(a, both((a, b), torchrun, *more), epochs=3)


def slurm(work: Path) -> None:
    """What srun starts, with a disk for each host: the same."""
    a, b = disk(work / "a"), disk(work / "b")
    _trained(a, both((a, b), srun))


def four_processes(work: Path) -> None:
    """A clf on each host makes two processes there: the same run in four processes."""
    a, b = disk(work / "a"), disk(work / "b")
    _trained(a, both((a, b), by_hand, "--data.batch_size", "2"))


def other_data(work: Path) -> None:
    """Another image on the second host: refused."""
    a, b = disk(work / "a"), disk(work / "b")
    (b / "images/train/dog/0.png").rename(b / "images/train/dog/9.png")
    ended = both((a, b), srun)
    expect("not the images and labels of the first process" in " ".join(ended[0].lines), "it is said", ended)
    expect([one.code for one in ended] == [2, 2], "both hosts end with 2", ended)


def _dies(work: Path, fate: str, words: str, *, within: float, speaker: int = 0) -> None:
    a, b = disk(work / "a"), disk(work / "b")
    ended = both((a, b), srun, fate=fate)
    died = float(next(file for file in (a / "died", b / "died") if file.exists()).read_text())
    took = max(one.when for one in ended) - died
    expect(all(one.code for one in ended), "both hosts fail", ended)
    expect(words in " ".join(ended[speaker].lines), f"the reason is said: {words}", ended)
    expect(len(ended[speaker].lines) == 1, "in one line", ended)
    expect(took < within, f"within {within:.0f} s, not {took:.0f}", ended)
    print(f"  {took:.1f} s after the end of one: {ended[speaker].lines[0]}")


def killed(work: Path) -> None:
    """SIGKILL on the second host: the first says so and ends."""
    _dies(work, "kill:1", "rank 1 of 2 on ", within=20)


def failed(work: Path) -> None:
    """An exception on the second host: the first says which, and ends."""
    _dies(work, "raise:1", "ValueError: a bug", within=20)


def first_killed(work: Path) -> None:
    """SIGKILL of the first process: the second host says so and ends."""
    _dies(work, "kill:0", "the first process is gone", within=20, speaker=1)


def restarted(work: Path) -> None:
    """An exception on the second host, and torchrun starts both again: they go on from last.ckpt."""
    folder = disk(work)
    ended = both((folder, folder), torchrun_again, "--ckpt_path", "auto", fate="once:1")
    expect("ValueError: a bug" in " ".join(ended[0].lines), "the reason of the restart is said", ended)
    expect("fit runs/plain/001/checkpoints/last.ckpt" in ended[0].said, "the run goes on", ended)
    _trained(folder, ended)


def cable_cut(work: Path) -> None:
    """The cable is pulled: after some thirty seconds of silence both end."""
    _dies(work, "cut:1", "rank 1 of 2 on ", within=90)


SCENARIOS = (
    *(shared_disk, own_disks, slurm, four_processes, other_data),
    *(killed, failed, first_killed, restarted, cable_cut),
)


def main() -> None:
    """Run the scenarios that are named, or all."""
    asked = sys.argv[1:] or [scenario.__name__ for scenario in SCENARIOS]
    for scenario in SCENARIOS:
        if scenario.__name__ in asked:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as work, two_hosts():
                print(f"{scenario.__name__}: {scenario.__doc__}", flush=True)
                scenario(Path(work))
            print(f"  as expected, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()

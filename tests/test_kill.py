"""Runs that are killed at random moments, one process and two: they end as the run that nobody touched."""

import os
import random
import signal
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from forks import begun, begun_together, ended
from test_cuts import KILLER

ROOT = Path(__file__).parent.parent
FIT = ("fit", "--config", "tiny.yaml", "--ckpt_path", "auto", "--trainer.max_epochs", "4")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load what runs the longer trial by hand."""
    spec = spec_from_file_location("kill_test", ROOT / "scripts/kill_test.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["kill_test"] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


def fit(folder: Path, workers: int) -> int:
    """Start a fit in a process that has imported everything; returns its id."""
    return begun(folder, *FIT, "--data.num_workers", str(workers))


@pytest.fixture(scope="module")
def uninterrupted(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What a run leaves that nobody touched, and the seconds that it took."""
    folder = script.prepare(tmp_path_factory.mktemp("whole") / "work")
    start = time.monotonic()
    assert ended(fit(folder, 0)) == 0, (folder / "output.txt").read_text()
    return script.contents(folder / "runs/tiny/001"), time.monotonic() - start


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_at_random_moments_ends_as_the_uninterrupted_one(
    seed: int, script: ModuleType, uninterrupted: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = uninterrupted
    folder, draw = script.prepare(tmp_path / "work"), random.Random(seed)
    for signum in draw.sample([signal.SIGKILL, signal.SIGTERM], 2):
        process = fit(folder, draw.choice((0, 1)))
        time.sleep(draw.random() * seconds)
        os.kill(process, signum)
        assert ended(process) in (-signum, 128 + signum, 0)
    assert ended(fit(folder, 0)) == 0, (folder / "output.txt").read_text()
    assert script.differences(expected, script.contents(max(folder.glob("runs/tiny/*")))) == []


def test_two_processes_of_which_one_is_killed_go_on_as_if_it_never_had_been(script: ModuleType, tmp_path: Path) -> None:
    words = (*FIT, "--callbacks.killer", "killer.Killer")
    whole, folder = (script.prepare(tmp_path / name) for name in ("whole", "cut"))
    for each in (whole, folder):
        (each / "killer.py").write_text(KILLER)
    assert list(map(ended, begun_together(whole, *words))) == [0, 0], (whole / "output.txt").read_text()
    assert list(map(ended, begun_together(folder, *words, cut="on_train_batch_end:15"))) == [1, -signal.SIGKILL]
    assert "clf: rank 1 of 2 was killed" in (folder / "output.txt").read_text()
    assert list(map(ended, begun_together(folder, *words))) == [0, 0], (folder / "output.txt").read_text()
    found = [script.contents(each / "runs/tiny/001") for each in (whole, folder)]
    assert script.differences(*found) == []

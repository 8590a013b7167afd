"""Runs that are killed at random moments, one process and two: they end as the run that nobody touched."""

import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_cuts import begun

ROOT = Path(__file__).parent.parent


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
    return begun(folder, "fit", "--config", "tiny.yaml", "--ckpt_path", "auto", "--data.num_workers", str(workers))


@pytest.fixture(scope="module")
def uninterrupted(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What a run leaves that nobody touched, and the seconds that it took."""
    folder = script.prepare(tmp_path_factory.mktemp("whole") / "work")
    start = time.monotonic()
    assert os.waitpid(fit(folder, 0), 0)[1] == 0, (folder / "output.txt").read_text()
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
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) in (-signum, 128 + signum, 0)
    assert os.waitpid(fit(folder, 0), 0)[1] == 0, (folder / "output.txt").read_text()
    assert script.differences(expected, script.contents(max(folder.glob("runs/tiny/*")))) == []


def test_two_processes_of_which_one_is_killed_go_on_as_if_it_never_had_been() -> None:
    command = [sys.executable, str(ROOT / "scripts/kill_test.py"), "--processes", "2", "--points", "1", "--seed", "45"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL second in training" in done.stdout
    assert "1 of 1 ended as the uninterrupted run did" in done.stdout

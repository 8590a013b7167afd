"""What is written down about the circumstances of a run is true, wherever it is run."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from clf.cores import usable_cores
from clf.environment import PACKAGES, device_name, environment, git_state


def git(*words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def alone(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that no repository is around."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workdir.parent))
    return workdir


def test_the_command_line_is_written_as_it_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/bin/clf", "fit", "--config", "my config.yaml"])
    assert environment()["command"] == ["clf", "fit", "--config", "my config.yaml"]


def test_everything_is_written_as_plain_values() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] == version("torch")
    assert found["packages"].keys() == set(PACKAGES)
    assert found["python"] == sys.version.split()[0]


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clf.environment.PACKAGES", ("pillow", "no-such-package-anywhere"))
    assert environment()["packages"] == {"pillow": version("pillow"), "no-such-package-anywhere": None}


def test_the_device_and_the_cores_are_those_that_this_process_may_use() -> None:
    machine = environment()["machine"]
    assert machine["cores"] == usable_cores() <= (os.cpu_count() or 1)
    assert machine["device"] == device_name()
    assert machine["device"].startswith(("cuda (", "mps", f"cpu ({usable_cores()} cores)"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_cores_that_were_taken_away_are_not_counted() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code += "; from clf.cores import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_and_whether_it_has_changes_are_named(alone: Path) -> None:
    assert git_state() is None
    git("init")
    assert git_state() is None  # a repository without any commit
    Path("exp.yaml").touch()
    git("add", "exp.yaml")
    git("commit", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert git_state() == {"commit": commit, "dirty": False}
    Path("exp.yaml").write_text("changed")
    assert git_state() == {"commit": commit, "dirty": True}


def test_without_git_there_is_no_state_and_no_error(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(alone))
    assert git_state() is None


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_cores_respect_the_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("clf.cores._CPU_QUOTA", tmp_path / "cpu.max")
    assert usable_cores() == cores or (cores is None and usable_cores() >= 1)

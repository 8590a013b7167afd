"""The scripts that build the training image, in a repository of their own, with stand-ins for what they call."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEFAULTS = "_REGION=us,_REPO_NAME=classifier-training,_IMAGE_NAME=classifier-training"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed copy of what the scripts look at; beside it, programs that write down how they are called."""
    folder = tmp_path / "repository"
    (folder / "scripts").mkdir(parents=True)
    for name in ("cloud-build.sh", "build-docker.sh"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (tmp_path / "bin").mkdir()
    for name in ("gcloud", "docker"):
        program = tmp_path / "bin" / name
        program.write_text(
            f'#!/bin/sh\nfor word in {name} "$@"; do printf "%s\\n" "$word"; done >> "{tmp_path}/called"\n'
        )
        program.chmod(0o755)
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "all")):
        subprocess.run(("git", *words), cwd=folder, check=True)
    return folder


def run(repository: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{repository.parent}/bin:{os.environ['PATH']}"}
    command = [str(repository / "scripts" / script), *words]
    return subprocess.run(
        command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def called(repository: Path) -> list[str]:
    """The words of all calls, one after the other."""
    path = repository.parent / "called"
    return path.read_text().splitlines() if path.exists() else []


def commit(repository: Path) -> str:
    words = ("git", "rev-parse", "--short=7", "HEAD")
    return subprocess.run(words, cwd=repository, check=True, capture_output=True, text=True).stdout.strip()


def test_cloud_build_submits_the_commit_under_its_name(repository: Path) -> None:
    assert run(repository, "cloud-build.sh").returncode == 0
    substitutions = f"--substitutions=SHORT_SHA={commit(repository)},{DEFAULTS}"
    assert called(repository) == ["gcloud", "builds", "submit", "--config=cloudbuild.yaml", substitutions, "."]


def test_cloud_build_s_options_change_where_it_goes(repository: Path) -> None:
    run(repository, "cloud-build.sh", "--region", "eu", "--repo", "r", "--image", "i", "--project", "p")
    words = called(repository)
    assert f"--substitutions=SHORT_SHA={commit(repository)},_REGION=eu,_REPO_NAME=r,_IMAGE_NAME=i" in words
    assert "--project=p" in words


def test_a_dry_run_says_the_command_and_calls_nothing(repository: Path) -> None:
    done = run(repository, "cloud-build.sh", "--dry-run")
    assert done.stdout.startswith("gcloud builds submit --config=cloudbuild.yaml --substitutions=SHORT_SHA=")
    assert called(repository) == []


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_what_is_not_committed_is_not_built_in_the_commit_s_name(repository: Path, words: tuple[str, ...]) -> None:
    (repository / "new.txt").write_text("new")
    done = run(repository, "cloud-build.sh", *words)
    assert done.returncode == 2
    assert "changes that are not committed" in done.stderr
    assert called(repository) == []
    assert run(repository, "cloud-build.sh", "--allow-dirty").returncode == 0
    assert called(repository)[0] == "gcloud"


def test_docker_builds_and_pushes_both_tags(repository: Path) -> None:
    done = run(repository, "build-docker.sh", "--registry", "localhost:5000/x", "--", "--no-cache")
    assert done.returncode == 0, done.stderr
    words, name = called(repository), "localhost:5000/x/classifier-training"
    build, *pushes = "\n".join(words).split("\ndocker\n")
    assert build.startswith("docker\nbuild\n--platform\nlinux/amd64\n")
    assert {f"{name}:{commit(repository)}", f"{name}:latest", "--no-cache", "."} <= set(build.splitlines())
    assert pushes == [f"push\n{name}:{commit(repository)}", f"push\n{name}:latest"]


def test_what_is_not_committed_never_becomes_everybody_s_latest(repository: Path) -> None:
    (repository / "new.txt").write_text("new")
    done = run(repository, "build-docker.sh", "--registry", "localhost:5000/x")
    assert done.returncode == 0, done.stderr
    name = "localhost:5000/x/classifier-training"
    _, *pushes = "\n".join(called(repository)).split("\ndocker\n")
    assert pushes == [f"push\n{name}:{commit(repository)}-dirty"]
    assert f"{name}:latest is left as it was" in done.stderr


def test_local_pushes_nothing_and_a_dirty_tree_is_marked(repository: Path) -> None:
    (repository / "new.txt").write_text("new")
    done = run(
        repository, "build-docker.sh", "--local", "--platform", "linux/arm64", "--torch-index", "https://x/cu126"
    )
    assert done.returncode == 0, done.stderr
    words = called(repository)
    assert {f"classifier-training:{commit(repository)}-dirty", "linux/arm64", "TORCH_INDEX=https://x/cu126"} <= set(
        words
    )
    assert "push" not in words


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("cloud-build.sh", ("--regoin", "eu"), "unknown option --regoin; --help lists them"),
        ("cloud-build.sh", ("--region",), "--region needs a value"),
        ("build-docker.sh", (), "where to? give --registry PREFIX, or --local"),
        ("build-docker.sh", ("--push",), "unknown option --push; --help lists them"),
    ],
)
def test_a_mistake_is_one_line(repository: Path, script: str, words: tuple[str, ...], message: str) -> None:
    done = run(repository, script, *words)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert message in line
    assert called(repository) == []


@pytest.mark.parametrize("script", ["cloud-build.sh", "build-docker.sh"])
def test_help_needs_nothing(repository: Path, script: str) -> None:
    done = run(repository, script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: scripts/{script}")
    assert called(repository) == []

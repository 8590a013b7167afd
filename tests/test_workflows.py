"""What GitHub and Google Cloud are told: valid by their own schemas, and without what attackers look for."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def complaints(program: str, *words: str) -> str:
    """What a checker says when it is not content."""
    done = subprocess.run([str(BIN / program), *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", [str(path) for path in WORKFLOWS]),
        ("vendor.dependabot", [".github/dependabot.yml"]),
        ("vendor.github-issue-forms", [".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml"]),
        ("vendor.cloudbuild", ["cloudbuild.yaml"]),
    ],
)
def test_files_are_what_their_readers_expect(schema: str, files: list[str]) -> None:
    assert complaints("check-jsonschema", "--builtin-schema", schema, *files) == ""


def test_workflows_give_attackers_nothing() -> None:
    assert complaints("zizmor", "--offline", ".github") == ""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_nothing_that_its_jobs_do_not_ask_for(path: Path) -> None:
    workflow = read(str(path))
    assert workflow["permissions"] == {}
    assert all("permissions" in job for job in workflow["jobs"].values())
    assert all("timeout-minutes" in job or "uses" in job for job in workflow["jobs"].values())


def test_nothing_is_released_before_it_is_checked() -> None:
    jobs = read(".github/workflows/release.yml")["jobs"]
    assert set(jobs["version"]["needs"]) == {"lint", "test"}
    called = {name: jobs[name]["uses"] for name in jobs["version"]["needs"]}
    assert called == {name: f"./.github/workflows/{name}.yml" for name in called}
    assert jobs["publish"]["needs"] == "version"


def test_what_continuous_integration_demands_is_demanded_everywhere() -> None:
    for script in ("check_skips.py report.xml", "check_demo.py runs/latest/metrics.json"):
        assert f".venv/bin/python scripts/{script}" in (ROOT / ".github/workflows/test.yml").read_text("utf-8")
        assert f".venv/bin/python scripts/{script.split()[0]} " in (ROOT / ".ci/run").read_text("utf-8")


@pytest.mark.parametrize(("skip", "code"), [("no CUDA device", 0), ("no browser", 1), (None, 0)])
def test_a_test_that_could_have_run_must_run(tmp_path: Path, skip: str | None, code: int) -> None:
    case = f'<skipped type="pytest.skip" message="{skip}">why</skipped>' if skip else ""
    (tmp_path / "report.xml").write_text(f'<testsuite><testcase classname="a" name="b">{case}</testcase></testsuite>')
    command = [sys.executable, str(ROOT / "scripts/check_skips.py"), str(tmp_path / "report.xml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


@pytest.mark.parametrize(("top1", "code"), [(0.95, 0), (0.9499, 1)])
def test_the_demo_must_learn(tmp_path: Path, top1: float, code: int) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"val": {"acc_top1": top1}}))
    command = [sys.executable, str(ROOT / "scripts/check_demo.py"), str(tmp_path / "metrics.json")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_cloud_build_pulls_the_last_image_and_builds_from_its_layers(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/called"\n[ "$1" != pull ]\n')  # there is no last image yet
    docker.chmod(0o755)
    build = read("cloudbuild.yaml")
    values = build["substitutions"] | {"PROJECT_ID": "mine", "SHORT_SHA": "abc1234"}
    for step in build["steps"]:
        script = step["args"][-1]
        for name, value in values.items():
            script = script.replace(f"${{{name}}}", value)
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-ec", script.replace("$$", "$")], cwd=ROOT, env=environment, check=True)
    pull, made = (tmp_path / "called").read_text().splitlines()
    image = "us-docker.pkg.dev/mine/classifier-training/classifier-training"
    assert pull == f"pull {image}:latest"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for words in (f"--cache-from {image}:latest", f"--tag {image}:abc1234", f"--tag {image}:latest"):
        assert f" {words} " in made
    assert f"VERSION={version} " in made
    assert "REVISION=abc1234 " in made


def test_cloud_build_tags_the_commit_and_latest_within_half_an_hour() -> None:
    build = read("cloudbuild.yaml")
    image = "${_REGION}-docker.pkg.dev/${PROJECT_ID}/${_REPO_NAME}/${_IMAGE_NAME}"
    assert build["images"] == [f"{image}:${{SHORT_SHA}}", f"{image}:latest"]
    assert build["substitutions"] == {
        "_REGION": "us",
        "_REPO_NAME": "classifier-training",
        "_IMAGE_NAME": "classifier-training",
    }
    assert (build["options"]["machineType"], build["timeout"]) == ("E2_HIGHCPU_8", "1800s")

"""What GitHub and Google Cloud are told: valid by their own schemas, and without what attackers look for."""

import subprocess
import sys
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

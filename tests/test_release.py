"""Releases, in a repository of their own: which commit makes which version, and what the changelog says then."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTES = "## [Unreleased]\n\n### Added\n\n- What people wrote.\n\n"
INTRODUCTION = "# Changelog\n\nAbout it.\n\n"


class Repository:
    """A project with our rules for releases, and one commit that deserves none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".github").mkdir(parents=True)
        shutil.copytree(ROOT / ".github/changelog", folder / ".github/changelog")
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.flag = self.settings["tool"]["semantic_release"]["changelog"]["insertion_flag"]
        (folder / "CHANGELOG.md").write_text(f"{INTRODUCTION}{NOTES}{self.flag}\n")
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("remote", "add", "origin", "https://github.com/example/clf.git")
        self.commit("chore: begin")

    @property
    def settings(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text("utf-8"))

    @property
    def changelog(self) -> str:
        return (self.folder / "CHANGELOG.md").read_text("utf-8")

    @property
    def headings(self) -> list[str]:
        return re.findall(r"^## \[(.*?)\]", self.changelog, flags=re.MULTILINE)

    @property
    def tags(self) -> set[str]:
        return set(self.git("tag").split())

    def git(self, *words: str) -> str:
        identity = {f"GIT_{role}_{key}": "x@x" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        return subprocess.run(
            ["git", *words], cwd=self.folder, env=os.environ | identity, check=True, capture_output=True, text=True
        ).stdout

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def release(self) -> None:
        command = [str(Path(sys.executable).parent / "semantic-release"), "version"]
        subprocess.run(
            [*command, "--no-push", "--no-vcs-release", "--skip-build"],
            cwd=self.folder,
            env=os.environ | {"GH_TOKEN": "x"},
            check=True,
            capture_output=True,
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_main_releases_what_was_written_and_develop_lists_commits(repository: Repository) -> None:
    repository.git("switch", "--quiet", "--create", "develop")
    repository.commit("feat: masks")
    repository.release()
    assert repository.tags == {"v0.1.0-dev.1"}
    assert repository.settings["project"]["version"] == "0.1.0-dev.1"
    assert repository.changelog.startswith(INTRODUCTION + NOTES)
    assert "### Features\n\n- masks\n" in repository.changelog.partition(repository.flag)[2]

    repository.git("switch", "--quiet", "main")
    repository.git("merge", "--quiet", "develop")
    repository.release()
    assert repository.tags == {"v0.1.0-dev.1", "v0.1.0"}
    assert repository.settings["project"]["version"] == "0.1.0"
    assert repository.headings == ["Unreleased", "0.1.0", "0.1.0-dev.1"]
    upper, lower = repository.changelog.split(repository.flag)
    assert upper == f"{INTRODUCTION}## [Unreleased]\n\n"
    assert lower.index("- What people wrote.") < lower.index("## [0.1.0-dev.1]")
    assert repository.git("status", "--porcelain") == ""

    repository.commit("fix: labels are text")
    repository.commit("docs: more")
    repository.release()
    assert repository.headings == ["Unreleased", "0.1.1", "0.1.0", "0.1.0-dev.1"]
    new = repository.changelog.partition("## [0.1.1]")[2].partition("## [0.1.0]")[0]
    assert new.partition("\n")[2] == "\n### Bug fixes\n\n- labels are text\n\n"


@pytest.mark.parametrize(("branch", "message"), [("main", "docs: a page"), ("masks", "feat: masks")])
def test_nothing_else_is_released(repository: Repository, branch: str, message: str) -> None:
    repository.git("switch", "--quiet", "--force-create", branch)
    repository.commit("feat: the first")
    if branch == "main":
        repository.release()
        repository.commit(message)
    before = repository.git("rev-parse", "HEAD"), repository.tags
    repository.release()
    assert (repository.git("rev-parse", "HEAD"), repository.tags) == before

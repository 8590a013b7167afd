"""The hooks of pre-commit, run for real in a repository of their own: each lets the good pass and stops the bad."""

import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from clf.yamlfile import shipped_configs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with our hooks and our environment, and nothing else."""
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(ROOT / ".pre-commit-config.yaml", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def passes(repository: Path, hook: str, *words: str) -> bool:
    """Whether a hook is content with what is staged."""
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    command = [str(Path(sys.executable).parent / "pre-commit"), "run", hook, *words]
    return subprocess.run(command, cwd=repository, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("hook", "good", "bad"),
    [
        ("trailing-whitespace", "x\n", "x \n"),
        ("end-of-file", "x\n", "x"),
        ("large-files", "x" * 400_000, "x" * 600_000),
        ("secrets", "key = None\n", "-----BEGIN RSA " + "PRIVATE KEY-----\n"),
        ("secrets", "id = 'AKI'\n", "id = 'AKIA" + "QYLPMN5HHHFPZAM2'\n"),
    ],
)
def test_a_file_is_looked_at_before_it_is_committed(repository: Path, hook: str, good: str, bad: str) -> None:
    (repository / "file.py").write_text(good)
    assert passes(repository, hook)
    (repository / "file.py").write_text(bad)
    assert not passes(repository, hook)


@pytest.mark.parametrize(
    ("message", "fine"),
    [
        ("feat: masks", True),
        ("fix(data)!: labels are text", True),
        ("masks", False),
        ("feature: masks", False),
    ],
)
def test_a_message_is_a_conventional_commit(repository: Path, message: str, fine: bool) -> None:
    (repository / "message").write_text(message)
    assert passes(repository, "message", "--hook-stage", "commit-msg", "--commit-msg-filename", "message") is fine


def test_configs_are_parsed_as_fit_would(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_from_file_location("parse_configs", ROOT / "scripts/parse_configs.py")
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert {name.rpartition("/")[0] for name in shipped_configs()} == {"", *script.KEYS}

    assert script.understood("resnet18.yaml")
    assert script.understood("optim/sgd.yaml")
    (workdir / "bad.yaml").write_text("config: resnet18.yaml\nmodel: {warmup_epocs: 3}\n")
    (workdir / "optim").mkdir()
    (workdir / "optim/bad.yaml").write_text("optimizer: {class_path: torch.optim.SDG}\n")
    assert not script.understood("bad.yaml")
    assert not script.understood("optim/bad.yaml")
    assert "configs/optim/bad.yaml is not understood" in capsys.readouterr().err

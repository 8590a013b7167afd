"""What a run leaves for people: configuration, circumstances and labels, written by a real fit."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VAL, Loader, fit, tiny
from toy import Rows, trainer

from clf import results, runs
from clf.callbacks.run_files import RunFiles, keep_and_write
from clf.runs import Run

FACTS = {"run_id": "1a2b", "seed": 42, "weights": "random", "data": {"description": "3 images", "fingerprint": "ab12"}}


def start(run: Run, config: str = "seed_everything: 42\n", *, command: str = "fit", logger: Any = False) -> None:
    """Train with the files of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/usr/bin/clf", *command.split()])
        classifier = tiny(crop_mode="squash", crop_pct=1.0)
        fit(run.path, classifier, RunFiles(run, config=config, facts=FACTS), max_epochs=1, logger=logger)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


def test_a_fit_leaves_its_configuration_as_it_is(workdir: Path) -> None:
    run = runs.reserve("exp")
    start(run, "# resolved\nmodel: {arch: größer}\n")
    assert run.config.read_text(encoding="utf-8") == "# resolved\nmodel: {arch: größer}\n"
    assert names(run) == ["config.yaml", "environment.json", "labels_mapping.json", "metrics.json"]


def test_the_labels_mapping_says_what_logits_mean_and_what_the_network_is_fed_with(workdir: Path) -> None:
    run = runs.reserve("exp")
    start(run)
    assert read(run.path / "labels_mapping.json") == {
        "num_classes": 3,
        "class_to_idx": {"0": 0, "00": 1, "1": 2},
        "idx_to_class": {"0": "0", "1": "00", "2": "1"},
        "normalization": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "input": {
            "size": [8, 8],
            "resize": {"size": [8, 8], "fit": "fill"},
            "crop": {"mode": "squash", "pct": 1.0},
            "interpolation": "bilinear",
            "color": "RGB",
        },
        "model_sha256": None,
    }


def test_the_environment_has_what_repeating_the_run_needs(workdir: Path) -> None:
    run = runs.reserve("exp")
    start(run, command="fit --config exp.yaml")
    environment = read(run.path / "environment.json")
    assert environment["command"] == ["clf", "fit", "--config", "exp.yaml"]
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {name: environment["packages"][name] for name in ("torch", "lightning", "timm", "clf")} == {
        name: version(name) for name in ("torch", "lightning", "timm", "clf")
    }
    assert environment["machine"]["device"].startswith("cuda" if torch.cuda.is_available() else ("cpu", "mps"))
    assert environment["machine"]["cores"] >= 1
    assert {name: environment[name] for name in FACTS} == FACTS


def git(*words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_environment_names_the_commit_and_whether_it_has_changes(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workdir.parent))
    found = []
    for step in ("no repository", "clean", "changed"):
        if step == "clean":
            git("init")
            (workdir / ".gitignore").write_text("runs\n")
            git("add", ".gitignore")
            git("commit", "--message", "first")
        elif step == "changed":
            (workdir / "exp.yaml").write_text("seed_everything: 1\n")
        run = runs.reserve("exp")
        start(run)
        found.append(read(run.path / "environment.json")["git"])
    commit = git("rev-parse", "HEAD")
    assert found == [None, {"commit": commit, "dirty": False}, {"commit": commit, "dirty": True}]


class Hyperparameters(Rows):
    """Keeps what a tracker is told about the run."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.told += args


def test_trackers_get_the_whole_configuration(workdir: Path) -> None:
    logger = Hyperparameters()
    start(runs.reserve("exp"), "model: {arch: resnet18, mean: [0.5, 0.5, 0.5]}\n", logger=logger)
    assert logger.told == [{"model": {"arch": "resnet18", "mean": [0.5, 0.5, 0.5]}}]


def test_a_run_that_goes_on_is_not_finished_any_more_and_keeps_its_numbers(workdir: Path) -> None:
    run = runs.reserve("exp")
    (run.path / "metrics.json").write_text('{"finished": {"epochs": 3}, "val": {"n": 240}}')
    start(run)
    assert read(run.path / "metrics.json") == {"finished": None, "val": {"n": 240}}


def test_latest_is_the_run_that_was_started_last(workdir: Path) -> None:
    for _ in range(2):
        start(runs.reserve("exp"))
    assert runs.latest().path == Path("runs/exp/002")
    start(Run(Path("runs/exp/001")))
    assert runs.latest().path == Path("runs/exp/001")


def test_a_resumed_run_keeps_the_configuration_it_had_under_a_number(workdir: Path) -> None:
    run = runs.reserve("exp")
    for seed in (1, 1, 2, 3):
        start(run, f"seed_everything: {seed}\n")
    texts = {name: (run.path / name).read_text() for name in names(run) if name.startswith("config")}
    assert texts == {
        "config.yaml": "seed_everything: 3\n",
        "config.1.yaml": "seed_everything: 1\n",
        "config.2.yaml": "seed_everything: 2\n",
    }


def test_a_resumed_run_keeps_the_circumstances_it_had(workdir: Path) -> None:
    run = runs.reserve("exp")
    start(run, command="fit --config exp.yaml")
    start(run, command="fit --ckpt_path last")
    assert read(run.path / "environment.1.json")["command"][1:] == ["fit", "--config", "exp.yaml"]
    assert read(run.path / "environment.json")["command"][1:] == ["fit", "--ckpt_path", "last"]


def test_what_others_have_added_to_the_circumstances_stays_and_makes_no_other_circumstances(workdir: Path) -> None:
    run = runs.reserve("exp")
    start(run)
    results.record(run.path / "environment.json", {"model": {"latency": 0.125}})
    start(run)
    assert read(run.path / "environment.json")["model"] == {"latency": 0.125}
    assert not (run.path / "environment.1.json").exists()


def test_nothing_kept_is_ever_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    (tmp_path / "config.1.yaml").write_text("older")
    file.write_text("old")
    keep_and_write(file, "new")
    assert [(tmp_path / name).read_text() for name in ("config.yaml", "config.1.yaml", "config.2.yaml")] == [
        "new",
        "older",
        "old",
    ]


def test_validation_leaves_the_run_s_files_alone(workdir: Path) -> None:
    run = runs.reserve("exp")
    trainer(run.path, RunFiles(run, config="", facts=FACTS)).validate(tiny(), Loader(VAL), verbose=False)
    assert names(run) == []
    assert not Path("runs/latest").exists()

"""The run directory around a command: reserved, shared between processes, compared, and never left empty."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only

from clf import results, runs
from clf.config import compose
from clf.invocation import Invocation
from clf.logs import logging_to_terminal
from clf.processes import Processes, find_place
from clf.runs import Run
from clf.session import Session, changes, fill_placeholders


def session(run: Run | None = None, *, verb: str = "fit", checkpoint: str | None = None) -> Session:
    file = None if checkpoint is None else Path(checkpoint)
    return Session(Invocation(verb, compose([]), [], "exp", run, file, None))


def started(config: str = "{}") -> Run:
    run = runs.reserve("exp")
    run.config.write_text(config)
    return run


def opened(one: Session) -> Run:
    with logging_to_terminal():
        return one.open()


def test_a_new_fit_gets_a_new_directory(workdir: Path) -> None:
    assert [str(opened(session())) for _ in range(2)] == ["runs/exp/001", "runs/exp/002"]


def test_a_run_that_never_began_leaves_nothing(workdir: Path) -> None:
    with logging_to_terminal():
        one = session()
        run = one.open()
        (run.path / "log.txt").write_text("it failed\n")
        one.close()
    assert not Path("runs").exists()


def test_a_run_that_began_stays_whatever_happens(workdir: Path) -> None:
    one = session()
    run = opened(one)
    run.config.write_text("{}")
    one.close()
    assert run.config.exists()


def test_what_somebody_put_into_a_directory_is_never_removed(workdir: Path) -> None:
    one = session()
    run = opened(one)
    (run.path / "events").write_text("of a tracker")
    one.close()
    assert (run.path / "events").exists()


def test_scratch_lies_elsewhere_and_goes_when_the_command_ends(workdir: Path) -> None:
    one = session()
    scratch = one.scratch()
    (scratch / "weights").write_text("while it runs")
    assert not scratch.is_relative_to(workdir)
    one.close()
    assert not scratch.exists()
    assert list(workdir.iterdir()) == []


def test_a_resumed_fit_works_in_the_run_s_own_directory(workdir: Path) -> None:
    run = started()
    one = session(run, checkpoint="last.ckpt")
    assert opened(one) == run
    one.close()
    assert run.config.exists()
    assert [path.name for path in Path("runs/exp").iterdir()] == ["001"]


def test_every_process_of_a_fit_works_in_the_directory_of_the_first(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # so that it is put back
    first = session()
    run = opened(first)
    with first.processes.ending_together():
        first.processes.call(local_size=2, size=2)
        monkeypatch.setenv("LOCAL_RANK", "1")
        second = Processes(find_place())
        second.meet()
        assert second.place.who == "rank 1 of 2"
        with second.ending_together():
            other = Session(first.invocation, second)
            assert opened(other) == run
            other.close()
    assert run.path.exists()
    assert not [name for name in os.environ if name.startswith("CLF_")]


def test_predictions_of_a_checkpoint_without_a_run_go_to_the_working_folder(workdir: Path) -> None:
    assert session(verb="predict", checkpoint="best.ckpt").output == Path("predictions")
    assert session(started(), verb="predict", checkpoint="best.ckpt").output == Path("runs/exp/001/predictions")


def test_a_run_keeps_its_id(workdir: Path) -> None:
    run = started()
    one = session(run)
    assert one.run_id == one.run_id
    assert one.run_id != session(run).run_id  # two runs that begin
    (run.path / "environment.json").write_text(json.dumps({"run_id": "1a2b"}))
    assert session(run).run_id == "1a2b"


# What a resumed run changes

SAVED = """
trainer: {max_epochs: 3, callbacks: null, logger: {}}
model: {optimizer: {class_path: AdamW, init_args: {lr: 0.1, betas: [0.9, 0.999]}}}
callbacks: {ema: null, early_stopping: {init_args: {patience: 3}}}
"""


def configuration(**changes: Any) -> dict[str, Any]:
    """What is saved, with some dotted keys (``__`` for ``.``) changed."""
    config: dict[str, Any] = {
        "trainer": {"max_epochs": 3, "callbacks": None, "logger": {}},
        "model": {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.1, "betas": [0.9, 0.999]}}},
        "callbacks": {"ema": None, "early_stopping": {"init_args": {"patience": 3}}},
    }
    for key, value in changes.items():
        *groups, last = key.split("__")
        here = config
        for group in groups:
            here = here[group]
        here[last] = value
    return config


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({}, []),
        ({"trainer__max_epochs": 5}, [("trainer.max_epochs", 3, 5)]),
        (
            {"model__optimizer__init_args__betas": [0.8, 0.9], "data": {"root": "x"}},
            [("data.root", None, "x"), ("model.optimizer.init_args.betas", [0.9, 0.999], [0.8, 0.9])],
        ),
        ({"callbacks__ema": {"init_args": {"decay": 0.9}}}, [("callbacks.ema.init_args.decay", None, 0.9)]),
        ({"callbacks__early_stopping": None}, [("callbacks.early_stopping.init_args.patience", 3, None)]),
    ],
)
def test_what_a_resumed_run_changes_is_listed(
    workdir: Path, changes: dict[str, Any], differences: list[tuple[str, Any, Any]]
) -> None:
    assert session(started(SAVED), checkpoint="last.ckpt").differences(configuration(**changes)) == differences


def test_a_new_run_changes_nothing(workdir: Path) -> None:
    assert session().differences(configuration()) == []


@pytest.mark.parametrize(
    ("changes", "finished"),
    [
        ({}, True),
        ({"model__optimizer__init_args__lr": 0.2}, True),
        ({"trainer__max_epochs": 5}, False),
        ({"callbacks__early_stopping": None}, False),
        ({"callbacks__early_stopping__init_args__patience": 9}, False),
    ],
)
def test_a_finished_run_goes_on_only_if_the_end_was_moved(
    workdir: Path, changes: dict[str, Any], finished: bool
) -> None:
    run = started(SAVED)
    results.record(run.path / "metrics.json", {"finished": {"epochs": 3}})
    assert not session(run, checkpoint="last.ckpt").is_finished(configuration()), "its report may be missing"
    session(run).complete()
    assert session(run, checkpoint="last.ckpt").is_finished(configuration(**changes)) is finished


def test_a_run_that_was_stopped_is_not_finished(workdir: Path) -> None:
    run = started(SAVED)
    assert not session(run, checkpoint="last.ckpt").is_finished(configuration())
    results.record(run.path / "metrics.json", {"val": {"n": 3}})
    assert not session(run, checkpoint="last.ckpt").is_finished(configuration())
    assert not session().is_finished(configuration())


def test_loggers_learn_the_run_s_directory_name_and_id() -> None:
    run = Run(Path("runs/resnet18/003"))
    wanted = [{"init_args": {"save_dir": "{run}/wandb", "name": "{name} ({id})", "tags": ["{id}", 1], "log": False}}]
    assert fill_placeholders(wanted, run=run, run_id="1a2b") == [
        {
            "init_args": {
                "save_dir": f"{Path.cwd()}/runs/resnet18/003/wandb",
                "name": "resnet18/003 (1a2b)",
                "tags": ["1a2b", 1],
                "log": False,
            }
        }
    ]


ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.999]}}


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a.c": (2, 3)}),
        ({"a": [1, 2]}, {"a": [1, 2]}, {}),
        ({"a": {}}, {"a": {}}, {}),
        ({"a": None}, {"a": ADAMW}, {"a": (None, ADAMW)}),
        ({"a": ADAMW}, {"a": ADAMW}, {}),
        ({"a": ADAMW}, {"a": None}, {"a.class_path": ("torch.optim.AdamW", None)}),
        (
            {"a": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.5, "betas": [0.9, 0.999]}}},
            {"a": ADAMW},
            {"a.class_path": ("torch.optim.Adam", "torch.optim.AdamW"), "a.lr": (0.5, 1e-3)},
        ),
        (
            {"a": {"class_path": "no.Such", "init_args": {"b": 1}}},
            {},
            {"a.class_path": ("no.Such", None), "a.b": (1, None)},
        ),
    ],
)
def test_what_differs_from_the_defaults_is_named_as_a_user_writes_it(
    value: dict[str, Any], default: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = changes(value, default)
    assert {key: (each["value"], each["default"]) for key, each in found.items()} == expected

"""What flags say about classes, and what is answered where a command line cannot be meant."""

from pathlib import Path
from typing import Any

import pytest
import torch
from histories import LATEST, make_history, make_run, save

from clf.config import CALLBACKS
from clf.errors import UserError
from clf.invocation import Invocation, understand


def meant(command: str) -> Invocation:
    verb, *words = command.split()
    return understand(verb, words)


def refusal(command: str) -> str:
    with pytest.raises(UserError) as caught:
        meant(command)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def history(workdir: Path) -> Path:
    make_history()
    return workdir


# What flags say about classes


def composed(flags: str, key: str, text: str = "") -> Any:
    Path("x.yaml").write_text(text)
    value: Any = meant(f"fit --config x.yaml {flags}").composed.config
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize(
    "flags",
    ["--model.optimizer SGD", "--model.optimizer=SGD", "--model.optimizer.class_path SGD --model.optimizer.lr 1"],
)
def test_a_flag_that_names_another_class_drops_the_old_arguments(workdir: Path, flags: str) -> None:
    assert composed(flags, "model.optimizer") == {"class_path": "SGD"}


def test_a_flag_that_names_the_same_class_keeps_its_arguments(workdir: Path) -> None:
    optimizer = composed("--model.optimizer AdamW", "model.optimizer")
    assert optimizer["init_args"] == {"lr": 5e-4, "weight_decay": 1e-4}


def test_a_class_inside_of_a_class_is_replaced_as_well(workdir: Path) -> None:
    text = "data.source: {class_path: my.Mix, init_args: {inner: {class_path: my.A, init_args: {a: 1}}, b: 2}}"
    source = composed("--data.source.inner my.B", "data.source", text)
    assert source == {"class_path": "my.Mix", "init_args": {"inner": {"class_path": "my.B"}, "b": 2}}


@pytest.mark.parametrize(
    ("value", "logger"), [("false", False), ("null", None), ("my.Logger", {"class_path": "my.Logger"})]
)
def test_a_logger_of_the_config_can_be_switched_off_or_replaced(workdir: Path, value: str, logger: object) -> None:
    assert composed(f"--trainer.logger {value}", "trainer.logger", "trainer.logger: logger/wandb.yaml") == logger


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--callbacks.ema.decay 0.9", {"class_path": CALLBACKS["ema"], "init_args": {}}),
        ("--callbacks.ema {}", {"class_path": CALLBACKS["ema"], "init_args": {}}),
        ('--callbacks.ema {"decay":0.9}', {"class_path": CALLBACKS["ema"], "init_args": {"decay": 0.9}}),
        ("--callbacks.ema my.EMA", {"class_path": "my.EMA"}),
        ("--callbacks.ema null", None),
        ("", None),
    ],
)
def test_a_callback_that_is_off_is_switched_on_by_any_of_its_flags(workdir: Path, flags: str, expected: object) -> None:
    assert composed(flags, "callbacks.ema") == expected


@pytest.mark.parametrize(
    "flags",
    [
        "--callbacks.swa my.SWA --callbacks.swa.swa_lrs 0.1",
        "--callbacks.swa.swa_lrs 0.1 --callbacks.swa my.SWA",
        "--callbacks.swa.class_path my.SWA --callbacks.swa.init_args.swa_lrs 0.1",
    ],
)
def test_a_callback_of_one_s_own_can_be_added_by_flags_alone(workdir: Path, flags: str) -> None:
    assert composed(flags, "callbacks.swa")["class_path"] == "my.SWA"


# Help needs nothing


@pytest.mark.parametrize(
    "flags", ["--help", "-h", "--model.loss.help clf.losses.CrossEntropy", "--callbacks.ema.help=X"]
)
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_help_is_given_where_there_is_no_run(workdir: Path, verb: str, flags: str) -> None:
    invocation = meant(f"{verb} {flags}")
    assert (invocation.run, invocation.checkpoint) == (None, None)


# Mistakes


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fit", "clf fit needs --config FILE (`clf configs` lists the shipped ones), or --ckpt_path last to continue"),
        ("fit --trainer.max_epochs 3", "clf fit needs --config FILE"),
        ("fit --name exp --ckpt_path auto --run runs/new", "run='runs/new' does not exist; did you mean"),
        ("fit --run runs/exp/001", "run='runs/exp/001' names a run to continue; add --ckpt_path last"),
        ("fit --config exp.yaml --run runs/exp/001", "names a run to continue; add --ckpt_path last"),
        ("fit --ckpt_path elsewhere.ckpt", "ckpt_path='elsewhere.ckpt' lies in no run: clf fit needs --config FILE"),
        ("fit --ckpt_path auto --name new", "clf fit needs --config FILE"),
        ("test --ckpt_path auto", "ckpt_path='auto' is for fit; test takes last, best or a file"),
        (
            "test --ckpt_path bst",
            "ckpt_path='bst' does not exist; give last, best, auto or a file; did you mean 'best'?",
        ),
        ("fit --config exp.yaml --ckpt_path=", "ckpt_path='' is empty"),
        ("test --ckpt_path https://example.org/best.ckpt", "ckpt_path='https://example.org/best.ckpt' is a URL"),
        (
            "test --config new.yaml",
            "ckpt_path='best': no run of this experiment in runs/new/; start one with clf fit, or pick another",
        ),
        ("test --name othr", "no run of this experiment in runs/othr/; did you mean 'other'?"),
        ("test --run runs/othr/001", "run='runs/othr/001' does not exist; did you mean 'runs/other/001'?"),
        ("fit --config exp.yml", "config file 'exp.yml' not found (looked for exp.yml and the shipped configs); did"),
        ("fit --config exp.yaml --trainer trainer/cpuu.yaml", "did you mean 'trainer/cpu.yaml'?"),
        ("fit --config", "--config needs a value"),
        ("fit --config exp.yaml --ckpt_path", "--ckpt_path needs a value"),
        ("fit --config exp.yaml --callbacks.emma.decay 1", "callbacks.emma (on the command line) is no shipped"),
        ("fit --config exp.yaml --callbacks.early_stoping null", "did you mean 'early_stopping'?"),
        ("fit --config exp.yaml --callbacks.ema true", "callbacks.ema=true (on the command line) must be null (off)"),
        ("test --ckpt_path exp.yaml", "checkpoint exp.yaml is corrupt or no checkpoint at all"),
        ("test --ckpt_path foreign.ckpt", "checkpoint foreign.ckpt was not written by clf"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(history: Path, command: str, message: str) -> None:
    save(Path("elsewhere.ckpt"))
    torch.save({"state_dict": {}}, "foreign.ckpt")
    Path("new.yaml").touch()
    assert message in refusal(command)


@pytest.mark.parametrize(
    "command", ["test", "predict --data.predict x", "fit --ckpt_path last", "fit --ckpt_path auto"]
)
def test_without_any_run_it_says_how_to_start_one(workdir: Path, command: str) -> None:
    assert refusal(command).startswith(f"no run found: {workdir}/runs/latest does not exist; start one with `clf fit")


def test_a_run_that_saved_nothing_says_what_there_is(workdir: Path) -> None:
    make_run("exp", "last")
    assert refusal("test") == (
        "ckpt_path='best': runs/exp/001/checkpoints/best.ckpt does not exist; the folder has last.ckpt"
    )
    with pytest.raises(UserError, match="did you mean 'best'"):
        meant("test --ckpt_path Best")


def test_a_saved_config_that_somebody_broke_is_named_with_its_line(history: Path) -> None:
    Path(f"{LATEST}/config.yaml").write_text("data:\n\troot: x\n")
    assert refusal("test").startswith(f"{LATEST}/config.yaml:2: not valid YAML")

"""A command line means one configuration, one run and one checkpoint."""

import itertools
from pathlib import Path

import pytest
import torch
from histories import FACTS, LATEST, NEWEST, SPEC, make_history, make_run, save

from clf.checkpoints import Facts
from clf.invocation import Invocation, understand


def meant(command: str) -> Invocation:
    verb, *words = command.split()
    return understand(verb, words)


def found(command: str) -> tuple[str | None, str | None]:
    """Which run and which checkpoint are meant."""
    invocation = meant(command)
    run, checkpoint = invocation.run, invocation.checkpoint
    return None if run is None else str(run), None if checkpoint is None else str(checkpoint)


@pytest.fixture
def history(workdir: Path) -> Path:
    make_history()
    return workdir


# Which run and which checkpoint


@pytest.mark.parametrize(
    ("command", "run", "checkpoint"),
    [
        ("fit --config exp.yaml", None, None),
        ("fit --ckpt_path last", LATEST, "last"),
        ("fit --ckpt_path best", LATEST, "best"),
        ("fit --ckpt_path auto", LATEST, "last"),
        ("fit --config exp.yaml --ckpt_path last", NEWEST, "last"),
        ("fit --config exp.yaml --ckpt_path auto", NEWEST, "last"),
        ("fit --config exp.yaml --ckpt_path auto --name new", None, None),
        ("fit --config exp.yaml --ckpt_path last --name other", LATEST, "last"),
        ("fit --config exp.yaml --ckpt_path last --run runs/exp/001", "runs/exp/001", "last"),
        ("fit --ckpt_path last --run runs/exp/001", "runs/exp/001", "last"),
        ("fit --ckpt_path runs/exp/001/checkpoints/best.ckpt", "runs/exp/001", "best"),
        ("fit --ckpt_path runs/latest/checkpoints/last.ckpt", LATEST, "runs/latest"),
        ("fit --ckpt_path last --name exp", NEWEST, "last"),
        ("test", LATEST, "best"),
        ("validate --ckpt_path last", LATEST, "last"),
        ("predict --run runs/exp/001", "runs/exp/001", "best"),
        ("predict --run runs/latest", LATEST, "best"),
        ("test --config exp.yaml", NEWEST, "best"),
        ("test --config=exp.yaml --ckpt_path=last", NEWEST, "last"),
        ("test --name exp", NEWEST, "best"),
        ("test --ckpt_path runs/exp/001/checkpoints/last.ckpt", "runs/exp/001", "last"),
    ],
)
def test_words_lead_to_the_run_and_the_checkpoint_that_are_meant(
    history: Path, command: str, run: str | None, checkpoint: str | None
) -> None:
    file = None
    if checkpoint is not None:
        folder = checkpoint if checkpoint.startswith("runs/") else run
        name = "last" if checkpoint.startswith("runs/") else checkpoint
        file = f"{folder}/checkpoints/{name}.ckpt"
    assert found(command) == (run, file)


def test_a_checkpoint_outside_of_any_run_stands_alone(history: Path) -> None:
    save(Path("elsewhere/model.ckpt"))
    assert found("predict --ckpt_path elsewhere/model.ckpt") == (None, "elsewhere/model.ckpt")
    assert found("fit --config exp.yaml --ckpt_path elsewhere/model.ckpt") == (None, "elsewhere/model.ckpt")
    with_run = "test --ckpt_path elsewhere/model.ckpt --run runs/exp/001"
    assert found(with_run) == ("runs/exp/001", "elsewhere/model.ckpt")


def test_another_experiment_that_starts_from_a_run_s_checkpoint_is_a_run_of_its_own(history: Path) -> None:
    Path("longer.yaml").touch()
    file = "runs/exp/001/checkpoints/best.ckpt"
    assert found(f"fit --config longer.yaml --ckpt_path {file}") == (None, file)
    assert found(f"fit --config exp.yaml --name longer --ckpt_path {file}") == (None, file)
    assert found(f"fit --config exp.yaml --ckpt_path {file}") == ("runs/exp/001", file)
    assert found(f"test --config longer.yaml --ckpt_path {file}") == ("runs/exp/001", file)


def test_auto_starts_while_nothing_was_saved_and_continues_from_then_on(workdir: Path) -> None:
    Path("exp.yaml").touch()
    command = "fit --config exp.yaml --ckpt_path auto"
    assert found(command) == (None, None)
    run = make_run("exp")
    assert found(command) == (None, None)
    save(run.checkpoints / "last.ckpt")
    assert found(command) == ("runs/exp/001", "runs/exp/001/checkpoints/last.ckpt")


def test_a_config_may_say_which_checkpoint_and_which_name(history: Path) -> None:
    Path("again.yaml").write_text("ckpt_path: last\nname: exp\n")
    assert found("fit --config again.yaml") == (NEWEST, f"{NEWEST}/checkpoints/last.ckpt")
    Path("that.yaml").write_text("run: runs/exp/001\nckpt_path: best\n")
    assert found("fit --config that.yaml") == ("runs/exp/001", "runs/exp/001/checkpoints/best.ckpt")
    assert found("fit --config again.yaml --ckpt_path best --name other") == (LATEST, f"{LATEST}/checkpoints/best.ckpt")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("fit --config exp.yaml", "exp"),
        ("fit --config exp.yaml --config named.yaml", "from the file"),
        ("fit --config named.yaml --name mine", "mine"),
        ("fit --config numbered.yaml", "007"),
        ("fit --ckpt_path last", "other"),
        ("fit --config other/deep.yaml", "deep"),
    ],
)
def test_a_run_is_named_by_flag_by_key_or_by_file(history: Path, command: str, name: str) -> None:
    Path("other").mkdir()
    for file, text in {"named": "name: from the file", "numbered": "name: 007", "other/deep": ""}.items():
        Path(f"{file}.yaml").write_text(text)
    assert meant(command).name == name


# Which configuration


def test_without_config_a_run_brings_its_own_and_flags_win_later(history: Path) -> None:
    invocation = meant("fit --ckpt_path last --trainer.max_epochs 9 --data.root=x --print_config")
    assert invocation.composed.config["data"] == {"root": "birds"}
    assert invocation.composed.config["trainer"]["max_epochs"] == 3
    assert invocation.flags == ["--trainer.max_epochs", "9", "--data.root=x", "--print_config"]
    assert invocation.facts == FACTS


def test_with_config_only_that_counts(history: Path) -> None:
    config = meant("fit --config exp.yaml --ckpt_path last").composed.config
    assert config["data"] == {"root": "fish"}
    assert config["trainer"]["max_epochs"] == 100


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_checkpoint_says_what_its_model_is_and_its_classes(workdir: Path, verb: str) -> None:
    save(Path("model.ckpt"))
    model = meant(f"{verb} --ckpt_path model.ckpt").composed.config["model"]
    assert {key: model[key] for key in ("arch", "classes", "image_size", "crop_mode", "crop_pct", "mean")} == {
        "arch": "resnet34",
        "classes": ["0", "00"],
        "image_size": (32, 48),
        "crop_mode": "squash",
        "crop_pct": 1.0,
        "mean": (0.5, 0.5, 0.5),
    }


def test_a_config_wins_over_the_checkpoint(history: Path) -> None:
    model = meant("test --config exp.yaml").composed.config["model"]
    assert (model["arch"], model["classes"]) == ("resnet18", ["0", "00"])


def test_a_fit_takes_its_classes_from_the_data(history: Path) -> None:
    Path("bare.yaml").touch()
    model = meant("fit --config bare.yaml --ckpt_path runs/exp/001/checkpoints/last.ckpt").composed.config["model"]
    assert model["arch"] == "resnet34"
    assert not {"classes", "image_size", "mean"} & model.keys()


def test_a_network_of_one_s_own_is_never_taken_from_a_checkpoint(workdir: Path) -> None:
    torch.save({"clf": Facts(["a", "b"], {"class_path": "my.Net"}, SPEC, "").to_dict()}, "own.ckpt")
    model = meant("predict --ckpt_path own.ckpt").composed.config["model"]
    assert not {"arch", "network", "class_path"} & model.keys()


def test_several_configs_merge_from_left_to_right(history: Path) -> None:
    Path("more.yaml").write_text("data.root: cats\n")
    assert meant("fit --config exp.yaml --config more.yaml").composed.config["data"] == {"root": "cats"}
    assert meant("fit -c more.yaml -c exp.yaml").composed.config["data"] == {"root": "fish"}


def test_parts_on_the_command_line_win_over_every_config_wherever_they_stand(history: Path) -> None:
    Path("more.yaml").write_text("trainer.accelerator: gpu\ntrainer.precision: 16-mixed\n")
    words = ["--trainer trainer/cpu.yaml", "--config exp.yaml", "--config more.yaml"]
    for order in itertools.permutations(words):
        invocation = meant(f"fit {' '.join(order)} --trainer.max_epochs 2")
        trainer = invocation.composed.config["trainer"]
        assert (trainer["accelerator"], trainer["precision"]) == ("cpu", "32-true")
        assert invocation.flags == ["--trainer.max_epochs", "2"]


def test_only_groups_are_given_by_file(history: Path) -> None:
    Path("rows.yaml").write_text("root: rows")
    invocation = meant("fit --config exp.yaml --data=rows.yaml --output x.yaml --model.network.init_args.spec y.yaml")
    assert invocation.composed.config["data"] == {"root": "rows"}
    assert invocation.composed.config["model"]["network"] == {"init_args": {"spec": "y.yaml"}}
    assert invocation.flags == ["--output", "x.yaml"]

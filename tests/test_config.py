"""Composition: what stands where decides who wins; inheritance, parts, classes and callbacks."""

import json
from pathlib import Path
from typing import Any

import pytest

from clf.config import CALLBACKS, Layer, compose

OWN_SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}


def write(**files: str) -> None:
    """Write YAML files; ``a__b`` is the name of ``a/b.yaml``."""
    for name, text in files.items():
        path = Path(f"{name.replace('__', '/')}.yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def composed(*layers: str | dict[str, Any], **files: str) -> dict[str, Any]:
    """Compose files by name, and mappings as the command line gives them."""
    write(**files)
    return compose(Path(each) if isinstance(each, str) else Layer(each, "--flag") for each in layers).config


def early_stopping(**keys: Any) -> dict[str, Any]:
    standard = {"monitor": "val/acc_top1", "mode": "max", "patience": 20, "min_delta": 0.001}
    return {"class_path": CALLBACKS["early_stopping"], "init_args": standard | keys}


# inheritance and parts


def test_a_file_that_says_nothing_has_all_defaults(workdir: Path) -> None:
    config = composed("x.yaml", x="# nothing\n")
    assert config == compose([]).config
    assert config["callbacks"]["early_stopping"] == early_stopping()
    assert config["callbacks"]["ema"] is None
    assert config["model"]["optimizer"]["class_path"] == "torch.optim.AdamW"


def test_of_three_generations_the_youngest_wins_and_what_it_leaves_out_is_inherited(workdir: Path) -> None:
    config = composed(
        "child.yaml",
        child="config: parent.yaml\ndata: {batch_size: 3}\n",
        parent="config: grandparent.yaml\ndata: {batch_size: 2, root: parent}\n",
        grandparent="data: {batch_size: 1, root: grandparent, layout: folder}\n",
    )
    assert config["data"] == {"batch_size": 3, "root": "parent", "layout": "folder"}


def test_of_several_bases_the_later_wins(workdir: Path) -> None:
    files = {"a": "data: {root: a, layout: a}", "b": "data: {root: b}"}
    assert composed("x.yaml", x="config: [a.yaml, b.yaml]", **files)["data"] == {"root": "b", "layout": "a"}
    assert composed("x.yaml", x="config: [b.yaml, a.yaml]", **files)["data"] == {"root": "a", "layout": "a"}


def test_two_bases_may_share_an_ancestor(workdir: Path) -> None:
    files = {"a": "config: old.yaml\ndata.root: a", "b": "config: old.yaml\ndata.layout: b", "old": "data.predict: c"}
    data = composed("x.yaml", x="config: [a.yaml, b.yaml]", **files)["data"]
    assert data == {"root": "a", "layout": "b", "predict": "c"}


def test_a_part_is_the_body_of_its_group_and_what_stands_beside_it_wins(workdir: Path) -> None:
    part = {"data__birds": "root: birds\nbatch_size: 8\naugment: light\n"}
    expected = {"root": "birds", "batch_size": 32, "augment": "light"}
    assert composed("x.yaml", x="data: data/birds.yaml\ndata.batch_size: 32", **part)["data"] == expected
    assert composed("x.yaml", x="data.batch_size: 32\ndata: data/birds.yaml", **part)["data"] == expected
    assert composed("x.yaml", x="data: {config: data/birds.yaml, batch_size: 32}", **part)["data"] == expected


def test_parts_can_inherit_and_stand_at_any_depth(workdir: Path) -> None:
    config = composed(
        "x.yaml",
        x="trainer: fast.yaml\nmodel: {optimizer: sgd.yaml}\nmodel.optimizer.lr: 0.2\n",
        fast="config: slow.yaml\nmax_epochs: 1\n",
        slow="max_epochs: 100\nprecision: 32-true\n",
        sgd="class_path: torch.optim.SGD\nlr: 0.1\nmomentum: 0.9\n",
    )
    assert (config["trainer"]["max_epochs"], config["trainer"]["precision"]) == (1, "32-true")
    assert config["model"]["optimizer"] == {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.2, "momentum": 0.9}}


def test_parts_in_a_list_are_read_one_by_one(workdir: Path) -> None:
    files = {"one": "class_path: my.One", "two": "class_path: my.Two\nx: 1"}
    loggers = composed("x.yaml", x="trainer.logger: [one.yaml, {class_path: my.Own}, two.yaml]", **files)["trainer"]
    assert loggers["logger"] == [
        {"class_path": "my.One"},
        {"class_path": "my.Own"},
        {"class_path": "my.Two", "init_args": {"x": 1}},
    ]


def test_names_are_relative_to_the_naming_file_then_to_the_shipped_configs(workdir: Path) -> None:
    files = {"exp__x": "config: base.yaml\ntrainer: trainer/cpu.yaml", "exp__base": "data.root: beside"}
    config = composed("exp/x.yaml", base="data.root: in the working folder", **files)
    assert config["data"]["root"] == "beside"
    assert config["trainer"]["accelerator"] == "cpu"


def test_names_in_flags_are_relative_to_the_working_folder(workdir: Path) -> None:
    config = composed("exp/x.yaml", {"data": "part.yaml"}, exp__x="{}", exp__part="root: exp", part="root: here")
    assert config["data"] == {"root": "here"}


def test_files_given_one_after_the_other_are_like_files_that_inherit(workdir: Path) -> None:
    base = "model.lr_scheduler: null\ncallbacks.early_stopping: null\nmodel.optimizer: {class_path: SGD, lr: 1}\n"
    child = "model.lr_scheduler.final: 0.5\ncallbacks.early_stopping.patience: 3\nmodel.optimizer.momentum: 0.9\n"
    apart = composed("base.yaml", "child.yaml", base=base, child=child)
    assert composed("heir.yaml", heir=f"config: base.yaml\n{child}") == apart
    assert apart["model"]["optimizer"] == {"class_path": "SGD", "init_args": {"lr": 1, "momentum": 0.9}}


def test_dotted_and_nested_keys_mean_the_same(workdir: Path) -> None:
    nested = composed("x.yaml", x="model: {optimizer: {init_args: {lr: 0.1}}, arch: vit}\nseed_everything: 1")
    dotted = composed("y.yaml", y="model.optimizer.init_args.lr: 0.1\nmodel.arch: vit\nseed_everything: 1")
    mixed = composed("z.yaml", z="model: {optimizer.lr: 0.1}\nmodel.arch: vit\nseed_everything: 1")
    assert nested == dotted == mixed


def test_lists_are_replaced_and_null_stays_null(workdir: Path) -> None:
    config = composed("a.yaml", "b.yaml", a="data: {augment: [1, 2, 3], root: x}", b="data: {augment: [4], root: null}")
    assert config["data"] == {"augment": [4], "root": None}


def test_text_that_other_tools_would_fill_in_is_left_alone(workdir: Path) -> None:
    config = composed("x.yaml", x="data:\n  root: ${oc.env:HOME}/x\n  label_key: ???\n  predict: '{run}'\n")
    assert config["data"] == {"root": "${oc.env:HOME}/x", "label_key": "???", "predict": "{run}"}


def test_a_path_to_yaml_among_a_class_s_arguments_is_the_class_s_own(workdir: Path) -> None:
    source = "{class_path: my.Source, init_args: {labels: labels.yaml, config: x.yaml, a.b: 1}}"
    config = composed("x.yaml", x=f"data.source: {source}", labels="not: read")
    assert config["data"]["source"]["init_args"] == {"labels": "labels.yaml", "config": "x.yaml", "a.b": 1}


def test_below_the_top_config_may_be_an_argument_of_a_class(workdir: Path) -> None:
    source = composed("x.yaml", x="data.source: {class_path: my.Source, config: 5}")["data"]["source"]
    assert source == {"class_path": "my.Source", "init_args": {"config": 5}}


@pytest.mark.parametrize(
    ("over", "value"),
    [
        ("none", "none"),
        ("balanced", "balanced"),
        ("null", None),
        ("Own", {"class_path": "Own"}),
        ("my.Own", {"class_path": "my.Own"}),
        ("my.own_function", {"class_path": "my.own_function"}),
    ],
)
def test_over_a_class_a_word_is_a_value_and_the_name_of_a_class_is_a_class(
    workdir: Path, over: str, value: Any
) -> None:
    files = {"base": "data.sampler: {class_path: my.Sampler, init_args: {x: 1}}"}
    assert composed("x.yaml", x=f"config: base.yaml\ndata.sampler: {over}", **files)["data"]["sampler"] == value


def test_keys_of_a_mapping_stay_text(workdir: Path) -> None:
    config = composed("x.yaml", x="data: {weights: {0: 1, 00: 2, 1e-3: 3}}")
    assert json.loads(json.dumps(config["data"]["weights"])) == {"0": 1, "00": 2, "1e-3": 3}


# classes


def test_bare_keys_are_arguments_of_the_class_that_stands_there(workdir: Path) -> None:
    optimizer = composed("x.yaml", x="model.optimizer: {lr: 0.1}")["model"]["optimizer"]
    assert optimizer == {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 1e-4}}


@pytest.mark.parametrize(
    "written",
    [
        "{class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}",
        "{init_args: {lr: 0.1, momentum: 0.9}, class_path: torch.optim.SGD}",
        "{class_path: torch.optim.SGD, lr: 0.1, momentum: 0.9}",
        "{class_path: torch.optim.SGD, init_args: {lr: 0.1}, momentum: 0.9}",
    ],
)
def test_another_class_starts_without_the_arguments_of_the_old_one(workdir: Path, written: str) -> None:
    assert composed("x.yaml", x=f"model.optimizer: {written}")["model"]["optimizer"] == OWN_SGD


def test_another_class_by_dotted_keys_keeps_what_the_same_file_says(workdir: Path) -> None:
    text = "optimizer.lr: 0.1\noptimizer.class_path: torch.optim.SGD\noptimizer.init_args.momentum: 0.9"
    assert composed("x.yaml", x="model: part.yaml", part=text)["model"]["optimizer"] == OWN_SGD
    assert composed("y.yaml", y=f"model.{text}".replace("\n", "\nmodel."))["model"]["optimizer"] == OWN_SGD


def test_another_class_than_the_part_s_drops_the_part_s_arguments(workdir: Path) -> None:
    files = {"part": "class_path: torch.optim.SGD\nlr: 0.1"}
    text = "model.optimizer: part.yaml\nmodel.optimizer.class_path: torch.optim.Adam"
    assert composed("x.yaml", x=text, **files)["model"]["optimizer"] == {"class_path": "torch.optim.Adam"}


def test_a_class_s_short_name_is_not_another_class(workdir: Path) -> None:
    optimizer = composed("x.yaml", x="model.optimizer: {class_path: AdamW, init_args: {lr: 1}}")["model"]["optimizer"]
    assert optimizer == {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1, "weight_decay": 1e-4}}


def test_a_text_over_a_class_names_a_class(workdir: Path) -> None:
    files = {"a": "model.optimizer: torch.optim.SGD", "b": "model.optimizer: {lr: 0.1, momentum: 0.9}"}
    assert composed("a.yaml", "b.yaml", **files)["model"]["optimizer"] == OWN_SGD


# callbacks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("callbacks: {early_stopping: {patience: 3}}", early_stopping(patience=3)),
        ("callbacks.early_stopping.patience: 3", early_stopping(patience=3)),
        ("callbacks.early_stopping.init_args.patience: 3", early_stopping(patience=3)),
        ("callbacks: {early_stopping: {init_args: {patience: 3}, mode: min}}", early_stopping(patience=3, mode="min")),
        ("callbacks: {early_stopping: {}}", early_stopping()),
        ("callbacks: {early_stopping: null}", None),
        ("callbacks: {early_stopping: {class_path: my.Stop, x: 1}}", {"class_path": "my.Stop", "init_args": {"x": 1}}),
        ("callbacks.early_stopping: my.Stop", {"class_path": "my.Stop"}),
    ],
)
def test_a_callback_is_merged_by_name_over_the_shipped_one(workdir: Path, text: str, expected: object) -> None:
    callbacks = composed("x.yaml", x=text)["callbacks"]
    assert callbacks["early_stopping"] == expected
    assert callbacks.keys() == CALLBACKS.keys()
    assert callbacks["checkpoint"]["init_args"]["save_top_k"] == 3


def test_a_callback_that_was_off_is_switched_on_by_its_keys(workdir: Path) -> None:
    ema = {"class_path": CALLBACKS["ema"], "init_args": {"decay": 0.9}}
    assert composed("x.yaml", x="callbacks.ema.decay: 0.9")["callbacks"]["ema"] == ema
    assert composed({"callbacks.ema": {}}, {"callbacks.ema.decay": 0.9})["callbacks"]["ema"] == ema


def test_callbacks_of_one_s_own_have_names_and_are_inherited_and_switched_off(workdir: Path) -> None:
    files = {"own": "callbacks: {swa: {class_path: my.SWA, lr: 1}}", "on": "callbacks.swa.lr: 2"}
    swa = composed("own.yaml", "on.yaml", **files)["callbacks"]["swa"]
    assert swa == {"class_path": "my.SWA", "init_args": {"lr": 2}}
    assert composed("own.yaml", {"callbacks.swa": None})["callbacks"]["swa"] is None
    assert composed({"callbacks": {"mine": None}})["callbacks"]["mine"] is None  # as a saved configuration says it

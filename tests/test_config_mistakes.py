"""What composition says of mistakes and of origins, and what holds for all configurations."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clf.config import Composed, Layer, compose, merge, where
from clf.errors import UserError
from clf.yamlfile import parse_yaml


def write(**files: str) -> None:
    """Write YAML files; ``a__b`` is the name of ``a/b.yaml``."""
    for name, text in files.items():
        path = Path(f"{name.replace('__', '/')}.yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def refusal(layer: Path | Layer) -> str:
    with pytest.raises(UserError) as caught:
        compose([layer])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data.root: a\ndata: {root: b}\n", "x.yaml:1: the key 'data.root' is given twice"),
        ("data: {root: b}\n\ndata.root: a\n", "x.yaml:3: the key 'data.root' is given twice"),
        ("model: {optimizer: {lr: 1}}\nmodel.optimizer.init_args.lr: 2\n", "x.yaml:2: the key 'model.optimizer.lr'"),
        ("model:\n  optimizer: {lr: 1}\n  optimizer.lr: 2\n", "x.yaml:3: the key 'optimizer.lr' is given twice"),
        ("model.optimizer.lr: 1\nmodel: {optimizer.lr: 2}\n", "x.yaml:1: the key 'model.optimizer.lr'"),
        ("model.loss: null\nmodel.loss.gamma: 2\n", "x.yaml:2: the key 'model.loss' is given twice"),
        ("model: {loss: {gamma: 2}}\nmodel.loss: part.yaml\n", "x.yaml:2: the key 'model.loss' is given twice"),
        ("data: 5\ndata.root: a\n", "x.yaml:2: the key 'data' is given twice"),
        ("ok: 1\ndata..root: a\n", "x.yaml:2: the key 'data..root' has an empty part"),
        (".data: a\n", "x.yaml:1: the key '.data' has an empty part"),
        ("- a\n- b\n", "x.yaml: expected keys and values at the top level, found list"),
        ("resnet18\n", "x.yaml: expected keys and values at the top level, found str"),
        ("config: 5\n", "x.yaml: config=5 must be the name of a YAML file or a list of such names"),
        ("config: [a.json]\n", "x.yaml: config=['a.json'] must be"),
        ("config: part.yaml\nconfig.data: a\n", "x.yaml: config='part.yaml' must be"),
        ("data: 5\n", "data=5 (in x.yaml) must hold keys and values, or name a YAML file that does"),
        ("model: null\n", "model=null (in x.yaml) must hold keys and values"),
        ("trainer: [a, b]\n", 'trainer=["a", "b"] (in x.yaml) must hold keys and values'),
        ("callbacks: [1]\n", "callbacks=[1] (in x.yaml) must hold keys and values"),
        ("callbacks.ema: 0.9\n", "callbacks.ema=0.9 (in x.yaml) must be null (off) or hold the callback's keys"),
        ("callbacks.ema: off\n", "callbacks.ema=false (in x.yaml) must be null (off)"),
        (
            "callbacks: {emma: {decay: 0.9}}\n",
            "callbacks.emma (in x.yaml) is no shipped callback and has no class_path; did you mean 'ema'?",
        ),
        ("callbacks: {early_stoping: null}\n", "callbacks.early_stoping (in x.yaml) is no shipped callback"),
        ("callbacks.stopping: {patience: 3}\n", "has no class_path; did you mean 'early_stopping'?"),
        ("config: resnt18.yaml\n", "config file 'resnt18.yaml' not found (looked for resnt18.yaml and the shipped"),
        ("trainer: trainer/cpuu.yaml\n", "; did you mean 'trainer/cpu.yaml'?"),
        ("config: broken.yaml\n", "broken.yaml:2: not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_said_in_one_line_with_its_place(workdir: Path, text: str, message: str) -> None:
    write(x=text, part="gamma: 1", broken="data:\n\troot: a\n")
    assert message in refusal(Path("x.yaml"))


@pytest.mark.parametrize(
    ("files", "chain"),
    [
        ({"x": "config: x.yaml"}, "x.yaml -> x.yaml"),
        ({"x": "config: a.yaml", "a": "config: b.yaml", "b": "config: a.yaml"}, "a.yaml -> b.yaml -> a.yaml"),
        ({"x": "data: a.yaml", "a": "source: b.yaml", "b": "config: a.yaml"}, "a.yaml -> b.yaml -> a.yaml"),
        ({"x": "config: sub/a.yaml", "sub__a": "config: [../x.yaml]"}, "x.yaml -> sub/a.yaml -> x.yaml"),
    ],
)
def test_a_circle_is_shown_as_a_circle(workdir: Path, files: dict[str, str], chain: str) -> None:
    write(**files)
    assert refusal(Path("x.yaml")) == f"circular config: {chain}; a file cannot inherit from itself"


def test_a_mistake_on_the_command_line_is_said_to_be_there(workdir: Path) -> None:
    message = refusal(Layer({"callbacks.emma.decay": 1}, "--callbacks.emma.decay"))
    assert message.startswith("callbacks.emma (on the command line) is no shipped callback")
    write(part="[1]")
    message = refusal(Layer({"data": "part.yaml"}, "--data"))
    assert message == "data=[1] (on the command line) must hold keys and values, or name a YAML file that does"


def test_an_origin_stands_behind_its_key() -> None:
    assert where("configs/resnet18.yaml") == " (in configs/resnet18.yaml)"
    assert where("--model.optimizer") == " (on the command line)"


def test_every_group_says_what_it_came_from_in_the_order_of_the_merge(workdir: Path) -> None:
    write(
        x="config: base.yaml\ntrainer: trainer/cpu.yaml\ndata.root: x",
        base="trainer.max_epochs: 1\nmodel: {arch: vit}",
    )
    layers: list[Path | Layer] = [
        Layer({"model.arch": "old"}, "the checkpoint"),
        Path("x.yaml"),
        Layer({"data": {}}, "--data"),
    ]
    assert compose(layers).describe_origins() == [
        "callbacks: configs/defaults.yaml",
        "data: x.yaml, --data",
        "log_level: configs/defaults.yaml",
        "model: configs/defaults.yaml, the checkpoint, base.yaml",
        "seed_everything: configs/defaults.yaml",
        "trainer: configs/defaults.yaml, base.yaml, configs/trainer/cpu.yaml, x.yaml",
    ]


def test_a_key_is_traced_to_what_wrote_it_last(workdir: Path) -> None:
    write(a="data: {root: a, layout: a}\nmodel.optimizer.lr: 1", b="data.root: b\nmodel.optimizer.decay: 1")
    composed = compose([Path("b.yaml"), Path("a.yaml"), Path("b.yaml")])
    origin = composed.origin
    assert (origin("data.root"), origin("data.layout"), origin("data.nowhere")) == ("b.yaml", "a.yaml", "b.yaml")
    assert origin("model.optimizer.lr") == origin("model.optimizer.init_args.lr") == "a.yaml"
    assert origin("model.optimizer.decay") == origin("model.optimizer.init_args.decay") == "b.yaml"
    assert "data: a.yaml, b.yaml" in composed.describe_origins()
    assert origin("callbacks.checkpoint.save_top_k") == "configs/defaults.yaml"
    assert origin("nowhere") == ""


# What holds for all configurations. Where a value stands in one layer, no other layer has a mapping: else the middle
# layer decides whether anything is left to merge with.

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
names = st.sampled_from(["a", "b", "c"])
flat = st.dictionaries(names, leaves, max_size=3)
layers = st.fixed_dictionaries(
    {}, optional={"data": flat, "trainer": st.fixed_dictionaries({}, optional={"x": flat, "y": leaves})}
)


@given(layers, layers, layers)
def test_merging_does_not_depend_on_which_two_come_first(one: Any, two: Any, three: Any) -> None:
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@given(layers, layers)
def test_merging_changes_neither_side(one: Any, two: Any) -> None:
    before = copy.deepcopy((one, two))
    merge(one, two)
    assert (one, two) == before


@given(layers)
def test_nothing_is_neutral_and_twice_is_once(one: Any) -> None:
    assert merge({}, one) == merge(one, {}) == merge(one, one) == one


@given(flat, st.none() | st.lists(st.integers(), max_size=2) | st.integers())
def test_what_is_no_mapping_replaces_and_is_replaced(one: dict[str, Any], other: Any) -> None:
    assert merge(one, other) == other
    assert merge(other, one) == one


printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
values = printable | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.none() | st.booleans()


@given(st.dictionaries(printable, values | st.lists(values, max_size=2), max_size=3))
@example({"root": "\N{SNOWMAN}\N{GRINNING FACE}", "text": "1e-3", "escape": r"\ud83d\ude00", "quote": '"'})
def test_the_typed_parser_reads_what_was_composed(config: dict[str, Any]) -> None:
    assert parse_yaml(Composed(config, {}).as_text()) == config


def dotted(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        nested = isinstance(item, dict) and item
        flat |= dotted(item, f"{prefix}{name}.") if nested else {f"{prefix}{name}": item}
    return flat


@given(layers)
@settings(max_examples=30)
def test_dotted_keys_compose_to_the_same_as_nested_ones(config: dict[str, Any]) -> None:
    nested = compose([Layer(config, "--a")]).config
    assert compose([Layer(dotted(config), "--a")]).config == nested
    assert compose([Layer(nested, "--a")]).config == nested


@given(layers, layers)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_to_inherit_a_file_is_to_be_laid_over_it(workdir: Path, base: dict[str, Any], heir: dict[str, Any]) -> None:
    write(base=json.dumps(base), heir=json.dumps(heir), x=json.dumps({"config": "base.yaml", **heir}))
    assert compose([Path("x.yaml")]).config == compose([Path("base.yaml"), Path("heir.yaml")]).config

"""YAML files are read as people mean them; what is wrong with one is said with its name and line."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clf.errors import UserError
from clf.yamlfile import SHIPPED, Key, display, find_config, is_yaml_name, load_yaml, shipped_configs


def read(text: str, *, name: str = "my.yaml") -> Any:
    Path(name).write_text(text, encoding="utf-8")
    return load_yaml(Path(name))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001),
        ("5E4", 50000.0),
        ("1.5e-3", 0.0015),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", float("inf")),
        ('"1e-3"', "1e-3"),
        ("'64'", "64"),
        ("64", 64),
        ("-1", -1),
        ("0", 0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("007", "007"),
        ("00", "00"),
        ("12:30:45", "12:30:45"),
        ("2024-05-01", "2024-05-01"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("${x}", "${x}"),
        ("???", "???"),
        ("e-3", "e-3"),
        ("1e", "1e"),
        ("resnet18", "resnet18"),
    ],
)
def test_a_value_is_what_people_mean_by_it(workdir: Path, written: str, meant: object) -> None:
    found = read(f"key: {written}")["key"]
    assert found == meant
    assert type(found) is type(meant)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_number_that_python_prints_is_read_as_that_number(workdir: Path, number: float) -> None:
    assert read(f"key: {number!r}")["key"] == number


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_or_refused_with_its_file(workdir: Path, text: str) -> None:
    try:
        read(text)
    except UserError as error:
        assert str(error).startswith("my.yaml:")  # noqa: PT017 - most texts are fine


def test_keys_stay_text_however_they_look(workdir: Path) -> None:
    found = read("{0: a, 00: b, 1e-3: c, true: d, null: e, 2024-05-01: f}")
    assert found == {"0": "a", "00": "b", "1e-3": "c", "true": "d", "null": "e", "2024-05-01": "f"}


def test_a_key_remembers_its_line(workdir: Path) -> None:
    outer = read("# a comment\nmodel:\n  arch: resnet18\n")
    [model] = outer
    [arch] = outer["model"]
    assert isinstance(model, Key)
    assert (model.line, arch.line) == (2, 3)


def test_merge_keys_and_anchors_of_yaml_itself_work(workdir: Path) -> None:
    found = read("base: &base {lr: 1, decay: 2}\nmine:\n  <<: *base\n  lr: 3\n")
    assert found["mine"] == {"lr": 3, "decay": 2}


def test_a_byte_order_mark_is_no_part_of_the_first_key(workdir: Path) -> None:
    Path("my.yaml").write_bytes(b"\xef\xbb\xbfdata: 1\n")
    assert load_yaml(Path("my.yaml")) == {"data": 1}


def test_an_empty_file_holds_nothing(workdir: Path) -> None:
    assert read("# nothing but a comment\n") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: 1\nmodel: 2\ndata: 3\n", "my.yaml:3: the key 'data' is given twice"),
        ("data:\n  root: a\n  size: 1\n  root: b\n", "my.yaml:4: the key 'root' is given twice"),
        ("list:\n- {a: 1}\n- {a: 1, a: 2}\n", "my.yaml:3: the key 'a' is given twice"),
        ("0: a\n00: b\n'0': c\n", "my.yaml:3: the key '0' is given twice"),
        ("ok: 1\n[1, 2]: x\n", "my.yaml:2: a key must be plain text"),
        ("? {a: 1}\n: x\n", "my.yaml:1: a key must be plain text"),
        ("a: 1\n\tb: 2\n", "my.yaml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("data: {root: [1, 2}\n", "my.yaml:1: not valid YAML: expected ',' or ']', but got '}'"),
        ("data:\n  root: x\n bad: 1\n", "my.yaml:3: not valid YAML: expected <block end>"),
        ("a: b: c\n", "my.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "my.yaml:2: not valid YAML: but found another document"),
        ("a: &a {b: *a}\n", "my.yaml:1: found unconstructable recursive node"),
        ("a: *nowhere\n", "my.yaml:1: not valid YAML: found undefined alias 'nowhere'"),
        ("a: !!python/object/apply:os.getcwd []\n", "my.yaml:1: could not determine a constructor for the tag"),
        ("a: !!int many\n", "my.yaml: not a YAML text file (invalid literal for int()"),
        ("a: \x00\n", "my.yaml: not a YAML text file (unacceptable character #x0000"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(workdir: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_picture_named_like_a_config_is_no_yaml(workdir: Path) -> None:
    Path("my.yaml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(UserError, match=r"my\.yaml: not a YAML text file \('utf-8' codec can't decode"):
        load_yaml(Path("my.yaml"))


def test_a_file_that_cannot_be_opened_says_why(workdir: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: No such file or directory"):
        load_yaml(Path("gone.yaml"))
    (workdir / "folder.yaml").mkdir()
    with pytest.raises(UserError, match=r"folder\.yaml: Is a directory"):
        load_yaml(Path("folder.yaml"))


def test_a_name_is_looked_up_beside_the_naming_file_and_then_among_the_shipped_ones(workdir: Path) -> None:
    (workdir / "exp").mkdir()
    assert find_config("trainer/cpu.yaml", near=workdir / "exp") == SHIPPED / "trainer/cpu.yaml"
    assert find_config("configs/demo.yaml", near=workdir / "exp").samefile(SHIPPED / "demo.yaml")
    (workdir / "exp/trainer").mkdir()
    own = workdir / "exp/trainer/cpu.yaml"
    own.touch()
    assert find_config("trainer/cpu.yaml", near=workdir / "exp") == own
    assert find_config("../exp/trainer/cpu.yaml", near=workdir / "exp").samefile(own)
    assert find_config(str(own), near=Path("/")) == own


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnt18.yaml", "; did you mean 'resnet18.yaml'?"),
        ("resnet18", "; did you mean 'resnet18.yaml'?"),
        ("configs/demo.yml", "; did you mean 'configs/demo.yaml'?"),
        ("trainer/cpuu.yaml", "; did you mean 'trainer/cpu.yaml'?"),
        ("minne.yaml", "; did you mean 'mine.yaml'?"),
        ("sub/owm.yaml", "; did you mean 'sub/own.yaml'?"),
        ("zzzzzzzzzzzzzzzzzzz", ""),
        ("", ""),
    ],
)
def test_a_misspelt_file_says_where_it_was_looked_for_and_what_was_meant(workdir: Path, name: str, hint: str) -> None:
    (workdir / "sub").mkdir()
    for path in ("mine.yaml", "sub/own.yaml"):
        (workdir / path).touch()
    with pytest.raises(UserError) as caught:
        find_config(name, near=Path())
    looked = display(Path(name))
    assert str(caught.value) == f"config file {name!r} not found (looked for {looked} and the shipped configs){hint}"


def test_a_misspelt_absolute_path_is_answered_like_any_other(workdir: Path) -> None:
    (workdir / "mine.yaml").touch()
    with pytest.raises(UserError, match=f"did you mean '{workdir}/mine.yaml'"):
        find_config(f"{workdir}/minne.yaml", near=Path())


def test_the_shipped_configs_are_all_listed(workdir: Path) -> None:
    assert {"defaults.yaml", "demo.yaml", "resnet18.yaml", "trainer/t4.yaml"} <= set(shipped_configs())
    assert shipped_configs() == sorted(shipped_configs())


@pytest.mark.parametrize(
    ("value", "named"),
    [("a.yaml", True), ("b/c.yml", True), ("a.yaml\nb: 1", False), ("a.json", False), (5, False), (None, False)],
)
def test_only_a_text_that_ends_like_one_names_a_yaml_file(value: object, named: bool) -> None:
    assert is_yaml_name(value) is named


def test_paths_are_shown_as_a_user_would_type_them(workdir: Path) -> None:
    assert display(Path("exp/../my.yaml")) == "my.yaml"
    assert display(SHIPPED / "trainer/cpu.yaml") == "configs/trainer/cpu.yaml"
    assert display(Path("/elsewhere/my.yaml")) == "/elsewhere/my.yaml"

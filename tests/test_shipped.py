"""``clf configs``: the list, and copies that work from where they lie and overwrite nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clf.config import compose
from clf.main import main
from clf.yamlfile import SHIPPED, shipped_configs

EXPERIMENTS = [name for name in shipped_configs() if "/" not in name and name != "defaults.yaml"]


def copy(*words: str) -> int:
    return main(["configs", "--copy", "mine", *words])


def files(folder: str | Path) -> dict[str, bytes]:
    """All files below a folder, by their path in it."""
    found = sorted(path for path in Path(folder).rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_configs_are_listed_with_their_headers_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    text = capsys.readouterr().out
    assert "configs/trainer/cpu.yaml\n    A machine without a GPU" in text
    assert all(line.startswith(("configs/", "    ")) for line in text.splitlines())
    assert [line.removeprefix("configs/") for line in text.splitlines() if line[0] == "c"] == shipped_configs()


def test_a_copy_has_every_file_and_says_how_to_train_with_one(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["configs", "--copy", "my own/configs"]) == 0
    assert files("my own/configs") == {name: (SHIPPED / name).read_bytes() for name in shipped_configs()}
    assert capsys.readouterr().out == (
        f"my own/configs: {len(shipped_configs())} of the shipped configs copied\n"
        "train with it: clf fit --config 'my own/configs/resnet18.yaml'\n"
        "my own/configs/defaults.yaml counts only for an experiment that names it, `config: defaults.yaml`\n"
    )


def test_copied_experiments_mean_what_the_shipped_ones_mean_and_are_made_of_copies_alone(workdir: Path) -> None:
    copy()
    for name in EXPERIMENTS:
        mine = compose([Path("mine") / name])
        assert mine.config == compose([SHIPPED / name]).config
        origins = {origin for origins in mine.origins.values() for origin in origins}
        assert {origin.split("/")[0] for origin in origins - {"configs/defaults.yaml"}} == {"mine"}, name


def test_what_is_changed_in_a_copied_part_counts_for_the_experiments_that_name_it(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy()
    part = Path("mine/trainer/t4.yaml")
    part.write_text(part.read_text().replace("max_epochs: 100", "max_epochs: 7"))
    capsys.readouterr()
    assert main(["fit", "--config", "mine/resnet50.yaml", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "max_epochs: 7" in printed
    assert "# trainer: configs/defaults.yaml, mine/trainer/t4.yaml" in printed


def test_a_copied_defaults_yaml_counts_where_it_is_named(workdir: Path) -> None:
    copy("defaults.yaml", "demo.yaml")
    Path("mine/defaults.yaml").write_text("seed_everything: 7\n")
    assert compose([Path("mine/demo.yaml")]).config["seed_everything"] == 42
    Path("mine/own.yaml").write_text("config: [defaults.yaml, demo.yaml]\n")
    assert compose([Path("mine/own.yaml")]).config["seed_everything"] == 7


@pytest.mark.parametrize("words", [["resnet50.yaml", "augment/ocr.yaml"], ["configs/resnet50.yaml"] * 2])
def test_only_what_is_named_is_copied_and_finds_the_rest_among_the_shipped(words: list[str], workdir: Path) -> None:
    assert copy(*words) == 0
    assert set(files("mine")) == {word.removeprefix("configs/") for word in words}
    assert compose([Path("mine/resnet50.yaml")]).config == compose([SHIPPED / "resnet50.yaml"]).config


def test_names_may_stand_on_both_sides_of_the_folder(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "demo.yaml", "--copy", "mine", "trainer/cpu.yaml"]) == 0
    assert set(files("mine")) == {"demo.yaml", "trainer/cpu.yaml"}
    assert capsys.readouterr().out.endswith("clf fit --config mine/demo.yaml\n")


# Nothing is overwritten.


def test_a_copy_that_is_there_by_half_is_completed(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy("demo.yaml", "trainer/cpu.yaml")
    Path("mine/own.yaml").write_text("config: demo.yaml\n")
    before = Path("mine/demo.yaml").stat()
    capsys.readouterr()
    assert copy() == 0
    assert set(files("mine")) == {*shipped_configs(), "own.yaml"}
    assert f"mine: {len(shipped_configs()) - 2} of the shipped configs copied, 2 already there\n" in (
        capsys.readouterr().out
    )
    assert Path("mine/demo.yaml").stat() == before
    assert copy() == 0
    assert "mine: 0 of the shipped configs copied" in capsys.readouterr().out


def test_a_file_that_differs_stops_everything_before_anything_is_written(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy("resnet18.yaml")
    Path("mine/resnet18.yaml").write_text("model.arch: mine\n")
    before = files("mine")
    assert copy() == 2
    message = "clf: mine/resnet18.yaml is there and differs from the shipped config; nothing was copied\n"
    assert capsys.readouterr().err == message
    copy("trainer/cpu.yaml", "vit_small.yaml")
    Path("mine/vit_small.yaml").write_text("")
    assert copy() == 2
    assert "clf: mine/resnet18.yaml (and 1 more) is there and differs" in capsys.readouterr().err
    assert set(files("mine")) == {*before, "trainer/cpu.yaml", "vit_small.yaml"}
    assert files("mine")["resnet18.yaml"] == before["resnet18.yaml"]


def test_neither_a_link_nor_a_folder_is_taken_for_a_copy(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/demo.yaml").mkdir(parents=True)
    Path("mine/resnet18.yaml").symlink_to("nowhere.yaml")
    for name in ("demo.yaml", "resnet18.yaml"):
        assert copy(name) == 2
        assert f"mine/{name} is there and differs" in capsys.readouterr().err
    assert sorted(path.name for path in Path("mine").iterdir()) == ["demo.yaml", "resnet18.yaml"]


@pytest.mark.parametrize(("taken", "named"), [("mine", "mine"), ("mine/trainer", "mine/trainer")])
def test_a_file_where_a_folder_has_to_be_is_said_before_anything_is_written(
    taken: str, named: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(taken).parent.mkdir(exist_ok=True)
    Path(taken).write_text("mine")
    assert copy() == 2
    assert capsys.readouterr().err == f"clf: {named} is no folder; name another one, nothing was copied\n"
    assert files(workdir) == {taken: b"mine"}


@pytest.fixture
def read_only(workdir: Path) -> Path:
    """A folder in which nothing can be made: for root, to whom modes mean nothing, the kernel's own."""
    if os.geteuid() == 0:
        return Path("/sys")
    (workdir / "locked").mkdir(mode=0o555)
    return Path("locked")


@pytest.mark.parametrize("below", ["", "mine"])
def test_a_folder_that_cannot_be_written_is_one_line(
    below: str, read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["configs", "--copy", str(read_only / below), "demo.yaml"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"clf: {read_only / below}")
    assert "cannot be written (" in line
    assert line.endswith("); name another folder")


def test_a_disk_that_is_full_leaves_no_half_of_a_file(workdir: Path) -> None:
    code = (
        "import resource, sys; from clf.main import main; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500));"
        "sys.exit(main(['configs', '--copy', 'mine']))"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"clf: .+: cannot be written \(file too large\); name another folder\n", done.stderr)
    assert {name: (SHIPPED / name).read_bytes() for name in files("mine")} == files("mine") != {}
    assert copy() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cpoy", "mine"], "unknown argument '--cpoy'; did you mean '--copy'?"),
        (["--copy"], "argument --copy: expected one argument"),
        (["--copy="], "--copy needs the name of a folder"),
        (["demo.yaml"], "'demo.yaml' goes with --copy DIR; without it, all are listed"),
        (["--copy", "mine", "resnet8.yaml"], "no shipped config 'resnet8.yaml'; did you mean 'resnet18.yaml'?"),
        (["--copy", "mine", "cpu.yaml"], "no shipped config 'cpu.yaml'; did you mean 'trainer/cpu.yaml'?"),
        (["--copy", "mine", "demo.yaml", "zzz"], "no shipped config 'zzz'; `clf configs` lists them"),
        (["--copy", "mine", "../pyproject.toml"], "no shipped config '../pyproject.toml'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(
    words: list[str], message: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["configs", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(workdir.iterdir()) == []

"""``clf synth``: what it makes, what it says, and what it refuses, for each of its three ways of calling."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import draw, draw_folders
from PIL import Image
from test_synthetic import FLAGS, files, images, made

from clf.data import rendering
from clf.data.datamodule import ImageData
from clf.data.synthetic import SyntheticJerseys
from clf.errors import UserError
from clf.main import main as clf
from clf.synth import main

SPEC = '- {labels: ["7", "00"], jersey_colors: [red, navy], number_colors: [white], borders: [none], count: 2}\n'
TRAIN = (
    "train on both: clf fit --config configs/jersey_numbers.yaml --data.root '[real, real-rendered]' "
    "--data.train_only '{source: rendered}'"
)


@pytest.fixture
def real(workdir: Path) -> Path:
    """Make a real dataset: 2 of 7, 4 of 00, 5 of 8 and 1 of a class that is no number; 12 pixels wide and 30 high."""
    for label, count in {"7": 2, "00": 4, "8": 5, "referee": 1}.items():
        for number in range(count):
            draw(workdir / "real" / "train" / label / f"{number}.png", seed=number, size=(12, 30))
    draw_folders(workdir / "real", {"valid/7": 9})
    return workdir / "real"


def fill(*more: str) -> int:
    return main(["--fill", "real", "--below", "5", "--to", "6", *more])


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train" / "annotations.jsonl").read_text().splitlines()]


def heights(folder: Path) -> set[int]:
    def measure() -> Iterator[int]:
        for path in folder.rglob("*.jpg"):
            with Image.open(path) as image:
                yield image.height

    return set(measure())


# A dataset.


def test_the_command_says_what_it_made_and_how_to_train_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my data"
    assert main(["--output", str(root), *FLAGS]) == 0
    first = capsys.readouterr().out
    assert f"{root}: 3 classes; images: train 9, val 6, test 3\n" in first
    assert f"clf fit --config configs/jersey_numbers.yaml --data.root '{root}'\n" in first
    assert files(root) == files(made(tmp_path / "by hand"))
    assert main(["--output", str(root), *FLAGS]) == 0
    assert "(was already there)" in capsys.readouterr().out


def test_every_flag_of_the_command_reaches_the_dataset(tmp_path: Path) -> None:
    flags = {"seed": 9, "size_min": 20, "size_max": 24, "degradation": 0.25, "rotation": 3.0, "tightness": 0.6}
    main(["--output", str(tmp_path / "data"), *FLAGS, *(f"--{key}={value}" for key, value in flags.items())])
    assert files(tmp_path / "data") == files(made(tmp_path / "by hand", **flags))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "the following arguments are required: --output"),
        (["--output", "x", "--seeed", "3"], r"unknown argument '--seeed'; did you mean '--seed'\?"),
        (["--output", "x", "--train", "3"], "unknown argument '--train'"),
        (["--output", "x", "--seed", "three"], "argument --seed: invalid int value: 'three'"),
        (["--output", "x", "--classes"], "argument --classes: expected at least one argument"),
        (["--output", "x", "--classes", "ten"], "classes has 'ten'"),
    ],
)
def test_a_mistyped_command_is_one_message_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        main(argv)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{key}" in text for key in SyntheticJerseys().record if key != "renderer")


def test_the_command_needs_neither_torch_nor_rich_to_start() -> None:
    code = "import sys, clf.synth; print([m for m in ('torch', 'rich') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--fill", "x", "--spec", "y"], "--fill and --spec are two commands; give one of them"),
        (["--fill", "x", "--classes", "7"], "--classes does not go with --fill"),
        (["--spec", "x", "--output", "y", "--train_per_class", "7"], "--train_per_class does not go with --spec"),
        (["--spec", "x", "--output", "y", "--below", "7"], "--below goes with --fill alone"),
        (["--output", "y", "--to", "7"], "--to goes with --fill alone"),
        (["--spec", "x"], "the following arguments are required: --output"),
        (["--spec", "x", "--output", "y"], "x: No such file"),
        (["--fill", "x"], "--fill='x' is not there"),
        (["--fill", "x", "--below", "300"], "--below=300, --to=200 fill nothing"),
        (["--fill", "x", "--bellow", "3"], r"unknown argument '--bellow'; did you mean '--below'\?"),
        (["--fill", "x", "--to", "many"], "argument --to: invalid int value: 'many'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(workdir: Path, argv: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        main(argv)
    assert list(workdir.iterdir()) == []


# The rare classes of a real dataset.


def test_rare_numbers_are_filled_in_a_root_beside_the_real_one(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(real)
    assert fill() == 0
    assert capsys.readouterr().out.splitlines() == [
        "real: 4 classes, 12 training images",
        "full (5 images or more): 1 of 4 classes",
        "no jersey numbers, left as they are: 'referee'",
        "heights: 30 to 30 pixels, as nine of ten of the real images have (12 measured)",
        "  class    real  rendered   total",
        "  7           2         4       6",
        "  00          4         2       6",
        "real-rendered: 2 classes; images: train 6",
        TRAIN,
    ]
    assert files(real) == before
    made = real.with_name("real-rendered")
    assert {path.name for path in made.iterdir()} == {"train", "synthetic.json"}
    assert [row["suffix"] for row in rows(made)] == ["00"] * 2 + ["7"] * 4
    assert all(row["metadata"]["source"] == "rendered" for row in rows(made))
    assert heights(made) == {30}


def test_what_was_rendered_is_a_dataset_that_clf_reads(real: Path) -> None:
    fill("--output", "more")
    data = ImageData(root="more", val_fraction=0.5)
    assert data.classes == ["00", "7"]
    assert {sample.metadata["source"] for sample in data.samples("train")} == {"rendered"}


def test_what_was_rendered_joins_the_real_images_and_is_never_validated_on(real: Path) -> None:
    fill("--output", "more")
    alone, both = ImageData(root="real"), ImageData(root=["real", "more"], train_only={"source": "rendered"})
    assert len(both.samples("train")) == len(alone.samples("train")) + 6
    assert [sample.path for sample in both.samples("val")] == [sample.path for sample in alone.samples("val")]


def test_filling_again_finds_what_is_there_and_another_way_is_refused(
    real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill()
    before = files(real.parent)
    fill()
    assert "real-rendered: 2 classes; images: train 6 (was already there)\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="real-rendered holds a rendered dataset with seed 42, not 3; name a new"):
        fill("--seed", "3")
    with pytest.raises(UserError, match="2 images of train/00, not 3; 4 images of train/7, not 5; name a new"):
        fill("--to", "7")
    assert files(real.parent) == before


def test_more_images_leave_those_that_are_there_as_they_are(real: Path) -> None:
    fill("--output", "few")
    fill("--output", "many", "--to", "9")
    few, many = images(Path("few")), images(Path("many"))
    assert len(many) == len(few) + 6
    assert {name: many[name] for name in few} == few


@pytest.mark.parametrize(
    "flag", ["--seed=3", "--size_min=20", "--size_max=40", "--degradation=1", "--rotation=40", "--tightness=0.9"]
)
def test_every_flag_about_looks_changes_what_is_filled_in(real: Path, flag: str) -> None:
    fill("--output", "one")
    fill("--output", "two", flag)
    assert images(Path("one")).keys() == images(Path("two")).keys()
    assert images(Path("one")) != images(Path("two"))


def test_given_heights_are_not_measured(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (real / "train" / "7" / "0.png").write_text("no image")
    fill("--size_min", "20", "--size_max", "21")
    assert "heights" not in capsys.readouterr().out
    assert heights(real.with_name("real-rendered")) <= {20, 21}


def test_numbers_are_drawn_in_tight_crops_unless_asked_for_otherwise(real: Path) -> None:
    fill("--output", "one")
    fill("--output", "two", "--tightness", "0.6")
    assert images(Path("one")) == images(Path("two"))


@pytest.mark.parametrize(
    ("below", "says"),
    [("2", "full (2 images or more): 3 of 4 classes"), ("1", "full (1 images or more): 3 of 4 classes")],
)
def test_nothing_to_fill_is_said_and_makes_nothing(
    real: Path, capsys: pytest.CaptureFixture[str], below: str, says: str
) -> None:
    assert fill("--below", below) == 0
    said = capsys.readouterr().out
    assert says in said
    assert said.endswith("nothing to fill, and no folder was made\n")
    assert list(real.parent.iterdir()) == [real]


def test_a_dataset_without_jersey_numbers_has_nothing_to_fill(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folders(workdir / "real", {f"train/{name}": 1 for name in ("ant", "bee", "cat", "dog")})
    assert fill() == 0
    said = capsys.readouterr().out
    assert "no jersey numbers, left as they are: 'ant', 'bee', 'cat' and 1 more\nnothing to fill" in said
    assert "full" not in said


@pytest.mark.parametrize("output", ["real", "real/train", "real/../real/more"])
def test_nothing_is_ever_written_into_the_real_dataset(real: Path, output: str) -> None:
    before = files(real)
    with pytest.raises(UserError, match=r"lies in the real dataset 'real'; name a folder outside it"):
        fill("--output", output)
    assert files(real) == before


def test_the_default_folder_stands_beside_the_root_however_that_is_written(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill()
    before = files(real.parent)
    main(["--fill", "real/", "--below", "5", "--to", "6"])
    monkeypatch.chdir(real)
    main(["--fill", ".", "--below", "5", "--to", "6"])
    assert files(real.parent) == before


def test_the_command_to_train_quotes_odd_folder_names(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill("--output", "more, of it")
    assert """--data.root '["real", "more, of it"]' --data.train_only""" in capsys.readouterr().out


def test_an_interrupted_filling_leaves_nothing(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(rendering, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(real.parent.iterdir()) == [real]


def test_a_mistyped_root_is_one_line_with_exit_code_2(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clf(["synth", "--fill", "reel"]) == 2
    assert capsys.readouterr().err == (
        "clf: --fill='reel' is not there; did you mean 'real'?; name the dataset as in data.root\n"
    )


# Chosen numbers and colours.


def test_chosen_combinations_are_rendered_and_named(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "wanted.yaml").write_text(SPEC + SPEC.replace("count: 2", "count: 1, split: val"))
    argv = ["--spec", "wanted.yaml", "--output", "wanted"]
    assert main(argv) == 0
    assert capsys.readouterr().out == (
        "wanted: 2 classes, 8 combinations; images: train 8, val 4\n"
        "train on it: clf fit --config configs/jersey_numbers.yaml --data.root wanted\n"
    )
    found = rows(workdir / "wanted")
    assert [(row["suffix"], row["metadata"]["jersey_color"]) for row in found[::2]] == [
        ("00", "navy"),
        ("00", "red"),
        ("7", "navy"),
        ("7", "red"),
    ]
    assert {row["metadata"]["number_color"] for row in found} == {"white"}
    assert {row["metadata"]["border"] for row in found} == {"none"}
    assert found[0]["image"] == "00_navy_white_none_00000.jpg"
    assert len(list((workdir / "wanted" / "valid").glob("*.jpg"))) == 4
    before = files(workdir)
    main(argv)
    assert "(was already there)" in capsys.readouterr().out
    assert files(workdir) == before


def test_the_list_is_part_of_what_the_folder_is(workdir: Path) -> None:
    (workdir / "wanted.yaml").write_text(SPEC)
    main(["--spec", "wanted.yaml", "--output", "wanted"])
    (workdir / "wanted.yaml").write_text(SPEC.replace("red, ", ""))
    with pytest.raises(UserError, match="2 images of train/00/red/white/none, not 0; 2 images of train/7/red"):
        main(["--spec", "wanted.yaml", "--output", "wanted"])


def test_the_order_of_the_list_changes_nothing(workdir: Path) -> None:
    (workdir / "one.yaml").write_text(SPEC)
    (workdir / "two.yaml").write_text(SPEC.replace("red, navy", "navy, red").replace('"7", "00"', '"00", "7"'))
    for name in ("one", "two"):
        main(["--spec", f"{name}.yaml", "--output", name])
    assert files(Path("one")) == files(Path("two"))


def test_other_combinations_and_more_images_leave_the_others_as_they_are(workdir: Path) -> None:
    (workdir / "few.yaml").write_text(SPEC)
    (workdir / "many.yaml").write_text(SPEC.replace("red, navy", "green, navy, red").replace("2}", "3}"))
    for name in ("few", "many"):
        main(["--spec", f"{name}.yaml", "--output", name])
    few, many = images(Path("few")), images(Path("many"))
    assert len(set(many.values())) == 18
    assert {name: many[name] for name in few} == few


@pytest.mark.parametrize(
    "flag", ["--seed=3", "--size_min=20", "--size_max=80", "--degradation=1", "--rotation=40", "--tightness=0.9"]
)
def test_every_flag_about_looks_changes_chosen_combinations(workdir: Path, flag: str) -> None:
    (workdir / "wanted.yaml").write_text(SPEC)
    main(["--spec", "wanted.yaml", "--output", "one"])
    main(["--spec", "wanted.yaml", "--output", "two", flag])
    assert images(Path("one")).keys() == images(Path("two")).keys()
    assert images(Path("one")) != images(Path("two"))

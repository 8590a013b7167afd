"""Lists of images that are left out: what a line may say, what is counted, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from datasets import draw_pets, image_data, touch

from clf.data.datamodule import ImageData
from clf.data.folder import FolderSource
from clf.data.layout import Tree
from clf.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw_pets(tmp_path / "pets")


def excluding(root: Path, text: str, *, file: str = "bad.txt", **options: Any) -> ImageData:
    (root.parent / file).write_text(text)
    return image_data(root, exclude=str(root.parent / file), **options)


def gone(root: Path, text: str, **options: Any) -> list[str]:
    """Name what a list leaves out of train."""
    left = {sample.path for sample in excluding(root, text, **options).samples("train")}
    all_of_it = [sample.path for sample in image_data(root).samples("train")]
    return [path.removeprefix(f"{root}/train/") for path in all_of_it if path not in left]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("train/cat/1.png", ["cat/1.png"]),
        ("./train/dog/../cat/1.png", ["cat/1.png"]),
        ("pets/train/cat/1.png", ["cat/1.png"]),
        ("ROOT/train/cat/1.png", ["cat/1.png"]),
        ("  train/cat/1.png  \n\n# train/cat/2.png\n", ["cat/1.png"]),
        ("train/cat/*", [f"cat/{i}.png" for i in range(6)]),
        ("*/1.png", ["cat/1.png", "dog/1.png"]),
        ("train/*/[01].png", ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]),
        ("pets/*/dog/?.png", [f"dog/{i}.png" for i in range(5)]),
        ("cat/1.png", []),
        ("1.png", []),
        ("train/cat", []),
        ("train/CAT/1.png", []),
    ],
)
def test_a_line_is_a_path_below_the_root_or_beside_the_list(root: Path, line: str, names: list[str]) -> None:
    touch(root, "train/emu/0.jpg", "train/yak/0.jpg")  # two classes must be left
    assert gone(root, line.replace("ROOT", str(root))) == names


def test_an_image_whose_name_looks_like_a_pattern_can_be_named(root: Path) -> None:
    touch(root, "train/cat/a[1].png", "train/cat/a1.png")
    assert "cat/a[1].png" in gone(root, "train/cat/a[1].png")


def test_list_beside_a_relative_root_works(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    Path("bad.txt").write_text("pets/train/cat/0.png\ntrain/cat/1.png\n")
    assert len(image_data("pets", exclude="bad.txt").samples("train")) == 9
    monkeypatch.chdir(root)
    assert len(image_data(".", exclude="../bad.txt").samples("train")) == 9


def test_each_list_says_what_it_left_out_and_which_lines_match_nothing(root: Path) -> None:
    (root / "more.txt").write_text("train/cat/0.png\ntest/*\n" + "# none\ngone.png\nalso/gone.png\n")
    (root.parent / "bad.txt").write_text("train/cat/0.png\ntrain/cat/1.png\nvalid/cat/0.png\n")
    touch(root, "test/cat/new.jpg")
    lists = [f"{root.parent}/bad.txt", f"{root}/more.txt"]
    (root / "more.txt").write_text("train/cat/0.png\ntest/*.png\n" + "# none\ngone.png\nalso/gone.png\n")
    module = image_data(root, exclude=lists)
    assert module.describe().endswith("9 train / 4 val / 1 test images")
    assert module.catalogue.notes == [
        f"{lists[0]}: 3 images left out",
        f"{lists[1]}: 4 images left out; 2 lines match nothing, e.g. line 4: 'gone.png'",
    ]


def test_lines_that_match_only_in_a_split_that_is_not_used_are_no_mistake(root: Path) -> None:
    module = excluding(root, "test/cat/0.png\n")
    module.setup("fit")
    assert module.catalogue.notes == [f"{root.parent}/bad.txt: 1 image left out"]


def test_exclusion_comes_before_the_rules(root: Path) -> None:
    touch(root, "valid/emu/0.png", "train/ape/1.png")
    module = excluding(root, "valid/emu/*\ntrain/ape/*\n")
    assert module.classes == ["cat", "dog"]
    assert len(module.samples("val")) == 5


def test_list_works_for_each_of_several_roots(root: Path, tmp_path: Path) -> None:
    draw_pets(tmp_path / "others")
    (tmp_path / "bad.txt").write_text("train/cat/0.png\nothers/train/cat/1.png\n")
    module = image_data([str(root), f"{tmp_path}/others"], exclude=f"{tmp_path}/bad.txt")
    assert len(module.samples("train")) == 22 - 3


def test_list_works_without_a_root(root: Path) -> None:
    source = FolderSource(Tree(str(root)))
    (root.parent / "bad.txt").write_text("pets/train/cat/1.png\ntrain/cat/2.png\n")
    module = image_data(None, source=source, exclude=f"{root.parent}/bad.txt")
    assert len(module.samples("train")) == 10


def test_list_that_leaves_nothing_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"folder layout in .*: data.exclude leaves no image in val; shorten the lists"):
        excluding(root, "valid/*\n").setup("fit")


def test_list_that_cannot_be_read_is_refused(root: Path) -> None:
    touch(root.parent, "bad.txt")
    with pytest.raises(
        UserError, match=r"data.exclude='.*/bda.txt' cannot be read \(No such .*\); did you mean 'bad.txt'"
    ):
        image_data(root, exclude=f"{root.parent}/bda.txt").setup("fit")
    (root.parent / "bad.txt").write_bytes(b"a.png\n\n/b\0b/1.png\n")
    with pytest.raises(UserError, match=r"bad.txt:3: the line holds a null byte, as no path does; mend it"):
        image_data(root, exclude=f"{root.parent}/bad.txt").setup("fit")
    (root.parent / "bad.txt").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"bad.txt: not UTF-8 \(.*\); data.exclude wants text with a path on a line"):
        image_data(root, exclude=f"{root.parent}/bad.txt").setup("fit")

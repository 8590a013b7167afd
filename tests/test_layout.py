"""The tree on disk: split folders, hidden files, loops, and which layout it is."""

import os
from pathlib import Path

import pytest
from datasets import touch

from clf.data.layout import Tree, is_image, scan
from clf.errors import UserError


def test_root_that_does_not_exist_is_refused_with_its_likely_name(tmp_path: Path) -> None:
    touch(tmp_path, "birds/train/a/1.jpg")
    with pytest.raises(UserError, match=r"data.root='.*brids' is not a folder; did you mean 'birds'\?"):
        Tree(str(tmp_path / "brids"))


@pytest.mark.parametrize("root", ["", "no/such/place"])
def test_root_without_any_neighbour_is_refused_all_the_same(root: str) -> None:
    with pytest.raises(UserError, match=rf"data.root='{root}' is not a folder"):
        Tree(root)


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        Tree(str(touch(tmp_path, "data.zip") / "data.zip"))


def test_root_without_split_folders_is_train(tmp_path: Path) -> None:
    tree = Tree(str(touch(tmp_path, "cat/1.jpg", "validation/1.jpg")))
    assert (tree.has_splits, tree.folder("train"), tree.folder("val"), tree.folder("test")) == (
        *(False, str(tmp_path)),
        *(None, None),
    )
    assert tree.notes == []


def test_two_validation_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg")
    with pytest.raises(UserError, match="both 'valid' and 'val'; keep one"):
        Tree(str(tmp_path))


@pytest.mark.parametrize("name", ["val", "valid"])
def test_either_name_is_the_validation_split(tmp_path: Path, name: str) -> None:
    tree = Tree(str(touch(tmp_path, f"{name}/a/1.jpg")))
    assert tree.folder("val") == f"{tmp_path}/{name}"
    assert tree.folder("train") is None


def test_folder_whose_name_only_resembles_a_split_is_not_read_and_said(tmp_path: Path) -> None:
    tree = Tree(str(touch(tmp_path, "train/a/1.jpg", "validation/a/1.jpg", "images/1.jpg", ".test/x", "tests.txt")))
    assert tree.notes == [
        f"{tmp_path}/validation is not read: the folders of splits are called train, valid (or val) and test"
    ]


def test_files_are_sorted_by_code_point_and_hidden_ones_set_apart(tmp_path: Path) -> None:
    names = ["train/b/2.jpg", "train/b/10.jpg", "train/B/1.jpg", "train/a.b/1.jpg", "train/a/1.jpg"]
    touch(tmp_path, *names, "train/.DS_Store", "train/b/.x.jpg", "train/.cache/1.jpg", "train/__MACOSX/1.jpg")
    visible, hidden = Tree(str(tmp_path)).files("train")
    assert visible == ["B/1.jpg", "a.b/1.jpg", "a/1.jpg", "b/10.jpg", "b/2.jpg"]
    assert hidden == [".DS_Store", ".cache", "__MACOSX", "b/.x.jpg"]


def test_recognising_the_layout_does_not_cost_a_second_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    scanned: list[str] = []
    scandir = os.scandir

    def counting(path: str) -> object:
        scanned.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    tree = Tree(str(tmp_path))
    tree.recognise()
    tree.files("train")
    assert len(scanned) == len(set(scanned))


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["train/cat/1.jpg", "train/dog/1.jpg"], "folder"),
        (["train/1.jpg", "train/annotations.jsonl"], "jsonl"),
        (["train/images/1.jpg", "train/deep/down/rows.jsonl"], "jsonl"),
        (["train/cat/1.jpg", "test/rows.jsonl", "test/1.jpg"], "jsonl"),
        (["train/cat/1.jpg", "train/.hidden.jsonl", "rows.jsonl"], "folder"),
    ],
)
def test_layout_is_recognised(tmp_path: Path, files: list[str], layout: str) -> None:
    assert Tree(str(touch(tmp_path, *files))).recognise() == layout


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "train/a/2.jpg")
    (tmp_path / "train/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/a/up").symlink_to(tmp_path / "train")
    assert [name for name, _ in sorted(scan(str(tmp_path / "train")))] == ["a/2.jpg", "b/1.jpg"]


def test_folder_that_cannot_be_listed_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: cannot be listed"):
        list(scan(str(tmp_path / "gone")))


@pytest.mark.parametrize(("path", "image"), [("a.JPG", True), ("a.tiff", True), ("a.jpg.txt", False), ("jpg", False)])
def test_images_are_told_by_their_suffix_in_any_case(path: str, image: bool) -> None:
    assert is_image(path) is image

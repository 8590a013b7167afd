"""The folder layout: what becomes a sample, what is left out and said, what is refused."""

from pathlib import Path

import pytest
from datasets import touch

from clf.data.folder import FolderSource
from clf.data.layout import Tree
from clf.data.samples import Split
from clf.errors import UserError


def source(root: Path, *paths: str) -> FolderSource:
    return FolderSource(Tree(str(touch(root, *paths))))


def test_label_is_the_first_folder_however_deep_the_image_lies(tmp_path: Path) -> None:
    samples = source(tmp_path, "train/00/b/c/2.png", "train/00/1.jpg", "train/0/1.jpg").samples("train")
    assert [(s.path, s.label) for s in samples] == [
        (f"{tmp_path}/train/0/1.jpg", "0"),
        (f"{tmp_path}/train/00/1.jpg", "00"),
        (f"{tmp_path}/train/00/b/c/2.png", "00"),
    ]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "JPG"])
def test_every_image_suffix_is_found(tmp_path: Path, suffix: str) -> None:
    assert len(source(tmp_path, f"train/a/1.{suffix}").samples("train")) == 1


def test_split_without_a_folder_is_empty(tmp_path: Path) -> None:
    assert source(tmp_path, "train/a/1.jpg").samples("test") == []


def test_what_is_no_image_in_a_class_folder_is_ignored_counted_and_named(tmp_path: Path) -> None:
    folder = source(
        tmp_path, "train/a/1.jpg", "train/a/notes.txt", "train/loose.jpg", "train/a/.DS_Store", "train/.x/y"
    )
    assert len(folder.samples("train")) == 1
    (note,) = folder.notes
    assert "ignored 4 hidden or other files" in note
    assert "'.x', 'a/.DS_Store', 'a/notes.txt' and 1 more" in note


def test_nothing_is_said_where_nothing_is_ignored(tmp_path: Path) -> None:
    folder = source(tmp_path, "train/a/1.jpg")
    folder.samples("train")
    assert folder.notes == []


def test_class_folder_without_images_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = source(tmp_path, "train/cat/1.jpg", "train/dog/readme.txt", "train/emu/.keep")
    with pytest.raises(UserError, match=r"class folders without images: '.*/train/dog', '.*/train/emu'; add images"):
        folder.samples("train")


def test_empty_class_folder_outside_train_is_no_mistake(tmp_path: Path) -> None:
    folder = source(tmp_path, "test/cat/1.jpg", "test/dog/.keep")
    assert [sample.label for sample in folder.samples("test")] == ["cat"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_without_class_folders_is_refused(tmp_path: Path, split: Split) -> None:
    folder = source(tmp_path, f"{split}/1.jpg")
    with pytest.raises(UserError, match=rf"no class folders in '.*/{split}'; expected .*/{split}/<class>/\*"):
        folder.samples(split)


def test_split_without_images_is_refused(tmp_path: Path) -> None:
    folder = source(tmp_path, "valid/cat/.keep")
    with pytest.raises(UserError, match=r"no images in '.*/valid'"):
        folder.samples("val")


def test_it_says_what_and_where_it_is(tmp_path: Path) -> None:
    assert str(source(tmp_path, "train/a/1.jpg")) == f"folder layout in {tmp_path}"

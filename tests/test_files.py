"""Files and folders that are whole or not there."""

import csv
from pathlib import Path

import pytest
from datasets import touch

from clf.files import new_folder, replace_csv


def test_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep/data"
    with new_folder(target) as partial:
        touch(partial, "a/1.txt")
        assert not target.exists()
    assert (target / "a/1.txt").exists()
    assert list(target.parent.iterdir()) == [target]


def test_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "data") as partial:
            touch(partial, "1.txt")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_folder_of_another_process_is_kept(tmp_path: Path) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "data") as partial:
            touch(partial, "mine.txt")
            touch(tmp_path, "data/theirs.txt")

    with pytest.raises(OSError, match="not empty"):
        fill()
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "theirs.txt"]


def test_whatever_a_cell_holds_it_stays_one_cell(tmp_path: Path) -> None:
    rows = [['a,"b".png', "<b>", "c\nd"], ["", "0.25", "שלום"]]
    replace_csv(tmp_path / "new/table.csv", ["path", 'the "class"', "label"], rows)
    with (tmp_path / "new/table.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["path", 'the "class"', "label"], *rows]

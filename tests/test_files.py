"""Files and folders that are whole or not there."""

from pathlib import Path

import pytest
from datasets import touch

from clf.files import new_folder


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

"""What lies on disk: whether a file is there, and which file a path leads to."""

import os
from pathlib import Path

import pytest
from datasets import touch

from clf.data.disk import Disk
from clf.errors import UserError


def test_a_file_is_there_or_not(tmp_path: Path) -> None:
    disk = Disk()
    touch(tmp_path, "a/1.jpg")
    assert disk.holds(f"{tmp_path}/a/1.jpg")
    assert not disk.holds(f"{tmp_path}/a/2.jpg")
    assert not disk.holds(f"{tmp_path}/nowhere/1.jpg")
    assert not disk.holds(f"{tmp_path}/a/1.jpg/2.jpg")


def test_all_paths_to_a_file_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "2.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a/link.jpg").symlink_to(tmp_path / "2.jpg")
    monkeypatch.chdir(tmp_path)
    disk = Disk()
    same = ["a/1.jpg", "./a/1.jpg", "b/1.jpg", "a/../b/1.jpg", f"{tmp_path}/a//1.jpg"]
    assert {disk.real(path) for path in same} == {os.path.realpath("a/1.jpg")}
    assert {disk.real(path) for path in ("2.jpg", "a/link.jpg", "b/link.jpg")} == {os.path.realpath("2.jpg")}
    for path in ("nowhere/1.jpg", "3.jpg", "/3.jpg"):
        assert disk.real(path) == os.path.realpath(path)


def test_folder_is_listed_once_for_all_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *[f"{i}.jpg" for i in range(9)])
    asked: list[str] = []
    scandir = os.scandir

    def counting(path: str) -> object:
        asked.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    disk = Disk()
    for i in range(9):
        disk.holds(f"{tmp_path}/{i}.jpg")
        disk.real(f"{tmp_path}/{i}.jpg")
    assert len(asked) == 1


def test_folder_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match="loop: cannot be listed"):
        Disk().holds(f"{loop}/1.jpg")


def test_there_is_nothing_under_a_path_that_is_too_long(tmp_path: Path) -> None:
    path = f"{tmp_path}/{'x' * 5000}/1.jpg"
    assert not Disk().holds(path)
    assert Disk().real(path) == path

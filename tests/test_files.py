"""Files and folders that are whole or not there."""

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import touch

from clf import files, options
from clf.files import new_folder, replace_csv, replace_text, replacement
from clf.mounts import mount_of


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


def test_a_device_or_a_pipe_that_an_option_names_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    null, pipe = tmp_path / "null", tmp_path / "pipe"
    null.symlink_to(os.devnull)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (null, pipe):
        options.write("--json", str(path), "hello")
    assert os.read(reader, 100) == b"hello"
    os.close(reader)
    assert null.is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["null", "pipe"]


def test_a_link_that_an_option_names_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/file")
    for text in ("made", "replaced"):
        options.write("--json", str(tmp_path / "link"), text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "elsewhere/file").read_text() == text


@pytest.mark.parametrize("renames", [True, False])
@pytest.mark.parametrize("kind", ["file", "device", "pipe", "nothing"])
def test_what_a_link_of_ours_leads_to_is_left_alone(
    kind: str, renames: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = mount_of(tmp_path)
    monkeypatch.setattr(files, "mount_of", lambda path: replace(here, renames=renames))
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    if kind == "pipe":
        os.mkfifo(ours)
    else:
        ours.symlink_to(os.devnull if kind == "device" else theirs)
    if kind == "file":
        theirs.write_text("precious")
    replace_text(ours, "made")
    assert (ours.is_symlink(), ours.is_file(), ours.read_text()) == (False, True, "made")
    assert (theirs.read_text() if kind == "file" else theirs.exists()) == ("precious" if kind == "file" else False)


def test_a_folder_is_replaced_as_a_whole_whoever_else_does(tmp_path: Path) -> None:
    def put(writer: int) -> None:
        for turn in range(40):
            with replacement(tmp_path / "data") as made:
                for name in ("one", "two"):
                    (made / name).write_text(f"{writer} {turn}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data/one").read_text() == (tmp_path / "data/two").read_text()


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    touch(tmp_path, "data/before.txt")

    def fill() -> None:
        with replacement(tmp_path / "data") as made:
            touch(made, "after.txt")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "before.txt"]


def test_a_table_gives_every_cell_back(tmp_path: Path) -> None:
    rows = [["lone\rreturn", "1"], ["two\nlines", ""], ['"quoted", with comma', "<b>"], ["\r\n", "שלום"]]
    replace_csv(tmp_path / "new/x.csv", ['the "class"', "n"], rows)
    with (tmp_path / "new/x.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [['the "class"', "n"], *rows]


def test_text_that_utf_8_cannot_hold_is_spelled_out_as_json_does(tmp_path: Path) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    replace_text(tmp_path / "x.json", json.dumps({"class": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"class": name}

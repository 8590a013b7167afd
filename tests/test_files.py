"""Files and folders that are whole or not there."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import touch

from clf.files import csv_text, new_folder, replace_text


def confusion_matrix(name: str) -> str:
    from clf.callbacks.confusion_matrix import as_csv

    return as_csv(np.ones((1, 1), np.int64), [name])


def mistakes(name: str) -> str:
    from clf.callbacks.mistakes import as_csv

    return as_csv([("x.png", name, "b", 0.5)])


def sampler(name: str) -> str:
    from clf.callbacks.sampler_distribution import _as_csv

    return _as_csv({0: (np.ones(1, np.int64), np.ones(1))}, [name])


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


def test_a_table_gives_every_cell_back(tmp_path: Path) -> None:
    rows = [["class", "n"], ["lone\rreturn", "1"], ["two\nlines", "2"], ['"quoted", with comma', "3"], ["\r\n", "4"]]
    (tmp_path / "x.csv").write_bytes(csv_text(rows).encode())
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == rows


@pytest.mark.parametrize("table", [confusion_matrix, mistakes, sampler])
def test_class_names_with_a_carriage_return_stay_in_their_cell(table: Callable[[str], str]) -> None:
    assert '"a\rb"' in table("a\rb")


def test_text_that_utf_8_cannot_hold_is_spelled_out_as_json_does(tmp_path: Path) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    replace_text(tmp_path / "x.json", json.dumps({"class": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"class": name}

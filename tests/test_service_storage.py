import hashlib
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import picture

from clf.service.storage import Shelf, Storage


def test_files_of_others_are_neither_counted_nor_deleted(tmp_path: Path) -> None:
    others = ["holiday.jpg", "notes.txt", f"{'a' * 64}.jpg.partial", f"{'A' * 64}.jpg", f"{'a' * 63}.jpg", "a" * 64]
    ours = [f"{number:064x}.jpg" for number in range(3)]
    for age, name in enumerate([*others, *ours]):
        (tmp_path / name).write_bytes(b"old")
        os.utime(tmp_path / name, (age, age))
    shelf = Shelf(tmp_path, keep=2)
    shelf.put(f"{9:064x}.png", b"new", replace=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, ours[2], f"{9:064x}.png"}


def test_what_killed_processes_left_unfinished_is_swept_out(tmp_path: Path) -> None:
    old, new = (tmp_path / f".{number:064x}.jpg.0123abcd.partial" for number in range(2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Shelf(tmp_path, keep=2)
    assert [*tmp_path.iterdir()] == [new]


def test_a_folder_that_cannot_be_used_is_said_once_and_again_when_it_breaks_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Shelf(tmp_path / ("n" * 300), keep=2)
    assert "nothing is kept in" in caplog.text
    caplog.clear()
    (tmp_path / "shelf").write_text("a file, for now")
    shelf = Shelf(tmp_path / "shelf", keep=2)
    for works in (False, False, True, False):
        (tmp_path / "shelf").unlink() if (tmp_path / "shelf").is_file() else shutil.rmtree(tmp_path / "shelf")
        (tmp_path / "shelf").mkdir() if works else (tmp_path / "shelf").write_text("a file")
        shelf.put(f"{works:064x}.png", b"new", replace=True)
    assert caplog.text.count("nothing is kept in") == 2


def test_the_result_that_is_kept_is_the_last_one(tmp_path: Path) -> None:
    up, done, image = tmp_path / "up", tmp_path / "done", picture()
    for model in ("old", "new"):
        Storage(str(up), str(done), keep=9).keep(image, {"label": "cat", "model": model})
    storage = Storage(str(up), str(done), keep=9)
    storage.keep(image, {"label": "dog", "model": "new"})
    storage.keep(image, {"label": "dog", "model": "newer"})
    [upload], [result] = up.iterdir(), done.iterdir()
    digest = hashlib.sha256(image).hexdigest()
    assert (upload.name, upload.read_bytes()) == (f"{digest}.png", image)
    assert json.loads(result.read_text()) == {"sha256": digest, "label": "dog", "model": "newer"}


def test_an_image_that_comes_again_is_among_the_newest(tmp_path: Path) -> None:
    storage, images = Storage(str(tmp_path), "", keep=2), [picture(seed=seed) for seed in range(3)]
    for number in (0, 1, 0, 2):
        storage.keep(images[number], {})
    digests = {hashlib.sha256(images[number]).hexdigest() for number in (0, 2)}
    assert {path.stem for path in tmp_path.iterdir()} == digests


def test_processes_that_keep_the_same_image_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image, both_are_writing = picture(), threading.Barrier(2, timeout=30)
    results = [{"label": "cat"}, {"label": "a label that is longer"}]
    monkeypatch.setattr("clf.files.os.fsync", lambda _: both_are_writing.wait())
    storages = [Storage("", str(tmp_path), keep=9) for _ in results]  # as in two processes: they share no lock
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda storage, result: storage.keep(image, result), storages, results))
    [kept] = tmp_path.iterdir()
    assert json.loads(kept.read_text())["label"] in {result["label"] for result in results}
    assert not caplog.text

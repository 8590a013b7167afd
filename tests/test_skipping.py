"""``data.on_error: skip``: bad files are found before training, counted, listed, and the same ones ever after."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import draw, draw_pets, image_data, table
from test_cli import FIT, assert_equal, folder, weights

from clf.data.exclusion import Exclusion, line_for
from clf.data.samples import Sample
from clf.errors import UserError
from clf.main import main

__all__ = ["folder"]

SKIP: dict[str, Any] = {"on_error": "skip", "max_bad_fraction": 0.2}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Nineteen images, of which one of train and one of val are bad."""
    root = draw_pets(tmp_path / "pets")
    content = (root / "train/cat/1.png").read_bytes()
    (root / "train/cat/1.png").write_bytes(content[:-40])
    (root / "valid/dog/0.png").write_bytes(b"")
    return root


def test_bad_files_are_left_out_of_every_split_and_said(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    everything = {split: image_data(pets).samples(split) for split in ("train", "val", "test")}
    data = image_data(pets, **SKIP)
    with caplog.at_level("INFO", "clf"):
        data.setup("fit")
    gone = {sample.path for samples in everything.values() for sample in samples}
    gone -= {sample.path for split in everything for sample in data.samples(split)}  # type: ignore[arg-type]
    assert gone == {f"{pets}/train/cat/1.png", f"{pets}/valid/dog/0.png"}
    assert data.class_counts == [5, 5]
    assert "data.on_error=skip: 2 files that cannot be read are left out; clf check lists them" in caplog.messages
    assert data.describe().endswith("10 train / 4 val / 3 test images, 2 bad files left out")
    assert data.fingerprint() != image_data(pets).fingerprint()


def test_nothing_is_read_beforehand_unless_asked_for(pets: Path) -> None:
    assert len(image_data(pets).samples("train")) == 11


def test_more_bad_files_than_allowed_are_an_error_with_an_example(pets: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 19 files cannot be read, e.g. \S+1.png cannot be read: .*=0.1: mend"):
        image_data(pets, on_error="skip", max_bad_fraction=0.1).samples("test")


def test_rows_without_their_file_are_bad_files(pets: Path) -> None:
    rows = [{"path": f"train/cat/{at}.png", "label": "cat"} for at in range(2, 9)]
    rows += [{"path": f"train/dog/{at}.png", "label": "dog"} for at in range(5)]
    manifest = table(pets / "rows.csv", rows)
    with pytest.raises(UserError, match="not on disk"):
        image_data(manifest).samples("train")
    data = image_data(manifest, on_error="skip", max_bad_fraction=0.25)
    assert data.classes == ["cat", "dog"]
    assert data.catalogue.skipping is not None
    assert data.catalogue.skipping.bad == 3


def test_the_list_is_written_once_and_read_ever_after(pets: Path, tmp_path: Path) -> None:
    record = tmp_path / "bad.txt"
    first = image_data(pets, **SKIP, bad_list=str(record))
    kept = {split: list(first.samples(split)) for split in first.available}
    written = record.read_text()
    assert written.startswith("# 2 of 19 files were left out")
    assert [line for line in written.splitlines() if not line.startswith("#")] == ["train/cat/1.png", "valid/dog/0.png"]
    draw(pets / "train/cat/1.png", seed=5)  # mended meanwhile
    (pets / "train/cat/2.png").write_bytes(b"")  # bad meanwhile
    again = image_data(pets, **SKIP, bad_list=str(record))
    assert {split: list(again.samples(split)) for split in again.available} == kept
    assert record.read_text() == written
    elsewhere = image_data(pets, exclude=str(record))
    assert len(elsewhere.samples("train")) == 10


def test_a_list_of_other_images_is_left_alone_and_not_used(pets: Path, tmp_path: Path) -> None:
    record = tmp_path / "bad.txt"
    image_data(pets, **SKIP, bad_list=str(record)).samples("train")
    written = record.read_text()
    draw(pets / "train/cat/1.png", seed=5)
    draw(pets / "train/cat/new.png", seed=6)
    data = image_data(pets, **SKIP, bad_list=str(record))
    assert len(data.samples("train")) == 12
    assert record.read_text() == written


def test_several_roots_that_were_moved_are_scanned_anew(pets: Path, tmp_path: Path) -> None:
    others = draw_pets(tmp_path / "others")
    kept = {**SKIP, "bad_list": str(tmp_path / "bad.txt")}
    assert len(image_data([str(pets), str(others)], **kept).samples("train")) == 21
    moved = pets.rename(tmp_path / "moved")
    data = image_data([str(moved), str(others)], **kept)
    assert len(data.samples("train")) == 21
    assert f"{moved}/train/cat/1.png" not in data.samples("train").paths


@pytest.mark.parametrize(
    "name", ["a.png", "[1].png", "*.png", "#1.png", " a.png", "x .png ", "a\nb.png", "\udcff.png", "a?b[!c]d.png"]
)
@pytest.mark.parametrize("inside", [True, False])
def test_any_file_name_can_stand_in_a_list(tmp_path: Path, name: str, inside: bool) -> None:
    root = str(tmp_path / "data")
    path = f"{root if inside else tmp_path}/{name}"
    others = [f"{root}/1.png", f"{root}/b.png", f"{root}/axb.png", f"{root}/axbxd.png"]
    (tmp_path / "bad.txt").write_text(line_for(path, roots=[root]) + "\n", encoding="utf-8")
    exclusion = Exclusion([str(tmp_path / "bad.txt")], roots=[root])
    assert list(exclusion.remove_from([Sample(path), *map(Sample, others)]).paths) == others


def skipped(folder: Path) -> tuple[str, ...]:
    """Spoil two of 42 images; returns the flags that skip them."""
    (folder / "images/train/a/3.png").write_bytes(b"")
    (folder / "images/valid/b/1.png").write_bytes(b"GIF8")
    return ("--data.on_error", "skip", "--data.max_bad_fraction", "0.05")


def test_a_run_keeps_its_list_and_a_resumed_one_ends_where_it_would_have(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*skipped(folder), "--trainer.max_epochs", "2")
    assert main([*FIT, *flags, "--name", "whole"]) == 0
    listed = Path("runs/whole/001/excluded.txt").read_text()
    assert [line for line in listed.splitlines() if line[0] != "#"] == ["train/a/3.png", "valid/b/1.png"]
    facts = json.loads(Path("runs/whole/001/environment.json").read_text())["data"]
    assert facts["skipped"] == 2
    assert "23 train / 8 val / 9 test images, 2 bad files left out" in facts["description"]
    stop = '{"class_path": "stopper.Stop", "init_args": {"step": 3}}'
    assert main([*FIT, *flags, "--name", "cut", "--callbacks.stop", stop]) == 143
    draw(folder / "images/train/a/3.png", seed=1)
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "last", "--callbacks.stop", "null"]) == 0
    assert "data: not the images" not in capsys.readouterr().err
    assert Path("runs/cut/001/excluded.txt").read_text() == listed
    assert_equal(weights("cut/001"), weights("whole/001"))
    assert main(["validate"]) == 0
    assert json.loads(Path("runs/cut/001/metrics.json").read_text())["val"]["n"] == 8


def test_a_run_that_goes_on_with_other_data_lists_what_it_leaves_out_and_keeps_the_old_list(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, *skipped(folder), "--trainer.max_epochs", "1"]) == 0
    listed = Path("runs/tiny/001/excluded.txt").read_text()
    draw(folder / "images/train/a/3.png", seed=1)
    (folder / "images/train/b/new.png").write_bytes(b"")
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    said = capsys.readouterr().err
    assert "data: not the images and labels that runs/tiny/001 was trained on until now" in said
    assert "2 files that cannot be read are left out; clf check lists them" in said
    assert Path("runs/tiny/001/excluded.1.txt").read_text() == listed
    lines = Path("runs/tiny/001/excluded.txt").read_text().splitlines()
    assert [line for line in lines if line[0] != "#"] == ["train/b/new.png", "valid/b/1.png"]


def test_a_split_of_bad_files_is_not_taken_for_one_that_is_not_there(pets: Path) -> None:
    for path in (pets / "valid").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"data.on_error=skip leaves no image in val, all of its files are bad; mend"):
        image_data(pets, on_error="skip", max_bad_fraction=0.5).samples("train")


def test_a_file_that_goes_bad_after_the_scan_stops_the_run_with_its_path(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = skipped(folder)
    assert main([*FIT, *flags, "--trainer.max_epochs", "1"]) == 0
    (folder / "images/train/c/4.png").write_bytes(b"")
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 2
    assert "images/train/c/4.png' cannot be read" in capsys.readouterr().err


def test_too_many_bad_files_leave_no_run_behind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skipped(folder)
    assert main([*FIT, "--data.on_error", "skip"]) == 2
    assert "2 of 42 files cannot be read" in capsys.readouterr().err
    assert not Path("runs/tiny/001").exists()


def test_a_fit_that_is_refused_after_the_scan_leaves_no_run_behind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(folder / "images/valid/unknown/0.png", seed=9)
    assert main([*FIT, *skipped(folder)]) == 2
    assert "labels that train lacks" in capsys.readouterr().err
    assert not Path("runs/tiny").exists()

"""What a real dataset lacks: counted as training counts, and measured on the images themselves."""

from pathlib import Path

import numpy as np
import pytest
from datasets import draw, draw_folders, write_rows
from PIL import Image

from clf.data import filling
from clf.data.filling import find_gaps, rarest_first, train_samples, typical_heights
from clf.data.samples import Sample
from clf.errors import UserError


def test_gaps_are_rare_classes_that_are_jersey_numbers() -> None:
    counts = {"7": 3, "00": 9, "0": 10, "123": 0, "referee": 1, "1234": 1, "": 1, "7a": 2, "\u0667": 1}
    assert find_gaps(counts, below=10, to=12) == {"7": 9, "00": 3, "123": 12}


@pytest.mark.parametrize(("below", "to"), [(0, 5), (-1, 5), (6, 5)])
def test_limits_that_fill_nothing_are_refused(below: int, to: int) -> None:
    with pytest.raises(UserError, match=f"--below={below}, --to={to} fill nothing; choose 1 <= below <= to"):
        find_gaps({"7": 1}, below=below, to=to)


def test_labels_are_counted_rarest_first() -> None:
    samples = [Sample("x.jpg", label) for label in ("1", "0", "1", "00", None)]
    assert list(rarest_first(samples).items()) == [("0", 1), ("00", 1), ("1", 2)]


def test_only_the_training_split_is_counted_in_whatever_layout(tmp_path: Path) -> None:
    draw_folders(tmp_path / "folders", {"train/7": 3, "train/00": 1, "valid/7": 2, "test/00": 2})
    write_rows(tmp_path / "rows", "train/a.jsonl", *({"image": f"{n}.jpg", "number": "7"} for n in range(3)))
    assert rarest_first(train_samples(str(tmp_path / "folders"))) == {"00": 1, "7": 3}
    assert rarest_first(train_samples(str(tmp_path / "rows"), label_key="number")) == {"7": 3}


def test_validation_is_not_carved_from_what_is_counted(tmp_path: Path) -> None:
    draw_folders(tmp_path, {"train/7": 10, "train/8": 10})
    assert rarest_first(train_samples(str(tmp_path))) == {"7": 10, "8": 10}


def test_a_dataset_without_training_images_is_refused(tmp_path: Path) -> None:
    draw_folders(tmp_path, {"valid/7": 2})
    with pytest.raises(UserError, match="has no train split"):
        train_samples(str(tmp_path))


def drawn(folder: Path, heights: list[int]) -> list[Sample]:
    for number, height in enumerate(heights):
        draw(folder / f"{number:03d}.png", seed=number, size=(5, height))
    return [Sample(str(folder / f"{number:03d}.png"), "7") for number in range(len(heights))]


def test_typical_heights_leave_out_the_odd_ones_on_both_sides(tmp_path: Path) -> None:
    heights = [17, *range(30, 68), 400]
    low, high, measured = typical_heights(drawn(tmp_path, heights))
    assert measured == 40
    assert (low, high) == (round(np.quantile(heights, 0.05)), round(np.quantile(heights, 0.95)))
    assert 29 <= low <= 32
    assert 65 <= high <= 68


@pytest.mark.parametrize(("height", "taken"), [(8, 16), (700, 512)])
def test_heights_keep_to_what_can_be_rendered(tmp_path: Path, height: int, taken: int) -> None:
    assert typical_heights(drawn(tmp_path, [height])) == (taken, taken, 1)


def test_of_many_images_some_from_all_over_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "_MOST_MEASURED", 4)
    samples = drawn(tmp_path, [20, 20, 30, 30, 40, 40, 50, 50])
    assert typical_heights(samples) == typical_heights(samples[::-1]) == (22, 48, 4)


def test_an_image_of_several_rows_is_measured_once(tmp_path: Path) -> None:
    low, tall = drawn(tmp_path, [20, 40])
    assert typical_heights([low, tall, tall, tall]) == typical_heights([low, tall])


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(UserError, match=r"a.jpg: its size cannot be read .*or give --size_min and --size_max"):
        typical_heights([Sample(str(tmp_path / "a.jpg"), "7")])


def test_only_headers_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (30, 40)).save(tmp_path / "a.bmp")
    whole = (tmp_path / "a.bmp").read_bytes()
    (tmp_path / "a.bmp").write_bytes(whole[:200])
    assert typical_heights([Sample(str(tmp_path / "a.bmp"), "7")]) == (40, 40, 1)

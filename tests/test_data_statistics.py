"""What a dataset is made of, counted."""

from pathlib import Path
from typing import Any

import pytest
from datasets import draw
from PIL import Image

from clf.data import statistics
from clf.data.samples import Metadata, Sample, Split
from clf.data.statistics import Header, read_header, read_headers, summarise_split


def samples(*listed: str, **metadata: Any) -> list[Sample]:
    return [Sample(f"{at}.png", name, metadata) for at, name in enumerate(listed)]


def summary(*facts: Metadata) -> Any:
    return summarise_split([Sample("x", "a", each) for each in facts], [], ["a"])["metadata"]


def test_a_class_has_its_count_and_share_and_a_split_its_imbalance() -> None:
    found = summarise_split(samples("a", "b", "a", "a"), [], ["a", "b", "c"])
    assert [(each["name"], each["n"], each["share"]) for each in found["classes"]] == [
        ("a", 3, 0.75),
        ("b", 1, 0.25),
        ("c", 0, 0.0),
    ]
    assert (found["n"], found["imbalance"]) == (4, 3.0)
    nothing = summarise_split([], [], ["a"])
    assert (nothing["imbalance"], nothing["classes"][0]["share"], nothing["images"]["width"]) == (None, None, None)


def test_sizes_and_formats_are_those_of_the_files_that_can_be_opened() -> None:
    headers = [Header(10 * (at + 1), 100, "JPEG") for at in range(20)] + [Header(1000, 100, "PNG"), None]
    images = summarise_split(samples("a"), headers, ["a"])["images"]
    assert (images["n"], images["unreadable"], images["formats"]) == (22, 1, {"JPEG": 20, "PNG": 1})
    assert images["width"] == {"min": 10, "p5": 20, "median": 110, "p95": 200, "max": 1000}
    assert images["aspect_ratio"]["max"] == 10.0


def test_a_header_says_the_size_as_people_see_it(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", seed=1, size=(12, 10))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGB", (30, 20)).save(tmp_path / "upright.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.png", exif=turned)
    found = [read_header(str(tmp_path / name)) for name in ("a.png", "turned.jpg", "upright.jpg", "turned.png")]
    assert found == [Header(12, 10, "PNG"), Header(20, 30, "JPEG"), Header(30, 20, "JPEG"), Header(20, 30, "PNG")]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_nothing_is_decoded_to_learn_a_size(suffix: str, tmp_path: Path) -> None:
    draw(tmp_path / f"whole.{suffix}", seed=1, size=(300, 200))
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"half.{suffix}").write_bytes(content[: len(content) // 2])
    found = read_header(str(tmp_path / f"half.{suffix}"))
    assert found is not None
    assert (found.width, found.height) == (300, 200)


def test_what_is_no_image_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert [read_header(str(tmp_path / name)) for name in ("text.png", "missing.png", "drawing.eps")] == [None] * 3


def test_so_many_images_are_opened_evenly_over_all_splits(tmp_path: Path) -> None:
    splits: dict[Split, list[Sample]] = {"train": [], "val": []}
    for at in range(12):
        draw(tmp_path / f"{at}.png", seed=at, size=(at + 1, 1))
        splits["train" if at < 9 else "val"].append(Sample(str(tmp_path / f"{at}.png"), "a"))

    def widths(most: int) -> list[list[int]]:
        return [[header.width for header in each if header] for each in read_headers(splits, most=most).values()]

    assert widths(4) == [[1, 4, 7], [10]]
    assert widths(100) == [[1, 2, 3, 4, 5, 6, 7, 8, 9], [10, 11, 12]]
    assert read_headers({"train": []}, most=4) == {"train": []}


def test_metadata_is_counted_by_value_whatever_its_type() -> None:
    found = summary({"a": 1, "b": "x"}, {"a": True, "b": "y"}, {"a": 1, "b": None}, {"a": 1.5})
    assert found["a"] == {
        "n": 4,
        "distinct": 3,
        "values": [{"value": 1, "n": 2}, {"value": True, "n": 1}, {"value": 1.5, "n": 1}],
    }
    assert (found["b"]["n"], [each["value"] for each in found["b"]["values"]]) == (3, ["x", "y", None])


def test_of_many_values_the_most_frequent_are_named_and_of_many_numbers_the_quantiles() -> None:
    texts = summary(*({"file": f"{at}"} for at in range(100)), {"file": "7"})["file"]
    assert (texts["distinct"], len(texts["values"]), texts["values"][0]) == (100, 20, {"value": "7", "n": 2})
    numbers = summary(*({"blur": at / 10} for at in range(101)))["blur"]
    assert numbers["values"] == []
    assert numbers["quantiles"]["median"] == 5.0
    assert numbers["quantiles"]["max"] == 10.0


def table(splits: dict[Split, Any]) -> list[list[str]]:
    return [line.split() for line in statistics.table(splits).splitlines()]


def test_the_table_has_all_of_a_few_classes_and_the_ends_of_many() -> None:
    few = samples("[red]", "b", "b")
    lines = table({"train": summarise_split(few, [], ["[red]", "b"])})
    assert lines[2:4] == [["b", "2", "66.7", "%"], ["[red]", "1", "33.3", "%"]]

    names = [f"c{at:02}" for at in range(30)]
    many = samples(*(name for at, name in enumerate(names) for _ in range(at + 1)))
    split = summarise_split(many, [Header(4, 2, "PNG"), None], names)
    lines = table({"train": split, "val": split})
    shown = [line[0] for line in lines if line[0].startswith("c") and line[0][1:].isdecimal()]
    assert shown == names[:19:-1] + names[9::-1]
    assert lines[12] == ["…", "10", "more"]
    assert ["images", "465", "465"] in lines
    assert ["most", "/", "fewest", "of", "a", "class", "30", "30"] in lines
    assert ["could", "not", "be", "opened", "1", "1"] in lines
    assert ["width:", "min,", "median,", "max", *["4,", "4,", "4"] * 2] in lines
    assert ["formats", *["PNG", "100", "%"] * 2] in lines


def test_the_table_says_how_metadata_is_distributed() -> None:
    train = [Sample("x", "a", {"colour": colour, "blur": at}) for at, colour in enumerate("rrrrrrrgbk" * 3 + "r")]
    lines = table({"train": summarise_split(train, [], ["a"]), "val": summarise_split(samples("a"), [], ["a"])})
    assert ["blur", "31", "numbers:", "0,", "15,", "30", "–"] in lines
    assert ["colour", "r", "71", "%,", "g", "10", "%,", "b", "10", "%,", "…", "(4", "values)", "–"] in lines
    keys = {f"key{at:02}": at for at in range(14)}
    assert ["…", "2", "more", "keys"] in table({"train": summarise_split(samples("a", **keys), [], ["a"])})

"""The JSONL layout: rows become samples, and every bad row is refused by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import touch, write_rows
from hypothesis import given
from hypothesis import strategies as st

from clf.data.jsonl import JsonlSource
from clf.data.layout import Tree
from clf.data.tables import RowKeys, read_rows
from clf.errors import UserError


def source(root: Path, label_key: str | None = None) -> JsonlSource:
    return JsonlSource(Tree(str(root)), keys=RowKeys(label=label_key))


def labels(root: Path, label_key: str | None = None) -> list[str | None]:
    return [sample.label for sample in source(root, label_key).samples("train")]


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        source(root).samples("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_files_of_a_split_are_merged_in_order_of_their_paths(tmp_path: Path) -> None:
    write_rows(tmp_path, "train/b/rows.jsonl", {"image": "1.jpg", "suffix": "b1"})
    write_rows(tmp_path, "train/a.jsonl", {"image": "2.jpg", "suffix": "a2"}, {"image": "1.jpg", "suffix": "a1"})
    write_rows(tmp_path, "train/b/c/rows.jsonl", {"image": "1.jpg", "suffix": "c1"})
    assert labels(tmp_path) == ["a2", "a1", "c1", "b1"]


def test_image_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    absolute = touch(tmp_path, "other/2.jpg") / "other/2.jpg"
    rows = [
        {"image": "sub/1.jpg", "label": "x"},
        {"image": "../1.jpg", "label": "x"},
        {"image": str(absolute), "label": "x"},
    ]
    write_rows(tmp_path, "train/deep/rows.jsonl", *rows)
    paths = [sample.path for sample in source(tmp_path).samples("train")]
    assert paths == [f"{tmp_path}/train/deep/sub/1.jpg", f"{tmp_path}/train/deep/../1.jpg", str(absolute)]


def test_rows_have_suffix_or_label_and_the_key_can_be_chosen(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        "train/a.jsonl",
        {"image": "1.jpg", "suffix": "s", "label": "l", "breed": "b"},
        {"image": "2.jpg", "label": "l"},
    )
    assert labels(tmp_path) == ["s", "l"]
    assert labels(tmp_path, "label") == ["l", "l"]
    with pytest.raises(
        UserError, match=r"a.jsonl:2: the row has no 'breed' \(keys: image, label\); set data.label_key"
    ):
        labels(tmp_path, "breed")


def test_labels_stay_the_text_that_they_are(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg", "suffix": label} for label in ["0", "00", " 1", 7, 10**20, "é"]]
    write_rows(tmp_path, "train/a.jsonl", *rows)
    assert labels(tmp_path) == ["0", "00", " 1", "7", str(10**20), "é"]


@pytest.mark.parametrize("label", [1.0, True, ["a"], {"a": 1}])
def test_label_that_is_no_text_is_refused(tmp_path: Path, label: Any) -> None:
    write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "suffix": "ok"}, {"image": "1.jpg", "suffix": label})
    assert "train/a.jsonl:2: suffix=" in refusal(tmp_path)
    assert "write it as text, in quotes" in refusal(tmp_path)


@pytest.mark.parametrize("label", ["\ud83d", "a\0b"])
def test_label_that_no_file_can_hold_is_refused(tmp_path: Path, label: str) -> None:
    write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "label": label})
    with pytest.raises(UserError, match=r"train/a.jsonl:1: label='.*' holds what is no character, and no file can; m"):
        source(tmp_path).samples("train")


def test_empty_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg", "suffix": label} for label in ["", None, "  ", "a"]]
    rows_source = source(write_rows(tmp_path, "train/a.jsonl", *rows))
    assert [sample.label for sample in rows_source.samples("train")] == ["a"]
    assert rows_source.notes == [f"{tmp_path}/train: dropped 3 rows with an empty label"]


def test_nothing_but_empty_labels_is_refused(tmp_path: Path) -> None:
    assert "no labelled rows" in refusal(write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "suffix": ""}))


def test_one_row_is_one_sample_even_of_the_same_image(tmp_path: Path) -> None:
    assert len(labels(write_rows(tmp_path, "train/a.jsonl", *[{"image": "1.jpg", "suffix": "a"}] * 3))) == 3


def test_prefix_is_ignored_and_metadata_kept(tmp_path: Path) -> None:
    facts = {"jersey_color": "red", "border": None, "year": 1999, "away": True, "weight": 0.5}
    write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "prefix": "Read!", "suffix": "a", "metadata": facts})
    (sample,) = source(tmp_path).samples("train")
    assert sample.metadata == facts


@pytest.mark.parametrize("metadata", [None, {}])
def test_metadata_may_be_empty(tmp_path: Path, metadata: Any) -> None:
    write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "suffix": "a", "metadata": metadata})
    assert source(tmp_path).samples("train")[0].metadata == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "a.jsonl:3: not valid JSON"),
        ("[1]", "a.jsonl:3: [1] is no row"),
        ("9" * 5000, "a.jsonl:3: not valid JSON"),
        ("[" * 100_000, "a.jsonl:3: not valid JSON"),
        ({"imagee": "1.jpg", "suffix": "a"}, "a.jsonl:3: the row has no 'image'; did you mean 'imagee'?"),
        ({"image": 5, "suffix": "a"}, "a.jsonl:3: image=5 is not a path"),
        ({"image": "", "suffix": "a"}, "a.jsonl:3: image='' is not a path"),
        ({"image": "1.jpg"}, "a.jsonl:3: the row has no 'suffix' or 'label' (keys: image)"),
        ({"image": "1.jpg", "suffix": "a", "metadata": [1]}, "a.jsonl:3: metadata=[1] is not an object"),
        ({"image": "1.jpg", "suffix": "a", "metadata": {"x": {}}}, "a.jsonl:3: metadata 'x' is nested"),
        (
            {"image": "1.jpg", "suffix": "a", "metadata": {"x": 10**400}},
            "a.jsonl:3: metadata 'x' is larger",
        ),
    ],
)
def test_bad_row_is_refused_by_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    good = {"image": "1.jpg", "suffix": "a"}
    if isinstance(row, dict) and not row.get("image"):
        row = json.dumps(row)
    assert message in refusal(write_rows(tmp_path, "train/a.jsonl", good, "", row, good))


def test_file_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "suffix": "a"})
    with (tmp_path / "train/a.jsonl").open("ab") as file:
        file.write(b'{"image": "1.jpg", "suffix": "\xe9"}\n')
    assert "a.jsonl:2: not UTF-8" in refusal(tmp_path)


def test_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg")
    (tmp_path / "train/a.jsonl").write_bytes(b'\xef\xbb\xbf{"image": "1.jpg", "suffix": "a"}\r\n\r\n')
    assert labels(tmp_path) == ["a"]


def test_missing_image_is_refused_with_path_and_place_and_the_others_counted(tmp_path: Path) -> None:
    write_rows(tmp_path, "train/a.jsonl", *[{"image": f"{i}.jpg", "suffix": "a"} for i in range(4)])
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / "train" / name).unlink()
    assert f"a.jsonl:2: image '{tmp_path}/train/1.jpg' is not on disk (and 2 more such rows)" in refusal(tmp_path)


def test_image_in_a_missing_folder_is_missing(tmp_path: Path) -> None:
    write_rows(tmp_path, "train/a.jsonl", json.dumps({"image": "nowhere/1.jpg", "suffix": "a"}))
    assert "a.jsonl:1: image" in refusal(tmp_path)


def test_split_folder_without_jsonl_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "suffix": "a"})
    touch(tmp_path, "valid/1.jpg")
    with pytest.raises(UserError, match=r"no \*.jsonl in '.*/valid'"):
        source(tmp_path).samples("val")


def test_split_without_a_folder_is_empty(tmp_path: Path) -> None:
    assert source(write_rows(tmp_path, "train/a.jsonl", {"image": "1.jpg", "suffix": "a"})).samples("test") == []


def test_it_says_what_and_where_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jsonl")
    assert str(source(tmp_path)) == f"JSONL layout in {tmp_path}"


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=4)
LINES = st.lists(JSON).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | LINES)
def test_any_bytes_are_read_as_rows_or_refused_by_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(content)
    refused = f"{file}:1"
    rows = []
    try:
        rows = list(read_rows(str(file)))
    except UserError as error:
        refused = str(error)
    assert refused.startswith(f"{file}:")
    assert all(isinstance(row, dict) and place.startswith(f"{file}:") for place, row in rows)

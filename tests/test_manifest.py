"""Manifests: which file and column is what, which rows become samples, and what is refused by its place."""

from pathlib import Path
from typing import Any

import pytest
from datasets import image_data, table, touch

from clf.data.manifest import ManifestSource, manifests_in
from clf.data.samples import Split
from clf.data.tables import RowKeys
from clf.errors import UserError

FORMATS = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])


def manifest(file: Path, *rows: tuple[Any, ...], columns: str = "path label split") -> Path:
    """Write a table and touch the images that its first column names."""
    touch(file.parent, *[row[0] for row in rows])
    return table(file, [dict(zip(columns.split(), row, strict=True)) for row in rows])


def source(*files: Path, **keys: Any) -> ManifestSource:
    return ManifestSource([str(file) for file in files], keys=RowKeys(**keys))


def listed(found: ManifestSource) -> dict[Split, list[str]]:
    splits: tuple[Split, ...] = ("train", "val", "test")
    return {split: [f"{Path(s.path).name} {s.label}" for s in found.samples(split)] for split in splits}


def refusal(*files: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        source(*files, **keys).samples("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@FORMATS
def test_rows_go_to_the_split_that_they_name_in_their_order(tmp_path: Path, suffix: str) -> None:
    rows = [("b.jpg", "00", "train"), ("c.jpg", "0", "test"), ("a.jpg", "0", "train"), ("d/e.jpg", "00", "val")]
    found = source(manifest(tmp_path / f"birds{suffix}", *rows))
    assert listed(found) == {"train": ["b.jpg 00", "a.jpg 0"], "val": ["e.jpg 00"], "test": ["c.jpg 0"]}
    assert found.samples("val")[0].path == f"{tmp_path}/d/e.jpg"
    assert found.notes == []


@pytest.mark.parametrize(
    ("value", "split"),
    [
        *[("train", "train"), ("Training", "train"), ("VAL", "val"), ("valid", "val"), ("validation", "val")],
        *[("test", "test"), (" Testing ", "test")],
    ],
)
def test_splits_may_be_called_as_usual_in_any_case(tmp_path: Path, value: str, split: Split) -> None:
    assert len(source(manifest(tmp_path / "a.csv", ("1.jpg", "x", value))).samples(split)) == 1


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [("split", "trian", "; did you mean 'train'?"), ("split", "", ""), ("subset", "3", ""), ("partition", "extra", "")],
)
def test_another_split_is_refused_by_file_and_line(tmp_path: Path, column: str, value: str, hint: str) -> None:
    rows = [("1.jpg", "x", "train"), ("2.jpg", "x", value)]
    message = refusal(manifest(tmp_path / "a.csv", *rows, columns=f"path label {column}"))
    assert message == f"{tmp_path}/a.csv:3: {column}={value!r} is no split; write train, valid or test{hint}"


@pytest.mark.parametrize("path", ["path", "image", "file", "filename"])
@pytest.mark.parametrize("label", ["label", "suffix", "class", "true"])
def test_columns_are_found_by_their_usual_names_and_said(tmp_path: Path, path: str, label: str) -> None:
    found = source(manifest(tmp_path / "a.csv", ("1.jpg", "x"), columns=f"{path} {label}"))
    assert listed(found)["train"] == ["1.jpg x"]
    assert str(found) == f"CSV manifest {tmp_path}/a.csv (path: {path}, label: {label}, no split: all of it is train)"


@FORMATS
def test_columns_can_be_named(tmp_path: Path, suffix: str) -> None:
    row = ("1.jpg", "wrong.jpg", "x", "wrong", "test", "train")
    columns = "photo path species label fold split"
    file = manifest(tmp_path / f"a{suffix}", row, columns=columns)
    found = source(file, path="photo", label="species", split="fold")
    assert listed(found)["test"] == ["1.jpg x"]
    kind = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSONL", ".parquet": "Parquet"}[suffix]
    assert str(found) == f"{kind} manifest {file} (path: photo, label: species, split: fold)"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "pth"}, "a.csv:2: no 'pth', which data.path_key names; did you mean 'path'?"),
        ({"label": "lable"}, "a.csv:2: no 'lable', which data.label_key names; did you mean 'label'?"),
        ({"split": "fold"}, "a.csv:2: no 'fold', which data.split_key names"),
    ],
)
def test_named_column_that_is_missing_is_refused(tmp_path: Path, keys: dict[str, str], message: str) -> None:
    assert message in refusal(manifest(tmp_path / "a.csv", ("1.jpg", "x", "train")), **keys)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("photo label", "no column for the path (it has photo, label); call it path or image or file or filename, or"),
        (
            "path species",
            "no column for the label (it has path, species); call it true or suffix or label or class, or",
        ),
    ],
)
def test_table_without_a_usual_column_is_refused_with_the_key_that_names_it(
    tmp_path: Path, columns: str, message: str
) -> None:
    assert message in refusal(manifest(tmp_path / "a.csv", ("1.jpg", "x"), columns=columns))


def test_integers_of_a_typed_format_become_text_and_other_numbers_are_refused(tmp_path: Path) -> None:
    assert listed(source(manifest(tmp_path / "a.parquet", ("1.jpg", 7), columns="path label")))["train"] == ["1.jpg 7"]
    message = refusal(manifest(tmp_path / "b.parquet", ("1.jpg", 7), ("2.jpg", 1.5), columns="path label"))
    assert "b.parquet:1: label=7.0 is not a label; write it as text, in quotes" in message


@FORMATS
def test_empty_labels_are_dropped_and_counted(tmp_path: Path, suffix: str) -> None:
    file = manifest(tmp_path / f"a{suffix}", ("1.jpg", "x"), ("2.jpg", ""), ("3.jpg", " "), columns="path label")
    found = source(file)
    assert listed(found)["train"] == ["1.jpg x"]
    assert found.notes == [f"{file}: dropped 2 rows with an empty label"]


def test_manifest_of_empty_labels_is_refused(tmp_path: Path) -> None:
    message = refusal(manifest(tmp_path / "a.csv", ("1.jpg", ""), columns="path label"))
    assert "every label in 'label' is empty; set data.label_key" in message


@pytest.mark.parametrize(
    ("content", "message"), [("path,label\n", "lists no images"), ("path,label\n1.jpg,\n", "every")]
)
def test_file_of_a_split_without_samples_is_refused(tmp_path: Path, content: str, message: str) -> None:
    # Else validation would be carved from train, as if there were no such file.
    train = manifest(tmp_path / "train.csv", ("1.jpg", "x"), columns="path label")
    (tmp_path / "valid.csv").write_text(content)
    assert f"valid.csv: {message}" in refusal(train, tmp_path / "valid.csv")


def test_missing_images_are_refused_with_place_and_count(tmp_path: Path) -> None:
    file = manifest(tmp_path / "a.csv", *[(f"{i}.jpg", "x", "train") for i in range(3)])
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).unlink()
    assert f"a.csv:3: image '{tmp_path}/1.jpg' is not on disk (and 1 more such rows)" in refusal(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: lists no images"),
        ("a.csv", "path,label\n", "a.csv: lists no images"),
        ("a.csv", "path,label,path\n1.jpg,x,2.jpg\n", "a.csv:1: two columns are called 'path'; rename one"),
        ("a.csv", "path,label\n1.jpg\n", "a.csv:2: not as many fields"),
        (
            "a.jsonl",
            '{"path": "1.jpg", "label": "x", "split": "train"}\n{"path": "1.jpg", "label": "x"}\n',
            "a.jsonl:2",
        ),
        ("a.jsonl", '{"path": "1.jpg", "label": "x"}\n{"file": "1.jpg", "label": "x"}\n', "a.jsonl:2: the row has no"),
    ],
)
def test_table_that_cannot_be_read_is_refused_by_its_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    touch(tmp_path, "1.jpg")
    (tmp_path / name).write_text(content)
    assert message in refusal(tmp_path / name)


def test_files_that_are_called_like_splits_are_those_splits(tmp_path: Path) -> None:
    files = [
        manifest(tmp_path / f"{name}.csv", (f"{name}.jpg", "x"), columns="file species")
        for name in ("test", "train", "valid")
    ]
    found = source(*files, label="species")
    assert listed(found) == {"train": ["train.jpg x"], "val": ["valid.jpg x"], "test": ["test.jpg x"]}
    assert str(found) == f"CSV manifests train.csv, valid.csv, test.csv in {tmp_path} (path: file, label: species)"


def test_a_single_file_that_is_called_like_a_split_is_that_split_unless_a_column_says_more(tmp_path: Path) -> None:
    assert listed(source(manifest(tmp_path / "test.csv", ("1.jpg", "x"), columns="path label")))["test"] == ["1.jpg x"]
    both = source(manifest(tmp_path / "train.csv", ("1.jpg", "x", "train"), ("2.jpg", "y", "val")))
    assert listed(both) == {"train": ["1.jpg x"], "val": ["2.jpg y"], "test": []}


def test_column_that_contradicts_the_file_s_name_is_refused(tmp_path: Path) -> None:
    train = manifest(tmp_path / "train.csv", ("1.jpg", "x", "train"), ("2.jpg", "x", "test"))
    test = manifest(tmp_path / "test.csv", ("3.jpg", "x", "test"))
    assert "train.csv:3: split='test' in a file that is called like another split" in refusal(train, test)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["birds.csv", "notes.txt"], ["birds.csv"]),
        (["test.csv", "train.csv", "val.csv"], ["test.csv", "train.csv", "val.csv"]),
        (["classes.csv", "train.tsv"], ["train.tsv"]),
        (["notes.txt"], []),
    ],
)
def test_manifests_of_a_folder_are_those_called_like_splits_or_the_only_one(
    names: list[str], chosen: list[str]
) -> None:
    assert manifests_in("x", names) == [f"x/{name}" for name in chosen]


@pytest.mark.parametrize("names", [["a.csv", "b.csv"], ["val.csv", "valid.csv"], ["test.tsv", "train.csv"]])
def test_folder_whose_manifests_leave_a_choice_is_refused(names: list[str]) -> None:
    with pytest.raises(UserError, match=rf"data.root='x' has several manifests \({names[0]}, {names[1]}\); name one"):
        manifests_in("x", names)


def test_other_columns_become_metadata_only_where_they_are_asked_for(tmp_path: Path) -> None:
    file = manifest(tmp_path / "a.csv", ("1.jpg", "x", "web", "3"), columns="path label source metadata")
    assert source(file).samples("train")[0].metadata == {}
    assert source(file, facts=("source",)).samples("train")[0].metadata == {"source": "web"}


def test_rows_with_the_same_metadata_share_it(tmp_path: Path) -> None:
    rows = [(f"{i}.jpg", "x", {"year": 1, "old": i > 0}) for i in range(3)]
    samples = source(manifest(tmp_path / "a.jsonl", *rows, columns="path label metadata")).samples("train")
    assert [sample.metadata["old"] for sample in samples] == [False, True, True]
    assert samples[1].metadata is samples[2].metadata


def test_validation_is_carved_and_the_report_says_what_was_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(f"img/{i}.jpg", str(i % 2), "train" if i < 20 else "test") for i in range(24)]
    manifest(tmp_path / "birds.csv", *rows, columns="file species fold")
    module = image_data("birds.csv", label_key="species", split_key="fold")
    assert module.describe() == (
        "CSV manifest birds.csv (path: file, label: species, split: fold): "
        "2 classes, 18 train / 2 val / 4 test images, val carved from train"
    )
    (tmp_path / "birds.csv").rename(touch(tmp_path, "else/x") / "else/birds.csv")
    (tmp_path / "img").rename(tmp_path / "else/img")
    moved = image_data(tmp_path / "else/birds.csv", label_key="species", split_key="fold")
    assert moved.fingerprint() == image_data(tmp_path / "else", label_key="species", split_key="fold").fingerprint()
    assert [Path(s.path).name for s in moved.samples("val")] == [Path(s.path).name for s in module.samples("val")]
    monkeypatch.chdir(tmp_path / "else")
    assert image_data("birds.csv", label_key="species", split_key="fold").fingerprint() == moved.fingerprint()

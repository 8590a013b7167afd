"""What can be predicted on: images, folders, globs, manifests; and what is refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import table, touch, write_rows

from clf.data.inputs import find_inputs
from clf.errors import UserError

CLASSES = ["cat", "dog"]


def found(target: Path | str, **options: Any) -> list[tuple[str, str | None]]:
    samples, _ = find_inputs(str(target), classes=CLASSES, **options)
    return [(sample.path, sample.label) for sample in samples]


def refusal(target: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find_inputs(str(target), classes=CLASSES, **options)
    return str(caught.value)


def paths(target: Path | str) -> list[str]:
    return [path for path, _ in found(target)]


FORMATS = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])


def test_single_image_is_one_input(tmp_path: Path) -> None:
    image = touch(tmp_path, "cat/1.JPG") / "cat/1.JPG"
    assert found(image) == [(str(image), None)]


def test_folder_is_searched_deep_and_sorted_by_path(tmp_path: Path) -> None:
    touch(tmp_path, "in/b.jpg", "in/10.png", "in/9.png", "in/sub/deep/a.webp", "in/a.txt", "in/.x.jpg", "in/.y/1.jpg")
    samples, notes = find_inputs(f"{tmp_path}/in/", classes=CLASSES)
    assert [sample.path.removeprefix(f"{tmp_path}/in/") for sample in samples] == [
        *["10.png", "9.png", "b.jpg", "sub/deep/a.webp"]
    ]
    assert notes == [f"{tmp_path}/in: ignored 3 hidden or other files that are no images"]


def test_folder_whose_subfolders_are_classes_has_labels_and_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "test/cat/1.jpg", "test/dog/1.jpg")
    samples, notes = find_inputs(str(tmp_path), classes=CLASSES)
    assert [sample.label for sample in samples] == ["cat", "dog"]
    assert notes == [f"{tmp_path}: the names of the subfolders are taken as labels"]


@pytest.mark.parametrize("stranger", ["1.jpg", "emu/1.jpg"])
def test_one_image_outside_the_class_folders_leaves_all_without_labels(tmp_path: Path, stranger: str) -> None:
    touch(tmp_path, "cat/1.jpg", stranger)
    assert [label for _, label in found(tmp_path)] == [None, None]


def test_folder_that_is_itself_called_like_a_class_is_no_label(tmp_path: Path) -> None:
    # Folders of frames are often numbered, as jerseys are.
    touch(tmp_path, "cat/1.jpg")
    assert [label for _, label in found(tmp_path / "cat")] == [None]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.txt")
    assert refusal(tmp_path / "in").startswith(f"data.predict='{tmp_path}/in' holds no images (.jpg")


@pytest.mark.parametrize("typed", ["imagse", "imagse/"])
def test_path_that_does_not_exist_is_refused_with_its_likely_name(tmp_path: Path, typed: str) -> None:
    touch(tmp_path, "images/1.jpg")
    assert "does not exist; did you mean 'images'?" in refusal(f"{tmp_path}/{typed}")


def test_glob_takes_the_images_that_match_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "a/2.jpg", "a/1.jpg", "a/1.txt", "b/c/1.png")
    assert paths(f"{tmp_path}/a/*") == [f"{tmp_path}/a/1.jpg", f"{tmp_path}/a/2.jpg"]
    assert paths(f"{tmp_path}/**/*.png") == [f"{tmp_path}/b/c/1.png"]
    _, notes = find_inputs(f"{tmp_path}/a/*", classes=CLASSES)
    assert notes == [f"{tmp_path}/a/*: ignored 1 hidden or other file that is no image"]


def test_file_with_brackets_in_its_name_is_no_glob(tmp_path: Path) -> None:
    image = touch(tmp_path, "a[1].jpg") / "a[1].jpg"
    assert paths(image) == [str(image)]


@pytest.mark.parametrize(("pattern", "message"), [("*.jpg", "matches nothing"), ("*", "1 file, but no image")])
def test_glob_that_matches_no_image_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    touch(tmp_path, "notes.txt")
    assert message in refusal(f"{tmp_path}/{pattern}")


def test_file_of_another_kind_is_refused_with_the_kinds_that_work(tmp_path: Path) -> None:
    message = refusal(touch(tmp_path, "list.xlsx") / "list.xlsx")
    assert "neither an image (.jpg" in message
    assert "nor a manifest (.jsonl, .csv, .tsv, .parquet)" in message


@FORMATS
def test_manifest_keeps_its_order_and_its_paths_are_relative_to_it(tmp_path: Path, suffix: str) -> None:
    rows = [{"path": "b/2.jpg"}, {"path": "a 1.jpg"}, {"path": "/abs/3.jpg"}]
    manifest = table(tmp_path / f"list{suffix}", rows)
    listed = found(manifest, outside=True)
    assert listed == [(f"{tmp_path}/b/2.jpg", None), (f"{tmp_path}/a 1.jpg", None), ("/abs/3.jpg", None)]


@FORMATS
@pytest.mark.parametrize("path_column", ["path", "image", "file", "filename"])
@pytest.mark.parametrize("label_column", ["label", "suffix", "true"])
def test_manifest_with_the_models_classes_has_labels(
    tmp_path: Path, suffix: str, path_column: str, label_column: str
) -> None:
    rows = [{path_column: f"{i}.jpg", label_column: label} for i, label in enumerate(["dog", "cat"])]
    assert [label for _, label in found(table(tmp_path / f"list{suffix}", rows))] == ["dog", "cat"]


def test_column_of_the_labels_can_be_chosen(tmp_path: Path) -> None:
    manifest = table(tmp_path / "list.csv", [{"path": "1.jpg", "label": "cat", "species": "dog"}])
    assert found(manifest)[0][1] == "cat"
    assert found(manifest, label_key="species")[0][1] == "dog"
    assert "list.csv:2: no 'specie', which data.label_key names; did you mean 'species'?" in refusal(
        manifest, label_key="specie"
    )


def test_manifest_with_a_class_unknown_to_the_model_is_predicted_without_labels_and_says_so(tmp_path: Path) -> None:
    manifest = table(tmp_path / "list.csv", [{"path": f"{i}.jpg", "label": x} for i, x in enumerate(["cat", "emu"])])
    samples, notes = find_inputs(str(manifest), classes=CLASSES)
    assert [sample.label for sample in samples] == [None, None]
    assert notes == [f"{manifest}: its labels are left aside, the model does not know 'emu'"]


@pytest.mark.parametrize("empty", ["", None])
def test_manifest_with_an_empty_label_is_predicted_without_labels(tmp_path: Path, empty: str | None) -> None:
    manifest = table(tmp_path / "list.jsonl", [{"path": "1.jpg", "label": "cat"}, {"path": "2.jpg", "label": empty}])
    assert [label for _, label in found(manifest)] == [None, None]


def test_predictions_are_a_manifest_but_a_guess_is_no_truth(tmp_path: Path) -> None:
    # Their paths count from the working folder, as they did when they were written.
    guesses = {"path": "1.jpg", "label": "cat", "confidence": 0.9}
    assert found(table(tmp_path / "guesses.csv", [guesses])) == [("1.jpg", None)]
    checked = {"path": "1.jpg", "true": "dog", "label": "cat", "confidence": 0.9}
    assert found(table(tmp_path / "checked.csv", [checked])) == [("1.jpg", "dog")]


def test_numbers_in_a_manifest_are_labels_as_text(tmp_path: Path) -> None:
    manifest = table(tmp_path / "list.parquet", [{"path": "1.jpg", "label": 7}])
    assert [sample.label for sample in find_inputs(str(manifest), classes=["7", "8"])[0]] == ["7"]


def test_csv_with_quotes_commas_and_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b'\xef\xbb\xbfpath,label\r\n"a,b ""c"".jpg",cat\r\n')
    assert found(tmp_path / "list.csv") == [(f'{tmp_path}/a,b "c".jpg', "cat")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"", "lists no images"),
        ("list.csv", b"path,label\n", "lists no images"),
        ("list.csv", b"1.jpg,cat\n2.jpg,dog\n", "list.csv:2: no column for the path (it has 1.jpg, cat)"),
        ("list.csv", b"path,label\n1.jpg,cat,x\n", "list.csv:2: not as many fields as the header"),
        ("list.csv", b"path,label\n1.jpg,cat\n2.jpg\n", "list.csv:3: not as many fields as the header"),
        ("list.csv", b"path,label\n,cat\n", "list.csv:2: path='' is not a path"),
        ("list.csv", b'path\n"a\n', "list.csv: not a table in UTF-8"),
        ("list.tsv", b"path\n\xff.jpg\n", "list.tsv: not a table in UTF-8"),
        ("list.jsonl", b'{"path": 1}\n', "list.jsonl:1: path=1 is not a path"),
        ("list.jsonl", b"{\n", "list.jsonl:1: not valid JSON"),
        ("list.parquet", b"PAR1", "list.parquet: not a Parquet file"),
        ("list.parquet", b"", "list.parquet: not a Parquet file"),
    ],
)
def test_manifest_that_cannot_be_read_is_refused_by_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_manifest_may_name_images_that_are_missing(tmp_path: Path) -> None:
    # They become rows with an error: one bad path must not cost the other predictions.
    write_rows(tmp_path, "list.jsonl", '{"image": "missing.jpg"}', {"image": "there.jpg"})
    assert paths(tmp_path / "list.jsonl") == [f"{tmp_path}/missing.jpg", f"{tmp_path}/there.jpg"]


def test_pyarrow_is_imported_for_parquet_alone_and_its_absence_explained(tmp_path: Path) -> None:
    table(tmp_path / "list.csv", [{"path": "1.jpg"}])
    table(tmp_path / "list.parquet", [{"path": "1.jpg"}])
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from clf.data.inputs import find_inputs\n"
        "print(len(find_inputs('list.csv', classes=[])[0]), 'torch' in sys.modules)\n"
        "try: find_inputs('list.parquet', classes=[])\n"
        "except ValueError as error: print(error)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == "1 False"
    assert "needs pyarrow; pip install pyarrow" in second

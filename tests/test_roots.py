"""What a root is recognised as, what is ambiguous, and how several roots become one dataset."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import draw_folders, draw_pets, image_data, table, touch, write_rows

from clf.errors import UserError


def refusal(root: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        image_data(root, **options).setup("fit")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said(caplog: pytest.LogCaptureFixture, root: Any, **options: Any) -> str:
    with caplog.at_level(logging.INFO, "clf"):
        image_data(root, **options).setup("fit")
    return caplog.text


def rows(*names: str) -> list[dict[str, Any]]:
    """Two classes in turn."""
    return [{"path": name, "label": "xy"[i % 2]} for i, name in enumerate(names)]


NAMES = ("1.jpg", "2.jpg", "3.jpg", "4.jpg")


# What a folder is.


def test_class_folders_without_splits_are_train_and_said(tmp_path: Path) -> None:
    root = touch(tmp_path, *[f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(10)])
    assert image_data(root).describe() == (
        f"folder layout in {root} (no split folders: all of it is train): "
        "2 classes, 18 train / 2 val images, val carved from train, no test"
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["1.jpg", "2.jpg"], "its 2 images lie in no class folders, so have no labels; expected"),
        (["cat/1.jpg"], "and 'cat' is its only folder with images; expected"),
        (["cat/a.txt", "notes.txt"], "(it holds 'cat'); expected"),
        ([".hidden/1.jpg"], "has no folder train, valid or test; expected"),
        (["Train/cat/1.jpg", "Train/dog/1.jpg", "cat/1.jpg"], "call 'Train' by these names, in small letters"),
        (["training/cat/1.jpg", "validation/cat/1.jpg"], "call 'training', 'validation' by these names"),
        (["birds/train/a/1.jpg", "birds/train/b/1.jpg"], "but 'birds' in it has; did you mean data.root=ROOT/birds?"),
    ],
)
def test_folder_that_is_no_dataset_is_refused_with_what_is_expected(
    tmp_path: Path, paths: list[str], message: str
) -> None:
    found = refusal(touch(tmp_path, *paths))
    assert found.startswith(f"data.root='{tmp_path}' has no folder train, valid or test")
    assert message.replace("ROOT", str(tmp_path)) in found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat.jpg", "is an image; name the folder that holds train/"),
        ("data.zip", "is not a folder, and no manifest (.jsonl, .csv, .tsv, .parquet); unpack an archive first"),
    ],
)
def test_file_that_is_no_manifest_is_refused(tmp_path: Path, name: str, message: str) -> None:
    assert message in refusal(touch(tmp_path, name) / name)


def test_no_root_at_all_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.root=\[\] names nothing"):
        image_data([]).setup("fit")


def test_manifest_in_a_folder_is_recognised(tmp_path: Path) -> None:
    table(touch(tmp_path, *[f"images/{name}" for name in NAMES]) / "x.tsv", rows(*[f"images/{n}" for n in NAMES]))
    assert image_data(tmp_path).describe().startswith(f"TSV manifest {tmp_path}/x.tsv (path: path, label: label, no")


def test_manifests_beside_folders_of_unsorted_images_are_recognised(tmp_path: Path) -> None:
    for split in ("train", "test"):
        paths = [f"{split}/{name}" for name in NAMES]
        table(touch(tmp_path, *paths) / f"{split}.csv", rows(*paths))
    assert image_data(tmp_path).describe().startswith(f"CSV manifests train.csv, test.csv in {tmp_path} (path: path,")


def test_manifest_beside_split_folders_with_classes_is_not_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table(draw_pets(tmp_path) / "birds.csv", rows("train/cat/0.png", "train/dog/0.png"))
    said_then = said(caplog, tmp_path)
    assert (
        f"{tmp_path}: 'birds.csv' not read, for the images lie in split folders; data.layout=manifest reads"
        in said_then
    )
    assert image_data(tmp_path).classes == ["cat", "dog"]
    assert image_data(tmp_path, layout="manifest").classes == ["x", "y"]


def test_guess_between_class_folders_and_a_manifest_can_be_overruled(tmp_path: Path) -> None:
    table(draw_folders(tmp_path, {"cat": 2, "dog": 2}) / "a.csv", rows("cat/0.png", "dog/0.png"))
    assert image_data(tmp_path).classes == ["x", "y"]
    assert image_data(tmp_path, layout="folder").classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("root", "layout", "message"),
    [
        ("a.csv", "folder", "is a file, and data.layout=folder needs a folder; set it to auto"),
        ("a.csv", "jsonl", "is a file, and data.layout=jsonl needs a folder"),
        ("", "jsonl", "has no folder train, valid or test, as data.layout=jsonl needs"),
        ("cat", "manifest", "holds no manifest (.jsonl, .csv, .tsv, .parquet), as data.layout=manifest needs"),
    ],
)
def test_layout_that_a_root_cannot_have_is_refused(tmp_path: Path, root: str, layout: str, message: str) -> None:
    table(draw_folders(tmp_path, {"cat": 2}) / "a.csv", rows("cat/0.png", "cat/1.png"))
    assert message in refusal(tmp_path / root, layout=layout)


def test_several_manifests_without_names_of_splits_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        table(touch(tmp_path, *NAMES) / f"{name}.csv", rows(*NAMES))
    assert "has several manifests (a.csv, b.csv); name one, e.g." in refusal(tmp_path)


def test_column_of_the_paths_can_be_named_in_the_jsonl_layout_too(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "train/2.jpg")
    table(tmp_path / "train/a.jsonl", [{"crop": f"{i}.jpg", "label": str(i)} for i in (1, 2)])
    assert image_data(tmp_path, path_key="crop").classes == ["1", "2"]
    assert "the row has no 'image'" in refusal(tmp_path)


def test_column_of_the_paths_holds_for_predictions_too(tmp_path: Path) -> None:
    table(touch(tmp_path, "1.jpg") / "a.csv", [{"crop": "1.jpg", "path": "2.jpg"}])
    options: dict[str, Any] = {"predict": f"{tmp_path}/a.csv", "checkpoint": ["x", "y"]}
    assert image_data(None, path_key="crop", **options).predict_samples[0].path == f"{tmp_path}/1.jpg"
    assert image_data(None, **options).predict_samples[0].path == f"{tmp_path}/2.jpg"


# Several.


@pytest.fixture
def roots(tmp_path: Path) -> list[str]:
    """A folder with all splits, a folder in the JSONL layout with train and test, and a manifest."""
    draw_pets(tmp_path / "pets")
    found = [{"image": f"{i}.png", "label": name} for i, name in enumerate(["cat", "emu", "emu"])]
    write_rows(tmp_path / "rows", "train/a.jsonl", *found)
    write_rows(tmp_path / "rows", "test/a.jsonl", *found[1:2])
    table(touch(tmp_path / "list", *NAMES) / "list.csv", [{"file": n, "label": "dog", "split": "val"} for n in NAMES])
    return [f"{tmp_path}/pets", f"{tmp_path}/rows/", f"{tmp_path}/list/list.csv"]


def test_roots_are_merged_split_by_split_in_the_order_given(roots: list[str], tmp_path: Path) -> None:
    module = image_data(roots)
    assert module.describe() == (
        f"folder layout in {tmp_path}/pets + JSONL layout in {tmp_path}/rows + CSV manifest {tmp_path}/list/list.csv "
        "(path: file, label: label, split: split): 3 classes, 14 train / 9 val / 4 test images"
    )
    assert [sample.path.removeprefix(str(tmp_path)) for sample in module.samples("test")] == [
        *("/pets/test/cat/0.png", "/pets/test/dog/0.png", "/pets/test/dog/1.png", "/rows/test/1.png")
    ]
    turned = image_data(roots[::-1])
    assert [sample.path for sample in turned.samples("test")] == [
        *(module.samples("test")[i].path for i in (3, 0, 1, 2))
    ]


def test_fingerprint_of_several_roots_is_the_same_wherever_each_lies(roots: list[str], tmp_path: Path) -> None:
    before = image_data(roots).fingerprint()
    shutil.move(roots[0], tmp_path / "deep/down/elsewhere")
    shutil.move(tmp_path / "list", tmp_path / "zzz")
    moved = [f"{tmp_path}/deep/down/elsewhere", roots[1], f"{tmp_path}/zzz/list.csv"]
    assert image_data(moved).fingerprint() == before
    assert image_data(moved[:2]).fingerprint() != before


def test_validation_carved_from_several_roots_is_the_same_wherever_each_lies(tmp_path: Path) -> None:
    for name in "ab":
        draw_folders(tmp_path / name, {f"train/{label}": 8 for label in ("cat", "dog")})
    carved = image_data([f"{tmp_path}/a", f"{tmp_path}/b"]).samples("val")
    (tmp_path / "a").rename(tmp_path / "x")
    moved = image_data([f"{tmp_path}/x", f"{tmp_path}/b"]).samples("val")
    assert [s.path.replace("/x/", "/a/") for s in moved] == [s.path for s in carved]
    alone = image_data(f"{tmp_path}/b").samples("val")
    assert len(carved) == 3
    assert {s.path for s in alone} <= {s.path.replace("/a/", "/b/") for s in carved}


@pytest.mark.parametrize("how", ["same path", "symbolic link", "another way to the folder"])
def test_image_of_one_root_s_train_in_another_s_validation_is_refused(tmp_path: Path, how: str) -> None:
    a = draw_folders(tmp_path / "a", {"train/cat": 2, "train/dog": 2})
    b = draw_folders(tmp_path / "b", {"train/cat": 1, "valid/dog": 1})
    if how == "symbolic link":
        (b / "valid/cat").mkdir()
        (b / "valid/cat/9.png").symlink_to(a / "train/cat/1.png")
    else:
        path = "../a/train/cat/1.png" if how == "same path" else f"{tmp_path}/b/../a/train/cat/1.png"
        b = write_rows(
            tmp_path / "c", "valid/rows.jsonl", {"image": f"../{path}" if path[0] == "." else path, "label": "cat"}
        )
    message = refusal([str(a), str(b)])
    assert "1 image of val is also in train, e.g. " in message
    assert f" is {a}/train/cat/1.png; a score would be of images trained on: remove them from one" in message


def test_image_of_train_in_test_is_refused_within_one_root_as_well(tmp_path: Path) -> None:
    touch(tmp_path, *NAMES)
    found = [{"path": n, "label": "xy"[i % 2], "split": "train"} for i, n in enumerate(NAMES)]
    file = table(tmp_path / "a.csv", [*found, {"path": "./2.jpg", "label": "y", "split": "test"}])
    with pytest.raises(UserError, match=r"1 image of test is also in train, e\.g\. .*/\./2.jpg is .*/2.jpg;"):
        image_data(file).samples("test")


def test_image_in_validation_and_test_is_no_mistake_but_said(tmp_path: Path) -> None:
    touch(tmp_path, *NAMES)
    splits = zip([*NAMES, "4.jpg"], ["train", "train", "val", "val", "test"], strict=True)
    file = table(tmp_path / "a.csv", [{"path": n, "label": "xy"[n > "1.jpg"], "split": s} for n, s in splits])
    module = image_data(file)
    module.describe()
    assert module.catalogue.notes == [f"{module.source}: 1 image of test is also in val, e.g. {tmp_path}/4.jpg"]


def test_image_that_two_roots_name_in_one_split_is_said_and_never_divided(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_folders(tmp_path / "a", {"train/cat": 6, "train/dog": 6})
    (tmp_path / "b").symlink_to(tmp_path / "a")
    module = image_data([f"{tmp_path}/a", f"{tmp_path}/b"], val_fraction=0.5)
    with caplog.at_level(logging.INFO, "clf"):
        module.setup("fit")
    assert f"train has 12 files from more than one root, e.g. {tmp_path}/b/train/cat/0.png" in caplog.text
    train, val = ({Path(s.path).resolve() for s in module.samples(split)} for split in ("train", "val"))
    assert (len(train), len(val), train & val) == (6, 6, set())
    assert len(module.samples("train")) == 12

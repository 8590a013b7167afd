"""Images that are for training alone: never carved, never scored, and misspelt rules refused."""

from pathlib import Path
from typing import Any

import pytest
from datasets import image_data, table, touch, write_rows

from clf.data.datamodule import ImageData
from clf.data.samples import Sample, Split
from clf.data.train_only import TrainOnly
from clf.errors import UserError

RENDERED = {"source": "rendered"}


@pytest.mark.parametrize(
    ("facts", "metadata", "kept"),
    [
        (RENDERED, {"source": "rendered"}, True),
        (RENDERED, {"source": "camera"}, False),
        (RENDERED, {}, False),
        ({"source": ["rendered", "drawn"]}, {"source": "drawn"}, True),
        ({"source": "rendered", "blur": True}, {"source": "camera", "blur": True}, True),
        ({"fold": 3}, {"fold": "3"}, True),
        ({"fold": "3"}, {"fold": 3}, True),
        ({"blur": True}, {"blur": "true"}, True),
        ({"blur": True}, {"blur": 1}, False),
        ({"blur": [False, 2]}, {"blur": None}, False),
    ],
)
def test_metadata_decides(facts: dict[str, Any], metadata: dict[str, Any], kept: bool) -> None:
    assert TrainOnly(facts)(Sample("1.jpg", "x", metadata)) is kept


def rows(split: str, count: int, source: str) -> list[dict[str, Any]]:
    return [
        {"image": f"{source}/{split}{i}.jpg", "label": "xy"[i % 2], "metadata": {"source": source}}
        for i in range(count)
    ]


def dataset(root: Path, **splits: int) -> Path:
    """Write as many camera images in each split, and as many rendered ones."""
    for split, count in splits.items():
        write_rows(root, f"{split}/a.jsonl", *rows(split, count, "camera"), *rows(split, count, "rendered"))
    return root


def count(module: ImageData) -> dict[str, tuple[int, int]]:
    """Count camera and rendered images in each split that there is."""
    found: dict[str, tuple[int, int]] = {}
    for split in module.catalogue.available:
        sources = [Path(sample.path).parent.name for sample in module.samples(split)]
        found[split] = (sources.count("camera"), sources.count("rendered"))
    return found


def test_carved_validation_is_the_share_of_the_others(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=20)
    assert count(image_data(root, val_fraction=0.2, train_only=RENDERED)) == {"train": (16, 20), "val": (4, 0)}
    plain = count(image_data(root, val_fraction=0.2))
    assert sum(plain["val"]) == 8
    assert plain["val"][1] > 0


def test_existing_validation_and_test_lose_such_images_and_it_is_said(tmp_path: Path) -> None:
    module = image_data(dataset(tmp_path, train=4, valid=2, test=4), train_only=RENDERED)
    assert count(module) == {"train": (4, 4), "val": (2, 0), "test": (4, 0)}
    assert module.catalogue.notes == [
        f"JSONL layout in {tmp_path}: left 2 val samples out, by data.train_only",
        f"JSONL layout in {tmp_path}: left 4 test samples out, by data.train_only",
    ]


@pytest.mark.parametrize(("folder", "split"), [("valid", "val"), ("test", "test")])
def test_split_of_nothing_else_is_refused(tmp_path: Path, folder: str, split: Split) -> None:
    dataset(tmp_path, train=4, valid=2, test=2)
    write_rows(tmp_path, f"{folder}/a.jsonl", *rows(folder, 2, "rendered"))
    message = rf"data.train_only \(source=rendered\) leaves no image in {split}; add others to it, or remove the split"
    with pytest.raises(UserError, match=message):
        image_data(tmp_path, train_only=RENDERED).samples(split)


def test_nothing_to_carve_from_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, "train/a.jsonl", *rows("train", 2, "camera"), *rows("train", 20, "rendered"))
    with pytest.raises(UserError, match=r"no class has two images beside those of data.train_only \(source=rendered\)"):
        image_data(tmp_path, train_only=RENDERED).setup("fit")


def test_key_that_no_image_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    root = dataset(tmp_path / "a", train=4)
    with pytest.raises(UserError, match=r"names 'sourc', which no image .* \(only source\); did you mean 'source'\?"):
        image_data(root, train_only={"sourc": "rendered"}).setup("fit")
    touch(tmp_path / "b", *[f"train/{name}/{i}.jpg" for name in "xy" for i in range(4)])
    with pytest.raises(UserError, match=r"names 'source', which no image .* \(there is none\)"):
        image_data(tmp_path / "b", train_only=RENDERED).setup("fit")


def test_value_that_no_image_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    root = dataset(tmp_path, train=4)
    with pytest.raises(UserError, match=r"source=Rendered, which no image .* 'rendered'\); did you mean 'rendered'"):
        image_data(root, train_only={"source": "Rendered"}).setup("fit")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_plain_columns_of_a_manifest_decide_as_well(tmp_path: Path, suffix: str) -> None:
    made = [
        {**row, "source": row["metadata"]["source"]}
        for source in ("camera", "rendered")
        for row in rows("train", 20, source)
    ]
    for row in made:
        del row["metadata"]
    touch(tmp_path, *[row["image"] for row in made])
    module = image_data(table(tmp_path / f"a{suffix}", made), val_fraction=0.2, train_only=RENDERED)
    assert count(module) == {"train": (16, 20), "val": (4, 0)}


def test_plain_keys_of_the_jsonl_layout_decide_as_well(tmp_path: Path) -> None:
    made = [{"image": f"{i}.jpg", "label": "xy"[i % 2], "fold": i % 4} for i in range(16)]
    write_rows(tmp_path, "train/a.jsonl", *made)
    val = image_data(tmp_path, val_fraction=0.25, train_only={"fold": [0, 1]}).samples("val")
    assert {sample.metadata["fold"] for sample in val} == {2, 3}


def test_several_roots_may_differ_in_what_they_know(tmp_path: Path) -> None:
    dataset(tmp_path / "a", train=10)
    touch(tmp_path / "b", *[f"train/{name}/camera/{i}.jpg" for name in "xy" for i in range(5)])
    roots: Any = [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert count(image_data(roots, val_fraction=0.2, train_only=RENDERED)) == {"train": (16, 10), "val": (4, 0)}


def test_image_of_which_one_row_is_for_training_alone_stays_in_train(tmp_path: Path) -> None:
    twice = [{"image": "camera/train0.jpg", "label": "x", "metadata": {"source": "rendered"}}]
    write_rows(tmp_path, "train/a.jsonl", *rows("train", 4, "camera"), *twice)
    val = image_data(tmp_path, val_fraction=0.5, train_only=RENDERED).samples("val")
    assert "train0.jpg" not in {Path(sample.path).name for sample in val}


def test_rendered_copy_of_a_training_image_in_validation_is_no_leak_once_it_is_left_out(tmp_path: Path) -> None:
    dataset(tmp_path, train=4)
    both = {"image": "../train/rendered/train0.jpg", "label": "x", "metadata": RENDERED}
    write_rows(tmp_path, "valid/a.jsonl", *rows("valid", 2, "camera"), both)
    assert count(image_data(tmp_path, train_only=RENDERED))["val"] == (2, 0)
    with pytest.raises(UserError, match="1 image of val is also in train"):
        image_data(tmp_path).setup("fit")

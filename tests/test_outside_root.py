"""Tables from strangers name nothing outside their root, by whatever way; unless that is allowed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import draw, draw_pets, image_data, table
from exports import exported

from clf.data.inputs import find_inputs
from clf.errors import UserError
from clf.main import main

FORMATS = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])


def climb(root: Path) -> str:
    return "../outside/0.png"


def climb_in_the_middle(root: Path) -> str:
    return "photos/../../outside/0.png"


def absolute(root: Path) -> str:
    return str(root.parent / "outside/0.png")


def linked_file(root: Path) -> str:
    (root / "photos/link.png").symlink_to("../../outside/0.png")
    return "photos/link.png"


def linked_folder(root: Path) -> str:
    (root / "linked").symlink_to("../outside")
    return "linked/0.png"


def linked_twice(root: Path) -> str:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("../outside")
    return "one/0.png"


def similar_name(root: Path) -> str:
    shutil.copytree(root.parent / "outside", f"{root}-too")
    return f"../{root.name}-too/0.png"


WAYS = pytest.mark.parametrize(
    "way", [climb, climb_in_the_middle, absolute, linked_file, linked_folder, linked_twice, similar_name]
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with images for a table, and one beside it with an image that is nobody's business."""
    for number in range(4):
        draw(tmp_path / f"root/photos/{number}.png", seed=number)
    draw(tmp_path / "outside/0.png", seed=9)
    return tmp_path / "root"


def manifest(root: Path, leading_out: str, *, suffix: str = ".csv") -> Path:
    """Four rows of images inside, then one that leads out."""
    rows = [{"path": f"photos/{number}.png", "label": "ab"[number % 2]} for number in range(4)]
    return table(root / f"all{suffix}", [*rows, {"path": leading_out, "label": "a"}])


@WAYS
@FORMATS
def test_a_manifest_that_leads_out_is_refused_by_row_and_path_with_what_to_set(
    root: Path, way: Callable[[Path], str], suffix: str
) -> None:
    leading_out = way(root)
    file = manifest(root, leading_out, suffix=suffix)
    line = {".csv": 6, ".tsv": 6}.get(suffix, 5)
    with pytest.raises(UserError) as caught:
        image_data(file).samples("train")
    assert str(caught.value) == (
        f"{file}:{line}: image {str(root / leading_out)!r} lies outside {str(root)!r}; "
        "if you trust the table to name files anywhere, set data.allow_outside_root: true"
    )
    with pytest.raises(UserError, match=f"all{suffix}:{line}: image .* lies outside"):
        find_inputs(str(file), classes=["a", "b"])


@WAYS
def test_it_may_where_that_is_allowed(root: Path, way: Callable[[Path], str]) -> None:
    file = manifest(root, way(root))
    data = image_data(file, allow_outside_root=True, predict=str(file), checkpoint=["a", "b"])
    assert sum(len(data.samples(split)) for split in data.available) == 5
    assert len(data.predict_samples) == 5


@WAYS
def test_the_rows_of_the_jsonl_layout_stay_in_the_whole_root(root: Path, way: Callable[[Path], str]) -> None:
    (root / "train").mkdir()
    rows = [{"image": f"../photos/{number}.png", "label": "ab"[number % 2]} for number in range(4)]
    file = root / "train/rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(image_data(root).samples("train")) + len(image_data(root).samples("val")) == 4
    leading_out = way(root)
    named = leading_out if way is absolute else f"../{leading_out}"
    file.write_text(file.read_text() + json.dumps({"image": named, "label": "a"}) + "\n")
    with pytest.raises(UserError, match=r"rows.jsonl:5: image .* lies outside '.*/root'; "):
        image_data(root).samples("train")


def test_absolute_paths_and_links_that_stay_inside_are_nobody_s_harm(root: Path) -> None:
    (root / "photos/link.png").symlink_to("3.png")
    (root.parent / "door").symlink_to("root")
    paths = [str(root / "photos/0.png"), str(root.parent / "door/photos/1.png"), "photos/2.png", "photos/link.png"]
    table(root / "all.csv", [{"path": path, "label": label} for path, label in zip(paths, "aabb", strict=True)])
    for place in (root / "all.csv", root.parent / "door/all.csv", root):
        data = image_data(place, layout="manifest")
        assert len(data.samples("train")) + len(data.samples("val")) == 4


def test_links_in_class_folders_are_the_user_s_own(root: Path) -> None:
    pets = draw_pets(root / "pets")
    (pets / "train/cat/link.png").symlink_to(root.parent / "outside/0.png")
    assert f"{pets}/train/cat/link.png" in image_data(pets).samples("train").paths


def test_a_table_that_predict_wrote_counts_from_the_working_folder_and_stays_in_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    rows = [{"path": "photos/0.png", "confidence": "1.0"}]
    (root / "deep").mkdir()
    assert len(find_inputs(str(table(root / "deep/new.csv", rows)), classes=[])[0]) == 1
    table(root / "deep/new.csv", [*rows, {"path": "../outside/0.png", "confidence": "1.0"}])
    with pytest.raises(UserError, match=r"new.csv:3: image '../outside/0.png' lies outside '.'"):
        find_inputs("deep/new.csv", classes=[])


def test_an_exported_model_predicts_on_no_file_outside_unless_allowed(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    exported(root.parent / "small")
    words = ["predict", "--ckpt_path", str(root.parent / "small/export/model.onnx"), "--data.predict"]
    words += [str(manifest(root, climb(root))), "--output", str(root / "found.csv")]
    assert main(words) == 2
    assert "lies outside" in capfd.readouterr().err
    assert not (root / "found.csv").exists()
    assert main([*words, "--data.allow_outside_root", "true"]) == 0
    assert main([*words, "--data.allow_outside_root", "yes"]) == 2

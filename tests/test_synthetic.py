"""The rendered dataset: the same bytes for the same spec, whole or absent, and never over somebody else's files."""

import errno
import io
import itertools
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from clf.data import jersey, rendering, synthetic
from clf.data.rendering import Order, write
from clf.data.samples import Source, Split
from clf.data.synthetic import SyntheticJerseys
from clf.errors import UserError

SMALL: dict[str, Any] = {"classes": ["0", "00", "1"], "train_per_class": 3, "val_per_class": 2, "test_per_class": 1}
SPLITS: tuple[Split, ...] = ("train", "val", "test")
FLAGS = ["--classes", "0", "00", "1", "--train_per_class", "3", "--val_per_class", "2", "--test_per_class", "1"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def images(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(folder).items() if name.endswith(".jpg")}


def made(folder: Path, **changes: Any) -> Path:
    write(SyntheticJerseys(**{**SMALL, **changes}).order, output=folder)
    return folder


def test_the_layout_is_folders_of_images_with_annotations(tmp_path: Path) -> None:
    root = made(tmp_path / "data")
    assert {path.name for path in root.iterdir()} == {"train", "valid", "test", "synthetic.json"}
    for name, count in {"train": 3, "valid": 2, "test": 1}.items():
        rows = [json.loads(line) for line in (root / name / "annotations.jsonl").read_text().splitlines()]
        assert [row["suffix"] for row in rows] == ["0"] * count + ["00"] * count + ["1"] * count
        assert {row["image"] for row in rows} == {path.name for path in (root / name).glob("*.jpg")}
        assert all(set(row) == {"image", "prefix", "suffix", "metadata"} for row in rows)
        assert all(row["metadata"]["source"] == "rendered" for row in rows)
        for row in rows:
            with Image.open(root / name / row["image"]) as image:
                assert image.format == "JPEG"
                assert 36 <= image.height <= 60


@pytest.mark.parametrize("classes", [["0", "00", "1"], ["1", "00", "0"]])
def test_two_runs_write_the_same_bytes_in_whatever_order_classes_are_named(tmp_path: Path, classes: list[str]) -> None:
    assert files(made(tmp_path / "one")) == files(made(tmp_path / "two", classes=classes))


def test_more_classes_and_images_leave_the_others_as_they_were(tmp_path: Path) -> None:
    few = images(made(tmp_path / "few"))
    many = images(made(tmp_path / "many", classes=["45", "1", "0", "00"], train_per_class=5, test_per_class=2))
    assert len(many) > len(few)
    assert {name: many[name] for name in few} == few


def test_another_seed_draws_every_image_anew(tmp_path: Path) -> None:
    one, two = images(made(tmp_path / "one")), images(made(tmp_path / "two", seed=43))
    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


def test_no_image_appears_twice_in_a_dataset_let_alone_in_two_splits(tmp_path: Path) -> None:
    drawn = images(made(tmp_path / "data", train_per_class=20, val_per_class=20, test_per_class=20))
    assert len(set(drawn.values())) == 3 * 60


def test_classes_do_not_share_their_draws(tmp_path: Path) -> None:
    rows = (made(tmp_path / "data", train_per_class=9) / "train" / "annotations.jsonl").read_text().splitlines()
    looks = [json.dumps(json.loads(row)["metadata"]) for row in rows]
    assert looks[:9] != looks[9:18] != looks[18:] != looks[:9]


@pytest.mark.parametrize("changes", [{"degradation": 1.0}, {"rotation": 40.0}, {"tightness": 0.8}])
def test_what_makes_the_task_harder_changes_the_images(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert images(made(tmp_path / "one")) != images(made(tmp_path / "two", **changes))


def test_heights_keep_to_the_range_and_fill_it(tmp_path: Path) -> None:
    root = made(tmp_path / "data", train_per_class=30, size_min=20, size_max=23)
    heights = set()
    for path in root.glob("train/*.jpg"):
        with Image.open(path) as image:
            heights.add(image.height)
    assert heights == {20, 21, 22, 23}


def test_the_default_dataset_has_enough_images_to_measure_with() -> None:
    spec = SyntheticJerseys()
    assert {"0", "00", "1", "10", "11"} <= set(spec.classes)
    assert spec.counts["val"] * len(spec.classes) >= 240
    assert spec.counts["test"] * len(spec.classes) >= 240


def test_the_same_spec_is_used_again_and_not_drawn_again(tmp_path: Path) -> None:
    root = made(tmp_path / "data")
    next(root.glob("train/*.jpg")).write_bytes(b"touched")
    before = files(root)
    assert not write(SyntheticJerseys(**SMALL).order, output=root)
    assert files(root) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 7}, "seed 42, not 7"),
        ({"train_per_class": 4}, "train_per_class 3, not 4"),
        ({"val_per_class": 4, "test_per_class": 4}, "val_per_class 2, not 4; test_per_class 1, not 4"),
        ({"size_min": 37, "size_max": 61}, "size_min 36, not 37; size_max 60, not 61"),
        ({"degradation": 0.1, "rotation": 5.0}, "degradation 0.5, not 0.1; rotation 10.0, not 5.0"),
        ({"classes": ["0"]}, r"classes \['0', '00', '1'\], not \['0'\]"),
    ],
)
def test_another_specs_folder_is_refused_and_left_alone(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    root = made(tmp_path / "data")
    before = files(root)
    with pytest.raises(UserError, match=f"data holds a rendered dataset with {says}; name a new folder"):
        made(root, **changes)
    assert files(root) == before
    assert list(tmp_path.iterdir()) == [root]


def test_a_dataset_of_an_older_renderer_is_neither_reused_nor_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, default = made(tmp_path / "data"), SyntheticJerseys().root
    monkeypatch.setattr(synthetic, "RENDERER", jersey.RENDERER + 1)
    with pytest.raises(UserError, match="renderer"):
        made(root)
    assert SyntheticJerseys().root != default


@pytest.mark.parametrize("content", ["not json", "[1]", '{"tool": "of somebody else"}'])
def test_a_folder_of_somebody_elses_files_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "synthetic.json").write_text(content)
    with pytest.raises(UserError, match="data is already there and is no rendered dataset"):
        made(root)
    assert files(root) == {"synthetic.json": content.encode()}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(UserError, match="is already there"):
        made(tmp_path / "data")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert images(made(tmp_path / "data"))


def test_the_working_folder_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the working folder itself"):
        made(Path())


def failing_after(count: int, failure: BaseException) -> Callable[..., Any]:
    """A renderer that draws some images and then fails."""
    drawn: Iterator[int] = iter(range(count))

    def render(*args: Any, **kwargs: Any) -> Any:
        if next(drawn, None) is None:
            raise failure
        return jersey.render(*args, **kwargs)

    return render


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "render", failing_after(4, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_with_its_folder_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "render", failing_after(4, OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"cannot write the rendered dataset to .*data: .*No space left on device"):
        made(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


COMMAND = [sys.executable, "-c", "import sys; from clf.synth import main; sys.exit(main(sys.argv[1:]))"]


def test_a_killed_run_leaves_no_dataset_and_the_next_one_succeeds(tmp_path: Path) -> None:
    root = tmp_path / "data"
    many = [*COMMAND, "--output", str(root), "--train_per_class", "100000"]
    with subprocess.Popen(many, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert any(tmp_path.rglob("*.jpg")), "the run was killed before it drew anything"
    assert not root.exists()
    assert images(made(root))


def test_two_processes_at_once_end_up_with_one_whole_dataset(tmp_path: Path) -> None:
    root = tmp_path / "data"
    command = [*COMMAND, "--output", str(root), *FLAGS]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert list(tmp_path.iterdir()) == [root]
    assert files(root) == files(made(tmp_path / "alone"))


def overtaken_by(root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let another process finish ``root`` while this one is still drawing."""
    write_images = rendering._write

    def slow_write(order: Order, *, folder: Path) -> None:
        monkeypatch.setattr(rendering, "_write", write_images)
        made(root, **changes)
        write_images(order, folder=folder)

    monkeypatch.setattr(rendering, "_write", slow_write)


def test_who_is_overtaken_uses_the_winners_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    overtaken_by(root, monkeypatch)
    assert not write(SyntheticJerseys(**SMALL).order, output=root)
    assert list(tmp_path.iterdir()) == [root]
    assert len(images(root)) == 18


def test_who_is_overtaken_by_another_spec_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    overtaken_by(root, monkeypatch, seed=7)
    with pytest.raises(UserError, match="seed 7, not 42"):
        made(root)
    assert list(tmp_path.iterdir()) == [root]


def test_the_source_draws_on_first_use_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, logger="clf")
    source: Source = SyntheticJerseys(**SMALL)
    assert list(tmp_path.iterdir()) == []
    assert [len(source.samples(split)) for split in SPLITS] == [9, 6, 3]
    (folder,) = (tmp_path / "data").iterdir()
    assert caplog.messages == [f"rendering 18 jersey numbers into data/{folder.name}"]
    assert str(source) == f"rendered jersey numbers in data/{folder.name}"


def test_samples_are_files_with_text_labels_and_metadata(tmp_path: Path) -> None:
    samples = SyntheticJerseys(**SMALL, folder=str(tmp_path / "here")).samples("train")
    assert [sample.label for sample in samples] == ["0"] * 3 + ["00"] * 3 + ["1"] * 3
    assert all(Path(sample.path).is_file() and Path(sample.path).is_relative_to(tmp_path) for sample in samples)
    assert all(sample.metadata["source"] == "rendered" for sample in samples)


def test_specs_do_not_share_a_default_folder(tmp_path: Path) -> None:
    roots = {SyntheticJerseys(seed=seed, degradation=d).root for seed in (1, 2) for d in (0.1, 0.2)}
    assert len(roots) == 4
    assert SyntheticJerseys(folder=str(tmp_path)).root == tmp_path


def test_a_dataset_that_was_rendered_before_numbers_could_be_tight_is_found_again() -> None:
    assert SyntheticJerseys().root == Path("data/synthetic-5fc2819a")


def test_a_split_of_no_images_is_empty(tmp_path: Path) -> None:
    source = SyntheticJerseys(**{**SMALL, "val_per_class": 0}, folder=str(tmp_path / "data"))
    assert source.samples("val") == []
    assert len(source.samples("test")) == 3
    assert not (tmp_path / "data" / "valid").exists()


def test_a_spoilt_dataset_is_reported_with_its_file(tmp_path: Path) -> None:
    source = SyntheticJerseys(**SMALL, folder=str(tmp_path / "data"))
    source.samples("train")
    shutil.rmtree(tmp_path / "data" / "train")
    with pytest.raises(UserError, match=r"train/annotations.jsonl is spoilt: .*; remove .*data to render it anew"):
        source.samples("train")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ["a"]}, "classes has 'a'"),
        ({"classes": ["1234"]}, "one to three digits"),
        ({"classes": [0]}, 'classes has 0; .* in YAML "00"'),
        ({"classes": []}, "is empty or repeats"),
        ({"classes": ["1", "1"]}, "is empty or repeats"),
        ({"train_per_class": 0}, "train_per_class=0 is too few; choose 1 or more"),
        ({"val_per_class": -1}, "val_per_class=-1 is too few; choose 0 or more"),
        ({"test_per_class": -1}, "test_per_class=-1 is too few"),
        ({"size_min": 15}, "size_min=15, size_max=60"),
        ({"size_min": 61}, "choose 16 <= size_min <= size_max <= 512"),
        ({"size_max": 513}, "size_max=513"),
        ({"degradation": 1.1}, "degradation=1.1 is out of range; choose a number from 0 to 1"),
        ({"degradation": float("nan")}, "degradation=nan"),
        ({"tightness": 0.1}, "tightness=0.1 is out of range; choose a number from 0.2 to 1"),
        ({"tightness": 1.1}, "tightness=1.1 is out of range"),
        ({"rotation": -1}, "rotation=-1 is out of range; choose a number from 0 to 45"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        SyntheticJerseys(**changes)


def test_yaml_can_name_the_source_and_keeps_classes_as_text() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    settings = {"class_path": "clf.data.synthetic.SyntheticJerseys", "init_args": {"classes": ["00", "1"], "seed": 5}}
    source = parser.instantiate(parser.parse_object({"source": settings})).source
    assert source == SyntheticJerseys(classes=["00", "1"], seed=5)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "seconds_per_image", "shown"),
    [(Terminal(), 1.0, True), (Terminal(), 0.001, False), (io.StringIO(), 1.0, False)],
)
def test_only_a_long_run_in_a_terminal_shows_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, seconds_per_image: float, shown: bool
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * seconds_per_image)
    monkeypatch.setattr(sys, "stderr", stream)
    assert len(images(made(tmp_path / "data"))) == 18
    assert ("rendering jersey numbers" in stream.getvalue()) == shown

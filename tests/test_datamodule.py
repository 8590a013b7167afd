"""ImageData: what it recognises, what it refuses, and what there is to predict on."""

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import draw, draw_pets, touch, write_rows
from datasets import image_data as data

from clf.data.datamodule import ImageData
from clf.data.samples import Sample, Split
from clf.data.synthetic import SyntheticJerseys
from clf.errors import UserError
from clf.preprocess import Preprocessing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw_pets(tmp_path / "pets")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "clf"]


class Own:
    """A user's own source."""

    def __init__(self, train: str = "ab") -> None:
        self.train = train

    def samples(self, split: Split) -> list[Sample]:
        return [Sample(f"{split}/{i}.png", x) for i, x in enumerate(self.train)] if split == "train" else []

    def __str__(self) -> str:
        return "my own"


class Untouchable(Own):
    def samples(self, split: Split) -> list[Sample]:
        raise AssertionError(f"{split} was listed")


def test_without_root_and_source_the_data_is_rendered() -> None:
    assert isinstance(data(None).source, SyntheticJerseys)


def test_rendered_data_can_be_configured() -> None:
    source = SyntheticJerseys(classes=("7", "8"), train_per_class=1)
    assert data(None, source=source).source is source


def test_own_source_replaces_the_rendered_data() -> None:
    assert data(None, source=Own("yx")).classes == ["x", "y"]


def test_root_wins_over_a_rendered_source(root: Path) -> None:
    assert data(root, source=SyntheticJerseys()).classes == ["cat", "dog"]


def test_root_and_own_source_together_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"data.root=.* and data.source=Own are both given"):
        data(root, source=Own())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"val_fraction": 0.0}, "data.val_fraction=0.0 is out of range"),
        ({"val_fraction": 1.0}, "data.val_fraction=1.0 is out of range"),
        ({"batch_size": 0}, "data.batch_size=0 is out of range; choose 1 or more"),
        ({"num_workers": -1}, "data.num_workers=-1 is out of range; choose 0 or more, or auto"),
        ({"prefetch_factor": 0}, "data.prefetch_factor=0 is out of range"),
        ({"seed": -1}, "data.seed=-1 is out of range"),
    ],
)
def test_values_out_of_range_are_refused_by_key_and_value(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data(None, **option)


def test_layout_is_recognised_and_described(root: Path, tmp_path: Path) -> None:
    assert data(root).describe() == f"folder layout in {root}: 2 classes, 11 train / 5 val / 3 test images"
    rows = [{"image": f"{label}{i}.png", "label": label} for label in "ab" for i in range(2)]
    write_rows(tmp_path / "jsonl", "train/rows.jsonl", *rows)
    described = data(tmp_path / "jsonl").describe()
    assert described.startswith(f"JSONL layout in {tmp_path}/jsonl: 2 classes, 3 train / 1 val images")


def test_layout_that_was_guessed_can_be_overruled(root: Path) -> None:
    write_rows(root, "train/rows.jsonl", {"image": "cat/0.png", "label": "x"}, {"image": "dog/0.png", "label": "y"})
    assert data(root).classes == ["x", "y"]
    assert data(root, layout="folder").classes == ["cat", "dog"]
    with pytest.raises(UserError, match=r"no \*.jsonl"):
        data(root, layout="jsonl").samples("val")


def test_key_of_the_labels_decides_the_classes(tmp_path: Path) -> None:
    rows = [
        {"image": f"{i}.png", "label": label, "shade": shade}
        for i, (label, shade) in enumerate([("a", "x"), ("b", "y")])
    ]
    write_rows(tmp_path, "train/rows.jsonl", *rows)
    assert data(tmp_path).classes == ["a", "b"]
    assert data(tmp_path, label_key="shade").classes == ["x", "y"]


def test_key_of_the_labels_holds_for_manifests_too(root: Path) -> None:
    write_rows(root, "list.jsonl", {"image": "test/cat/0.png", "label": "cat", "second": "dog"})
    samples = data(root, label_key="second", predict=f"{root}/list.jsonl", checkpoint=["cat", "dog"]).predict_samples
    assert [sample.label for sample in samples] == ["dog"]


def test_classes_and_counts_are_known_before_the_model_is(root: Path) -> None:
    module = ImageData(root=str(root))
    assert (module.classes, module.class_counts) == (["cat", "dog"], [6, 5])


def test_fingerprint_is_of_the_data_and_not_of_its_place(root: Path) -> None:
    before = data(root).fingerprint()
    root.rename(root.with_name("moved"))
    assert data(root.with_name("moved")).fingerprint() == before
    assert data(f"{root.with_name('moved')}/").fingerprint() == before
    draw(root.with_name("moved") / "train/cat/new.png", seed=1)
    assert data(root.with_name("moved")).fingerprint() != before


def test_share_of_validation_is_carved_by_fraction_and_seed(tmp_path: Path) -> None:
    root = touch(tmp_path, *[f"train/{label}/{i}.jpg" for label in "ab" for i in range(10)])
    carved = [data(root, val_fraction=f, seed=s).samples("val") for f, s in ((0.1, 1), (0.3, 1), (0.3, 2))]
    assert [len(samples) for samples in carved] == [2, 6, 6]
    assert carved[1] != carved[2]


def test_label_that_train_lacks_stops_or_is_skipped(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(root / "valid/emu/0.png", seed=1)
    with pytest.raises(UserError, match="val has labels that train lacks: 'emu'"):
        data(root).setup("fit")
    with caplog.at_level(logging.INFO, "clf"):
        data(root, on_unknown_label="skip").setup("fit")
    assert "skipped 1 val sample with" in caplog.text


def test_what_was_left_out_is_said_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(root, "train/cat/notes.txt")
    module = data(root)
    with caplog.at_level(logging.INFO, "clf"):
        for _ in range(2):
            module.setup("fit")
    (message,) = said(caplog)
    assert "ignored 1 hidden or other file that is no image" in message


def test_missing_test_split_is_said_by_the_stage_that_needs_it(tmp_path: Path) -> None:
    module = data(touch(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg"))
    module.setup("fit")
    with pytest.raises(UserError, match="there is no test split"):
        module.setup("test")


def test_data_of_another_checkpoint_is_refused_before_anything_is_scored(root: Path) -> None:
    for stage in ("validate", "test"):
        with pytest.raises(UserError, match="lacks 'emu'"):
            data(root, checkpoint=["cat", "dog", "emu"]).setup(stage)


def test_checkpoint_that_comes_after_a_look_at_the_data_is_still_compared_with_it(root: Path) -> None:
    module = data(root)
    assert module.classes == ["cat", "dog"]
    module.bind(Preprocessing(size=(8, 8)), ["cat", "emu"])
    with pytest.raises(UserError, match="lacks 'emu' and adds 'dog'"):
        module.setup("validate")


def test_data_without_train_is_scored_by_the_checkpoints_classes(root: Path) -> None:
    (root / "train").rename(root / "elsewhere")
    module = data(root, checkpoint=["bee", "cat", "dog"])
    (batch,) = list(module.test_dataloader())
    assert batch["labels"].tolist() == [1, 2, 2]


# What is predicted on.


def test_prediction_takes_the_test_split_or_what_it_is_told(root: Path) -> None:
    assert data(root, checkpoint=["cat", "dog"]).predict_samples == data(root).samples("test")
    module = data(root, checkpoint=["cat", "dog"], predict=f"{root}/valid/cat")
    assert [Path(sample.path).name for sample in module.predict_samples] == ["0.png", "1.png", "2.png"]
    assert module.predict_samples is module.predict_samples


def test_prediction_of_a_folder_never_lists_or_renders_the_training_data(root: Path) -> None:
    module = data(None, source=Untouchable(), checkpoint=["cat", "dog"], predict=f"{root}/test")
    module.setup("predict")
    (batch,) = list(module.predict_dataloader())
    assert batch["labels"].tolist() == [0, 1, 1]


def test_batches_to_predict_on_have_no_labels_where_none_are_known(root: Path) -> None:
    (batch,) = list(data(root, checkpoint=["cat", "dog"], predict=f"{root}/test/dog").predict_dataloader())
    assert batch.keys() == {"images", "index"}


def test_missing_input_is_refused_when_prediction_begins(root: Path) -> None:
    with pytest.raises(UserError, match="does not exist; did you mean 'valid'"):
        data(root, checkpoint=["cat", "dog"], predict=f"{root}/vlaid").setup("predict")


def test_tree_that_a_root_names_is_checked_when_the_classes_are_asked_for(tmp_path: Path) -> None:
    module = ImageData(root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is not a folder"):
        _ = module.classes

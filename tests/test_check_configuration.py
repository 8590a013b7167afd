"""The check of a configuration: each mistake is found, and what stands beside it and is right is not."""

import logging
from collections.abc import Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from datasets import draw, draw_folders, image_data
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.cli import ReduceLROnPlateau
from test_configs import EXPERIMENTS
from tiny import fit, logged, tiny
from torch.optim.lr_scheduler import MultiStepLR, StepLR
from torchvision.transforms import RandomVerticalFlip, v2

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.early_stopping import EarlyStopping
from clf.callbacks.timing import Timing
from clf.check.augmentation import what_is_read
from clf.check.before_fit import tell
from clf.check.configuration import check_configuration
from clf.check.findings import Finding
from clf.check.plan import count_processes, plan
from clf.composed import composed
from clf.cores import usable_cores
from clf.errors import UserError
from clf.optim import OneCycle

TRAINER = {
    **{name: each.default for name, each in signature(Trainer).parameters.items()},
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 100,
}
CALLBACKS: Mapping[str, Callback] = {"checkpoint": Checkpoint(), "early_stopping": EarlyStopping(), "timing": Timing()}
TIMM = {"network": None, "arch": "test_resnet", "pretrained": False, "image_size": 32}  # its head is told apart
PLATEAU = partial(ReduceLROnPlateau, monitor="val/loss")


class Own(Callback):
    """A callback as users write them; it might log anything."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in the three splits: 40 images to train on, of 12 x 10 pixels."""
    counts = {
        f"{split}/{name}": n for split, n in (("train", 20), ("valid", 4), ("test", 2)) for name in ("cat", "dog")
    }
    return draw_folders(tmp_path_factory.mktemp("pets"), counts)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes that are digits."""
    counts = {f"{split}/{name}": 4 for split in ("train", "valid", "test") for name in ("3", "6", "9", "10")}
    return draw_folders(tmp_path_factory.mktemp("digits"), counts)


def check(
    root: Path,
    *,
    data: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    callbacks: dict[str, Callback | None] | None = None,
) -> dict[str, Finding]:
    """Check what differs in these keys from a clean configuration; returns the findings by their rule."""
    images = image_data(root, **{"augment": "light", **(data or {})})
    classifier = tiny(classes=images.classes, **(model or {}))
    images.bind(classifier.preprocessing)
    found = check_configuration(
        images, classifier, trainer=TRAINER | (trainer or {}), callbacks={**CALLBACKS, **(callbacks or {})}
    )
    return {finding.rule: finding for finding in found}


def test_a_clean_configuration_gives_no_finding(root: Path) -> None:
    assert check(root) == {}


MISTAKES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    # rule, severity, what is wrong, what stands beside it and is right
    (
        "unknown-metric",
        "error",
        {"callbacks": {"checkpoint": Checkpoint(monitor="val/acc_top2")}},
        {"callbacks": {"checkpoint": Checkpoint(monitor="val/acc_class_1")}},
    ),
    (
        "unknown-metric",
        "error",
        {"callbacks": {"checkpoint": Checkpoint(filename="{epoch}-{val/acc:.2f}")}},
        {"callbacks": {"checkpoint": Checkpoint(filename="{epoch}-{step}-{val/f1_macro:.2f}")}},
    ),
    (
        "unknown-metric",
        "error",
        {"callbacks": {"early_stopping": LightningEarlyStopping("val/auroc", mode="max")}},
        {"callbacks": {"early_stopping": LightningEarlyStopping("val/auroc", mode="max")}, "model": {"auroc": True}},
    ),
    (
        "unknown-metric",
        "error",
        {"callbacks": {"early_stopping": EarlyStopping(monitor="time/epoch", mode="min")}},
        {"callbacks": {"early_stopping": EarlyStopping(monitor="time/epoch_s", mode="min")}},
    ),
    (
        "unknown-metric",
        "warning",
        {"trainer": {"callbacks": [Own(), LightningEarlyStopping("val/own")]}},
        {"trainer": {"callbacks": [Own(), LightningEarlyStopping("lr-AdamW")]}},
    ),
    (
        "unknown-metric",
        "error",
        {"model": {"lr_scheduler": partial(ReduceLROnPlateau, monitor="val_loss")}},
        {"model": {"lr_scheduler": PLATEAU}},
    ),
    (
        "wrong-mode",
        "error",
        {"callbacks": {"checkpoint": Checkpoint(monitor="val/loss")}},
        {"callbacks": {"checkpoint": Checkpoint(monitor="val/loss", mode="min")}},
    ),
    (
        "wrong-mode",
        "error",
        {"callbacks": {"early_stopping": LightningEarlyStopping("val/acc_top1")}},
        {"callbacks": {"early_stopping": LightningEarlyStopping("val/acc_top1", mode="max")}},
    ),
    (
        "wrong-mode",
        "error",
        {"model": {"lr_scheduler": partial(PLATEAU, mode="max")}},
        {"model": {"lr_scheduler": partial(PLATEAU, monitor="val/acc_top1", mode="max", patience=5)}},
    ),
    (
        "no-validation",
        "warning",
        {"trainer": {"limit_val_batches": 0}},
        {
            "trainer": {"limit_val_batches": 0},
            "callbacks": {"checkpoint": Checkpoint(monitor="train/loss", mode="min"), "early_stopping": None},
        },
    ),
    (
        "no-validation",
        "error",
        {"trainer": {"limit_val_batches": 0}, "model": {"lr_scheduler": PLATEAU}},
        {"model": {"lr_scheduler": PLATEAU}},
    ),
    (
        "no-validation",
        "warning",
        {"trainer": {"check_val_every_n_epoch": 30, "max_epochs": 20}},
        {"trainer": {"check_val_every_n_epoch": 20, "max_epochs": 20}},
    ),
    (
        "no-best-epoch",
        "warning",
        {"callbacks": {"checkpoint": Checkpoint(every_n_epochs=30)}, "trainer": {"max_epochs": 20}},
        {"callbacks": {"checkpoint": Checkpoint(every_n_epochs=20)}, "trainer": {"max_epochs": 20}},
    ),
    (
        "patience-longer-than-run",
        "note",
        {"callbacks": {"early_stopping": EarlyStopping(patience=30)}, "trainer": {"max_epochs": 30}},
        {"callbacks": {"early_stopping": EarlyStopping(patience=29)}, "trainer": {"max_epochs": 30}},
    ),
    (
        "patience-longer-than-run",
        "note",
        {
            "callbacks": {"early_stopping": EarlyStopping(patience=29)},
            "trainer": {"max_epochs": 50, "check_val_every_n_epoch": 2},
        },
        {"trainer": {"max_epochs": 20}},  # the default patience, in a run that was made short
    ),
    (
        "plateau-after-early-stopping",
        "warning",
        {
            "model": {"lr_scheduler": partial(PLATEAU, patience=20)},
            "callbacks": {"early_stopping": EarlyStopping("val/loss", "min")},
        },
        {
            "model": {"lr_scheduler": partial(PLATEAU, patience=19)},
            "callbacks": {"early_stopping": EarlyStopping("val/loss", "min")},
        },
    ),
    ("batch-larger-than-data", "warning", {"data": {"batch_size": 41}}, {"data": {"batch_size": 40}}),
    (
        "batch-larger-than-data",
        "warning",
        {"data": {"batch_size": 21}, "trainer": {"devices": 2}},
        {"data": {"batch_size": 20}, "trainer": {"devices": 2}},
    ),
    (
        "accumulation-longer-than-epoch",
        "warning",
        {"trainer": {"accumulate_grad_batches": 11}},
        {"trainer": {"accumulate_grad_batches": 10}},
    ),
    (
        "few-batches",
        "warning",
        {"trainer": {"limit_train_batches": 1}, "data": {"batch_size": 2}},
        {"trainer": {"limit_train_batches": 1.0}, "data": {"batch_size": 2}},
    ),
    (
        "few-batches",
        "note",
        {
            "trainer": {"limit_train_batches": 1, "max_epochs": 1},
            "data": {"batch_size": 2},
            "model": {"warmup_epochs": 0},
        },
        {
            "trainer": {"limit_train_batches": 2, "max_epochs": 1},
            "data": {"batch_size": 2},
            "model": {"warmup_epochs": 0},
        },
    ),
    (
        "warmup-shortened",
        "note",
        {"trainer": {"max_epochs": 19}},
        {"trainer": {"max_epochs": 20}},
    ),
    (
        "warmup-shortened",
        "note",
        {"trainer": {"max_steps": 199}},  # of ten in an epoch
        {"trainer": {"max_epochs": 19}, "model": {"lr_scheduler": OneCycle}},  # which has its own
    ),
    ("frozen-throughout", "note", {"model": {**TIMM, "freeze_epochs": 100}}, {"model": {**TIMM, "freeze_epochs": 99}}),
    (
        "schedule-beyond-run",
        "warning",
        {"model": {"lr_scheduler": partial(MultiStepLR, milestones=[100, 200])}},
        {"model": {"lr_scheduler": partial(MultiStepLR, milestones=[99, 200])}},
    ),
    (
        "schedule-beyond-run",
        "warning",
        {"model": {"lr_scheduler": partial(StepLR, step_size=1000), "lr_scheduler_interval": "step"}},
        {"model": {"lr_scheduler": partial(StepLR, step_size=999), "lr_scheduler_interval": "step"}},
    ),
    (
        "more-workers-than-cores",
        "note",
        {"data": {"num_workers": usable_cores() + 1}},
        {"data": {"num_workers": usable_cores()}},
    ),
    (
        "half-precision-without-gpu",
        "note",
        {"trainer": {"precision": "16-mixed"}},
        {"trainer": {"precision": "32-true"}},
    ),
    ("anomaly-detection", "warning", {"trainer": {"detect_anomaly": True}}, {"trainer": {"detect_anomaly": False}}),
    ("input-larger-than-images", "warning", {"model": {"image_size": 44}}, {"model": {"image_size": 43}}),
]


@pytest.mark.parametrize(("rule", "severity", "wrong", "right"), MISTAKES)
def test_a_mistake_is_found_and_what_is_right_beside_it_is_not(
    rule: str, severity: str, wrong: dict[str, Any], right: dict[str, Any], root: Path
) -> None:
    finding = check(root, **wrong)[rule]
    assert (finding.subject, finding.severity) == ("configuration", severity)
    assert "\n" not in finding.message
    assert rule not in check(root, **right)


@pytest.mark.parametrize(
    ("augment", "found"),
    [
        ("none", set()),
        ("light", set()),
        ("ocr", set()),
        ("standard", {"mirrored-text"}),
        ("strong", {"mirrored-text"}),
        ([v2.RandAugment()], set()),
        ([v2.RandomApply([v2.Compose([v2.RandomHorizontalFlip()])])], {"mirrored-text"}),
        ([RandomVerticalFlip()], {"mirrored-text"}),
        ([v2.RandomHorizontalFlip(p=0)], set()),
        ([v2.functional.horizontal_flip], {"mirrored-text"}),
        ([v2.RandomRotation(180)], {"turned-digits"}),
        ([v2.RandomAffine(degrees=(-10, 90))], {"turned-digits"}),
        ([v2.RandomAffine(degrees=45)], set()),
    ],
)
def test_digits_are_neither_mirrored_nor_turned_and_pets_may_be(
    augment: Any, found: set[str], digits: Path, root: Path
) -> None:
    assert check(digits, data={"augment": augment}).keys() == found
    assert check(root, data={"augment": augment}) == {}


def test_a_turn_names_the_class_that_becomes_another(digits: Path) -> None:
    message = check(digits, data={"augment": [v2.RandomRotation(120)]})["turned-digits"].message
    assert "by up to 120 degrees (RandomRotation), and the class 6 upside down reads 9" in message


@pytest.mark.parametrize(
    ("classes", "kind"),
    [
        (["0", "00", "1", "10"], "digits"),
        (["0", "1", "2", "3", "none"], "digits"),
        (["0", "none", "empty"], ""),
        (["a", "b", "d"], "text"),
        (list("abcdefghij"), "text"),
        ([str(number) for number in range(10)], "digits"),
        (["6", "9"], "digits"),
        (["0", "1"], ""),
        (["1", "2", "3", "4", "5"], ""),
        (["a", "b", "c"], ""),
        (["A", "B"], ""),
        (["a", "b", "cat"], ""),
        (["A1", "B2", "7"], "text"),
        (["cat", "dog"], ""),
        (["de", "fr"], ""),
        (["n01440764", "n01443537"], ""),
        (["1001", "1002"], ""),
    ],
)
def test_text_is_told_from_the_names_of_the_classes(classes: list[str], kind: str) -> None:
    assert what_is_read(classes) == kind


def test_a_message_names_key_value_and_the_nearest_right_one(root: Path) -> None:
    found = check(root, callbacks={"checkpoint": Checkpoint(monitor="val/acc_top2")})
    message = found["unknown-metric"].message
    assert message.startswith("callbacks.checkpoint.monitor: 'val/acc_top2' is not logged; there are ")
    assert message.endswith(("; did you mean 'val/acc_top1'?", "; did you mean 'val/acc_top5'?"))
    message = check(root, model={"image_size": 64})["input-larger-than-images"].message
    assert "model.image_size=64 is 5.8 times the edge of the images, of 12 x 10 pixels (median of 40)" in message


def test_what_no_test_split_is_missing_from_is_noted(tmp_path: Path) -> None:
    draw_folders(tmp_path, {f"{split}/{name}": 10 for split in ("train", "valid") for name in ("cat", "dog")})
    assert {rule: each.severity for rule, each in check(tmp_path).items()} == {"no-test-split": "note"}


def test_bfloat16_is_slow_where_there_are_no_instructions_for_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for has, found in ((False, {"slow-bfloat16"}), (True, set())):
        monkeypatch.setattr("clf.check.configuration.has_bfloat16", lambda device, has=has: has)
        assert check(root, trainer={"precision": "bf16-mixed"}).keys() == found


def test_a_gpu_that_a_configuration_leaves_idle_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert check(root).keys() == {"idle-gpu"}


def test_the_check_knows_exactly_the_metrics_that_a_fit_logs(tmp_path: Path) -> None:
    classifier, timing = tiny(auroc=True), Timing()
    fitted = fit(tmp_path, classifier, timing, max_epochs=1)
    assert logged(fitted).keys() == {**classifier.metric_modes, **timing.metric_modes}.keys()


# How long a run is


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, {"batches": 10, "steps": 10, "epochs": 100, "validations": 100, "val_batches": 2}),
        ({"accumulate_grad_batches": 4}, {"batches": 10, "steps": 3}),
        ({"max_steps": 25}, {"epochs": 2.5}),
        ({"max_epochs": -1}, {"epochs": float("inf")}),
        ({"max_epochs": None}, {"epochs": 1000}),
        ({"limit_train_batches": 3, "limit_val_batches": 0.5}, {"batches": 3, "val_batches": 1}),
        ({"overfit_batches": 2}, {"batches": 2}),
        ({"check_val_every_n_epoch": 4}, {"validations": 25}),
        ({"val_check_interval": 0.5}, {"validations": 200}),
        ({"val_check_interval": 5}, {"validations": 200}),
        ({"val_check_interval": 20, "check_val_every_n_epoch": None}, {"validations": 50}),
        ({"devices": 2}, {"processes": 2, "batches": 5}),
        ({"devices": "2", "num_nodes": 2}, {"processes": 4, "batches": 3}),
        ({"max_time": "00:01:30:00"}, {"longest": 5400}),
        ({"max_time": {"minutes": 2}}, {"longest": 120}),
    ],
)
def test_a_run_is_as_long_as_its_settings_say(trainer: dict[str, Any], expected: dict[str, Any], root: Path) -> None:
    found = plan(image_data(root), TRAINER | trainer)
    assert {name: getattr(found, name) for name in expected} == expected


def test_devices_are_counted_however_they_are_given() -> None:
    given: dict[Any, int] = {1: 1, 3: 3, "3": 3, "auto": 1, -1: 1, "0,1": 2, "1,": 1, (0, 2): 2}
    assert {each: count_processes({"devices": each, "num_nodes": 1}, device="cpu") for each in given} == given


# What is shipped


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for split, name in ((split, name) for split in ("train", "valid", "test") for name in ("cat", "dog")):
        for number in range(4):
            draw(folder / split / name / f"{number}.jpg", seed=number, size=(160, 120))
    return folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    for split, name in ((split, name) for split in ("train", "valid", "test") for name in ("0", "6", "9")):
        for number in range(4):
            draw(folder / split / name / f"{number}.png", seed=number, size=(30, 40))
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_shipped_configuration_has_nothing_to_warn_of(name: str, photos: Path, crops: Path, workdir: Path) -> None:
    root = crops if name in ("demo.yaml", "jersey_numbers.yaml") else photos
    with composed("fit", ["--config", name, "--data.root", str(root), "--data.batch_size", "4"]) as made:
        found = check_configuration(made.datamodule, made.model, trainer=made.configured, callbacks=made.watching)
    assert {finding.rule for finding in found if finding.severity != "note"} == set()


# What a fit says of it


def finding(severity: Any, rule: str = "rule") -> Finding:
    return Finding(rule, "configuration", severity, f"{severity} of {rule}")


def test_all_is_said_once_and_the_first_error_ends_a_new_run(caplog: pytest.LogCaptureFixture) -> None:
    found = [finding("error", "one"), finding("error", "two"), finding("warning"), finding("note")]
    with caplog.at_level(logging.INFO, "clf"), pytest.raises(UserError, match=r"^error of one .*--skip_check"):
        tell(found, resumes=False)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("ERROR", "check: error of two"),
        ("WARNING", "check: warning of rule"),
        ("INFO", "check: note of rule"),
    ]


def test_a_resumed_run_is_warned_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        tell([finding("error"), finding("note", "no-test-split")], resumes=True)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("WARNING", "check: error of rule")]

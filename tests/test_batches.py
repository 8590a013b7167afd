"""What a trainer gets from ImageData: the same batches however they are made, and after an interruption the rest."""

import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import draw, draw_folders, draw_pets
from datasets import image_data as data
from lightning.pytorch import Callback, LightningModule, Trainer

from clf.data.datamodule import ImageData
from clf.data.loading import Batch, Loader
from clf.data.samplers import Balanced, Weighted
from clf.errors import UserError
from clf.preprocess import UnreadableImage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw_pets(tmp_path / "pets")


class Recorder(LightningModule):
    """Keeps every training batch that it is given, and scores nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 2)
        self.trained: list[tuple[int, Batch]] = []
        self.scored: list[Batch] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.trained.append((self.current_epoch, batch))
        return torch.nn.functional.cross_entropy(self.layer(batch["images"].flatten(1)), batch["labels"])

    def validation_step(self, batch: Batch, _: int) -> None:
        self.scored.append(batch)

    test_step = validation_step

    def predict_step(self, batch: Batch, _: int) -> Batch:
        self.scored.append(batch)
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(
        **{"enable_checkpointing": False, "max_epochs": 2, "use_distributed_sampler": False, **quiet, **options}
    )


def fitted(module: ImageData, ckpt_path: str | None = None, **options: Any) -> Recorder:
    recorder = Recorder()
    trainer(**options).fit(recorder, datamodule=module, ckpt_path=ckpt_path)
    return recorder


def same(first: list[tuple[int, Batch]], second: list[tuple[int, Batch]]) -> bool:
    return len(first) == len(second) and all(
        a[0] == b[0] and all(torch.equal(a[1][key], b[1][key]) for key in ("images", "labels"))
        for a, b in zip(first, second, strict=True)
    )


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "clf"]


def test_setup_twice_scans_nothing_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Defect 9: earlier trainers built everything again, because Lightning calls setup("fit") more than once.
    scanned: list[str] = []
    scandir = os.scandir

    def counting(path: str) -> Any:
        scanned.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    module = data(root)
    module.setup("fit")
    first, train = len(scanned), module.samples("train")
    module.setup("fit")
    fitted(module, max_epochs=1)
    trainer().validate(Recorder(), datamodule=module)
    assert 0 < len(scanned) == first
    assert module.samples("train") is train


def test_evaluation_is_never_shuffled_cut_or_augmented(root: Path) -> None:
    val, test = data(root).val_dataloader(), data(root, augment="none", seed=3).val_dataloader()
    first, again, other = list(val), list(val), list(test)
    assert [batch["index"].tolist() for batch in first] == [[0, 1, 2, 3], [4]]
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a["images"], b["images"])
        assert torch.equal(a["images"], c["images"])


def drawn(module: ImageData) -> list[int]:
    """Labels of an epoch, in the order in which they are trained on."""
    return [int(label) for batch in module.train_dataloader() for label in batch["labels"]]


def test_sampler_decides_which_classes_are_trained_on(root: Path) -> None:
    for number in range(40):
        draw(root / f"train/cat/more{number}.png", seed=number)
    once, balanced, weighted = (
        drawn(data(root, sampler=sampler)) for sampler in ("none", "balanced", Weighted({"dog": 0}))
    )
    assert (once.count(0), once.count(1)) == (46, 5)
    assert 15 < balanced.count(1) < 36
    assert weighted.count(1) == 0
    assert len(once) == len(balanced) == len(weighted) == 51
    assert drawn(data(root, sampler="balanced")) == balanced
    assert drawn(data(root, sampler="balanced", seed=1)) != balanced


def test_an_image_that_is_drawn_again_in_an_epoch_is_augmented_anew(tmp_path: Path) -> None:
    root = draw_folders(tmp_path, {"train/cat": 2, "train/dog": 1, "valid/cat": 1, "valid/dog": 1})
    module = data(root, sampler=Balanced(num_samples=8), batch_size=8)
    [batch] = module.train_dataloader()
    dogs = batch["images"][batch["labels"] == 1]
    assert len(dogs) >= 2
    assert not torch.equal(dogs[0], dogs[1])


def test_sampler_decides_the_length_of_an_epoch(root: Path) -> None:
    module = data(root, sampler=Balanced(num_samples=14))
    assert len(module.train_dataloader()) == 4
    recorder = fitted(module)
    assert [len(batch["labels"]) for _, batch in recorder.trained] == [4, 4, 4, 2] * 2
    halves = [torch.cat([batch["labels"] for epoch, batch in recorder.trained if epoch == e]) for e in (0, 1)]
    assert not torch.equal(*halves)


def test_every_sampler_says_that_it_changes_what_is_seen(root: Path) -> None:
    modules = [data(root, sampler=sampler) for sampler in ("none", "balanced", Balanced(), Weighted({}))]
    assert [module.resampled for module in modules] == [False, True, True, True]


def test_weights_by_name_are_the_sampler_s(root: Path) -> None:
    by_name = drawn(data(root, sampler="weighted", sampler_weights={"dog": 3}))
    assert by_name == drawn(data(root, sampler=Weighted({"dog": 3})))
    with pytest.raises(UserError, match=r"data.sampler_weights is for data.sampler=weighted"):
        data(root, sampler="balanced", sampler_weights={"dog": 3})
    with pytest.raises(UserError, match=r"data.sampler=weighted needs data.sampler_weights"):
        data(root, sampler="weighted")


def test_sampler_that_does_not_fit_the_data_stops_before_the_first_batch(root: Path) -> None:
    with pytest.raises(UserError, match="'catt', which is no class; did you mean 'cat'"):
        data(root, sampler=Weighted({"catt": 2})).setup("fit")


@pytest.mark.parametrize("augment", ["none", "light", [torch.nn.Identity()]])
def test_augmentation_decides_the_training_images(root: Path, augment: Any) -> None:
    standard, other = (next(iter(data(root, augment=x).train_dataloader())) for x in ("standard", augment))
    assert torch.equal(standard["labels"], other["labels"])
    assert not torch.equal(standard["images"], other["images"])


def test_seed_decides_order_and_augmentation(root: Path) -> None:
    first, again, other = (list(data(root, seed=seed).train_dataloader()) for seed in (1, 1, 2))
    assert all(torch.equal(a["images"], b["images"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["images"], other[0]["images"])


def test_batch_size_decides_the_batches(root: Path) -> None:
    for size, expected in ((4, [4, 4, 3]), (5, [5, 5]), (100, [11])):
        loader = data(root, batch_size=size).train_dataloader()
        assert [len(batch["labels"]) for batch in loader] == expected
        assert len(loader) == len(expected)


@pytest.mark.parametrize(("workers", "processes"), [(0, 0), (1, 1), (2, 2)])
def test_workers_are_as_many_as_asked_for(root: Path, workers: int, processes: int) -> None:
    loader = data(root, num_workers=workers).train_dataloader()
    next(iter(loader))
    assert len(multiprocessing.active_children()) == processes
    loader.close()
    assert not multiprocessing.active_children()


def test_automatic_workers_are_no_more_than_cores_and_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, batch_size, expected in ((1, 2, 1), (64, 1, 8), (64, 6, 2)):
        monkeypatch.setattr("clf.data.loading.usable_cores", lambda cores=cores: cores)
        loader = data(root, num_workers="auto", batch_size=batch_size).train_dataloader()
        next(iter(loader))
        assert len(multiprocessing.active_children()) == expected
        loader.close()


@pytest.mark.parametrize("persistent", [True, False])
def test_persistent_workers_live_through_epochs(root: Path, persistent: bool) -> None:
    loader = data(root, num_workers=1, persistent_workers=persistent).train_dataloader()
    pids = []
    for _ in range(2):
        batches = iter(loader)
        next(batches)
        pids.append([child.pid for child in multiprocessing.active_children()])
        list(batches)
    assert (pids[0] == pids[1]) is persistent
    loader.close()


@pytest.mark.parametrize("factor", [1, 3])
def test_workers_prepare_as_many_batches_as_asked_for(root: Path, factor: int) -> None:
    loader = data(root, num_workers=1, prefetch_factor=factor).train_dataloader()
    next(iter(loader))
    assert loader._loader is not None
    assert loader._loader.prefetch_factor == factor
    loader.close()


def test_more_workers_than_cores_are_kept_and_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("clf.data.loading.usable_cores", lambda: 1)
    with caplog.at_level(logging.INFO, "clf"):
        loader = data(root, num_workers=3, pin_memory=False).train_dataloader()
        next(iter(loader))
    assert len(multiprocessing.active_children()) == 3
    assert said(caplog) == ["data.num_workers=3 is more than this process has CPU cores (1)"]
    loader.close()


def test_settings_that_cannot_work_are_corrected_and_said_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        fitted(data(root))
    assert said(caplog) == [
        "data.persistent_workers and prefetch_factor off, because num_workers is 0",
        "data.pin_memory off, because the device is cpu",
    ]


def test_nothing_is_said_of_settings_that_the_user_has_off(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        fitted(data(root, pin_memory=False, persistent_workers=False, prefetch_factor=None))
    assert said(caplog) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_training_sees_the_same_batches_for_any_number_of_workers(root: Path, workers: int) -> None:
    assert same(fitted(data(root, num_workers=workers)).trained, fitted(data(root)).trained)
    assert not multiprocessing.active_children()


def test_each_epoch_is_another_one(root: Path) -> None:
    trained = fitted(data(root)).trained
    assert [epoch for epoch, _ in trained] == [0, 0, 0, 1, 1, 1]
    assert not torch.equal(trained[0][1]["images"], trained[3][1]["images"])


def test_overfitting_sees_the_same_batches_every_epoch(root: Path) -> None:
    trained = [batch["images"] for _, batch in fitted(data(root), overfit_batches=2, limit_val_batches=0).trained]
    assert len(trained) == 4
    assert torch.equal(trained[0], trained[2])
    assert torch.equal(trained[1], trained[3])


class Keep(Callback):
    """Saves a checkpoint after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.fixture
def whole_run(root: Path, tmp_path: Path) -> tuple[Recorder, Path]:
    """An uninterrupted run of three epochs of three batches, with a checkpoint after each step."""
    return fitted(data(root), callbacks=[Keep(tmp_path)], max_epochs=3), tmp_path


@pytest.mark.parametrize("step", [1, 2, 4, 8])
@pytest.mark.parametrize("workers", [0, 2])
def test_run_that_is_resumed_in_an_epoch_sees_exactly_the_rest(
    whole_run: tuple[Recorder, Path], root: Path, step: int, workers: int
) -> None:
    whole, folder = whole_run
    rest = fitted(data(root, num_workers=workers), ckpt_path=f"{folder}/{step}.ckpt", max_epochs=3)
    assert same(rest.trained, whole.trained[step:])
    assert all(torch.equal(a, b) for a, b in zip(rest.parameters(), whole.parameters(), strict=True))


def test_bad_file_stops_training_and_scoring_with_its_path(root: Path) -> None:
    for split, run in (("train", trainer().fit), ("valid", trainer().validate), ("test", trainer().test)):
        bad = root / split / "dog/bad.png"
        bad.write_text("no image")
        with pytest.raises(UnreadableImage, match=f"{bad}' cannot be read"):
            run(Recorder(), datamodule=data(root))
        bad.unlink()


def test_bad_files_are_counted_and_never_changed(root: Path) -> None:
    for i in range(3):
        (root / f"valid/cat/{i}.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"valid/cat/0.png' .* \(and 2 more in this batch\)"):
        trainer().validate(Recorder(), datamodule=data(root))
    assert (root / "valid/cat/0.png").read_bytes() == b"no image"


def test_bad_file_in_prediction_travels_on_as_an_error(root: Path) -> None:
    (root / "test/cat/0.png").write_text("no image")
    recorder = Recorder()
    trainer().predict(recorder, datamodule=data(root, checkpoint=["cat", "dog"]))
    (batch,) = recorder.scored
    assert batch["index"].tolist() == [1, 2]
    assert [index for index, _ in batch["errors"]] == [0]


def test_loaders_are_left_as_they_are_by_the_trainer(root: Path) -> None:
    # Lightning rebuilds DataLoaders to predict, to overfit, and to distribute: order and resuming would be its own.
    module, runner, recorder = data(root, checkpoint=["cat", "dog"]), trainer(), Recorder()
    runner.predict(recorder, datamodule=module, return_predictions=False)
    assert isinstance(runner.predict_dataloaders, Loader)
    assert torch.cat([batch["index"] for batch in recorder.scored]).tolist() == [0, 1, 2]

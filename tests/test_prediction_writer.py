"""The predictions callback under a real Trainer: which rows, in which file, of which epoch."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clf.callbacks.evaluating import Evaluating
from clf.callbacks.predictions import Predictions
from clf.data.samples import Sample
from clf.errors import UserError
from clf.predictions import Tally
from clf.statistics import Proportion

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")  # one batch needs none

# ModelCheckpoint says so at every resume, where it is meant to be so.
resumed = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

CLASSES = ["0", "00", "1"]


class Toy(LightningModule):
    """Predicts class (index + epoch) mod 3, so that a file tells its epoch; scores each epoch as it is told to."""

    def __init__(self, scores: Sequence[float] = (0.5,), fails_in_epoch: int | None = None) -> None:
        super().__init__()
        self.classes, self.preprocessing, self.temperature = CLASSES, None, 1.0
        self.scores = scores
        self.fails_in_epoch = fails_in_epoch
        self.weight = nn.Parameter(torch.ones(()))
        self.forwards = 0

    def forward(self, index: Tensor) -> Tensor:
        self.forwards += 1
        return nn.functional.one_hot((index + self.current_epoch) % 3, 3).float() * self.weight

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.weight * 0

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        if self.current_epoch == self.fails_in_epoch and batch_idx == 1:
            raise OSError("the disk went away")
        return {"logits": self(batch["index"]).detach(), "index": batch["index"], "labels": batch["labels"]}

    test_step = validation_step

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"logits": batch.get("logits", self(batch["index"])), "index": batch["index"]}

    def on_validation_epoch_end(self) -> None:
        self.log("val/acc_top1", self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ToyData(LightningDataModule):
    """Seven labelled images in batches of three; sample i is called i.png and belongs to class i mod 3."""

    def __init__(self, predict_batches: list[dict[str, Any]] | None = None, *, labelled: bool = True) -> None:
        super().__init__()
        self.labelled = labelled
        self.predict_batches = predict_batches or self._batches()

    def samples(self, split: str) -> list[Sample]:
        return [Sample(f"{split}/{i}.png", CLASSES[i % 3]) for i in range(7)]

    @property
    def predict_samples(self) -> list[Sample]:
        return [Sample(f"new/{i}.png", CLASSES[i % 3] if self.labelled else None) for i in range(7)]

    def _batches(self) -> list[dict[str, Any]]:
        split = [torch.arange(start, min(start + 3, 7)) for start in (0, 3, 6)]
        return [{"images": torch.zeros(len(i), 3, 1, 1), "index": i, "labels": i % 3} for i in split]

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(self._batches(), batch_size=None)  # type: ignore[arg-type]

    train_dataloader = val_dataloader = test_dataloader = _loader

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.predict_batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def trainer(tmp_path: Path, callback: Predictions, **options: Any) -> Trainer:
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", filename="best", monitor="val/acc_top1", mode="max")
    defaults: dict[str, Any] = {
        "callbacks": [callback, checkpoint],
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    settings = defaults | options
    return Trainer(**settings | {"callbacks": [Evaluating(tmp_path / "metrics.json"), *settings["callbacks"]]})


def evaluating(run: Trainer) -> Evaluating:
    return next(callback for callback in run.callbacks if isinstance(callback, Evaluating))  # type: ignore[attr-defined]


def fit(tmp_path: Path, scores: Sequence[float], *, resume: str | None = None, **options: Any) -> Predictions:
    callback = Predictions(dirpath=str(tmp_path / "predictions"))
    run = trainer(tmp_path, callback, **({"max_epochs": len(scores)} | options))
    run.fit(Toy(scores), ToyData(), ckpt_path=resume)
    return callback


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def kept_epoch(tmp_path: Path) -> int:
    """Tell by the first row's label which epoch's predictions were kept."""
    return CLASSES.index(rows(tmp_path / "predictions" / "val.csv")[0]["label"])


def predict(tmp_path: Path, data: ToyData, **options: Any) -> Predictions:
    callback = Predictions(dirpath=str(tmp_path / "predictions"), **options)
    trainer(tmp_path, callback).predict(Toy(), data, return_predictions=False)
    return callback


def test_validation_leaves_one_row_per_image_in_the_order_of_the_samples(tmp_path: Path) -> None:
    fit(tmp_path, [0.5])
    table = rows(tmp_path / "predictions" / "val.csv")
    assert [row["path"] for row in table] == [f"val/{i}.png" for i in range(7)]
    assert [row["true"] for row in table] == [CLASSES[i % 3] for i in range(7)]
    assert [row["label"] for row in table] == [CLASSES[i % 3] for i in range(7)]
    # softmax of (1, 0, 0): e / (e + 2) and 1 / (e + 2)
    assert table[0] == {
        "path": "val/0.png",
        "true": "0",
        "label": "0",
        "confidence": "0.576117",
        "label_2": "00",
        "confidence_2": "0.211942",
        "label_3": "1",
        "confidence_3": "0.211942",
        "status": "ok",
        "error": "",
    }


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.9, 0.7], 1),
        ([0.5, 0.7, 0.9], 2),
        ([0.9, 0.7, 0.9], 0),
        ([float("nan"), 0.1, float("nan")], 1),
        ([float("nan"), float("nan"), float("nan")], 0),
    ],
)
def test_fit_keeps_the_predictions_of_the_epoch_that_the_best_checkpoint_is_of(
    tmp_path: Path, scores: list[float], best: int
) -> None:
    fit(tmp_path, scores)
    assert kept_epoch(tmp_path) == best
    checkpoint = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == best
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["val.csv"]


def test_a_loss_is_better_when_it_is_lower(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path / "predictions"))
    lowest = ModelCheckpoint(tmp_path, filename="best", monitor="val/acc_top1", mode="min")
    trainer(tmp_path, callback, callbacks=[callback, lowest], max_epochs=3).fit(Toy([0.5, 0.3, 0.4]), ToyData())
    assert kept_epoch(tmp_path) == 1


def test_epochs_that_no_checkpoint_is_made_of_are_not_considered(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path / "predictions"))
    every_other = ModelCheckpoint(tmp_path, filename="best", monitor="val/acc_top1", mode="max", every_n_epochs=2)
    run = trainer(tmp_path, callback, callbacks=[callback, every_other], max_epochs=3)
    run.fit(Toy([0.7, 0.5, 0.9]), ToyData())
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == 1
    assert kept_epoch(tmp_path) == 1


def test_where_nothing_is_monitored_the_newest_predictions_are_kept(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path / "predictions"))
    run = trainer(tmp_path, callback, callbacks=[callback], enable_checkpointing=False, max_epochs=3)
    run.fit(Toy([0.9, 0.5, 0.1]), ToyData())
    assert kept_epoch(tmp_path) == 2


def test_a_training_metric_does_not_choose_by_the_epoch_before(tmp_path: Path) -> None:
    class Trained(Toy):
        def on_train_epoch_end(self) -> None:
            self.log("train/loss", float(self.current_epoch))

    callback = Predictions(dirpath=str(tmp_path / "predictions"))
    checkpoint = ModelCheckpoint(tmp_path, monitor="train/loss", mode="min")
    run = trainer(tmp_path, callback, callbacks=[callback, checkpoint], max_epochs=3)
    run.fit(Trained([0.5, 0.5, 0.5]), ToyData())
    assert kept_epoch(tmp_path) == 2


def test_a_metric_that_nobody_logs_is_left_to_the_checkpoint_callback_to_complain_about(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path))
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/acc_top11", mode="max")
    run = trainer(tmp_path, callback, callbacks=[callback, checkpoint], max_epochs=1)
    with pytest.raises(MisconfigurationException, match="could not find the monitored key"):
        run.fit(Toy([0.5]), ToyData())


@resumed
def test_after_a_resume_a_worse_epoch_does_not_replace_the_best_ones_predictions(tmp_path: Path) -> None:
    fit(tmp_path, [0.5, 0.9])
    fit(tmp_path, [0.5, 0.9, 0.7], resume=str(tmp_path / "checkpoints" / "best.ckpt"))
    assert kept_epoch(tmp_path) == 1


@resumed
def test_after_a_resume_a_better_epoch_does_replace_them(tmp_path: Path) -> None:
    fit(tmp_path, [0.5, 0.8])
    fit(tmp_path, [0.5, 0.8, 0.9], resume=str(tmp_path / "checkpoints" / "best.ckpt"))
    assert kept_epoch(tmp_path) == 2


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # ModelCheckpoint starts anew, too: the point of the test
def test_a_resume_in_a_new_directory_starts_with_its_first_epoch(tmp_path: Path) -> None:
    fit(tmp_path / "old", [0.9])
    fit(tmp_path / "new", [0.9, 0.5], resume=str(tmp_path / "old" / "checkpoints" / "best.ckpt"))
    assert kept_epoch(tmp_path / "new") == 1


def test_a_score_by_another_metric_is_no_measure_after_a_resume(tmp_path: Path) -> None:
    run = trainer(tmp_path, Predictions(dirpath=str(tmp_path)), max_epochs=1)
    (tmp_path / "metrics.json").write_text('{"val": {}}')
    evaluating(run).load_state_dict({"best": {"max val/f1_macro": 0.95}})
    run.fit(Toy([0.5]), ToyData())
    assert len(rows(tmp_path / "val.csv")) == 7


def test_the_network_never_runs_again_for_the_predictions(tmp_path: Path) -> None:
    # Defect 11 of earlier trainers: callbacks ran the forward pass a second time.
    network = Toy([0.5])
    callback = Predictions(dirpath=str(tmp_path))
    trainer(tmp_path, callback).validate(network, ToyData(), verbose=False)
    assert network.forwards == 3  # batches


def test_the_sanity_check_leaves_no_file(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path / "predictions"))
    run = trainer(tmp_path, callback, max_epochs=1, num_sanity_val_steps=2, limit_train_batches=0)
    run.fit(Toy(), ToyData())
    assert not (tmp_path / "predictions").exists()


def test_a_validation_that_fails_keeps_the_best_file_and_leaves_no_half_one(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path / "predictions"))
    run = trainer(tmp_path, callback, max_epochs=2)
    with pytest.raises(OSError, match="the disk went away"):
        run.fit(Toy([0.1, 0.9], fails_in_epoch=1), ToyData())
    assert kept_epoch(tmp_path) == 0
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["val.csv"]


def test_validate_and_test_leave_their_files_with_their_own_samples(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path))
    run = trainer(tmp_path, callback)
    run.validate(Toy(), ToyData(), verbose=False)
    run.test(Toy(), ToyData(), verbose=False)
    assert [rows(tmp_path / name)[6]["path"] for name in ("val.csv", "test.csv")] == ["val/6.png", "test/6.png"]


def test_validate_replaces_the_file_even_by_worse_predictions(tmp_path: Path) -> None:
    fit(tmp_path, [0.9])
    run = trainer(tmp_path, Predictions(top_k=1, dirpath=str(tmp_path / "predictions")))
    evaluating(run).load_state_dict({"best": {"max val/acc_top1": 0.9}})
    run.validate(Toy([0.1]), ToyData(), verbose=False)
    assert "label_2" not in rows(tmp_path / "predictions" / "val.csv")[0]


def test_predict_writes_where_it_is_told_to_in_the_format_of_the_suffix(tmp_path: Path) -> None:
    predict(tmp_path, ToyData(labelled=False), output=str(tmp_path / "deep" / "out.jsonl"))
    lines = (tmp_path / "deep" / "out.jsonl").read_text().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith('{"path": "new/0.png", "label": "0", "confidence": 0.576117')
    assert not (tmp_path / "predictions").exists()


def test_predict_writes_predict_csv_and_knows_no_accuracy_without_labels(tmp_path: Path) -> None:
    callback = predict(tmp_path, ToyData(labelled=False))
    assert "true" not in rows(tmp_path / "predictions" / "predict.csv")[0]
    assert callback.tally == Tally(rows=7)


def test_unreadable_files_have_their_rows_in_place_and_are_counted(tmp_path: Path) -> None:
    batches: list[dict[str, Any]] = [
        {"images": torch.zeros(2, 3, 1, 1), "index": torch.tensor([0, 2]), "errors": [(1, "new/1.png: truncated")]},
        {
            "images": torch.zeros(0, 3, 1, 1),
            "index": torch.tensor([], dtype=torch.int64),
            "errors": [(3, "a"), (4, "b")],
        },
        {"images": torch.zeros(2, 3, 1, 1), "index": torch.tensor([5, 6])},
    ]
    callback = predict(tmp_path, ToyData(batches))
    table = rows(tmp_path / "predictions" / "predict.csv")
    assert [row["path"] for row in table] == [f"new/{i}.png" for i in range(7)]
    assert [row["status"] for row in table] == ["ok", "error", "ok", "error", "error", "ok", "ok"]
    assert [row["error"] for row in table] == ["", "new/1.png: truncated", "", "a", "b", "", ""]
    assert [row["label"] for row in table] == ["0", "", "1", "", "", "1", "0"]
    assert [row["true"] for row in table] == [CLASSES[i % 3] for i in range(7)]
    assert callback.tally == Tally(rows=7, errors=3, labelled=4, correct=4)


def test_an_output_that_is_not_finite_is_an_error_and_not_a_prediction(tmp_path: Path) -> None:
    logits = torch.tensor([[torch.nan, 0, 0], [0, 1, 0]])
    batch = {"images": torch.zeros(2, 3, 1, 1), "index": torch.tensor([0, 1]), "logits": logits}
    callback = predict(tmp_path, ToyData([batch]))
    first, second = rows(tmp_path / "predictions" / "predict.csv")
    assert (first["label"], first["status"], first["error"]) == ("", "error", "the network's output is not finite")
    assert (second["label"], second["status"]) == ("00", "ok")
    assert callback.tally.errors == 1


def test_half_precision_logits_are_ranked_in_single_precision(tmp_path: Path) -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.bfloat16)
    batch = {"images": torch.zeros(1, 3, 1, 1), "index": torch.tensor([0]), "logits": logits}
    predict(tmp_path, ToyData([batch]))
    assert rows(tmp_path / "predictions" / "predict.csv")[0]["confidence"] == "0.576117"


def test_wrong_predictions_lower_the_accuracy(tmp_path: Path) -> None:
    logits = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]])
    batch = {"images": torch.zeros(3, 3, 1, 1), "index": torch.tensor([0, 1, 2]), "logits": logits}
    assert predict(tmp_path, ToyData([batch])).tally.accuracy == Proportion(1, 3)


def test_counts_start_anew_with_every_pass(tmp_path: Path) -> None:
    callback = Predictions(dirpath=str(tmp_path))
    for _ in range(2):
        trainer(tmp_path, callback).predict(Toy(), ToyData(), return_predictions=False)
    assert callback.tally.rows == 7


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    callback = Predictions()
    trainer(tmp_path, callback).test(Toy(), ToyData(), verbose=False)
    trainer(tmp_path, callback).predict(Toy(), ToyData(), return_predictions=False)
    assert callback.tally.rows == 7
    assert list(tmp_path.iterdir()) == []


def test_other_processes_leave_the_files_to_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    callback = Predictions(dirpath=str(tmp_path))
    trainer(tmp_path, callback).test(Toy(), ToyData(), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_impossible_arguments_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"callbacks.predictions.top_k=0 is too small; give 1 or more"):
        Predictions(top_k=0)
    with pytest.raises(UserError, match=r"output='out.xlsx' has no known format; end it in .csv, .jsonl, .parquet"):
        Predictions(output="out.xlsx")

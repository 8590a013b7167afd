"""The most confident mistakes: all of them in a table, the first of them drawn, with where the network looked."""

import csv
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import draw_folders, draw_pets
from drawn import look, pets
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.mistakes import Mistakes
from clf.callbacks.predictions import Predictions
from clf.errors import UserError
from clf.gradcam import heat_maps
from clf.preprocess import decode, evaluation_array

FIXED = partial(torch.optim.SGD, lr=0.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw_pets(tmp_path / "images")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "clf" and r.levelno == level]


class Spoil(Callback):
    """Ruins the network in the second epoch, so that the first stays the best of those without learning."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            nn.init.constant_(pl_module.network[-1].weight, 1000.0)  # type: ignore[index, union-attr]
            nn.init.normal_(pl_module.network[0].weight)  # type: ignore[index, union-attr]


class CutOff(Callback):
    """Ends the process, as it were, before the third epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise SystemExit(9)


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_the_table_has_the_mistakes_of_the_predictions_the_most_confident_first(root: Path, verb: str) -> None:
    split = {"fit": "val", "test": "test"}[verb]
    drawn = look(root, pets(), Mistakes(), Predictions(dirpath=str(root.parent / "predictions")), verb=verb)
    rows = table(root.parent / f"predictions/{split}.csv")
    wrong = sorted((row for row in rows if row["true"] != row["label"]), key=lambda row: -float(row["confidence"]))
    assert wrong
    expected = [{key: row[key] for key in ("path", "true", "label", "confidence")} for row in wrong]
    assert table(root.parent / f"run/plots/mistakes_{split}.csv") == expected
    assert [(name, key) for name, key, _ in drawn.asked] == [(f"mistakes_{split}", f"{split}/mistakes")]
    shown = [(tile.path, tile.label, tile.predicted) for tile in drawn.last(f"mistakes_{split}")["tiles"]]
    assert shown == [(row["path"], row["true"], row["label"]) for row in wrong]


def test_files_are_called_by_their_place_below_the_data_s_root(root: Path) -> None:
    drawn = look(root, pets(), Mistakes(), verb="test")
    places = [tile.place for tile in drawn.last("mistakes_test")["tiles"]]
    assert {place.rpartition("/")[0] for place in places} <= {"test/cat", "test/dog"}
    assert places


def test_so_many_are_drawn_as_asked_for_and_all_are_listed(root: Path) -> None:
    draw_folders(root, {"valid/cat": 9, "valid/dog": 9})
    drawn = look(root, pets(), Mistakes(count=2))
    listed = table(root.parent / "run/plots/mistakes_val.csv")
    assert len(listed) > 2 == len(drawn.last("mistakes_val")["tiles"])
    assert drawn.last("mistakes_val")["subtitle"].startswith(f"{len(listed)} of 18 validation images were mistaken")


def test_a_fit_draws_the_best_epoch_s_mistakes_with_the_best_epoch_s_eyes(root: Path, tmp_path: Path) -> None:
    classifier, keeper = pets(), Checkpoint(monitor="val/loss", mode="min", dirpath=str(tmp_path / "ckpt"))
    drawn = look(root, classifier, Mistakes(), keeper, Spoil(), max_epochs=2)
    shown = drawn.last("mistakes_val")
    assert len(drawn.asked) == 1
    assert "in epoch 0" in shown["subtitle"]
    state = torch.load(tmp_path / "ckpt/best.ckpt", weights_only=True)["state_dict"]
    best = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    images = torch.stack(
        [torch.from_numpy(evaluation_array(decode(t.path), classifier.preprocessing)) for t in shown["tiles"]]
    )
    named = [classifier.classes.index(tile.predicted) for tile in shown["tiles"]]
    heat = np.stack([tile.heat for tile in shown["tiles"]])
    assert heat == pytest.approx(heat_maps(classifier.network, images, named, weights=best), abs=1e-5)
    assert np.abs(heat - heat_maps(classifier.network, images, named)).max() > 0.1


def test_a_run_that_was_cut_off_draws_its_best_epoch_when_it_ends_at_last(root: Path, tmp_path: Path) -> None:
    def keeper() -> Checkpoint:
        return Checkpoint(monitor="val/loss", mode="min", dirpath=str(tmp_path / "ckpt"))

    with pytest.raises(SystemExit):
        look(root, pets(optimizer=FIXED), Mistakes(), keeper(), Spoil(), CutOff(), max_epochs=3)
    listed = (root.parent / "run/plots/mistakes_val.csv").read_text()
    resumed = pets(optimizer=FIXED)
    drawn = look(root, resumed, Mistakes(), keeper(), Spoil(), max_epochs=3, resume=tmp_path / "ckpt/last.ckpt")
    assert (root.parent / "run/plots/mistakes_val.csv").read_text() == listed
    assert "in epoch 0" in drawn.last("mistakes_val")["subtitle"]
    assert [tile.path for tile in drawn.last("mistakes_val")["tiles"]] == [
        row.split(",")[0] for row in listed.split()[1:]
    ]


def test_a_perfect_network_has_a_picture_that_says_so_and_a_table_without_rows(root: Path) -> None:
    for path in root.glob("valid/dog/*"):
        path.unlink()
    classifier = pets(optimizer=FIXED)
    nn.init.zeros_(classifier.network[-1].weight)  # type: ignore[index]
    classifier.network[-1].bias = nn.Parameter(torch.tensor([1.0, 0.0]))  # type: ignore[index]
    drawn = look(root, classifier, Mistakes())
    shown = drawn.last("mistakes_val")
    assert (shown["title"], shown["tiles"]) == ("No mistakes", [])
    assert (root.parent / "run/plots/mistakes_val.csv").read_text() == "path,true,label,confidence\n"
    drawn.figure("mistakes_val").savefig(root.parent / "empty.png")


def test_where_the_output_is_no_number_the_mistake_comes_last_without_a_prediction(root: Path) -> None:
    class Blind(nn.Module):
        """Sees nothing in a dark image."""

        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, num_classes, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.convolution(images).mean((2, 3))
            dark = images.mean((1, 2, 3)) < images.mean((1, 2, 3)).max()
            return logits.where(~dark[:, None], torch.nan)

    look(root, pets(network=Blind, optimizer=FIXED), Mistakes())
    rows = [(row["label"], row["confidence"]) for row in table(root.parent / "run/plots/mistakes_val.csv")]
    assert rows[-2:] == [("", "")] * 2
    assert sorted(rows, key=lambda row: row == ("", "")) == rows


def test_without_grad_cam_the_images_stand_alone(root: Path) -> None:
    shown = look(root, pets(), Mistakes(grad_cam=False)).last("mistakes_val")
    assert {tile.heat is None for tile in shown["tiles"]} == {True}
    assert "Grad-CAM" not in shown["subtitle"]


def test_a_vision_transformer_s_images_stand_alone_and_one_line_says_why(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = pets(arch="test_vit", network=None, pretrained=False, image_size=32)
    with caplog.at_level(logging.INFO, "clf"):
        shown = look(root, classifier, Mistakes()).last("mistakes_val")
    assert {tile.heat is None for tile in shown["tiles"]} == {True}
    (line,) = [line for line in said(caplog) if "Grad-CAM" in line]
    assert line == "mistakes: no Grad-CAM for this network: its features are 5 x 64 for an image, and no map"


def test_a_network_that_cannot_be_asked_costs_one_warning_and_no_picture(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, num_classes, 3)

        def forward(self, images: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not self.training:
                raise RuntimeError("out of order")
            logits: Tensor = self.convolution(images).mean((2, 3))
            return logits

    shown = look(root, pets(network=Odd), Mistakes()).last("mistakes_val")
    assert {tile.heat is None for tile in shown["tiles"]} == {True}
    (line,) = said(caplog, logging.WARNING)
    assert line == "mistakes: Grad-CAM failed, the images are drawn alone: RuntimeError: out of order"


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_the_network_is_asked_in_full_precision_whatever_it_is_trained_in(root: Path, precision: Any) -> None:
    tiles = look(root, pets(), Mistakes(), precision=precision).last("mistakes_val")["tiles"]
    assert all(tile.heat.dtype == np.float32 and tile.heat.max() in (0, 1) for tile in tiles)


def test_no_mistakes_to_draw_are_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks\.mistakes\.count=0"):
        Mistakes(count=0)

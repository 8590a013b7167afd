"""The first validation images: the pixels that the network gets, and what it says of them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import draw_pets, image_data
from drawn import look, pets

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.samples import Samples
from clf.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw_pets(tmp_path / "images")


def test_the_picture_shows_the_pixels_that_the_network_gets(root: Path) -> None:
    classifier = pets(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    figure = look(root, classifier, Samples()).figure("samples")
    data = image_data(root)
    data.bind(classifier.preprocessing)
    images = torch.cat([batch["images"] for batch in data.val_dataloader()])  # (N, 3, H, W)
    mean, std = (torch.tensor(three)[:, None, None] for three in ((0.1, 0.5, 0.9), (0.2, 0.3, 0.4)))
    pixels = (255 * (images * std + mean)).permute(0, 2, 3, 1).numpy()
    drawn = np.stack([axes.images[0].get_array() for axes in figure.axes])
    assert drawn.shape == (5, 8, 8, 3)
    assert np.abs(drawn - pixels).max() < 0.01


def test_each_image_has_its_label_its_prediction_and_how_sure_that_is(root: Path) -> None:
    classifier = pets()
    drawn = look(root, classifier, Samples())
    data = image_data(root)
    data.bind(classifier.preprocessing)
    with torch.no_grad():
        probs = torch.cat([classifier.eval()(batch["images"]) for batch in data.val_dataloader()]).softmax(1)
    tiles = drawn.last("samples")["tiles"]
    assert [tile.label for tile in tiles] == ["cat"] * 3 + ["dog"] * 2
    assert [tile.predicted for tile in tiles] == [["cat", "dog"][index] for index in probs.argmax(1)]
    assert [tile.confidence for tile in tiles] == pytest.approx(probs.max(1).values.tolist(), abs=1e-5)
    right = sum(tile.label == tile.predicted for tile in tiles)
    assert drawn.last("samples")["subtitle"] == f"{right} of 5 right in epoch 0"


def test_there_are_as_many_images_as_asked_for(root: Path) -> None:
    assert len(look(root, pets(), Samples(count=2)).last("samples")["tiles"]) == 2


def test_only_an_epoch_that_is_better_than_all_before_is_drawn(root: Path, tmp_path: Path) -> None:
    still = pets(optimizer=partial(torch.optim.SGD, lr=0.0))
    drawn = look(root, still, Samples(), Checkpoint(dirpath=str(tmp_path / "ckpt")), max_epochs=3)
    assert [(name, key, numbers["step"]) for name, key, numbers in drawn.asked] == [("samples", "val/samples", 3)]


def test_a_test_draws_no_validation_images(root: Path) -> None:
    assert look(root, pets(), Samples(), verb="test").asked == []


def test_an_output_that_is_no_number_is_no_prediction(root: Path) -> None:
    classifier = pets(optimizer=partial(torch.optim.SGD, lr=0.0))
    torch.nn.init.constant_(classifier.network[-1].bias, torch.nan)  # type: ignore[index]
    tiles = look(root, classifier, Samples()).last("samples")["tiles"]
    assert {tile.predicted for tile in tiles} == {None}


def test_no_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks\.samples\.count=0"):
        Samples(count=0)

"""Mixing of training batches: against torchvision's MixUp and CutMix, and in the steps of real fits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TRAIN, VAL, Loader, batch, fit, from_yaml, logged, tiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torchvision.transforms.v2 import CutMix, MixUp
from toy import trainer

from clf.errors import UserError
from clf.mixing import Mixing

IMAGES = TRAIN[0]["images"]
SHARES = F.one_hot(TRAIN[0]["labels"], 3).float()


def drawn(mixing: nn.Module, seed: int, *, images: Tensor = IMAGES, shares: Tensor = SHARES) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    mixed: tuple[Tensor, Tensor] = mixing(images, shares)
    return mixed


@pytest.mark.parametrize(
    ("mixing", "reference"),
    [
        (Mixing(mixup_alpha=0.4, cutmix_alpha=0.0), MixUp(alpha=0.4)),
        (Mixing(mixup_alpha=0.0, cutmix_alpha=0.7), CutMix(alpha=0.7)),
    ],
    ids=["MixUp", "CutMix"],
)
def test_one_of_the_two_alone_is_torchvision_s(mixing: nn.Module, reference: nn.Module) -> None:
    for seed in range(5):
        found = drawn(mixing, seed)
        torch.manual_seed(seed)
        torch.rand(2)  # whether, and which
        torch.testing.assert_close(found, reference(IMAGES, SHARES))
        assert not torch.equal(found[0], IMAGES)


def kind(mixing: nn.Module, seed: int) -> str:
    """Tell what was done to a batch: CutMix leaves every pixel what it was in one of the two images."""
    images, _ = drawn(mixing, seed)
    if torch.equal(images, IMAGES):
        return "nothing"
    whole = (images == IMAGES) | (images == IMAGES.roll(1, 0))
    return "cutmix" if whole.all() else "mixup"


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"mixup_alpha": 1.0}, {"mixup": 0.5, "cutmix": 0.5}),
        ({"mixup_alpha": 1.0, "switch_probability": 0.2}, {"mixup": 0.8, "cutmix": 0.2}),
        ({"mixup_alpha": 1.0, "probability": 0.3, "cutmix_alpha": 0.0}, {"mixup": 0.3, "nothing": 0.7}),
    ],
)
def test_so_many_batches_are_mixed_in_each_way(settings: dict[str, float], share: dict[str, float]) -> None:
    kinds = [kind(Mixing(**settings), seed) for seed in range(400)]
    found = {name: kinds.count(name) / 400 for name in share}
    # A box that CutMix draws may be empty.
    assert found == pytest.approx(share, abs=0.1)


def test_a_small_alpha_hardly_mixes() -> None:
    largest = {
        alpha: torch.stack([drawn(Mixing(alpha, 0.0), seed)[1].amax(1) for seed in range(100)]).mean().item()
        for alpha in (0.1, 5.0)
    }
    assert largest[0.1] > largest[5.0] + 0.1


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("settings", [(1.0, 0.0), (0.0, 1.0)], ids=["mixup", "cutmix"])
def test_a_batch_of_any_size_is_mixed_and_its_shares_sum_to_one(size: int, settings: tuple[float, float]) -> None:
    images, shares = drawn(Mixing(*settings), 3, images=IMAGES[:size], shares=SHARES[:size])
    assert (images.shape, shares.shape) == (IMAGES[:size].shape, (size, 3))
    torch.testing.assert_close(shares.sum(1), torch.ones(size))
    if size == 1:
        torch.testing.assert_close(images, IMAGES[:1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, r"mix nothing; set model\.mixing=null"),
        ({"mixup_alpha": -0.1}, r"model\.mixing\.mixup_alpha=-0\.1 must not be negative"),
        ({"cutmix_alpha": -1.0}, r"model\.mixing\.cutmix_alpha=-1\.0 must not be negative"),
        ({"probability": 0.0}, r"model\.mixing\.probability=0\.0 must be in \(0, 1\]; set model\.mixing=null"),
        ({"probability": 1.5}, r"model\.mixing\.probability=1\.5 must be in"),
        ({"switch_probability": 1.0}, r"model\.mixing\.switch_probability=1\.0 must be in \(0, 1\); an alpha of 0"),
    ],
)
def test_what_mixes_nothing_or_is_out_of_range_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixing(**settings)


# In training


class Swap(nn.Module):
    """A user's own: every image becomes a quarter of the one before it, and so does its label."""

    def forward(self, images: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        return 0.25 * images + 0.75 * images.roll(1, 0), 0.25 * shares + 0.75 * shares.roll(1, 0)


def still(groups: Any) -> SGD:
    return SGD(groups, lr=0.0)


def test_training_sees_mixed_images_and_labels_and_counts_them_by_their_shares(tmp_path: Path) -> None:
    given = batch(0, 1, 2, 0, 1)
    classifier = tiny(mixing=Swap(), optimizer=still)
    found = logged(fit(tmp_path, classifier, batches=[given], max_epochs=1))
    images, shares = Swap()(given["images"], F.one_hot(given["labels"], 3).float())
    logits = tiny().train()(images)
    assert found["train/loss"] == pytest.approx(F.cross_entropy(logits, shares, label_smoothing=0.1).item())
    guesses = logits.argmax(1)
    assert found["train/acc_top1"] == pytest.approx(sum(float(shares[i, guesses[i]]) for i in range(5)) / 5)


def test_validation_is_never_mixed(tmp_path: Path) -> None:
    [plain] = trainer(tmp_path).validate(tiny(), Loader(VAL), verbose=False)
    [mixing] = trainer(tmp_path).validate(tiny(mixing=Swap()), Loader(VAL), verbose=False)
    assert mixing == plain


@pytest.mark.parametrize("loss", ["clf.losses.Focal", "clf.losses.BinaryCrossEntropy", "torch.nn.CrossEntropyLoss"])
def test_every_loss_learns_from_mixed_batches_from_yaml(loss: str, tmp_path: Path) -> None:
    mixing = "{class_path: clf.mixing.Mixing, init_args: {mixup_alpha: 0.4, cutmix_alpha: 0.5}}"
    classifier = from_yaml(f"network: {{class_path: tiny.Net}}, loss: {loss}, mixing: {mixing}")
    before = classifier.state_dict()["network.6.weight"].clone()
    fit(tmp_path, classifier, max_epochs=1)
    assert not torch.equal(classifier.state_dict()["network.6.weight"], before)


def test_mixing_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    found = []
    for disturb, seed in ((1, 42), (2, 42), (1, 43)):
        classifier = tiny(mixing=Mixing(), seed=seed)
        torch.manual_seed(disturb)
        fit(tmp_path, classifier, max_epochs=1)
        found.append(classifier.state_dict()["network.6.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])

"""Colour changes in one pass are torchvision's, one after the other, as long as nothing is cut off on the way."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clf.colors import ColorJitter, Name, color_matrix
from clf.transforms import seeded

FACTORS: dict[Name, float] = {"brightness": 0.8, "contrast": 1.2, "saturation": 0.7}
THEIRS = {"brightness": F.adjust_brightness, "contrast": F.adjust_contrast, "saturation": F.adjust_saturation}


def picture(low: int = 60, high: int = 180) -> Tensor:
    """Colours far enough from black and white that mild changes keep them inside."""
    return torch.randint(low, high, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("order", list(permutations(FACTORS)), ids="-".join)
def test_the_matrix_does_what_torchvision_does_in_the_same_order(order: tuple[Name, ...]) -> None:
    image = picture().to(torch.float32) / 255
    expected = image
    for name in order:
        expected = THEIRS[name](expected, FACTORS[name])
    matrix = color_matrix(((name, FACTORS[name]) for name in order), mean=image.mean((1, 2)).double().numpy())
    ours = np.einsum("oc,chw->ohw", matrix[:, :3], image.double().numpy()) + matrix[:, 3, None, None]
    assert np.allclose(ours, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", list(FACTORS))
def test_what_is_not_asked_for_stays(name: Name) -> None:
    changed = [ColorJitter(**{name: 0.5})(picture()).double() for _ in range(20)]
    grey = torch.tensor([0.2989, 0.587, 0.114]).double()[:, None, None]
    original = picture().double()
    for image in changed:
        if name == "brightness":
            assert ((image / original).std() / (image / original).mean()) < 0.01
        if name == "contrast":
            assert abs((image * grey).sum(0).mean() - (original * grey).sum(0).mean()) < 1
        if name == "saturation":
            assert ((image * grey).sum(0) - (original * grey).sum(0)).abs().max() < 2.5
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 10


def test_without_any_reach_nothing_changes() -> None:
    assert torch.equal(ColorJitter()(picture(0, 256)), picture(0, 256))


def test_the_factors_reach_as_far_as_is_said_and_never_below_nothing() -> None:
    flat = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    seen = [int(ColorJitter(brightness=0.4)(flat)[0, 0, 0]) for _ in range(300)]
    assert 60 <= min(seen) <= 65
    assert 135 <= max(seen) <= 140
    assert min(int(ColorJitter(brightness=3.0)(flat)[0, 0, 0]) for _ in range(50)) == 0


def test_colours_out_of_range_are_cut_off_and_do_not_wrap_round() -> None:
    bright = torch.full((3, 2, 2), 250, dtype=torch.uint8)
    assert min(int(ColorJitter(brightness=0.1)(bright).min()) for _ in range(100)) >= 224


def test_the_changes_come_from_torchs_generator_alone() -> None:
    jitter = ColorJitter(0.4, 0.4, 0.4)
    with seeded(1):
        first = jitter(picture())
    np.random.default_rng(0).random()
    with seeded(1):
        again = jitter(picture())
    with seeded(2):
        other = jitter(picture())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_layout_in_memory_changes_nothing() -> None:
    stored = picture().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    with seeded(1):
        planar = ColorJitter(0.4, 0.4, 0.4)(picture())
    with seeded(1):
        assert torch.equal(ColorJitter(0.4, 0.4, 0.4)(stored), planar)


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)], ids=str)
def test_what_is_no_eight_bit_rgb_is_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match="takes uint8 images of three channels"):
        ColorJitter(0.1)(image)


@pytest.mark.parametrize("reach", [-0.1, float("nan"), float("inf")])
def test_a_negative_reach_is_refused(reach: float) -> None:
    with pytest.raises(ValueError, match=r"ColorJitter: contrast=.* must be 0 or more"):
        ColorJitter(contrast=reach)

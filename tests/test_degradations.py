"""Each degradation does what its name says, as often and as much as it was told, and nothing it was not told."""

from inspect import signature
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clf.degradations import (
    Degradation,
    Downscale,
    GaussianNoise,
    JpegCompression,
    Pixelate,
    ZoomIn,
    ZoomOut,
)
from clf.errors import UserError
from clf.preprocess import Preprocessing
from clf.transforms import TrainTransform, seeded

KINDS = (JpegCompression, Pixelate, Downscale, GaussianNoise, ZoomOut, ZoomIn)


def photo(height: int = 40, width: int = 30) -> Tensor:
    """Smooth shades with an edge: uint8 (3, H, W)."""
    rows, columns = torch.meshgrid(torch.linspace(20, 200, height), torch.linspace(0, 50, width), indexing="ij")
    pixels = torch.stack([rows, rows + columns, 220 - rows]).to(torch.uint8)
    pixels[:, height // 3 : height // 2, width // 4 : width // 2] = 250
    return pixels


def degraded(transform: Degradation, image: Any = None, *, seed: int = 0) -> Any:
    with seeded(seed):
        return transform(photo() if image is None else image)


@pytest.mark.parametrize("kind", KINDS)
def test_it_happens_as_often_as_p_says(kind: type[Degradation]) -> None:
    happened = sum(not torch.equal(degraded(kind(p=0.3), seed=seed), photo()) for seed in range(300))
    assert 60 <= happened <= 120  # four standard deviations around 90
    assert all(torch.equal(degraded(kind(p=0), seed=seed), photo()) for seed in range(20))
    assert sum(torch.equal(degraded(kind(p=1), seed=seed), photo()) for seed in range(20)) <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (3, 200)])
def test_kind_and_size_of_the_image_stay(kind: type[Degradation], size: tuple[int, int]) -> None:
    pixels = photo(*size)
    eight_bits = degraded(kind(p=1), pixels)
    assert (eight_bits.dtype, eight_bits.shape) == (torch.uint8, pixels.shape)
    floats = degraded(kind(p=1), pixels / 255)
    assert (floats.dtype, floats.shape) == (torch.float32, pixels.shape)
    torch.testing.assert_close(floats, eight_bits / 255, rtol=0, atol=1.01 / 255)
    image = degraded(kind(p=1), F.to_pil_image(pixels))
    assert torch.equal(F.pil_to_tensor(image), eight_bits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_s_seed_decides_what_is_drawn(kind: type[Degradation]) -> None:
    transform = TrainTransform([kind(p=1)], preprocessing=Preprocessing((40, 40)))
    image = F.to_pil_image(photo(40, 40))
    draws = [transform(image, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_jpeg_is_pillows_at_the_quality_drawn() -> None:
    transform = JpegCompression((30, 32), p=1)
    expected = []
    for quality in (30, 31, 32):
        file = BytesIO()
        F.to_pil_image(photo()).save(file, "JPEG", quality=quality)
        expected.append(F.pil_to_tensor(Image.open(file)))
    drawn = [degraded(transform, seed=seed) for seed in range(30)]
    assert all(any(torch.equal(pixels, one) for one in expected) for pixels in drawn)
    assert all(any(torch.equal(pixels, one) for pixels in drawn) for one in expected), "both ends are drawn"


def test_pixelate_leaves_squares_and_downscale_leaves_none() -> None:
    board = torch.arange(64).reshape(1, 8, 8).repeat(3, 1, 1).to(torch.uint8) * 4
    squares = degraded(Pixelate((0.5, 0.5), p=1), board)
    assert torch.equal(squares, squares[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert set(squares.flatten().tolist()) <= set(board.flatten().tolist()), "nearest invents no shades"
    soft = degraded(Downscale((0.5, 0.5), p=1), board)
    expected = F.resize(F.resize(board, [4, 4], antialias=True), [8, 8], antialias=True)
    assert torch.equal(soft, expected)
    assert not torch.equal(soft, squares)


@pytest.mark.parametrize("kind", [Pixelate, Downscale])
def test_the_resolution_that_is_left_lies_in_the_range(kind: type[Pixelate] | type[Downscale]) -> None:
    noise = torch.randint(0, 256, (3, 100, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def detail(scale: float) -> float:
        return float(degraded(kind((scale, scale), p=1), noise).float().std())

    drawn = [float(degraded(kind((0.2, 0.6), p=1), noise, seed=seed).float().std()) for seed in range(40)]
    if kind is Downscale:
        assert 0.95 * detail(0.2) < min(drawn) < max(drawn) < 1.05 * detail(0.6)
        assert max(drawn) > 1.5 * min(drawn)
    counts = {
        len(degraded(Pixelate((0.2, 0.6), p=1), noise, seed=seed)[0, 0].unique_consecutive()) for seed in range(40)
    }
    assert 18 <= min(counts) < 30
    assert 50 < max(counts) <= 60


def test_noise_has_the_deviation_drawn_and_no_mean() -> None:
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    deviations = []
    for seed in range(30):
        noisy = degraded(GaussianNoise((10, 30), p=1), grey, seed=seed).float()
        assert abs(float(noisy.mean()) - 128) < 0.6
        deviations.append(float(noisy.std()))
    assert 9.8 < min(deviations) < 14
    assert 26 < max(deviations) < 30.5
    channels = degraded(GaussianNoise((20, 20), p=1), grey).float().reshape(3, -1)
    assert (torch.corrcoef(channels) - torch.eye(3)).abs().max() < 0.02


def test_noise_clips_at_black_and_white() -> None:
    for shade in (0, 255):
        noisy = degraded(GaussianNoise((40, 40), p=1), torch.full((3, 50, 50), shade, dtype=torch.uint8)).float()
        assert abs(float(noisy.mean()) - shade) < 25


def test_zooming_out_shrinks_the_image_and_pastes_it_anywhere_on_the_fill() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 60, 40)
    areas, corners = [], set()
    for seed in range(60):
        pixels = degraded(ZoomOut((1.5, 3.0), fill=(1, 2, 3), p=1), red, seed=seed)
        inside = pixels[0] == 255
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        assert int(inside.sum()) == len(rows) * len(columns), "a whole rectangle"
        assert len(rows) / len(columns) == pytest.approx(1.5, rel=0.06)
        assert (pixels[:, ~inside].T == torch.tensor([1, 2, 3])).all()
        areas.append(len(rows) / 60)
        corners.add((int(rows[0]), int(columns[0])))
    assert 1 / 3.1 < min(areas) < 0.38
    assert 0.6 < max(areas) < 1 / 1.45
    assert min(row for row, _ in corners) == 0
    assert max(row for row, _ in corners) > 25
    assert torch.equal(degraded(ZoomOut((1, 1), p=1)), photo())


def test_zooming_in_enlarges_a_part_of_the_same_shape() -> None:
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(40), indexing="ij")
    chart = torch.stack([rows * 4, columns * 4, columns]).to(torch.uint8)
    shares, tops = [], []
    for seed in range(60):
        pixels = degraded(ZoomIn((0.5, 0.9), p=1), chart, seed=seed).float() / 4
        high, wide = (float(pixels[i].amax() - pixels[i].amin()) + 1 for i in (0, 1))
        assert high / wide == pytest.approx(1.5, rel=0.1)
        shares.append(high / 60)
        tops.append(float(pixels[0].amin()))
    assert 0.47 < min(shares) < 0.6
    assert 0.8 < max(shares) < 0.93
    assert min(tops) < 3
    assert max(tops) > 15


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        (JpegCompression, {"quality": (0, 50)}, "quality"),
        (JpegCompression, {"quality": (50, 101)}, "quality"),
        (JpegCompression, {"quality": (60, 50)}, "quality"),
        (Pixelate, {"scale": (0, 0.5)}, "scale"),
        (Downscale, {"scale": (0.5, 1.5)}, "scale"),
        (GaussianNoise, {"sigma": (-1, 5)}, "sigma"),
        (GaussianNoise, {"sigma": (5, 256)}, "sigma"),
        (GaussianNoise, {"sigma": (5,)}, "sigma"),
        (ZoomOut, {"factor": (0.9, 2)}, "factor"),
        (ZoomOut, {"fill": (0, 0, 256)}, "fill"),
        (ZoomIn, {"scale": (0.01, 1)}, "scale"),
        (ZoomIn, {"scale": (float("nan"), 1)}, "scale"),
        *((kind, {"p": p}, f"p={p}") for kind in KINDS for p in (-0.1, 1.1)),
    ],
)
def test_a_range_that_cannot_be_is_refused_by_name(kind: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        kind(**settings)
    assert isinstance(caught.value, UserError)
    assert kind.__name__ in str(caught.value)


@given(seed=st.integers(0, 2**32), height=st.integers(1, 50), width=st.integers(1, 50))
@settings(max_examples=30)
@example(seed=0, height=2, width=1)
def test_any_image_survives_all_of_them(seed: int, height: int, width: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))
    for kind in KINDS:
        assert degraded(kind(p=1), pixels, seed=seed).shape == pixels.shape


def test_settings_are_shown() -> None:
    assert repr(ZoomIn((0.5, 1.0), p=0.25)) == "ZoomIn(p=0.25, scale=(0.5, 1.0))"


def test_defaults_are_those_of_the_manual() -> None:
    defaults = {
        kind.__name__: {key: parameter.default for key, parameter in signature(kind).parameters.items()}
        for kind in KINDS
    }
    assert defaults == {
        "JpegCompression": {"quality": (20, 75), "p": 0.5},
        "Pixelate": {"scale": (0.25, 0.75), "p": 0.3},
        "Downscale": {"scale": (0.3, 0.75), "p": 0.3},
        "GaussianNoise": {"sigma": (5, 25), "p": 0.3},
        "ZoomOut": {"factor": (1.0, 1.5), "fill": (124, 116, 104), "p": 0.3},
        "ZoomIn": {"scale": (0.7, 1.0), "p": 0.3},
    }

"""What the shipped recipes do to an image, and above all what they never do to a digit."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from datasets import photo
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from clf.errors import UserError
from clf.preprocess import Preprocessing, evaluation_array
from clf.recipes import Recipe, recipe
from clf.transforms import TrainTransform, normalised, seeded

PREPROCESSING = Preprocessing((32, 48), crop_pct=0.9)
RECIPES = get_args(Recipe)


class Normalised:
    """Augments as training does, and gives what reaches the network."""

    def __init__(self, name: Recipe, *, preprocessing: Preprocessing) -> None:
        self._transform = TrainTransform(name, preprocessing=preprocessing)
        self._preprocessing = preprocessing

    def __call__(self, image: Image.Image, *, seed: int) -> Tensor:
        return normalised(self._transform(image, seed=seed), self._preprocessing)


def evaluated(image: Image.Image) -> Tensor:
    return torch.from_numpy(evaluation_array(image, PREPROCESSING))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [(30, 40), (400, 300), (1, 1), (900, 3)])
def test_a_recipe_turns_any_image_into_the_networks_input(name: Recipe, size: tuple[int, int]) -> None:
    images = TrainTransform(name, preprocessing=PREPROCESSING)(photo(*size), seed=3)
    assert images.shape == (3, 32, 48)
    assert images.dtype == torch.uint8


def test_light_never_mirrors_or_moves_far_and_standard_does_mirror() -> None:
    """Bright on the left stays so in a digit's crop."""
    mirrored = {}
    for name in ("light", "standard"):
        transform = Normalised(name, preprocessing=PREPROCESSING)
        left_right = [transform(photo(), seed=seed).mean((0, 1)) for seed in range(40)]
        mirrored[name] = sum(bool(columns[:12].mean() < columns[-12:].mean()) for columns in left_right)
    assert mirrored["light"] == 0
    assert 10 <= mirrored["standard"] <= 30


def test_light_moves_an_image_a_little_and_fills_with_the_mean_colour() -> None:
    transform = Normalised("light", preprocessing=PREPROCESSING)
    samples = torch.stack([transform(photo(300, 200), seed=seed) for seed in range(30)])
    edges = samples.mean((1, 2)).diff().argmin(-1)  # The column where bright turns dark.
    assert len(set(edges.tolist())) > 2
    assert (edges - 23).abs().max() <= 8
    colour = tuple(round(255 * value) for value in PREPROCESSING.mean)
    plain = torch.stack([transform(Image.new("RGB", (40, 30), colour), seed=seed) for seed in range(30)])
    assert (plain.amax((2, 3)) - plain.amin((2, 3))).max() < 0.05, "corners differ"


@pytest.mark.parametrize(("name", "least"), [("light", 0.06), ("standard", 0.12)])
def test_recipes_change_brightness_contrast_and_saturation(name: Recipe, least: float) -> None:
    grey = np.random.default_rng(0).integers(
        90, 160, (300, 300, 3), dtype=np.uint8
    )  # Room for changes without clipping.
    transform = Normalised(name, preprocessing=Preprocessing((48, 48), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    samples = torch.stack([transform(Image.fromarray(grey), seed=seed)[:, 8:-8, 8:-8] for seed in range(60)])
    brightness = samples.mean((1, 2, 3))
    contrast = samples.sum(1).std((1, 2)) / brightness
    saturation = (samples[:, 0] - samples[:, 2]).std((1, 2)) / samples.sum(1).std((1, 2))
    for quantity in (brightness, contrast, saturation):
        assert quantity.std() / quantity.mean() > least


def test_the_training_crop_shows_at_least_a_third_of_the_image() -> None:
    across, down = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="xy")
    crop, *_ = recipe("standard", preprocessing=Preprocessing((200, 200)))
    shares = []
    for seed in range(60):
        with seeded(seed):
            part = crop(torch.stack([across, down, down]).to(torch.uint8))
        extent = part.amax((1, 2)).int() - part.amin((1, 2)).int()
        shares.append(float(extent[0] * extent[1]) / 200**2)
    assert min(shares) > 0.3
    assert min(shares) < 0.5 < 0.8 < max(shares)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_every_filter_of_evaluation_can_be_trained_with(interpolation: Any) -> None:
    preprocessing = Preprocessing((16, 16), interpolation=interpolation)
    for name in RECIPES:
        assert Normalised(name, preprocessing=preprocessing)(photo(), seed=0).isfinite().all()


@pytest.mark.parametrize(("interpolation", "overshoots"), [("bilinear", False), ("nearest", False), ("bicubic", True)])
def test_the_training_crop_resizes_with_evaluations_filter(interpolation: Any, overshoots: bool) -> None:
    """Only sharp filters invent what is brighter than bright; nearest has none that shrinks well, and is bilinear."""
    image = Image.fromarray(np.random.default_rng(0).choice(np.array([64, 192], np.uint8), (9, 9, 3)))
    preprocessing = Preprocessing((32, 32), interpolation=interpolation)
    cropped = TrainTransform(recipe("standard", preprocessing=preprocessing)[:2], preprocessing=preprocessing)
    assert bool(cropped(image, seed=0).max() > 192) == overshoots


def test_a_misspelt_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"data.augment='standart' is no recipe.*did you mean 'standard'"):
        Normalised("standart", preprocessing=PREPROCESSING)  # type: ignore[arg-type]


def with_inner(steps: Iterable[Any]) -> Iterator[Any]:
    """Walk transforms and those that they hold."""
    for step in steps:
        yield step
        yield from with_inner(getattr(step, "transforms", ()))


def turns(name: Recipe, *, draws: int) -> list[bool]:
    """Whether red, green and blue dots, clockwise in the image, are anticlockwise in a draw; unclear draws left out.

    No turn, shear or perspective changes that, only a mirror does.
    """
    pixels = np.full((64, 64, 3), 60, np.uint8)
    for channel, (row, column) in enumerate([(20, 20), (20, 44), (44, 44)]):
        pixels[row - 8 : row + 8, column - 8 : column + 8, channel] = 240
    transform = Normalised(name, preprocessing=Preprocessing((64, 64), mean=(0.24,) * 3, std=(1.0,) * 3))
    found = []
    for seed in range(draws):
        smooth = v2.functional.gaussian_blur(transform(Image.fromarray(pixels), seed=seed), [9, 9], [2.0, 2.0])
        places = [(smooth[i] - smooth[[j for j in range(3) if j != i]].amax(0) > 0.15).nonzero() for i in range(3)]
        if min(len(place) for place in places) > 20:
            red, green, blue = (place.float().mean(0) for place in places)  # (row, column) each
            found.append(bool(torch.linalg.det(torch.stack([green - red, blue - red])) > 0))
    return found


@pytest.mark.parametrize("name", ["none", "light", "ocr"])
def test_recipes_for_digits_never_mirror(name: Recipe) -> None:
    seen = turns(name, draws=150)
    assert len(seen) > 50
    assert not any(seen)
    parts = with_inner(recipe(name, preprocessing=PREPROCESSING))
    assert not [part for part in parts if "Flip" in type(part).__name__]


@pytest.mark.parametrize("name", ["standard", "strong"])
def test_recipes_for_photos_mirror_half_of_the_images(name: Recipe) -> None:
    seen = turns(name, draws=150)
    assert len(seen) > 50
    assert 0.3 < sum(seen) / len(seen) < 0.7


def test_ocr_spoils_most_images_and_leaves_some_whole() -> None:
    """Noise, blocks and squares show as fine detail on a smooth image; without them there is none."""
    smooth = Image.fromarray(np.full((80, 80, 3), 120, np.uint8))
    transform = Normalised("ocr", preprocessing=Preprocessing((80, 80), mean=(0.47,) * 3, std=(1.0,) * 3))
    detail = [float(transform(smooth, seed=seed).diff(dim=-1).abs().median()) for seed in range(100)]
    assert 15 <= sum(value > 0.01 for value in detail) <= 60
    assert sum(value < 1e-6 for value in detail) >= 10


def test_strong_draws_operations_that_standard_never_draws() -> None:
    """Inverted and posterised colours, and erased boxes of the mean colour."""
    preprocessing = Preprocessing((32, 32), mean=(0.2, 0.2, 0.2), std=(1.0, 1.0, 1.0))
    bright = Image.fromarray(np.full((32, 32, 3), 200, np.uint8))
    strong, standard = (Normalised(name, preprocessing=preprocessing) for name in ("strong", "standard"))
    boxes = [float((strong(bright, seed=seed).abs() < 0.001).all(0).float().mean()) for seed in range(100)]
    assert 10 <= sum(0.01 < share < 0.5 for share in boxes) <= 85
    assert all((standard(bright, seed=seed).abs() > 0.001).all() for seed in range(50))


OCR = {
    "RandomResizedCrop": "scale=(0.7, 1.0), ratio=(0.85, 1.18)",
    "RandomAffine": "degrees=[-25.0, 25.0], translate=(0.1, 0.1), scale=(0.85, 1.15), shear=[-15.0, 15.0, -15.0, 15.0]",
    "RandomPerspective": "p=0.4, distortion_scale=0.3",
    "ColorJitter": "brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.1, 0.1)",
    "GaussianBlur": "kernel_size=(7, 7), sigma=[0.5, 3.5]",
    "JpegCompression": "p=0.7, quality=(5, 55)",
    "Pixelate": "p=0.4, scale=(0.1, 0.5)",
    "Downscale": "p=0.5, scale=(0.1, 0.45)",
    "GaussianNoise": "p=0.6, sigma=(10, 40)",
    "ZoomIn": "p=1, scale=(0.5, 1.0)",
    "ZoomOut": "p=1, factor=(1.1, 2.0)",
    "RandomErasing": "p=0.3, scale=(0.02, 0.2)",
}
STRONG = {
    "RandomResizedCrop": "scale=(0.35, 1.0)",
    "RandAugment": "num_ops=2, magnitude=9",
    "RandomErasing": "p=0.25, scale=(0.02, 0.33)",
}


@pytest.mark.parametrize(("name", "stages"), [("ocr", OCR), ("strong", STRONG)])
def test_the_stages_of_a_recipe_are_those_of_the_manual(name: Recipe, stages: dict[str, str]) -> None:
    steps = recipe(name, preprocessing=PREPROCESSING)
    described = {type(part).__name__: repr(part) for part in with_inner(steps)}
    assert [stage for stage in described if stage in stages] == list(stages), "all of them, in this order"
    for stage, settings in stages.items():
        assert settings in described[stage]


def test_most_of_ocr_s_degradations_happen_together() -> None:
    steps = recipe("ocr", preprocessing=PREPROCESSING)
    [together] = [step for step in steps if isinstance(step, v2.RandomApply)]
    assert together.p == 0.85


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_ocr_sees_more_than_what_evaluation_crops(crop_mode: Any) -> None:
    wide = np.zeros((40, 54, 3), np.uint8)
    wide[:, :5] = 255  # Evaluation's square in the middle, from column 7 on, does not reach it.
    image = Image.fromarray(wide)
    middle = Preprocessing((40, 40), crop_pct=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert evaluation_array(image, middle).max() < 0.1
    crop = recipe("ocr", preprocessing=replace(middle, crop_mode=crop_mode))[: 2 if crop_mode == "squash" else 1]
    seen = 0
    for seed in range(60):
        with seeded(seed):
            seen += np.asarray(v2.Compose(crop)(image)).max() > 200
    assert seen > 15

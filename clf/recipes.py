"""The shipped recipes of training augmentation: from a decoded image to 8-bit pixels of the network's size."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from clf.colors import ColorJitter
from clf.degradations import Downscale, GaussianNoise, JpegCompression, Pixelate, ZoomIn, ZoomOut
from clf.errors import UserError, did_you_mean
from clf.preprocess import Preprocessing, evaluation_pixels

Recipe = Literal["none", "light", "standard", "ocr", "strong"]
Transform = Callable[[Any], Any]  # An image in, an image out; usually a torchvision v2 module.


def recipe(name: Recipe, *, preprocessing: Preprocessing) -> list[Transform]:
    """Return the transforms of a recipe: decoded RGB image -> 8-bit RGB image of the network's size.

    They draw from torch's generator alone. ``none``, ``light`` and ``ocr`` never mirror, so that digits stay digits.

    Args:
        name: ``none``: evaluation's resize and crop. ``light``: that, then small affine and colour changes.
            ``standard``: random crop, flip and colour changes. ``ocr``: geometry, blur and the degradations of video,
            for small text. ``strong``: random crop, flip, RandAugment and erasing, for long runs.
        preprocessing: Gives the size and the resize.
    Raises:
        UserError: If there is no such recipe.
    """
    recipes = {"none": _none, "light": _light, "standard": _standard, "ocr": _ocr, "strong": _strong}
    if name not in recipes:
        raise UserError(
            f"data.augment={name!r} is no recipe; choose one of {', '.join(get_args(Recipe))}, or give a list of "
            f"transforms{did_you_mean(str(name), get_args(Recipe))}"
        )
    return recipes[name](preprocessing)


def evaluation_fit(image: Image.Image, *, preprocessing: Preprocessing) -> Image.Image:
    """Resize and crop, pixel for pixel as in evaluation."""
    return Image.fromarray(evaluation_pixels(image, preprocessing))


def _none(preprocessing: Preprocessing) -> list[Transform]:
    return [partial(evaluation_fit, preprocessing=preprocessing)]


def _light(preprocessing: Preprocessing) -> list[Transform]:
    # After the resize, for the same cost whatever the image, and without blurring small ones twice.
    # On PIL images, because on tensors a bilinear affine draws a dark seam where the fill begins.
    affine = v2.RandomAffine(
        degrees=8,
        translate=(0.05, 0.05),
        scale=(0.9, 1.1),
        shear=5,
        interpolation=InterpolationMode.BILINEAR,
        fill=_mean_colour(preprocessing),
    )
    jitter = ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)
    return [*_none(preprocessing), affine, F.pil_to_tensor, jitter]


def _standard(preprocessing: Preprocessing) -> list[Transform]:
    # No hue: it is not linear, and takes longer than the rest together.
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    return [_random_crop(preprocessing), v2.RandomHorizontalFlip(), jitter]


def _ocr(preprocessing: Preprocessing) -> list[Transform]:
    fill = _mean_colour(preprocessing)
    bilinear: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": fill}
    zoom = v2.RandomChoice([ZoomIn((0.5, 1.0), p=1), ZoomOut((1.1, 2.0), p=1)])
    degradations = [
        JpegCompression((5, 55), p=0.7),
        Pixelate((0.1, 0.5), p=0.4),
        Downscale((0.1, 0.45), p=0.5),
        GaussianNoise((10, 40), p=0.6),
        zoom,
    ]
    # Squashed images are squashed before they are cropped: else the crop would undo it.
    squash = _none(preprocessing) if preprocessing.crop_mode == "squash" else []
    return [
        *squash,
        # Most of the image, hardly distorted: half a digit may be another digit.
        v2.RandomResizedCrop(preprocessing.size, scale=(0.7, 1.0), ratio=(0.85, 1.18)),
        v2.ToPILImage(),  # what is read from a file comes as a tensor
        v2.RandomAffine(degrees=25, translate=(0.1, 0.1), scale=(0.85, 1.15), shear=(-15, 15, -15, 15), **bilinear),
        v2.RandomPerspective(distortion_scale=0.3, p=0.4, **bilinear),
        F.pil_to_tensor,
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        v2.GaussianBlur(7, sigma=(0.5, 3.5)),
        v2.RandomApply(degradations, p=0.85),
        v2.RandomErasing(p=0.3, scale=(0.02, 0.2), value=fill),  # The mean colour is 0 once it is normalised.
    ]


def _strong(preprocessing: Preprocessing) -> list[Transform]:
    fill = _mean_colour(preprocessing)
    return [
        _random_crop(preprocessing),
        v2.RandomHorizontalFlip(),
        v2.RandAugment(num_ops=2, magnitude=9, interpolation=InterpolationMode.BILINEAR, fill=fill),
        v2.RandomErasing(p=0.25, scale=(0.02, 0.33), value=fill),
    ]


def _random_crop(preprocessing: Preprocessing) -> v2.RandomResizedCrop:
    """At least a third of the image: the 0.08 of ImageNet from scratch needs hundreds of epochs."""
    sharp = preprocessing.interpolation not in (
        "nearest",
        "bilinear",
    )  # Evaluation's filter, or what comes close to it.
    interpolation = InterpolationMode.BICUBIC if sharp else InterpolationMode.BILINEAR
    return v2.RandomResizedCrop(preprocessing.size, scale=(0.35, 1.0), interpolation=interpolation)


def _mean_colour(preprocessing: Preprocessing) -> list[float]:
    return [round(255 * value) for value in preprocessing.mean]

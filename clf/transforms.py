"""Training augmentation: applies a recipe or a user's own list; each result a function of image and seed alone."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clf.errors import UserError
from clf.preprocess import Preprocessing
from clf.recipes import Recipe, Transform, evaluation_fit, recipe

# Floats a little outside [0, 1] come from noise and sharp filters and are clamped; further out, the scale is wrong.
_FLOAT_RANGE = (-1.0, 2.0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from freshly seeded generators of torch (CPU), `random` and numpy inside; leave all three as they were.

    Args:
        seed: Any integer. Its low 32 bits count, because torch's CPU generator takes no more.
    """
    states = random.getstate(), np.random.get_state()
    random.seed(seed & 0xFFFFFFFF)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        with _torch_seeded(seed):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def _torch_seeded(seed: int) -> Iterator[None]:
    """Seed torch only: 2 µs instead of the 75 µs that saving numpy's state takes, for code that draws from torch."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed & 0xFFFFFFFF)  # torch.manual_seed would visit every device.
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class TrainTransform:
    """From a decoded image to the network's input, augmented; the result depends on the image and the seed alone.

    A list of transforms gets each image at its own size, as a uint8 tensor (3, H, W). It may return a tensor or a PIL
    image, grey or RGB, uint8 or floats in [0, 1]. What has not the network's size then goes through the evaluation
    resize and crop. Normalisation comes last and is not part of the list.

    Args:
        augment: Name of a recipe, or transforms to be applied one after the other.
        preprocessing: Evaluation's; gives the size, the resize and the normalisation.
    Raises:
        UserError: If there is no such recipe, or the list holds something that is no transform, or that normalises.
    """

    def __init__(self, augment: Recipe | Sequence[Transform], *, preprocessing: Preprocessing) -> None:
        if isinstance(augment, str):
            steps = recipe(augment, preprocessing=preprocessing)
            self._steps = [(f"data.augment={augment!r}", step) for step in steps]
            self._seeded = _torch_seeded
        else:
            steps = [_checked(transform, _label(index, transform)) for index, transform in enumerate(augment)]
            self._steps = [("", F.pil_to_tensor), *((_label(index, step), step) for index, step in enumerate(steps))]
            self._seeded = seeded
        self._preprocessing = preprocessing
        self._mean = torch.tensor(preprocessing.mean)[:, None, None]
        self._std = torch.tensor(preprocessing.std)[:, None, None]

    def __call__(self, image: Image.Image, *, seed: int) -> Tensor:
        """Augment, fit to size and normalise.

        Args:
            image: RGB, any size.
            seed: Fixes everything that is drawn; a function of run, epoch and sample.
        Returns:
            float32 (3, H, W).
        Raises:
            UserError: If a transform fails, or returns what is no image; the message names it.
        """
        with self._seeded(seed), _one_thread():
            pixels = self._augmented(image)  # uint8 or float (3, any, any)
        if tuple(pixels.shape[1:]) != self._preprocessing.size:
            eight_bits = F.to_dtype(pixels.clamp(0, _white(pixels)), torch.uint8, scale=True)
            fitted = evaluation_fit(F.to_pil_image(eight_bits), preprocessing=self._preprocessing)
            pixels = F.pil_to_tensor(fitted)
        # Divides like evaluation, for bit-equal results where nothing was drawn.
        unit = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True).div_(_white(pixels))
        return unit.clamp_(0, 1).sub_(self._mean).div_(self._std)

    def _augmented(self, image: Image.Image) -> Tensor:
        outputs: list[Any] = [image]
        for label, step in self._steps:
            try:
                outputs.append(step(outputs[-1]))
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"{label} failed on {_describe(outputs[-1])}: {reason}") from error
        flaw = _flaw(outputs[-1])
        if flaw:
            culprit = max(index for index, output in enumerate(outputs) if not _flaw(output))  # What it got was sound.
            raise UserError(f"{self._steps[culprit][0]} returned {_describe(outputs[culprit + 1])}; {flaw}")
        pixels: Tensor = F.pil_to_tensor(outputs[-1]) if isinstance(outputs[-1], Image.Image) else outputs[-1]
        return pixels.detach().expand(3, -1, -1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as loader workers do: torch's sums over pixels depend on the number of threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _label(index: int, transform: Transform) -> str:
    return f"data.augment[{index}] ({getattr(transform, '__name__', type(transform).__name__)})"


def _checked(transform: Transform, label: str) -> Transform:
    """Return an entry of a user's list, refusing at once what could never work."""
    if not callable(transform):
        raise UserError(f"{label}={transform!r} is no transform; name a class by class_path")
    for inner in _with_inner(transform):
        if "Normalize" in type(inner).__name__:  # Of torchvision v1 and v2, kornia, ...
            raise UserError(f"{label} normalises, which happens after the list anyway; remove {type(inner).__name__}")
    return transform


def _with_inner(transform: object) -> Iterator[object]:
    """Walk a transform and those it holds, as Compose and RandomApply do."""
    yield transform
    for inner in getattr(transform, "transforms", ()):
        yield from _with_inner(inner)


def _flaw(output: object) -> str:
    """Say what keeps a transform's output from being an image, or nothing."""
    if isinstance(output, Image.Image):
        return "" if output.mode in ("L", "RGB") else "expected mode L or RGB"
    if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[0] not in (1, 3) or output.numel() == 0:
        return "expected one image, a tensor of shape (3, H, W)"
    if output.dtype == torch.uint8:
        return ""
    if not output.is_floating_point():
        return "expected uint8, or floats from 0 to 1"
    low, high = output.aminmax()
    if _FLOAT_RANGE[0] <= low and high <= _FLOAT_RANGE[1]:
        return ""
    return "expected floats from 0 to 1: scale them (ToDtype with scale=True), and leave normalising to what follows"


def _describe(output: object) -> str:
    """Say in a few words what a transform got or returned."""
    if isinstance(output, Image.Image):
        return f"a PIL image of {output.width} x {output.height} pixels, mode {output.mode}"
    if not isinstance(output, Tensor):
        return f"an object of type {type(output).__name__}"
    values = ""
    if output.is_floating_point() and output.numel():
        low, high = output.aminmax()
        values = f" from {low:.3g} to {high:.3g}"
    return f"a {str(output.dtype).removeprefix('torch.')} tensor of shape {tuple(output.shape)}{values}"


def _white(pixels: Tensor) -> int:
    return 255 if pixels.dtype == torch.uint8 else 1

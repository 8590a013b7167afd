"""Training augmentation: applies a recipe or a user's own list; each result a function of image and seed alone."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clf.crops import Source, split_crop
from clf.errors import UserError
from clf.preprocess import Preprocessing, decode
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
    """From an image file to pixels of the network's size, augmented; the result depends on file and seed alone.

    A list of transforms gets each image at its own size, as a uint8 tensor (3, H, W). It may return a tensor or a PIL
    image, grey or RGB, uint8 or floats in [0, 1], which travel as 8 bits. What has not the network's size then goes
    through the evaluation resize and crop. Normalisation comes last, in `normalised`, and is not part of the list.

    A recipe or list that begins with ``RandomResizedCrop`` reads no more of a file than the crop needs.

    Args:
        augment: Name of a recipe, or transforms to be applied one after the other.
        preprocessing: Evaluation's; gives the size and the resize.
    Raises:
        UserError: If there is no such recipe, or the list holds something that is no transform, or that normalises.
    """

    def __init__(self, augment: Recipe | Sequence[Transform], *, preprocessing: Preprocessing) -> None:
        if isinstance(augment, str):
            self._crop, steps = split_crop(recipe(augment, preprocessing=preprocessing))
            self._steps = [(f"data.augment={augment!r}", step) for step in steps]
            self._seeded = _torch_seeded
        else:
            named = [(_label(index, step), step) for index, step in enumerate(augment)]
            self._crop, steps = split_crop([_checked(step, label) for label, step in named])
            self._steps = named[len(named) - len(steps) :]
            if self._crop is None:
                self._steps = [("", F.pil_to_tensor), *self._steps]
            self._seeded = seeded if steps else _torch_seeded  # the crop itself draws from torch alone
        self._preprocessing = preprocessing

    def __call__(self, source: Source, *, seed: int) -> Tensor:
        """Read, augment and fit to size.

        Args:
            source: A file, or an RGB image of any size, as an array uint8 (H, W, 3), too.
            seed: Fixes everything that is drawn; a function of run, epoch and sample.
        Returns:
            uint8 (3, H, W).
        Raises:
            UnreadableImage: If the file is not a whole image.
            UserError: If a transform fails, or returns what is no image; the message names it.
        """
        with self._seeded(seed), one_thread():
            pixels = _eight_bits(self._augmented(source))  # (3, any, any)
        if tuple(pixels.shape[1:]) == self._preprocessing.size:
            return pixels
        fitted = evaluation_fit(F.to_pil_image(pixels), preprocessing=self._preprocessing)
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)

    def _augmented(self, source: Source) -> Tensor:
        if self._crop is not None and not self._steps:
            return self._crop(source)  # which needs no second look
        outputs: list[Any] = [_whole(source) if self._crop is None else self._crop(source)]
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


def _whole(source: Source) -> Image.Image:
    return Image.fromarray(source) if isinstance(source, np.ndarray) else decode(source)


def normalised(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale what `TrainTransform` returns as evaluation does, bit for bit, on whatever device it is.

    Args:
        images: uint8 (..., 3, H, W).
        preprocessing: Gives mean and standard deviation.
    Returns:
        float32 of the same shape and memory format.
    """
    if images.device.type == "cpu" and images.numel() and images.is_contiguous(memory_format=torch.channels_last):
        return _looked_up(images, preprocessing)
    return _computed(images, preprocessing)


def _computed(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    mean, std = _mean_and_std(preprocessing, images.device)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def _looked_up(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise (N, 3, H, W), stored channels last, by a table: a third of the time that two divisions a value take."""
    pixels = images.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
    count, height, width, _ = pixels.shape
    found = cv2.LUT(pixels.reshape(count * height, width, 3), _table(preprocessing))
    return torch.from_numpy(found).reshape(pixels.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _table(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Normalise every value that a byte can have: (1, 256, 3)."""
    values = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    return np.ascontiguousarray(_computed(values, preprocessing).permute(1, 2, 0).numpy())


@lru_cache(maxsize=8)
def _mean_and_std(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return both as (3, 1, 1), copied to the device once: a copy for each batch would make it wait."""
    mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    return mean, std


def _eight_bits(pixels: Tensor) -> Tensor:
    """Round floats of [0, 1], clamped, to uint8; what is uint8 stays as it is."""
    return pixels if pixels.dtype == torch.uint8 else F.to_dtype(pixels.clamp(0, 1), torch.uint8, scale=True)


@contextmanager
def one_thread() -> Iterator[None]:
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
    for inner in with_inner(transform):
        if "Normalize" in type(inner).__name__:  # Of torchvision v1 and v2, kornia, ...
            raise UserError(f"{label} normalises, which happens after the list anyway; remove {type(inner).__name__}")
    return transform


def with_inner(transform: object) -> Iterator[object]:
    """Walk a transform and those it holds, as Compose and RandomApply do."""
    yield transform
    for inner in getattr(transform, "transforms", ()):
        yield from with_inner(inner)


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

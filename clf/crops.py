"""Random crops of files, decoded no further than the crop needs: the fast way into training; evaluation has its own."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2

from clf.files import open_whole
from clf.preprocess import MAX_BYTES, MAX_PIXELS, decode, read_orientation

Pixels = NDArray[np.uint8]  # (H, W, 3)
Box = tuple[int, ...]  # left, top, width, height
Source = str | Path | Image.Image | Pixels

cv2.setNumThreads(0)  # Loader workers are the parallel part, and OpenCV's own threads do not survive their fork.

_TRIES = 10  # As torchvision: what does not fit then is not distorted.
# Shrunk by no more than this, an image differs less by not being antialiased than bilinear differs from bicubic.
_UNALIASED: Final = 1.2
_FILTERS: Final = {InterpolationMode.BILINEAR: cv2.INTER_LINEAR, InterpolationMode.BICUBIC: cv2.INTER_CUBIC}
_REDUCTIONS: Final = (8, 4, 2)  # What a JPEG may be divided by while it is decoded; libjpeg has no faster ones.

_APP1, _START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG

# EXIF's orientation -> what makes stored pixels upright; views, so that only what is cut out is ever moved.
_TURNS: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


@dataclass(frozen=True)
class RandomCrop:
    """A part of an image, of random size, shape and place, resized: torchvision's ``RandomResizedCrop``, read first.

    The box is drawn from the file's header. What lies outside it costs as little as the format allows, and where it is
    at least twice as large as what is asked for, a JPEG is decoded at a half, a quarter or an eighth.

    Args:
        size: (height, width) of the result, in pixels.
        scale: Share of the image's area that the crop has, from and to.
        ratio: Width over height of the crop, from and to.
        interpolation: Filter of the resize, bilinear or bicubic; what shrinks is antialiased.
        flip: Probability that the result is mirrored.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: InterpolationMode
    flip: float = 0.0

    def __call__(self, source: Source) -> Tensor:
        """Draw a crop from torch's generator and read it.

        Args:
            source: A file, an RGB image, or its pixels, uint8 (H, W, 3).
        Returns:
            uint8 (3, *size), stored as (*size, 3).
        Raises:
            UnreadableImage: If the file is not a whole image.
        """
        image = _opened(source)
        box = self._box(*image.size)
        reduction = self._reduction(box)
        # Onto the grid of what is decoded smaller; whatever the format, so that a file is the same crop in all of them.
        region = image.region(tuple(each // reduction * reduction for each in box), reduction)
        pixels = _resize(region, self.size, self.interpolation)
        if self.flip and torch.rand(1).item() < self.flip:
            pixels = cv2.flip(pixels, 1)  # type: ignore[assignment]  # its stubs forget the type of the pixels
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _reduction(self, box: Box) -> int:
        """Say by what an image may be divided before a crop of it is too small."""
        _, _, width, height = box
        fitting = (each for each in _REDUCTIONS if height >= each * self.size[0] and width >= each * self.size[1])
        return next(fitting, 1)

    def _box(self, width: int, height: int) -> Box:
        """Draw left, top, width and height of a crop."""
        low, high = (math.log(ratio) for ratio in self.ratio)
        for area, shape, across, down in _draws():
            pixels = width * height * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + shape * (high - low))
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(across * (width - w + 1)), int(down * (height - h + 1)), w, h
        # As much as the ratios allow, from the middle.
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return (width - w) // 2, (height - h) // 2, w, h


def _draws() -> Iterator[list[float]]:
    """Draw four numbers for each try; most crops fit at the first, and small images feel what more would take."""
    yield torch.rand(4).tolist()
    yield from torch.rand(_TRIES - 1, 4).tolist()


def read(path: str | Path, *, at_least: int) -> tuple[Pixels, tuple[int, int]]:
    """Decode a file, upright; a JPEG at a half, a quarter or an eighth, see `reduction`.

    Returns:
        uint8 (H, W, 3), and (width, height) of the file.
    Raises:
        UnreadableImage: If the file is not a whole image.
    """
    jpeg = _Jpeg.open(path)
    if jpeg is not None:
        with suppress(ValueError):
            return np.ascontiguousarray(jpeg.upright(reduction(jpeg.size, at_least=at_least))), jpeg.size
    image = decode(path)
    return np.array(image), image.size


def reduction(size: tuple[int, int], *, at_least: int) -> int:
    """Say by what a JPEG may be divided before its shorter edge is too short."""
    return next((each for each in _REDUCTIONS if min(size) >= each * at_least), 1)


def split_crop(transforms: Sequence[Any]) -> tuple[RandomCrop | None, list[Any]]:
    """Take the random crop off the head of a list, if it is one that we can read from the file.

    Returns:
        The crop, or None, and the transforms that come after it.
    """
    head, *rest = transforms or [None]
    if type(head) is not v2.RandomResizedCrop or not head.antialias:
        return None, list(transforms)
    interpolation = InterpolationMode(head.interpolation)  # torchvision 0.29 keeps its value
    if interpolation not in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC):
        return None, list(transforms)
    crop = {"size": tuple(head.size), "scale": head.scale, "ratio": head.ratio, "interpolation": interpolation}
    if rest and type(rest[0]) is v2.RandomHorizontalFlip:
        return RandomCrop(**crop, flip=rest[0].p), rest[1:]
    return RandomCrop(**crop), rest


@dataclass(frozen=True)
class _Decoded:
    """An image whose pixels are there already."""

    pixels: Pixels

    @property
    def size(self) -> tuple[int, int]:
        height, width, _ = self.pixels.shape
        return width, height

    def region(self, box: Box, _: int) -> Pixels:
        left, top, width, height = box
        return self.pixels[top : top + height, left : left + width]


@dataclass(frozen=True)
class _Jpeg:
    """A JPEG of which the header is read, upright."""

    path: str | Path
    data: bytes
    stored: tuple[int, int]  # (width, height)
    orientation: int

    @classmethod
    def open(cls, path: str | Path) -> "_Jpeg | None":
        """Read a file; None if it is not a JPEG that libjpeg decodes to the same colours as `decode`."""
        try:
            with open_whole(path, most=MAX_BYTES, buffering=0) as file:  # a third faster than read_bytes()
                data = file.read()
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except (OSError, ValueError):
            return None  # decode() says what is wrong with it, if anything is
        if colours not in ("YCbCr", "Gray") or not 0 < width * height <= MAX_PIXELS:
            return None
        return cls(path, data, (width, height), _orientation(data))

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.stored
        return (height, width) if self.orientation >= 5 else (width, height)

    def region(self, box: Box, reduction: int) -> Pixels:
        """Decode at a fraction of the size, and cut out a box, whose numbers it divides."""
        try:
            upright = self.upright(reduction)
        except ValueError:  # Damaged: Pillow may still read it, as it does in evaluation, and else says what is wrong.
            return _Decoded(np.asarray(decode(self.path))).region(box, reduction)
        left, top, width, height = (each // reduction for each in box)
        return upright[top : top + height, left : left + width]

    def upright(self, reduction: int) -> Pixels:
        """Decode all of it at a fraction of the size, rounded up; what libjpeg complains about is a ValueError."""
        pixels, turn = self._pixels(reduction), _TURNS.get(self.orientation)
        return pixels if turn is None else turn(pixels)

    def _pixels(self, reduction: int) -> Pixels:
        if reduction == 1:
            whole: Pixels = simplejpeg.decode_jpeg(self.data)
            return whole
        smallest = {"min_width": self.stored[0] // reduction, "min_height": self.stored[1] // reduction}
        reduced: Pixels = simplejpeg.decode_jpeg(self.data, **smallest)
        return reduced


def _orientation(data: bytes) -> int:
    """Say how an image has to be turned, EXIF's 1 to 8, as `decode` does; Pillow is only asked where it can matter."""
    orientation = read_orientation(data) if _has_metadata(data) else 1
    return orientation if orientation in _TURNS else 1


def _has_metadata(data: bytes) -> bool:
    """Whether there may be EXIF or XMP: a segment APP1 before the pixels, or anything that is out of order."""
    at = 2
    while data[at : at + 1] == b"\xff":
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            return False
        if marker == _APP1:
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return True


def _opened(source: Source) -> "_Jpeg | _Decoded":
    if isinstance(source, np.ndarray):
        return _Decoded(source)
    jpeg = None if isinstance(source, Image.Image) else _Jpeg.open(source)
    return jpeg or _Decoded(np.asarray(decode(source)))


def _resize(pixels: Pixels, size: tuple[int, int], interpolation: InterpolationMode) -> Pixels:
    """Resize (H, W, 3) to (*size, 3); antialiased, where that shows.

    What grows has nothing to antialias, and OpenCV is three times as fast; what shrinks, OpenCV would alias.
    """
    height, width, _ = pixels.shape
    if height <= _UNALIASED * size[0] and width <= _UNALIASED * size[1]:
        resized: Pixels = cv2.resize(pixels, size[::-1], interpolation=_FILTERS[interpolation])  # type: ignore[assignment]
        return resized
    return shrunk(pixels, size, interpolation)


def shrunk(pixels: Pixels, size: tuple[int, int], interpolation: InterpolationMode) -> Pixels:
    """Resize (H, W, 3) to (*size, 3) with antialiasing, by torch."""
    height, width, _ = pixels.shape
    whole = np.require(pixels, requirements=("C", "W"))
    # Said in full: of a batch of one, torch cannot tell that it is stored channels last, and is half as fast.
    images = torch.from_numpy(whole).as_strided((1, 3, height, width), (3 * height * width, 1, 3 * width, 3))
    result = functional.interpolate(images, size, mode=interpolation.value, antialias=True)[0]
    return result.permute(1, 2, 0).numpy()

"""Makes photo-like JPEGs of which nobody owns the rights: ``python benchmarks/photos.py FOLDER``.

An image is light that falls off, noise of all scales, things with edges before it, each with a colour and a texture of
its own, some of them out of focus, and the noise of a sensor. Quality, subsampling and form (progressive, grey) differ
from image to image as among collected photos. The same flags make the same files, byte for byte on one version of
Pillow. What comes out is a dataset as ``data.root`` takes it: the class is the hue.
"""

import argparse
import colorsys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]

SIZES = {"photos": (500, 375), "large": (4000, 3000)}
"""Kinds of images, and their width and height; every fourth stands upright."""

QUALITIES = (75, 80, 85, 90, 92, 95)
SUBSAMPLINGS = ("4:2:0", "4:2:0", "4:2:2", "4:4:4")
"""What cameras and editors write, by how often they do."""

_GREY, _PROGRESSIVE = 12, 20  # One image in so many.


@dataclass(frozen=True)
class Form:
    """How an image is stored."""

    quality: int
    subsampling: str
    progressive: bool
    grey: bool
    upright: bool


def form(index: int) -> Form:
    """Say how the image of a number is stored; any sixty in a row hold every form as often as any other sixty."""
    return Form(
        quality=QUALITIES[index % len(QUALITIES)],
        subsampling=SUBSAMPLINGS[index // 2 % len(SUBSAMPLINGS)],
        progressive=index % _PROGRESSIVE == _PROGRESSIVE - 1,
        grey=index % _GREY == _GREY - 1,
        upright=index % 4 == 3,
    )


def photo(width: int, height: int, *, hue: float, rng: np.random.Generator) -> Image.Image:
    """Draw an image.

    Args:
        width: In pixels.
        height: In pixels.
        hue: Of most things in it, in [0, 1).
        rng: Draws everything else.
    """
    textures = [_nature(width, height, rng) for _ in range(3)]
    scene = (110 + _light(width, height, rng) + 45 * textures[0])[..., None] * _colour(hue, rng, 0.5)
    for index in range(int(rng.integers(5, 10))):
        left, top, mask = _thing(width, height, rng)
        rows, columns = mask.shape
        place = np.s_[top : top + rows, left : left + columns]
        texture = rng.uniform(15, 50) * textures[index % 2 + 1][place]
        own = (255 * rng.uniform(0.2, 0.8) + texture)[..., None] * _colour(hue, rng, 0.6)
        scene[place] += mask[..., None] * (own - scene[place])
    scene += _sensor(width, height, rng)[..., None]
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def _colour(hue: float, rng: np.random.Generator, saturation: float) -> Floats:
    """A colour near a hue, (3,), about 1 at its brightest."""
    near = (hue + rng.normal(0, 0.08)) % 1.0
    return np.array(colorsys.hsv_to_rgb(near, saturation * rng.uniform(0.3, 1), 1), np.float32)


def _nature(width: int, height: int, rng: np.random.Generator) -> Floats:
    """Noise of all scales, each weaker than the next larger one: (H, W), variance 1."""
    total = np.zeros((height, width), np.float32)
    cell, strength, fall = max(width, height) / 2, 1.0, rng.uniform(0.78, 0.92)
    while cell >= 1:
        grid = np.float32(strength) * rng.standard_normal(
            (round(height / cell) + 1, round(width / cell) + 1), np.float32
        )
        total += _enlarged(grid, width, height)
        cell, strength = cell / 2, strength * fall
    return np.asarray(total / total.std(), np.float32)


def _sensor(width: int, height: int, rng: np.random.Generator) -> Floats:
    """What a sensor adds, (H, W)."""
    return np.float32(rng.uniform(1.5, 5)) * rng.standard_normal((height, width), np.float32)


def _enlarged(grid: Floats, width: int, height: int) -> Floats:
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _light(width: int, height: int, rng: np.random.Generator) -> Floats:
    """A gradient over the whole image, (H, W)."""
    across, down = rng.uniform(-50, 50, 2)
    return np.asarray(np.linspace(-across, across, width)[None] + np.linspace(-down, down, height)[:, None], np.float32)


def _thing(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, Floats]:
    """Where a thing is: left and top of the box around it, and from 0 to 1 where it is in there, (h, w).

    A polygon or an ellipse, in focus or not.
    """
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    centre, reach = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.08, 0.35) * min(width, height)
    if rng.random() < 0.4:
        draw.ellipse([*(centre - reach), *(centre + reach * rng.uniform(0.5, 1, 2))], fill=255)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 12))))
        lengths = reach * rng.uniform(0.5, 1.3, len(angles))
        corners = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=255)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4) * max(width, height) / 500))
    box = image.getbbox() or (0, 0, 1, 1)
    mask = np.asarray(image.crop(box), np.float32)
    return box[0], box[1], np.asarray(mask / 255, np.float32)


def save(image: Image.Image, path: Path, how: Form) -> None:
    """Write a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image.convert("L") if how.grey else image
    options: dict[str, Any] = {} if how.grey else {"subsampling": how.subsampling}
    stored.save(path, "JPEG", quality=how.quality, progressive=how.progressive, **options)


def make(folder: Path, *, kind: str, count: int, classes: int = 4, val: int = 0, seed: int = 0) -> list[Path]:
    """Fill a folder with train and, where asked for, valid.

    Args:
        folder: Where to.
        kind: One of `SIZES`.
        count: Images in train.
        classes: Folders of each split; image i belongs to class i modulo this.
        val: Images in valid.
        seed: Draws them.
    Returns:
        The files of train.
    """
    made = []
    for index, (split, number) in enumerate(_places(count, val)):
        how = form(number)
        width, height = SIZES[kind][::-1] if how.upright else SIZES[kind]
        label = number % classes
        path = folder / split / f"hue{label}" / f"{number:06d}.jpg"
        rng = np.random.default_rng([seed, index])
        save(photo(width, height, hue=label / classes, rng=rng), path, how)
        if split == "train":
            made.append(path)
    return made


def _places(count: int, val: int) -> Iterator[tuple[str, int]]:
    for split, size in (("train", count), ("valid", val)):
        for number in range(size):
            yield split, number


def main() -> None:
    """Make a set, and say how large its files are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=SIZES, default="photos", help="500 pixels (photos) or 12 megapixels (large)")
    parser.add_argument("--count", type=int, default=256, help="training images")
    parser.add_argument("--val", type=int, default=0, help="validation images")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    made = make(**vars(flags))
    sizes = sorted(path.stat().st_size / 1024 for path in made)
    middle = sizes[len(sizes) // 20], sizes[len(sizes) // 2], sizes[-1 - len(sizes) // 20]
    print(f"{len(made)} training images in {flags.folder}; KiB: 5 % {middle[0]:.0f}, median {middle[1]:.0f}, ", end="")
    print(f"95 % {middle[2]:.0f}")


if __name__ == "__main__":
    main()

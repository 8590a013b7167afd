"""Draws what each augmentation recipe makes of one image: what evaluation sees, then twelve draws of training.

python scripts/recipe_pictures.py [--image FILE] [--size 64] [--output docs/recipes]
"""

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from clf.data.jersey import render
from clf.preprocess import Preprocessing, decode
from clf.recipes import Recipe
from clf.transforms import TrainTransform

DRAWS = 12
ROWS = 2
GAP = 4


def draw(recipe: Recipe, image: Image.Image, *, size: int) -> Image.Image:
    """Lay evaluation's view, larger, beside a grid of draws."""
    preprocessing = Preprocessing((size, size), crop_mode="squash", crop_pct=1.0)
    step = size + GAP
    columns = DRAWS // ROWS
    big = ROWS * step - GAP
    sheet = Image.new("RGB", (big + GAP + columns * step - GAP, big), "white")
    sheet.paste(view("none", image, preprocessing, seed=0).resize((big, big), Image.Resampling.NEAREST), (0, 0))
    for number in range(DRAWS):
        row, column = divmod(number, columns)
        sheet.paste(view(recipe, image, preprocessing, seed=number), (big + GAP + column * step, row * step))
    return sheet


def view(recipe: Recipe, image: Image.Image, preprocessing: Preprocessing, *, seed: int) -> Image.Image:
    """Make pixels again of what the network is given."""
    images = TrainTransform(recipe, preprocessing=preprocessing)(image, seed=seed).numpy()  # (3, H, W), normalised
    unit = images * np.reshape(preprocessing.std, (3, 1, 1)) + np.reshape(preprocessing.mean, (3, 1, 1))
    return Image.fromarray((255 * unit).round().astype(np.uint8).transpose(1, 2, 0))


def main() -> None:
    """Write a picture for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="image to draw from; default: a rendered jersey number")
    parser.add_argument("--size", type=int, default=64, help="side of a draw in pixels")
    parser.add_argument("--output", type=Path, default=Path("docs/recipes"), help="folder to write to")
    flags = parser.parse_args()
    rendered, _ = render("23", np.random.default_rng(11), size=96, degradation=0.1)
    image = decode(str(flags.image)) if flags.image else rendered
    flags.output.mkdir(parents=True, exist_ok=True)
    for recipe in get_args(Recipe):
        draw(recipe, image, size=flags.size).save(flags.output / f"{recipe}.png", optimize=True)
        print(flags.output / f"{recipe}.png")


if __name__ == "__main__":
    main()

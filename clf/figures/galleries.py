"""Pictures of images: what was predicted, how sure, and where the network looked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clf.figures import canvas
from clf.preprocess import Preprocessing, UnreadableImage, decode, evaluation_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RIGHT, _WRONG = "#00795a", "#c6411b"  # apart also for eyes that do not tell red from green
_EDGE = 1.75  # inches, of the longer side of an image
_NARROWEST = 1.5  # inches, of what stands below an image
_LINE = 0.17  # inches
_GAP, _MARGIN, _HEAD = 0.22, 0.25, 0.62
_SPLIT = 0.05  # inches, between an image and its heat map
_LETTER = 0.077  # inches, of an average letter of 8 points


@dataclass(frozen=True)
class Tile:
    """An image and what was said about it.

    Args:
        path: The file.
        label: Its class.
        predicted: What was predicted; None where the network gave no number.
        confidence: The probability of that.
        place: How people call the file; empty does not.
        heat: Where the network saw the class, float (h, w) in [0, 1]; None where that is not known.
    """

    path: str
    label: str
    predicted: str | None
    confidence: float
    place: str = ""
    heat: NDArray[Any] | None = None

    @property
    def right(self) -> bool:
        """Whether the prediction is the class."""
        return self.predicted == self.label


def gallery(*, title: str, subtitle: str, tiles: Sequence[Tile], preprocessing: Preprocessing) -> "Figure":
    """Show images as the network gets them, framed and marked by whether they were predicted right.

    Where a tile has a heat map, the image stands a second time beside it, grey, with the map on it.

    Args:
        title: First line.
        subtitle: Second line.
        tiles: The images; without any, the lines stand alone.
        preprocessing: What the network is fed with.
    """
    from matplotlib.figure import Figure

    height, width = (_EDGE * side / max(preprocessing.size) for side in preprocessing.size)
    pictures = 2 if any(tile.heat is not None for tile in tiles) else 1
    lines = 3 if any(tile.place for tile in tiles) else 2
    tile_width = max(pictures * (width + _SPLIT) - _SPLIT, _NARROWEST)
    tile_height = height + lines * _LINE + 0.08
    columns = min(len(tiles), 4 if len(tiles) <= 16 else 6) or 1
    rows = math.ceil(len(tiles) / columns)
    total = (
        max(2 * _MARGIN + columns * (tile_width + _GAP) - _GAP, 6.0),
        2 * _MARGIN + _HEAD + rows * (tile_height + _GAP) - _GAP * bool(rows),
    )
    figure = Figure(figsize=total, dpi=100, facecolor="white")
    page = _Page(figure, total)
    page.text(_MARGIN, _MARGIN, title, size=12, weight="bold", width=total[0] - 2 * _MARGIN)
    page.text(_MARGIN, _MARGIN + 0.27, subtitle, size=8.5, color=canvas.MUTED, width=total[0] - 2 * _MARGIN)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = _MARGIN + column * (tile_width + _GAP)
        top = _MARGIN + _HEAD + row * (tile_height + _GAP)
        _draw(page, tile, preprocessing, left=left, top=top, size=(width, height), text_width=tile_width)
    return figure


class _Page:
    """A figure on which things have their place in inches from the upper left corner."""

    def __init__(self, figure: "Figure", size: tuple[float, float]) -> None:
        self._figure = figure
        self._width, self._height = size

    def image(
        self, pixels: NDArray[np.uint8], *, left: float, top: float, size: tuple[float, float], edge: str = ""
    ) -> None:
        width, height = size
        box = (left / self._width, 1 - (top + height) / self._height, width / self._width, height / self._height)
        axes = self._figure.add_axes(box, xticks=[], yticks=[])
        axes.imshow(pixels, aspect="auto", interpolation="nearest" if max(pixels.shape) < 100 else "antialiased")
        for spine in axes.spines.values():
            spine.set(color=edge or "none", linewidth=2.5)

    def text(self, left: float, top: float, text: str, *, width: float, size: float = 8.0, **style: Any) -> None:
        most = max(int(width / (_LETTER * size / 8)), 4)
        self._figure.text(
            left / self._width,
            1 - top / self._height,
            canvas.LEFT_TO_RIGHT + canvas.shorten(text, most=most),
            va="top",
            fontsize=size,
            parse_math=False,  # a $ in a name is no formula
            **style,
        )


def _draw(
    page: _Page,
    tile: Tile,
    preprocessing: Preprocessing,
    *,
    left: float,
    top: float,
    size: tuple[float, float],
    text_width: float,
) -> None:
    edge = _RIGHT if tile.right else _WRONG
    pixels = _pixels(tile.path, preprocessing)
    page.image(pixels, left=left, top=top, size=size, edge=edge)
    if tile.heat is not None:
        page.image(overlaid(pixels, tile.heat), left=left + size[0] + _SPLIT, top=top, size=size)
    below = top + size[1] + 0.07
    sure = "" if math.isnan(tile.confidence) else f" · {percent(tile.confidence)}"
    mark = "✓" if tile.right else "✗"
    said = canvas.shorten(tile.predicted or "no prediction", most=max(int(text_width / _LETTER) - len(sure) - 3, 4))
    page.text(
        left,
        below,
        f"{mark} {said}{canvas.LEFT_TO_RIGHT if sure else ''}{sure}",
        width=text_width,
        color=edge,
        weight="bold",
    )
    page.text(left, below + _LINE, f"is {tile.label}", width=text_width, color=canvas.INK)
    if tile.place:
        most = int(text_width / (_LETTER * 6 / 8))
        place = tile.place if len(tile.place) <= most else "…" + tile.place[1 - most :]
        page.text(left, below + 2 * _LINE, place, width=text_width + 1, size=6, color=canvas.MUTED)


def _pixels(path: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Read an image as the network gets it, uint8 (H, W, 3); a file that is gone is a grey area."""
    try:
        return evaluation_pixels(decode(path), preprocessing)
    except UnreadableImage:
        return np.full((*preprocessing.size, 3), 200, np.uint8)


def overlaid(pixels: NDArray[np.uint8], heat: NDArray[Any]) -> NDArray[np.uint8]:
    """Lay a heat map on the grey image.

    Args:
        pixels: The image, uint8 (H, W, 3).
        heat: Any height and width, in [0, 1]; nothing is seen where it is 0.
    Returns:
        uint8 (H, W, 3).
    """
    from matplotlib import colormaps

    height, width, _ = pixels.shape
    fine = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)[..., None] * 0.75
    colours = colormaps["inferno"](0.25 + 0.75 * fine)[..., :3] * 255
    opacity = 0.7 * fine[..., None]
    return np.asarray((1 - opacity) * grey + opacity * colours).round().astype(np.uint8)


def percent(share: float) -> str:
    """Say a probability: ``97.3 %``; nothing but certainty is 100 %."""
    rounded = canvas.percent(share)
    return "> 99.9 %" if rounded == "100.0 %" and share < 1 else rounded

"""One picture of a jersey number: a pure function of a label and a generator; numpy, Pillow and Pillow's own font."""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from clf.data.samples import Metadata

RENDERER: Final = 1  # Part of every dataset's identity: raise it with any change that moves a pixel.
PALETTE: Final = {
    "white": (240, 240, 238),
    "black": (24, 24, 28),
    "grey": (128, 132, 138),
    "red": (198, 30, 42),
    "maroon": (110, 20, 44),
    "orange": (236, 112, 32),
    "gold": (250, 188, 40),
    "green": (16, 112, 62),
    "teal": (8, 134, 142),
    "sky": (112, 182, 228),
    "blue": (32, 76, 178),
    "navy": (20, 30, 78),
    "purple": (88, 42, 140),
    "pink": (236, 130, 170),
}
MIN_CONTRAST: Final = 3.0  # The least for large text: WCAG 2.2, success criterion 1.4.3.
SUPERSAMPLING: Final = 3

RGB = tuple[int, int, int]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Colours:
    """The colours of a shirt, by their names in ``PALETTE``.

    Args:
        jersey: The cloth.
        number: The digits.
        border: The line around them; ``none`` draws none, None leaves it to chance.
    """

    jersey: str
    number: str
    border: str | None = None


def contrast(first: RGB, second: RGB) -> float:
    """Contrast ratio of two sRGB colours, from 1 (none) to 21 (black on white).

    Source: WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio.
    """

    def luminance(colour: RGB) -> float:
        red, green, blue = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def render(
    label: str,
    rng: np.random.Generator,
    *,
    size: int = 48,
    degradation: float = 0.5,
    rotation: float = 10.0,
    colours: Colours | None = None,
    tightness: float | None = None,
) -> tuple[Image.Image, Metadata]:
    """Draw one crop of a jersey with its number.

    Without ``tightness`` the number stays clear of the edges: a centre crop of 0.875 of the shorter side does not cut
    it. With it, the picture is a crop of the number itself, as a detector makes it: narrow for one digit, wide for
    three, and hardly anything but the number in it.

    Args:
        label: The number, one to three digits.
        rng: Where every choice comes from.
        size: Height in pixels; without ``tightness`` the width is 0.85 to 1 of it.
        degradation: What camera and codec do (downscaling, blur, noise, JPEG), from 0 (nothing) to 1 (cruel).
        rotation: The largest turn, in degrees to either side.
        colours: What is worn; None leaves that to chance. Each dye still differs a little from its palette colour.
        tightness: Share of the height that the number takes, above 0 and up to 1; None takes 0.5 to 0.58.
    Returns:
        The picture (RGB), and its metadata: ``jersey_color``, ``number_color``, ``border`` (a colour or ``none``) and
        ``source``, which is ``rendered``.
    """
    width = _choose_width(len(label), rng, size=size, tightness=tightness)
    names, dyes = _choose_colours(rng, colours)
    canvas = (SUPERSAMPLING * width, SUPERSAMPLING * size)

    image = Image.new("RGB", canvas, dyes["jersey"])
    for part, mask in _draw_parts(label, rng, canvas=canvas, rotation=rotation, tightness=tightness).items():
        if part in dyes:
            image.paste(dyes[part], mask=mask)
    pixels = np.asarray(image.resize((width, size), Image.Resampling.BOX), np.float32)  # (H, W, 3)
    weave = 4 * rng.standard_normal((size, width, 1), np.float32)
    image = _to_image(pixels * _folds(rng, height=size, width=width)[..., None] + weave)

    facts = {"jersey_color": names["jersey"], "number_color": names["number"], "border": names["border"]}
    shrink, blur, noise, jpeg = (degradation * rng.uniform(0, 1, 4)).tolist()
    image = spoil(image, rng, shrink=shrink, blur=blur, noise=noise, jpeg=jpeg)
    return image, {**facts, "source": "rendered"}


def spoil(
    image: Image.Image, rng: np.random.Generator, *, shrink: float, blur: float, noise: float, jpeg: float
) -> Image.Image:
    """Photograph from afar and compress; each kind of damage goes from 0 (none) to 1 (hardly legible any more).

    Args:
        image: A clean picture, RGB.
        rng: Where the noise comes from.
        shrink: Resolution lost: the picture is scaled down, to a fifth at most, and up again.
        blur: Focus lost: at 1 a Gaussian of a fortieth of the height.
        noise: Light lost: at 1 Gaussian noise of 30 grey levels.
        jpeg: Bandwidth lost: a quality from 95 down to 10.
    Returns:
        A picture of the same size.
    """
    width, height = image.size
    small = (max(8, round(width * (1 - 0.8 * shrink))), max(8, round(height * (1 - 0.8 * shrink))))
    image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(blur * height / 40))
    noisy = np.asarray(image) + 30 * noise * rng.standard_normal((height, width, 3), np.float32)
    buffer = io.BytesIO()
    _to_image(noisy).save(buffer, "JPEG", quality=round(95 - 85 * jpeg))
    return Image.open(buffer).convert("RGB")


def _choose_width(digits: int, rng: np.random.Generator, *, size: int, tightness: float | None) -> int:
    if tightness is None:
        return round(size * rng.uniform(0.85, 1.0))
    # Jerseys' digits are about half as wide as tall, and croppers leave less beside a number than above it.
    return round(size * (0.45 * tightness * digits + rng.uniform(0.5, 1.3) * (1 - tightness)))


def _choose_colours(rng: np.random.Generator, chosen: Colours | None = None) -> tuple[dict[str, str], dict[str, RGB]]:
    """Name and mix the colours of jersey, number, border and side panel; the number stands out from what it touches."""
    dyes = {name: _dye(colour, rng) for name, colour in PALETTE.items()}
    if chosen is None:
        jersey = str(rng.choice(list(dyes)))
        number = str(rng.choice([name for name in dyes if contrast(dyes[name], dyes[jersey]) >= MIN_CONTRAST]))
    else:
        jersey, number = chosen.jersey, chosen.number
    if chosen is None or chosen.border is None:
        borders = [name for name in dyes if name != jersey and contrast(dyes[name], dyes[number]) >= MIN_CONTRAST]
        border = str(rng.choice(borders)) if borders and rng.random() < 0.6 else "none"
    else:
        border = chosen.border
    panel = str(rng.choice(list(dyes))) if rng.random() < 0.4 else "none"
    names = {"jersey": jersey, "number": number, "border": border, "panel": panel}
    return names, {part: dyes[name] for part, name in names.items() if name != "none"}


def _dye(colour: RGB, rng: np.random.Generator) -> RGB:
    red, green, blue = np.clip(np.asarray(colour) + rng.integers(-10, 11, 3), 0, 255).tolist()
    return red, green, blue


def _draw_parts(
    label: str, rng: np.random.Generator, *, canvas: tuple[int, int], rotation: float, tightness: float | None
) -> dict[str, Image.Image]:
    """Draw what lies on the cloth, bottom to top, as masks of the canvas' size, all seen in one perspective."""
    em = canvas[1]
    font = ImageFont.load_default(size=em)
    assert isinstance(font, ImageFont.FreeTypeFont), "this Pillow was built without FreeType"
    weight, edge = round(em * rng.uniform(0.03, 0.05)), round(em * rng.uniform(0.03, 0.05))
    advance = font.getlength("0") + 1.5 * weight + 0.7 * edge
    cap, length = 0.72 * em, advance * len(label)  # the font's digits are all as wide as its zero
    sheet = (2 * em + round(length), 3 * em)
    to_sheet = _perspective(rng, canvas=canvas, sheet=sheet, text=(length, cap), rotation=rotation, tightness=tightness)

    panel, border, number = (Image.new("L", sheet) for _ in range(3))
    side = round(length / 2 + em * rng.uniform(0.12, 0.3))
    left, right = (0, sheet[0] // 2 - side) if rng.random() < 0.5 else (sheet[0] // 2 + side, sheet[0])
    ImageDraw.Draw(panel).rectangle((left, 0, right, sheet[1]), fill=255)
    for i, digit in enumerate(label):
        at = (sheet[0] / 2 + (i + 0.5) * advance - length / 2, (sheet[1] + cap) / 2)
        ImageDraw.Draw(border).text(at, digit, fill=255, font=font, anchor="ms", stroke_width=weight + edge)
        ImageDraw.Draw(number).text(at, digit, fill=255, font=font, anchor="ms", stroke_width=weight)

    parts = {"panel": panel, "border": border, "number": number}
    how = (Image.Transform.PERSPECTIVE, to_sheet, Image.Resampling.BILINEAR)
    return {name: part.transform(canvas, *how) for name, part in parts.items()}


def _perspective(
    rng: np.random.Generator,
    *,
    canvas: tuple[int, int],
    sheet: tuple[int, int],
    text: tuple[float, float],
    rotation: float,
    tightness: float | None,
) -> list[float]:
    """Where on the flat sheet each canvas pixel looks: the eight numbers that Pillow's perspective takes."""
    width, height = canvas
    tall = height * (rng.uniform(0.5, 0.58) if tightness is None else tightness * rng.uniform(0.9, 1.05))
    wide = tall * text[0] / text[1] * rng.uniform(0.85, 1.05)
    if tightness is None:
        squeeze = min(1.0, 0.7 * width / wide)  # Jerseys condense long numbers: two thirds by width, one by height.
        tall, wide = tall * squeeze**0.33, wide * squeeze
    else:
        wide = min(wide, width * rng.uniform(0.75, 0.95))
    angle, slant = np.deg2rad(rng.uniform(-rotation, rotation)), rng.uniform(-0.08, 0.15)
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    tilt = np.array([[1, slant, 0], [0, 1, 0], [*rng.uniform(-0.25, 0.25, 2) / height, 1]])
    middle = np.array(canvas) * rng.uniform(0.47, 0.53, 2)
    centre = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
    place = np.array([[text[0] / wide, 0, sheet[0] / 2], [0, text[1] / tall, sheet[1] / 2], [0, 0, 1]])
    matrix = place @ tilt @ turn @ centre
    return [float(v) for v in (matrix / matrix[2, 2]).ravel()[:8]]


def _folds(rng: np.random.Generator, *, height: int, width: int) -> Array:
    """Light on cloth: a slope and three bent folds, as a factor around 1, (H, W)."""
    y, x = np.mgrid[0:height, 0:width] / height - 0.5
    light = 1 + rng.uniform(-0.4, 0.4) * x + rng.uniform(-0.4, 0.4) * y
    for _ in range(3):
        angle, phase, bend, waves, depth = rng.uniform((0, 0, -2, 5, 0.02), (np.pi, 2 * np.pi, 2, 16, 0.1))
        across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        light = light + depth * np.sin(waves * (across + bend * along**2) + phase)
    return np.asarray(light, np.float32)


def _to_image(pixels: Array) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

"""Pictures inside a document: as data URIs that together stay within a budget."""

import base64
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SMALLER = ((1800, 90), (1500, 85), (1200, 80), (1000, 70), (700, 60), (400, 50))
"""What is tried, one after the other: longest width in pixels, WebP quality."""

_HIGHEST = 6000  # A gallery may be tall; WebP ends at 16383.


@dataclass(frozen=True, slots=True)
class Illustration:
    """A picture as a document holds it.

    Args:
        uri: The picture itself, ``data:image/…;base64,…``.
        width: In pixels.
        height: In pixels.
    """

    uri: str
    width: int
    height: int


def illustrate(pictures: Mapping[str, Path], *, budget: int) -> tuple[dict[str, Illustration], dict[str, str]]:
    """Read pictures, and make those smaller that take more than their share of the budget.

    Small ones come first, so that what they leave is there for the large ones.

    Args:
        pictures: PNG files by name.
        budget: How many bytes all pictures may take, before they are written as text.
    Returns:
        The pictures by name, and by name what is wrong with those that cannot be read.
    """
    found: dict[str, Illustration] = {}
    damaged: dict[str, str] = {}
    waiting = sorted(pictures.items(), key=lambda item: item[1].stat().st_size)
    for at, (name, path) in enumerate(waiting):
        try:
            data, illustration = _embed(path, allowance=budget // (len(waiting) - at))
        except (OSError, SyntaxError, ValueError, Warning) as error:  # whatever Pillow says of a file it cannot read
            damaged[name] = f"{type(error).__name__}: {error}"
            continue
        budget -= data
        found[name] = illustration
    return {name: found[name] for name in pictures if name in found}, damaged


def _embed(path: Path, *, allowance: int) -> tuple[int, Illustration]:
    """Read one picture; returns its size in bytes, too."""
    from PIL import Image

    original = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(original), formats=["PNG"]) as image:
            image.load()
            if len(original) <= allowance:
                return len(original), Illustration(_uri("png", original), *image.size)
            return _shrink(_on_white(image), allowance=allowance)


def _on_white(image: Any) -> Any:
    """Lay a picture on white: what is transparent in it is meant for paper."""
    from PIL import Image

    rgba = image.convert("RGBA")
    page = Image.new("RGBA", rgba.size, "white")
    page.alpha_composite(rgba)
    return page.convert("RGB")


def _shrink(image: Any, *, allowance: int) -> tuple[int, Illustration]:
    for width, quality in _SMALLER:
        smaller = image.copy()
        smaller.thumbnail((width, _HIGHEST))
        buffer = io.BytesIO()
        smaller.save(buffer, "WEBP", quality=quality, method=4)
        if buffer.tell() <= allowance:
            break
    return buffer.tell(), Illustration(_uri("webp", buffer.getvalue()), *smaller.size)


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"

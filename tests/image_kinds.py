"""Whatever people call an image: a file of each kind, by a name with its usual suffix."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image


def noise(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Coloured noise, always the same."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of an image's file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def grey_tiff(data: bytes, *, width: int, bits: int, white_is_zero: bool = False) -> bytes:
    """Return a TIFF of one row, of a kind that Pillow reads and does not write."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: int(not white_is_zero)}  # Size, depth, no compression, grey.
    tags |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 1, 279: len(data)}  # One strip, behind the nine tags.
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(40, 60), "JPEG", exif=exif)


KINDS: dict[str, bytes] = {
    "baseline.jpg": encoded(noise(40, 60), "JPEG"),
    "progressive.jpg": encoded(noise(40, 60), "JPEG", progressive=True),
    "turned by EXIF.jpg": _turned(),
    "CMYK.jpg": encoded(noise(40, 60, "CMYK"), "JPEG"),
    "grey.jpg": encoded(noise(40, 60, "L"), "JPEG"),
    "palette.png": encoded(noise(40, 60, "P"), "PNG"),
    "alpha.png": encoded(noise(40, 60, "RGBA"), "PNG"),
    "16 bits.png": encoded(Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27), "PNG"),
    "image.webp": encoded(noise(40, 60), "WEBP"),
    "image.bmp": encoded(noise(40, 60), "BMP"),
    "image.tif": encoded(noise(40, 60), "TIFF"),
    "12 bits.tif": grey_tiff(bytes(range(90)), width=60, bits=12),
    "white is zero.tif": grey_tiff(bytes(range(120)), width=60, bits=16, white_is_zero=True),
    "smaller than the input.png": encoded(noise(7, 9), "PNG"),
    "a pixel.png": encoded(noise(1, 1), "PNG"),
    "long.png": encoded(noise(40, 5000, "P"), "PNG"),
}

"""Makes images that are hostile or odd, each named for what it is: ``python scripts/hostile_corpus.py --output DIR``.

Half of them can be read, by whatever name they go; the others are refused, each for a reason. ``CORPUS`` says which and
why; tests hold the commands to it.
"""

import argparse
import io
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Item:
    """A file of the corpus.

    Args:
        make: Its content, or what makes it at a path.
        refused: A part of the reason why it cannot be used; empty for an image that can be read.
        size: (width, height) that it is read as.
    """

    make: bytes | Callable[[Path], object]
    refused: str = ""
    size: tuple[int, int] = (24, 16)

    def write(self, path: Path) -> None:
        """Make the file."""
        if isinstance(self.make, bytes):
            path.write_bytes(self.make)
        else:
            self.make(path)


# Bytes of images


def noise(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    """Coloured noise, always the same."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """The bytes of an image's file."""
    file = io.BytesIO()
    (noise() if image is None else image).save(file, form, **options)
    return file.getvalue()


def frames(form: str, **options: Any) -> bytes:
    """An animation, or a file of several pages."""
    rest = [noise().rotate(180), noise().transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    return encoded(form, save_all=True, append_images=rest, **options)


def turned(orientation: int) -> bytes:
    """A JPEG that its EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded("JPEG", exif=exif)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int], rows: bytes, *extra: bytes, depth: int = 8, colour: int = 0, interlaced: int = 0
) -> bytes:
    """A PNG of rows that are filtered already, with further chunks before its pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + pixels + chunk(b"IEND")


def grey_rows(width: int, height: int, *, depth: int = 8) -> bytes:
    """Black rows, each with its filter type."""
    return (b"\0" + bytes((width * depth + 7) // 8)) * height


def adam7(width: int, height: int) -> bytes:
    """The rows of an interlaced grey PNG, in its seven passes."""
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in steps]
    return b"".join(grey_rows(w, h) for w, h in sizes if w > 0 and h > 0)


def text_bomb() -> bytes:
    """A PNG whose comment is 20 MB once unpacked."""
    return png((24, 16), grey_rows(24, 16), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9)))


def profile_bomb() -> bytes:
    """A PNG whose colour profile is 20 MB once unpacked."""
    return png((24, 16), grey_rows(24, 16), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(20_000_000), 9)))


def tiff(tags: Mapping[int, int], data: bytes, *, following: int = 0) -> bytes:
    """A TIFF of one directory, whose first tag named 0 points at the data behind it."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if value == -1 else value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + data


def grey_tiff(width: int, height: int, data: bytes, *, packing: int = 1, following: int = 0) -> bytes:
    """An 8-bit grey TIFF of one strip."""
    tags = {256: width, 257: height, 258: 8, 259: packing, 262: 1, 273: -1, 277: 1, 278: height, 279: len(data)}
    return tiff(tags, data, following=following)


def tiled_tiff() -> bytes:
    """An 8-bit grey TIFF of one tile, wider than the image."""
    tags = {256: 24, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 32, 323: 16, 324: -1, 325: 512}
    return tiff(tags, bytes(512))


def bmp(width: int, height: int, data: bytes, *, bits: int = 8, packing: int = 0) -> bytes:
    """A BMP with a palette of greys."""
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256)) if bits == 8 else b""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(data), 0, 0, 0, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


JPEG: Final = encoded("JPEG", noise(64, 48), quality=90)
PNG: Final = encoded("PNG", noise(64, 48))
_SOF = JPEG.index(b"\xff\xc0")
_SCAN = JPEG.index(b"\xff\xda")
_CMYK = encoded("JPEG", noise(mode="CMYK"))
_ADOBE = _CMYK.index(b"Adobe")


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG that claims another size."""
    return JPEG[: _SOF + 5] + struct.pack(">HH", height, width) + JPEG[_SOF + 9 :]


def without_restarts() -> bytes:
    """A JPEG that promises restart markers and has none."""
    data = encoded("JPEG", noise(64, 48), restart_marker_blocks=2)
    start = data.index(b"\xff\xda")
    scan = data[start:]
    for number in range(8):
        scan = scan.replace(bytes((0xFF, 0xD0 + number)), b"")
    return data[:start] + scan


def with_segments(count: int) -> bytes:
    """A JPEG with so many segments of 64 KB that say nothing."""
    return JPEG[:2] + (b"\xff\xef\xff\xff" + bytes(65533)) * count + JPEG[2:]


def large_tiff() -> bytes:
    """A TIFF of 49 megapixels in 50 KB."""
    return grey_tiff(7000, 7000, zlib.compress(bytes(49_000_000), 9), packing=8)


def sparse(path: Path) -> None:
    """Two gigabytes of nothing behind the beginning of a JPEG."""
    path.write_bytes(JPEG[:_SCAN])
    os.truncate(path, 2 << 30)


DAMAGED, NO_IMAGE, LARGE = "cannot be read", "it is none of BMP, GIF", "pixels"
WHOLE = (64, 48)

CORPUS: Final[Mapping[str, Item]] = {
    # JPEG
    "baseline.jpg": Item(JPEG, size=WHOLE),
    "progressive.jpg": Item(encoded("JPEG", progressive=True)),
    "grey.jpg": Item(encoded("JPEG", noise(mode="L"))),
    "CMYK by Adobe.jpg": Item(_CMYK),
    "YCCK.jpg": Item(_CMYK[: _ADOBE + 11] + b"\2" + _CMYK[_ADOBE + 12 :]),
    "CMYK by nobody.jpg": Item(_CMYK[: _ADOBE - 4] + _CMYK[_ADOBE + 12 :]),
    **{f"turned {number}.jpg": Item(turned(number)) for number in range(1, 5)},
    **{f"turned {number}.jpg": Item(turned(number), size=(16, 24)) for number in range(5, 9)},
    "EXIF of garbage.jpg": Item(JPEG[:2] + b"\xff\xe1\x00\x20Exif\0\0" + b"\xff" * 24 + JPEG[2:], size=WHOLE),
    "profile of garbage.jpg": Item(encoded("JPEG", icc_profile=b"no profile" * 99)),
    "restart markers missing.jpg": Item(without_restarts(), size=WHOLE),
    "sixty segments.jpg": Item(with_segments(60), size=WHOLE),
    "garbage behind its end.jpg": Item(JPEG + bytes(range(256)) * 40, size=WHOLE),
    "archive behind its end.jpg": Item(JPEG + b"PK\5\6" + bytes(18), size=WHOLE),
    "two pictures (MPO).jpg": Item(frames("MPO")),
    "PNG inside.jpg": Item(PNG, size=WHOLE),
    "cut after two bytes.jpg": Item(JPEG[:2], NO_IMAGE),
    "cut in its header.jpg": Item(JPEG[: _SCAN // 2], DAMAGED),
    "cut in its pixels.jpg": Item(JPEG[: (len(JPEG) + _SCAN) // 2], "truncated"),
    "cut before its end.jpg": Item(JPEG[:-40], "truncated"),
    "arithmetic as it says.jpg": Item(JPEG[:_SOF] + b"\xff\xc9" + JPEG[_SOF + 2 :], size=WHOLE),
    "of 12 bits.jpg": Item(JPEG[: _SOF + 4] + b"\x0c" + JPEG[_SOF + 5 :], NO_IMAGE),
    "of no height.jpg": Item(jpeg_of(64, 0), NO_IMAGE),
    "of four gigapixels.jpg": Item(jpeg_of(65500, 65500), LARGE),
    # PNG
    "JPEG inside.png": Item(JPEG, size=WHOLE),
    "16 bits grey.png": Item(png((24, 16), grey_rows(24, 16, depth=16), depth=16)),
    "16 bits colour.png": Item(png((24, 16), grey_rows(24, 16, depth=48), depth=16, colour=2)),
    "1 bit.png": Item(encoded("PNG", noise(mode="1"))),
    "palette with transparency.png": Item(encoded("PNG", noise(mode="P"), transparency=0)),
    "palette missing.png": Item(png((24, 16), grey_rows(24, 16), colour=3), DAMAGED),
    "grey with alpha.png": Item(encoded("PNG", noise(mode="LA"))),
    "alpha.png": Item(encoded("PNG", noise(mode="RGBA"))),
    "transparent colour.png": Item(encoded("PNG", transparency=(1, 2, 3))),
    "interlaced.png": Item(png((24, 16), adam7(24, 16), interlaced=1)),
    "animated.png": Item(frames("PNG")),
    "a pixel.png": Item(encoded("PNG", noise(1, 1)), size=(1, 1)),
    "1 x 20000.png": Item(encoded("PNG", noise(1, 20000)), size=(1, 20000)),
    "20000 x 1.png": Item(encoded("PNG", noise(20000, 1)), size=(20000, 1)),
    "49 megapixels in 6 KB.png": Item(png((7000, 7000), grey_rows(7000, 7000, depth=1), depth=1), size=(7000, 7000)),
    "comment of 20 MB.png": Item(text_bomb(), "too large"),
    "profile of 20 MB.png": Item(profile_bomb(), "too large"),
    "900 megapixels.png": Item(png((30000, 30000), grey_rows(30000, 300, depth=1), depth=1), LARGE),
    "as large as can be said.png": Item(png((2**31 - 1, 2**31 - 1), b"\0"), LARGE),
    "of no width.png": Item(png((0, 16), b"\0"), NO_IMAGE),
    "too few rows, but closed.png": Item(png((24, 16), grey_rows(24, 3))),
    "wrong checksum in its header.png": Item(PNG[:29] + b"\0\0\0\0" + PNG[33:], NO_IMAGE),
    "wrong checksum of its pixels.png": Item(PNG[:-20] + b"\0\0\0\0" + PNG[-16:], DAMAGED),
    "cut in its pixels.png": Item(PNG[: len(PNG) // 2], DAMAGED),
    # GIF and WebP, by names that a folder is searched for
    "animated GIF.png": Item(frames("GIF")),
    "GIF and script.jpg": Item(b"GIF89a/*" + bytes(9) + b"*/=1;alert(1)//;", DAMAGED),
    "cut GIF.jpg": Item(encoded("GIF", noise(64, 48))[:400], DAMAGED),
    "lossless alpha.webp": Item(encoded("WEBP", noise(mode="RGBA"), lossless=True)),
    "animated.webp": Item(frames("WEBP")),
    "cut.webp": Item(encoded("WEBP", noise(64, 48))[:300], DAMAGED),
    # TIFF and BMP
    "three pages.tif": Item(frames("TIFF")),
    "floats.tif": Item(encoded("TIFF", Image.fromarray(np.linspace(0, 1, 384, dtype=np.float32).reshape(16, 24)))),
    "tiled.tif": Item(tiled_tiff()),
    "49 megapixels in 50 KB.tif": Item(lambda path: path.write_bytes(large_tiff()), size=(7000, 7000)),
    "directories in a circle.tif": Item(grey_tiff(24, 16, bytes(384), following=8)),
    "a gigapixel.tif": Item(grey_tiff(65535, 20000, b"\0"), LARGE),
    "pixels behind its end.tif": Item(grey_tiff(24, 16, b"\0"), DAMAGED),
    "run lengths.bmp": Item(bmp(24, 16, (bytes((24, 7)) + b"\0\0") * 16 + b"\0\1", packing=1)),
    "upside down.bmp": Item(bmp(24, -16, bytes(384))),
    "a gigapixel.bmp": Item(bmp(50000, 20000, b""), LARGE),
    # What is no image, by the names of images
    "zero bytes.jpg": Item(b"", "it is empty"),
    "zeros.jpg": Item(bytes(5000), NO_IMAGE),
    "text.jpg": Item(b"just some words\n", NO_IMAGE),
    "error page.jpg": Item(b"<!DOCTYPE html><title>404 Not Found</title>", NO_IMAGE),
    "vector (SVG).png": Item(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', NO_IMAGE),
    "print (EPS).png": Item(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE),
    "icon (ICO).png": Item(encoded("ICO", noise(32, 32)), NO_IMAGE),
    "photo (HEIC).jpg": Item(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), NO_IMAGE),
    "pickle.png": Item(b"\x80\x04cos\nsystem\n.", NO_IMAGE),
    # What is no file of its own
    "folder.jpg": Item(lambda path: path.mkdir(), "is a directory"),
    "link to nothing.jpg": Item(lambda path: path.symlink_to("gone.jpg"), "no such file"),
    "link to itself.jpg": Item(lambda path: path.symlink_to(path.name), "too many levels of symbolic links"),
    "link to a device.jpg": Item(lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
    "pipe.jpg": Item(lambda path: os.mkfifo(path), "a pipe or a device"),
    "2 GiB of nothing.jpg": Item(sparse, "bytes are more than"),
    # Names
    "two\nlines.png": Item(encoded("PNG")),
    "half a letter \udcff.png": Item(encoded("PNG")),
    "emoji 🦆.png": Item(encoded("PNG")),
    "  spaces  .png": Item(encoded("PNG")),
    "-rf.png": Item(encoded("PNG")),
    "star * question ? [a-z].png": Item(encoded("PNG")),
    'comma, "quote" and ; =1+1.png': Item(encoded("PNG")),
    "right-to-left \u202egnp.png": Item(encoded("PNG")),
    f"{'long' * 61}.png": Item(encoded("PNG")),
    "<img src=x onerror=alert(1)>.png": Item(encoded("PNG")),
}
"""Name -> what it is, in the order in which they are made."""


def write_corpus(folder: Path) -> None:
    """Make all files of the corpus in a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, item in CORPUS.items():
        item.write(folder / name)


def main() -> None:
    """Make the corpus and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the files; is made")
    folder = parser.parse_args().output
    write_corpus(folder)
    refused = sum(bool(item.refused) for item in CORPUS.values())
    print(f"{len(CORPUS)} files in {folder}: {len(CORPUS) - refused} can be read, {refused} are refused")


if __name__ == "__main__":
    main()

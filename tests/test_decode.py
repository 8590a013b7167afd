"""Whatever an image file holds becomes the RGB that a viewer shows, or an error that names the file."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_kinds import grey_tiff
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clf.preprocess import UnreadableImage, decode


def noise(width: int, height: int, channels: int = 3, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 (H, W, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixel(source: bytes | Path) -> tuple[int, ...]:
    """Return the colour of an image of one colour."""
    colours = np.unique(np.array(decode(source)).reshape(-1, 3), axis=0)
    assert len(colours) == 1, colours
    return tuple(colours[0].tolist())


def grey_of(source: bytes) -> list[int]:
    """Return the first row of an image that must be grey."""
    rgb = np.array(decode(source))
    assert (rgb == rgb[..., :1]).all()
    return [int(value) for value in rgb[0, :, 0]]


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that announces a size and has almost no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"0")]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_whatever_its_exif_orientation(form: str, orientation: int) -> None:
    upright = np.full((32, 48, 3), (0, 0, 255), np.uint8)
    upright[:16, :16] = (255, 0, 0)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]}
    stored |= {number + 4: pixels.transpose(1, 0, 2) for number, pixels in stored.items()}
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    image = decode(encoded(Image.fromarray(stored[orientation]), form, exif=exif, **options))
    assert image.size == (48, 32)
    assert np.abs(np.array(image, int) - upright).max() <= 4
    assert np.array_equal(np.array(ImageOps.exif_transpose(image)), np.array(image)), "would be turned a second time"


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (0, 100, 255, 51), (204, 224, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("1", 0, (0, 0, 0)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_transparency_is_laid_on_white_and_grey_stays_grey(mode: str, colour: Any, expected: tuple[int, ...]) -> None:
    assert pixel(encoded(Image.new(mode, (4, 3), colour), "PNG")) == expected


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palette_images_keep_their_colours_and_their_transparent_entry_becomes_white(form: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 250])
    image.putdata([0, 1])
    assert np.array(decode(encoded(image, form))).tolist() == [[[200, 10, 20], [30, 40, 250]]]
    assert np.array(decode(encoded(image, form, transparency=0))).tolist() == [[[255, 255, 255], [30, 40, 250]]]


def test_a_colour_declared_transparent_in_an_rgb_png_becomes_white() -> None:
    assert pixel(encoded(Image.new("RGB", (2, 2), (9, 8, 7)), "PNG", transparency=(9, 8, 7))) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_that_were_printed(form: str) -> None:
    """Pillow writes CMYK JPEGs as Photoshop does: inverted, with Adobe's marker."""
    red, green, blue = pixel(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 51)), form))
    assert abs(red - 204) <= 2
    assert green <= 2
    assert blue <= 2


def test_sixteen_bit_grey_is_scaled_and_not_cut_off() -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert grey_of(encoded(Image.fromarray(levels), "PNG")) == [0, 1, 128, 255]
    assert grey_of(encoded(Image.fromarray(levels), "TIFF")) == [0, 1, 128, 255]
    assert grey_of(encoded(Image.fromarray(levels.astype(">u2")), "TIFF")) == [0, 1, 128, 255]


def test_twelve_bit_and_inverted_tiffs_use_the_range_that_they_declare() -> None:
    assert grey_of(grey_tiff(bytes([0x00, 0x0F, 0xFF]), width=2, bits=12)) == [0, 255]
    assert grey_of(grey_tiff(struct.pack("<HH", 0, 65535), width=2, bits=16, white_is_zero=True)) == [255, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[-1000, 0, 3000]], np.int32), [0, 64, 255]),
        (np.array([[7, 7, 7]], np.int32), [0, 0, 0]),
        (np.array([[0.0, 0.2, 0.4]], np.float32), [0, 51, 102]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 20.0, 100.0]], np.float32), [0, 51, 255]),
        (np.array([[np.nan, -np.inf, 2.0, np.inf, 4.0]], np.float32), [0, 0, 0, 255, 255]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
    ],
)
def test_deep_integers_and_floats_span_black_to_white(values: NDArray[Any], expected: list[int]) -> None:
    assert grey_of(encoded(Image.fromarray(values), "TIFF")) == expected


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_the_first_frame_of_an_animation_counts(form: str, options: dict[str, Any]) -> None:
    first, *rest = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert pixel(encoded(first, form, save_all=True, append_images=rest, **options)) == (255, 0, 0)


@pytest.mark.parametrize("edge", [7100, 10_000, 20_000])  # Beyond ours, Pillow's warning and Pillow's error.
def test_more_than_fifty_megapixels_are_refused_by_the_header_alone(edge: int) -> None:
    with pytest.raises(UnreadableImage, match=f"{edge * edge} pixels|{edge} x {edge} pixels"):
        decode(png_header(edge, edge))
    with pytest.raises(UnreadableImage, match="truncated"):  # The same file, refused only once it is read.
        decode(png_header(100, 100))


def test_the_pixel_limit_counts_width_times_height() -> None:
    image = encoded(Image.new("RGB", (4, 3)), "PNG")
    assert decode(image, max_pixels=12).size == (4, 3)
    with pytest.raises(UnreadableImage, match="4 x 3 pixels are more than 11"):
        decode(image, max_pixels=11)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_file_cut_short_names_its_path_and_what_is_wrong(form: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    whole = encoded(Image.fromarray(noise(64, 48)), form)
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(UnreadableImage, match=r"cut\.jpg' cannot be read: .+; repair or remove it"):
        decode(path)


def test_what_is_no_image_says_so_and_where(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "vector.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    reasons = {"empty.png": "it is empty", "page.jpg": "none of .*JPEG", "vector.png": "none of .*PNG"}
    reasons |= {"gone.png": "no such file", ".": "is a directory", "a\0b.png": "null"}
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImage, match=reason) as caught:
            decode(str(tmp_path / name))
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImage, match="image of 0 bytes"):
        decode(b"")


def test_a_machine_out_of_memory_does_not_blame_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", run_out)
    with pytest.raises(MemoryError):
        decode(b"anything")


@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]), st.data())
@settings(max_examples=300)
def test_damage_of_any_kind_is_unreadable_or_decoded_but_never_another_error(form: str, data: st.DataObject) -> None:
    broken = bytearray(encoded(Image.fromarray(noise(13, 9)), form))
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(broken)))
    try:
        image = decode(bytes(broken[:cut]), max_pixels=10_000)
    except UnreadableImage:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= 10_000


@given(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]), st.tuples(*[st.integers(1, 40)] * 2), st.data())
def test_any_size_and_mode_keeps_its_pixels(mode: str, size: tuple[int, int], data: st.DataObject) -> None:
    levels = noise(*size, 4, seed=data.draw(st.integers(0, 99)))  # (H, W, 4)
    grey, colour, alpha = levels[..., :1], levels[..., :3], levels[..., 3:] / 255
    palette = colour[0, :1] ^ np.arange(256, dtype=np.uint8)[:, None]  # 256 different colours
    expected = {
        "1": grey // 128 * 255,
        "L": grey,
        "LA": grey * alpha + 255 * (1 - alpha),
        "P": palette[grey[..., 0]],
        "RGB": colour,
        "RGBA": colour * alpha + 255 * (1 - alpha),
        "I;16": grey,
    }[mode]
    stored: dict[str, NDArray[Any]] = {"LA": levels[..., [0, 3]], "RGB": colour, "RGBA": levels}
    stored["I;16"] = grey[..., 0].astype(np.uint16) * 257
    image = Image.fromarray(stored.get(mode, grey[..., 0]))
    if mode == "1":
        image = image.point(lambda level: 255 * (level >= 128), mode="1")
    if mode == "P":
        image.putpalette(palette.tobytes())
    decoded = np.array(decode(encoded(image, "PNG")), float)
    assert decoded.shape == (*size[::-1], 3)
    assert np.abs(decoded - expected).max() <= 1


def jpeg_with_odd_exif(*tags: tuple[int, int, int, int]) -> bytes:
    """Return an image of 8 x 4 pixels with EXIF entries of (tag, type, count, value or offset)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return encoded(Image.new("L", (8, 4), 120), "JPEG", exif=exif)


def test_warnings_about_metadata_do_not_leak_and_do_not_refuse_the_image() -> None:
    source = jpeg_with_odd_exif((271, 2, 9999, 5000))
    with pytest.raises(UserWarning, match="tag 271"):  # Here, a warning is an error.
        Image.open(io.BytesIO(source)).getexif()
    assert pixel(source) == (120, 120, 120)


def test_metadata_that_pillow_chokes_on_does_not_refuse_the_image_or_leave_it_lying() -> None:
    source = jpeg_with_odd_exif((274, 3, 1, 6), (282, 6, 1, 255))
    with pytest.raises(struct.error):  # At the resolution, which is negative.
        ImageOps.exif_transpose(Image.open(io.BytesIO(source)))
    image = decode(source)
    assert image.size == (4, 8)
    assert ImageOps.exif_transpose(image).size == (4, 8), "would be turned a second time"


def test_threads_decode_at_once_and_leave_the_process_its_warnings() -> None:
    sources = [jpeg_with_odd_exif((271, 2, 9999, 5000)), b"broken", png_header(10_000, 10_000)] * 100

    def mode_of(source: bytes) -> str:
        try:
            return decode(source).mode
        except UnreadableImage:
            return "unreadable"

    filters, before = warnings.filters, list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        modes = list(pool.map(mode_of, sources))
    assert modes == ["RGB", "unreadable", "unreadable"] * 100
    assert warnings.filters is filters
    assert list(filters) == before

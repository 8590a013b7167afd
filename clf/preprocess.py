"""Image bytes to RGB to the evaluation array: numpy and Pillow only, one implementation for every verb."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

# Importing a plugin registers it; without these two the first unknown file would make Pillow import all of its plugins.
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from clf.errors import UserError, did_you_mean
from clf.files import open_whole

CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]

# The files that a folder is searched for.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# What they may hold, whatever they are called. GIF often hides behind another suffix; a closed list keeps uploaded
# bytes away from Pillow's other decoders (EPS starts Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

# EXIF's orientation -> what makes the image upright. `PIL.ImageOps.exif_transpose` does the same, and then fails at odd
# metadata, which it writes again.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Transparent images are mostly drawn for white pages: dark text or a logo would vanish on black.
_BACKGROUND = (255, 255, 255)

MAX_PIXELS = 50_000_000  # Larger images are refused by their header, unless the caller says otherwise.
MAX_BYTES = 1 << 30  # Larger files are refused unread: so many pixels need no more in any format.

# What would be larger after the resize is not resized as a whole to be cropped afterwards.
_MAX_RESIZED_PIXELS = 50_000_000


class UnreadableImage(UserError):
    """A file that is not a whole image; the message names the file and the reason.

    Args:
        message: The whole message.
        reason: What of it is said where the file is known, as in an answer to whoever sent it. Default: all.
        is_image: Whether the content is an image in a known format, though one that cannot be used.
    """

    def __init__(self, message: str, *, reason: str | None = None, is_image: bool = True) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.is_image = is_image


def decode(source: str | Path | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image completely and turn it into upright RGB.

    EXIF orientation is applied. Transparency is laid on white. 16-bit grey is scaled by its bit depth; other integers
    and floats by their own minimum and maximum (floats within [0, 1] as they are), because their files do not say what
    white is. Of an animation or a multi-page file the first frame counts. Colour profiles are ignored.

    Args:
        source: A file, the bytes of one, or an image that Pillow has opened, which is left as it is.
        max_pixels: Larger images are refused by their header, before anything is decoded.
    Returns:
        An RGB image without metadata, independent of the file.
    Raises:
        UnreadableImage: If the source is missing, empty, not an image, too large, truncated or damaged.
    """
    try:
        with _pillow_warnings_ignored(), _opened(source) as image:
            width, height = image.size
            if not width * height:
                raise ValueError("it has no pixels")
            if width * height > max_pixels:
                raise ValueError(f"{width} x {height} pixels are more than {max_pixels}")
            image.load()  # verify() would pass truncated files.
            return _upright_rgb(image)
    except MemoryError:
        raise  # The machine's trouble, not the file's.
    except Exception as error:  # Damaged files make Pillow raise nearly anything, from struct.error to EOFError.
        reason = f"cannot be read: {_reason(error)}"
        message = f"image {_name(source)} {reason}; repair or remove it"
        raise UnreadableImage(message, reason=reason, is_image=not isinstance(error, UnidentifiedImageError)) from error


def read_orientation(data: bytes) -> int:
    """Read from the header of a file by what `decode` turns it: EXIF's 1 to 8, if it is sound, and 1 without any."""
    with suppress(OSError, ValueError), _pillow_warnings_ignored(), _opened(data) as image:
        return _orientation(image) or 1
    return 1


@dataclass(frozen=True)
class Preprocessing:
    """What happens between an RGB image and the network in evaluation, with timm's meaning and rounding.

    Args:
        size: Height and width that reach the network, in pixels.
        crop_pct: Edge of the crop over the edge of the resized image; above 1, the crop has a black border.
        crop_mode: ``center`` resizes the shorter edge and cuts off the rest, ``squash`` ignores the aspect ratio,
            ``border`` resizes the longer edge and fills up with the mean colour.
        interpolation: Pillow's filter for the resize.
        mean: Subtracted from RGB in [0, 1].
        std: Divides the difference.
    Raises:
        UserError: If a value is outside its range; the message names it.
    """

    size: tuple[int, int]
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for key in ("size", "mean", "std"):
            if isinstance(getattr(self, key), list):  # YAML and JSON know no tuples.
                object.__setattr__(self, key, tuple(getattr(self, key)))
        _check("image_size", self.size, count=2, above=0, kind=int)
        if type(self.crop_pct) not in (int, float) or not 0 < self.crop_pct < math.inf:
            raise UserError(f"crop_pct={self.crop_pct!r} must be a number above 0")
        _check("mean", self.mean, count=3)
        _check("std", self.std, count=3, above=0)
        if math.prod(self.size) > MAX_PIXELS:
            raise UserError(f"image_size={self.size!r} is more than {MAX_PIXELS} pixels")
        _check("image_size / crop_pct", self.resized, count=2, above=0)
        for key, options in (("crop_mode", get_args(CropMode)), ("interpolation", get_args(Interpolation))):
            value = getattr(self, key)
            if value not in options:
                hint = did_you_mean(str(value), options)
                raise UserError(f"{key}={value!r} must be one of {', '.join(options)}{hint}")

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width that the resize aims at, before the crop."""
        height, width = self.size
        return math.floor(height / self.crop_pct), math.floor(width / self.crop_pct)

    @classmethod
    def from_pretrained_cfg(
        cls,
        cfg: Mapping[str, Any],
        *,
        image_size: int | Sequence[int] | None = None,
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        interpolation: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Preprocessing":
        """Read timm's ``pretrained_cfg``; an argument that is given wins, what neither says is timm's default.

        The mapping may have ``input_size`` (3, H, W) and the names of the arguments; ``image_size`` is (height, width)
        or the edge of a square.

        Raises:
            UserError: If a value is outside its range, or the network does not take three channels.
        Source: ``timm.data.resolve_data_config``.
        """
        channels, *size = cfg.get("input_size") or (3, 224, 224)
        if channels != 3:
            raise UserError(f"input_size={cfg['input_size']} is not for images of 3 channels; use another network")
        if image_size is not None:
            size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        given = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation, "mean": mean, "std": std}
        chosen = {key: cfg.get(key) or None if value is None else value for key, value in given.items()}
        return cls(**{"size": size} | {key: value for key, value in chosen.items() if value is not None})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return primitives only: the blocks ``normalization`` and ``input`` of ``labels_mapping.json``.

        ``resize`` is spelt out for pipelines in other languages, in CSS's words for ``object-fit``.
        """
        fit = {"center": "cover", "squash": "fill", "border": "contain"}[self.crop_mode]
        return {
            "normalization": {"mean": list(self.mean), "std": list(self.std)},
            "input": {
                "size": list(self.size),
                "resize": {"size": list(self.resized), "fit": fit},
                "crop": {"mode": self.crop_mode, "pct": self.crop_pct},
                "interpolation": self.interpolation,
                "color": "RGB",
            },
        }

    @classmethod
    def from_dict(cls, blocks: Mapping[str, Any]) -> "Preprocessing":
        """Rebuild exactly what `to_dict` described; other blocks beside those two are not looked at.

        Raises:
            UserError: If a block is incomplete, or contradicts itself after an edit by hand.
        """
        try:
            spec, crop = blocks["input"], blocks["input"]["crop"]
            values = {"size": spec["size"], "interpolation": spec["interpolation"], "crop_mode": crop["mode"]}
            built = cls(**values | {"crop_pct": crop["pct"]} | blocks["normalization"])
        except (KeyError, TypeError) as error:
            raise UserError(f"the preprocessing is not fully described ({error}); export again") from error
        if built.to_dict()["input"] != spec:
            raise UserError(f"input={spec} contradicts itself; export again")
        return built


def evaluation_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and crop an RGB image, pixel for pixel as timm's evaluation transform.

    Only images so long and thin that the resized one would take gigabytes may differ a little.

    Returns:
        uint8 (H, W, 3).
    Source: ``timm.data.transforms_factory.transforms_imagenet_eval``.
    """
    assert image.mode == "RGB", f"expected what decode() returns, got mode {image.mode}"
    height, width = preprocessing.size
    scaled_width, scaled_height = scaled = _scaled_size(image.size, preprocessing)
    left, top = _crop_offset(scaled_width, width), _crop_offset(scaled_height, height)
    # What the crop keeps of the scaled image; what lies outside it is filled.
    kept = (max(left, 0), max(top, 0), min(left + width, scaled_width), min(top + height, scaled_height))
    fill = tuple(round(255 * value) for value in preprocessing.mean) if preprocessing.crop_mode == "border" else 0
    crop = Image.new("RGB", (width, height), fill)
    crop.paste(_resize_region(image, scaled, kept, preprocessing.interpolation), (kept[0] - left, kept[1] - top))
    return np.array(crop)


def unit_array(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale RGB pixels (H, W, 3) to [0, 1].

    Returns:
        float32 (3, H, W), contiguous.
    """
    array = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    array /= 255
    return array


def evaluation_array(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Resize, crop and normalise an RGB image: the network's input, the same for every verb.

    Returns:
        float32 (3, H, W), contiguous.
    """
    array = unit_array(evaluation_pixels(image, preprocessing))
    array -= np.array(preprocessing.mean, np.float32)[:, None, None]
    array /= np.array(preprocessing.std, np.float32)[:, None, None]
    return array


@contextmanager
def _pillow_warnings_ignored() -> Iterator[None]:
    """Silence what Pillow warns of while it reads a file (odd metadata, size); what matters, it raises.

    `warnings.catch_warnings` swaps the process's whole list of filters, so that threads restore each other's. This adds
    one entry, for Pillow's modules only, and takes an equal one out of the same list: each thread has its own in there.
    """
    filters = cast(list[tuple[str, None, type[Warning], re.Pattern[str], int]], warnings.filters)
    entry = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    filters.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):  # Another thread may have called warnings.resetwarnings().
            filters.remove(entry)


@contextmanager
def _opened(source: str | Path | bytes | Image.Image) -> Iterator[Image.Image]:
    """Read the header of the first frame, and give it in its own mode; raises whatever Pillow raises."""
    if isinstance(source, Image.Image):
        yield source
        return
    with io.BytesIO(source) if isinstance(source, bytes) else open_whole(source, most=MAX_BYTES) as file:
        if not file.read(1):
            raise ValueError("it is empty")
        yield Image.open(file, formats=FORMATS)


def _name(source: str | Path | bytes | Image.Image) -> str:
    if isinstance(source, bytes):
        return f"of {len(source)} bytes"
    name = getattr(source, "filename", "") if isinstance(source, Image.Image) else source
    return repr(str(name)) if name else "without a file"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}, or its header is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()  # str(error) would repeat the path.
    return str(error) or f"it is damaged ({type(error).__name__})"


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to RGB and turn it as its EXIF says; the image itself is left as it is."""
    rgb = _to_rgb(image)
    rgb.info.clear()  # Or an orientation could be applied a second time.
    turn = _TURNS.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:
        return None  # Metadata may be damaged in any way; the pixels are not.


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey_to_rgb(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    rgb = Image.new("RGB", image.size, _BACKGROUND)
    rgb.paste(rgba, mask=rgba)
    return rgb


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits, 32 bits or floats to 8 bits, where Pillow would cut off what is above 255."""
    grey = np.array(image, np.float64)  # (H, W)
    black, white = _range(image, grey)
    grey -= black
    grey *= 255 / (white - black)
    np.nan_to_num(grey, copy=False, nan=0, posinf=255, neginf=0)
    np.clip(np.rint(grey, out=grey), 0, 255, out=grey)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _range(image: Image.Image, grey: NDArray[np.float64]) -> tuple[float, float]:
    """Return what black and white are in a deep grey image."""
    if image.mode.startswith("I;16"):
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        white = (1 << tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]) - 1
        is_white_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts 8 bits only.
        return (white, 0) if is_white_zero else (0, white)
    finite = grey[np.isfinite(grey)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def _scaled_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the width and height that an image of `size` (width, height) is resized to, before the crop."""
    width, height = size
    target_height, target_width = preprocessing.resized
    if preprocessing.crop_mode == "squash":
        return target_width, target_height
    if preprocessing.crop_mode == "center" and target_height == target_width:
        # torchvision's Resize: rounds down, and multiplies before it divides.
        longer = int(target_height * max(width, height) / min(width, height))
        return (target_width, longer) if width <= height else (longer, target_height)
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if preprocessing.crop_mode == "border" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))  # timm would fail on 0 pixels.


def _crop_offset(length: int, crop: int) -> int:
    """Return where a centred crop starts, rounded as by torchvision; negative where the crop is longer."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _resize_region(
    image: Image.Image, scaled: tuple[int, int], region: tuple[int, int, int, int], interpolation: Interpolation
) -> Image.Image:
    """Resize to `scaled` (width, height) and return its `region` (left, top, right, bottom)."""
    resample = Image.Resampling[interpolation.upper()]
    if math.prod(scaled) <= _MAX_RESIZED_PIXELS:
        return image.resize(scaled, resample).crop(region)
    left, top, right, bottom = region
    across, down = image.width / scaled[0], image.height / scaled[1]
    box = (left * across, top * down, right * across, bottom * down)
    return image.resize((right - left, bottom - top), resample, box=box)


def _check(key: str, values: object, *, count: int, above: float = -math.inf, kind: type = float) -> None:
    """Refuse anything but a tuple of `count` finite numbers above a limit."""
    numbers = values if isinstance(values, tuple) else ()
    if len(numbers) != count or not all(type(n) in (int, kind) and above < n < math.inf for n in numbers):
        limit = "" if above == -math.inf else f" above {above}"
        raise UserError(f"{key}={values!r} must be {count} {'whole ' * (kind is int)}numbers{limit}")

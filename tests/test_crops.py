"""A crop that is read from a file is what the whole image has there, within stated bounds, or the same error."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from clf.crops import RandomCrop, read, split_crop
from clf.preprocess import UnreadableImage, decode
from clf.transforms import seeded

ANY = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": InterpolationMode.BILINEAR}
WHOLE = ANY | {"scale": (1.0, 1.0), "ratio": (1.25, 1.25)}  # of images of that shape


def scenery(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Soft patches in all colours with some grain, as photographs have them; no two corners are alike."""
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (height, width, 1))
    pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)).convert(mode)


def save(folder: Path, image: Image.Image, *, orientation: int = 1, **options: Any) -> Path:
    exif = Image.Exif()
    if orientation != 1:
        exif[ExifTags.Base.Orientation] = orientation
    path = folder / "image.jpg"
    image.save(path, "JPEG", exif=exif, **{"quality": 90} | options)
    return path


def both(crop: RandomCrop, path: Path, *, seed: int) -> tuple[Tensor, Tensor]:
    """The same crop, read from the file and cut out of what Pillow decoded."""
    with seeded(seed):
        fast = crop(path)
    with seeded(seed):
        return fast, crop(decode(path))


def difference(fast: Tensor, exact: Tensor) -> tuple[float, int]:
    """Mean and largest difference, in levels of 255."""
    apart = (fast.int() - exact.int()).abs()
    return float(apart.float().mean()), int(apart.max())


@pytest.mark.parametrize(
    "options",
    [{"subsampling": each} for each in (0, 1, 2)]
    + [{"progressive": True}, {"quality": 30}, {"restart_marker_rows": 1}],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_crop_is_what_the_whole_image_has_there(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    path = save(tmp_path, scenery(250, 200, mode), **options)
    for seed in range(12):
        fast, exact = both(RandomCrop((96, 128), **ANY), path, seed=seed)
        assert fast.shape == (3, 96, 128)
        assert fast.dtype == torch.uint8
        mean, largest = difference(fast, exact)
        assert mean <= 0.05
        assert largest <= 3


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_large_image_is_decoded_smaller_and_looks_the_same(tmp_path: Path, reduction: int) -> None:
    size = (64, 80)
    path = save(tmp_path, scenery(80 * reduction + 7, 64 * reduction + 5), subsampling=2)
    fast, exact = both(RandomCrop(size, **ANY | {"scale": (0.999, 1.0), "ratio": (1.25, 1.26)}), path, seed=0)
    mean, largest = difference(fast, exact)
    assert 0 < mean <= 1.5
    assert largest <= 20


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("edge", [100, 900])
def test_a_crop_is_upright(tmp_path: Path, orientation: int, edge: int) -> None:
    path = save(tmp_path, scenery(edge, edge * 4 // 5), orientation=orientation)
    for seed in range(4):
        mean, _ = difference(*both(RandomCrop((48, 48), **ANY), path, seed=seed))
        assert mean <= 3.5  # a mirrored image that no reduction divides is off by less than a pixel of the small one


def test_damaged_metadata_turn_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, scenery(100, 80), orientation=6)
    data = path.read_bytes()
    start = data.index(b"Exif\0\0") + 6
    path.write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
    fast, exact = both(RandomCrop((48, 48), **ANY), path, seed=0)
    assert difference(fast, exact)[0] <= 0.05


TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # by 90 degrees


@pytest.mark.parametrize(
    ("options", "upright"),
    [
        ({"xmp": b'<rdf:Description tiff:Orientation="6"/>'}, (80, 100)),
        ({"xmp": b"<tiff:Orientation>6</tiff:Orientation>", "icc_profile": bytes(90_000)}, (80, 100)),
        ({"comment": TURNED}, (100, 80)),
        ({"icc_profile": TURNED}, (100, 80)),
    ],
    ids=["xmp", "behind a profile", "a comment", "a profile"],
)
def test_what_turns_an_image_in_evaluation_turns_it_here_and_nothing_else_does(
    tmp_path: Path, options: dict[str, Any], upright: tuple[int, int]
) -> None:
    path = tmp_path / "image.jpg"
    scenery(100, 80).save(path, quality=90, **options)
    assert decode(path).size == upright
    assert read(path, at_least=80)[1] == upright
    assert difference(*both(RandomCrop((48, 48), **ANY), path, seed=0))[0] <= 0.05


@pytest.mark.parametrize(
    ("suffix", "mode"), [("png", "RGBA"), ("png", "I;16"), ("webp", "RGB"), ("jpg", "CMYK"), ("gif", "P")]
)
def test_what_is_no_ordinary_jpeg_is_read_as_in_evaluation(tmp_path: Path, suffix: str, mode: str) -> None:
    image = scenery(100, 80)
    path = tmp_path / f"image.{suffix}"
    (image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)).save(path)
    assert torch.equal(*both(RandomCrop((48, 48), **ANY), path, seed=0))


@pytest.mark.parametrize("content", ["nothing", "text", "half", "header", "missing", "folder"])
def test_a_file_that_evaluation_refuses_is_refused_in_the_same_words(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, scenery(100, 80))
    data = path.read_bytes()
    if content in ("missing", "folder"):
        path.unlink()
    if content == "folder":
        path.mkdir()
    if content in ("nothing", "text", "half", "header"):
        cut = {"nothing": b"", "text": b"no image", "half": data[: len(data) // 2], "header": data[:200]}[content]
        path.write_bytes(cut)
    with pytest.raises(UnreadableImage) as expected:
        decode(path)
    with pytest.raises(UnreadableImage) as raised:
        RandomCrop((48, 48), **ANY)(path)
    assert str(raised.value) == str(expected.value)


def test_an_image_over_the_limit_is_refused_by_its_header(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (8000).to_bytes(2) * 2  # height and width
    (tmp_path / "image.jpg").write_bytes(data)
    with pytest.raises(UnreadableImage, match="8000 x 8000 pixels are more than 50000000"):
        RandomCrop((48, 48), **ANY)(tmp_path / "image.jpg")


def test_crops_are_spread_as_torchvision_spreads_them() -> None:
    crop, theirs = RandomCrop((8, 8), **ANY), v2.RandomResizedCrop(8, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    image = torch.empty(3, 300, 400, device="meta")
    with seeded(0):
        ours = np.array([crop._box(400, 300) for _ in range(4000)], float)
        drawn = [theirs.make_params([image]) for _ in range(4000)]
    reference = np.array([[each[key] for key in ("left", "top", "width", "height")] for each in drawn], float)
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        apart = np.quantile(ours, quantile, axis=0) - np.quantile(reference, quantile, axis=0)
        assert np.abs(apart).max() <= 16, quantile
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= (400, 300)).all()


@pytest.mark.parametrize("size", [(1, 1), (1000, 2), (2, 1000)])
def test_any_image_has_a_crop(size: tuple[int, int]) -> None:
    for seed in range(20):
        with seeded(seed):
            assert RandomCrop((8, 12), **ANY)(scenery(*size)).shape == (3, 8, 12)


def test_mirrored_images_are_the_same_crops_the_other_way_round(tmp_path: Path) -> None:
    path = save(tmp_path, scenery(125, 100))
    plain, mirrored = (RandomCrop((48, 48), **WHOLE, flip=flip) for flip in (0.0, 1.0))
    assert torch.equal(mirrored(path), plain(path).flip(2))
    sometimes = RandomCrop((48, 48), **WHOLE, flip=0.3)
    flipped = 0
    for seed in range(200):
        with seeded(seed):
            flipped += not torch.equal(sometimes(path), plain(path))
    assert 40 <= flipped <= 80


@pytest.mark.parametrize(
    ("transforms", "flip", "rest"),
    [
        ([v2.RandomResizedCrop(8)], 0.0, 0),
        ([v2.RandomResizedCrop(8), v2.RandomHorizontalFlip(0.25)], 0.25, 0),
        ([v2.RandomResizedCrop(8), v2.RandomVerticalFlip(), v2.RandomHorizontalFlip()], 0.0, 2),
    ],
)
def test_a_crop_at_the_head_of_a_list_is_read(transforms: list[Any], flip: float, rest: int) -> None:
    crop, left = split_crop(transforms)
    assert crop is not None
    assert (crop.size, crop.scale, crop.flip) == ((8, 8), (0.08, 1.0), flip)
    assert left == transforms[len(transforms) - rest :]


class OwnCrop(v2.RandomResizedCrop):  # type: ignore[misc]
    """Does who knows what."""


@pytest.mark.parametrize(
    "first",
    [
        v2.RandomCrop(8),
        OwnCrop(8),
        v2.RandomResizedCrop(8, antialias=False),
        v2.RandomResizedCrop(8, interpolation=InterpolationMode.NEAREST),
        v2.RandomHorizontalFlip(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_cannot_be_read_from_the_file_stays_a_transform(first: Any) -> None:
    transforms = [first, v2.RandomHorizontalFlip()]
    assert split_crop(transforms) == (None, transforms)
    assert split_crop([]) == (None, [])

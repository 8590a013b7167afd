"""Images that are there twice: found whatever their files are called, and never where there are two images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from datasets import draw
from PIL import Image, ImageDraw

from clf.check.duplicates import check_duplicates
from clf.check.findings import Finding
from clf.check.looks import Looks, _candidates
from clf.data.samples import Sample, Samples, Split
from clf.data.scan import Files, scan


def look(listing: Mapping[Split, list[Sample]]) -> list[Finding]:
    """Look at files on disk."""
    splits = {split: Samples(samples) for split, samples in listing.items()}
    files = Files(splits)
    looks = Looks(len(files.paths))
    assert scan(files.paths, look=looks.add) == {}
    return check_duplicates(splits, files, looks)


def rules(found: list[Finding]) -> dict[str, tuple[str, int]]:
    return {finding.rule: (finding.severity, finding.count) for finding in found}


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with large and small things in it."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 255, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(25):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        reach = rng.uniform(5, 40)
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        pen.ellipse([x - reach, y - reach / 2, x + reach, y + reach], fill=colour)
    return image


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """The same pixels in two files of two formats."""
    draw(tmp_path / "a.png", seed=1)
    Image.open(tmp_path / "a.png").save(tmp_path / "b.bmp")
    return f"{tmp_path}/a.png", f"{tmp_path}/b.bmp"


def test_the_same_pixels_in_train_and_in_a_scored_split_are_an_error_that_names_those_in_train(
    pair: tuple[str, str],
) -> None:
    one, other = pair
    for split in ("val", "test"):
        (found,) = look({"train": [Sample(one, "x")], split: [Sample(other, "x")]})
        assert (found.rule, found.severity, found.count) == ("leak", "error", 1)
        assert (found.images, found.partners) == ((one,), (other,))
        assert one in found.message
        assert other in found.message


def test_the_same_pixels_under_two_labels_are_a_warning_that_names_both(pair: tuple[str, str]) -> None:
    one, other = pair
    (found,) = look({"train": [Sample(one, "cat"), Sample(other, "dog")]})
    assert (found.rule, found.severity, set(found.images)) == ("contradicting-labels", "warning", {one, other})
    assert f"{one} ('cat') and {other} ('dog')" in found.message
    (found, _) = look({"train": [Sample(one, "cat"), Sample(one, "dog")]})
    assert (found.rule, found.count) == ("contradicting-labels", 1)


@pytest.mark.parametrize(("split", "severity"), [("train", "note"), ("val", "warning"), ("test", "warning")])
def test_the_same_pixels_twice_in_a_split_count_once_too_often(
    pair: tuple[str, str], split: Split, severity: str
) -> None:
    one, other = pair
    (found,) = look({split: [Sample(one, "x"), Sample(other, "x")]})
    assert (found.rule, found.severity, found.images, found.partners) == ("duplicate", severity, (other,), (one,))


def test_what_is_in_validation_and_test_is_a_warning(pair: tuple[str, str]) -> None:
    one, other = pair
    (found,) = look({"val": [Sample(one, "x")], "test": [Sample(other, "x")]})
    assert (found.rule, found.severity, found.images) == ("duplicate-in-val-and-test", "warning", (one,))


def test_rows_that_name_one_file_again_are_counted(pair: tuple[str, str]) -> None:
    (found,) = look({"train": [Sample(pair[0], "x")] * 4})
    assert (found.rule, found.severity, found.count, found.images) == ("listed-twice", "note", 3, ())


def test_a_picture_that_was_stored_anew_is_found_again(tmp_path: Path) -> None:
    image = scene(1)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.jpg", quality=50)
    image.resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / "c.png")
    a, b, c = (f"{tmp_path}/{name}" for name in ("a.png", "b.jpg", "c.png"))
    found = look({"train": [Sample(a, "x"), Sample(b, "x")], "test": [Sample(c, "y")]})
    assert rules(found) == {
        "near-leak": ("warning", 2),
        "near-contradicting-labels": ("warning", 3),
        "near-duplicate": ("note", 1),
    }


def flat(seed: int) -> Image.Image:
    """White, grey and black cards, and shades of them."""
    return Image.new("RGB", (40 + seed % 7, 30), (30 * (seed % 8), 31 * (seed % 8), 30 * (seed % 8) + seed // 8))


def digit(seed: int) -> Image.Image:
    """Small white crops with one black number, never the same one twice."""
    image = Image.new("L", (36, 44), 255)
    ImageDraw.Draw(image).text((6 + seed % 5, 8 + seed % 4), f"{seed:02d}", fill=0, font_size=22)
    return image.convert("RGB")


def page(seed: int) -> Image.Image:
    """Printed pages: all of them lines of grey."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (300, 400), "white")
    for line in range(20, 380, 12):
        x = 20.0
        while x < 280:
            word = rng.uniform(5, 40)
            ImageDraw.Draw(image).rectangle([x, line, min(x + word, 280), line + 6], fill=(60, 60, 60))
            x += word + 6
    return image


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 20, 3), np.uint8))


@pytest.mark.parametrize("kind", [flat, digit, page, noise, scene])
def test_different_images_are_no_finding_however_little_they_show(tmp_path: Path, kind: object) -> None:
    samples = []
    for seed in range(64):
        path = tmp_path / f"{seed}.png"
        kind(seed).save(path)  # type: ignore[operator]
        samples.append(Sample(str(path), str(seed)))
    assert look({"train": samples[::2], "test": samples[1::2]}) == []


@pytest.mark.parametrize(("amplitude", "patch"), [(120, 56), (20, 24), (6, 3)])
def test_pictures_that_differ_in_a_small_part_are_different_ones(tmp_path: Path, amplitude: int, patch: int) -> None:
    """A number on a shirt, say: all long waves are the same, and what differs is small beside the whole or faint."""
    blocks = np.random.default_rng(3).uniform(-1, 1, (8, 8)).repeat(8, 0).repeat(8, 1)  # (64, 64)
    samples = []
    for at, (row, column) in enumerate([(0, 0), (20, 20), (40, 8), (8, 44)]):
        grey = 128 + amplitude * blocks
        place = np.s_[row : row + 8, column : column + 4]
        grey[place] -= np.sign(grey[place] - 128) * patch
        Image.fromarray(np.repeat(grey[..., None], 3, 2).astype(np.uint8)).save(tmp_path / f"{at}.png")
        samples.append(Sample(f"{tmp_path}/{at}.png", "x"))
    assert look({"train": samples}) == []


def test_no_pair_that_differs_in_four_bits_or_fewer_is_missed() -> None:
    rng = np.random.default_rng(0)
    signs = rng.integers(0, 2**63, 3000, np.uint64)
    for at, flips in enumerate(range(5), start=1000):
        for bit in rng.choice(64, flips, replace=False):
            signs[at] ^= np.uint64(1 << int(bit))
        signs[at + 1000] = signs[at]
        for bit in rng.choice(64, flips, replace=False):
            signs[at + 1000] ^= np.uint64(1 << int(bit))
    places = np.arange(3000) * 2
    found = {tuple(pair) for pairs in _candidates(signs, places) for pair in pairs.tolist()}
    apart = np.bitwise_count(signs[:, None] ^ signs[None])
    near = {(2 * one, 2 * other) for one, other in np.argwhere(apart <= 4).tolist() if one < other}
    assert len(near) >= 5
    assert near <= found
    assert found <= {(2 * one, 2 * other) for one, other in np.argwhere(apart <= 7).tolist()}

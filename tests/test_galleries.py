"""Pictures of images: what stands in them, and that nothing in a name or a file can break them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import draw
from matplotlib.colors import to_hex

from clf.figures.galleries import Tile, gallery, overlaid, percent
from clf.preprocess import Preprocessing

PREPROCESSING = Preprocessing(size=(8, 8))


def shown(*tiles: Tile, preprocessing: Preprocessing = PREPROCESSING) -> Any:
    return gallery(title="Title", subtitle="Subtitle", tiles=tiles, preprocessing=preprocessing)


def words(figure: Any) -> list[str]:
    return [text.get_text().replace("\u200e", "") for text in figure.texts]


def test_an_image_s_frame_mark_and_words_say_what_was_predicted_how_sure_and_what_is_true(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", seed=1)
    path = str(tmp_path / "a.png")
    figure = shown(Tile(path, "cat", "cat", 0.973), Tile(path, "cat", "dog", 0.5, place="valid/a.png"))
    assert words(figure) == ["Title", "Subtitle", "✓ cat · 97.3 %", "is cat", "✗ dog · 50.0 %", "is cat", "valid/a.png"]
    right, wrong = (to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes)
    assert right != wrong
    assert [to_hex(figure.texts[place].get_color()) for place in (2, 4)] == [right, wrong]


def test_a_heat_map_stands_beside_its_image(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", seed=1)
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 1
    figure = shown(Tile(str(tmp_path / "a.png"), "cat", "dog", 0.5, heat=heat))
    image, map_ = (axes.get_position() for axes in figure.axes)
    assert (map_.y0, map_.height) == pytest.approx((image.y0, image.height))
    assert map_.x0 > image.x1
    assert np.array_equal(figure.axes[1].images[0].get_array(), overlaid(figure.axes[0].images[0].get_array(), heat))


def test_an_overlay_is_grey_where_there_is_no_heat_and_coloured_where_it_is() -> None:
    pixels = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    heat = np.zeros((2, 2))
    heat[0, 1] = 1  # above, to the right
    picture = overlaid(pixels, heat).astype(int)
    spread = picture.max(axis=2) - picture.min(axis=2)
    assert picture.shape == (8, 8, 3)
    assert spread[0, 7] > 50
    assert spread[7, 0] == spread[0, 0] == spread[7, 7] == 0
    assert np.ptp(overlaid(pixels, np.zeros((3, 5)))) == 0


@pytest.mark.parametrize(
    "name",
    [
        "$x_1$ and $",
        "<script>alert(1)</script>",
        "😀",
        "شجرة",
        "a/b",
        'the "best"',
        "two\nlines",
        "\x1b[31m",
        "",
        "n" * 999,
    ],
)
def test_no_name_breaks_the_picture(tmp_path: Path, name: str) -> None:
    draw(tmp_path / "a.png", seed=1)
    figure = shown(Tile(str(tmp_path / "a.png"), name, name, 0.5, place=name), *[Tile("", "a", name, 0.5)] * 3)
    figure.savefig(tmp_path / "picture.png")
    assert all(len(line) < 80 and "\n" not in line for line in words(figure))


def test_an_image_that_is_gone_leaves_its_place_and_its_words() -> None:
    figure = shown(Tile("gone.png", "cat", "dog", 0.5))
    assert np.ptp(figure.axes[0].images[0].get_array()) == 0
    assert "✗ dog · 50.0 %" in words(figure)


def test_where_the_network_gave_no_number_nothing_is_predicted_and_nothing_right() -> None:
    assert words(shown(Tile("gone.png", "cat", None, math.nan)))[2:] == ["✗ no prediction", "is cat"]


@pytest.mark.parametrize("count", [0, 1, 5, 17, 40])
@pytest.mark.parametrize("size", [(8, 8), (8, 64), (64, 8)])
def test_images_and_words_lie_inside_the_picture_and_apart(count: int, size: tuple[int, int]) -> None:
    heat = np.ones((1, 1))
    figure = shown(*[Tile("", "a", "b", 0.5, "p", heat)] * count, preprocessing=Preprocessing(size=size))
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert all(0 <= text.get_position()[1] <= 1 for text in figure.texts)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert len(boxes) == 2 * count
    width, height = figure.get_size_inches()
    assert all(box.width * width / (box.height * height) == pytest.approx(size[1] / size[0]) for box in boxes)


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50.0 %"), (0.9994, "99.9 %"), (0.99951, "> 99.9 %"), (1.0, "100.0 %"), (0.0, "0.0 %")]
)
def test_only_certainty_is_a_hundred_percent(share: float, text: str) -> None:
    assert percent(share) == text

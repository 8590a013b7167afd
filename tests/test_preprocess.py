"""Evaluation sees, pixel for pixel, what timm's own transform would see, and the sidecar rebuilds it."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import get_pretrained_cfg

from clf.errors import UserError
from clf.preprocess import Preprocessing, evaluation_array, evaluation_pixels

SIZES = [(1, 1), (3, 2), (30, 40), (49, 98), (223, 225), (224, 224), (256, 255), (500, 375), (5000, 40), (40, 5000)]


def noise(width: int, height: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pretrained_cfg(arch: str) -> dict[str, Any]:
    cfg = get_pretrained_cfg(arch)
    assert cfg is not None
    return asdict(cfg)


def timm_config(cfg: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return dict(resolve_data_config(arguments, pretrained_cfg=cfg))  # type: ignore[no-untyped-call]


def test_preprocessing_starts_without_torch() -> None:
    check = "import sys, clf.preprocess; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("image_size", [None, (96, 160), (33, 31)])
@pytest.mark.parametrize("crop_mode", [None, "squash", "border"])
@pytest.mark.parametrize("arch", ["resnet18", "tf_efficientnet_lite0", "vit_small_patch16_224", "convnext_nano"])
def test_evaluation_equals_timm_for_every_crop_mode_and_size(arch: str, crop_mode: Any, image_size: Any) -> None:
    cfg = pretrained_cfg(arch)
    preprocessing = Preprocessing.from_pretrained_cfg(cfg, image_size=image_size, crop_mode=crop_mode)
    config = timm_config(cfg, crop_mode=crop_mode, input_size=(3, *preprocessing.size))
    uint8, normalised = (create_transform(**config, is_training=False, normalize=flag) for flag in (False, True))
    for index, (width, height) in enumerate(SIZES):
        if crop_mode == "border" and min(width, height) / max(width, height) * min(preprocessing.resized) < 1:
            continue  # timm fails here; see the test below.
        image = Image.fromarray(noise(width, height, seed=index))
        expected = uint8(image).permute(1, 2, 0).numpy()
        assert np.array_equal(evaluation_pixels(image, preprocessing), expected), (width, height)
        array = evaluation_array(image, preprocessing)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_allclose(array, normalised(image).numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("crop_pct", [0.5, 0.71, 1.0, 1.15])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_evaluation_equals_timm_for_every_crop_and_filter(crop_pct: float, interpolation: Any) -> None:
    preprocessing = Preprocessing((48, 48), crop_pct=crop_pct, interpolation=interpolation)
    transform = create_transform((3, 48, 48), crop_pct=crop_pct, interpolation=interpolation, normalize=False)
    for width, height in SIZES[:5]:
        image = Image.fromarray(noise(width, height))
        assert np.array_equal(evaluation_pixels(image, preprocessing), transform(image).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(1, 5_000_000), (5_000_000, 1), (1, 1)])
def test_images_as_thin_as_a_line_need_no_terabyte(size: tuple[int, int], crop_mode: Any) -> None:
    image = Image.new("RGB", size, (50, 60, 70))
    pixels = evaluation_pixels(image, Preprocessing((224, 224), crop_mode=crop_mode))
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (50, 60, 70)).all(axis=2).any()


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("filter_", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resizing_only_the_crop_gives_the_same_image(crop_mode: Any, filter_: Any, monkeypatch: Any) -> None:
    image = Image.fromarray(noise(9, 700) // 2 + 64)  # What sharp filters overshoot is not cut off.
    preprocessing = Preprocessing((64, 64), crop_pct=0.8, crop_mode=crop_mode, interpolation=filter_)
    whole = evaluation_pixels(image, preprocessing).astype(int)
    monkeypatch.setattr("clf.preprocess._MAX_RESIZED_PIXELS", 0)
    assert np.abs(evaluation_pixels(image, preprocessing) - whole).max() <= 2


@pytest.mark.parametrize(
    "change",
    [
        {"size": (32, 48)},
        {"crop_pct": 0.5},
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"interpolation": "bilinear"},
        {"mean": (0.1, 0.456, 0.406)},
        {"std": (0.229, 0.3, 0.225)},
    ],
)
def test_every_setting_changes_what_the_network_sees(change: dict[str, Any]) -> None:
    image = Image.fromarray(noise(50, 40))
    usual = evaluation_array(image, Preprocessing((32, 32)))
    changed = evaluation_array(image, Preprocessing(**{"size": (32, 32)} | change))
    assert changed.shape != usual.shape or not np.allclose(changed, usual, atol=1e-3)


def test_arguments_win_over_the_pretrained_cfg_and_it_over_timms_defaults() -> None:
    cfg = pretrained_cfg("vit_small_patch16_224")
    given: dict[str, Any] = {"crop_pct": 0.7, "crop_mode": "squash", "interpolation": "nearest"}
    given |= {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    assert Preprocessing.from_pretrained_cfg(cfg, image_size=(40, 50), **given) == Preprocessing((40, 50), **given)
    assert Preprocessing.from_pretrained_cfg(cfg).mean == cfg["mean"] == (0.5, 0.5, 0.5)
    defaults = timm_config({"mean": None})
    built = Preprocessing.from_pretrained_cfg({"crop_pct": None})
    assert {"input_size": (3, *built.size)} | {key: getattr(built, key) for key in given} == defaults


@given(
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    crop_pct=st.floats(0.01, 1),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(["bilinear", "lanczos"]),
    mean=st.tuples(*[st.floats(-1, 2)] * 3),
    std=st.tuples(*[st.floats(1e-3, 5)] * 3),
)
def test_labels_mapping_json_rebuilds_the_preprocessing_exactly(**values: Any) -> None:
    preprocessing = Preprocessing(**values)
    written = json.dumps({"num_classes": 2, **preprocessing.to_dict()})
    assert Preprocessing.from_dict(json.loads(written)) == preprocessing


def test_the_sidecar_spells_out_what_other_languages_need() -> None:
    blocks = Preprocessing((224, 256), crop_pct=0.875, crop_mode="border").to_dict()
    assert blocks["input"] == {
        "size": [224, 256],
        "resize": {"size": [256, 292], "fit": "contain"},
        "crop": {"mode": "border", "pct": 0.875},
        "interpolation": "bicubic",
        "color": "RGB",
    }
    assert blocks["normalization"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_an_edited_or_incomplete_sidecar_is_refused() -> None:
    edited = Preprocessing((32, 32)).to_dict()
    edited["input"]["resize"]["size"] = [40, 40]
    with pytest.raises(UserError, match="contradicts itself"):
        Preprocessing.from_dict(edited)
    for missing in ("size", "crop", "interpolation"):
        incomplete = Preprocessing((32, 32)).to_dict()
        del incomplete["input"][missing]
        with pytest.raises(UserError, match=f"not fully described .*{missing}"):
            Preprocessing.from_dict(incomplete)
    with pytest.raises(UserError, match="normalization"):
        Preprocessing.from_dict({"input": edited["input"]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (0, 32)}, r"image_size=\(0, 32\) must be 2 whole numbers above 0"),
        ({"size": (32.5, 32)}, "image_size"),
        ({"size": (3, 32, 32)}, "image_size"),
        ({"crop_pct": 0}, r"crop_pct=0 must be a number above 0"),
        ({"crop_pct": float("nan")}, "crop_pct=nan"),
        ({"crop_pct": 50.0}, "image_size / crop_pct"),
        ({"mean": (0.5, 0.5)}, r"mean=\(0.5, 0.5\) must be 3 numbers"),
        ({"std": (0.5, 0, 0.5)}, r"std=.* must be 3 numbers above 0"),
        ({"crop_mode": "centre"}, "crop_mode='centre' .* did you mean 'center'"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocessing(**{"size": (32, 32)} | values)


def test_a_network_for_other_than_three_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"input_size=\(1, 28, 28\)"):
        Preprocessing.from_pretrained_cfg({"input_size": (1, 28, 28)})

"""An augmented image is a function of the image and the seed, and whatever a user's list does ends well or says why."""

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from clf.errors import UserError
from clf.preprocess import Preprocessing, evaluation_array
from clf.recipes import Recipe, recipe
from clf.transforms import TrainTransform, seeded

PREPROCESSING = Preprocessing((32, 48), crop_pct=0.9)
RECIPES = get_args(Recipe)


def photo(width: int = 30, height: int = 40) -> Image.Image:
    """Return noise, with a left half that is brighter than the right."""
    pixels = np.random.default_rng(width).integers(0, 100, (height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] += 150
    return Image.fromarray(pixels)


def evaluated(image: Image.Image) -> Tensor:
    return torch.from_numpy(evaluation_array(image, PREPROCESSING))


def drawn() -> tuple[float, float, float]:
    return torch.rand(()).item(), random.random(), float(np.random.rand())


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class FromFunction(nn.Module):
    """A user's own transform."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Any) -> Any:
        return self.function(image)


def fail_in_two_lines(image: Tensor) -> Tensor:
    raise RuntimeError("what happened\nand where")


def test_seeded_draws_the_same_inside_and_leaves_the_streams_outside_alone() -> None:
    def fail() -> None:
        with seeded(5):
            np.random.randn()
            raise RuntimeError

    with seeded(1):
        undisturbed = drawn(), np.random.randn(), drawn()
    with seeded(1):
        before = drawn(), np.random.randn()  # Leaves a second normal number behind, which numpy keeps.
        with seeded(-(2**40)):
            inside = drawn()
        with pytest.raises(RuntimeError):
            fail()
        assert (*before, drawn()) == undisturbed
    with seeded(-(2**40)):
        assert drawn() == inside
    assert len({*inside, *undisturbed[0]}) == 6


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [(30, 40), (400, 300), (1, 1), (900, 3)])
def test_a_recipe_turns_any_image_into_the_networks_input(name: Recipe, size: tuple[int, int]) -> None:
    images = TrainTransform(name, preprocessing=PREPROCESSING)(photo(*size), seed=3)
    assert images.shape == (3, 32, 48)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    black, white = (evaluated(Image.new("RGB", (9, 9), colour)).amin((1, 2)) for colour in ("black", "white"))
    assert (images.amin((1, 2)) >= black).all()
    assert (images.amax((1, 2)) <= white).all()


@pytest.mark.parametrize("size", [(30, 40), (400, 300), (1, 1), (900, 3), (53, 35)])
@pytest.mark.parametrize("augment", ["none", []])
def test_without_augmentation_training_sees_exactly_what_evaluation_sees(augment: Any, size: tuple[int, int]) -> None:
    transform = TrainTransform(augment, preprocessing=PREPROCESSING)
    assert torch.equal(transform(photo(*size), seed=1), evaluated(photo(*size)))


@pytest.mark.parametrize("name", ["light", "standard"])
def test_a_sample_depends_on_its_seed_and_on_nothing_else(name: Recipe) -> None:
    transform = TrainTransform(name, preprocessing=PREPROCESSING)
    samples = []
    for state in (1, 2):
        with seeded(state):
            samples.append(transform(photo(), seed=7))
            drawn_after = drawn()
        with seeded(state):
            assert drawn() == drawn_after, "the training loop's own generators were advanced"
    assert torch.equal(*samples)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(photo(), seed=7), samples[0]), "in a spawned worker"
    assert not torch.equal(transform(photo(), seed=8), samples[0])
    assert not torch.equal(transform(photo(31, 40), seed=7), samples[0])


def test_samples_do_not_depend_on_the_number_of_threads() -> None:
    image = photo(224, 224)
    jitter = [v2.ToDtype(torch.float32, scale=True), v2.ColorJitter(0.4, 0.4)]  # Contrast needs a mean.
    transform = TrainTransform(jitter, preprocessing=Preprocessing((224, 224)))
    for seed in range(8):
        samples = []
        for count in (1, 2):
            with threads(count):
                samples.append(transform(image, seed=seed))
                assert torch.get_num_threads() == count
        assert torch.equal(*samples)


def test_light_never_mirrors_or_moves_far_and_standard_does_mirror() -> None:
    """Bright on the left stays so in a digit's crop."""
    mirrored = {}
    for name in ("light", "standard"):
        transform = TrainTransform(name, preprocessing=PREPROCESSING)
        left_right = [transform(photo(), seed=seed).mean((0, 1)) for seed in range(40)]
        mirrored[name] = sum(bool(columns[:12].mean() < columns[-12:].mean()) for columns in left_right)
    assert mirrored["light"] == 0
    assert 10 <= mirrored["standard"] <= 30


def test_light_moves_an_image_a_little_and_fills_with_the_mean_colour() -> None:
    transform = TrainTransform("light", preprocessing=PREPROCESSING)
    samples = torch.stack([transform(photo(300, 200), seed=seed) for seed in range(30)])
    edges = samples.mean((1, 2)).diff().argmin(-1)  # The column where bright turns dark.
    assert len(set(edges.tolist())) > 2
    assert (edges - 23).abs().max() <= 8
    colour = tuple(round(255 * value) for value in PREPROCESSING.mean)
    plain = torch.stack([transform(Image.new("RGB", (40, 30), colour), seed=seed) for seed in range(30)])
    assert (plain.amax((2, 3)) - plain.amin((2, 3))).max() < 0.05, "corners differ"


@pytest.mark.parametrize(("name", "least"), [("light", 0.06), ("standard", 0.12)])
def test_recipes_change_brightness_contrast_and_saturation(name: Recipe, least: float) -> None:
    grey = np.random.default_rng(0).integers(
        90, 160, (300, 300, 3), dtype=np.uint8
    )  # Room for changes without clipping.
    transform = TrainTransform(name, preprocessing=Preprocessing((48, 48), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    samples = torch.stack([transform(Image.fromarray(grey), seed=seed)[:, 8:-8, 8:-8] for seed in range(60)])
    brightness = samples.mean((1, 2, 3))
    contrast = samples.sum(1).std((1, 2)) / brightness
    saturation = (samples[:, 0] - samples[:, 2]).std((1, 2)) / samples.sum(1).std((1, 2))
    for quantity in (brightness, contrast, saturation):
        assert quantity.std() / quantity.mean() > least


def test_the_training_crop_shows_at_least_a_third_of_the_image() -> None:
    across, down = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="xy")
    _, crop, *_ = recipe("standard", preprocessing=Preprocessing((200, 200)))
    shares = []
    for seed in range(60):
        with seeded(seed):
            part = crop(torch.stack([across, down, down]).to(torch.uint8))
        extent = part.amax((1, 2)).int() - part.amin((1, 2)).int()
        shares.append(float(extent[0] * extent[1]) / 200**2)
    assert min(shares) > 0.3
    assert min(shares) < 0.5 < 0.8 < max(shares)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_every_filter_of_evaluation_can_be_trained_with(interpolation: Any) -> None:
    preprocessing = Preprocessing((16, 16), interpolation=interpolation)
    for name in RECIPES:
        assert TrainTransform(name, preprocessing=preprocessing)(photo(), seed=0).isfinite().all()


def test_the_training_crop_resizes_with_evaluations_filter() -> None:
    """Nearest invents no colours."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 2, (9, 9, 3), dtype=np.uint8) * 255)
    _, crop, *_ = recipe("standard", preprocessing=Preprocessing((32, 32), interpolation="nearest"))
    assert crop(v2.functional.pil_to_tensor(image)).unique().tolist() == [0, 255]
    _, crop, *_ = recipe("standard", preprocessing=Preprocessing((32, 32), interpolation="bicubic"))
    assert len(crop(v2.functional.pil_to_tensor(image)).unique()) > 2


@pytest.mark.parametrize(
    "transforms",
    [
        [v2.Identity()],
        [v2.ToPILImage()],
        [v2.ToPILImage(), v2.RandomAdjustSharpness(1.0, p=1.0), v2.PILToTensor()],
        [v2.ToImage()],
        [v2.ToDtype(torch.float32, scale=True)],
        [v2.ToDtype(torch.float64, scale=True), v2.ToDtype(torch.uint8, scale=True)],
        [v2.Compose([v2.ToPILImage(), v2.ToImage()])],
        [FromFunction(lambda image: image.to(torch.float32) / 255 * nn.Parameter(torch.ones(())))],
    ],
    ids=str,
)
def test_a_list_may_change_the_form_of_an_image_without_changing_the_image(transforms: list[nn.Module]) -> None:
    transform = TrainTransform(transforms, preprocessing=PREPROCESSING)
    sized = TrainTransform([v2.CenterCrop((32, 48)), *transforms], preprocessing=PREPROCESSING)
    for sample in (transform(photo(), seed=0), sized(photo(48, 32), seed=0)):
        assert type(sample) is Tensor
        assert sample.dtype == torch.float32
        assert not sample.requires_grad
    assert torch.equal(transform(photo(), seed=0), evaluated(photo()))
    cropped = TrainTransform([v2.CenterCrop((32, 48))], preprocessing=PREPROCESSING)(photo(48, 32), seed=0)
    torch.testing.assert_close(sized(photo(48, 32), seed=0), cropped, rtol=0, atol=1e-6)


def test_what_a_list_leaves_at_the_networks_size_is_only_normalised() -> None:
    sample = TrainTransform([v2.CenterCrop((32, 48))], preprocessing=PREPROCESSING)(photo(100, 90), seed=0)
    expected = np.array(photo(100, 90).crop((26, 29, 74, 61)), np.float32).transpose(2, 0, 1) / 255
    expected = (expected - np.reshape(PREPROCESSING.mean, (3, 1, 1))) / np.reshape(PREPROCESSING.std, (3, 1, 1))
    np.testing.assert_allclose(sample.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grey", [v2.Grayscale(1), v2.Compose([v2.ToPILImage(), v2.Grayscale(1)])], ids=str)
def test_a_list_may_return_grey(grey: nn.Module) -> None:
    sample = TrainTransform([grey], preprocessing=PREPROCESSING)(photo(), seed=0)
    levels = sample * torch.tensor(PREPROCESSING.std)[:, None, None] + torch.tensor(PREPROCESSING.mean)[:, None, None]
    torch.testing.assert_close(levels[0], levels[1])
    torch.testing.assert_close(levels[0], levels[2])


def test_floats_a_little_out_of_range_are_clamped_like_any_image() -> None:
    noise = [v2.ToDtype(torch.float32, scale=True), FromFunction(lambda image: image * 1.5 - 0.25)]
    transform = TrainTransform(noise, preprocessing=PREPROCESSING)
    black, white = (evaluated(Image.new("RGB", (9, 9), colour)).amin((1, 2)) for colour in ("black", "white"))
    for size in ((48, 32), (480, 320)):
        dark, bright = (transform(Image.new("RGB", size, colour), seed=0) for colour in ("black", "white"))
        assert torch.equal(dark.amax((1, 2)), black)
        assert torch.equal(bright.amin((1, 2)), white)


def test_a_tensor_that_a_transform_keeps_is_not_written_to() -> None:
    kept = torch.rand(3, 32, 48)
    transform = TrainTransform([FromFunction(lambda _: kept)], preprocessing=PREPROCESSING)
    before = kept.clone()
    transform(photo(), seed=0)
    assert torch.equal(kept, before)


@pytest.mark.parametrize("draw", [torch.rand, lambda _: random.random(), lambda _: np.random.rand()])
def test_transforms_of_ones_own_are_seeded_whatever_they_draw_from(draw: Callable[[int], Any]) -> None:
    jitter = FromFunction(lambda image: (image * float(draw(1))).to(torch.uint8))
    transform = TrainTransform([jitter], preprocessing=PREPROCESSING)
    assert torch.equal(transform(photo(), seed=1), transform(photo(), seed=1))
    assert not torch.equal(transform(photo(), seed=1), transform(photo(), seed=2))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([v2.Normalize([0.5], [0.5])], r"data.augment\[0\] \(Normalize\) normalises.*remove Normalize"),
        ([v2.Identity(), v2.Compose([v2.Normalize([0.5], [0.5])])], r"data.augment\[1\] \(Compose\) normalises"),
        (["RandomErasing"], r"data.augment\[0\].*'RandomErasing' is no transform"),
    ],
)
def test_a_list_that_cannot_work_is_refused_before_training(transforms: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainTransform(transforms, preprocessing=PREPROCESSING)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([v2.RandomCrop(64)], r"data.augment\[0\] \(RandomCrop\) failed on .*\(3, 40, 30\).*larger than input"),
        ([v2.Identity(), v2.CutMix(num_classes=3)], r"data.augment\[1\] \(CutMix\) failed"),
        ([v2.FiveCrop(8)], r"data.augment\[0\] \(FiveCrop\) returned an object of type tuple; expected one image"),
        ([v2.ToDtype(torch.float32), v2.Identity()], r"data.augment\[0\] \(ToDtype\) returned .* to \d+; .*scale=True"),
        ([v2.ToDtype(torch.int64)], r"data.augment\[0\] \(ToDtype\) returned a int64 tensor.*expected uint8"),
        ([FromFunction(lambda image: None)], r"data.augment\[0\] \(FromFunction\) returned an object of type NoneType"),
        ([FromFunction(lambda image: image[None])], r"returned a uint8 tensor of shape \(1, 3, 40, 30\)"),
        ([FromFunction(lambda image: image[:2])], r"shape \(2, 40, 30\)"),
        ([FromFunction(lambda image: image[:, :0])], r"shape \(3, 0, 30\)"),
        ([FromFunction(lambda image: image * float("nan"))], "from nan to nan"),
        ([v2.ToPILImage(), FromFunction(lambda image: image.convert("CMYK"))], r"\[1\] .*mode CMYK; expected"),
        ([FromFunction(fail_in_two_lines)], r"\(FromFunction\) failed on .*: what happened$"),
    ],
)
def test_a_transform_that_returns_no_image_is_named_with_what_it_did(transforms: list[nn.Module], message: str) -> None:
    transform = TrainTransform(transforms, preprocessing=PREPROCESSING)
    with pytest.raises(UserError, match=message) as caught:
        transform(photo(), seed=0)
    assert "\n" not in str(caught.value)


def test_a_misspelt_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"data.augment='standart' is no recipe.*did you mean 'standard'"):
        TrainTransform("standart", preprocessing=PREPROCESSING)  # type: ignore[arg-type]

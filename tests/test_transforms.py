"""An augmented image is a function of the image and the seed, and whatever a user's list does ends well or says why."""

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
import torch
from datasets import photo
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from clf.errors import UserError
from clf.preprocess import Preprocessing, evaluation_array, evaluation_pixels
from clf.recipes import Recipe
from clf.transforms import TrainTransform, normalised, seeded

PREPROCESSING = Preprocessing((32, 48), crop_pct=0.9)
RECIPES = get_args(Recipe)


def evaluated(image: Image.Image) -> Tensor:
    return torch.from_numpy(evaluation_pixels(image, PREPROCESSING)).permute(2, 0, 1)


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


@pytest.mark.parametrize("size", [(30, 40), (400, 300), (1, 1), (900, 3), (53, 35)])
@pytest.mark.parametrize("augment", ["none", []])
def test_without_augmentation_training_sees_exactly_what_evaluation_sees(augment: Any, size: tuple[int, int]) -> None:
    transform = TrainTransform(augment, preprocessing=PREPROCESSING)
    pixels = transform(photo(*size), seed=1)
    assert torch.equal(pixels, evaluated(photo(*size)))
    exactly = torch.from_numpy(evaluation_array(photo(*size), PREPROCESSING))
    assert torch.equal(normalised(pixels[None], PREPROCESSING), exactly[None])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_batch_is_normalised_to_the_last_bit_however_it_lies_in_memory(layout: torch.memory_format) -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1).contiguous()
    odd = Preprocessing((16, 16), mean=(0.1, 0.55, 0.9), std=(0.3, 1.7, 0.01))
    mean, std = (torch.tensor(each)[:, None, None] for each in (odd.mean, odd.std))
    found = normalised(values.contiguous(memory_format=layout), odd)
    assert torch.equal(found, (values.float() / 255 - mean) / std)
    assert found.is_contiguous(memory_format=layout)
    assert found.dtype == torch.float32
    assert normalised(values[:0].contiguous(memory_format=layout), odd).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "none"])
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
        assert sample.dtype == torch.uint8
        assert not sample.requires_grad
    assert torch.equal(transform(photo(), seed=0), evaluated(photo()))
    cropped = TrainTransform([v2.CenterCrop((32, 48))], preprocessing=PREPROCESSING)(photo(48, 32), seed=0)
    assert torch.equal(sized(photo(48, 32), seed=0), cropped)


def test_what_a_list_leaves_at_the_networks_size_stays_as_it_is() -> None:
    sample = TrainTransform([v2.CenterCrop((32, 48))], preprocessing=PREPROCESSING)(photo(100, 90), seed=0)
    assert np.array_equal(sample.permute(1, 2, 0), np.asarray(photo(100, 90).crop((26, 29, 74, 61))))


@pytest.mark.parametrize("grey", [v2.Grayscale(1), v2.Compose([v2.ToPILImage(), v2.Grayscale(1)])], ids=str)
def test_a_list_may_return_grey(grey: nn.Module) -> None:
    sample = TrainTransform([grey], preprocessing=PREPROCESSING)(photo(), seed=0)
    assert torch.equal(sample[0], sample[1])
    assert torch.equal(sample[0], sample[2])


def test_floats_a_little_out_of_range_are_clamped_like_any_image() -> None:
    noise = [v2.ToDtype(torch.float32, scale=True), FromFunction(lambda image: image * 1.5 - 0.25)]
    transform = TrainTransform(noise, preprocessing=PREPROCESSING)
    for size in ((48, 32), (480, 320)):
        dark, bright = (transform(Image.new("RGB", size, colour), seed=0) for colour in ("black", "white"))
        assert (dark.max().item(), bright.min().item()) == (0, 255)


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

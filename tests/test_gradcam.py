"""Where a network looks: against a count by hand, for the families of networks, and leaving no trace."""

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from clf.gradcam import NoFeatureMap, heat_maps


class Pooled(nn.Module):
    """A convolution, its mean over the image, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.convolution(images).mean((2, 3)))
        return logits


class ChannelsLast(Pooled):
    """The same, with features as (N, h, w, C), as timm's networks of this kind say it."""

    num_features, output_fmt = 4, "NHWC"

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.convolution(images).permute(0, 2, 3, 1)
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.forward_features(images).mean((1, 2)))
        return logits


def made(kind: type[Pooled] = Pooled) -> Pooled:
    torch.manual_seed(0)
    return kind()


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = [0, 1, 1]


def test_a_map_is_the_features_weighed_by_what_they_do_for_the_class() -> None:
    network = made()
    features = network.convolution(IMAGES).detach()  # (N, 4, 6, 6)
    weights = network.head.weight.detach()[CLASSES]  # what a mean has for gradient, times h · w
    expected = (weights[:, :, None, None] * features).sum(1).relu()
    expected /= expected.amax((1, 2), keepdim=True)
    assert heat_maps(network, IMAGES, CLASSES) == pytest.approx(expected.numpy(), abs=1e-6)


def test_channels_last_features_give_the_same_map() -> None:
    network = made(ChannelsLast)
    assert heat_maps(network, IMAGES, CLASSES) == pytest.approx(heat_maps(made(), IMAGES, CLASSES), abs=1e-6)


def test_many_images_give_what_each_gives_alone() -> None:
    images = torch.cat([IMAGES] * 4)
    assert heat_maps(made(), images, CLASSES * 4) == pytest.approx(
        np.tile(heat_maps(made(), IMAGES, CLASSES), (4, 1, 1)), abs=1e-6
    )


def test_weights_of_another_moment_can_be_asked() -> None:
    network, other = made(), made()
    nn.init.normal_(other.head.weight)
    asked = heat_maps(network, IMAGES, CLASSES, weights=other.state_dict())
    assert asked == pytest.approx(heat_maps(other, IMAGES, CLASSES))
    assert np.abs(asked - heat_maps(network, IMAGES, CLASSES)).max() > 0.1


@pytest.mark.parametrize(
    "arch",
    ["test_resnet", "test_efficientnet", "test_convnext", "test_maxvit", "test_byobnet", "test_nfnet", "test_mambaout"],
)
def test_timm_s_convolutional_networks_have_maps(arch: str) -> None:
    torch.manual_seed(1)
    network: Any = timm.create_model(arch, num_classes=5)
    sizes = {160: 10} if arch == "test_maxvit" else {192: 6, 160: 10, 64: 8}  # its windows fit no other size
    for size, points in sizes.items():
        heat = heat_maps(network, torch.randn(2, 3, size, size), [1, 4])
        assert heat.shape == (2, points, points)
        assert heat.min() >= 0
        assert set(heat.max(axis=(1, 2))) <= {0.0, 1.0}


def test_of_small_images_an_earlier_stage_is_weighed_by_its_mean_gradient() -> None:
    torch.manual_seed(1)
    network: Any = timm.create_model("test_resnet", num_classes=5).eval()
    images, named = torch.randn(2, 3, 96, 96), [1, 4]
    features = network.layer3(
        network.layer2(network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(images))))))
    )
    features.retain_grad()
    logits = network.forward_head(network.layer4(features))
    logits[[0, 1], named].sum().backward()
    expected = (features.grad.mean((2, 3), keepdim=True) * features).sum(1).relu().detach()
    expected /= expected.amax((1, 2), keepdim=True).clamp_min(1e-12)
    assert expected.max() == 1
    heat = heat_maps(network, images, named)
    assert heat.shape == (2, 6, 6)
    assert heat == pytest.approx(expected.numpy(), abs=1e-4)


def test_of_timm_s_networks_it_is_what_goes_into_the_head() -> None:
    torch.manual_seed(1)
    network: Any = timm.create_model("test_efficientnet", num_classes=5).eval()
    images = torch.randn(2, 3, 192, 192)
    features = network.forward_features(images).detach()  # (N, C, 6, 6); the head pools them
    expected = (network.classifier.weight.detach()[[1, 4], :, None, None] * features).sum(1).relu()
    expected /= expected.amax((1, 2), keepdim=True)
    assert heat_maps(network, images, [1, 4]) == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize("arch", ["test_vit", "test_vit_relpos"])
def test_tokens_are_no_map(arch: str) -> None:
    network: Any = timm.create_model(arch, num_classes=5)
    with pytest.raises(NoFeatureMap, match=r"its features are 10\d x \d+ for an image, and no map"):
        heat_maps(network, torch.randn(1, 3, 160, 160), [0])


def test_a_single_point_is_no_map() -> None:
    with pytest.raises(NoFeatureMap, match="larger images"):
        heat_maps(made(), IMAGES[..., :3, :3], CLASSES)


def test_a_network_without_a_convolution_has_no_map() -> None:
    with pytest.raises(NoFeatureMap, match="no convolution"):
        heat_maps(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), IMAGES, CLASSES)


def test_a_network_that_sees_nothing_has_a_map_of_zeros() -> None:
    network = made()
    nn.init.zeros_(network.head.weight)
    assert np.array_equal(heat_maps(network, IMAGES, CLASSES), np.zeros((3, 6, 6)))


def refuse(*_: Any) -> Any:
    raise AssertionError("compiled after all")


def test_the_network_and_the_world_are_left_as_they_were() -> None:
    network: Any = timm.create_model("test_resnet", num_classes=5, drop_rate=0.5).to(memory_format=torch.channels_last)
    network.train()
    network.bn1.eval()
    network.conv1.requires_grad_(False)
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    network.compile(backend=refuse)

    def state() -> Any:
        tensors = {name: (copy.deepcopy(t.detach()), t.stride(), t.requires_grad) for name, t in named()}
        modes = [module.training for module in network.modules()]
        hooks = [len(module._forward_hooks) for module in network.modules()]
        flags = (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), vars(network).keys())
        return tensors, modes, hooks, flags, network.fc.weight.grad.sum(), torch.get_rng_state()

    def named() -> list[tuple[str, Tensor]]:
        return [*network.named_parameters(), *network.named_buffers()]

    before = state()
    heat_maps(network, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), [0, 1])
    after = state()
    assert before[0].keys() == after[0].keys()
    for name, (tensor, *rest) in before[0].items():
        assert torch.equal(tensor, after[0][name][0])
        assert rest == list(after[0][name][1:])
    assert before[1:5] == after[1:5]
    assert torch.equal(before[5], after[5])


def test_dropout_plays_no_part_and_a_frozen_network_can_be_asked() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network.requires_grad_(False)
    first, second = (heat_maps(network.train(), IMAGES, CLASSES) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(first, heat_maps(network.eval(), IMAGES, CLASSES))


def test_a_test_s_inference_mode_autocast_and_half_weights_do_not_matter() -> None:
    network = made()
    expected = heat_maps(network, IMAGES, CLASSES)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(heat_maps(network, IMAGES, CLASSES), expected)
    with torch.inference_mode():
        assert np.array_equal(heat_maps(network, IMAGES + 0, CLASSES), expected), "images of a test are made in it"
    half = heat_maps(made().bfloat16(), IMAGES.bfloat16(), CLASSES)
    assert half.dtype == np.float32
    assert half == pytest.approx(expected, abs=0.1)


def test_a_run_that_must_be_deterministic_stays_so() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        heat_maps(made(), IMAGES, CLASSES)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)

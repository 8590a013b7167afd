"""Where a network saw the class that it named: Grad-CAM, on a copy of the network that nobody else sees."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_IMAGES_AT_ONCE = 8
_FINE_ENOUGH = 6
"""Points that a map needs along its shorter side. Of fewer (a last map has 7 at 224 pixels, 4 at 112), each sees all of
the image, and says more about its own place than about the image."""


class NoFeatureMap(ValueError):
    """Raised where a network has no features that form a map over the image; the message says what it has."""


def heat_maps(
    network: nn.Module,
    images: Tensor,
    classes: Sequence[int],
    *,
    weights: Mapping[str, Tensor] | None = None,
    device: torch.device | None = None,
) -> NDArray[Any]:
    """Weigh the deepest feature map that is fine enough by what it did for a class, image by image.

    Of timm's networks that is what goes into the head, or for small images what an earlier stage gives; of others it is
    what the last convolution gives. The network itself is left as it is, in every respect: a copy works, in full
    precision, in evaluation mode and not compiled.

    Args:
        network: Maps images (N, 3, H, W) to logits (N, C).
        images: The network's input, float (N, 3, H, W).
        classes: The class that is asked about, for each image.
        weights: The network's ``state_dict`` of another moment, e.g. of the best epoch.
        device: Where to work; default: where the network is.
    Returns:
        float32 (N, h, w), as coarse as the features, at least 0; the highest value of each map is 1, or all of it is 0.
    Raises:
        NoFeatureMap: If the features are no such map, as the tokens of a vision transformer.
    Source: Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391, in captum's implementation.
    """
    from captum.attr import LayerGradCam

    parameter = next(network.parameters(), None)
    device = device or (torch.device("cpu") if parameter is None else parameter.device)
    with _apart(device):
        twin = copy.deepcopy(network)
        if weights is not None:
            twin.load_state_dict(weights)
        twin = twin.to(device).float().eval()
        explainer = LayerGradCam(twin, _watch(twin, side=min(images.shape[2:])))
        maps = []
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            chunk = slice(start, start + _IMAGES_AT_ONCE)
            targets = torch.tensor(classes[chunk], device=device)
            inputs = images[chunk].clone().to(device).float()  # a test's images let no gradient through
            maps.append(explainer.attribute(inputs, targets, relu_attributions=True).detach().cpu())  # (n, 1, h, w)
        heat = torch.cat(maps)[:, 0].nan_to_num()  # (N, h, w)
        highest = heat.amax(dim=(1, 2), keepdim=True)
        return (heat / highest.where(highest > 0, torch.ones(()))).numpy()


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    """Let gradients flow in full precision, also inside of a test, and give the random state back as it was."""
    gpus = [device] if device.type == "cuda" else []
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(gpus),
    ):
        # Some gradients have no deterministic form on a GPU; a picture can do without.
        torch.use_deterministic_algorithms(False)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)


def _watch(network: Any, *, side: int) -> "_ChannelsFirst":
    """Make what goes through a network pass the module that Grad-CAM looks at; `side` is the image's shorter one."""
    nhwc = str(getattr(network, "output_fmt", "")).endswith("NHWC")
    stages = [stage for stage in getattr(network, "feature_info", []) if isinstance(stage, dict)]
    fine = [stage for stage in stages if side / stage["reduction"] >= _FINE_ENOUGH]
    if fine and fine[-1] is not stages[-1]:
        view = _ChannelsFirst(fine[-1]["num_chs"], last=nhwc)
        module = network.get_submodule(fine[-1]["module"])
        module.register_forward_hook(lambda _layer, _inputs, output: view.pass_by(output))
        return view
    if hasattr(network, "forward_features") and hasattr(network, "num_features"):  # as all of timm's have
        view = _ChannelsFirst(network.num_features, last=nhwc)
        features = network.forward_features
        network.forward_features = lambda *inputs, **options: view.pass_by(features(*inputs, **options))
        return view
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise NoFeatureMap("it has no convolution")
    view = _ChannelsFirst(convolutions[-1].out_channels, last=False)
    convolutions[-1].register_forward_hook(lambda _layer, _inputs, output: view.pass_by(output))
    return view


class _ChannelsFirst(nn.Module):
    """What Grad-CAM looks at: features as (N, C, h, w), however the network lays them out.

    Args:
        channels: C.
        last: Whether the network says that it has its channels last.
    """

    def __init__(self, channels: int, *, last: bool) -> None:
        super().__init__()
        self._channels = channels
        self._last = last

    def forward(self, output: Any) -> Tensor:
        """Put the channels first."""
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else type(output).__name__
            raise NoFeatureMap(f"its features are {shape} for an image, and no map")
        self._last = output.shape[-1] == self._channels and (self._last or output.shape[1] != self._channels)
        features = output.permute(0, 3, 1, 2) if self._last else output
        if features.shape[2] * features.shape[3] == 1:
            raise NoFeatureMap("its last feature map is a single point; larger images have more")
        return features

    def pass_by(self, output: Any) -> Tensor:
        """Show Grad-CAM the features, and give them back, laid out as before."""
        features: Tensor = self(output)
        return features.permute(0, 2, 3, 1) if self._last else features

"""Which parameters are trained, and how fast: weight decay, layer-wise learning rates, a frozen backbone."""

from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, Optimizer

from clf.errors import UserError

_FUSED: Final = (Adam, SGD)  # AdamW is one of the first. Their kernels exist for CPUs and CUDA, and are as exact.


@runtime_checkable
class HasLayers(Protocol):
    """A network that can say which parameters form a layer, as timm's do."""

    def group_matcher(self, coarse: bool = False) -> Any:
        """Map the names of parameters to layers."""


@runtime_checkable
class SparesParameters(Protocol):
    """A network that names parameters which weight decay would harm, as timm's do."""

    def no_weight_decay(self) -> Any:
        """Name them."""


@runtime_checkable
class HasHead(Protocol):
    """A network that can say what its head is, as timm's do."""

    def get_classifier(self) -> Any:
        """Return the module, or modules, that map features to logits."""


def build_optimizer(
    make: Callable[[list[dict[str, Any]]], Optimizer], module: nn.Module, network: nn.Module, *, layer_decay: float
) -> Optimizer:
    """Build the optimizer of a module over its parameter groups, each with its own rate.

    Args:
        make: Builds it over groups that leave open what is the same for all.
        module: What is trained; a loss may have parameters, too.
        network: The part of it that has layers.
        layer_decay: See `layer_groups`; 1 gives all layers the same rate.
    Raises:
        UserError: If the optimizer chooses its rate itself, or the network cannot be split into layers.
    """
    groups = parameter_groups(module) if layer_decay == 1 else layer_groups(module, network, layer_decay=layer_decay)
    optimizer = make(groups)
    for group in optimizer.param_groups:
        if group["lr"] is None:
            name = type(optimizer).__name__
            raise UserError(f"model.optimizer={name} has no rate that could be scheduled; set model.optimizer.lr")
        group["lr"] *= group.get("lr_scale", 1.0)
    _fuse(optimizer)
    return optimizer


def _fuse(optimizer: Optimizer) -> None:
    """Have a step update all parameters in one kernel, unless the configuration has said how it is done.

    torch takes the loop over single tensors on CPUs, and several kernels on GPUs. Set here and not given to the
    optimizer, which would then scale gradients itself, and Lightning could not clip them in 16-mixed.
    """
    if not isinstance(optimizer, _FUSED):
        return
    for group in optimizer.param_groups:
        undecided = group["fused"] is None and group["foreach"] is None and not group["differentiable"]
        if undecided and all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in group["params"]):
            group["fused"] = True


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split trainable parameters by whether weight decay may act on them.

    Biases and the scales of normalisation layers (all parameters with fewer than two dimensions) are not decayed,
    nor is what a network's ``no_weight_decay()`` names, as timm's do: tokens and position embeddings.

    Args:
        module: Network to train.
    Returns:
        Groups named ``decay`` and ``no_decay`` for an optimizer; the second has ``weight_decay`` 0. Empty groups are
        left out.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return _by_decay("", trainable, spared=_spared(module))


def layer_groups(module: nn.Module, network: nn.Module, *, layer_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters by layer, too; every layer learns more slowly than the one above it.

    The layers are timm's; what is no part of the network, e.g. a loss that learns, counts as the topmost layer.

    Args:
        module: What is trained.
        network: The part of it that has layers.
        layer_decay: What the rate is multiplied with from layer to layer, from the head down, in (0, 1).
    Returns:
        Groups named like ``layer_03_decay``, with the factor of their rate as ``lr_scale``; else as `parameter_groups`.
    Raises:
        UserError: If the network cannot be split.
    Source: Bao et al. 2021, arXiv:2106.08254, whose grouping timm follows.
    """
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    key = f"model.layer_decay={layer_decay}"
    if not isinstance(network, HasLayers):
        raise UserError(
            f"{key}: {type(network).__name__} has no group_matcher() that says which parameters form a layer "
            "(timm's networks have one); leave it at 1"
        )
    spared = _spared(module)
    found = param_groups_layer_decay(network, layer_decay=layer_decay)
    layers: dict[float, list[nn.Parameter]] = {}
    for group in found:
        layers.setdefault(group["lr_scale"], []).extend(group["params"])
    if len(layers) < 2:
        raise UserError(f"{key}: timm sees one single layer in {type(network).__name__}; leave it at 1")
    known = {id(parameter) for parameters in layers.values() for parameter in parameters}
    others = [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) not in known]
    layers.setdefault(1.0, []).extend(others)
    return [
        {**group, "lr_scale": scale}
        for number, scale in enumerate(sorted(layers))
        for group in _by_decay(f"layer_{number:02d}_", layers[scale], spared=spared)
    ]


def _spared(module: nn.Module) -> set[int]:
    """Find the parameters that networks inside a module want spared from decay, by identity."""
    return {
        id(parameter)
        for inner in module.modules()
        if isinstance(inner, SparesParameters)
        for name, parameter in inner.named_parameters()
        if name in inner.no_weight_decay()  # which may also name what this network has not
    }


def _by_decay(prefix: str, parameters: list[nn.Parameter], *, spared: set[int]) -> list[dict[str, Any]]:
    decayed = {id(parameter) for parameter in parameters if parameter.ndim >= 2} - spared
    decay = {"name": f"{prefix}decay", "params": [each for each in parameters if id(each) in decayed]}
    rest = {
        "name": f"{prefix}no_decay",
        "params": [each for each in parameters if id(each) not in decayed],
        "weight_decay": 0.0,
    }
    return [group for group in (decay, rest) if group["params"]]


class Backbone:
    """All of a network but its head, to be frozen and thawed.

    Args:
        network: Says what its head is.
    Raises:
        UserError: If it does not.
    """

    def __init__(self, network: nn.Module) -> None:
        if not isinstance(network, HasHead):
            raise UserError(
                f"model.freeze_epochs: {type(network).__name__} has no get_classifier() that says what its head is "
                "(timm's networks have one)"
            )
        heads = network.get_classifier()
        heads = heads if isinstance(heads, tuple | list) else [heads]
        kept = {id(parameter) for head in heads for parameter in head.parameters()}
        if not kept:
            raise UserError(f"model.freeze_epochs: the head of {type(network).__name__} has nothing to train")
        inside = {id(module) for head in heads for module in head.modules()}
        self.parameters = [each for each in network.parameters() if each.requires_grad and id(each) not in kept]
        self.norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and id(each) not in inside]

    def freeze(self, frozen: bool) -> None:
        """Stop the gradients and keep the statistics of BatchNorm as they are, or let both go on."""
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
        for norm in self.norms:
            norm.train(not frozen)

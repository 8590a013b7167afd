"""Networks by name from timm: architecture, starting weights and the preprocessing that belongs to them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from torch import nn

from clf.errors import UserError, did_you_mean, first_line

Pretrained = bool | Literal["auto"]

log = logging.getLogger("clf")

_OWN_NETWORK_CFG = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
"""What a network of the user's own is fed with unless the configuration says otherwise: as ImageNet."""


@dataclass(frozen=True)
class Built:
    """A network and where its weights came from.

    Args:
        network: Maps images (N, 3, H, W) to logits (N, C).
        pretrained_cfg: timm's facts about its input: ``input_size``, ``mean``, ``std``, ``interpolation`` …
        weights_from: For people: ``random``, a file, or the name of the pretrained weights.
    """

    network: nn.Module
    pretrained_cfg: dict[str, Any]
    weights_from: str


def build_own(
    network: Callable[[int], nn.Module],
    *,
    num_classes: int,
    weights: str | None,
    drop_rate: float,
    drop_path_rate: float,
) -> Built:
    """Make a network of the user's own.

    Args:
        network: Its class, with all arguments but the first.
        num_classes: C, the number of logits.
        weights: Must be None, for its own constructor takes such things; as for the rates, which must be 0.
        drop_rate: See ``weights``.
        drop_path_rate: See ``weights``.
    Raises:
        UserError: If an option is given that only timm's networks take.
    """
    if weights is not None or drop_rate or drop_path_rate:
        raise UserError(
            "model.weights, drop_rate and drop_path_rate are for model.arch; give a network of your own such "
            "things as model.network.init_args"
        )
    return Built(network(num_classes), _OWN_NETWORK_CFG, "its own constructor")


def build(
    arch: str,
    *,
    num_classes: int,
    pretrained: Pretrained,
    weights: str | None,
    image_size: tuple[int, int] | None,
    drop_rate: float,
    drop_path_rate: float,
) -> Built:
    """Make a timm model with a fresh head.

    Args:
        arch: timm's name, with or without the tag of its weights, e.g. ``resnet18`` or ``resnet18.a1_in1k``.
        num_classes: C, the number of logits.
        pretrained: True needs ImageNet weights, False starts from random ones, ``auto`` takes what can be had.
        weights: Local file with weights for this architecture instead; its head is left out.
        image_size: (height, width) for networks that are built for one size; None for the architecture's own.
        drop_rate: Dropout before the head, in [0, 1).
        drop_path_rate: Stochastic depth, in [0, 1).
    Raises:
        UserError: If the name, the file or the weights cannot be had, or an option does not fit the architecture.
    """
    import timm

    config = _look_up(arch)
    for key, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not 0 <= rate < 1:
            raise UserError(f"model.{key}={rate} must be in [0, 1)")
    options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": drop_rate}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    if image_size and config.get("fixed_input_size"):
        options["img_size"] = image_size
    try:
        if weights is not None:
            return Built(_from_file(arch, weights, config, options), config, f"file {weights}")
        if pretrained:
            return _from_hub(arch, config, options, required=pretrained is True)
        return Built(timm.create_model(arch, pretrained=False, **options), config, "random")
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # what constructors raise for an option that they lack or cannot take
        given = ", ".join(f"{key}={options[key]!r}" for key in ("drop_path_rate", "img_size") if key in options)
        raise UserError(f"model.arch={arch!r} cannot be built with {given or 'these options'} ({error})") from error


def _look_up(arch: str) -> dict[str, Any]:
    """Find timm's facts about an architecture and its weights."""
    import timm

    if not timm.is_model(arch):
        raise UserError(f"model.arch={arch!r} is no timm model{did_you_mean(arch, timm.list_models())}")
    name, _, tag = arch.partition(".")
    tagged = timm.list_pretrained(f"{name}.*")
    if tag and arch not in tagged:
        raise UserError(f"model.arch={arch!r}: {name} has no weights {tag!r}{did_you_mean(arch, tagged)}")
    config = timm.get_pretrained_cfg(arch)
    assert config is not None, f"timm has {arch} but no facts about it"
    return dict(config.to_dict())  # type: ignore[no-untyped-call]


def _from_file(arch: str, weights: str, config: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    """Load a file strictly: every tensor must be the architecture's, but for the head, which stays fresh.

    timm itself stops being strict where it leaves out the head, and would say no more about weights of another
    architecture than a warning. Hence the fresh head goes into what it is given to load.
    """
    import timm
    from timm.models import load_state_dict

    path = Path(weights)
    if not path.is_file():
        near = [str(path.parent / other.name) for other in path.parent.glob("*")]
        raise UserError(f"model.weights={weights!r} does not exist{did_you_mean(weights, near)}")
    heads = config.get("classifier") or ()  # one name, several, or none
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    fresh = timm.create_model(arch, pretrained=False, **options).state_dict()
    try:
        state = {
            key: value
            for key, value in load_state_dict(str(path), weights_only=True).items()
            if not key.startswith(prefixes)
        }
        state |= {key: value for key, value in fresh.items() if key.startswith(prefixes)}
        overlay = {"state_dict": state, "num_classes": options["num_classes"], "label_offset": 0}
        network = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception as error:  # The readers of weight files share no exception class.
        reason = shorten(str(error), 160, placeholder=" …")
        raise UserError(f"model.weights={weights!r} does not hold weights for {arch} ({reason})") from error
    vars(network)["pretrained_cfg"].pop("state_dict")  # or the weights stay in memory twice
    return network


def _from_hub(arch: str, config: dict[str, Any], options: dict[str, Any], *, required: bool) -> Built:
    import timm

    name = f"{config['architecture']}.{config['tag']}" if config.get("tag") else arch
    try:
        with _hub():
            return Built(timm.create_model(arch, pretrained=True, **options), config, f"ImageNet ({name})")
    except TypeError:
        raise
    except Exception as error:  # Offline, unknown, refused, no disk space: libraries below raise what they like.
        reason = first_line(error)
        if required:
            raise UserError(
                f"model.pretrained=true: the weights of {name} cannot be had ({reason}); "
                "connect, give a local file with model.weights, or use pretrained: auto or false"
            ) from error
        log.debug("pretrained weights: %s", reason)
        return Built(
            timm.create_model(arch, pretrained=False, **options), config, f"random ({name} cannot be had here)"
        )


@contextmanager
def _hub() -> Iterator[None]:
    """Ask the hub only when it answers: retries would take most of a minute, and the cache works without it."""
    from huggingface_hub import constants, get_session

    offline = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # The exception classes change with the hub's HTTP library.
        log.debug("%s does not answer: %s", constants.ENDPOINT, error)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline

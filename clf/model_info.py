"""What a network costs: its parameters, its multiplications, and its time on this device."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

COUNTED_BY = "torch.utils.flop_counter, FLOPs / 2"
"""Who counts multiply-accumulates: torch's own counter, which knows convolutions, linear layers and attention."""

_PASSES = 10
_SECONDS = 0.2  # a short run is not held up for a number


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Count a module's parameters: all of them, and those that are trained."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Count the multiply-accumulates of one forward pass.

    Args:
        network: Maps images to logits; left as it was.
        image: Its input, float (1, 3, H, W).
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # Attention in plain matrix products: the counter does not know all of its fused forms.
    with _at_rest(network), sdpa_kernel(SDPBackend.MATH), counter:
        network.forward(image)
    return int(counter.get_total_flops()) // 2


def measure_latency(network: nn.Module, images: Tensor) -> float:
    """Measure how long a forward pass takes, in seconds: the median of ten passes after two that warm up.

    Of slow passes there are fewer, as many as begin within a fifth of a second, and only one that warms up where it
    takes longer than that.

    Args:
        network: Maps images to logits; left as it was. A compiled network is measured as it was before.
        images: Its input, float (N, 3, H, W).
    """
    with _at_rest(network):
        if _time(network, images) < _SECONDS:  # the first pass takes longer, and sometimes so does the second
            _time(network, images)
        seconds = [_time(network, images)]
        while len(seconds) < _PASSES and sum(seconds) < _SECONDS:
            seconds.append(_time(network, images))
    return statistics.median(seconds)


def _time(network: nn.Module, images: Tensor) -> float:
    _wait(images.device)
    start = time.perf_counter()
    network.forward(images)
    _wait(images.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def _at_rest(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and give modes and random state back as they were."""
    modes = {module: module.training for module in network.modules()}
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        network.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def describe(facts: dict[str, Any]) -> str:
    """Say in one line what a network costs.

    Args:
        facts: What ``environment.json`` says of it under ``model``.
    """
    height, width = facts["input"][1:]
    total, trained = facts["parameters"], facts["trained"]
    parts = [f"{_rounded(total)} parameters ({'all' if total == trained else _rounded(trained)} trained)"]
    if facts["macs"] is not None:
        parts.append(f"{_rounded(facts['macs'])} MACs for an image of {height} x {width}")
    if times := facts.get("latency"):
        each = [f"{1000 * seconds:.3g} ms for {images}" for images, seconds in times["seconds"].items()]
        parts.append(f"forward pass {', '.join(each)} on {times['device']}")
    return ", ".join(parts)


def _rounded(count: int) -> str:
    """Say a large number in three digits: ``3.42 M``."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return str(count)

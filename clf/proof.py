"""Whether an exported model does what the network does, shown on real images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clf.chunks import chunks
from clf.predictor import Predictor
from clf.preprocess import Preprocessing, decode, evaluation_array

RTOL: Final = 1e-3
ATOL: Final = 1e-4

_IMAGES_AT_ONCE = 32
_LEAST = np.float32(-60)  # the logarithm of what 32 bits still hold as a probability of full precision


@dataclass(frozen=True)
class Proof:
    """How an exported model compares with the network, image by image.

    Args:
        n: Images.
        largest_difference: Largest absolute difference of an output.
        agreement: Images whose most probable class is the same.
        within: Whether all outputs agree within the tolerances.
        torch_ms: Milliseconds that the network took for an image, in batches of 32.
        onnx_ms: Milliseconds that ONNX Runtime took.
    """

    n: int
    largest_difference: float
    agreement: int
    within: bool
    torch_ms: float
    onnx_ms: float

    @property
    def holds(self) -> bool:
        """Whether the exported model does what the network does."""
        return self.n > 0 and self.within and self.agreement == self.n

    def __str__(self) -> str:
        """Say it in one line."""
        verdict = "equal" if self.holds else "NOT EQUAL"
        return (
            f"{verdict} on {self.n} images: top-1 agrees on {self.agreement}, largest difference "
            f"{self.largest_difference:.2e} (allowed: rtol {RTOL:g}, atol {ATOL:g}); an image takes "
            f"{self.torch_ms:.1f} ms in torch, {self.onnx_ms:.1f} ms in ONNX Runtime"
        )

    def to_dict(self) -> dict[str, Any]:
        """Turn into primitives."""
        return {**asdict(self), "rtol": RTOL, "atol": ATOL, "batch_size": _IMAGES_AT_ONCE}


def prove(
    network: nn.Module,
    predictor: Predictor,
    paths: Sequence[str],
    *,
    preprocessing: Preprocessing,
    temperature: float,
) -> Proof:
    """Compare an exported model with the network on real images.

    The network gets what `evaluation_array` makes of a file; the exported model gets what its own preparation makes of
    it, by what its own file says, and does inside whatever was embedded. So preprocessing, temperature and softmax are
    compared, too. Of probabilities the logarithms are compared: probabilities themselves hide what happens to all but
    the largest.

    Args:
        network: Maps normalised images (N, 3, H, W) to logits (N, C); on the CPU, in evaluation mode.
        predictor: The exported model.
        paths: Image files.
        preprocessing: The network's.
        temperature: The network's.
    """
    largest, agreement, within = 0.0, 0, True
    torch_s = onnx_s = 0.0
    for batch in chunks(paths, _IMAGES_AT_ONCE):
        images = [decode(path) for path in batch]
        arrays = np.stack([evaluation_array(image, preprocessing) for image in images])
        if not torch_s:
            _logits(network, arrays)  # what either puts off until it is first used is not timed
            predictor.run(np.stack([predictor.prepare(image) for image in images]))
        started = perf_counter()
        expected = _logits(network, arrays)
        torch_s += perf_counter() - started
        inputs = np.stack([predictor.prepare(image) for image in images])
        started = perf_counter()
        found = predictor.run(inputs)
        onnx_s += perf_counter() - started
        if predictor.exported.embed == "full":
            expected, found = _log_softmax(expected / temperature), _log(found)
        largest = float(np.maximum(largest, np.abs(found - expected).max()))  # stays what is no number
        agreement += int((found.argmax(1) == expected.argmax(1)).sum())
        within = within and bool(np.allclose(found, expected, rtol=RTOL, atol=ATOL))
    n = len(paths)
    torch_ms, onnx_ms = (1000 * seconds / n if n else math.nan for seconds in (torch_s, onnx_s))
    return Proof(n, largest, agreement, within, torch_ms, onnx_ms)


@torch.inference_mode()
def _logits(network: nn.Module, arrays: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network says, (N, C)."""
    return np.asarray(network(torch.from_numpy(arrays)).float().numpy())


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum(torch.from_numpy(logits).log_softmax(1).numpy(), _LEAST))


def _log(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(probabilities), _LEAST)

"""Smaller numbers in an ONNX file: 16-bit floats for GPUs, 8-bit integers for CPUs, and what they cost in accuracy."""

import logging
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from clf.chunks import chunks
from clf.data.samples import Sample
from clf.errors import UserError
from clf.exported import INPUT
from clf.predictions import NOT_FINITE
from clf.predictor import Predictor
from clf.statistics import paired_interval

Precision = Literal["fp32", "fp16", "int8"]

BATCHES: Final = (1, 8)
"""Batch sizes at which latencies are compared."""

_PASSES = 15
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Cost:
    """What a smaller model costs and gains, beside the full one on the same validation images.

    Args:
        n: Images.
        correct: How many the full model gets right, and how many the smaller one.
        gained: Images that the smaller one alone gets right.
        lost: Images that the full one alone gets right.
        agreement: Images for which both name the same class.
        milliseconds: By batch size: of the full model and of the smaller one, for a batch.
        megabytes: Size of both files.
    """

    n: int
    correct: tuple[int, int]
    gained: int
    lost: int
    agreement: int
    milliseconds: dict[int, tuple[float, float]]
    megabytes: tuple[float, float]

    @property
    def drop(self) -> float:
        """Top-1 that is lost, in [-1, 1]."""
        return (self.correct[0] - self.correct[1]) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of what is gained in top-1, for pairs of answers about the same images, in [-1, 1]."""
        both = self.correct[0] - self.lost
        neither = self.n - both - self.gained - self.lost
        return paired_interval(both=both, gained=self.gained, lost=self.lost, neither=neither)

    @property
    def slower_at(self) -> list[int]:
        """The batch sizes at which the smaller model is not faster."""
        return [size for size, (before, after) in self.milliseconds.items() if after >= before]

    def __str__(self) -> str:
        """Say it in one line."""
        before, after = (100 * correct / self.n for correct in self.correct)
        times = ", ".join(
            f"{one:.1f} ms -> {other:.1f} ms at batch {n}" for n, (one, other) in self.milliseconds.items()
        )
        lower, upper = (100 * end for end in self.interval)
        size = "{:.1f} MB -> {:.1f} MB".format(*self.megabytes)
        return (
            f"top-1 {before:.2f} % -> {after:.2f} % (n = {self.n}, {self.gained} won, {self.lost} lost, 95 % interval "
            f"of the difference {lower:+.2f} to {upper:+.2f} points, top-1 agrees on {self.agreement}), {times}, {size}"
        )


def halve(model: Any) -> Any:
    """Turn the floats inside an ONNX model into 16-bit ones; input and output keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def quantise(path: Path, images: Iterable[NDArray[Any]]) -> Any:
    """Turn weights and activations of an ONNX file into 8-bit integers, by what activations real images cause.

    Args:
        path: The file.
        images: Its inputs, prepared: (3, H, W) or (H, W, 3) each; some hundred training images.
    Returns:
        The ONNX model, in QDQ form: 8-bit activations for each tensor, 8-bit weights for each channel.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the images out in batches."""

        def __init__(self) -> None:
            self._batches = map(np.stack, chunks(images, _IMAGES_AT_ONCE))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """The next batch, or nothing."""
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    with TemporaryDirectory() as folder, _quiet_root():
        prepared, made = Path(folder, "prepared.onnx"), Path(folder, "made.onnx")
        quant_pre_process(str(path), str(prepared))
        quantize_static(
            str(prepared),
            str(made),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        return onnx.load(made)


@contextmanager
def _quiet_root() -> Iterator[None]:
    """Keep the library's advice to do what has just been done off the terminal, and its handler off the root logger."""
    root, nobody = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(nobody)
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.removeHandler(nobody)
        root.setLevel(level)


def compare(full: Predictor, smaller: Predictor, samples: Sequence[Sample], *, megabytes: tuple[float, float]) -> Cost:
    """Score two models on the same labelled images and time them on this machine.

    Args:
        full: The model before.
        smaller: The model after.
        samples: Labelled images, at least one.
        megabytes: Size of both files.
    """
    labels = [sample.label for sample in samples]
    guesses = [_labels(model, samples) for model in (full, smaller)]
    right = [np.array([guess == label for guess, label in zip(each, labels, strict=True)]) for each in guesses]
    return Cost(
        n=len(samples),
        correct=(int(right[0].sum()), int(right[1].sum())),
        gained=int((right[1] & ~right[0]).sum()),
        lost=int((right[0] & ~right[1]).sum()),
        agreement=sum(one == other for one, other in zip(*guesses, strict=True)),
        milliseconds={size: _latencies(full, smaller, samples[0].path, size=size) for size in BATCHES},
        megabytes=megabytes,
    )


def _labels(model: Predictor, samples: Sequence[Sample]) -> list[str | None]:
    rows = list(model.predict((sample.path for sample in samples), top_k=1))
    for row in rows:
        if row.error and row.error != NOT_FINITE:  # that one is the network's fault, and no label is a wrong one
            raise UserError(row.error)
    return [row.label for row in rows]


def _latencies(full: Predictor, smaller: Predictor, path: str, *, size: int) -> tuple[float, float]:
    """Time both in turn, and take the medians in milliseconds."""
    found: dict[Predictor, list[float]] = {full: [], smaller: []}
    inputs = np.repeat(full.prepare(path)[None], size, axis=0)  # the same for both
    for turn in range(_PASSES + 2):
        for model, seconds in found.items():
            started = perf_counter()
            model.run(inputs)
            if turn >= 2:  # the first ones warm up
                seconds.append(perf_counter() - started)
    before, after = (1000 * statistics.median(seconds) for seconds in found.values())
    return before, after

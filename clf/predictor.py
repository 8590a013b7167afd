"""Predictions by an exported model: ONNX Runtime, Pillow and numpy, nothing else."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clf.cores import usable_cores
from clf.data.inputs import find_inputs
from clf.errors import UserError, first_line
from clf.exported import INPUT, Exported, find_model, read_exported, read_sidecar
from clf.predictions import NOT_FINITE, Prediction, rank
from clf.preprocess import UnreadableImage, decode, evaluation_array, evaluation_pixels, unit_array

# From 1.29 on ONNX Runtime tells its maker about each process, and writes an identifier into the home folder. Whoever
# wants that says so with ORT_DISABLE_TELEMETRY=0; it is looked at when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""An image: a file, the bytes of one, a Pillow image, or its RGB pixels, uint8 (H, W, 3)."""

Device = Literal["auto", "cpu", "cuda"]
DEVICES = get_args(Device)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Predictor:
    """Classifies images with a model that ``clf export`` wrote.

    >>> predictor = Predictor("runs/resnet18/003/export")  # doctest: +SKIP
    >>> predictor.predict_one("photo.jpg").label  # doctest: +SKIP
    'cat'

    Decoding runs in threads beside inference; a few batches at a time are in memory, however many images there are.
    One predictor may be used by several threads.

    Args:
        model: The ONNX file, the folder of an export, or a run directory.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU where ONNX Runtime has one.
        threads: Threads of the network on a CPU; None takes all cores that this process may use.
        max_pixels: Larger images are refused by their header.

    Attributes:
        device: Where it runs: ``cpu`` or ``cuda``.
        exported: What the model says about itself.

    Raises:
        UserError: If the model or its labels are missing, damaged or do not belong together, or there is no such GPU.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: Device = "auto",
        threads: int | None = None,
        max_pixels: int = 50_000_000,
    ) -> None:
        path = find_model(model)
        sidecar = read_sidecar(path)
        self.device, self._session = _open(path, device=device, threads=threads)
        self.exported: Exported = read_exported(
            path, sidecar=sidecar, metadata=self._session.get_modelmeta().custom_metadata_map
        )
        _require_shapes(self._session, self.exported)
        self._max_pixels = max_pixels

    @property
    def classes(self) -> list[str]:
        """Class names; position is the index of the logit."""
        return self.exported.classes

    def predict(
        self,
        images: str | Path | Iterable[ImageLike],
        *,
        top_k: int = 5,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Iterator[Prediction]:
        """Classify images, in their order, one after the other as they are ready.

        Args:
            images: What to classify: a folder with all below it, a glob, or a manifest; or the images themselves, which
                may come from a generator without end.
            top_k: How many labels a prediction names.
            batch_size: Images that go through the network at once.
            workers: Threads that decode; None is one for each core.
        Yields:
            A prediction each; where an image cannot be read, one with the reason.
        Raises:
            UserError: If the path names no images, or a number is below 1.
        """
        _require(not isinstance(images, bytes | Image.Image), "predict takes several images; one goes to predict_one")
        if isinstance(images, str | Path):
            samples, _ = find_inputs(str(images), classes=self.classes)
            images = (sample.path for sample in samples)
        for key, value in (("top_k", top_k), ("batch_size", batch_size), ("workers", workers)):
            _require(value is None or value >= 1, f"{key}={value} must be 1 or more")
        source, waiting = iter(images), deque[list[tuple[ImageLike, Future[NDArray[Any]]]]]()
        with ThreadPoolExecutor(workers or usable_cores(), thread_name_prefix="decode") as pool:
            while True:
                while len(waiting) < 3:  # one is inferred, one is ready, one is being decoded
                    batch = [(image, pool.submit(self.prepare, image)) for image in islice(source, batch_size)]
                    if not batch:
                        break
                    waiting.append(batch)
                if not waiting:
                    return
                yield from self._finish(waiting.popleft(), top_k=top_k)

    def predict_one(self, image: ImageLike, *, top_k: int = 5) -> Prediction:
        """Classify one image.

        Raises:
            UnreadableImage: If it is none.
        """
        _require(top_k >= 1, f"top_k={top_k} must be 1 or more")
        [ranked] = rank(self.scores(self.prepare(image)[None]), self.classes, top_k=top_k)
        return Prediction(_name(image), ranked, error="" if ranked else NOT_FINITE)

    def prepare(self, image: ImageLike) -> NDArray[Any]:
        """Decode, resize and crop an image, and normalise it where the graph does not.

        Returns:
            The network's input: float32 (3, H, W); uint8 (H, W, 3) where the whole preprocessing is embedded.
        Raises:
            UnreadableImage: If it cannot be read.
        """
        rgb, spec = self._decoded(image), self.exported.preprocessing
        if self.exported.embed == "none":
            return evaluation_array(rgb, spec)
        pixels = evaluation_pixels(rgb, spec)
        return pixels if self.exported.embed == "full" else unit_array(pixels)

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Run the graph.

        Args:
            inputs: What `prepare` returned, stacked: (N, …).
        Returns:
            Its output, float32 (N, C): logits, or probabilities where everything is embedded.
        """
        [output] = self._session.run(None, {INPUT: inputs})
        return np.asarray(output, np.float32)

    def scores(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Run the graph for calibrated logits, float32 (N, C), whose softmax is the confidence.

        Of calibrated probabilities these are the logarithms; other logits are divided by the model's temperature.
        """
        output = self.run(inputs)
        if self.exported.embed != "full":
            return output / np.float32(self.exported.temperature)
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(output), np.finfo(np.float32).min)

    def _decoded(self, image: ImageLike) -> Image.Image:
        if isinstance(image, np.ndarray):
            _require(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, _not_rgb(image))
            image = Image.fromarray(image)
        return decode(image, max_pixels=self._max_pixels)

    def _finish(self, batch: Sequence[tuple[ImageLike, Future[NDArray[Any]]]], *, top_k: int) -> Iterator[Prediction]:
        inputs: list[NDArray[Any]] = []
        errors: dict[int, str] = {}
        for place, (_, future) in enumerate(batch):
            try:
                inputs.append(future.result())
            except UnreadableImage as error:
                errors[place] = str(error)
        ranked = iter(rank(self.scores(np.stack(inputs)), self.classes, top_k=top_k) if inputs else [])
        for place, (image, _) in enumerate(batch):
            if place in errors:
                yield Prediction(_name(image), error=errors[place])
            else:
                found = next(ranked)
                yield Prediction(_name(image), found, error="" if found else NOT_FINITE)


def _open(path: Path, *, device: Device, threads: int | None) -> tuple[Literal["cpu", "cuda"], Any]:
    """Load the graph where it is wanted; ``auto`` takes the GPU where ONNX Runtime knows one that works."""
    import onnxruntime

    _require(device in DEVICES, f"device={device!r} is none of {', '.join(DEVICES)}")
    if device != "cpu" and _PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them
        session = _load(path, provider=_PROVIDERS["cuda"], threads=threads)
        if session.get_providers()[0] == _PROVIDERS["cuda"]:
            return "cuda", session
        _require(device == "auto", "device='cuda': ONNX Runtime could not use the GPU; check its driver, or choose cpu")
    _require(device != "cuda", "device='cuda': this ONNX Runtime knows no GPU; install onnxruntime-gpu, or choose cpu")
    return "cpu", _load(path, provider=_PROVIDERS["cpu"], threads=threads)


def _load(path: Path, *, provider: str, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3  # its warnings are about graphs, and say nothing to whoever has only a file
    try:
        return onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # its exceptions have no common class
        raise UserError(f"model {str(path)!r} cannot be loaded: {first_line(error)}; export again") from error


def _require_shapes(session: Any, exported: Exported) -> None:
    """Hold what a file says about itself against its graph."""
    (given,), (made,), (height, width) = session.get_inputs(), session.get_outputs(), exported.preprocessing.size
    inputs = [height, width, 3] if exported.embed == "full" else [3, height, width]
    if (given.name, given.shape[1:], made.shape[1:]) != (INPUT, inputs, [len(exported.classes)]):
        raise UserError(
            f"{exported.path} says one thing and does another: its graph takes {given.name!r} {given.shape} and gives "
            f"{made.shape}, its labels speak of {inputs} and {len(exported.classes)} classes; export again"
        )


def _name(image: ImageLike) -> str:
    return str(image) if isinstance(image, str | Path) else ""


def _not_rgb(image: NDArray[Any]) -> str:
    return f"an array of shape {image.shape} and type {image.dtype} is no image; give RGB pixels, uint8 (H, W, 3)"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)

"""The model that is served: loaded beside the event loop, and looked for again as long as it is not there."""

import asyncio
import logging
import os
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clf.errors import UserError, first_line
from clf.files import spelled_out
from clf.predictor import Device, Predictor
from clf.service.settings import Settings

log = logging.getLogger("clf")

_AGAIN = 1.0  # seconds between two attempts to load a model that is not there


class NotReady(Exception):
    """Raised while there is no model; the message is the reason."""


class Model:
    """A model on its way from a folder into memory.

    Args:
        settings: The service's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._predictor: Predictor | None = None
        self._reason = "the model is being loaded"
        self._loading: asyncio.Task[None] | None = None
        self._again = 0.0

    def look(self) -> None:
        """Start loading, unless that is done, going on, or failed a moment ago."""
        loop = asyncio.get_running_loop()
        idle = self._loading is None or self._loading.done()
        if self._predictor is None and idle and loop.time() >= self._again:
            self._loading = loop.create_task(self._load())

    async def get(self) -> Predictor:
        """Give the model; where it is not there, one attempt is made and waited for first.

        Raises:
            NotReady: If it cannot be had; says why.
        """
        self.look()
        if self._predictor is None and self._loading is not None:
            await asyncio.wait({self._loading}, timeout=self._settings.timeout)
        return self.get_now()

    def get_now(self) -> Predictor:
        """Give the model without waiting; where it is not there, an attempt is begun.

        Raises:
            NotReady: If it is not there yet; says why.
        """
        self.look()
        if self._predictor is None:
            raise NotReady(self._reason)
        return self._predictor

    async def _load(self) -> None:
        try:
            self._predictor = await asyncio.to_thread(_open, self._settings)
        except Exception as error:  # damaged files may raise anything; the service goes on and says so
            reason = str(error) if isinstance(error, UserError) else f"the model cannot be loaded: {first_line(error)}"
            if reason != self._reason:
                log.warning("not ready: %s", reason)
            self._reason = reason
            self._again = asyncio.get_running_loop().time() + _AGAIN
        else:
            exported = self._predictor.exported
            log.info("ready: %s, %d classes, on %s", exported.path, len(exported.classes), self._predictor.device)


def identify(predictor: Predictor) -> str:
    """Name a model: the run that it comes from, and the beginning of its file's hash."""
    run = predictor.exported.facts.get("run")
    return f"{run}@{predictor.exported.sha256[:12]}" if run else predictor.exported.sha256[:12]


def describe(predictor: Predictor, settings: Settings) -> dict[str, Any]:
    """Say what a model is, what it takes and what takes it, as primitives."""
    import onnxruntime

    from clf import __version__

    exported = predictor.exported
    return {
        "model": identify(predictor),
        "sha256": exported.sha256,
        "num_classes": len(exported.classes),
        "classes": [spelled_out(name) for name in exported.classes],
        **exported.preprocessing.to_dict(),
        "embed": exported.embed,
        "temperature": exported.temperature,
        "facts": exported.facts,
        "device": predictor.device,
        "versions": {"clf": __version__, "onnxruntime": onnxruntime.__version__},
        "limits": {
            "max_bytes": settings.max_bytes,
            "max_pixels": settings.max_pixels,
            "max_files": settings.max_files,
            "timeout": settings.timeout,
        },
    }


def _open(settings: Settings) -> Predictor:
    """Load the model, and run it once: the first image should not wait for what ONNX Runtime puts off."""
    predictor = Predictor(
        settings.model,
        device=cast(Device, settings.device),
        threads=settings.network_threads,
        max_pixels=settings.max_pixels,
    )
    height, width = predictor.exported.preprocessing.size
    blank: NDArray[Any] = predictor.prepare(Image.new("RGB", (width, height)))
    predictor.scores(np.stack([blank]))
    log.debug("process %d: model loaded", os.getpid())
    return predictor

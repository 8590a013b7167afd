"""A checkpoint becomes an export: an ONNX file with its labels and a card, put in place only once it is proven."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from torch import nn

from clf.card import model_card
from clf.data.samples import Sample
from clf.errors import UserError, WorkFailed
from clf.exported import CARD, MODEL, SIDECAR, Embed, Exported, is_export, sidecar_text
from clf.files import is_full, replace_text, replacement
from clf.graph import OPSET, Graph, save, write_onnx
from clf.predictor import Predictor
from clf.preprocess import Preprocessing
from clf.proof import Proof, prove
from clf.quantisation import Cost, Precision, compare, halve, quantise

log = logging.getLogger("clf")

_CALIBRATION = 256
"""Training images that decide the ranges of 8-bit integers."""


class NotProven(WorkFailed):
    """Raised where an exported model does not do what it should; the message says by how much. Nothing is written."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and how.

    Args:
        network: Maps normalised images (N, 3, H, W) to logits (N, C); 32 bits, on the CPU, in evaluation mode.
        classes: Class names by index.
        preprocessing: The network's.
        temperature: The run's.
        samples: Labelled images to prove on, validation's; 1 or more.
        calibration: Images that decide the ranges of 8-bit integers, training's; only those need some.
        embed: What lies in the graph.
        precision: Of the weights and activations in the file.
        images: How many images to prove on, at most.
        max_accuracy_drop: Top-1 that a smaller precision may cost, in [0, 1].
        facts: What the file says about itself beside that: run, versions, metrics, data.
    """

    network: nn.Module
    classes: list[str]
    preprocessing: Preprocessing
    temperature: float
    samples: Sequence[Sample]
    calibration: Sequence[Sample] = ()
    embed: Embed = "none"
    precision: Precision = "fp32"
    images: int = 256
    max_accuracy_drop: float = 0.01
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportResult:
    """What was exported.

    Args:
        exported: The model.
        proof: That it does what the network does, before its precision was made smaller.
        cost: What a smaller precision costs; None for fp32.
    """

    exported: Exported
    proof: Proof
    cost: Cost | None


def export(request: ExportRequest, folder: Path) -> ExportResult:
    """Write ``model.onnx``, ``labels_mapping.json`` and ``README.md``, once it is shown that they are right.

    An earlier export in the folder is replaced as a whole, and only by one that is proven. A folder that holds anything
    else is left alone.

    Args:
        request: What to export.
        folder: Where to.
    Raises:
        UserError: If the folder holds other things, or ONNX cannot express the network.
        NotProven: If the model does not do what the network does, or a smaller precision costs too much.
    """
    require_room(folder)
    assert request.samples, "there is no proof without images"
    assert request.calibration or request.precision != "int8", "8-bit integers need images to be calibrated on"
    with _cleaning_up_on_sigterm(folder), _placing(folder), replacement(folder) as made:
        predictor = _write(request, made)
        paths = [sample.path for sample in _spread(request.samples, request.images)]
        spec, temperature = request.preprocessing, request.temperature
        proof = prove(request.network, predictor, paths, preprocessing=spec, temperature=temperature)
        log.info("proof: %s", proof)
        if not proof.holds:
            raise NotProven(f"the exported model does not do what the network does: {proof}; nothing was written")
        cost = None
        if request.precision != "fp32":
            predictor, cost = _shrink(predictor, request)
        size, said = (made / MODEL).stat().st_size, None if cost is None else str(cost)
        replace_text(made / CARD, model_card(predictor.exported, proof=proof.to_dict(), cost=said, size=size))
        require_room(folder)  # what somebody has put there meanwhile is not an export's to replace, either
    return ExportResult(replace(predictor.exported, path=folder / MODEL), proof, cost)


def require_room(folder: Path) -> None:
    """Refuse to replace what is no export, and what cannot be replaced.

    Args:
        folder: Where an export shall go.
    Raises:
        UserError: If the folder holds other things, is a file or a mount point, or cannot be written.
    """
    said = f"output={str(folder)!r}"
    with _placing(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{said} is a file; give a folder")
        if folder.is_mount():
            raise UserError(f"{said} is a mount point, which cannot be replaced as a whole; give a folder in it")
        found = sorted(folder.iterdir()) if folder.exists() else []
        others = [path for path in found if path.name not in (MODEL, SIDECAR, CARD) or not path.is_file()]
        if others or (found and not is_export(folder)):
            first = (others or found)[0].name
            raise UserError(f"{said} holds other things than an export, e.g. {first}; give another folder")
        beside = folder.absolute().parent
        beside.mkdir(parents=True, exist_ok=True)
        # Or it would be known only when the model is made.
        with (
            _cleaning_up_on_sigterm(folder),
            TemporaryDirectory(prefix=f".{folder.name}-", suffix=".partial", dir=beside),
        ):
            pass


@contextmanager
def _cleaning_up_on_sigterm(folder: Path) -> Iterator[None]:
    """Take away what is half made beside a folder, and leave: by no exception, which native code would die of."""

    def leave(signum: int, _: object) -> NoReturn:
        log.warning("stopped by SIGTERM; nothing was exported")
        for place in (folder.absolute(), folder.resolve()):
            for made in place.parent.glob(f".{escape(place.name)}-*.partial"):
                rmtree(made, ignore_errors=True)
            for aside in place.parent.glob(f".{escape(place.name)}-*.old"):  # told in the middle of the swap
                if not place.exists():
                    aside.rename(place)
        os._exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield  # only there may handlers be set
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _placing(folder: Path) -> Iterator[None]:
    """Say where a folder cannot be made, and why."""
    try:
        yield
    except OSError as error:
        if is_full(error):  # no mistake: room may come
            error.filename = str(folder)
            raise
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"output={str(folder)!r} cannot be written: {reason}; make room there, or give another folder"
        ) from error


def _write(request: ExportRequest, folder: Path) -> Predictor:
    """Write the file at full precision, and open it as anybody would."""
    spec, embed, temperature = request.preprocessing, request.embed, request.temperature
    graph = Graph(request.network, preprocessing=spec, embed=embed, temperature=temperature).eval()
    write_onnx(graph, folder / MODEL, metadata=_metadata(request))
    return _open(folder / MODEL, request)


def _open(path: Path, request: ExportRequest) -> Predictor:
    """Write what belongs beside the file, and open both as anybody would."""
    spec, embed, temperature = request.preprocessing, request.embed, request.temperature
    text = sidecar_text(path, request.classes, spec, embed=embed, temperature=temperature)
    replace_text(path.with_name(SIDECAR), text)
    return Predictor(path, device="cpu")


def _shrink(full: Predictor, request: ExportRequest) -> tuple[Predictor, Cost]:
    """Replace the file by one of smaller precision, if that costs little enough."""
    import onnx

    path = full.exported.path
    kept = path.with_name("fp32.onnx")
    path.rename(kept)
    if request.precision == "fp16":
        model = halve(onnx.load(kept))
    else:
        model = quantise(kept, (full.prepare(sample.path) for sample in _spread(request.calibration, _CALIBRATION)))
    save(model, path, metadata=_metadata(request))
    smaller = _open(path, request)
    megabytes = (kept.stat().st_size / 1e6, path.stat().st_size / 1e6)
    cost = compare(full, smaller, request.samples, megabytes=megabytes)
    kept.unlink()
    log.info("%s: %s", request.precision, cost)
    if cost.drop > request.max_accuracy_drop:
        raise NotProven(
            f"{request.precision} costs {100 * cost.drop:.2f} points of top-1 ({cost}), more than "
            f"max_accuracy_drop={request.max_accuracy_drop}; nothing was written"
        )
    if cost.slower_at:
        sizes = " and ".join(map(str, cost.slower_at))
        log.warning(
            "%s is not faster than fp32 on this machine at batch %s; it is only smaller", request.precision, sizes
        )
    return smaller, cost


def _metadata(request: ExportRequest) -> dict[str, Any]:
    return {
        "classes": request.classes,
        "preprocessing": request.preprocessing.to_dict(),
        "embed": request.embed,
        "temperature": request.temperature,
        "precision": request.precision,
        "opset": OPSET,
        **request.facts,
    }


def _spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Choose at most so many, evenly over the whole: the samples of a split are sorted by class."""
    count = min(most, len(samples))
    return [samples[place * len(samples) // count] for place in range(count)]

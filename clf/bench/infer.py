"""``clf bench infer``: how fast a checkpoint and its export predict, and what limits predictions."""

import argparse
import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clf import logs
from clf.bench.advice import advise_inference
from clf.bench.measuring import Report, Series, Table, alternate, compare, digits, milliseconds, times_within
from clf.checkpoints import read_weights
from clf.composed import Composed, composed
from clf.cores import usable_cores
from clf.data.inputs import find_inputs
from clf.errors import UserError
from clf.exported import MODEL
from clf.predict_onnx import names_exported_model
from clf.predictor import ImageLike, Predictor
from clf.preprocess import decode, evaluation_array

log = logging.getLogger("clf")

SIZES: Final = (1, 8, 64)
"""Images in a batch."""

TORCH, LAST, ONNX, ONE = "torch", "torch, channels last", "ONNX Runtime", "ONNX Runtime, 1 thread"

Run = Callable[[NDArray[Any]], object]


@dataclass(frozen=True)
class Form:
    """A way to predict.

    Args:
        run: Takes a batch and returns once its predictions are there.
        inputs: Images as it takes them, `SIZES[-1]` of them.
    """

    run: Run
    inputs: NDArray[Any]


def bench(options: argparse.Namespace, words: Sequence[str]) -> Report:
    """Measure the predictions of a command line of ``clf predict``, or of an exported model."""
    model, rest = options.model, list(words)
    if names_exported_model(rest):
        model, rest = _take(rest, "--ckpt_path")
    if model is not None and not any(
        word.startswith(("--ckpt_path", "--run", "--config", "-c", "--name")) for word in rest
    ):
        with logs.logging_to_terminal():
            return _bench_export(model, rest, seconds=options.seconds)
    with composed("predict", rest) as made:
        checkpoint = made.invocation.checkpoint
        assert checkpoint is not None, "only fit starts without one"
        predictor, notes = _export_of(made, model)
        paths = _images_of(made)
        log.info("bench infer of %s on %s", checkpoint, made.device_name)
        spec = made.model.preprocessing
        images = np.stack([evaluation_array(decode(path), spec) for path in paths])
        forms = {
            TORCH: Form(_torch(made, checkpoint, channels_last=False), _many(images)),
            LAST: Form(_torch(made, checkpoint, channels_last=True), _many(images)),
            **({} if predictor is None else _onnx(predictor, paths)),
        }
        prepare = _measure_reading(lambda path: evaluation_array(decode(path), spec), paths, seconds=options.seconds)
        found = measure(forms, seconds=options.seconds)
        about = f"clf bench infer: {checkpoint}, {made.device_name}"
        return _report(about, found, prepare, notes, channels_last=made.model.channels_last)


def _bench_export(model: str, words: Sequence[str], *, seconds: float) -> Report:
    predictor = Predictor(model)
    where, rest = _take(list(words), "--data.predict")
    if rest:
        raise UserError(
            f"unexpected {rest[0]!r}; with --model alone, clf bench infer takes --data.predict PATH beside it"
        )
    log.info("bench infer of %s, ONNX Runtime on %s", predictor.exported.path, predictor.device)
    notes = ["torch was left out: --ckpt_path or --run names a checkpoint to compare with"]
    prepare = None
    if where is None:
        notes.append("reading was left out: --data.predict PATH names images")
        forms = _onnx(predictor, [])
    else:
        samples, _ = find_inputs(where, classes=set(predictor.classes))
        paths = [sample.path for sample in samples[: SIZES[-1]]]
        forms, prepare = _onnx(predictor, paths), _measure_reading(predictor.prepare, paths, seconds=seconds)
    about = f"clf bench infer: {predictor.exported.path}, ONNX Runtime on {predictor.device}"
    return _report(about, measure(forms, seconds=seconds), prepare, notes, channels_last=None)


def _take(words: list[str], key: str) -> tuple[str | None, list[str]]:
    """Take ``--key value`` or ``--key=value`` out of a command line."""
    for at, word in enumerate(words):
        if word == key and at + 1 < len(words):
            return words[at + 1], words[:at] + words[at + 2 :]
        if word.startswith(f"{key}="):
            return word.partition("=")[2], words[:at] + words[at + 1 :]
    return None, words


def _export_of(made: Composed, model: str | None) -> tuple[Predictor | None, list[str]]:
    """Load the export that is named, or the run's."""
    run = made.session.run
    device: Any = "cpu" if made.on_cpu else "auto"
    if model is not None:
        return Predictor(model, device=device), []
    if run is not None and (run.path / "export" / MODEL).is_file():
        return Predictor(run.path / "export", device=device), []
    return None, ["there is no export to measure: `clf export` writes one, and --model FILE names any"]


def _images_of(made: Composed) -> list[str]:
    """Choose what is predicted on: what ``data.predict`` names, or the first there is of test, val and train."""
    data = made.datamodule
    if data.predict is not None:
        samples = data.predict_samples
    else:
        samples = data.samples(next(split for split in ("test", "val", "train") if split in data.available))
    return [sample.path for sample in samples[: SIZES[-1]]]


def _many(images: NDArray[Any]) -> NDArray[Any]:
    """Repeat images until there are enough for the largest batch."""
    return np.stack(list(islice(cycle(images), SIZES[-1])))


def _torch(made: Composed, checkpoint: Path, *, channels_last: bool) -> Run:
    """Make the network ready as ``clf predict`` does."""
    network: nn.Module = copy.deepcopy(made.model.network)
    weights, start = read_weights(checkpoint), "network."
    network.load_state_dict({key.removeprefix(start): weights[key] for key in weights if key.startswith(start)})
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(made.device).to(memory_format=layout).eval()
    context = made.trainer.precision_plugin.forward_context

    @torch.inference_mode()
    def run(images: NDArray[Any]) -> object:
        inputs = torch.from_numpy(images).to(made.device).contiguous(memory_format=layout)
        with context():
            return network(inputs).float().cpu()  # waits for a GPU

    return run


def _onnx(predictor: Predictor, paths: Sequence[str]) -> dict[str, Form]:
    """Make an export ready, with all cores and, on a CPU, with one thread; without images it gets grey ones."""
    grey = np.full((*predictor.exported.preprocessing.size, 3), 127, np.uint8)
    images: Sequence[ImageLike] = paths or [grey]
    inputs = _many(np.stack([predictor.prepare(image) for image in images]))
    forms = {ONNX: Form(predictor.run, inputs)}
    if predictor.device == "cpu" and usable_cores() > 1:
        forms[ONE] = Form(Predictor(predictor.exported.path, device="cpu", threads=1).run, inputs)
    return forms


def measure(forms: Mapping[str, Form], *, seconds: float) -> dict[tuple[str, int], Series]:
    """Measure all forms in turn, at each of `SIZES`: by form and batch size."""
    found: dict[tuple[str, int], Series] = {}
    for size in SIZES:
        log.info("batches of %d", size)
        actions = {name: _batch(form, size) for name, form in forms.items()}
        times = times_within(next(iter(actions.values())), seconds=seconds)
        series = alternate(actions, images=size, times=times)
        found |= {(name, size): each for name, each in series.items()}
    return found


def _batch(form: Form, size: int) -> Callable[[], object]:
    images = form.inputs[:size]
    return lambda: form.run(images)


def _measure_reading(prepare: Callable[[str], object], paths: Sequence[str], *, seconds: float) -> Series:
    """Measure reading, decoding and preprocessing, in one process."""

    def read() -> None:
        for path in paths:
            prepare(path)

    times = times_within(read, seconds=seconds)
    return alternate({"read": read}, images=len(paths), times=times)["read"]


def _report(
    about: str,
    forms: Mapping[tuple[str, int], Series],
    prepare: Series | None,
    notes: list[str],
    *,
    channels_last: bool | None,
) -> Report:
    cores = usable_cores()
    settings = {"cores": cores, "threads": torch.get_num_threads(), "channels_last": channels_last}
    report = Report("infer", about, settings, notes=notes)
    report.tables = [_form_table(forms)]
    report.measurements = {
        "forms": [{**series.to_dict(), "form": form, "batch_size": size} for (form, size), series in forms.items()]
    }
    if prepare is not None:
        row = (
            "read, decode, resize, crop",
            milliseconds(prepare.median),
            milliseconds(prepare.spread),
            digits(prepare.rate),
        )
        report.tables.append(
            Table("an image before the network, in one process", ("part", "ms", "spread", "images/s"), [row])
        )
        report.measurements["prepare"] = [prepare.to_dict()]
    report.bottleneck, report.advice = advise_inference(
        forms, prepare=prepare, cores=cores, channels_last=channels_last
    )
    return report


def _form_table(forms: Mapping[tuple[str, int], Series]) -> Table:
    first = next(iter(forms))[0]
    rows = []
    for (form, size), series in forms.items():
        times = milliseconds(series.median * size), milliseconds(series.spread * size)
        against = "" if form == first else str(compare(forms[first, size], series))
        rows.append((form, str(size), *times, digits(series.rate), against))
    return Table("the network", ("form", "batch", "ms a batch", "spread", "images/s", f"to {first}"), rows)

"""``clf predict`` with an exported model: the same keys and the same rows as with a checkpoint, without torch."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from clf import logs
from clf.data.inputs import find_inputs
from clf.errors import UserError, did_you_mean
from clf.predictions import PredictionWriter, Tally, refuse_overwriting
from clf.predictor import DEVICES, Predictor
from clf.progressbar import watched

log = logs.log


def names_exported_model(words: Sequence[str]) -> bool:
    """Tell whether a command line of ``clf predict`` names an exported model: the suffix of ``--ckpt_path`` decides."""
    named = [
        word.partition("=")[2] or following
        for word, following in pairwise([*words, ""])
        if word.partition("=")[0] == "--ckpt_path"
    ]
    return bool(named) and named[-1].endswith(".onnx")


def main(words: Sequence[str]) -> int:
    """Predict with an exported model.

    Args:
        words: What follows the verb.
    Returns:
        Exit code: 0, or 1 where an image has no prediction.
    Raises:
        UserError: For mistakes in usage, model or data.
    """
    flags = _parse(words)
    with logs.logging_to_terminal(flags.log_level):
        predictor = Predictor(flags.ckpt_path, device=flags.device)
        where = f"{predictor.device}, embed {predictor.exported.embed}"
        log.info("predict %s, ONNX Runtime on %s", flags.ckpt_path, where)
        return _predict(predictor, flags)


def _predict(predictor: Predictor, flags: argparse.Namespace) -> int:
    refuse_overwriting(flags.output, inputs=getattr(flags, "data.predict"))
    keys = {name: getattr(flags, f"data.{name}") for name in ("path_key", "label_key")}
    keys["outside"] = getattr(flags, "data.allow_outside_root")
    samples, notes = find_inputs(getattr(flags, "data.predict"), classes=set(predictor.classes), **keys)
    for note in notes:
        log.info("%s", note)
    output = Path(flags.output) if flags.output else _default_output(predictor.exported.path)
    top_k = min(getattr(flags, "callbacks.predictions.top_k"), len(predictor.classes))
    labelled = any(sample.label is not None for sample in samples)
    rows = predictor.predict(
        (sample.path for sample in watched(samples, title="predict")),
        top_k=top_k,
        batch_size=getattr(flags, "data.batch_size"),
        workers=getattr(flags, "data.num_workers"),
    )
    tally = Tally()
    with PredictionWriter(output, top_k=top_k, labelled=labelled) as writer:
        for sample, row in zip(samples, rows, strict=True):
            labelled_row = [replace(row, true=sample.label)]
            writer.write(labelled_row)
            tally.add(labelled_row)
    return tally.tell(output)


def _default_output(model: Path) -> Path:
    """As for a checkpoint: in the run that the model lies in, else below the working folder."""
    run = model.absolute().parent.parent
    return (run if (run / "config.yaml").is_file() else Path()) / "predictions" / "predict.csv"


class _Flags(argparse.ArgumentParser):
    """Errors in one line, with a suggestion."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
            known = [option for action in self._actions for option in action.option_strings]
            raise UserError(
                f"clf predict with an exported model has no key {unknown[1]!r}{did_you_mean(unknown[1], known)}; "
                "what the model expects lies in its file"
            )
        raise UserError(re.sub(r"^argument ", "", message))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Flags(
        prog="clf predict", description="Predict with an exported model: no torch, no run.", allow_abbrev=False
    )
    parser.add_argument("--ckpt_path", metavar="FILE", required=True, help="the exported model, …/model.onnx")
    parser.add_argument("--data.predict", metavar="PATH", required=True, help="image, folder, glob or manifest")
    parser.add_argument("--data.path_key", metavar="KEY", help="column of a manifest's paths")
    parser.add_argument("--data.label_key", metavar="KEY", help="column of a manifest's labels")
    parser.add_argument(
        "--data.allow_outside_root",
        metavar="true|false",
        type=_yes_or_no,
        default=False,
        help="whether a manifest may name images outside its folder (false)",
    )
    parser.add_argument("--data.batch_size", metavar="N", type=_positive, default=64, help="images at once (64)")
    parser.add_argument("--data.num_workers", metavar="N", type=_workers, help="threads that decode (one a core)")
    parser.add_argument(
        "--callbacks.predictions.top_k", metavar="K", type=_positive, default=5, help="labels a row (5)"
    )
    parser.add_argument("--output", metavar="FILE", help="table to write: .csv, .jsonl or .parquet")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where the model runs")
    parser.add_argument("--log_level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(list(words))


_MOST = 1_000_000


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} must be between 1 and {_MOST}")
    return int(text)


def _yes_or_no(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return text == "true"


def _workers(text: str) -> int | None:
    """Take what ``data.num_workers`` takes: ``auto`` is one for each core, and 0 decodes one image at a time."""
    return None if text == "auto" else max(1, _positive(text) if text != "0" else 1)

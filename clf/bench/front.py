"""``clf bench``: what it can measure and what it takes; nothing heavy is imported to say so."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from clf.errors import UserError, did_you_mean
from clf.options import OptionParser, require_file

KINDS = {
    "data": "reading, decoding, augmenting; the train loader with 0, 1, 2, … workers",
    "step": "the network's training step, its alternatives, and the loader beside it",
    "infer": "a checkpoint and its export, at batches of 1, 8 and 64",
    "startup": "from the command to the first training step, in processes of their own",
}
HELP = """usage: clf bench KIND [--config FILE] [--key value ...]

Measure how fast the parts are on this machine, and say what the bottleneck is and which key to change. Makes no run.

kinds:
{kinds}

`clf bench KIND --help` has the options of each.
"""
_FIT = (
    "Every key of clf fit is taken, with its meaning there; `clf fit --help` lists them. Without --config the latest "
    "run's configuration counts, or that of --run."
)
_TEXTS = {
    "data": "Measure the training data: what an image costs in one process, stage by stage, and images per second of "
    f"the train loader with each number of workers. {_FIT}",
    "step": "Measure the training step with the configured batch size, on the device that the trainer would take: "
    "forward, backward, optimizer, memory; then one change at a time (channels_last, precision), and the loader "
    f"beside it. {_FIT}",
    "infer": "Measure predictions: torch, torch with channels last, and ONNX Runtime where there is an export. Every "
    "key of clf predict is taken, --ckpt_path and --run among them; by default it is the latest run's best checkpoint.",
    "startup": "Measure a fit from the command to the end of its first step, in fresh processes, phase by phase; the "
    f"fit is a dry run (trainer.fast_dev_run), which writes nothing. {_FIT}",
}


def main(words: Sequence[str]) -> int:
    """Run ``clf bench``.

    Args:
        words: What follows the verb.
    Returns:
        Exit code, 0.
    Raises:
        UserError: For mistakes in usage, configuration or data.
    """
    kind, *rest = words or ["--help"]
    if kind in ("-h", "--help", "help"):
        print(HELP.format(kinds="\n".join(f"  {name:<8}  {text}" for name, text in KINDS.items())), end="")
        return 0
    if kind not in KINDS:
        raise UserError(f"no benchmark {kind!r}{did_you_mean(kind, KINDS)}; `clf bench --help` lists them")
    options, keys = _parse(kind, rest)
    if options.json not in (None, "-"):
        require_file("--json", options.json)
    from clf.bench.measuring import Report, write

    measure: Callable[[Any, list[str]], Report]
    if kind == "data":
        from clf.bench.data import bench as measure
    elif kind == "step":
        from clf.bench.step import bench as measure
    elif kind == "infer":
        from clf.bench.infer import bench as measure
    else:
        from clf.bench.startup import bench as measure
    write(measure(options, keys), json_file=options.json)
    return 0


def _parse(kind: str, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take the benchmark's own options out of the words; the rest is for the typed parser of the Trainer's verbs."""
    parser = OptionParser(prog=f"clf bench {kind}", description=_TEXTS[kind], allow_abbrev=False)
    if kind == "startup":
        parser.add_argument("--repeats", metavar="N", type=_repeats, default=3, help="processes to time (3)")
    else:
        text = "about how long each thing is measured (3)"
        parser.add_argument("--seconds", metavar="S", type=_seconds, default=3.0, help=text)
    if kind == "step":
        text = "also measure with model.compile switched over, which takes minutes: the network is compiled first"
        parser.add_argument("--compile", action="store_true", help=text)
    if kind == "infer":
        text = "exported model, …/model.onnx or its folder (default: the run's export); alone, torch is left out"
        parser.add_argument("--model", metavar="FILE", help=text)
    text = "print JSON instead of tables, or write it to FILE beside them"
    parser.add_argument("--json", metavar="FILE", nargs="?", const="-", help=text)
    return parser.parse_known_args(list(words))


def _seconds(text: str) -> float:
    if not text.replace(".", "", 1).isdecimal() or not 0 < float(text) <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} must be more than 0 and at most 600")
    return float(text)


def _repeats(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} must be between 1 and 100")
    return int(text)

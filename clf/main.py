"""The front door: picks the command, prints help and errors. Nothing heavy is imported to print text."""

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from clf.errors import UserError, did_you_mean, printable, said_of
from clf.garbage import process_of_our_own, settled

TRAINER_VERBS = {
    "fit": "train; makes a run directory, or continues one with --ckpt_path last",
    "validate": "score the validation split with the latest run's best checkpoint",
    "test": "score the test split with the latest run's best checkpoint",
    "predict": "write predictions for the test split, or for --data.predict PATH",
    "export": "write the latest run's best checkpoint as an ONNX file, proven equal, with labels and a model card",
}
PLAIN_VERBS = {
    "compare": "say which of several runs is better, and whether the difference is more than noise",
    "report": "write a run's report.html again; RUN is its directory, by default the latest",
    "check": "look at data and configuration without training: what is wrong, and what a run will cost",
    "bench": "measure how fast the parts are on this machine, and which key to change",
    "synth": "render jersey numbers: a dataset, or what a real one lacks",
    "serve": "answer predictions of an exported model over HTTP, with a page",
    "configs": "list the shipped configs with their headers, or copy them",
}
HELP = """usage: clf VERB [--config FILE] [--key value ...]

Train, check and use image classifiers from YAML.

verbs:
{verbs}

options of every verb:
  -h, --help      all keys of the verb, with their types and defaults
  --debug         show the traceback of an error (or set CLF_DEBUG=1)
  --version       print the version

examples:
  clf fit --config configs/demo.yaml
  clf fit --ckpt_path last --trainer.max_epochs 20
  clf test
  clf predict --data.predict some/folder --output predictions.csv
"""
REPORT_HELP = """usage: clf report [RUN]

Write report.html again, from the files of a run directory alone.

  RUN    the directory, e.g. runs/resnet18/003 (default: runs/latest)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; None takes them from the command line.
    Returns:
        Exit code: 0 done, 1 the work failed or was partial, 2 a mistake in usage, configuration or data, 130 Ctrl-C,
        143 SIGTERM.
    """
    if argv is not None:
        return _run(list(argv))
    with process_of_our_own():
        code = _run(sys.argv[1:])
        try:
            print(end="", flush=True)
        except BrokenPipeError:
            _reader_has_gone()
            return max(code, 1)
        return code


def _run(words: list[str]) -> int:
    debug = "--debug" in words or os.environ.get("CLF_DEBUG", "0") not in ("", "0")
    if os.getpid() == 1:
        end_on_sigterm()
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return 1
        message, code = said_of(error, hint=not debug)
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        if message and not (code == 130 and "CLF_CALLED" in os.environ):  # then the process that called it says so
            print(f"clf: {printable(message, lines=True)}", file=sys.stderr)
        return code


def _reader_has_gone() -> bool:
    """Whether nobody reads what is printed any more, as after ``| head``; then the rest is thrown away in silence."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # of what is wrong it tells in any case
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def end_on_sigterm() -> None:
    """End with 143 at SIGTERM, as any program does, but for the first one of a container, which the kernel spares."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(143))


def _dispatch(words: list[str]) -> int:
    verb, *rest = words or ["--help"]
    if verb in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {name:<14}  {text}" for name, text in {**TRAINER_VERBS, **PLAIN_VERBS}.items())
        print(HELP.format(verbs=verbs), end="")
        return 0
    if verb == "--version":
        from clf import __version__

        print(f"clf {__version__}")
        return 0
    if verb == "predict":
        from clf import predict_onnx

        if predict_onnx.names_exported_model(rest):
            settled()
            return predict_onnx.main(rest)
    if verb in TRAINER_VERBS:  # settled once everything is built
        from clf.verbs import run

        return run(verb, rest)
    settled()
    if verb == "synth":
        from clf.synth import main as synth

        return synth(rest)
    if verb == "compare":
        from clf.compare import main as compare

        return compare(rest)
    if verb == "serve":
        from clf.serve import main as serve

        return serve(rest)
    if verb == "report":
        return _report(rest)
    if verb == "check":
        from clf.preflight import main as check

        return check(rest)
    if verb == "bench":
        from clf.bench.front import main as bench

        return bench(rest)
    if verb == "configs":
        from clf.shipped import main as configs

        return configs(rest)
    known = [*TRAINER_VERBS, *PLAIN_VERBS]
    raise UserError(f"no verb {verb!r}{did_you_mean(verb, known)}; `clf --help` lists them")


def _report(rest: list[str]) -> int:
    if {"-h", "--help"} & set(rest):
        print(REPORT_HELP, end="")
        return 0
    flags, more = [word for word in rest if word.startswith("-")], rest[1:]
    if flags or more:
        raise UserError(f"clf report takes one run directory, got {(flags or more)[0]!r}")
    from clf import runs
    from clf.files import is_refused
    from clf.report import write_report

    run = runs.open_run(Path(rest[0])) if rest else runs.latest()
    try:
        print(write_report(run))
    except OSError as error:
        advice = "mend that, or let it be of a copy" if is_refused(error) else "make room for it"
        raise UserError(f"{run}/report.html cannot be written: {error.strerror}; {advice}") from error
    return 0

"""``clf check``: what is wrong with data and configuration, and what a run will cost; nothing is trained."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, get_args

from clf import runs
from clf.check.exclusion import exclusion_list
from clf.check.findings import Subject, exit_code
from clf.check.labels import FEW
from clf.errors import UserError, counted, did_you_mean
from clf.files import spelled_out
from clf.latest import with_configuration
from clf.options import OptionParser, require_file, write

SUBJECTS: Final[tuple[Subject, ...]] = get_args(Subject)
REFERENCE: Final = "resnet18.yaml"
"""The configuration that is checked where only data are named, and nothing was run yet."""

_TEXT: Final = (
    "Read the configuration and all images of a fit, train nothing, and say what would stop the run, what would spoil "
    "it, and what it will cost. Every key of clf fit is taken, with its meaning there; `clf fit --help` lists them. "
    "Without --config the latest run's configuration counts, or that of --run. Exit code: 2 with errors, 1 with "
    "warnings and --strict, else 0. Writes nothing but what --json and --exclude_to name."
)


def main(words: Sequence[str]) -> int:
    """Run ``clf check``.

    Args:
        words: What follows the verb.
    Returns:
        Exit code: 2 for errors, 1 for warnings if they are asked for, else 0.
    Raises:
        UserError: For mistakes in usage, or a configuration that cannot be read.
    """
    options, keys = _parse(words)
    from clf.diagnosis import Diagnosis  # Here, because it is slow: --help needs none of it.

    with TemporaryDirectory(prefix="clf-check-") as scratch:
        diagnosis = Diagnosis(
            _with_reference(keys),
            options.only,
            few=options.few,
            price_per_hour=options.price_per_hour,
            seconds=options.seconds,
            scratch=Path(scratch),
        )
        report = diagnosis.report()
    code = exit_code(report.findings, strict=options.strict)
    said = json.dumps({**report.to_dict(), "exit_code": code}, indent=2, ensure_ascii=False)
    print(spelled_out(said if options.json == "-" else report.as_text()))
    if options.json not in (None, "-"):
        write("--json", options.json, said + "\n")
    if options.exclude_to is not None:
        _write_list(exclusion_list(report.findings, roots=diagnosis.roots), options.exclude_to)
    return code


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take the check's own options out of the words; the rest is for the typed parser of fit."""
    parser = OptionParser(prog="clf check", description=_TEXT, allow_abbrev=False)
    text = f"look for some subjects only, with commas between them: {', '.join(SUBJECTS)} (default: all)"
    parser.add_argument("--only", metavar="SUBJECTS", type=_subjects, default=SUBJECTS, help=text)
    text = f"training images below which a class is called rare ({FEW})"
    parser.add_argument("--few", metavar="N", type=_whole, default=FEW, help=text)
    parser.add_argument("--price_per_hour", metavar="X", type=_number, help="price of an hour of this machine")
    text = "about how long training is measured for the cost (10)"
    parser.add_argument("--seconds", metavar="S", type=_number, default=10.0, help=text)
    parser.add_argument("--strict", action="store_true", help="exit with 1 if there are warnings")
    text = "print JSON instead of tables, or write it to FILE beside them; it names all images"
    parser.add_argument("--json", metavar="FILE", nargs="?", const="-", help=text)
    text = "write the images of errors and warnings to FILE, as a list for data.exclude; FILE must be new"
    parser.add_argument("--exclude_to", metavar="FILE", help=text)
    options, rest = parser.parse_known_args(list(words))
    if options.json not in (None, "-"):
        require_file("--json", options.json)
        if Path(options.json).is_file() and not options.json.endswith(".json"):
            raise UserError(f"--json {options.json}: the file exists and is not called .json; choose another one")
    if options.exclude_to is not None:
        require_file("--exclude_to", options.exclude_to)
        if Path(options.exclude_to).exists() or options.exclude_to == options.json:
            raise UserError(f"--exclude_to {options.exclude_to}: the file exists, or is in use; choose another one")
    return options, rest


def _subjects(text: str) -> tuple[Subject, ...]:
    names = [name.strip() for name in text.split(",")]
    if (unknown := next((name for name in names if name not in SUBJECTS), None)) is not None:
        raise argparse.ArgumentTypeError(f"no subject {unknown!r}{did_you_mean(unknown, SUBJECTS)}")
    return tuple(subject for subject in SUBJECTS if subject in names)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, e.g. 0.35, and none below 0")
    return number


def _with_reference(words: list[str]) -> list[str]:
    """Name the configuration: what the words name, the latest run's, or the reference where only data are named."""
    if words and not words[0].startswith("-"):
        raise UserError(f"clf check: {words[0]!r} is no option; to look at data: --data.root {words[0]}")
    keys = {word.partition("=")[0] for word in words}
    named = bool(keys & {"--config", "-c", "--run"}) or (runs.RUNS / "latest").exists()
    if not named and keys & {"--data.root", "--data.source", "--data"}:
        print(f"check: no configuration is named, so {REFERENCE} counts", file=sys.stderr)
        return ["--config", REFERENCE, *words]
    return with_configuration(words)


def _write_list(text: str, file: str) -> None:
    if not text:
        print(f"{file} was not written: there is no image to leave out", file=sys.stderr)
        return
    write("--exclude_to", file, text + "\n")
    count = sum(not line.startswith("#") for line in text.split("\n"))  # a name may hold other ends of a line
    images = counted(count, "image to leave out; look at it", "images to leave out; look at them")
    print(f"{file}: {images}, then add --data.exclude {file}", file=sys.stderr)

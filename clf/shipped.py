"""``clf configs``: the shipped configs, listed with their headers, or copied to where they can be changed."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from clf.errors import UserError, did_you_mean
from clf.options import OptionParser
from clf.yamlfile import SHIPPED, shipped_configs

_REFERENCE = "resnet18.yaml"
_EPILOG = """\
Copies are used by their path: clf fit --config DIR/resnet18.yaml --trainer DIR/trainer/cpu.yaml. What a config names
(parts, or what it inherits) is looked for beside it and then among the shipped configs, so a single copy works, too.
Nothing is overwritten: files that are there and the same stay, one that differs stops everything before it begins.
"""


def main(argv: Sequence[str]) -> int:
    """Run ``clf configs``: list the shipped configs, or copy them.

    Args:
        argv: The arguments after the verb.
    Returns:
        The exit code, 0.
    Raises:
        UserError: If an argument is wrong, or the copies cannot be made; then nothing has been overwritten.
    """
    flags = _parse(argv)
    if flags.copy is None:
        _list()
    else:
        _copy([_shipped_name(name) for name in flags.names] or shipped_configs(), Path(flags.copy))
    return 0


def _list() -> None:
    for name in shipped_configs():
        lines = (SHIPPED / name).read_text(encoding="utf-8").splitlines()
        header = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        print(f"configs/{name}", *(f"    {line}" for line in header), sep="\n")


def _shipped_name(word: str) -> str:
    """Find the config that a word means; ``configs/`` before it, as the list has it, may be there or not."""
    known, name = shipped_configs(), word.removeprefix("configs/")
    if name not in known:
        hint = did_you_mean(name, known) or "; `clf configs` lists them"
        raise UserError(f"no shipped config {word!r}{hint}")
    return name


def _copy(names: Sequence[str], folder: Path) -> None:
    """Copy configs into a folder, if that can be done without overwriting anything."""
    contents = {folder / name: (SHIPPED / name).read_bytes() for name in dict.fromkeys(names)}
    try:
        missing = _missing(contents, folder)
        for path in missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(path, contents[path])
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{error.filename or folder}: cannot be written ({reason}); name another folder") from error
    there = f", {len(contents) - len(missing)} already there" if len(missing) < len(contents) else ""
    print(f"{folder}: {len(missing)} of the shipped configs copied{there}")
    if experiments := [name for name in names if "/" not in name and name != "defaults.yaml"]:
        example = _REFERENCE if _REFERENCE in experiments else experiments[0]
        print(f"train with it: clf fit --config {shlex.quote(str(folder / example))}")
    if "defaults.yaml" in names:
        print(f"{folder}/defaults.yaml counts only for an experiment that names it, `config: defaults.yaml`")


def _missing(contents: dict[Path, bytes], folder: Path) -> list[Path]:
    """Find out which files are not there yet.

    Raises:
        UserError: If something else stands where a file or a folder has to go.
    """
    for place in sorted({parent for path in contents for parent in (folder, path.parent)}):
        if place.is_symlink() | place.exists() and not place.is_dir():
            raise UserError(f"{place} is no folder; name another one, nothing was copied")
    taken = [path for path in contents if path.is_symlink() or path.exists()]
    if other := [path for path in taken if not path.is_file() or path.read_bytes() != contents[path]]:
        more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
        raise UserError(f"{other[0]}{more} is there and differs from the shipped config; nothing was copied")
    return [path for path in contents if path not in taken]


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that must not be there; one that cannot be written whole does not stay."""
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError:
            path.unlink()
            raise


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser(
        prog="clf configs",
        description="List the shipped configs with their headers, or copy them to change them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--copy", metavar="DIR", help="folder to copy them to; it is made where it is missing")
    text = "what to copy, e.g. resnet18.yaml augment/ocr.yaml (default: all)"
    parser.add_argument("names", metavar="NAME", nargs="*", help=text)
    flags, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        parser.refuse(unknown[0])
    if flags.names and flags.copy is None:
        parser.error(f"{flags.names[0]!r} goes with --copy DIR; without it, all are listed")
    if flags.copy == "":
        parser.error("--copy needs the name of a folder")
    return flags

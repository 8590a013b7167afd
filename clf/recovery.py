"""Which checkpoint a word means: the file of that name, or the next best where it is damaged."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from clf import sums
from clf.checkpoints import holds_training, read_facts, read_step
from clf.errors import UserError
from clf.runs import LAST, PREVIOUS, Run

log = logging.getLogger("clf")


def find(run: Run, choice: str) -> Path:
    """Find a whole checkpoint for ``last`` or ``best``, and say so loudly if it is another than the word names.

    The file is read from end to end and compared with its sum in ``SHA256SUMS``. In the place of a damaged or missing
    one steps a file that held the same; in the place of ``last.ckpt`` also the newest that training can go on from.

    Args:
        run: The run.
        choice: ``last`` or ``best``.
    Raises:
        UserError: If there is none; says what was tried.
    """
    wanted = run.checkpoints / f"{choice}.ckpt"
    tried: list[str] = []
    for path in _candidates(run.checkpoints, wanted):
        if (problem := _problem(path, resumes=choice == "last")) is None:
            if path != wanted:
                step = read_step(path)
                log.warning("%s; in its place: %s/checkpoints/%s, from step %d", "; ".join(tried), run, path.name, step)
            return path
        tried.append(problem)
    if not wanted.is_file() and len(tried) == 1:
        raise UserError(f"ckpt_path={choice!r}: {run}/checkpoints/{wanted.name} {_how_it_is_missing(wanted)}")
    otherwise = "start anew without --ckpt_path" if choice == "last" else "name another one, --ckpt_path FILE"
    raise UserError(
        f"ckpt_path={choice!r}: {run} has no checkpoint that can be read: {'; '.join(tried)}; "
        f"copy the files from a backup, or {otherwise}"
    )


def _how_it_is_missing(wanted: Path) -> str:
    if os.path.lexists(wanted):
        return "leads to no file; remove it"
    others = sorted(path.name for path in wanted.parent.glob("*.ckpt"))
    there = f"the folder has {', '.join(others)}" if others else "no checkpoint was written there"
    return f"does not exist; {there}"


def _candidates(folder: Path, wanted: Path) -> Iterator[Path]:
    """List files in the order in which they are tried."""
    yield wanted
    known = sums.read(folder)
    others = [path for path in sorted(folder.glob("*.ckpt*")) if path != wanted and path.is_file()]
    same = [path for path in others if wanted.name in known and known.get(path.name) == known[wanted.name]]
    same += [path for path in others if path.name == f"{wanted.name}.partial"]  # where a mount renames by copying
    yield from same
    if wanted.name == LAST:
        rest = [path for path in others if path not in same and path.suffix == ".ckpt"]
        yield from sorted(rest, key=lambda path: (_step(path), path.name == PREVIOUS), reverse=True)


def _step(path: Path) -> int:
    try:
        return read_step(path)
    except (UserError, KeyError, TypeError, ValueError):
        return -1


def _problem(path: Path, *, resumes: bool) -> str | None:
    """Say why a file cannot be used; None if it can."""
    if not path.is_file():
        return f"{path.name} is no file" if os.path.lexists(path) else f"{path.name} is gone"
    try:
        if sums.is_damaged(path):
            return f"{path.name} is damaged (its SHA-256 is not the one in {sums.SUMS})"
        read_facts(path)
        if resumes and path.name not in (LAST, PREVIOUS) and not holds_training(path):
            return f"{path.name} holds weights only"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    except UserError as error:
        return str(error).removesuffix("; give another --ckpt_path")
    return None

"""From the words of a command line to one configuration, one checkpoint and one run."""

import argparse
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from yaml import YAMLError

from clf import recovery, runs
from clf.checkpoints import Facts, fingerprint, read_facts
from clf.config import GROUPS, Composed, Layer, compose
from clf.errors import UserError, did_you_mean
from clf.processes import Processes
from clf.runs import Run
from clf.yamlfile import find_config, is_yaml_name, parse_yaml

_Found = tuple[Run | None, Path | None]


@dataclass(frozen=True)
class Invocation:
    """What one command line means, before anything is typed or built.

    Args:
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        composed: The configuration below the flags.
        flags: Words that are left for the typed parser; they win over the configuration.
        name: Name of the run.
        run: The run that is continued (fit) or used; None for a new run, or a checkpoint that lies in none.
        checkpoint: The checkpoint to start from; None only for a fit from the start.
        facts: What that checkpoint says about its classifier.
    """

    verb: str
    composed: Composed
    flags: list[str]
    name: str
    run: Run | None
    checkpoint: Path | None
    facts: Facts | None


class _Words(argparse.ArgumentParser):
    """Takes our own words out of a command line; the rest is the typed parser's."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("-c", "--config", action="append", default=[])
        for word in ("run", "name", "ckpt_path"):
            self.add_argument(f"--{word}")

    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"argument (?:-c/)?(--\w+): expected one argument", r"\1 needs a value", message))


def understand(verb: str, words: Sequence[str], processes: Processes | None = None) -> Invocation:
    """Work out which configuration, run and checkpoint a command line means.

    Without ``--config`` the latest run (or the one that ``--run``, ``--name`` or ``--ckpt_path FILE`` points at) gives
    configuration and checkpoint; with it, ``last``, ``best`` and ``auto`` look at the newest run of the experiment's
    name only.

    Args:
        verb: One of the Trainer's verbs.
        words: What follows the verb.
        processes: Who does the command; of several, the first one finds run and checkpoint for all.
    Raises:
        UserError: If something that is named does not exist or does not fit the verb.
    """
    known, rest = _Words().parse_known_args(list(words))
    parts, flags = _split_parts(rest)
    files = [find_config(name, near=Path()) for name in known.config]
    if verb == "export":
        _refuse_keys_of_the_callback(flags)
    given = compose(files).config
    choice = _first(known.ckpt_path, given.get("ckpt_path"), None if verb == "fit" else "best")
    name = _first(known.name, given.get("name"), files[0].stem if files else None)
    run = checkpoint = None
    if not _asks_for_help(words):
        asked_run = _first(known.run, given.get("run"))
        run, checkpoint = _agree(processes, lambda: _find(verb, choice, run=asked_run, name=name))
        if verb == "fit" and run is not None and choice not in runs.CHOICES and name not in (None, run.name):
            run = None  # another experiment that starts from this checkpoint
        if verb == "fit" and run is None and not files:
            lost = f"ckpt_path={choice!r} lies in no run: " if checkpoint else ""
            raise UserError(
                f"{lost}clf fit needs --config FILE (`clf configs` lists the shipped ones)"
                ", or --ckpt_path last to continue the latest run"
            )
    facts = read_facts(checkpoint) if checkpoint else None
    layers = _layers(verb, files, run, facts)
    composed = compose([*layers, *parts])
    composed = compose([*layers, *parts, *_class_changes(flags, composed.config)])
    return Invocation(verb, composed, flags, name or (run.name if run else "run"), run, checkpoint, facts)


def _refuse_keys_of_the_callback(flags: list[str]) -> None:
    for *_, key, value in _pairs(flags):
        if option := re.fullmatch(r"callbacks\.onnx_export\.(?:init_args\.)?(\w+)", key):
            raise UserError(f"--{key} is for clf fit; clf export takes --{option[1]} {value}")


def _first(*values: Any) -> str | None:
    return next((str(value) for value in values if value is not None), None)


def _asks_for_help(words: Sequence[str]) -> bool:
    """Tell whether only a text is wanted (``--help``, ``--model.loss.help CLASS``): that needs no run."""
    return any(re.fullmatch(r"-h|--help|--[\w.]+\.help(=.*)?", word) for word in words)


def _find(verb: str, choice: str | None, *, run: str | None, name: str | None) -> tuple[Run | None, Path | None]:
    """Find the run and the checkpoint that ``--run``, ``--ckpt_path`` and the name of the experiment point at."""
    if choice is None:
        if run is not None:
            raise UserError(f"run={run!r} names a run to continue; add --ckpt_path last")
        return None, None
    if choice not in runs.CHOICES:
        file = runs.checkpoint_file(choice)
        return (runs.open_run(Path(run)) if run is not None else runs.run_of(file)), file
    if choice == "auto" and verb != "fit":
        raise UserError(f"ckpt_path='auto' is for fit; {verb} takes last, best or a file")
    found = _find_run(run, name)
    if choice == "auto":
        return (found, recovery.find(found, "last")) if found and found.is_begun else (None, None)
    if found is None:
        hint = did_you_mean(name or "", runs.names())
        raise UserError(
            f"ckpt_path={choice!r}: no run of this experiment in {runs.RUNS}/{name}/{hint}; "
            "start one with clf fit, or pick another with --run or --ckpt_path FILE"
        )
    return found, recovery.find(found, choice)


def _agree(processes: Processes | None, find: Callable[[], _Found]) -> _Found:
    """Have all processes use the run and the checkpoint that the first one finds.

    Raises:
        UserError: If this machine has not the same checkpoint under the same path.
    """
    if processes is None:
        return find()

    def found() -> list[str | None]:
        run, checkpoint = find()
        path, mark = (str(checkpoint), fingerprint(checkpoint)) if checkpoint else (None, None)
        return [str(run.path) if run else None, path, mark]

    folder, file, mark = processes.agreed("found", found)
    run, checkpoint = Run(Path(folder)) if folder else None, Path(file) if file else None
    if checkpoint is not None and not processes.first:
        here = fingerprint(checkpoint) if checkpoint.is_file() else None
        if here != mark or (run is not None and not run.config.is_file()):
            reason = "has not" if here is None else "has another" if here != mark else "lacks the config.yaml beside"
            raise UserError(
                f"{socket.gethostname()} {reason} {checkpoint}, from which the first process goes on; "
                "share the folder of runs, or copy the run's directory to every machine"
            )
    return run, checkpoint


def _find_run(run: str | None, name: str | None) -> Run | None:
    if run is not None:
        return runs.open_run(Path(run))
    return runs.latest() if name is None else runs.newest(name)


def _layers(verb: str, files: list[Path], run: Run | None, facts: Facts | None) -> list[Path | Layer]:
    """Stack checkpoint below configuration; a run that is used without ``--config`` brings its own."""
    layers: list[Path | Layer] = []
    if facts is not None:
        layers.append(Layer({"model": _model_keys(facts, evaluating=verb != "fit")}, "the checkpoint"))
    if files or run is None:
        return [*layers, *files]
    return [*layers, run.config]


def _model_keys(facts: Facts, *, evaluating: bool) -> dict[str, Any]:
    """Say in the model's keys what a checkpoint holds; a fit gets its classes from the data."""
    network = {key: value for key, value in facts.network.items() if key == "arch"}
    if not evaluating:
        return network
    spec = facts.preprocessing
    keys = ("crop_mode", "crop_pct", "interpolation", "mean", "std")
    return {**network, "classes": facts.classes, "image_size": spec["size"], **{key: spec[key] for key in keys}}


def _pairs(words: Sequence[str]) -> Iterator[tuple[int, int, str, str]]:
    """Walk over ``--key value`` and ``--key=value``; yields (first word, word after, key, value)."""
    for at, word in enumerate(words):
        if match := re.fullmatch(r"--([\w.]+)=(.*)", word, flags=re.DOTALL):
            yield at, at + 1, match[1], match[2]
        elif re.fullmatch(r"--[\w.]+", word) and at + 1 < len(words) and not words[at + 1].startswith("--"):
            yield at, at + 2, word[2:], words[at + 1]


def _split_parts(words: list[str]) -> tuple[list[Layer], list[str]]:
    """Take ``--trainer trainer/cpu.yaml`` and its like out of the words: files are composed, values are typed."""
    pairs = [pair for pair in _pairs(words) if is_yaml_name(pair[3]) and pair[2].split(".")[0] in GROUPS]
    taken = {at for first, end, *_ in pairs for at in range(first, end)}
    layers = [Layer({key: value}, f"--{key}") for *_, key, value in pairs]
    return layers, [word for at, word in enumerate(words) if at not in taken]


def _class_changes(flags: list[str], config: dict[str, Any]) -> list[Layer]:
    """Compose what flags say about classes.

    A flag that names another class must not keep the arguments of the class it replaces, a callback must be known
    before there can be a flag for it, and a flag that sets a key of a callback which is off means to switch it on.
    """
    layers = []
    for *_, key, value in _pairs(flags):
        key = key.removesuffix(".class_path")
        callback = re.fullmatch(r"(callbacks\.[^.]+)(\..+)?", key)
        standing = _standing(config, key)
        if (callback and not callback[2]) or (isinstance(standing, dict) and "class_path" in standing):
            layers.append(Layer({key: _parsed(value)}, f"--{key}"))
        elif callback and not _standing(config, callback[1]):
            layers.append(Layer({callback[1]: {}}, f"--{key}"))
    return layers


def _parsed(value: str) -> Any:
    try:
        return parse_yaml(value)
    except YAMLError:
        return value  # the typed parser will say what is wrong with it


def _standing(config: dict[str, Any], key: str) -> Any:
    """Look up a dotted key that leaves out ``init_args``."""
    here: Any = config
    for part in key.split("."):
        if not isinstance(here, dict):
            return None
        here = here[part] if part in here else here.get("init_args", {}).get(part)
    return here

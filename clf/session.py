"""The run directory around one command: made or found, compared with what was saved, and never left empty."""

import inspect
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import yaml
from lightning.pytorch import Trainer

from clf import logs, results, runs
from clf.config import flatten
from clf.data.skipping import RECORD
from clf.errors import counted
from clf.invocation import Invocation
from clf.mounts import mount_of
from clf.processes import Place, Processes
from clf.runs import Run

log = logging.getLogger("clf")

_ENDS_TRAINING = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "callbacks.early_stopping")


class Session:
    """What a command works in.

    Args:
        invocation: What the command line means.
        processes: Who does the command; by default this process alone.
    """

    def __init__(self, invocation: Invocation, processes: Processes | None = None) -> None:
        self.invocation = invocation
        self.processes = processes or Processes(Place())
        self.run = invocation.run
        self.trained = False  # whether a fit has come to its end
        self.resumes = invocation.verb == "fit" and invocation.checkpoint is not None
        self._reserved: Run | None = None
        self._release: Callable[[], None] = lambda: None
        self._scratch: TemporaryDirectory[str] | None = None

    def open(self) -> Run:
        """Take the directory that a fit works in: the resumed run's, or a new one; messages go to its ``log.txt``."""
        if self.processes.first:
            runs.free_link()  # not only when training starts
        if self.run is None:
            self.run = Run(Path(self.processes.agreed("directory", self._reserve)))
        if self.processes.first:  # of several machines, the others may not have the directory
            self._release = runs.hold(self.run)
            logs.also_to(self.run.path / "log.txt")
            mount = mount_of(self.run.path)
            if not mount.renames:
                said = "%s lies where there are no %s: files are made in %s, copied and compared"
                log.warning(said, self.run, mount.lacks, gettempdir())
        return self.run

    def _reserve(self) -> str:
        self._reserved = runs.reserve(self.invocation.name)
        return str(self._reserved.path)

    def close(self) -> None:
        """Remove a directory that was reserved for a run that never began, and what was only scratch."""
        release, self._release = self._release, lambda: None
        release()
        if self._scratch is not None:
            self._scratch.cleanup()
        if self._reserved is not None and not self._reserved.config.exists():
            for name in ("log.txt", RECORD):
                (self._reserved.path / name).unlink(missing_ok=True)
            with suppress(OSError):
                self._reserved.path.rmdir()
                self._reserved.path.parent.rmdir()
                runs.RUNS.rmdir()

    def scratch(self) -> Path:
        """Make a folder for what a command that is no run has to write; it goes when the command ends."""
        self._scratch = TemporaryDirectory(prefix="clf-")
        return Path(self._scratch.name)

    @property
    def bad_list(self) -> str | None:
        """File in which the run keeps what ``data.on_error: skip`` left out; other verbs than fit only read it."""
        path = self.run.path / RECORD if self.run else None
        return str(path) if path and (self.invocation.verb == "fit" or path.is_file()) else None

    @property
    def output(self) -> Path:
        """Folder of predictions: in the run, or in the working folder for a checkpoint that lies in none."""
        return (self.run.path if self.run else Path()) / "predictions"

    @cached_property
    def run_id(self) -> str:
        """What identifies the run to trackers; stays the same when it is resumed."""
        return str(self._saved_facts.get("run_id") or secrets.token_hex(4))

    @cached_property
    def _saved_facts(self) -> dict[str, Any]:
        """What an earlier command wrote into ``environment.json``; empty for a new run."""
        assert self.run is not None, "a session is opened before it is identified"
        return results.read(self.run.path / "environment.json")

    def is_other_data(self, fingerprint: str) -> bool:
        """Tell whether the run that is resumed was trained on other data until now."""
        return "data" in self._saved_facts and bool(self._saved_facts["data"]["fingerprint"] != fingerprint)

    def is_finished(self, config: dict[str, Any]) -> bool:
        """Tell whether a resumed run has nothing left to do under a configuration, report and export included."""
        if not self.resumes or self.run is None:
            return False
        finished = results.read(self.run.path / "metrics.json").get("finished") or {}
        if not finished.get("complete"):
            return False
        changed = {key for key, *_ in self.differences(config)}
        return not any(key.startswith(_ENDS_TRAINING) for key in changed)

    def complete(self) -> None:
        """Note that a fit has written everything; one that is cut before this does the rest when it is resumed."""
        if self.run is not None and self.processes.first:
            path = self.run.path / "metrics.json"
            results.record(path, {"finished": {**results.read(path)["finished"], "complete": True}})

    def differences(self, config: dict[str, Any]) -> list[tuple[str, Any, Any]]:
        """List what a resumed run changes: (dotted key, saved value, new value)."""
        if self.run is None or not self.run.config.is_file():
            return []
        saved = flatten(yaml.safe_load(self.run.config.read_text(encoding="utf-8")))
        new = flatten(config)
        keys = sorted(key for key in {*saved, *new} if saved.get(key) != new.get(key))
        return [(key, saved.get(key), new.get(key)) for key in keys]


def fill_placeholders(value: Any, *, run: Run, run_id: str) -> Any:
    """Put the run's facts into a configuration of loggers.

    Args:
        value: Nested mappings and lists; texts may hold ``{run}`` (its directory), ``{name}`` (e.g. ``resnet18/003``)
            and ``{id}`` (stays the same when the run is resumed).
        run: The run.
        run_id: Its id.
    """
    if isinstance(value, str):
        name = f"{run.name}/{run.path.name}"
        # Absolute: a tracker may write from a process of its own, in another working folder.
        return value.replace("{run}", str(run.path.absolute())).replace("{name}", name).replace("{id}", run_id)
    if isinstance(value, list):
        return [fill_placeholders(item, run=run, run_id=run_id) for item in value]
    if isinstance(value, dict):
        return {key: fill_placeholders(item, run=run, run_id=run_id) for key, item in value.items()}
    return value


def conclude_fit(run: Run, trainer: Trainer) -> None:
    """Finish ``metrics.json`` and say where everything is.

    Args:
        run: The run.
        trainer: Its trainer, done.
    """
    stopped = any(getattr(callback, "stopped_epoch", 0) for callback in trainer.early_stopping_callbacks)
    reason = "stopped early" if stopped else "stopped" if trainer.should_stop else "max_epochs or max_steps reached"
    minutes = results.training_minutes(run.path / "timing.csv")
    path = run.path / "metrics.json"
    results.record(path, {"finished": {"epochs": trainer.current_epoch, "reason": reason, "minutes": minutes}})
    if (best := results.read(path).get("val")) is not None:
        log.info("best epoch %d: %s\n%s", best["epoch"], results.describe(best), results.table(best))
    log.info("finished: %s (%s); everything is in %s", reason, counted(trainer.current_epoch, "epoch"), run)
    if trainer.checkpoint_callback is None:
        log.warning("no checkpoint was kept: callbacks.checkpoint is off")
        return
    log.info("next: clf test | clf predict --data.predict FOLDER | clf fit --ckpt_path last --trainer.max_epochs N")


def changes(value: Any, default: Any, key: str = "") -> dict[str, dict[str, Any]]:
    """List what a configuration says otherwise than another one, where a class that was chosen brings its own defaults.

    Args:
        value: The resolved configuration.
        default: The resolved configuration of somebody who says nothing.
        key: Where in the configuration this is.
    Returns:
        ``value`` and ``default`` by dotted key, written as a user would: without ``init_args``.
    """
    if not isinstance(value, dict) or not value:
        return {} if value == default else {key: {"value": value, "default": default}}
    known = default if isinstance(default, dict) else {}
    if "class_path" in value and value["class_path"] != known.get("class_path"):
        known = {"class_path": known.get("class_path"), "init_args": _defaults_of(value["class_path"])}
    found: dict[str, dict[str, Any]] = {}
    for name, item in value.items():
        below = key if name == "init_args" else f"{key}.{name}".lstrip(".")
        found |= changes(item, known.get(name), below)
    return found


def _defaults_of(class_path: str) -> dict[str, Any]:
    """Look up what a class takes by itself; nothing where it does not say."""
    try:
        parameters = inspect.signature(resolve_name(class_path)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return {}
    return {name: _plain(parameter.default) for name, parameter in parameters.items()}


def _plain(default: Any) -> Any:
    """Say a default as YAML would."""
    if isinstance(default, Enum):
        return _plain(default.value)
    if isinstance(default, list | tuple):
        return [_plain(item) for item in default]
    if default is None or isinstance(default, bool | int | float | str):
        return default
    return None if default is inspect.Parameter.empty else str(default)

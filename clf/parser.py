"""The typed parser, and its errors said in one line: key, value, file, and the nearest thing that would be right."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

import torch
from lightning.pytorch.cli import LightningArgumentParser, ReduceLROnPlateau
from torch.optim.lr_scheduler import LRScheduler

from clf.errors import UserError, did_you_mean

Origin = Callable[[str], str]
"""Says where a key was written, e.g. ``configs/resnet18.yaml``; empty for the command line."""


class Parser(LightningArgumentParser):
    """An argument parser that takes no abbreviations and raises one-line user errors.

    The CLI sets ``origin`` and ``keys`` (all keys of the verb) before parsing.
    """

    origin: Origin = staticmethod(lambda key: "")
    keys: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what jsonargparse says as one line."""
        if not self.exit_on_error:
            super().error(message, ex)
        if isinstance(ex, UserError):
            raise ex
        raise UserError(shorten(message, known=self.keys, origin=self.origin)) from ex


def shorten(message: str, *, known: Iterable[str], origin: Origin) -> str:
    """Turn a message of jsonargparse into one line.

    Args:
        message: As jsonargparse wrote it, often with one line per member of a union.
        known: All keys of the parser, dotted.
        origin: Says where a key was written.
    """
    keys = [key for key in re.findall(r'Parser key "([\w.]+)"', message) if key != "config"]
    key = ".".join(keys)
    if match := re.search(r"(?:unrecognized arguments: --|does not accept option ')([\w.]+)", message):
        return f"unknown key {match[1]!r}{_at(origin(match[1]))}{did_you_mean(match[1], known)}"
    if match := re.search(r"unrecognized arguments: (.*)", message):
        return f"unexpected {match[1]!r}; values follow their key: --key value"
    if match := re.search(r"argument --([\w.]+): expected", message):
        return f"--{match[1]} needs a value"
    if match := re.search(r"Option '(\w+)' is not accepted", message):
        class_path = _class_path(message)
        hint = did_you_mean(match[1], _parameters(class_path))
        return f"unknown key '{key}.{match[1]}'{_at(origin(f'{key}.{match[1]}'))}: {class_path} does not take it{hint}"
    if problem := _class_problem(message, key):
        return f"{key}: {problem}{_at(origin(key))}"
    if key and (value := re.search(r"(?:Given|Got) value: (.*?)(?:\. Got value.*)?$", message, flags=re.MULTILINE)):
        return f"{key}={'null' if value[1] == 'None' else value[1]}{_at(origin(key))}: expected {_expected(message, value[1])}"
    return re.sub(r"\s+", " ", message).strip()


def refuse_nulls(group: str, values: Mapping[str, Any], owner: type) -> None:
    """Refuse null where the type of a parameter does not admit it; jsonargparse lets it through.

    Args:
        group: Key of the group, e.g. ``data``.
        values: The parsed group.
        owner: Class whose parameters the group holds.
    """
    hints = get_type_hints(owner.__init__)  # type: ignore[misc]
    for name, value in values.items():
        if value is None and name in hints and NoneType not in get_args(hints[name]):
            raise UserError(f"{group}.{name}=null: expected {_type_name(hints[name])}")


def _at(place: str) -> str:
    return f" (in {place})" if place else ""


def _class_path(message: str) -> str:
    found = re.findall(r"class_path(?:=| )'([\w.]+)'", message)
    return str(found[-1]) if found else "the class"


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def _class_problem(message: str, key: str) -> str:
    """Explain a class that cannot be found or does not belong here; empty where that is not the matter."""
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        hint = did_you_mean(match[2], dir(importlib.import_module(match[1])))
        return f"class_path='{match[1]}.{match[2]}' does not exist{hint}"
    if match := re.search(r"No module named '([\w.]+)'", message):
        return f"class_path={_class_path(message)!r}: there is no module {match[1]!r}"
    if match := re.search(r"Expected '([\w.]+)' to be a subclass of <class '([\w.]+)'>", message):
        return f"class_path={match[1]!r} is not a kind of {match[2].rpartition('.')[2]}"
    classes = {"model.optimizer": torch.optim, "model.lr_scheduler": torch.optim.lr_scheduler}
    if key in classes and (match := re.search(r"Expected a dot import path string: (\S+)", message)):
        kinds = (torch.optim.Optimizer, LRScheduler, ReduceLROnPlateau)
        names = [name for name, kind in inspect.getmembers(classes[key], inspect.isclass) if issubclass(kind, kinds)]
        return f"no class {match[1]!r}{did_you_mean(match[1], names)}"
    return ""


def _expected(message: str, value: str) -> str:
    """Join what the members of a union accept."""
    choices = [
        choice for literal in re.findall(r"- Expected a typing.Literal\[(.*)\]", message) for choice in _words(literal)
    ]
    choices += (
        _words(found[1]) if (found := re.search(r"^\s*Expected a typing.Literal\[(.*?)\]", message, re.M)) else []
    )
    names = re.findall(r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>", message)
    names += ["a class_path" for _ in re.findall(r"Expected a dot import path", message)]
    options = [*choices, *("null" if name == "NoneType" else name for name in names)]
    shown = ", ".join(dict.fromkeys(options)) or "another type"
    return shown + did_you_mean(value, choices)


def _words(literal: str) -> list[str]:
    return [choice.strip().strip("'\"") for choice in literal.split(",")]


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")

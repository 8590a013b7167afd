"""The typed parser, and its errors said in one line: key, value, file, and the nearest thing that would be right."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from numbers import Number
from typing import Any, NoReturn, get_args

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, ReduceLROnPlateau
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clf.config import CALLBACKS, COMMAND_LINE, where
from clf.errors import UserError, did_you_mean
from clf.yamlfile import FLOAT, FLOAT_STARTS


def _number(value: Any) -> Number:
    if isinstance(value, Number) and not isinstance(value, bool):
        return value
    raise ValueError(f"Expected a {Number}")  # in jsonargparse's own words, which are read below


# What arguments of other libraries are typed as, and a saved configuration must be able to say and to read again:
# defaults of Lightning's callbacks, torchvision's `degrees: Number | Sequence`.
register_type(torch.device)
register_type(
    Number,
    serializer=_number,
    deserializer=_number,
    type_check=lambda value, _: isinstance(value, Number) and not isinstance(value, bool),
)
yaml.SafeDumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, FLOAT_STARTS)  # or the text 1e3 is not quoted
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))

KEYS = {
    "name": "Name of the run; default: the stem of the config file.",
    "run": "Run directory to use, e.g. runs/resnet18/003.",
    "ckpt_path": "Checkpoint to start from: last, best, auto (fit continues if there is something to continue) or a "
    "file. Without --config the words mean the latest run, with it the experiment's newest run.",
    "log_level": "How much is said: debug, info, warning or error.",
}
"""What each verb takes beside the groups, with its help."""

PREDICT_KEYS = {"output": "File to write: .csv, .jsonl or .parquet."}
"""What `clf predict` takes besides."""

FOLLOWS = {
    "data.seed": "seed_everything",
    "model.seed": "seed_everything",
    "model.classes": "data.classes",
    "model.class_counts": "data.class_counts",
    "model.resampled": "data.resampled",
}
"""Keys that nobody gives -> what they follow."""

Origin = Callable[[str], str]
"""Says where a key was written, e.g. ``configs/resnet18.yaml``."""

_CLASS_LIST = re.compile(r"known subclasses:([^)]*)\)")
_MOST_CLASSES = 6

_CALLABLES = {"model.optimizer": (Optimizer,), "model.lr_scheduler": (LRScheduler, ReduceLROnPlateau)}
"""Keys whose messages do not say what kind of class they want."""

_NEEDS_CLASS = "needs a class_path: which class is it?"
_OWN_WORDS = "Expected|Does not validate|Problem with|Not a valid|Not of type|Multiple|Type |a class path|a dict "
"""What jsonargparse's own explanations start with; anything else was said by the code that it imported."""
_YAML_WORDS = {"None": "null", "True": "true", "False": "false"}
_YAML_TYPES = {"NoneType": "null", "Iterable": "list", "Sequence": "list", "tuple": "list", "Number": "number"}


class Parser(LightningArgumentParser):
    """An argument parser that takes no abbreviations, refuses null where it means nothing, and says errors in one line.

    The CLI sets ``origin`` (what files say, not what flags say) and ``keys`` (all keys of the verb) before parsing.
    """

    origin: Origin = staticmethod(lambda key: COMMAND_LINE)
    keys: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._reads_files = False

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *args: Any, **kwargs: Any) -> list[str]:
        """Add the parameters of a class, without defaults that are classes, and such that a word stays a word.

        Composition names those classes. As defaults they would bequeath their arguments to the class that replaces
        them: AdamW its weight decay to SGD. And of what is a class or a text (``trainer.accelerator``), jsonargparse
        would take any text for the name of a file, if there is one: ``cpu``, ``auto``.
        """
        keys: list[str] = super().add_lightning_class_args(lightning_class, nested_key, *args, **kwargs)
        parameters = inspect.signature(lightning_class).parameters
        classes = [name for name, parameter in parameters.items() if inspect.isclass(parameter.default)]
        self.set_defaults({key: None for key in keys if key.removeprefix(f"{nested_key}.") in classes})
        for action in self._actions:
            if action.dest in keys and str in get_args(getattr(action, "_typehint", None)):
                setattr(action, "_enable_path", False)  # noqa: B010 - jsonargparse's own
        return keys

    def parse_string(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the composed configuration, which is handed over as text."""
        self._reads_files = True
        try:
            return super().parse_string(*args, **kwargs)
        finally:
            self._reads_files = False

    def validate(self, namespace: Namespace, skip_unset: bool = False, **kwargs: Any) -> None:
        """Check every value; jsonargparse would let null through wherever it stands."""
        super().validate(namespace, skip_unset=False, **kwargs)

    def resolve(self, config: dict[str, Any]) -> dict[str, Any]:
        """Say a composed configuration with everything that it leaves to the defaults."""
        text = self.dump(self.parse_object(config), skip_unset=False, skip_validation=True)
        resolved: dict[str, Any] = yaml.safe_load(text)
        return resolved

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Name a few of the classes that fit a key: of ``torch.nn.Module`` there are some hundred."""
        return _CLASS_LIST.sub(_shorten_list, super().format_help(*args, **kwargs))

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        """Build the configured classes; what one of them says of its arguments is raised as it is."""
        try:
            return super().instantiate(*args, **kwargs)
        except ValueError as error:
            _raise_what_a_class_said(error)
            raise

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what jsonargparse says as one line."""
        if not self.exit_on_error:
            super().error(message, ex)
        for cause in _causes(ex):
            if isinstance(cause, UserError):
                raise cause
        raise UserError(shorten(message, known=self.keys, origin=self._place)) from ex

    def _place(self, key: str) -> str:
        words = [] if self._reads_files else [word[2:].partition("=")[0] for word in self.args if word[:2] == "--"]
        flags = [f"{word.replace('.init_args', '')}." for word in words]
        typed = any(f"{key}.".startswith(flag) or flag.startswith(f"{key}.") for flag in flags)
        return COMMAND_LINE if typed else self.origin(key)


def _shorten_list(found: re.Match[str]) -> str:
    names = found[1].split()
    if len(names) <= _MOST_CLASSES:
        return found[0]
    return "\n".join(["known subclasses:", *(f"{'':24}{name}" for name in names[:_MOST_CLASSES]), f"{'':24}…)"])


def _raise_what_a_class_said(error: ValueError) -> None:
    """Raise what a class said when its construction failed, if this is what jsonargparse made of it."""
    if not str(error).startswith("Does not validate"):
        return
    for cause in _causes(error.__cause__):
        if not re.match(_OWN_WORDS, str(cause)):
            raise cause from None
    if said := re.search(rf"^ +- (?!{_OWN_WORDS})(.*)$", str(error), re.MULTILINE):
        raise UserError(said[1]) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def shorten(message: str, *, known: Iterable[str], origin: Origin) -> str:
    """Turn a message of jsonargparse into one line.

    Args:
        message: As jsonargparse wrote it, often with one line per member of a union.
        known: All keys of the parser, dotted.
        origin: Says where a key was written.
    """
    if match := re.match(r"unrecognized arguments: --([^\s=]+)", message):
        return f"unknown key {match[1]!r}{where(COMMAND_LINE)}{_nearest_key(match[1], known)}"
    if match := re.match(
        r"(?:Group '(\S+)' does not accept option|Subcommand '\S+' does not accept option|Option) '(\S+)'", message
    ):
        key = f"{match[1]}.{match[2]}" if match[1] else match[2]
        return f"unknown key {key!r}{where(origin(key))}{_nearest_key(key, known)}"
    if match := re.match(r"unrecognized arguments: (.*)", message):
        return f"unexpected {match[1]!r}; values follow their key: --key value"
    if match := re.match(r'Linked "(\S+)" must be given via "(\S+)"', message):
        return f"{match[1]} follows {match[2]} and cannot be given"
    if match := re.search(r"argument --([^\s/]+)\S*: expected", message):
        return f"--{match[1]} needs a value"
    if match := re.match(r"Parser key \"(\S+)\":\s+Unable to load config '(.*)'", message):
        return f"{match[1]}={match[2]}{where(COMMAND_LINE)}: give a YAML file, or single keys: --{match[1]}.KEY VALUE"
    key, block = _innermost(message)
    problem = _argument_problem(message, key, origin) or _class_problem(block, key, origin)
    problem = problem or _value_problem(block, key, origin) or re.sub(r"\s+", " ", message).strip()
    # A flag for an argument of a class where no class stands.
    return re.sub(r"=NestedArg\(key='([^']+)', val='?(.*?)'?\)", r".\1=\2", problem)


def _nearest_key(word: str, known: Iterable[str]) -> str:
    """Suggest a key: the only one that ends in the word, or the most similar one."""
    known = [key for key in known if not key.endswith("help")]
    ends = [key for key in known if key.endswith(f".{word}")]
    return f"; did you mean {ends[0]!r}?" if len(ends) == 1 else did_you_mean(word, known)


def _innermost(message: str) -> tuple[str, str]:
    """Find the innermost key that a message is about, and what is said about it; nesting is shown by indentation."""
    path: list[tuple[int, str]] = []
    block: list[str] = []
    for line in message.splitlines():
        match = re.search(r'Parser key "([^"]+)":', line)
        if match:
            path = [(depth, key) for depth, key in path if depth < _depth(line)] + [(_depth(line), match[1])]
            block = [line[match.end() :]]
        elif path and (not line or _depth(line) > path[-1][0]):
            block.append(line)
    return ".".join(key for _, key in path), "\n".join(block)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" -"))


def _argument_problem(message: str, key: str, origin: Origin) -> str:
    """Explain an argument that a class does not take; empty where that is not the matter."""
    match = re.search(r"Option '(\w+)' is not accepted", message)
    if match is None:
        return ""
    class_path = _class_path(message[: match.start()], last=True) or _class_path(message[match.end() :])
    takes = inspect.signature(_import(class_path)).parameters
    if takes and takes.keys() <= {"args", "kwargs", "kwds"}:  # a base class
        return f"{key}{where(origin(key))} {_NEEDS_CLASS}"
    key = f"{key}.{match[1]}"
    return f"unknown key {key!r}{where(origin(key))}: {class_path} does not take it{did_you_mean(match[1], takes)}"


def _class_problem(block: str, key: str, origin: Origin) -> str:
    """Explain a class that cannot be found or does not belong here; empty where that is not the matter."""
    given = f"{key}=%s{where(origin(key))}: %s"
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", block):
        hint = did_you_mean(match[2], dir(importlib.import_module(match[1])))
        return given % (_class_path(block) or f"{match[1]}.{match[2]}", f"{match[1]} has no {match[2]!r}{hint}")
    if match := re.search(r"No module named '([\w.]+)'", block):
        return given % (_class_path(block) or _given(block), f"there is no module {match[1]!r}")
    if match := re.search(r"Import path ([\w.]* ?)does not correspond to a subclass of (\w+)", block):
        return given % (match[1].strip() or _given(block), f"this is no kind of {match[2]}")
    if match := re.search(r"Expected '([\w.]+)' to be a subclass of <class '(?:[\w.]+\.)?(\w+)'>", block):
        return given % (match[1], f"this is no kind of {match[2]}")
    if match := re.search(r"Multiple subclasses with name (\w+)\. .*?: (.*)\.$", block, re.MULTILINE):
        return given % (match[1], f"there are several; give one of {match[2]}")
    if "Expected an instantiatable class" in block:
        return f"{key}{where(origin(key))} {_NEEDS_CLASS}"
    only_class = set(_types(block)) <= {"null", "list", "bool"} and not _choices(block)
    if (match := re.search(r"Expected a dot import path string: (\S+)", block)) and only_class:
        hint = did_you_mean(match[1], _class_names(block, key)) or "; write package.module.Class"
        return given % (match[1], f"there is no such class{hint}")
    if match := re.search(rf"^ +- (?:Type .* callable class: )?(?!{_OWN_WORDS})(.*)$", block, re.MULTILINE):
        return given % (_given(block), f"importing it failed: {match[1]}")
    return ""


def _value_problem(block: str, key: str, origin: Origin) -> str:
    """Explain a value of the wrong type; empty where there is none."""
    value = _given(block)
    if not key or value is None:
        return ""
    types, choices = _types(block), _choices(block)
    takes_class = re.search("Expected a dot import path|Not a valid subclass|Expected an import path", block)
    if takes_class and "torch.Tensor" not in block:  # torch says so of learning rates
        types.append("a class_path")
    *first, last = sorted({*types, *choices}, key=[*choices, *types].index) or ["another type"]
    expected = f"{', '.join(first)} or {last}" if first else last
    hint = did_you_mean(value, choices) or ("; quote it to make it text" if "str" in types else "")
    return f"{key}={value}{where(origin(key))}: expected {expected}{hint}"


def _given(block: str) -> str | None:
    match = re.search(r"(?:Given|Got) value: (.*?)(?:\. Got value.*)?$", block, flags=re.MULTILINE)
    if match is None:
        return None
    spec = re.match(r"{'class_path': '([\w.]+)'", match[1])
    return spec[1] if spec else _YAML_WORDS.get(match[1], match[1])


def _types(block: str) -> list[str]:
    """List the types that would do, in YAML's words."""
    found = re.findall(r"Expected an? (?:<class '(?:[\w.]+\.)?(\w+)'>|tuple with (\d+) elements)", block)
    return [f"list of {size}" if size else _YAML_TYPES.get(name, name) for name, size in found]


def _choices(block: str) -> list[str]:
    """List the words that would do."""
    literals = re.findall(r"Expected a typing\.Literal\[(.*?)\](?:\.|$)", block, flags=re.MULTILINE)
    return [choice.strip(" '\"") for literal in literals for choice in literal.split(",")]


def _class_path(text: str, *, last: bool = False) -> str:
    found = re.findall(r"class_path(?:=| )'([\w.]+)'", text)
    return str(found[-1 if last else 0]) if found else ""


def _class_names(block: str, key: str) -> set[str]:
    """Name the loaded classes that a key could stand for."""
    subtypes = re.findall(r"<class '(\w+\.[\w.]+)'>", block)
    kinds = _CALLABLES.get(key) or [_import(path) for path in subtypes]
    return {kind.__name__ for each in kinds for kind in _with_subclasses(each)}


def _with_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for child in type.__subclasses__(kind):
        yield from _with_subclasses(child)


def _import(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def callback_keys(configured: Mapping[str, Any]) -> Iterator[tuple[str, type[Callback], str]]:
    """List the keys that ``callbacks:`` may have: name, type and what it is for.

    A shipped callback's own type keeps its help short; whatever else stands there may be any callback.

    Args:
        configured: What the composed configuration has there.
    """
    for name in dict.fromkeys([*CALLBACKS, *configured]):
        shipped = CALLBACKS.get(name)
        class_path = (configured.get(name) or {}).get("class_path", shipped)
        kind: type[Callback] = Callback
        if shipped is not None and class_path == shipped:
            module, _, attribute = shipped.rpartition(".")
            kind = getattr(importlib.import_module(module), attribute)
        yield name, kind, (kind.__doc__ or "").strip().splitlines()[0]

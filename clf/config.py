"""Composition of YAML files: parts, inheritance and dotted keys become one plain mapping.

An experiment inherits (``config: base.yaml`` or a list of bases), names parts (``trainer: trainer/t4.yaml``: the file
holds the body of that key) and overrides with nested or dotted keys. Mappings merge by key, lists are replaced. A
change of ``class_path`` drops the old ``init_args``; keys beside no ``class_path`` are ``init_args`` of the class that
stands there. That last pair of rules holds at every level of the merge, which is why the merge is written here and not
taken from a library. Typing and validation are jsonargparse's job.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.errors import UserError, did_you_mean
from clf.yamlfile import SHIPPED, Key, display, find_config, is_yaml_name, load_yaml

COMMAND_LINE = "--"
"""How the origins of what was typed start."""

CALLBACKS = {
    "calibration": "clf.callbacks.calibration.Calibration",
    "checkpoint": "clf.callbacks.checkpoint.Checkpoint",
    "confusion_matrix": "clf.callbacks.confusion_matrix.ConfusionMatrix",
    "early_stopping": "clf.callbacks.early_stopping.EarlyStopping",
    "ema": "clf.callbacks.ema.EMA",
    "history": "clf.callbacks.history.History",
    "interrupt": "clf.callbacks.interrupt.Interrupt",
    "lr_monitor": "lightning.pytorch.callbacks.LearningRateMonitor",
    "mistakes": "clf.callbacks.mistakes.Mistakes",
    "model_info": "clf.callbacks.model_info.ModelInfo",
    "model_summary": "clf.callbacks.model_summary.ModelSummary",
    "non_finite": "clf.callbacks.non_finite.NonFinite",
    "onnx_export": "clf.callbacks.onnx_export.OnnxExport",
    "predictions": "clf.callbacks.predictions.Predictions",
    "progress": "clf.callbacks.progress.Progress",
    "report": "clf.callbacks.report.Report",
    "samples": "clf.callbacks.samples.Samples",
    "sampler_distribution": "clf.callbacks.sampler_distribution.SamplerDistribution",
    "statistics": "clf.callbacks.statistics.Statistics",
    "timing": "clf.callbacks.timing.Timing",
}
"""Name under ``callbacks:`` -> the class it stands for."""

GROUPS = ("trainer", "model", "data", "callbacks")
"""Keys that hold keys, or name a file that does."""
_CLASS_NAME = re.compile(r"(\w+\.)+\w+|[A-Z]\w*")
_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}


@dataclass(frozen=True)
class Layer:
    """A mapping that did not come from a file, e.g. what the command line or a checkpoint says.

    Args:
        values: Nested or dotted keys; values may name parts.
        origin: What to call it in messages.
    """

    values: Mapping[str, Any]
    origin: str


@dataclass(frozen=True)
class Composed:
    """A composed configuration.

    Args:
        config: The merged mapping: no ``config:`` keys, parts or dotted keys are left in it.
        origins: What wrote each dotted key, in the order in which it was merged; for groups, parts included.
    """

    config: dict[str, Any]
    origins: dict[str, list[str]]

    def origin(self, key: str) -> str:
        """Name what wrote a dotted key last; empty for a key that no file mentions."""
        parts = [part for part in key.split(".") if part != "init_args"]
        while parts and ".".join(parts) not in self.origins:
            parts.pop()
        return self.origins[".".join(parts)][-1] if parts else ""

    def as_text(self) -> str:
        """Write the configuration for the parser: as JSON, for YAML would read a quoted "1e-3" as a number again.

        What JSON writes as two escapes, an emoji, is one in YAML.
        """

        def join(pair: re.Match[str]) -> str:
            character = json.loads(f'"{pair[0]}"')
            return f"\\U{ord(character):08x}"

        return re.sub(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", join, json.dumps(self.config))

    def describe_origins(self) -> list[str]:
        """Say for each top-level key which files it came from, e.g. ``data: configs/defaults.yaml, my.yaml``."""
        return [f"{key}: {', '.join(files)}" for key, files in sorted(self.origins.items()) if "." not in key]


def compose(layers: Iterable[Path | Layer]) -> Composed:
    """Merge layers from left to right over ``configs/defaults.yaml``.

    Args:
        layers: Files, or mappings from elsewhere; later ones win.
    Raises:
        UserError: For a file that is missing, malformed, circular or holds a key twice; names file and line.
    """
    composer = _Composer()
    config: dict[str, Any] = {}
    for layer in [SHIPPED / "defaults.yaml", *layers]:
        config = composer.load(layer, under=config) if isinstance(layer, Path) else composer.read(layer, under=config)
    merged = Composed(config, composer.origins)
    return Composed(_complete(merged), composer.origins)


def merge(base: Any, over: Any) -> Any:
    """Lay one value over another.

    Args:
        base: What stands there.
        over: What is laid over it; null and lists replace, mappings merge by key, and over a class the name of another
            (``pkg.Class`` or ``Class``) replaces it, while a plain word is a value like any other.
    Returns:
        The merged value; neither argument is changed.
    """
    if isinstance(base, dict) and "class_path" in base and isinstance(over, str) and _CLASS_NAME.fullmatch(over):
        over = {"class_path": over}
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "class_path" in over:
        if not _same_class(base.get("class_path"), over["class_path"]):
            return over
        over = {**over, "class_path": max(base["class_path"], over["class_path"], key=len)}
    elif "class_path" in base and over and not _CLASS_KEYS & over.keys():
        over = {"init_args": over}
    return {**base, **{key: merge(base[key], value) if key in base else value for key, value in over.items()}}


def _same_class(one: str | None, other: str) -> bool:
    """Tell whether two spellings can mean one class: ``AdamW`` and ``torch.optim.AdamW``."""
    return one is not None and f".{one}".endswith(f".{other}") | f".{other}".endswith(f".{one}")


@dataclass(frozen=True)
class _Place:
    """Where a value stands: its folder, the files that led there (itself last), and what to call it."""

    folder: Path
    stack: tuple[Path, ...]
    origin: str


class _Composer:
    """One composition: resolves parts and bases, and remembers which file wrote which group."""

    def __init__(self) -> None:
        self.origins: dict[str, list[str]] = {}

    def load(self, path: Path, *, under: Any, stack: tuple[Path, ...] = (), key: str = "") -> Any:
        """Read a file and lay it over ``under`` as the value of ``key`` (empty: a whole experiment)."""
        real = path.resolve()
        if real in stack:
            chain = " -> ".join(display(step) for step in [*stack[stack.index(real) :], real])
            raise UserError(f"circular config: {chain}; a file cannot inherit from itself")
        body = load_yaml(path)
        if not key and not isinstance(body, dict | None):
            raise UserError(f"{display(path)}: expected keys and values at the top level, found {type(body).__name__}")
        if key:
            self._note(key.split(".")[0], display(path))
        place = _Place(path.parent, (*stack, real), display(path))
        return self._resolve(body or {}, place, key=key, under=under)

    def read(self, layer: Layer, *, under: Any) -> Any:
        """Lay a mapping that came from no file over ``under``; names of parts are relative to the working folder."""
        return self._resolve(dict(layer.values), _Place(Path(), (), layer.origin), key="", under=under)

    def _resolve(self, value: Any, place: _Place, *, key: str, under: Any) -> Any:
        """Replace every part named below ``value`` by its content and expand dotted keys."""

        def resolve(child: Any, child_key: str) -> Any:
            return self._resolve(child, place, key=child_key, under={})

        if is_yaml_name(value):
            return self._load(value, place, key=key, under=under)
        if isinstance(value, list):
            return [resolve(item, key) if is_yaml_name(item) else item for item in value]
        if not isinstance(value, dict):
            return value
        groups = _expand(value, place.origin)
        merged = under
        for base in _pop_bases(groups, place.origin, top=not key):
            merged = self._load(base, place, key=key, under=merged)
        own: dict[str, Any] = {}
        for name, parts in groups.items():
            child_key = f"{key}.{name}".lstrip(".")
            for part in parts:
                # What a class is built with belongs to the class: a path to a YAML file in there is left alone.
                child = part if name == "init_args" else resolve(part, child_key)
                if key == "callbacks" and isinstance(child, str):
                    child = {"class_path": child}
                if key == "callbacks" and isinstance(child, dict) and not _CLASS_KEYS & child.keys():
                    child = {"init_args": child}
                own[name] = merge(own.get(name), child)
            self._note(child_key, place.origin)
        return merge(merged, _tidy(own))

    def _load(self, name: str, place: _Place, *, key: str, under: Any) -> Any:
        return self.load(find_config(name, near=place.folder), under=under, stack=place.stack, key=key)

    def _note(self, key: str, origin: str) -> None:
        self.origins[key] = [*(earlier for earlier in self.origins.get(key, []) if earlier != origin), origin]


def _tidy(value: dict[str, Any]) -> dict[str, Any]:
    """Move bare keys that stand beside ``class_path`` or ``init_args`` to the arguments that they are."""
    spec = {key: value[key] for key in value if key in _CLASS_KEYS}
    bare = {key: value[key] for key in value if key not in _CLASS_KEYS}
    return {**spec, "init_args": merge(spec.get("init_args", {}), bare)} if spec and bare else value


def _expand(mapping: Mapping[str, Any], origin: str) -> dict[str, list[Any]]:
    """Group values by the first part of their key: the name of a part, if there is one, then what stands beside it."""
    groups: dict[str, list[Any]] = {}
    for key in sorted(mapping, key=lambda key: key.count(".")):
        place = f"{origin}:{key.line}" if isinstance(key, Key) else origin
        head, *rest = key.split(".")
        if not all((head, *rest)):
            raise UserError(f"{place}: the key {key!r} has an empty part")
        value = mapping[key]
        for part in reversed(rest):
            value = {part: value}
        for earlier in groups.setdefault(head, []):
            if (twice := _overlap(earlier, value, head)) is not None:
                raise UserError(f"{place}: the key {twice!r} is given twice")
        groups[head] = _join([*groups[head], value])
    return groups


def _join(values: list[Any]) -> list[Any]:
    """Join mappings that say nothing twice; the name of a part stays apart, as what stands beside it overrides it."""
    names = [value for value in values if not isinstance(value, dict)]
    keys: dict[str, list[Any]] = {}
    for name, below in [item for value in values if isinstance(value, dict) for item in value.items()]:
        keys[name] = _join([*keys.get(name, []), below])
    joined: dict[str, Any] = {}
    for name, (first, *beside) in keys.items():
        joined[name] = first
        joined |= {f"{name}.{key}": value for mapping in beside for key, value in mapping.items()}
    return [*names, joined] if keys or not names else names


def _overlap(earlier: Any, later: Any, key: str) -> str | None:
    """Find the key that two values of one file both set; what a part says may be set again."""
    taken = dict(_leaves(earlier, key))
    for name in dict(_leaves(later, key)):
        for other in taken:
            if name == other or (name.startswith(f"{other}.") and not is_yaml_name(taken[other])):
                return other
            if other.startswith(f"{name}."):
                return name
    return None


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Walk over what a value sets, however it is written: dotted, nested, with or without ``init_args``."""
    if not isinstance(value, dict):
        yield ".".join(part for part in key.split(".") if part != "init_args"), value
    else:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}")


def _pop_bases(groups: dict[str, list[Any]], origin: str, *, top: bool) -> list[str]:
    """Take the names of the inherited files out of a mapping; below the top, ``config`` may be a class's own key."""
    bases = groups.get("config", [[]])
    names = bases[0] if isinstance(bases[0], list) else bases
    if not all(map(is_yaml_name, names)):
        if not top:
            return []
        raise UserError(f"{origin}: config={bases[0]!r} must be the name of a YAML file or a list of such names")
    groups.pop("config", None)
    return names


def _complete(composed: Composed) -> dict[str, Any]:
    """Check the shape of the groups and name the class of each shipped callback."""
    config = composed.config
    for group in GROUPS:
        if not isinstance(config.get(group, {}), dict):
            given = f"{group}={json.dumps(config[group])}{where(composed.origin(group))}"
            raise UserError(f"{given} must hold keys and values, or name a YAML file that does")
    callbacks = {name: _callback(name, value, composed) for name, value in config.get("callbacks", {}).items()}
    return {**config, "callbacks": callbacks}


def _callback(name: str, value: Any, composed: Composed) -> Any:
    """Check one callback and name its class."""
    key = f"callbacks.{name}"
    place = where(composed.origin(key))
    if isinstance(value, dict) and "class_path" in value:
        return value
    if not isinstance(value, dict | None):
        raise UserError(f"{key}={json.dumps(value)}{place} must be null (off) or hold the callback's keys")
    if name in CALLBACKS:
        return None if value is None else {"class_path": CALLBACKS[name], **value}
    hint = did_you_mean(name, CALLBACKS, cutoff=0.6 if value is not None else 0.8)
    named = any(other.startswith(f"{key}.") for other in composed.origins)
    if value is None and (named or not hint):  # switching off what is not there is no mistake, a misprint is
        return None
    raise UserError(f"{key}{place} is no shipped callback and has no class_path{hint}")


def where(origin: str) -> str:
    """Put an origin behind a key in a message, e.g. `` (in configs/resnet18.yaml)``."""
    return " (on the command line)" if origin.startswith(COMMAND_LINE) else f" (in {origin})"


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted keys; an empty mapping is a value."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= flatten(item, f"{key}.{name}".lstrip("."))
    return flat

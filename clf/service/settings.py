"""What the service can be told: one table of settings, each a flag and a variable of the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from PIL import Image

from clf.cores import usable_cores
from clf.errors import UserError, did_you_mean
from clf.predictor import DEVICES

PREFIX = "CLF_"
"""What the name of a variable starts with; the rest is the setting's name."""

# The command line's, the tests', and those of docker-compose.yml.
_ELSEWHERE = {"CLF_DEBUG", "CLF_SHARED_DATA", "CLF_MODELS", "CLF_MODEL_NAME", "CLF_PUBLISH", "CLF_STOP"}
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # beyond them Pillow refuses images, whatever we say
_LEVELS = ("debug", "info", "warning", "error")


def _setting(default: Any, text: str, **rules: Any) -> Any:
    return field(default=default, metadata={"text": text, **rules})


@dataclass(frozen=True)
class Settings:
    """How the service runs; every value is checked when it is made.

    Each field is a flag (``--max_bytes``) and a variable (``CLF_MAX_BYTES``); the flag wins. ``api_key`` has no flag:
    command lines can be read by everybody on the machine.

    Raises:
        UserError: If a value is out of its range, with key, value and what to do.
    """

    model: str = _setting("", "the ONNX file, the folder of an export, or a run directory; may appear later")
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 lets other machines in")
    port: int = _setting(8000, "port to listen on; 0 takes a free one", least=0, most=65535)
    workers: int = _setting(1, "processes, each with its own copy of the model", least=1, most=256)
    device: str = _setting("auto", "where the model runs", choices=DEVICES)
    threads: int = _setting(
        0, "threads of the network in each process on a CPU; 0 shares the cores out", least=0, most=1024
    )
    log_level: str = _setting("info", "how much is logged; requests are logged from info on", choices=_LEVELS)
    api_key: str = _setting("", "when set, requests need it (X-API-Key, or Authorization: Bearer)", flag=False)
    max_bytes: int = _setting(20_000_000, "largest body of a request, in bytes", least=1)
    max_pixels: int = _setting(
        50_000_000, "largest image, in pixels; refused by its header", least=1, most=_MOST_PIXELS
    )
    max_files: int = _setting(32, "most images in one batch request", least=1)
    queue: int = _setting(64, "most images at work or waiting in each process; more are told to come back", least=1)
    timeout: float = _setting(30.0, "seconds a request may take", above=0.0)
    batch_size: int = _setting(8, "most images that go through the network at once; 1: no batching", least=1)
    batch_wait: float = _setting(0.002, "seconds that a batch waits for images still being decoded", least=0.0)
    uploads_dir: str = _setting("", "folder to keep uploaded images in; empty: they are not kept")
    processed_dir: str = _setting("", "folder to keep results in; empty: they are not kept")
    keep: int = _setting(10_000, "most files kept in each of those folders; the oldest go first", least=1)

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, getattr(self, each.name), each.metadata)
        if self.max_files > self.queue:
            raise UserError(f"max_files={self.max_files} is more than queue={self.queue}; lower one or raise the other")
        kept = self.uploads_dir, self.processed_dir
        if all(kept) and Path(kept[0]).resolve() == Path(kept[1]).resolve():
            raise UserError(f"uploads_dir={kept[0]!r} and processed_dir={kept[1]!r} are one folder; name two")

    @classmethod
    def read(cls, flags: Mapping[str, str], environment: Mapping[str, str]) -> Self:
        """Take settings from flags, where there is none from the environment, and else the defaults.

        Args:
            flags: Name of a setting -> what was typed.
            environment: ``CLF_*`` variables among others; an empty one is none.
        Raises:
            UserError: If a value is not what it must be, or a variable looks like the misspelt name of a setting.
        """
        types = {each.name: type(each.default) for each in fields(cls)}
        variables = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value}
        known = {f"{PREFIX}{name.upper()}": name for name in types}
        for name in variables.keys() - known.keys() - _ELSEWHERE:
            if near := did_you_mean(name, known, cutoff=0.8):
                raise UserError(f"{name} is no setting of the service{near}")
        texts = {known[name]: (name, value) for name, value in variables.items() if name in known}
        texts |= {name: (f"--{name}", value) for name, value in flags.items()}
        return cls(**{name: _parse(key, value, types[name]) for name, (key, value) in texts.items()})

    def to_environment(self) -> dict[str, str]:
        """Say all as variables, for processes that are started; `read` gives equal settings again."""
        return {f"{PREFIX}{each.name.upper()}": str(getattr(self, each.name)) for each in fields(self)}

    @property
    def network_threads(self) -> int:
        """Threads of the network in each process: what is set, or this process's share of the cores."""
        return self.threads or max(1, usable_cores() // self.workers)


def _parse(key: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"{key}={text!r} is not {wanted}; write e.g. {key}={8 if kind is int else 0.5}") from error


def _check(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    said = f"{name}={value!r}"
    if "choices" in rules and value not in rules["choices"]:
        raise UserError(f"{said} is none of {', '.join(rules['choices'])}{did_you_mean(str(value), rules['choices'])}")
    if "above" in rules and not rules["above"] < value < float("inf"):
        raise UserError(f"{said} must be more than {rules['above']:g}")
    if "least" in rules and not rules["least"] <= value <= rules.get("most", float("inf")):
        most = f" and at most {rules['most']}" if "most" in rules else ""
        raise UserError(f"{said} must be {rules['least']:g} or more{most}")
    if name == "api_key" and value != value.strip():
        raise UserError("api_key begins or ends with a space, which no header can carry; leave it out")
    if name == "host" and not value:
        raise UserError(f"{said} would let all machines in; write 127.0.0.1, or 0.0.0.0 if they shall come in")
    if name == "api_key" and not (value.isascii() and value.isprintable()):
        raise UserError("api_key has characters that no header can carry; use printable ASCII")
    if name.endswith("_dir") and os.path.exists(value) and not os.path.isdir(value):
        raise UserError(f"{said} is a file; name a folder")

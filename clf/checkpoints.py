"""What of ours travels in a checkpoint: the facts that rebuild and check a classifier, as primitives."""

import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from textwrap import shorten
from typing import Any

from clf.errors import UserError, first_line, name_some
from clf.preprocess import Preprocessing

KEY = "clf"
"""Where the facts stand in the checkpoint's dictionary."""

FORMAT = 1
_END = 1 << 20  # bytes


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says about its classifier.

    Args:
        classes: Class names; position is the index of the logit.
        network: What was built: ``{"arch": "resnet18", …}`` for timm models (init arguments of the Classifier), or
            ``{"class_path": …}`` for a network of the user's own.
        preprocessing: The evaluation preprocessing, field by field.
        weights_from: Where the weights came from before training, e.g. ``random`` or a file.
        temperature: What logits are divided by for calibrated probabilities; 1 where none was fitted.
    """

    classes: list[str]
    network: dict[str, Any]
    preprocessing: dict[str, Any]
    weights_from: str
    temperature: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Turn into primitives that load with ``weights_only=True``."""
        return {"format": FORMAT, **asdict(self)}


def read_facts(path: Path) -> Facts:
    """Read the facts of a checkpoint file; the weights stay on disk and nothing in the file is executed.

    Raises:
        UserError: If the file is corrupt, holds more than tensors and primitives, or is not one of ours.
    """
    checkpoint = _load(path)
    facts = checkpoint.get(KEY) if isinstance(checkpoint, Mapping) else None
    if not isinstance(facts, Mapping):
        raise UserError(f"checkpoint {path} was not written by clf (it has no {KEY!r} entry)")
    if facts.get("format") != FORMAT:
        raise UserError(f"checkpoint {path} has format {facts.get('format')!r}; this version of clf reads {FORMAT}")
    facts = {"temperature": 1.0, **facts}  # earlier versions fitted none
    if missing := [name for name in Facts.__dataclass_fields__ if name not in facts]:
        raise UserError(f"checkpoint {path} is corrupt: its {KEY!r} entry lacks {', '.join(missing)}")
    for name, is_right in _IS_RIGHT.items():
        if not is_right(facts[name]):
            shown = shorten(repr(facts[name]), 60, placeholder=" …")
            raise UserError(f"checkpoint {path} is corrupt: its {KEY!r} entry says {name}={shown}")
    return Facts(**{name: facts[name] for name in Facts.__dataclass_fields__})


def _are_classes(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return texts and len(set(value)) == len(value) > 1


def _is_network(value: Any) -> bool:
    """Tell whether a network is said in a plain name: what looks like a file must never reach the configuration."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    [(key, name)] = value.items()
    return key in ("arch", "class_path") and isinstance(name, str) and re.fullmatch(_NAME, name) is not None


def _is_preprocessing(value: Any) -> bool:
    try:
        return isinstance(value, dict) and asdict(Preprocessing(**value)).keys() == value.keys()
    except (OverflowError, TypeError, UserError):
        return False


_NAME = r"(?!.*\.ya?ml$)[\w.<>-]+"
_IS_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "classes": _are_classes,
    "network": _is_network,
    "preprocessing": _is_preprocessing,
    "weights_from": lambda value: isinstance(value, str),
    "temperature": lambda value: type(value) in (int, float) and 0 < value < math.inf,
}
"""What each fact has to look like before anything is done with it."""


def read_step(path: Path) -> int:
    """Read how many optimizer steps the weights in a checkpoint have seen: that names them within their run."""
    return int(_load(path)["global_step"])


def holds_training(path: Path) -> bool:
    """Tell whether training can go on from a checkpoint: some hold only the weights."""
    return "optimizer_states" in _load(path)


def read_weights(path: Path) -> dict[str, Any]:
    """Read the weights of a checkpoint that are scored, by their names in the classifier; they stay on disk until used.

    Raises:
        UserError: If the file is corrupt.
    """
    return dict(_load(path)["state_dict"])


def fingerprint(path: Path) -> str:
    """Hash what tells two checkpoints apart: size and end, where an archive has the checksums of all that is in it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END))
        return blake2b(file.read() + str(size).encode(), digest_size=16).hexdigest()


def _load(path: Path) -> Any:
    import torch

    _require_archive(path)
    try:
        return torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:  # damaged bytes can mean anything; what torch says of them is advice to load them anyway
        raise UserError(
            f"checkpoint {path} is corrupt, or holds code beside plain values; give another --ckpt_path"
        ) from error


def _require_archive(path: Path) -> None:
    """Refuse what is no whole zip archive: torch's own words for that are about its options."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if not _is_archive(path):
        reason = "cut off" if start == b"PK" else "another kind of file" if start else "empty"
        raise UserError(
            f"checkpoint {path} is corrupt or no checkpoint at all: the file is {reason}; give another --ckpt_path"
        )


def _is_archive(path: Path) -> bool:
    """Tell whether a file is a zip archive; refuse one that would be more in memory than it is on disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):  # of damaged directories
        return False
    if sum(each.file_size for each in entries) > path.stat().st_size:
        raise UserError(f"checkpoint {path} is packed, as clf writes none: it could fill the memory; give another one")
    return True


@contextmanager
def restoring(trainer: Any, path: Path | None) -> Iterator[None]:
    """Say that it is the checkpoint's fault where a trainer cannot restore what it holds.

    Args:
        trainer: Lightning's; restores and works inside the block.
        path: The checkpoint; None where there is none.
    Raises:
        UserError: Names the checkpoint and what failed.
    """
    try:
        yield
    except Exception as error:
        # Lightning lets go of what it has read when all of that is restored.
        if isinstance(error, UserError) or not trainer._checkpoint_connector._loaded_checkpoint:
            raise
        if ended := re.search(r"current_epoch=(\d+), .*max_epochs=(\d+)", str(error)):
            done, most = ended.groups()
            said = f"checkpoint {path} has {done} epochs behind it, and trainer.max_epochs={most}; raise that to go on"
            raise UserError(said) from error
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"checkpoint {path} cannot be restored ({reason}); give another --ckpt_path") from error


def describe_mismatch(saved: Facts, current: Facts) -> list[str]:
    """Name every difference that makes a checkpoint unfit for a classifier.

    Returns:
        One clause per difference; empty when the checkpoint fits.
    """
    differences = []
    if saved.classes != current.classes:
        missing = [name for name in saved.classes if name not in current.classes]
        extra = [name for name in current.classes if name not in saved.classes]
        parts = [f"{len(saved.classes)} classes there, {len(current.classes)} here"]
        parts += [f"only there: {name_some(missing, 5)}"] if missing else []
        parts += [f"only here: {name_some(extra, 5)}"] if extra else []
        parts += [] if missing or extra else ["in another order"]
        differences.append(f"classes ({'; '.join(parts)})")
    for kind in ("network", "preprocessing"):
        there, here = getattr(saved, kind), getattr(current, kind)
        changed = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
        differences += [f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)" for key in changed]
    return differences


def require_fitting(saved: Facts, current: Facts, *, checkpoint: Path) -> None:
    """Refuse a checkpoint that is unfit for a classifier.

    Args:
        saved: What the checkpoint says about its classifier.
        current: What the classifier says about itself.
        checkpoint: The file.
    Raises:
        UserError: Naming each difference, or the network that only a configuration may name.
    """
    if "class_path" in saved.network and "arch" in current.network:
        raise UserError(
            f"{checkpoint} holds a network of your own, {saved.network['class_path']}; "
            "nothing is imported because a checkpoint says so: give its configuration with --config"
        )
    if differences := describe_mismatch(saved, current):
        raise UserError(
            f"{checkpoint} does not fit this configuration and data: {', '.join(differences)}; "
            "use those it was trained with, or start a new run"
        )

"""An exported model on disk: the ONNX file, the labels beside it, and the proof that they belong together."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from clf.errors import UserError, did_you_mean
from clf.files import open_whole, sha256
from clf.preprocess import Preprocessing

MODEL, SIDECAR, CARD = "model.onnx", "labels_mapping.json", "README.md"
"""What the files of an export are called."""

INPUT, OUTPUT = "input", "logits"
"""What the graph calls its input and its output; with everything embedded the output is called `PROBABILITIES`."""
PROBABILITIES = "probabilities"

METADATA = "clf"
"""Key of the metadata in the ONNX file: one JSON text."""

_MOST_BYTES = 64 << 20  # of labels; what has more is something else

_SAID_TWICE = ("classes", "preprocessing", "embed", "temperature")
"""What stands in the metadata and in the sidecar."""

Embed = Literal["none", "normalize", "full"]
"""What lies in the graph: nothing more; the normalisation; or all from 8-bit pixels on, temperature and softmax too."""


@dataclass(frozen=True)
class Exported:
    """What an export says about itself.

    Args:
        path: The ONNX file.
        sha256: Of the file, as hexadecimal digits.
        classes: Class names; position is the index of the logit.
        preprocessing: What an image goes through, in the graph or before it.
        embed: What of it lies in the graph.
        temperature: By which logits are divided for calibrated probabilities.
        facts: What else the file says: metrics, versions, run, data.
    """

    path: Path
    sha256: str
    classes: list[str]
    preprocessing: Preprocessing
    embed: Embed
    temperature: float
    facts: Mapping[str, Any]


def labels_mapping(classes: list[str], preprocessing: Preprocessing) -> dict[str, Any]:
    """Say what logits mean and what the network must be fed with.

    Args:
        classes: Class names by index.
        preprocessing: The network's.
    """
    return {
        "num_classes": len(classes),
        "class_to_idx": {name: index for index, name in enumerate(classes)},
        "idx_to_class": {str(index): name for index, name in enumerate(classes)},
        **preprocessing.to_dict(),
        "model_sha256": None,
    }


def sidecar_text(
    path: Path, classes: list[str], preprocessing: Preprocessing, *, embed: Embed, temperature: float
) -> str:
    """Write what goes beside an ONNX file: the content of ``labels_mapping.json``.

    Args:
        path: The ONNX file, as it will stay.
        classes: Class names by index.
        preprocessing: The network's.
        embed: What lies in the graph.
        temperature: The run's.
    """
    said = {"model_sha256": sha256(path), "embed": embed, "temperature": temperature}
    return json.dumps(labels_mapping(classes, preprocessing) | said, indent=2, ensure_ascii=False) + "\n"


def find_model(place: str | Path) -> Path:
    """Find the ONNX file that a path means: itself, or the one in an export's folder.

    Raises:
        UserError: If there is none.
    """
    path = Path(place)
    if os.path.isdir(path):  # not Path.is_dir: it raises what a path of too many characters does
        path = path / MODEL if (path / MODEL).is_file() or not (path / "export").is_dir() else path / "export" / MODEL
    if not os.path.isfile(path):
        found = [*path.parent.glob("*.onnx"), *path.parent.glob("export/*.onnx")]
        hint = did_you_mean(str(path), [str(each) for each in found if each != path])
        raise UserError(f"model {str(path)!r} does not exist{hint}; `clf export` makes one")
    return path.resolve() if path.is_symlink() else path  # what belongs to it lies beside the file, not beside the link


def is_export(folder: Path) -> bool:
    """Tell whether a folder was written by ``clf export``, as its labels say; whether it is whole is not looked at."""
    try:
        sidecar = _read_sidecar(folder / SIDECAR)
    except UserError:
        return False
    return sidecar["model_sha256"] is not None


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read what lies beside an ONNX file, before the file itself is opened by anything but its hash.

    Args:
        path: The ONNX file.
    Raises:
        UserError: If the sidecar is missing or damaged, or was made for another file.
    """
    sidecar = _read_sidecar(path.with_name(SIDECAR))
    digest = sha256(path)
    if sidecar["model_sha256"] != digest:
        raise UserError(
            f"{path} and {SIDECAR} do not belong together: the file's SHA-256 is {digest[:12]}…, the sidecar speaks of "
            f"{str(sidecar['model_sha256'])[:12]}…; copy both from one export, or export again"
        )
    return sidecar


def read_exported(path: Path, *, sidecar: Mapping[str, Any], metadata: Mapping[str, str]) -> Exported:
    """Say what an export is, from both of its files.

    Args:
        path: The ONNX file.
        sidecar: What `read_sidecar` gave.
        metadata: The custom metadata in the ONNX file.
    Raises:
        UserError: If the two say different things.
    """
    if METADATA not in metadata:
        raise UserError(f"{path} was not written by clf export: it has no {METADATA!r} metadata")
    try:
        facts = json.loads(metadata[METADATA])
        differing = [key for key in _SAID_TWICE if facts[key] != _said(sidecar, key)]
        if not 0 < facts["temperature"] < math.inf:
            raise ValueError(f"temperature={facts['temperature']}")
        if not all(isinstance(name, str) for name in facts["classes"]):
            raise ValueError("a class has a name that is no text")
        rest = {key: value for key, value in facts.items() if key not in _SAID_TWICE}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} or {SIDECAR} is damaged ({what}); copy both again, or export again") from error
    if differing:
        raise UserError(
            f"{path} and {SIDECAR} disagree about {differing[0]}; copy both from one export, or export again"
        )
    preprocessing = Preprocessing.from_dict(facts["preprocessing"])
    return Exported(
        path, sidecar["model_sha256"], facts["classes"], preprocessing, facts["embed"], facts["temperature"], rest
    )


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        with open_whole(path, most=_MOST_BYTES) as file:
            sidecar = json.loads(file.read().decode())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; copy it from where the model was exported, or export again") from error
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy it from the export, or export again") from error
    if not isinstance(sidecar, dict):
        raise UserError(f"{path} is no mapping; copy it from the export, or export again")
    lacking = [
        key
        for key in ("idx_to_class", "normalization", "input", "embed", "temperature", "model_sha256")
        if key not in sidecar
    ]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}; copy it from the export, or export again")
    if sidecar["embed"] not in get_args(Embed):
        raise UserError(f"{path}: embed={sidecar['embed']!r} is none of {', '.join(get_args(Embed))}; export again")
    return dict(sidecar)


def _said(sidecar: Mapping[str, Any], key: str) -> Any:
    """Look up in the sidecar what the file's metadata says under a key."""
    if key == "classes":
        names = sidecar["idx_to_class"]
        return [names.get(str(index)) for index in range(len(names))]
    if key == "preprocessing":
        return {block: sidecar[block] for block in ("normalization", "input")}
    return sidecar[key]

"""The rendered dataset: needs no download, is written whole or not at all; a source of samples and ``clf synth``."""

import argparse
import hashlib
import json
import logging
import re
import secrets
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

import numpy as np

from clf.data.jersey import RENDERER, render
from clf.data.samples import Sample, Split
from clf.errors import UserError, did_you_mean
from clf.progressbar import watched

logger = logging.getLogger("clf")

CLASSES: Final = ("0", "00", "1", "2", "3", "5", "7", "8", "10", "11", "23", "45")
FOLDERS: Final[dict[Split, str]] = {"train": "train", "val": "valid", "test": "test"}
ANNOTATIONS: Final = "annotations.jsonl"
SPEC_FILE: Final = "synthetic.json"
FLAGS: Final = {
    "train_per_class": "training images of each class",
    "val_per_class": "validation images of each class",
    "test_per_class": "test images of each class",
    "seed": "decides every image",
    "size_min": "smallest image height in pixels",
    "size_max": "largest image height in pixels",
    "degradation": "what camera and codec spoil, from 0 (nothing) to 1 (cruel)",
    "rotation": "largest turn in degrees to either side",
}


@dataclass(frozen=True)
class SyntheticJerseys:
    """Rendered jersey numbers, drawn on first use; needs no download and no network.

    Args:
        classes: Jersey numbers, each text of one to three digits.
        train_per_class: Training images of each class.
        val_per_class: Validation images of each class.
        test_per_class: Test images of each class.
        seed: Decides every image; no image of one split is drawn again in another.
        size_min: Smallest image height in pixels; widths are 0.85 to 1 of the height.
        size_max: Largest image height in pixels.
        degradation: How much camera and codec spoil (downscaling, blur, noise, JPEG), from 0 (nothing) to 1 (cruel).
        rotation: Largest turn of a number, in degrees to either side.
        folder: Where the images lie; by default ``data/synthetic-<hash of all of the above>`` in the working folder.
    """

    classes: Sequence[str] = CLASSES
    train_per_class: int = 150
    val_per_class: int = 20
    test_per_class: int = 20
    seed: int = 42
    size_min: int = 36
    size_max: int = 60
    degradation: float = 0.5
    rotation: float = 10.0
    folder: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, naming key, value and fix."""
        for label in self.classes:
            if label != str(label) or not re.fullmatch("[0-9]{1,3}", label):  # YAML reads 00 as the number 0
                raise UserError(f'classes has {label!r}; a jersey number is text of one to three digits, in YAML "00"')
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UserError(f"classes={list(self.classes)} is empty or repeats a class; name each class once")
        for split, count in self.counts.items():
            least = 1 if split == "train" else 0
            if count < least:
                raise UserError(f"{split}_per_class={count} is too few; choose {least} or more")
        if not 16 <= self.size_min <= self.size_max <= 512:
            sizes = f"size_min={self.size_min}, size_max={self.size_max}"
            raise UserError(f"{sizes} are no range of heights; choose 16 <= size_min <= size_max <= 512 pixels")
        for key, most in (("degradation", 1), ("rotation", 45)):
            if not 0 <= getattr(self, key) <= most:
                raise UserError(f"{key}={getattr(self, key)} is out of range; choose a number from 0 to {most}")

    @property
    def counts(self) -> dict[Split, int]:
        """Images per class in each split."""
        return {"train": self.train_per_class, "val": self.val_per_class, "test": self.test_per_class}

    @property
    def record(self) -> dict[str, object]:
        """What ``synthetic.json`` says: equal records are equal datasets, wherever they lie."""
        record = {"renderer": RENDERER, **asdict(self), "classes": sorted(self.classes)}
        del record["folder"]
        return record

    @property
    def root(self) -> Path:
        """The folder of the dataset."""
        digest = hashlib.sha256(json.dumps(self.record).encode()).hexdigest()
        return Path(self.folder or f"data/synthetic-{digest[:8]}")

    def samples(self, split: Split) -> list[Sample]:
        """List a split, rendering the dataset if it is not there yet."""
        synthesise(self, output=self.root)
        if not self.counts[split]:
            return []
        folder = self.root / FOLDERS[split]
        try:
            rows = [json.loads(line) for line in (folder / ANNOTATIONS).read_text("utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder / ANNOTATIONS} is spoilt: {error}; remove {self.root} to render it anew"
            ) from error
        return [Sample(str(folder / row["image"]), row["suffix"], row["metadata"]) for row in rows]

    def __str__(self) -> str:
        """Say what this is and where."""
        return f"rendered jersey numbers in {self.root}"


def synthesise(spec: SyntheticJerseys, *, output: str | Path) -> bool:
    """Write ``output/{train,valid,test}/*.jpg`` with ``annotations.jsonl``: all of it or, when interrupted, nothing.

    An image depends on (seed, split, label, number) alone: more classes or images leave the others as they are.
    Several processes may do this at once; the first to finish is the one whose folder all of them use. A process that
    is killed outright may leave a hidden ``.<output>-….partial`` folder, which nothing ever reads.

    Args:
        spec: What to render; its own ``folder`` is not looked at.
        output: Folder to make; one that already holds this very spec is left as it is.
    Returns:
        Whether the folder was made now.
    Raises:
        UserError: If the folder holds anything else, or cannot be written.
    """
    output = Path(output)
    if _holds(output, spec):
        return False
    target = output.absolute()
    partial = target.with_name(f".{target.name}-{secrets.token_hex(4)}.partial")
    # The first line of a run belongs to the command; it names the data, too.
    logger.debug("rendering %d jersey numbers into %s", len(spec.classes) * sum(spec.counts.values()), output)
    try:
        partial.mkdir(parents=True)
        _write(spec, folder=partial)
        partial.rename(target)
    except OSError as error:
        if _holds(output, spec):  # another process was faster
            return False
        raise UserError(f"cannot write the rendered dataset to {output}: {error}; choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _holds(folder: Path, spec: SyntheticJerseys) -> bool:
    """Say whether the folder is this dataset; where there is anything else, refuse to go on."""
    try:
        found = json.loads((folder / SPEC_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    if found == spec.record:
        return True
    if isinstance(found, dict) and "renderer" in found:
        there = [
            f"{key} {found.get(key)}, not {value}" for key, value in spec.record.items() if found.get(key) != value
        ]
        problem = f"holds a rendered dataset with {'; '.join(there)}"
    elif folder.resolve() == Path.cwd():
        problem = "is the working folder itself"
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        problem = "is already there and is no rendered dataset"
    else:
        return False
    raise UserError(f"{folder} {problem}; name a new folder (--output, in YAML folder) or remove this one")


def _write(spec: SyntheticJerseys, *, folder: Path) -> None:
    rows: dict[Split, list[str]] = {split: [] for split, count in spec.counts.items() if count}
    for split in rows:
        (folder / FOLDERS[split]).mkdir()
    jobs = [(split, label, n) for split in rows for label in sorted(spec.classes) for n in range(spec.counts[split])]
    for split, label, number in watched(jobs, title="rendering jersey numbers"):
        key = hashlib.sha256(f"{spec.seed}/{split}/{label}/{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key, "big"))
        size = int(rng.integers(spec.size_min, spec.size_max, endpoint=True))
        image, metadata = render(label, rng, size=size, degradation=spec.degradation, rotation=spec.rotation)
        name = f"{label}_{number:05d}.jpg"
        image.save(folder / FOLDERS[split] / name, quality=95)
        row = {"image": name, "prefix": "Read the number.", "suffix": label, "metadata": metadata}
        rows[split].append(json.dumps(row) + "\n")
    for split, lines in rows.items():
        (folder / FOLDERS[split] / ANNOTATIONS).write_text("".join(lines), "utf-8")
    (folder / SPEC_FILE).write_text(json.dumps(spec.record, indent=2) + "\n", "utf-8")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"clf synth: {message}; clf synth --help lists the flags")


def main(argv: list[str]) -> int:
    """Run ``clf synth``: render a dataset, say what was made and how to train on it.

    Args:
        argv: The arguments after the verb.
    Returns:
        The exit code, 0.
    Raises:
        UserError: If a flag is wrong, or the folder cannot be used.
    """
    spec, output = _parse(argv)
    made = synthesise(spec, output=output)
    splits = ", ".join(f"{split} {count * len(spec.classes)}" for split, count in spec.counts.items())
    print(f"{output}: {len(spec.classes)} classes; images: {splits}" + ("" if made else " (was already there)"))
    print(f"train on it: clf fit --config configs/jersey_numbers.yaml --data.root {shlex.quote(output)}")
    return 0


def _parse(argv: list[str]) -> tuple[SyntheticJerseys, str]:
    parser = _Parser(
        prog="clf synth",
        description="Render a synthetic jersey-number dataset: folders with annotations.jsonl.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", metavar="DIR", required=True, default=argparse.SUPPRESS, help="folder to make")
    parser.add_argument(
        "--classes", metavar="N", nargs="+", default=CLASSES, help="jersey numbers, one to three digits each"
    )
    for key, text in FLAGS.items():
        default = getattr(SyntheticJerseys, key)
        parser.add_argument(f"--{key}", metavar="N", type=type(default), default=default, help=text)
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        hint = did_you_mean(unknown[0].split("=")[0], [f"--{key}" for key in vars(flags)])
        parser.error(f"unknown argument {unknown[0]!r}{hint}")
    return SyntheticJerseys(**{key: value for key, value in vars(flags).items() if key != "output"}), flags.output

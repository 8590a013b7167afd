"""A folder of rendered jersey numbers in the JSONL layout: the same for the same order, whole or not there at all."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from clf.data.jersey import RENDERER, Colours, render
from clf.data.samples import Split
from clf.errors import UserError
from clf.files import new_folder
from clf.progressbar import watched

logger = logging.getLogger("clf")

FOLDERS: Final[Mapping[Split, str]] = {"train": "train", "val": "valid", "test": "test"}
ANNOTATIONS: Final = "annotations.jsonl"
RECORD: Final = "synthetic.json"


@dataclass(frozen=True)
class Style:
    """How images look, whatever number they show.

    Args:
        seed: Decides every image.
        size_min: Smallest image height in pixels.
        size_max: Largest image height in pixels.
        degradation: How much camera and codec spoil, from 0 (nothing) to 1 (cruel).
        rotation: Largest turn in degrees to either side.
        tightness: Share of the height that the number takes; None draws the number with a margin.
    """

    seed: int = 42
    size_min: int = 36
    size_max: int = 60
    degradation: float = 0.5
    rotation: float = 10.0
    tightness: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, naming key, value and fix."""
        if not 16 <= self.size_min <= self.size_max <= 512:
            sizes = f"size_min={self.size_min}, size_max={self.size_max}"
            raise UserError(f"{sizes} are no range of heights; choose 16 <= size_min <= size_max <= 512 pixels")
        for key, value, most in (("degradation", self.degradation, 1), ("rotation", self.rotation, 45)):
            if not 0 <= value <= most:
                raise UserError(f"{key}={value} is out of range; choose a number from 0 to {most}")
        if self.tightness is not None and not 0.2 <= self.tightness <= 1:
            raise UserError(f"tightness={self.tightness} is out of range; choose a number from 0.2 to 1")


@dataclass(frozen=True)
class Group:
    """Images that differ by their number in the group alone.

    Args:
        split: Where they go.
        label: The jersey number that they show.
        count: How many there are.
        colours: What is worn; None leaves that to chance.
    """

    split: Split
    label: str
    count: int
    colours: Colours | None = None

    @property
    def look(self) -> str:
        """What is seen, e.g. ``7`` or ``7/red/white/none``."""
        chosen = (self.colours.jersey, self.colours.number, self.colours.border) if self.colours else ()
        return "/".join([self.label, *(colour for colour in chosen if colour)])

    @property
    def key(self) -> str:
        """What an image depends on, beside the seed and its number in the group."""
        return f"{self.split}/{self.look}"


@dataclass(frozen=True)
class Order:
    """A dataset to render.

    Args:
        groups: What it holds, no key twice.
        style: How its images look.
        record: What ``synthetic.json`` says of it: equal records are equal datasets, wherever they lie.
    """

    groups: Sequence[Group]
    style: Style
    record: Mapping[str, object]

    @classmethod
    def of(cls, groups: Sequence[Group], style: Style) -> "Order":
        """Order groups whose counts and colours are all that there is to know of them."""
        groups = sorted(groups, key=lambda group: group.key)
        settings = {key: value for key, value in asdict(style).items() if value is not None}
        images = {group.key: group.count for group in groups}
        return cls(groups, style, {"renderer": RENDERER, "images": images, **settings})

    @property
    def total(self) -> int:
        """Images in all splits together."""
        return sum(group.count for group in self.groups)


def require_number(label: object, *, key: str) -> str:
    """Return a label that can be drawn.

    Raises:
        UserError: If it is no text of one to three digits.
    """
    if not isinstance(label, str) or not is_number(label):  # YAML reads 00 as the number 0
        raise UserError(f'{key} has {label!r}; a jersey number is text of one to three digits, in YAML "00"')
    return label


def is_number(label: str) -> bool:
    """Whether a label is a jersey number: one to three digits."""
    return re.fullmatch("[0-9]{1,3}", label) is not None


def write(order: Order, *, output: str | Path) -> bool:
    """Write ``output/{train,valid,test}/*.jpg`` with ``annotations.jsonl``: all of it or, when interrupted, nothing.

    An image depends on (seed, split, label, colours asked for, number) and the style alone: more groups or images leave
    the others as they are. Several processes may do this at once; the first to finish is the one whose folder all of
    them use. A process that is killed outright may leave a hidden ``.<output>-….partial`` folder, which nothing ever
    reads.

    Args:
        order: What to render.
        output: Folder to make; one that already holds this very order is left as it is.
    Returns:
        Whether the folder was made now.
    Raises:
        UserError: If the folder holds anything else, or cannot be written.
    """
    output = Path(output)
    if _holds(output, order):
        return False
    # The first line of a run belongs to the command; it names the data, too.
    logger.debug("rendering %d jersey numbers into %s", order.total, output)
    try:
        with new_folder(output) as partial:
            _write(order, folder=partial)
    except OSError as error:
        if _holds(output, order):  # another process was faster
            return False
        raise UserError(f"cannot write the rendered dataset to {output}: {error}; choose another folder") from error
    return True


def _holds(folder: Path, order: Order) -> bool:
    """Say whether the folder is this dataset; where there is anything else, refuse to go on."""
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    if found == order.record:
        return True
    if isinstance(found, dict) and "renderer" in found:
        problem = f"holds a rendered dataset with {'; '.join(_differences(found, order.record))}"
    elif folder.resolve() == Path.cwd():
        problem = "is the working folder itself"
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        problem = "is already there and is no rendered dataset"
    else:
        return False
    raise UserError(f"{folder} {problem}; name a new folder (--output, in YAML folder) or remove this one")


def _differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Name the keys in which two records differ, with both values; of counts of images the first few."""
    lines = []
    for key in dict.fromkeys((*wanted, *found)):
        there, value = found.get(key), wanted.get(key)
        if key == "images" and there != value:
            lines += _other_counts(dict(there) if isinstance(there, dict) else {}, value)
        elif there != value:
            lines.append(f"{key} {there}, not {value}")
    return lines


def _other_counts(there: dict[str, int], wanted: object, *, most: int = 3) -> list[str]:
    value: dict[str, int] = dict(wanted) if isinstance(wanted, dict) else {}
    other = [key for key in dict.fromkeys((*value, *there)) if there.get(key, 0) != value.get(key, 0)]
    lines = [f"{there.get(key, 0)} images of {key}, not {value.get(key, 0)}" for key in other[:most]]
    return lines + [f"{len(other) - most} more such counts"] * (len(other) > most)


def _write(order: Order, *, folder: Path) -> None:
    splits = list(dict.fromkeys(group.split for group in order.groups))
    rows: dict[Split, list[str]] = {split: [] for split in splits}
    for split in rows:
        (folder / FOLDERS[split]).mkdir()
    style = order.style
    jobs = [(group, number) for group in order.groups for number in range(group.count)]
    for group, number in watched(jobs, title="rendering jersey numbers"):
        key = hashlib.sha256(f"{style.seed}/{group.key}/{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key, "big"))
        image, metadata = render(
            group.label,
            rng,
            size=int(rng.integers(style.size_min, style.size_max, endpoint=True)),
            degradation=style.degradation,
            rotation=style.rotation,
            colours=group.colours,
            tightness=style.tightness,
        )
        name = f"{group.look.replace('/', '_')}_{number:05d}.jpg"
        image.save(folder / FOLDERS[group.split] / name, quality=95)
        row = {"image": name, "prefix": "Read the number.", "suffix": group.label, "metadata": metadata}
        rows[group.split].append(json.dumps(row) + "\n")
    for split, lines in rows.items():
        (folder / FOLDERS[split] / ANNOTATIONS).write_text("".join(lines), "utf-8")
    (folder / RECORD).write_text(json.dumps(order.record, indent=2) + "\n", "utf-8")

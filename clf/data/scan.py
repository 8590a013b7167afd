"""Files read and decoded before anything is trained: which of them are no whole images, and why."""

import os
import stat
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

from clf.data.disk import Disk
from clf.data.samples import Sample, Samples, Split
from clf.data.strings import Strings
from clf.data.threads import in_threads
from clf.preprocess import UnreadableImage, decode

Problem = Literal[
    "missing-file",
    "broken-link",
    "not-a-file",
    "empty-file",
    "unreadable-file",
    "not-an-image",
    "too-large-image",
    "truncated-image",
    "damaged-image",
]
"""What can be wrong with a file."""

_MOST_HELD: Final = 64 * 2**20  # bytes; a larger file is not held in memory while it is decoded
_BEGINNINGS: Final = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II": "TIFF",
    b"MM": "TIFF",
    b"RIFF": "WEBP",
}


@dataclass(frozen=True, slots=True)
class Bad:
    """A file that no image can be had from.

    Args:
        problem: What is wrong.
        reason: The same in words, to follow the file's name.
    """

    problem: Problem
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A file that is a whole image.

    Args:
        image: As evaluation sees it: upright RGB.
        format: What the file holds, whatever it is called, as Pillow calls it.
    """

    image: Image.Image
    format: str


class Files:
    """The files of a listing, each once, by whatever paths and in however many rows it is named.

    Args:
        listing: The samples of each split.

    Attributes:
        paths: A path to each file, the first that names it.
        rows: For each split the file of each sample.
    """

    def __init__(self, listing: Mapping[Split, Sequence[Sample]]) -> None:
        self.paths = Strings()
        self.rows: dict[Split, array[int]] = {}
        disk, known = Disk(), dict[str, int]()
        for split, samples in listing.items():
            self.rows[split] = array("q")
            for path in Samples(samples).paths if not isinstance(samples, Samples) else samples.paths:
                file = known.setdefault(disk.real(path), len(known))
                if file == len(self.paths):
                    self.paths.append(path)
                self.rows[split].append(file)


def scan(
    paths: Sequence[str],
    *,
    look: Callable[[int, Seen], object] = lambda index, seen: None,
    title: str = "reading all images",
) -> dict[int, Bad]:
    """Read and decode files, in threads.

    Args:
        paths: The files.
        look: Called in those threads with each whole image and its place in ``paths``.
        title: What the progress bar says.
    Returns:
        The bad ones by their place, in order.
    """
    bad: dict[int, Bad] = {}

    def work(index: int) -> None:
        found = examine(paths[index])
        if isinstance(found, Bad):
            bad[index] = found
        else:
            look(index, found)

    in_threads(work, len(paths), title=title)
    return dict(sorted(bad.items()))


def examine(path: str) -> Seen | Bad:
    """Read a file once and decode it as evaluation does, to its last pixel.

    Args:
        path: The file; nothing but a regular file is opened, which could wait for ever.
    """
    if (refused := _refused(path)) is not None:
        return refused
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_HELD)
        image = decode(content if len(content) < _MOST_HELD else path)
    except UnreadableImage as error:
        return Bad(_problem(error), error.reason)
    except OSError as error:
        return Bad("unreadable-file", f"cannot be read: {(error.strerror or str(error)).lower()}")
    return Seen(image, _format(content))


def _refused(path: str) -> Bad | None:
    """Tell what can be told without opening a file."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        if isinstance(error, PermissionError):
            return Bad("unreadable-file", "cannot be read: permission denied")
        if os.path.islink(path):
            return Bad("broken-link", f"is a link that leads nowhere, to {os.readlink(path)!r}")
        return Bad("missing-file", "is not there")
    if stat.S_ISDIR(facts.st_mode):
        return Bad("not-a-file", "is a folder")
    if not stat.S_ISREG(facts.st_mode):
        return Bad("not-a-file", "is no regular file, but a device, pipe or socket")
    return None if facts.st_size else Bad("empty-file", "is empty (0 bytes)")


def _problem(error: UnreadableImage) -> Problem:
    """Sort what `decode` says; Pillow has no exceptions of its own for these."""
    if not error.is_image:
        return "not-an-image"
    if "pixels are more than" in error.reason:
        return "too-large-image"
    return "truncated-image" if "truncated" in error.reason.lower() else "damaged-image"


def _format(content: bytes) -> str:
    """Tell a format by its first bytes, of those that `decode` reads."""
    return next((name for start, name in _BEGINNINGS.items() if content.startswith(start)), "unknown")

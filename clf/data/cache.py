"""Training images, decoded and shrunk once for all epochs, workers, processes and runs."""

import errno
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal

import numpy as np
import PIL
import simplejpeg
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from clf.crops import read, reduction, shrunk
from clf.data.cachefile import Cache, TooLarge, Writer
from clf.data.cacheplace import Place, disk, in_words, memory, require_locks
from clf.data.threads import in_threads
from clf.errors import UserError
from clf.files import open_whole
from clf.preprocess import FORMATS, MAX_BYTES, UnreadableImage
from clf.transforms import one_thread

log = logging.getLogger("clf")

Where = Literal["none", "ram", "disk", "auto"]
Say = Callable[[str], None]

_FORMAT: Final = 1  # goes up when the same files and settings come to other pixels
_MOST_MEASURED: Final = 100
_SLACK: Final = 1.25  # Shrinking by less would take as long as decoding, blur, and save little room.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _DoesNotFit(Exception):
    """The reason why a cache cannot be in a place."""


@dataclass(frozen=True)
class Wanted:
    """What is to be kept, and where.

    Args:
        paths: The files; their order is the cache's.
        where: ``ram``, ``disk``, or what fits (``auto``).
        shortest: Shorter edge in pixels of what is kept, or up to a quarter more; no image is enlarged.
        folder: Where caches on disk lie; None is the user's folder for such files.
    """

    paths: Sequence[str]
    where: Where
    shortest: int
    folder: str | None = None

    def key(self) -> str:
        """Name the cache by all that its pixels depend on.

        Of each file path, size and times count: its content is not read, which would take as long as decoding it. The
        time of the last change (ctime) cannot be set back, so a file that was replaced by one with the same size and
        date is noticed, too.
        """
        versions = f"{_FORMAT} {self.shortest} {simplejpeg.__version__} {PIL.__version__} {torch.__version__}"
        digest = blake2b(versions.encode(), digest_size=10)
        for path in self.paths:
            try:
                facts = os.stat(path)
                seen = f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
            except OSError:
                seen = ""  # training says what is wrong with it
            digest.update(b"\0" + os.fsencode(os.path.abspath(path)) + b"\0" + seen.encode())
        return digest.hexdigest()

    def estimate(self) -> int:
        """Say how many bytes the pixels will take, from the headers of a hundred files."""
        count = len(self.paths)
        chosen = range(count) if count <= _MOST_MEASURED else np.linspace(0, count - 1, _MOST_MEASURED).astype(int)
        return int(np.mean([_kept_bytes(self.paths[index], self.shortest) for index in chosen]) * count)


def keep(wanted: Wanted, *, say: Say) -> Cache | None:
    """Find a cache, or build it; of several processes that ask for the same one, the first builds and the others wait.

    Args:
        wanted: What is to be kept.
        say: Takes lines for the log.
    Returns:
        The images; None where ``auto`` finds no room for them.
    Raises:
        UserError: If there is no room where the user wants them, or the folder cannot be used.
    """
    require_locks()
    places = _places(wanted)
    key = wanted.key()
    for place in {each for each in (*places, memory()) if each is not None}:
        place.sweep(but=key)
    usable, reasons = [], []
    with ExitStack() as locks:
        for place in places:
            try:
                _enter(place, key, locks, say)
            except UserError as error:
                if wanted.where != "auto":
                    raise
                reasons.append(str(error))
                continue
            if (cache := place.find(key, count=len(wanted.paths))) is not None:
                say(_describe(cache, place, key, "found there, and nothing has changed since"))
                return cache
            usable.append(place)
        return _built_where_it_fits(wanted, usable, key, say, reasons)


def _enter(place: Place, key: str, locks: ExitStack, say: Say) -> None:
    """Be the only one who looks for a cache and builds it, until the locks are given back."""
    place.prepare()
    with _failures(place):
        line = f"cache: waiting for another process, which builds it in {place.folder}"
        locks.enter_context(place.locked(key, waits=lambda: say(line)))


def _places(wanted: Wanted) -> list[Place]:
    in_memory = memory()
    if wanted.where == "ram" and in_memory is None:
        raise UserError("data.cache=ram needs /dev/shm, which this system has not; choose data.cache=disk or none")
    asked = [in_memory] if wanted.where != "disk" and in_memory is not None else []
    return asked if wanted.where == "ram" else [*asked, disk(wanted.folder)]


def _built_where_it_fits(wanted: Wanted, places: list[Place], key: str, say: Say, reasons: list[str]) -> Cache | None:
    estimate = wanted.estimate()
    for place in places:
        try:
            return _built(wanted, place, key, say, estimate=estimate, because=reasons)
        except _DoesNotFit as reason:
            reasons.append(f"{place.name}: {reason}")
    what = f"{len(wanted.paths):,} images of at most {wanted.shortest} pixels on the shorter edge"
    problem = f"{what} do not fit ({'; '.join(reasons)})"
    if wanted.where == "auto":
        say(f"cache: none, because {problem}")
        return None
    fixes = {"ram": "data.cache=disk or none", "disk": "another data.cache_dir, or data.cache=none"}[wanted.where]
    raise UserError(f"data.cache={wanted.where}: {problem}; choose a smaller data.cache_size, {fixes}")


def _built(wanted: Wanted, place: Place, key: str, say: Say, *, estimate: int, because: list[str]) -> Cache:
    start = time.monotonic()
    room = place.room()
    most = room.auto if wanted.where == "auto" else room.asked
    free = f"{in_words(max(0, most))} may be used of {room.words}"
    need = f"about {in_words(estimate)} are needed, and {free}"
    if estimate > most:
        raise _DoesNotFit(need)
    try:
        with _failures(place), place.writing(key) as file, _full_is_too_large():
            _fill(Writer(file, count=len(wanted.paths), most=most), wanted)
    except TooLarge as error:
        raise _DoesNotFit(f"more is needed than the headers let expect, and {free}") from error
    cache = place.find(key, count=len(wanted.paths))
    if cache is None:
        raise UserError(f"{place.file(key)} has gone while it was built; leave it alone, or set data.cache=none")
    note = f"built in {time.monotonic() - start:.0f} s"
    if wanted.where == "auto":
        note += f", chosen because {'; '.join([*because, need])}"
    say(_describe(cache, place, key, note))
    return cache


def _describe(cache: Cache, place: Place, key: str, note: str) -> str:
    unread = f" ({cache.missing:,} cannot be read)" if cache.missing else ""
    line = f"cache: {len(cache):,} images{unread}, {in_words(cache.size)} in {cache.path} ({note}); "
    if not place.stays:
        return line + "it goes with the last run that uses it"
    count, total = place.others(key)
    if not count:
        return line + f"remove it with: {place.removal(key)}"
    others = f"the {count} others, {in_words(total)}" if count > 1 else f"the other one, {in_words(total)}"
    return line + f"remove it, also {others}, with: {place.removal(None)}"


def _fill(writer: Writer, wanted: Wanted) -> None:
    """Decode all files, and put them into the cache as they come."""
    with one_thread():
        in_threads(
            lambda index: _add(writer, index, wanted),
            len(wanted.paths),
            title="decoding images for the cache",
            between=writer.settle,
        )
    writer.finish()


def _add(writer: Writer, index: int, wanted: Wanted) -> None:
    try:
        pixels, size = read(wanted.paths[index], at_least=wanted.shortest)
    except UnreadableImage:
        return  # training reads the file itself, and says what is wrong with it
    if min(pixels.shape[:2]) > _SLACK * wanted.shortest:
        width, height = _proportional(size, wanted.shortest)
        pixels = shrunk(pixels, (height, width), InterpolationMode.BICUBIC)
    writer.add(index, pixels)


def _proportional(size: tuple[int, int], shortest: int) -> tuple[int, int]:
    """Shrink (width, height), in proportion, until the shorter edge is so long."""
    share = shortest / min(size)
    return round(size[0] * share), round(size[1] * share)


def _kept_bytes(path: str, shortest: int) -> int:
    """Say how much an image will take; nothing, if its header cannot be read."""
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            open_whole(path, most=MAX_BYTES) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            divisor = reduction(image.size, at_least=shortest) if image.format == "JPEG" else 1
            width, height = (-(-edge // divisor) for edge in image.size)
            if min(width, height) > _SLACK * shortest:
                width, height = _proportional(image.size, shortest)
    except MemoryError:
        raise
    except Exception:  # as in `decode`
        return 0
    return 3 * height * width


@contextmanager
def _failures(place: Place) -> Iterator[None]:
    """Turn what a file system refuses into what a user is told."""
    try:
        yield
    except OSError as error:
        raise place.failure(error) from error


@contextmanager
def _full_is_too_large() -> Iterator[None]:
    """Others write, too: there may be less room than there was."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise TooLarge from error
        raise

"""What images look like, in a few bytes each: equal pixels, and pictures that nobody tells apart."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clf.data.scan import Seen

NEAR_BITS: Final = 7
"""How many of the 64 signs of a picture's frequencies may differ in a near duplicate."""

NEAR_RMS: Final = 6.0
"""How far the thumbnails of near duplicates may be apart, as a root mean square of values from 0 to 255 …"""

NEAR_SHARE: Final = 0.12
"""… and as a share of the weaker one's contrast: what is nearly flat is near to everything."""

_EDGE: Final = 16  # pixels of a thumbnail
_STRIP: Final = 1 << 20  # pixels that are copied at once
_SAMPLED: Final = 32  # pixels that frequencies are taken of
_LEAST_CONTRAST: Final = 6.0  # A picture with less has too little in it to be told by.
_BANDS: Final = ((0, 13), (13, 26), (26, 39), (39, 52), (52, 64))
"""Bits that are looked up as one number: of five bands one is whole where no more than four bits differ."""

_MOST_ALIKE: Final = 2000  # Pictures with one band in common that are each compared with all others of them.
_AT_ONCE: Final = 4096  # pairs whose thumbnails are compared in one go
_GREY: Final = np.array([0.299, 0.587, 0.114], np.float32)

Pairs = NDArray[np.int64]
"""Places of two images each, (P, 2), the smaller one first; each pair once."""


def _frequencies() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the cosine transform, and which 64 products of two rows have the longest waves, but for the mean."""
    wave, place = np.arange(_EDGE)[:, None], np.arange(_SAMPLED)[None]
    rows = np.cos(np.pi * (2 * place + 1) * wave / (2 * _SAMPLED)).astype(np.float32)
    order = sorted((down + across, down, across) for down in range(_EDGE) for across in range(_EDGE))[1:65]
    return rows, np.array([down for _, down, _ in order]), np.array([across for *_, across in order])


_ROWS, _DOWN, _ACROSS = _frequencies()


class Looks:
    """Fills up while files are read, from any thread.

    Args:
        count: How many files there are; 817 bytes are taken for each.

    Attributes:
        known: Whether an image was seen in a place, bool (N,).
        formats: What its file holds.
    """

    def __init__(self, count: int) -> None:
        self.known = np.zeros(count, bool)
        self.formats = np.zeros(count, "U5")
        self._pixels = np.zeros(count, "V16")
        self._signs = np.zeros(count, np.uint64)
        self._contrast = np.zeros(count, np.float32)
        self._thumbnails = np.zeros((count, _EDGE, _EDGE, 3), np.uint8)

    def add(self, index: int, seen: Seen) -> None:
        """Keep what an image looks like."""
        image = seen.image
        pixels = _digest(image)
        sampled = np.asarray(image.resize((_SAMPLED, _SAMPLED), Image.Resampling.BOX), np.float32)
        self.formats[index] = seen.format
        self._pixels[index] = np.void(pixels)
        self._contrast[index] = sampled.std()
        self._thumbnails[index] = sampled.reshape(_EDGE, 2, _EDGE, 2, 3).mean((1, 3)).round()
        self._signs[index] = _signs(sampled)
        self.known[index] = True

    def same_pixels(self) -> list[NDArray[np.int64]]:
        """Group images with the same pixels, whatever their files hold; in order of the first of each group."""
        return _groups(self._pixels, np.flatnonzero(self.known))

    def near(self) -> Pairs:
        """Pair images that look the same but are not the same pixels: stored anew, or made a little larger or smaller.

        Of images with the same pixels only the first counts; what is nearly flat is near to nothing.
        """
        copies = [place for group in self.same_pixels() for place in group[1:]]
        usable = self.known & (self._contrast >= _LEAST_CONTRAST)
        usable[copies] = False
        places = np.flatnonzero(usable)
        kept = [self._confirmed(pairs) for pairs in _candidates(self._signs[places], places)]
        return np.unique(np.concatenate([np.empty((0, 2), np.int64), *kept]), axis=0)

    def _confirmed(self, pairs: Pairs) -> Pairs:
        """Keep the pairs whose thumbnails agree."""
        one, other = (self._thumbnails[pairs[:, side]].astype(np.float32) for side in (0, 1))
        apart = np.sqrt(np.square(one - other).mean((1, 2, 3)))
        contrast = self._contrast[pairs].min(1)
        agree: Pairs = pairs[apart <= np.minimum(NEAR_RMS, NEAR_SHARE * contrast)]
        return agree


def _digest(image: Image.Image) -> bytes:
    """Sum up pixels and size, a strip at a time: copied whole, a large image would take as much memory again, twice."""
    found = blake2b(f"{image.width} {image.height}".encode(), digest_size=16)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        found.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    return found.digest()


def _signs(sampled: NDArray[np.float32]) -> np.uint64:
    """Say in 64 bits whether each of the longest waves of a picture (S, S, 3) begins bright or dark."""
    waves = _ROWS @ (sampled @ _GREY) @ _ROWS.T
    return np.uint64(np.packbits(waves[_DOWN, _ACROSS] > 0).view(">u8")[0])


def _groups(keys: NDArray[Any], places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Group places by equal keys; those alone with theirs are left out."""
    numbers = np.ascontiguousarray(keys[places]).view("u8").reshape(len(places), 2)
    order = np.lexsort((places, *numbers.T))
    turns = np.flatnonzero((numbers[order][1:] != numbers[order][:-1]).any(1)) + 1
    found = [places[each] for each in np.split(order, turns) if len(each) > 1]
    return sorted(found, key=lambda group: int(group[0]))


def _candidates(signs: NDArray[np.uint64], places: NDArray[np.int64]) -> Iterator[Pairs]:
    """Pair places whose signs nearly agree, looking only at those with one band of bits in common."""
    for start, end in _BANDS:
        band = (signs >> np.uint64(64 - end)) & np.uint64((1 << (end - start)) - 1)
        order = np.lexsort((signs, band))
        band, ordered = band[order], signs[order]
        here = np.arange(len(order))
        for step in range(1, _MOST_ALIKE):
            here = here[: np.searchsorted(here, len(order) - step)]
            here = here[band[here] == band[here + step]]  # who has no neighbour so far away has none farther away
            if not len(here):
                break
            near = here[np.bitwise_count(ordered[here] ^ ordered[here + step]) <= NEAR_BITS]
            for some in np.split(near, range(_AT_ONCE, len(near), _AT_ONCE)):
                yield np.sort(places[np.stack([order[some], order[some + step]], axis=1)], axis=1)

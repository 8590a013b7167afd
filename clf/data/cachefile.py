"""Decoded images in one file, which every process that reads them maps: pixels first, then where each image lies."""

import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3)

_MAGIC: Final = b"clf pixels 1"
_HEADER: Final = struct.Struct("<16sqq")  # the above, how many images, where the index begins
_SETTLED_AT_ONCE: Final = 1 << 26  # bytes
_INDEX: Final = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])


class TooLarge(Exception):
    """More pixels than there is room for."""


class Cache:
    """The images of a file that `Writer` has finished; it costs no memory of its own, and travels as the file's path.

    Args:
        path: The file. It may be removed while it is open.
    Raises:
        ValueError: If it is no whole file of ours.
        OSError: If it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(content)
        if self.size < _HEADER.size:
            raise ValueError(f"{path} is too short")
        magic, count, start = _HEADER.unpack_from(content)
        if magic.rstrip(b"\0") != _MAGIC or self.size != start + count * _INDEX.itemsize:
            raise ValueError(f"{path} is not whole")
        self._bytes = np.frombuffer(content, np.uint8)
        self._index = np.frombuffer(content, _INDEX, count=count, offset=start)
        if not _lies_within(self._index, start):
            raise ValueError(f"{path} is damaged")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Pixels | None:
        """Return an image, read-only uint8 (H, W, 3); None if its file could not be read."""
        offset, height, width = self._index[index].item()
        if not height:
            return None
        return self._bytes[offset : offset + 3 * height * width].reshape(height, width, 3)

    def __iter__(self) -> Iterator[Pixels | None]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type["Cache"], tuple[str]]:
        return Cache, (self.path,)

    @property
    def missing(self) -> int:
        """How many images could not be read."""
        return int((self._index["height"] == 0).sum())


class Writer:
    """Writes images in any order, from any number of threads.

    Nothing is written through a mapping: on a full file system that would end the process by SIGBUS, without a word.

    Args:
        file: Descriptor of an empty file.
        count: How many images there are; those that are never added count as unreadable.
        most: Bytes that the file may take.
    """

    def __init__(self, file: int, *, count: int, most: int) -> None:
        self._file = file
        self._index = np.zeros(count, _INDEX)
        self._most = most - self._index.nbytes
        self._end = self._settled = _HEADER.size
        self._lock = threading.Lock()

    def add(self, index: int, pixels: Pixels) -> None:
        """Write an image, uint8 (H, W, 3).

        Raises:
            TooLarge: If the file would take more than it may.
            OSError: If it cannot be written.
        """
        height, width, _ = pixels.shape
        with self._lock:
            if self._end + pixels.nbytes > self._most:
                raise TooLarge
            offset, self._end = self._end, self._end + pixels.nbytes
        self._index[index] = offset, height, width
        _write(self._file, np.ascontiguousarray(pixels).data.cast("B"), offset)

    def settle(self) -> None:
        """Wait for the disk now and then, beside those who decode: else all of it would come at the end."""
        if self._end - self._settled >= _SETTLED_AT_ONCE:
            self._settled = self._end
            os.fsync(self._file)

    def finish(self) -> None:
        """Write where everything lies, and wait until all of it is on the disk."""
        start = -(-self._end // _INDEX.itemsize) * _INDEX.itemsize
        _write(self._file, memoryview(self._index.tobytes()), start)
        _write(self._file, memoryview(_HEADER.pack(_MAGIC, len(self._index), start)), 0)
        os.fsync(self._file)


def _lies_within(index: NDArray[np.void], end: int) -> bool:
    """Whether all images are between the header and the index."""
    # As floats they do not overflow, whatever they are.
    offset, height, width = (index[name].astype(np.float64) for name in ("offset", "height", "width"))
    inside = (offset >= _HEADER.size) & (offset + 3 * height * width <= end)
    return bool(((height == 0) | (height > 0) & (width > 0) & inside).all())


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written

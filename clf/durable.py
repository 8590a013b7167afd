"""Checkpoints on the disk: whole or not there, each with its sum, and the last but one kept."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from typing_extensions import override

from clf import sums
from clf.files import replacing, sha256
from clf.runs import PREVIOUS


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints straight to where they belong, and remembers the sum of the newest.

    Lightning's own makes the file in memory, writes it into the system's folder for temporary files and copies it from
    there: three times the room, and a full disk leaves half a file.
    """

    def __init__(self) -> None:
        self._newest = (Path(), "")

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint beside its place, and put it there once it is on the disk.

        Raises:
            OSError: If that fails; what was there before is as it was.
        """
        assert storage_options is None, "these are for storage that is not a folder"
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            self._newest = (Path(path), _save(checkpoint, file))

    def take_sum(self, path: Path) -> str | None:
        """Give the SHA-256 of a file that was just written here, once."""
        (written, digest), self._newest = self._newest, (Path(), "")
        return digest if written == path else None


class _Summing:
    """A file that is only written to, and summed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sum = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sum.update(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def _save(checkpoint: dict[str, Any], file: IO[bytes]) -> str:
    """Write a checkpoint into a file; returns its SHA-256."""
    summing = _Summing(file)
    try:
        torch.save(checkpoint, summing)  # type: ignore[arg-type]
        file.flush()
    except RuntimeError:
        if summing.error is not None:  # torch's own words, "unexpected pos", hide that the disk is full
            raise summing.error from None
        raise
    return summing.sum.hexdigest()


def put(path: Path, *, write: Callable[[Path], str | None], keeping_previous: bool = False) -> None:
    """Put a checkpoint in its place and its sum into ``SHA256SUMS``.

    Args:
        path: The place.
        write: Writes the file; returns its SHA-256 where that is known.
        keeping_previous: Whether the file that is replaced stays, as ``last-1.ckpt``.
    """
    with replacing(path) as partial:
        new = {path.name: write(partial) or sha256(partial)}
        keeping_previous = keeping_previous and path.is_file()
        if keeping_previous:
            new[PREVIOUS] = sums.read(path.parent).get(path.name) or sha256(path)
        sums.record(path.parent, new)
        if keeping_previous:
            _keep(path, path.with_name(PREVIOUS))


def _keep(path: Path, previous: Path) -> None:
    """Give a file that is about to be replaced a second name.

    Where there are no hard links it is renamed, for it need not be copied: whoever looks for it looks for both.
    """
    try:
        with replacing(previous) as partial:
            os.link(path, partial)
    except OSError:
        try:
            path.replace(previous)
        except OSError:
            with replacing(previous) as partial:
                shutil.copyfile(path, partial)


def second_name(source: Path, target: Path) -> str | None:
    """Give a file a second name, or a copy where the filesystem has no hard links; returns its SHA-256 if it is known.

    Args:
        source: The file.
        target: What it is also called, see `put`.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return sums.read(source.parent).get(source.name)

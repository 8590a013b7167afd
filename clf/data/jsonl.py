"""The JSONL layout: ``root/{train,valid|val,test}/**/*.jsonl``, one row a sample, images relative to the row's file."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from clf.data.layout import NO_METADATA, Tree, name_some
from clf.data.samples import Metadata, Sample, Split
from clf.errors import UserError, did_you_mean


class JsonlSource:
    """Rows like ``{"image": "a.jpg", "suffix": "23", "metadata": {"border": "none"}}``; an image may occur in several.

    Args:
        tree: The dataset's folder.
        label_key: Key of a row's label; None takes ``suffix`` where a row has it and ``label`` otherwise.
    """

    def __init__(self, tree: Tree, *, label_key: str | None = None) -> None:
        self._tree = tree
        self._label_key = label_key
        self.notes = tree.notes

    def __str__(self) -> str:
        """Name layout and place."""
        return f"JSONL layout in {self._tree.root}"

    def samples(self, split: Split) -> list[Sample]:
        """List a split: files in order of their paths, rows in order; rows with an empty label are left out, and noted.

        Raises:
            UserError: If the split's folder has no rows, a row cannot be used, or an image is not on disk.
        """
        folder = self._tree.folder(split)
        if folder is None:
            return []
        files = [f"{folder}/{path}" for path in self._tree.files(split)[0] if path.endswith(".jsonl")]
        if not files:
            raise UserError(f"data.root={self._tree.root!r} has no *.jsonl in {folder!r}; every split folder needs one")
        samples: list[Sample] = []
        missing: list[str] = []
        unlabelled, disk = 0, _Disk()
        for place, row in (found for file in files for found in read_rows(file)):
            label = row_label(row, key=self._label_key, place=place)
            if label is None:
                unlabelled += 1
                continue
            sample = Sample(join(place, row_image(row, place=place)), label, _metadata(row, place=place))
            samples.append(sample)
            if not disk.holds(sample.path):
                missing.append(f"{place}: image {sample.path!r} is not on disk")
        if missing:
            raise UserError(f"{missing[0]}{_others(missing)}; put it there or remove the row")
        if not samples:
            raise UserError(f"data.root={self._tree.root!r} has no labelled rows in {folder!r} ({name_some(files)})")
        if unlabelled:
            self.notes.append(f"{folder}: dropped {unlabelled} rows with an empty label")
        return samples


def read_rows(file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read a JSONL file.

    Args:
        file: Its path; UTF-8, blank lines allowed.
    Yields:
        The row's place (``file:line``) and the row.
    Raises:
        UserError: If the file cannot be read, or a line is not a JSON object, naming file and line.
    """
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}:{number}", _parse(line, place=f"{file}:{number}")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def _parse(line: bytes, *, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({error}); mend or remove the line") from error
    if not isinstance(row, dict):
        raise UserError(f'{place}: {row!r:.60} is no row; write an object like {{"image": "a.jpg", "label": "cat"}}')
    return row


def join(place: str, path: str) -> str:
    """Path of a file that is named in another: relative to the folder of the file that names it."""
    return os.path.join(os.path.dirname(place), path)


def row_image(row: Mapping[str, Any], *, place: str, key: str = "image") -> str:
    """A row's image path, as written."""
    if key not in row:
        raise UserError(f"{place}: the row has no {key!r}{did_you_mean(key, row)} (its keys: {', '.join(row)})")
    image = row[key]
    if not isinstance(image, str) or not image.strip():
        raise UserError(f"{place}: {key}={image!r} is not a path")
    return image


def row_label(row: Mapping[str, Any], *, key: str | None, place: str) -> str | None:
    """A row's label as text; None where it is empty.

    A JSON integer becomes text; other numbers are refused: nobody can say whether ``1.0`` and ``1`` are one class.
    """
    keys = (key,) if key else ("suffix", "label")
    found = next((name for name in keys if name in row), None)
    if found is None:
        wanted = " or ".join(repr(name) for name in keys)
        raise UserError(
            f"{place}: the row has no {wanted} (keys: {', '.join(row)}); set data.label_key to the label's key"
        )
    label = row[found]
    if type(label) is int:
        label = str(label)
    if label is not None and not isinstance(label, str):
        raise UserError(f"{place}: {found}={json.dumps(label)} is not a label; write it as text, in quotes")
    return sys.intern(label) if label and not label.isspace() else None


def _metadata(row: Mapping[str, Any], *, place: str) -> Metadata:
    metadata = row.get("metadata")
    if metadata is None or metadata == {}:
        return NO_METADATA
    if not isinstance(metadata, dict):
        raise UserError(f"{place}: metadata={json.dumps(metadata):.40} is not an object")
    for key, value in metadata.items():
        if isinstance(value, dict | list):
            raise UserError(f"{place}: metadata {key!r} is nested; write text, a number, a boolean or null")
    return metadata


def _others(problems: list[str]) -> str:
    return f" (and {len(problems) - 1} more such rows)" if len(problems) > 1 else ""


class _Disk:
    """What each folder holds, listed once: stays fast where a `stat` for each of a million images does not."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def holds(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = frozenset(os.listdir(folder or ".") if os.path.isdir(folder or ".") else ())
        return name in self._names[folder]

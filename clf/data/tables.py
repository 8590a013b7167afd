"""Tables that list images: rows of JSONL, CSV, TSV and Parquet files, and what a row says."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from clf.data.disk import Disk, Fence
from clf.data.samples import NO_METADATA, Metadata, Sample
from clf.errors import UserError, did_you_mean, first_line
from clf.files import open_whole

MANIFESTS: Final[Mapping[str, str]] = {".jsonl": "JSONL", ".csv": "CSV", ".tsv": "TSV", ".parquet": "Parquet"}
"""Suffixes of the tables that can be read, and how each format is called."""
PATH_COLUMNS: Final = ("path", "image", "file", "filename")
LABEL_COLUMNS: Final = ("true", "suffix", "label", "class")
"""The truth comes first: in a table that `clf predict` wrote, ``label`` is a guess."""
_MOST_SHARED: Final = 10_000

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]
"""The place of a row (``file:line``) and the row."""


@dataclass(frozen=True)
class RowKeys:
    """What the columns of a table are called, and where its paths may lead.

    Args:
        path: Column of the image's path; None for the usual names.
        label: Column of the label; None for the usual names.
        split: Column of the split; None for the usual names.
        facts: Further columns that become metadata.
        inside: Folders that no path may lead out of; None where paths may lead anywhere.
    """

    path: str | None = None
    label: str | None = None
    split: str | None = None
    facts: tuple[str, ...] = ()
    inside: tuple[str, ...] | None = None


def is_manifest(path: str) -> bool:
    """Whether a path ends like a table that can be read."""
    return path.lower().endswith(tuple(MANIFESTS))


def find_column(row: Row, *, named: str | None, usual: tuple[str, ...], option: str, place: str) -> str | None:
    """Find the column that an option names, or else the first that is called as usual.

    Args:
        row: A row of the table.
        named: What the option says.
        usual: Names that are looked for without it.
        option: The option's name in ``data``, for the message.
        place: The row's, for the message.
    Returns:
        The column's name; None where none is called as usual.
    Raises:
        UserError: If there is no column as the option names it.
    """
    if named and named not in row:
        raise UserError(f"{place}: no {named!r}, which data.{option} names{did_you_mean(named, row)}")
    return named or next((name for name in usual if name in row), None)


def read_table(file: str) -> Rows:
    """Read a table in the format that its suffix names, one of `MANIFESTS`.

    Raises:
        UserError: If the file cannot be read, naming the place.
    """
    suffix = os.path.splitext(file)[1].lower()
    if suffix == ".jsonl":
        return read_rows(file)
    if suffix == ".parquet":
        return _parquet_rows(file)
    return _text_rows(file, delimiter={".csv": ",", ".tsv": "\t"}[suffix])


def read_rows(file: str) -> Rows:
    """Read a JSONL file.

    Args:
        file: Its path; UTF-8, blank lines allowed.
    Yields:
        The row's place (``file:line``) and the row.
    Raises:
        UserError: If the file cannot be read, or a line is not a JSON object, naming file and line.
    """
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}:{number}", _parse(line, place=f"{file}:{number}")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def _open(file: str) -> BinaryIO:
    try:
        return open_whole(file)
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def _parse(line: bytes, *, place: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({error}); mend or remove the line") from error
    if not isinstance(row, dict):
        raise UserError(f'{place}: {row!r:.60} is no row; write an object like {{"image": "a.jpg", "label": "cat"}}')
    return row


def _text_rows(file: str, *, delimiter: str) -> Rows:
    try:
        with io.TextIOWrapper(_open(file), encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            header = reader.fieldnames or []
            if twice := next((name for name in header if list(header).count(name) > 1), None):
                raise UserError(f"{file}:1: two columns are called {twice!r}; rename one")
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{file}:{reader.line_num}: not as many fields as the header names; mend the line")
                yield f"{file}:{reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a table in UTF-8 ({error}); save it as such") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def _parquet_rows(file: str) -> Rows:
    try:
        import pyarrow as arrow  # type: ignore[import-untyped]  # Here, because it is slow and seldom needed.
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow; pip install pyarrow, or use CSV") from error
    try:
        number = 0
        for batch in parquet.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", row
    except (arrow.ArrowException, OSError, ValueError) as error:  # the last of text that is none
        raise UserError(f"{file}: not a Parquet file ({first_line(error)}); write it anew") from error


class SampleReader:
    """Turns rows into samples, and keeps count of what it leaves out.

    Args:
        path: Key of a row's image, whose path is relative to the folder of the file that names it.
        label: Key of a row's label; None takes ``suffix`` where a row has it and ``label`` otherwise.
        facts: Keys that become metadata beside those of a row's ``metadata``.
        inside: Folders that no path may lead out of; None where paths may lead anywhere.
        keep_missing: Whether images that are not on disk are listed all the same.
    """

    def __init__(
        self,
        *,
        path: str,
        label: str | None,
        facts: tuple[str, ...] = (),
        inside: tuple[str, ...] | None = None,
        keep_missing: bool = False,
    ) -> None:
        self.unlabelled = 0
        self._keep_missing = keep_missing
        self._path, self._label, self._facts = path, label, facts
        self._missing: list[str] = []
        self._disk = Disk()
        self._fence = None if inside is None else Fence(inside, self._disk)
        self._seen: dict[tuple[Any, ...], Metadata] = {}

    def read(self, place: str, row: Row) -> Sample | None:
        """Make a sample of a row; None where the label is empty.

        Raises:
            UserError: If the row cannot be used.
        """
        label = row_label(row, key=self._label, place=place)
        if label is None:
            self.unlabelled += 1
            return None
        sample = Sample(
            join(place, row_image(row, place=place, key=self._path)), label, self._metadata(row, place=place)
        )
        if not (self._keep_missing or self._disk.holds(sample.path)):
            self._missing.append(f"{place}: image {sample.path!r} is not on disk")
        if self._fence:
            self._fence.require_inside(sample.path, place=place)
        return sample

    def finish(self) -> None:
        """Refuse images that are not there, all at once.

        Raises:
            UserError: Naming the first and counting the others.
        """
        if self._missing:
            others = f" (and {len(self._missing) - 1} more such rows)" if len(self._missing) > 1 else ""
            raise UserError(f"{self._missing[0]}{others}; put it there or remove the row")

    def _metadata(self, row: Row, *, place: str) -> Metadata:
        metadata = row.get("metadata") or {}
        if not isinstance(metadata, dict):
            if place.rpartition(":")[0].lower().endswith(".jsonl"):
                raise UserError(f"{place}: metadata={json.dumps(metadata):.40} is not an object")
            metadata = {}  # A table may well have a column of that name.
        if not (metadata or self._facts):
            return NO_METADATA
        facts = {**metadata, **{key: row[key] for key in self._facts if key in row}}
        for key, value in facts.items():
            if isinstance(value, dict | list):
                raise UserError(f"{place}: metadata {key!r} is nested; write text, a number, a boolean or null")
            if type(value) is int and abs(value) > sys.float_info.max:
                raise UserError(
                    f"{place}: metadata {key!r} is larger than any number that can be drawn; write it as text"
                )
        # Rows that say the same share a dict: one for each of a million samples would cost 200 MB.
        known = tuple((key, type(value), value) for key, value in facts.items())
        if known not in self._seen and len(self._seen) < _MOST_SHARED:
            self._seen[known] = facts
        return self._seen.get(known, facts)


def join(place: str, path: str) -> str:
    """Path of a file that is named in another: relative to the folder of the file that names it."""
    return os.path.join(os.path.dirname(place), path)


def row_image(row: Row, *, place: str, key: str = "image") -> str:
    """A row's image path, as written."""
    if key not in row:
        raise UserError(f"{place}: the row has no {key!r}{did_you_mean(key, row)} (its keys: {', '.join(row)})")
    image = row[key]
    if not isinstance(image, str) or not image.strip() or not _can_be_a_name(image):
        raise UserError(f"{place}: {key}={image!r} is not a path")
    return image


def _can_be_a_name(text: str) -> bool:
    """Tell whether a system can look for a file of such a name."""
    if text.isascii():
        return "\0" not in text
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a surrogate pair, as JSON may hold
        return False


def row_label(row: Row, *, key: str | None, place: str) -> str | None:
    """A row's label as text; None where it is empty.

    An integer becomes text; other numbers are refused: nobody can say whether ``1.0`` and ``1`` are one class.
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
        raise UserError(
            f"{place}: {found}={json.dumps(label, default=str)} is not a label; write it as text, in quotes"
        )
    if label and not _can_be_a_name(label):
        raise UserError(f"{place}: {found}={label!r} holds what is no character, and no file can; mend it")
    return sys.intern(label) if label and not label.isspace() else None

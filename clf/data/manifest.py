"""Manifests: tables with a row for each sample, in one file with a column for the split, or in one for each split."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from clf.data.layout import SPLIT_NAMES, SPLITS
from clf.data.samples import Samples, Split
from clf.data.tables import (
    LABEL_COLUMNS,
    MANIFESTS,
    PATH_COLUMNS,
    Row,
    RowKeys,
    SampleReader,
    find_column,
    is_manifest,
    read_table,
)
from clf.errors import UserError, counted, did_you_mean

SPLIT_COLUMNS: Final = ("split", "subset", "partition")


class ManifestSource:
    """Rows like ``path,label,split``; paths are relative to the folder of the table.

    The first row decides what the columns are called, for all files. A file that is called like a split, e.g.
    ``train.csv``, is that split. Where nothing says the split, everything is train.

    Args:
        files: The tables, all of one format.
        keys: What the columns are called; by default one of the usual names.
        keep_missing: Whether images that are not on disk are listed all the same.
    Raises:
        UserError: If a table has no rows, or no column for path or label.

    Attributes:
        unlabelled: Rows that were left out because their label is empty, once all is listed.
    """

    def __init__(self, files: Sequence[str], *, keys: RowKeys, keep_missing: bool = False) -> None:
        self._keep_missing = keep_missing
        self.unlabelled = 0
        self._files = sorted(files, key=lambda file: SPLITS.index(split_of_file(file) or "train"))
        self.notes: list[str] = []
        (place, row), *_ = [_first_row(file) for file in self._files]
        self._path = _require(row, keys.path, PATH_COLUMNS, option="path_key", place=place)
        self._label = _require(row, keys.label, LABEL_COLUMNS, option="label_key", place=place)
        self._split = find_column(row, named=keys.split, usual=SPLIT_COLUMNS, option="split_key", place=place)
        self._facts, self._inside = keys.facts, keys.inside

    def __str__(self) -> str:
        """Name the tables and what their columns are taken for."""
        columns = f"path: {self._path}, label: {self._label}"
        if self._split:
            columns += f", split: {self._split}"
        elif not any(map(split_of_file, self._files)):
            columns += ", no split: all of it is train"
        kind = MANIFESTS[os.path.splitext(self._files[0])[1].lower()]
        if len(self._files) == 1:
            return f"{kind} manifest {self._files[0]} ({columns})"
        names = ", ".join(os.path.basename(file) for file in self._files)
        return f"{kind} manifests {names} in {os.path.dirname(self._files[0])} ({columns})"

    def samples(self, split: Split) -> Samples:
        """List a split, rows in order; rows with an empty label are left out, and noted.

        Raises:
            UserError: If a row cannot be used, or an image is not on disk.
        """
        return self._samples[split]

    @cached_property
    def _samples(self) -> dict[Split, Samples]:
        samples = {split: Samples() for split in SPLITS}
        reader = SampleReader(
            path=self._path,
            label=self._label,
            facts=self._facts,
            inside=self._inside,
            keep_missing=self._keep_missing,
        )
        for file in self._files:
            named, before = split_of_file(file), sum(map(len, samples.values()))
            for place, row in read_table(file):
                split = self._split_of(row, place=place, named=named)
                if sample := reader.read(place, row):
                    samples[split].append(sample)
            if sum(map(len, samples.values())) == before:
                raise UserError(f"{file}: every label in {self._label!r} is empty; set data.label_key")
        reader.finish()
        self.unlabelled = reader.unlabelled
        if reader.unlabelled:
            self.notes.append(f"{self._files[0]}: dropped {counted(reader.unlabelled, 'row')} with an empty label")
        return samples

    def _split_of(self, row: Row, *, place: str, named: Split | None) -> Split:
        if self._split is None:
            return named or "train"
        if self._split not in row:
            raise UserError(f"{place}: the row has no {self._split!r}; write train, valid or test there")
        value = row[self._split]
        split = SPLIT_NAMES.get(str(value).strip().lower())
        if split is None:
            hint = did_you_mean(str(value).lower(), SPLIT_NAMES, cutoff=0.7)
            raise UserError(f"{place}: {self._split}={value!r} is no split; write train, valid or test{hint}")
        if named and split != named and len(self._files) > 1:
            raise UserError(f"{place}: {self._split}={value!r} in a file that is called like another split")
        return split


def manifests_in(folder: str, names: Sequence[str]) -> list[str]:
    """Choose the manifests of a folder: those called like splits, or else the only one.

    Args:
        folder: The folder.
        names: Its visible files, sorted.
    Returns:
        Their paths; none where the folder has no table.
    Raises:
        UserError: If it cannot be said which of several are meant.
    """
    tables = [f"{folder}/{name}" for name in names if is_manifest(name)]
    named = [file for file in tables if split_of_file(file)]
    chosen = named or tables
    splits = [split_of_file(file) for file in chosen]
    formats = {os.path.splitext(file)[1].lower() for file in chosen}
    if len(chosen) > 1 and (not named or len(set(splits)) < len(splits) or len(formats) > 1):
        found = ", ".join(os.path.basename(file) for file in chosen)
        raise UserError(
            f"data.root={folder!r} has several manifests ({found}); name one, e.g. data.root={chosen[0]}, "
            "or call them train, valid and test, all in one format"
        )
    return chosen


def split_of_file(file: str) -> Split | None:
    """Tell which split a file is called like; None for any other name."""
    return SPLIT_NAMES.get(os.path.splitext(os.path.basename(file))[0].lower())


def _first_row(file: str) -> tuple[str, Row]:
    if first := next(read_table(file), None):
        return first
    raise UserError(f"{file}: lists no images; it needs a row for each")


def _require(row: Row, named: str | None, usual: tuple[str, ...], *, option: str, place: str) -> str:
    column = find_column(row, named=named, usual=usual, option=option, place=place)
    if column is None:
        what = option.removesuffix("_key")
        raise UserError(
            f"{place}: no column for the {what} (it has {', '.join(row)}); call it {' or '.join(usual)}, "
            f"or set data.{option}"
        )
    return column

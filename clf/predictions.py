"""Predictions as a table: one row per image, the same columns in CSV, JSON lines and Parquet."""

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import numpy.typing as npt

from clf.errors import UserError, counted
from clf.files import csv_text, naming, partial_of, place, spelled_out
from clf.statistics import Proportion

log = logging.getLogger("clf")

SUFFIXES = (".csv", ".jsonl", ".parquet")
"""What a table's file name may end in; it decides the format."""

NOT_FINITE = "the network's output is not finite"
"""Why there is no prediction where there are logits."""

Ranked = tuple[tuple[str, float], ...]
"""Labels with their probabilities, most probable first."""

_ROWS_PER_GROUP = 8192  # Parquet is written in groups of rows; a group is what stays in memory.


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: what was predicted for one image, or why nothing was.

    Args:
        path: The image, as it was named.
        ranked: Labels with probabilities, most probable first; empty where there is an error.
        true: The image's own label where it is known.
        error: Why there is no prediction; empty when all is well.
    """

    path: str
    ranked: Ranked = ()
    true: str | None = None
    error: str = ""

    @property
    def label(self) -> str | None:
        """The most probable label; None where there is an error."""
        return self.ranked[0][0] if self.ranked else None

    @property
    def confidence(self) -> float | None:
        """Its probability; None where there is an error."""
        return self.ranked[0][1] if self.ranked else None


@dataclass
class Tally:
    """What became of the images of a prediction.

    Args:
        rows: All of them.
        errors: How many have an error instead of a prediction.
        labelled: How many of the others had a label.
        correct: How many of those were predicted right.
    """

    rows: int = 0
    errors: int = 0
    labelled: int = 0
    correct: int = 0

    def add(self, rows: Sequence[Prediction]) -> None:
        """Count some more."""
        known = [row for row in rows if row.true is not None and not row.error]
        self.rows += len(rows)
        self.errors += sum(bool(row.error) for row in rows)
        self.labelled += len(known)
        self.correct += sum(row.label == row.true for row in known)

    @property
    def accuracy(self) -> Proportion | None:
        """Top-1 accuracy over the images whose label is known; None where none is."""
        return Proportion(self.correct, self.labelled) if self.labelled else None

    def tell(self, file: str | Path) -> int:
        """Say what is in a table; returns the exit code of the command, 1 where an image has no prediction."""
        log.info("predictions: %s in %s", counted(self.rows, "row"), file)
        if self.accuracy is not None:
            log.info("top-1: %s", self.accuracy)
        if self.errors:
            have = "has" if self.errors == 1 else "have"
            log.error("%d of %d images %s no prediction; see the column error", self.errors, self.rows, have)
        return int(self.errors > 0)


def rank(logits: npt.NDArray[np.float32], classes: Sequence[str], *, top_k: int) -> list[Ranked]:
    """Turn logits into the most probable labels, each with its softmax probability.

    Classes of equal score keep their order, so that the same logits always give the same rows. Probabilities are
    rounded to six significant digits: more are noise between one machine's exponential function and another's.

    Args:
        logits: Unnormalised scores, float (N, C).
        classes: Class names; position is the index of the logit.
        top_k: How many to name; min(top_k, C) are.
    Returns:
        N rows; an image whose logits are not finite gets an empty one.
    """
    assert logits.ndim == 2, f"logits of shape {logits.shape}; expected (N, {len(classes)})"
    assert logits.shape[1] == len(classes), f"logits of shape {logits.shape} for {len(classes)} classes"
    finite = np.asarray(np.isfinite(logits).all(axis=1))  # (N,)
    left = np.where(finite[:, None], logits, 0).astype(np.float32)  # (N, C)
    odds = np.exp(left - left.max(axis=1, keepdims=True))
    probs = odds / odds.sum(axis=1, keepdims=True)
    images = np.arange(len(left))
    ranked: list[list[tuple[str, float]]] = [[] for _ in images]
    for _ in range(min(top_k, len(classes))):
        best = left.argmax(axis=1)  # the first of equals
        left[images, best] = -np.inf
        for row, index, prob in zip(ranked, best, probs[images, best], strict=True):
            row.append((classes[index], float(f"{prob:.6g}")))
    return [tuple(row) if good else () for row, good in zip(ranked, finite, strict=True)]


def columns(*, top_k: int, labelled: bool) -> list[str]:
    """Name the columns of a table.

    Args:
        top_k: How many labels a row holds, at least 1.
        labelled: Whether the images' own labels are known.
    """
    ranks = [name for k in range(2, top_k + 1) for name in (f"label_{k}", f"confidence_{k}")]
    return ["path", *(["true"] if labelled else []), "label", "confidence", *ranks, "status", "error"]


def check_suffix(path: Path) -> None:
    """Refuse a file name that says no format.

    Raises:
        UserError: If the suffix is none of `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"output={str(path)!r} has no known format; end it in {', '.join(SUFFIXES)}")


def refuse_overwriting(output: str | None, *, inputs: str | None) -> None:
    """Refuse to write over the manifest that is predicted on.

    Raises:
        UserError: If both are one file.
    """
    if output and inputs and Path(output).resolve() == Path(inputs).resolve():
        raise UserError(f"output={output!r} is the manifest that is predicted on; give another file")


class PredictionWriter:
    """Writes a table row by row, in constant memory, and shows it only when it is whole.

    Rows go to ``<file>.partial``. `close` moves that onto the file in one step, `abort` deletes it; either way an
    earlier file stays untouched until a complete one replaces it. A killed process leaves its ``.partial`` behind,
    and the next writer of the same file starts it afresh. As a context manager it closes, or aborts on an exception.

    Args:
        path: Where the table goes; the suffix decides the format (.csv, .jsonl, .parquet). Folders are made.
        top_k: How many labels a row holds, at least 1.
        labelled: Whether there is a column ``true``.

    Raises:
        UserError: If the suffix is unknown or the file cannot be made.
    """

    def __init__(self, path: str | Path, *, top_k: int, labelled: bool) -> None:
        self.path = Path(path)
        check_suffix(self.path)
        self._labelled = labelled
        self._top_k = top_k
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = partial_of(self.path)
            if self.path.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            self._file = self._partial.open("wb")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"predictions cannot be written to {str(path)!r} ({reason}); choose another file"
            ) from error
        self._sink: _Sink = _SINKS[self.path.suffix.lower()](self._file, columns(top_k=top_k, labelled=labelled))

    def write(self, rows: Iterable[Prediction]) -> None:
        """Append rows."""
        with naming(self.path):
            self._sink.write([self._cells(row) for row in rows])

    def close(self) -> None:
        """Finish the table and move it to its place; if that fails, nothing is left of it."""
        try:
            with naming(self.path):
                self._sink.finish()
                self._file.close()
                place(self._partial, self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Throw away what was written."""
        with suppress(Exception):  # a full disk refuses these, too, and the file goes anyway
            self._sink.finish()
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _cells(self, row: Prediction) -> list[Any]:
        """Lay a row out in the order of the columns; what is unknown is None."""
        cells: list[Any] = [spelled_out(row.path)]
        if self._labelled:
            cells.append(None if row.true is None else spelled_out(row.true))
        for label, confidence in row.ranked:
            cells += [spelled_out(label), confidence]
        cells += [None, None] * (self._top_k - len(row.ranked))
        return [*cells, "error" if row.error else "ok", spelled_out(row.error)]


class _Sink(Protocol):
    """One format: takes rows of cells in the order of the columns, None where there is nothing."""

    def write(self, rows: list[list[Any]]) -> None: ...

    def finish(self) -> None: ...


class _CsvSink:
    def __init__(self, file: BinaryIO, names: list[str]) -> None:
        self._file = file
        self.write([names])

    def write(self, rows: list[list[Any]]) -> None:
        self._file.write(csv_text(rows).encode())

    def finish(self) -> None:
        pass


class _JsonlSink:
    def __init__(self, file: BinaryIO, names: list[str]) -> None:
        self._file = file
        self._names = names

    def write(self, rows: list[list[Any]]) -> None:
        for row in rows:
            self._file.write(json.dumps(dict(zip(self._names, row, strict=True)), ensure_ascii=False).encode() + b"\n")

    def finish(self) -> None:
        pass


class _ParquetSink:
    def __init__(self, file: BinaryIO, names: list[str]) -> None:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        # Labels are text whatever they look like: 0, 00 and 1 are three classes.
        self._schema = pa.schema([(name, _parquet_type(name)) for name in names])
        self._writer = pq.ParquetWriter(file, self._schema)
        self._rows: list[list[Any]] = []

    def write(self, rows: list[list[Any]]) -> None:
        self._rows += rows
        while len(self._rows) >= _ROWS_PER_GROUP:
            self._write_group(self._rows[:_ROWS_PER_GROUP])
            del self._rows[:_ROWS_PER_GROUP]

    def finish(self) -> None:
        if self._rows:
            self._write_group(self._rows)
            self._rows = []
        self._writer.close()

    def _write_group(self, rows: list[list[Any]]) -> None:
        import pyarrow as pa

        arrays = [
            pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), self._schema.types, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


def _parquet_type(name: str) -> str:
    return "double" if name.startswith("confidence") else "string"


_SINKS: dict[str, type[_CsvSink] | type[_JsonlSink] | type[_ParquetSink]] = {
    ".csv": _CsvSink,
    ".jsonl": _JsonlSink,
    ".parquet": _ParquetSink,
}

"""The course of a run as numbers: reads ``metrics.csv`` and ``timing.csv``."""

import csv
from pathlib import Path

from clf.errors import UserError


def read_table(path: Path) -> list[dict[str, float]]:
    """Read a run's table with one row per epoch.

    Args:
        path: ``metrics.csv`` or ``timing.csv``.
    Returns:
        The rows in their order, by column; an empty cell is absent, ``nan`` stays what it is. Empty without a file.
    Raises:
        UserError: If a cell is no number, or the file no table.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, restkey="")
            return [_numbers(row, place=f"{path}:{reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table ({error}); mend or remove the file") from error


def _numbers(row: dict[str, str], *, place: str) -> dict[str, float]:
    try:
        return {name: float(cell) for name, cell in row.items() if cell}
    except (TypeError, ValueError) as error:  # a row longer than the header has its rest as a list
        raise UserError(f"{place} holds what is no number ({error}); mend or remove the file") from error

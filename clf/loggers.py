"""The run's own record: ``metrics.csv`` and ``timing.csv``, one row per epoch, continued after a resume."""

import csv
import re
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from clf.errors import UserError
from clf.files import replace_csv

TIMING = "time/"
"""Start of the keys that depend on the clock; they go to ``timing.csv``, so that ``metrics.csv`` is deterministic."""

_ROWS = "rows"  # what the entry in a checkpoint is called


class RunLogger(Logger):
    """Writes every logged epoch metric to ``metrics.csv``, and what depends on the clock to ``timing.csv``.

    One row per epoch: training and validation metrics of an epoch share it. Columns: ``epoch``, ``step`` (the last
    one of the row), then the metrics by name, numbers in names by value, single classes (``val/acc_class_7``) last.
    Numbers are written in full (``repr``); a metric that an epoch lacks is an empty cell. Per-step values
    (``…_step``) are left out; of anything else that is logged more than once an epoch, the last value stays.

    A resumed run goes on in the same files: earlier epochs stay byte for byte, later ones are forgotten. The row of the
    resumed epoch itself is what the checkpoint says, see `go_on_from`. Without that, the first row that is logged says
    where the run stands, and the epoch's row stays if it holds nothing from beyond that step.

    Files are replaced whole, in one step, when an epoch gains a metric and at the end. Attach it in ``fit`` only:
    other verbs have no epochs.

    Args:
        save_dir: The run directory.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._save_dir = save_dir
        self._metrics = _EpochTable(Path(save_dir) / "metrics.csv")
        self._timing = _EpochTable(Path(save_dir) / "timing.csv")
        self._waiting: dict[str, Any] = {}

    @property
    def save_dir(self) -> str:
        """The run directory; with empty `name` and `version` all of Lightning's default folders lie in it."""
        return self._save_dir

    @property
    def name(self) -> str:
        """Nothing: the directory has its name already."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: the directory has its number already."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing: ``config.yaml`` in the run directory says it all."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add metrics to the row of their epoch; what comes without ``epoch`` belongs to the next that has one."""
        values = {**self._waiting, **metrics}
        self._waiting = {} if "epoch" in values else values
        if "epoch" not in values:
            return
        epoch = int(values.pop("epoch"))
        cells = {key: _cell(value) for key, value in values.items() if not key.endswith("_step")}
        timing = {key: cells.pop(key) for key in list(cells) if key.startswith(TIMING)}
        for table, new in ((self._metrics, cells), (self._timing, timing)):
            if new:
                table.update(epoch, step or 0, new)

    def newest_rows(self) -> dict[str, Any]:
        """Write everything down, and say as primitives which row of ``metrics.csv`` may still change."""
        self._write_everything()
        waiting = {key: value if isinstance(value, int) else float(value) for key, value in self._waiting.items()}
        return {"metrics": self._metrics.newest, "waiting": waiting}

    def go_on_from(self, rows: dict[str, Any]) -> None:
        """Begin with the row that `newest_rows` gave to a checkpoint, whatever was logged after it."""
        self._waiting = dict(rows["waiting"])
        self._metrics.resumed = rows["metrics"]

    def save(self) -> None:
        """Write what an epoch gained; called by the trainer after each `log_metrics`."""
        self._metrics.save()
        self._timing.save()

    def finalize(self, status: str) -> None:
        """Write the last values, however the run ended; what went wrong before is not hidden by a disk that is full."""
        with suppress(OSError) if status == "failed" else nullcontext():
            self._write_everything()

    def _write_everything(self) -> None:
        self._metrics.save(everything=True)
        self._timing.save(everything=True)


class Rows(Callback):
    """Keeps the unfinished row of ``metrics.csv`` in checkpoints, so that a resumed run completes just that.

    What is on the disk is no help there: it may be older than the checkpoint, as rows are not written at every step, or
    newer, and then it holds values of steps that are to be done again.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the row."""
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger) and trainer.state.fn == TrainerFn.FITTING:
                checkpoint[_ROWS] = logger.newest_rows()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Hand the row back."""
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger) and _ROWS in checkpoint:
                logger.go_on_from(checkpoint[_ROWS])


class _EpochTable:
    """A CSV file with one row per epoch, held as the text of its cells.

    Args:
        path: The file; read when the first row comes, if it is there.

    Attributes:
        resumed: The newest row of the run that is resumed, empty if it had none; None where nobody knows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[int, dict[str, str]] | None = None
        self._changed = self._grown = False
        self.resumed: dict[str, str] | None = None

    @property
    def newest(self) -> dict[str, str]:
        """The cells of the newest row, by name."""
        return dict(self._rows[max(self._rows)]) if self._rows else self.resumed or {}

    def update(self, epoch: int, step: int, cells: dict[str, str]) -> None:
        """Set cells of an epoch's row."""
        if self._rows is None:
            self._rows = self._before(epoch, step)
        row = self._rows.setdefault(epoch, {})
        self._grown |= not cells.keys() <= row.keys()
        self._changed = True
        row.update({"epoch": str(epoch), "step": str(step), **cells})

    def _before(self, epoch: int, step: int) -> dict[int, dict[str, str]]:
        """Keep the rows from before the point where a run goes on."""
        there = _read(self._path)
        if self.resumed is None:
            return {e: row for e, row in there.items() if e < epoch or (e == epoch and int(row["step"]) <= step)}
        last = int(self.resumed.get("epoch", -1))
        before = {e: row for e, row in there.items() if e < last}
        # Another run that starts from the checkpoint of this one begins with an epoch of its own.
        return before | ({last: dict(self.resumed)} if last == epoch or (there and last >= 0) else {})

    def save(self, *, everything: bool = False) -> None:
        """Replace the file if there are new cells, or, for everything, if any cell changed.

        A learning rate that changes with every step is not worth a file each time.
        """
        if self._rows is None or not (self._grown or (everything and self._changed)):
            return
        names = sorted({name for row in self._rows.values() for name in row}, key=_column_order)
        rows = ([row.get(name, "") for name in names] for _, row in sorted(self._rows.items()))
        replace_csv(self._path, names, rows)
        self._changed = self._grown = False


def _read(path: Path) -> dict[int, dict[str, str]]:
    """Read the rows of a table by epoch, without their empty cells; none if there is no file."""
    if not path.exists():
        return {}
    try:
        return _rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table ({error}); mend or remove the file") from error


def _rows(path: Path) -> dict[int, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restkey="")
        rows = {}
        for row in reader:
            if "" in row or not all((row.get(name) or "").isdecimal() for name in ("epoch", "step")):
                reason = f"{path}:{reader.line_num} is not a row of this table (epoch and step must be numbers)"
                raise UserError(f"{reason}; mend or remove the file")
            rows[int(row["epoch"])] = {name: cell for name, cell in row.items() if cell}
    return rows


def _column_order(name: str) -> tuple[bool, bool, list[tuple[int, str]]]:
    numbers_by_value = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
    return name not in ("epoch", "step"), "_class_" in name, numbers_by_value


def _cell(value: Any) -> str:
    return repr(value if isinstance(value, int) else float(value))

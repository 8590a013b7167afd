"""Where messages go: the terminal, and a run's ``log.txt``."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from clf.errors import printable

log = logging.getLogger("clf")
_LIBRARIES = ("lightning.pytorch", "lightning.fabric")

_EXPECTED_WARNINGS = {
    "does not have many workers": "the loader settings correct themselves",
    "is smaller than the logging interval": "short epochs are fine: metrics are logged per epoch",
    "Checkpoint directory .* exists and is not empty": "a resumed run goes on in its own directory",
    "The dirpath has changed from": "a run directory may be moved; the checkpoint callback follows",
    "Consider setting.*persistent_workers": "the loader settings correct themselves",
    "`isinstance.treespec, LeafSpec.` is deprecated": "a deprecation between torch and Lightning",
    r"Detected call of `lr_scheduler.step\(\)` before": "with 16-mixed the very first step may be skipped",
    "TensorFloat32 tensor cores": "a choice of the user's, trainer.precision, and not ours",
    "callbacks used to create the checkpoint need to be provided": "those that watch training have no work here",
    "Precision .* is not supported by the model summary": "the summary's size estimate is not what it is for",
}
"""Part of a library's warning -> why a user need not see it."""


class _Formatter(logging.Formatter):
    """Lets nothing of a message through that steers a terminal, also not one that shows a file."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at the moment: a progress bar puts itself in its place to stay below."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


class _File(logging.FileHandler):
    """Writes to a file as long as there is room: a message that cannot be written down ends nothing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to_terminal(level: str = "info", *, quiet: bool = False) -> Iterator[None]:
    """Send messages to standard error while a command runs, and keep libraries to what matters.

    Args:
        level: See `set_level`.
        quiet: Whether only errors are said, because another process says the rest.
    """
    handler = _Terminal()
    handler.setFormatter(_Formatter("%(message)s"))
    log.addHandler(handler)
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)
    set_level(level)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", f"(?s).*{message}")
            if quiet:
                warnings.simplefilter("ignore")
            yield
    finally:
        log.removeHandler(handler)
        for file in [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]:
            _everywhere("removeHandler", file)
            file.close()


def set_level(level: str) -> None:
    """Set how much is said.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``; libraries speak from ``warning`` up, or all in ``debug``.
    """
    log.setLevel(level.upper())
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel("DEBUG" if level == "debug" else max(logging.WARNING, log.level))


def also_to(path: Path) -> None:
    """Append every message to a file, until the command ends."""
    handler = _File(path, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    _everywhere("addHandler", handler)


def _everywhere(method: str, handler: logging.Handler) -> None:
    for name in ("clf", *_LIBRARIES):
        getattr(logging.getLogger(name), method)(handler)

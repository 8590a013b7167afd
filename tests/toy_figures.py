"""Figures for tests of drawing, importable by the process that draws."""

import os
import time
from pathlib import Path

from matplotlib.figure import Figure


def plain(inches: float = 1) -> Figure:
    """An empty figure, 100 pixels an inch."""
    return Figure((inches, 1), dpi=100)


def titled(title: str) -> Figure:
    """A figure with a title."""
    figure = plain()
    figure.suptitle(title)
    return figure


def broken() -> Figure:
    """What goes wrong."""
    return plain(1 / 0)


def talkative() -> Figure:
    """A figure whose making prints, also below Python."""
    print("hello")
    os.write(1, b"hello")
    return plain()


def suicide() -> Figure:
    """What ends the process."""
    os._exit(1)


def when_told(told: str) -> Figure:
    """A figure that waits for a file; says in ``<file>.asked`` who waits."""
    asked = Path(f"{told}.asked")
    asked.with_suffix(".new").write_text(str(os.getpid()))
    asked.with_suffix(".new").rename(asked)
    while not Path(told).exists():
        time.sleep(0.02)
    return plain()

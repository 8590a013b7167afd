"""The look that all pictures share: sizes, colours, and names that fit; never pyplot, never its settings."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by the colour-blind, and on grey paper.
BLUE, ORANGE, GREEN, RED, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9"
INK, MUTED, FAINT, PALE = "#1f2328", "#59636e", "#d1d9e0", "#f0f2f4"
SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}

SMALL, TINY = 8.0, 6.0
_DPI = 110
_LONGEST_NAME = 24
LEFT_TO_RIGHT = "\u200e"  # else a name in Arabic turns the whole line around
_LETTER = 0.62  # width of a letter over its size, on average


def new_figure(width: float, height: float, *, title: str, note: str = "", footer: float = 0.0) -> "Figure":
    """Begin a picture; its panels share the space between title and footer.

    Args:
        width: Inches; each is 110 pixels.
        height: Inches for the panels: title and footer come on top.
        title: What it shows.
        note: What it says in numbers, in smaller letters below the title.
        footer: Inches to be left free below the panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    header = 0.62 if note else 0.4
    whole = height + header + footer
    layout = ConstrainedLayoutEngine(
        rect=(0, footer / whole, 1, height / whole), w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.04
    )
    figure = Figure(figsize=(width, whole), dpi=_DPI, layout=layout, facecolor="white")
    style: dict[str, Any] = {"ha": "left", "va": "top", "parse_math": False, "in_layout": False}
    figure.text(0.1 / width, 1 - 0.1 / whole, title, fontsize=12, fontweight="bold", color=INK, **style)
    figure.text(0.1 / width, 1 - 0.36 / whole, note, fontsize=9, color=MUTED, **style)
    return figure


def tidy(axes: "Axes", *, title: str = "", grid: Literal["x", "y", "both"] | None = "y") -> None:
    """Give a panel its title, faint lines to read values by, and nothing else."""
    axes.set_title(title, fontsize=9.5, loc="left", color=INK, parse_math=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(which="both", labelsize=SMALL, color=FAINT, labelcolor=MUTED)
    axes.xaxis.label.set(fontsize=SMALL, color=MUTED)
    axes.yaxis.label.set(fontsize=SMALL, color=MUTED)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color=FAINT, linewidth=0.6)


def add_legend(axes: "Axes") -> None:
    """Say in the panel what its lines are, if there are several."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(handles, labels, fontsize=SMALL, frameon=False, labelcolor=MUTED)


def explain(figure: "Figure", axes: "Axes") -> None:
    """Say what a panel's colours mean, in the footer, which has to be 0.35 inches high or more."""
    handles, labels = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"fontsize": SMALL, "frameon": False, "labelcolor": MUTED, "borderaxespad": 0.3}
    legend = figure.legend(handles, labels, loc="lower left", ncols=max(len(labels), 1), **style)
    legend.set_in_layout(False)


def say_nothing_to_show(axes: "Axes", reason: str) -> None:
    """Fill a panel that has nothing to show with the reason."""
    place: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, reason, color=MUTED, fontsize=9, parse_math=False, **place)
    axes.set_axis_off()


def shorten(name: str, *, most: int = _LONGEST_NAME) -> str:
    """Put a name into one line of at most so many characters."""
    line = " ".join("".join(c if c.isprintable() or c == LEFT_TO_RIGHT else " " for c in name).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def name_axis(axes: "Axes", axis: Literal["x", "y"], names: Sequence[str], *, points: float) -> None:
    """Write names along an axis, at 0, 1, 2, …; where there is no room for all, every second, third, … of them.

    Args:
        axes: The panel.
        axis: Which of its axes.
        names: One for every place.
        points: Room for a name, in points (1/72 inch).
    """
    stride, size = _name_spacing(points)
    places = list(range(0, len(names), stride))
    labels = [shorten(names[place]) for place in places]
    rotation = 90 if axis == "x" and _stand_upright(names, points=points) else 0
    style: dict[str, Any] = {"fontsize": size, "color": INK, "parse_math": False, "rotation": rotation}
    (axes.set_xticks if axis == "x" else axes.set_yticks)(places, labels, **style)
    axes.tick_params(axis, length=2, pad=2)


def room_for_names(axis: Literal["x", "y"], names: Sequence[str], *, points: float) -> float:
    """Estimate how far the names of an axis reach away from it, in inches; arguments as for `name_axis`."""
    _, size = _name_spacing(points)
    lines = 1.0 if axis == "x" and not _stand_upright(names, points=points) else _LETTER * _longest(names)
    return 0.05 + lines * size / 72


def _name_spacing(points: float) -> tuple[int, float]:
    """Choose which names are written (every n-th) and how large."""
    stride = max(1, math.ceil(TINY / points))
    return stride, max(TINY, min(9.0, 0.85 * points * stride))


def _stand_upright(names: Sequence[str], *, points: float) -> bool:
    stride, size = _name_spacing(points)
    return _longest(names) * _LETTER * size > 0.95 * points * stride


def _longest(names: Sequence[str]) -> int:
    return max((len(shorten(name)) for name in names), default=0)


def percent(share: float, *, digits: int = 1) -> str:
    """Write a share as a percentage; a dash where it is not a number."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "–"

"""What a network gets right and wrong, and how sure it is: confusion matrix, reliability diagram."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clf.calibration import Bin, expected_calibration_error
from clf.confusion import Counts
from clf.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_MOST_WITH_NUMBERS = 60
_MOST_CONFUSED = 8


def confusion_matrix(counts: Counts, classes: Sequence[str], title: str) -> "Figure":
    """Draw who is taken for whom by share of the true class: what is right is blue, what is wrong orange to brown.

    Up to 60 classes the numbers stand in the cells; above, the most frequent confusions are listed below.

    Args:
        counts: Images by true class (rows) and predicted class, int64 (C, C).
        classes: Class names, C.
        title: What was scored.
    """
    num_classes, n, right = len(classes), int(counts.sum()), int(counts.trace())
    side = min(max(0.245 * num_classes, 2.8), 10.5)  # inches of the square
    points = 72 * side / num_classes  # of a cell
    confused = [] if num_classes <= _MOST_WITH_NUMBERS else _most_confused(counts, classes)
    figure = canvas.new_figure(
        max(side + canvas.room_for_names("y", classes, points=points) + 0.5, 4.2),
        side + canvas.room_for_names("x", classes, points=points) + 0.45,
        title=title,
        note=f"{n:,} images, {right:,} right ({canvas.percent(right / n if n else math.nan)})",
        footer=0.75 + 0.19 * len(confused),
    )
    axes = figure.add_subplot()
    diagonal, others = _matrix_colours()
    axes.imshow(_cells(counts, diagonal, others), interpolation="nearest")
    canvas.tidy(axes, grid=None)
    canvas.name_axis(axes, "y", classes, points=points)
    canvas.name_axis(axes, "x", classes, points=points)
    axes.set(xlabel="predicted", ylabel="true")
    for spine in axes.spines.values():
        spine.set(visible=True, color=canvas.FAINT)
    if num_classes <= _MOST_WITH_NUMBERS:
        _write_counts(axes, counts, points=points)
    _explain_colours(figure, diagonal, others)
    style: dict[str, Any] = {"fontsize": 9, "color": canvas.INK, "parse_math": False, "linespacing": 1.5}
    x, y = 0.1 / figure.get_figwidth(), 0.62 / figure.get_figheight()
    figure.text(x, y, "\n".join(confused), va="bottom", in_layout=False, **style)
    return figure


def _matrix_colours() -> tuple["Colormap", "Colormap"]:
    """Make the colours of the diagonal, from white, and of all else, where the smallest share is seen already."""
    from matplotlib.colors import LinearSegmentedColormap

    blue = LinearSegmentedColormap.from_list("right", ["#ffffff", "#9ecae1", canvas.BLUE, "#08306b"])
    red = LinearSegmentedColormap.from_list("wrong", ["#fdd9b4", "#fdae6b", canvas.RED, "#7f2704"])
    return blue, red


def _shares(counts: Counts) -> NDArray[np.float64]:
    """Divide each row by its sum: (C, C); not a number for classes without images."""
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=1, keepdims=True), np.float64)


def _cells(counts: Counts, diagonal: "Colormap", others: "Colormap") -> NDArray[np.float64]:
    """Colour every cell: (C, C, 4)."""
    shares = _shares(counts)
    known = np.nan_to_num(shares)
    # By the root: one image of fifty that goes wrong has to be seen.
    colours = np.asarray(others(np.sqrt(known)), np.float64)
    colours[counts == 0] = 1
    own = np.arange(len(counts))
    colours[own, own] = diagonal(known[own, own])
    colours[np.isnan(shares).all(axis=1)] = (0.94, 0.95, 0.96, 1)  # no images: neither right nor wrong
    return colours


def _write_counts(axes: "Axes", counts: Counts, *, points: float) -> None:
    shares = np.nan_to_num(_shares(counts))
    for row, column in zip(*map(np.ndarray.tolist, np.nonzero(counts)), strict=True):
        text = str(counts[row, column])
        size = min(10.0, 0.62 * points, 1.3 * points / len(text))
        dark = shares[row, column] > (0.5 if row == column else 0.3)
        style: dict[str, Any] = {"fontsize": size, "color": "white" if dark else canvas.INK}
        axes.text(column, row, text, ha="center", va="center", **style)
    for edge in range(1, len(counts)):
        axes.axhline(edge - 0.5, color=canvas.PALE, linewidth=0.5)
        axes.axvline(edge - 0.5, color=canvas.PALE, linewidth=0.5)


def _most_confused(counts: Counts, classes: Sequence[str]) -> list[str]:
    """Say the most frequent confusions, two on a line."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = [divmod(int(place), len(classes)) for place in order if wrong.flat[place]]
    lines = [
        f"{canvas.shorten(classes[true])} taken for {canvas.shorten(classes[said])}: "
        f"{wrong[true, said]} of {counts[true].sum()}"
        for true, said in pairs
    ]
    together = ["      ".join(lines[at : at + 2]) for at in range(0, len(lines), 2)]
    return ["Most frequent confusions", *together] if lines else ["No confusions"]


def _explain_colours(figure: "Figure", diagonal: "Colormap", others: "Colormap") -> None:
    """Draw both scales into the footer, in inches: the same in every picture."""
    from matplotlib.ticker import PercentFormatter

    width, height = figure.get_size_inches()
    for left, label, colours, gamma in ((0.1, "right", diagonal, 1.0), (2.15, "wrong", others, 0.5)):
        axes = figure.add_axes((left / width + 0.1 / width, 0.24 / height, 1.7 / width, 0.1 / height))
        axes.set_in_layout(False)
        axes.imshow(colours(np.linspace(0, 1, 128) ** gamma)[None], aspect="auto", extent=(0, 1, 0, 1))
        canvas.tidy(axes, grid=None)
        axes.set_title(f"{label}, of the true class", fontsize=canvas.SMALL, color=canvas.MUTED, loc="left", pad=4)
        axes.set(xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[])
        axes.tick_params(labelsize=7, length=2, pad=1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def reliability(before: Sequence[Bin], after: Sequence[Bin], *, temperature: float, title: str) -> "Figure":
    """Draw how often the network is right against how sure it is, before and after calibration.

    Args:
        before: Images by confidence, as the network says it.
        after: The same with logits divided by the temperature.
        temperature: The one that was fitted on validation.
        title: What was scored.
    """
    n = sum(each.n for each in before)
    columns = [("as the network says it", before), (f"divided by the temperature {temperature:.3g}", after)]
    errors = [expected_calibration_error(list(bins)) for _, bins in columns]
    note = f"expected calibration error (ECE) {' → '.join(map(canvas.percent, errors))}, {n:,} images"
    figure = canvas.new_figure(9.4, 5.6, title=title, note=note, footer=0.35)
    grid = figure.subplots(2, 2, height_ratios=[3, 1], sharex=True, sharey="row")
    for (name, bins), (above, below) in zip(columns, grid.T, strict=True):
        _reliability_panel(above, bins, title=name)
        widths = [each.upper - each.lower for each in bins]
        lefts, counts = [each.lower for each in bins], [each.n / n for each in bins] if n else []
        below.bar(lefts, counts, widths, align="edge", color=canvas.FAINT, edgecolor="white", linewidth=0.8)
        canvas.tidy(below)
        below.set(xlabel="confidence")
    grid[0, 0].set(ylabel="share that is right")
    grid[1, 0].set(ylabel="share of images")
    for row in grid[:, 0]:
        row.yaxis.set_major_formatter(_percent_ticks())
    canvas.explain(figure, grid[0, 0])
    return figure


def _reliability_panel(axes: "Axes", bins: Sequence[Bin], *, title: str) -> None:
    edges, right = [each.lower for each in bins], [each.accuracy for each in bins]
    widths = [max(each.upper - each.lower, 0.004) for each in bins]  # the range that is 1 alone is seen, too
    middles = [each.lower + (each.upper - each.lower) / 2 for each in bins]
    edged: dict[str, Any] = {"align": "edge", "linewidth": 0.8}
    axes.bar(edges, right, widths, color="#9ecae1", edgecolor="white", label="share that is right", **edged)
    gaps, bottoms = [each.confidence - each.accuracy for each in bins], right
    axes.bar(edges, gaps, widths, bottoms, color="#f4b183", edgecolor="white", label="gap to the confidence", **edged)
    axes.hlines(right, edges, [edge + width for edge, width in zip(edges, widths, strict=True)], color=canvas.BLUE)
    axes.plot([0, 1], [0, 1], color=canvas.MUTED, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right")
    whiskers = np.array([_reach(each.accuracy, each.interval) for each in bins]).reshape(-1, 2).T
    axes.errorbar(middles, right, whiskers, fmt="none", ecolor=canvas.INK, elinewidth=1, label="95 % interval")
    canvas.tidy(axes, title=title)
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02))
    axes.xaxis.set_major_formatter(_percent_ticks())
    axes.tick_params("x", labelbottom=False)
    if not bins:
        canvas.say_nothing_to_show(axes, "no image has a confidence")


def _reach(value: float, interval: tuple[float, float]) -> tuple[float, float]:
    """Say how far an interval goes to both sides; never negative, however it was rounded."""
    return max(value - interval[0], 0.0), max(interval[1] - value, 0.0)


def _percent_ticks() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1, decimals=0)

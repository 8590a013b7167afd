"""How training went, epoch by epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from clf.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, float]
Curve = tuple[str, str, dict[str, Any]]
"""Column, what it is called, how it is drawn."""

_TRAIN: dict[str, Any] = {"color": canvas.MUTED, "linestyle": (0, (4, 2))}
_VAL: dict[str, Any] = {"color": canvas.BLUE}


def history(
    metrics: Sequence[Row], timing: Sequence[Row], *, monitor: str, mode: Literal["min", "max"], title: str
) -> "Figure":
    """Draw loss, accuracy, learning rate, throughput and waiting by epoch, and mark the best epoch.

    Args:
        metrics: Rows of ``metrics.csv``; what was not logged has no panel.
        timing: Rows of ``timing.csv``.
        monitor: Column that decides which epoch is the best.
        mode: ``max`` where more is better.
        title: Which run this is.
    """
    best = best_row(metrics, monitor=monitor, mode=mode)
    panels = [panel for panel in _panels(metrics, timing) if panel[3]]
    columns = min(max(len(panels), 1), 3)
    rows = math.ceil(max(len(panels), 1) / columns)
    note = "1 epoch" if len(metrics) == 1 else f"{len(metrics)} epochs"
    if best is not None:
        note += f"; best: epoch {best['epoch']:.0f}, {monitor} {best[monitor]:.4g} (dotted line)"
    figure = canvas.new_figure(max(4.1 * columns, 5.5), 2.75 * rows, title=title, note=note)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, unit, table, curves) in zip(grid, panels, strict=False):
        _draw_panel(axes, table, curves, best=best)
        canvas.tidy(axes, title=name)
        axes.set(xlabel="epoch", ylabel=unit)
        canvas.add_legend(axes)
        if name in ("Accuracy", "Waiting for data"):
            _in_percent(axes)
    for axes in grid[len(panels) :] if panels else []:
        axes.set_axis_off()
    if not panels:
        canvas.say_nothing_to_show(grid[0], "no epoch is done yet")
    return figure


def learning_rates(rates: Sequence[float], losses: Sequence[float], *, found: float | None) -> "Figure":
    """Draw what a search for the learning rate saw: the loss while the rate rises.

    Args:
        rates: The rate at each step, rising.
        losses: The loss after each step.
        found: The rate to train with; None where the search found none.
    """
    note = "no rate found" if found is None else f"found: {found:.1e}"
    figure = canvas.new_figure(6.5, 3.2, title="Loss while the learning rate rises", note=note)
    axes = figure.subplots()
    axes.plot(rates, losses, color=canvas.BLUE, linewidth=1.2)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    canvas.tidy(axes, grid="both")
    if found is not None and losses:
        axes.axvline(found, color=canvas.RED, linestyle=":", linewidth=1.5)
        # Where it diverges it would press the rest of the curve flat.
        first, lowest = losses[0], min(losses)
        axes.set_ylim(lowest - 0.1 * abs(first), first + 0.5 * abs(first))
    return figure


def best_row(metrics: Sequence[Row], *, monitor: str, mode: Literal["min", "max"]) -> Row | None:
    """Find the row with the best score, of equal ones the first; None where nothing finite was measured."""
    judged = [row for row in metrics if math.isfinite(row.get(monitor, math.nan))]
    sign = 1 if mode == "max" else -1
    return max(judged, key=lambda row: sign * row[monitor], default=None)


def _panels(metrics: Sequence[Row], timing: Sequence[Row]) -> list[tuple[str, str, Sequence[Row], list[Curve]]]:
    """Say what each panel shows: its title, unit, table and those of its curves that have any points."""
    loss: list[Curve] = [("train/loss", "train", _TRAIN), ("val/loss", "val", _VAL)]
    accuracy: list[Curve] = [
        ("train/acc_top1", "train", _TRAIN),
        ("val/acc_top1", "val", _VAL),
        ("val/acc_top5", "val, top 5", {"color": canvas.SKY}),
        ("val/f1_macro", "val, macro F1", {"color": canvas.GREEN}),
    ]
    rates = sorted({name for row in metrics for name in row if name.startswith("lr-")})
    fading = [1 - 0.7 * at / len(rates) for at in range(len(rates))]
    lr = [(name, "", {"color": canvas.BLUE, "alpha": alpha}) for name, alpha in zip(rates, fading, strict=True)]
    groups = f" ({len(rates)} groups)" if len(rates) > 1 else ""
    speed: list[Curve] = [("time/images_per_s", "", {"color": canvas.BLUE})]
    wait: list[Curve] = [("time/data_wait_share", "", {"color": canvas.BLUE})]
    spent: list[Curve] = [("time/epoch_s", "whole epoch", {"color": canvas.BLUE}), ("time/val_s", "validation", _TRAIN)]
    panels: list[tuple[str, str, Sequence[Row], list[Curve]]] = [
        ("Loss", "", metrics, loss),
        ("Accuracy", "", metrics, accuracy),
        (f"Learning rate{groups}", "", metrics, lr),
        ("Throughput", "images/s", timing, speed),
        ("Waiting for data", "share of training time", timing, wait),
        ("Time", "seconds", timing, spent),
    ]
    return [
        (name, unit, table, [curve for curve in curves if any(math.isfinite(y) for _, y in points(table, curve[0]))])
        for name, unit, table, curves in panels
    ]


def points(table: Sequence[Row], column: str) -> list[tuple[float, float]]:
    """Take a curve out of a table: epochs and values, without the epochs that lack it; what is infinite becomes NaN."""
    pairs = [(row["epoch"], row[column]) for row in table if column in row]
    return [(epoch, value if math.isfinite(value) else math.nan) for epoch, value in pairs]


def _draw_panel(axes: "Axes", table: Sequence[Row], curves: Sequence[Curve], *, best: Row | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for column, label, style in curves:
        epochs, values = zip(*points(table, column), strict=True)
        # Few epochs are dots, too: a single one would be no line, and one between two gaps neither.
        marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(epochs) <= 30 else {}
        axes.plot(epochs, values, linewidth=1.5, label=label or None, **marker, **style)
    if best is not None:
        axes.axvline(best["epoch"], color=canvas.ORANGE, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    last = max((row["epoch"] for row in table), default=0)
    axes.set_xlim(-0.02 * max(last, 1) - 0.05, 1.02 * max(last, 1) + 0.05)
    if not any(column.startswith(("train/", "val/")) for column, _, _ in curves):
        axes.set_ylim(bottom=0)  # rates and times mean something next to nothing; a loss would be squeezed


def _in_percent(axes: "Axes") -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1))

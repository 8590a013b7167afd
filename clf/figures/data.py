"""What is in the data, and what training draws from it: classes, image sizes, the sampler."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clf.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_EPOCHS = 60


def class_counts(
    counts: Mapping[str, Sequence[int]], classes: Sequence[str], *, imbalance: Mapping[str, float | None], title: str
) -> "Figure":
    """Draw how many images each class has, split by split; the most frequent class of the first split on top.

    Args:
        counts: Images of each class, C, by split.
        classes: Class names, C.
        imbalance: Images of the most frequent class over those of the rarest that has any, by split.
        title: Which data this is.
    """
    first = np.asarray(next(iter(counts.values())))
    order = np.argsort(-first, kind="stable")
    height = min(max(0.2 * len(classes), 1.6), 14.0)
    points = 72 * height / len(classes)
    total = sum(map(sum, counts.values()))
    names = canvas.room_for_names("y", classes, points=points)
    width = names + 0.4 + 3.0 * len(counts)
    note = f"{total:,} images of {len(classes)} classes"
    figure = canvas.new_figure(max(width, 5), height + 0.7, title=title, note=note)
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, (split, numbers) in zip(panels, counts.items(), strict=True):
        ordered = np.asarray(numbers)[order]
        axes.barh(np.arange(len(classes)), ordered, height=0.8, color=canvas.SPLIT_COLOURS[split])
        ratio = imbalance[split]
        uneven = "" if ratio is None else f", most/fewest {ratio:.3g}"
        canvas.tidy(axes, title=f"{split}: {ordered.sum():,} images{uneven}", grid="x")
        if points >= 10:
            _write_bar_numbers(axes, ordered)
        axes.set(xlabel="images", xlim=(0, 1.18 * max(int(ordered.max(initial=0)), 1)))
    canvas.name_axis(panels[0], "y", [classes[at] for at in order], points=points)
    panels[0].set_ylim(len(classes) - 0.4, -0.6)
    return figure


def _write_bar_numbers(axes: "Axes", numbers: NDArray[np.int64]) -> None:
    for place, number in enumerate(numbers.tolist()):
        style: dict[str, Any] = {"fontsize": 7, "color": canvas.MUTED if number else canvas.RED}
        axes.text(number, place, f" {number:,}", va="center", **style)


def image_sizes(
    sizes: Mapping[str, Sequence[tuple[int, int]]], *, input_size: tuple[int, int] | None, title: str, note: str
) -> "Figure":
    """Draw how large the images are: width against height, and the aspect ratios.

    Args:
        sizes: Width and height of images, by split.
        input_size: Width and height that the network sees; None draws none.
        title: Which data this is.
        note: How many images were measured.
    """
    figure = canvas.new_figure(10, 4.6, title=title, note=note)
    left, right = figure.subplots(1, 2)
    shown = {split: pairs for split, pairs in sizes.items() if pairs}
    if not shown:
        canvas.say_nothing_to_show(left, "no image could be measured")
        right.set_axis_off()
        return figure
    for split, pairs in shown.items():
        found = Counter(pairs)
        widths, heights = zip(*found, strict=True)
        # Images of one size lie on one another: the more, the larger.
        areas = [8 + 150 * (number / len(pairs)) ** 0.5 for number in found.values()]
        style: dict[str, Any] = {"color": canvas.SPLIT_COLOURS[split], "alpha": 0.45, "linewidths": 0}
        left.scatter(widths, heights, s=areas, label=f"{split} ({len(pairs):,})", **style)
    if input_size is not None:
        mark: dict[str, Any] = {"marker": "+", "color": canvas.INK, "s": 90, "linewidths": 1.4}
        left.scatter(*input_size, label=f"network's input ({input_size[0]} × {input_size[1]})", **mark)
    _scale_sizes(left, [*(pair for pairs in shown.values() for pair in pairs), *([input_size] if input_size else [])])
    canvas.tidy(left, title="Width and height (the more images, the larger the dot)", grid="both")
    left.set(xlabel="width in pixels", ylabel="height in pixels")
    canvas.add_legend(left)
    _draw_aspects(right, shown)
    return figure


def _scale_sizes(axes: "Axes", pairs: Sequence[tuple[int, int]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    smallest, largest = min(map(min, pairs)), max(map(max, pairs))
    if largest <= 16 * smallest:
        axes.set(xlim=(0, 1.1 * largest), ylim=(0, 1.1 * largest))
        return
    axes.set(xscale="log", yscale="log", xlim=(smallest / 1.4, 1.4 * largest), ylim=(smallest / 1.4, 1.4 * largest))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())


def _draw_aspects(axes: "Axes", sizes: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    from matplotlib.ticker import PercentFormatter

    aspects = {split: [width / height for width, height in pairs] for split, pairs in sizes.items()}
    lowest, highest = min(map(min, aspects.values())), max(map(max, aspects.values()))
    if highest - lowest < 0.02:
        lowest, highest = lowest - 0.5 * lowest, highest + 0.5 * lowest
    edges = np.linspace(lowest, highest, 31)
    for split, values in aspects.items():
        shares = np.full(len(values), 1 / len(values))
        line: dict[str, Any] = {"histtype": "step", "linewidth": 1.6, "color": canvas.SPLIT_COLOURS[split]}
        axes.hist(values, bins=edges.tolist(), weights=shares, label=split, **line)
    axes.axvline(1, color=canvas.FAINT, linewidth=1, zorder=0)
    canvas.tidy(axes, title="Aspect ratio (width / height)")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="aspect ratio; 1 is square", ylabel="share of the split's images")
    canvas.add_legend(axes)


def sampler(
    classes: Sequence[str], *, images: Sequence[int], epochs: Sequence[int], drawn: Any, expected: Any, title: str
) -> "Figure":
    """Draw how often training drew each class against how often it should, now and in the epochs before.

    Args:
        classes: Class names, C.
        images: Training images of each class, C.
        epochs: Numbers of the epochs, E, at least one.
        drawn: Samples drawn by epoch and class, int64 (E, C).
        expected: Samples expected, (E, C).
        title: Which run this is.
    """
    drawn, expected, order = np.asarray(drawn), np.asarray(expected, float), np.argsort(-np.asarray(images))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(expected > 0, drawn / expected, np.nan)[-_MOST_EPOCHS:, order]
    uneven = len(epochs) > 1 and bool(np.nanmax(np.abs(ratios - 1), initial=0) > 0)
    width = min(max(0.24 * len(classes) + 1.4, 6.5), 15.0)
    points = 72 * (width - 1.2) / len(classes)
    names = canvas.room_for_names("x", classes, points=points)
    heights = [2.9, min(max(0.13 * len(ratios), 0.5), 2.6)] if uneven else [2.9]
    note = f"epoch {epochs[-1]}: {drawn[-1].sum():,} samples drawn from {sum(images):,} images"
    figure = canvas.new_figure(width, sum(heights) + names + 0.9, title=title, note=note, footer=0.35)
    above, *below = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
    places = np.arange(len(classes))
    above.bar(places, np.asarray(images)[order], 0.86, color=canvas.FAINT, label="images in the data")
    above.bar(places, drawn[-1][order], 0.5, color=canvas.BLUE, label="drawn")
    marks: dict[str, Any] = {"color": canvas.RED, "linewidth": 1.6, "label": "expected"}
    above.hlines(expected[-1][order], places - 0.43, places + 0.43, **marks)
    canvas.tidy(above, title="Samples of each class in this epoch, classes by their size")
    above.set(xlim=(-0.6, len(classes) - 0.4), ylabel="samples")
    if below:
        _draw_ratios(figure, below[0], ratios, epochs[-_MOST_EPOCHS:])
        above.tick_params("x", labelbottom=False)
    canvas.name_axis((below or [above])[0], "x", [classes[at] for at in order], points=points)
    canvas.explain(figure, above)
    return figure


def _draw_ratios(figure: "Figure", axes: "Axes", ratios: NDArray[np.float64], epochs: Sequence[int]) -> None:
    """Colour drawn / expected by epoch (rows) and class."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("ratio", [canvas.RED, "#ffffff", canvas.BLUE]).with_extremes(
        bad=canvas.FAINT
    )
    picture = axes.imshow(ratios, cmap=colours, vmin=0.5, vmax=1.5, aspect="auto", interpolation="nearest")
    canvas.tidy(axes, title="Drawn / expected in each epoch; grey: none expected", grid=None)
    stride = max(1, len(epochs) // 6)
    axes.set_yticks(range(0, len(epochs), stride), [str(epoch) for epoch in epochs[::stride]])
    axes.set(ylabel="epoch")
    bar = figure.colorbar(picture, ax=axes, extend="both", aspect=8, pad=0.01, ticks=[0.5, 1, 1.5])
    bar.ax.tick_params(labelsize=canvas.SMALL, labelcolor=canvas.MUTED)
    bar.outline.set_visible(False)

"""A comparison of runs for people: as text for a terminal, and as one HTML page that needs nothing else."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from clf import results
from clf.data.samples import SCORED_SPLITS
from clf.errors import printable
from clf.pages import render_page
from clf.statistics import p_text

Report = Mapping[str, Any]

NONE = "–"
_LONGEST_VALUE = 60
_LEAST_WIDTH = 120  # Where nobody watches, a table is not squeezed into 80 columns.


def as_text(report: Report) -> str:
    """Lay a report of `clf.compare.make_report` out for a terminal."""
    parts = [_settings(report), *(_runs(report, split) for split in report["splits"]), _comparisons(report)]
    parts.append("\n".join(printable(each["sentence"]) for each in report["comparisons"]))
    parts.append("\n".join(f"note: {printable(note)}" for note in report["notes"]))
    return "\n\n".join(parts)


def as_html(report: Report) -> str:
    """Lay a report out as a page: no network, no scripts, light and dark."""
    scales = {
        split: _scale([run["splits"][split]["acc_top1_interval"] for run in report["runs"]])
        for split in SCORED_SPLITS
        if split in report["splits"]
    }
    ends = [each["interval"] or [each["difference"]] * 2 for each in report["comparisons"]]
    return render_page(
        "comparison",
        filters=_FILTERS,
        worst=worst,
        split_names=SCORED_SPLITS,
        **report,
        method=method(report),
        changes=changes(report),
        scales=scales,
        scale=_scale([*ends, [0.0, 0.0]]),
    )


# ------------------------------------------------------------------------------------------------------------- words


def percent(share: float) -> str:
    """Write a share: ``91.37 %``."""
    return f"{100 * share:.2f} %"


def points(difference: float) -> str:
    """Write a difference of shares, with its sign: ``+0.54``."""
    return f"{100 * difference:+.2f}"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number, or that there is none."""
    return NONE if value is None else f"{value:.{digits}f}"


def span(interval: Sequence[float] | None, *, scale: float = 100, digits: int = 2, sign: str = "") -> str:
    """Write an interval: ``88.08–93.82``."""
    if interval is None:
        return NONE
    between = " to " if sign else "–"
    return between.join(f"{scale * end:{sign}.{digits}f}" for end in interval)


def averaged(value: Mapping[str, float] | None, *, scale: float = 1, digits: int = 3) -> str:
    """Write a mean and its standard deviation: ``90.62 ± 0.41``."""
    return NONE if value is None else f"{scale * value['mean']:.{digits}f} ± {scale * value['sd']:.{digits}f}"


def worst(figures: Mapping[str, Any]) -> str:
    """Name the worst class of a split: ``46: 0 % of 2``."""
    found = figures["worst_class"]
    return NONE if found is None else f"{_short(found['name'], 24)}: {100 * found['acc']:.0f} % of {found['n']}"


def method(report: Report) -> str:
    """Say how sides were compared."""
    kinds = {each["averaged"] for each in report["comparisons"]}
    names = [report["methods"]["p_averaged" if averaged else "p"] for averaged in sorted(kinds)]
    intervals = [report["methods"]["interval_averaged" if averaged else "interval"] for averaged in sorted(kinds)]
    many = len(report["comparisons"])
    corrected = (
        f" The verdicts are those of p corrected for {many} comparisons by Holm's method; intervals are not."
        if many > 1
        else ""
    )
    return f"p: {' or '.join(names)}. Interval: {' or '.join(intervals)}.{corrected}"


def changes(report: Report) -> list[tuple[str, str, str, str]]:
    """List what each side does differently from the first: (side, key, the first's value, its own)."""
    found = []
    for at, side in enumerate(report["sides"]):
        for setting in report["settings"]:
            before, after = (
                NONE if value is None else value for value in (setting["values"][0], setting["values"][at])
            )
            if before != after:
                found.append((side, setting["key"], before, after))
    return found


# ------------------------------------------------------------------------------------------------------------- tables


def _settings(report: Report) -> str:
    if not report["settings"]:
        return "configurations: no difference but for seed and name"
    table = _table("run", "setting", printable(report["sides"][0]), "here")
    named = ""
    for change in changes(report):
        table.add_row(*map(_cell, ("" if change[0] == named else change[0], *change[1:])))
        named = change[0]
    return f"configurations: what differs from {printable(report['sides'][0])}\n{_draw(table)}"


def _runs(report: Report, split: str) -> str:
    table = _table(
        "run", "seed", "top-1", "95 % interval", "macro F1", "95 % interval", "ECE", "worst class", "minutes"
    )
    for run in report["runs"]:
        at = run["splits"][split]
        cells = (run["name"], str(run["seed"]), percent(at["acc_top1"]), f"{span(at['acc_top1_interval'])} %")
        f1 = (number(at["f1_macro"]), span(at["f1_macro_interval"], scale=1, digits=3))
        table.add_row(*map(_cell, (*cells, *f1, number(at["ece"]), worst(at), number(run["minutes"], 1))))
    lines = [f"{SCORED_SPLITS[split]}: {report['n'][split]} images", _draw(table)]
    for group in report["groups"]:
        mean = group["splits"][split]
        top1 = f"top-1 {averaged(mean['acc_top1'], scale=100, digits=2)} %"
        others = f"macro F1 {averaged(mean['f1_macro'])}, ECE {averaged(mean['ece'])}"
        lines.append(f"  {printable(group['name'])}: {top1}, {others} (mean ± sd of {len(group['runs'])} runs)")
    return "\n".join(lines)


def _comparisons(report: Report) -> str:
    more = ["corrected"] if len(report["comparisons"]) > 1 else []
    table = _table("compared", "top-1, points", "95 % interval", "won", "lost", "p", *more)
    for each in report["comparisons"]:
        numbers = (points(each["difference"]), span(each["interval"], sign="+"), str(each["gained"]), str(each["lost"]))
        chances = [p_text(each[key]) for key in ("p", *more)]
        table.add_row(*map(_cell, (each["other"], *numbers, *chances)))
    images = " and ".join(SCORED_SPLITS[split] for split in report["splits"])
    return f"against {printable(report['sides'][0])}, on the same images of {images}\n{_draw(table)}\n{method(report)}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(_cell(column), overflow="fold")
    return table


def _draw(table: Table) -> str:
    width = max(shutil.get_terminal_size((_LEAST_WIDTH, 0)).columns, 80)
    return "\n".join(f"  {line}" for line in results.as_text(table, width=width).splitlines())


def _cell(text: str) -> Text:
    return Text(_short(printable(text), _LONGEST_VALUE))


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


# --------------------------------------------------------------------------------------------------------------- page

_FILTERS: Mapping[str, Callable[..., str]] = {
    "percent": percent,
    "points": points,
    "number": number,
    "span": span,
    "averaged": averaged,
    "p": p_text,
}


def _scale(intervals: Sequence[Sequence[float]]) -> dict[str, float]:
    """Choose the axis on which intervals are drawn: from the lowest end to the highest."""
    low, high = min(each[0] for each in intervals), max(each[1] for each in intervals)
    return {"low": low, "width": max(high - low, 1e-9)}

"""What is measured and how it is told: medians, their spread, differences that are more than it, a report."""

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter, sleep
from typing import Any, Final

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from clf import options, results
from clf.environment import environment

REPEATS: Final = 5
"""How often a thing is measured, at least."""

_LEAST_DIFFERENCE = 0.02  # What is smaller changes nobody's day, however sure it is.
_LEAST_WIDTH = 120
_REST = (
    0.05  # Threads of torch and of ONNX Runtime go on spinning when their work is done, on cores of whoever is next.
)
_BUSY = 0.25  # A quiet machine spreads less.


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one thing.

    Args:
        name: What was measured.
        seconds: What each repeat took.
        images: How many images each repeat handled.
    """

    name: str
    seconds: tuple[float, ...]
    images: tuple[int, ...]

    @property
    def per_image(self) -> list[float]:
        """Seconds for an image, repeat by repeat."""
        return [seconds / images for seconds, images in zip(self.seconds, self.images, strict=True)]

    @property
    def median(self) -> float:
        """Seconds for an image."""
        return statistics.median(self.per_image)

    @property
    def spread(self) -> float:
        """Seconds for an image between the quarters of the repeats."""
        return spread(self.per_image)

    @property
    def rate(self) -> float:
        """Images per second."""
        return 1 / self.median

    def to_dict(self) -> dict[str, Any]:
        """Turn into primitives."""
        return {
            "name": self.name,
            "n": len(self.seconds),
            "images_per_s": self.rate,
            "seconds_per_image": {"median": self.median, "spread": self.spread},
            "seconds_per_repeat": {"median": statistics.median(self.seconds), "spread": spread(self.seconds)},
            "images": sum(self.images),
            "seconds": sum(self.seconds),
        }


@dataclass(frozen=True)
class Gain:
    """How much faster one thing is than another.

    Args:
        ratio: Its speed over the other's: 2 is twice as fast.
        spread: Of the ratio, between the quarters of the repeats.
        clear: Whether the difference is more than the spread.
    """

    ratio: float
    spread: float
    clear: bool

    @property
    def faster(self) -> bool:
        """Whether it is faster, and clearly so."""
        return self.clear and self.ratio > 1

    def __str__(self) -> str:
        """Say it in a cell of a table."""
        return f"{self.ratio:.2f} times" if self.clear else "no difference"


@dataclass(frozen=True)
class Advice:
    """A change that the measurements speak for.

    Args:
        key: What to change.
        value: To what.
        text: Why, with what was measured.
        gain: How much faster it makes the whole, as far as measured: 2 is twice as fast.
    """

    key: str
    value: Any
    text: str
    gain: float


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Args:
        title: What it shows.
        columns: Heads.
        rows: Cells, row by row.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def as_text(self) -> str:
        """Lay it out for a terminal."""
        drawn = RichTable(box=box.SIMPLE, pad_edge=False, show_edge=False)
        for number, column in enumerate(self.columns):
            drawn.add_column(Text(column), justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            drawn.add_row(*map(Text, row))
        width = max(shutil.get_terminal_size((_LEAST_WIDTH, 0)).columns, 80)
        return "\n".join([self.title, *(f"  {line}" for line in results.as_text(drawn, width=width).splitlines())])


@dataclass
class Report:
    """What a benchmark found.

    Args:
        bench: Which.
        about: What was measured, and on what, in one line.
        settings: The same, as primitives.
        tables: For people.
        measurements: All numbers, each with its n, median and spread.
        bottleneck: What limits, in a sentence.
        advice: What to change.
        notes: What a reader must know to read the numbers right.
        otherwise: What to say where there is nothing to change.
    """

    bench: str
    about: str
    settings: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    measurements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bottleneck: str = ""
    advice: list[Advice] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    otherwise: str = "change nothing; no alternative was faster by more than the spread"

    def as_text(self) -> str:
        """Lay it out for a terminal."""
        notes = [*self.notes, *self._doubts()]
        advice = [f"advice: {each.text}" for each in self.advice] or [f"advice: {self.otherwise}"]
        lines = [f"bottleneck: {self.bottleneck}", *advice, *(f"note: {note}" for note in notes)]
        return "\n\n".join([self.about, *(table.as_text() for table in self.tables), "\n".join(lines)])

    def _doubts(self) -> list[str]:
        """Say so where the numbers are worth little."""
        times = [each["seconds_per_repeat"] for group in self.measurements.values() for each in group]
        largest = max((each["spread"] / each["median"] for each in times if each["median"] > 1e-3), default=0.0)
        if largest < _BUSY:
            return []
        return [
            f"repeats differ by up to {largest:.0%}: something else used the machine; measure again when it is quiet"
        ]

    def as_json(self) -> str:
        """Say everything, and on which machine, as JSON."""
        said = {
            "bench": self.bench,
            "about": self.about,
            "settings": self.settings,
            "measurements": self.measurements,
            "bottleneck": self.bottleneck,
            "advice": [asdict(each) for each in self.advice],
            "notes": [*self.notes, *self._doubts()],
            "environment": environment(),
        }
        return json.dumps(said, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(report: Report, *, json_file: str | None) -> None:
    """Print a report, or write it.

    Args:
        report: What was found.
        json_file: ``-`` prints JSON instead of tables; a file gets JSON beside them.
    Raises:
        UserError: If the file cannot be written.
    """
    if json_file == "-":
        print(report.as_json(), end="")
        return
    print(report.as_text())
    if json_file is not None:
        options.write("--json", json_file, report.as_json())
        print(f"written: {json_file}")


def spread(values: Sequence[float]) -> float:
    """Say how far apart the quarters of some values are; 0 where there is one value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def compare(base: Series, other: Series) -> Gain:
    """Say how much faster another thing is than a base, repeat by repeat: what hit both alike cancels out."""
    pairs = zip(base.per_image, other.per_image, strict=False)
    ratios = [before / after for before, after in pairs]
    ratio, between = statistics.median(ratios), spread(ratios)
    clear = len(ratios) >= 3 and abs(ratio - 1) > max(between, _LEAST_DIFFERENCE)
    return Gain(ratio, between, clear)


def alternate(
    actions: Mapping[str, Callable[[], object]], *, images: int, times: int = 1, repeats: int = REPEATS
) -> dict[str, Series]:
    """Measure things in turn, so that what the machine does beside hits all of them alike.

    Args:
        actions: What to do, by name; a GPU must be waited for inside. Each is done once before, to warm up.
        images: How many images an action handles.
        times: How often an action is done in a repeat, which stands for one of them.
        repeats: How often each is measured.
    """
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    for number in range(repeats):
        order = list(actions)
        for name in order if number % 2 == 0 else reversed(order):
            sleep(_REST)
            start = perf_counter()
            for _ in range(times):
                actions[name]()
            taken[name].append((perf_counter() - start) / times)
    return {name: Series(name, tuple(seconds), (images,) * repeats) for name, seconds in taken.items()}


def times_within(action: Callable[[], object], *, seconds: float, repeats: int = REPEATS, most: int = 200) -> int:
    """Say how often an action can be done in each repeat, for all of them to take about so many seconds."""
    action()
    start = perf_counter()
    action()
    return max(1, min(most, int(seconds / repeats / max(perf_counter() - start, 1e-6))))


def milliseconds(seconds: float) -> str:
    """Write a duration: three digits, in milliseconds."""
    return digits(1000 * seconds)


def digits(value: float) -> str:
    """Write a number with three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")

"""What a dataset is made of: classes, image sizes, file formats and metadata, counted; opens no more than headers."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from rich import box
from rich.table import Table
from rich.text import Text

from clf.data.samples import Sample, Split
from clf.data.splits import count_classes
from clf.files import open_whole
from clf.preprocess import FORMATS, MAX_BYTES
from clf.progressbar import watched
from clf.results import as_text

MOST_VALUES = 20
"""Values of a metadata key that are named; of the others it is only said how many there are."""

_MOST_CLASSES = 20  # in the table
_MOST_KEYS = 12

QUANTILES = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}

_READERS = 8  # Threads: opening a file on a network drive is waiting.
_TURNED = range(5, 9)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of an image file say.

    Args:
        width: Pixels, as people see the image: EXIF orientation is applied.
        height: Pixels.
        format: As Pillow calls it, e.g. ``JPEG``.
    """

    width: int
    height: int
    format: str


def read_header(path: str) -> Header | None:
    """Read an image's size and format without decoding it; None where the file cannot be opened as an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged EXIF, or a size that only decoding makes dangerous
            with open_whole(path, most=MAX_BYTES) as file, Image.open(file, formats=FORMATS) as image:
                # Pillow decodes a PNG to look for EXIF at its end.
                has_exif = image.format != "PNG" or "exif" in image.info
                turned = has_exif and image.getexif().get(_ORIENTATION) in _TURNED
                width, height = image.size[::-1] if turned else image.size
                return Header(width, height, image.format or "unknown")
    except Exception:  # Damaged files make Pillow raise nearly anything; how many there are is the answer.
        return None


def read_headers(samples: Mapping[Split, Sequence[Sample]], *, most: int) -> dict[Split, list[Header | None]]:
    """Read the headers of so many images, evenly spaced over all splits; always the same ones.

    Args:
        samples: The dataset.
        most: How many images at most.
    """
    everything = [(split, sample.path) for split, listed in samples.items() for sample in listed]
    count = min(most, len(everything))
    chosen = [everything[at * len(everything) // count] for at in range(count)]
    headers: dict[Split, list[Header | None]] = {split: [] for split in samples}
    with ThreadPoolExecutor(_READERS) as readers:
        found = [readers.submit(read_header, path) for _, path in chosen]
        for (split, _), future in zip(chosen, watched(found, title="reading image sizes"), strict=True):
            headers[split].append(future.result())
    return headers


def summarise_split(samples: Sequence[Sample], headers: Sequence[Header | None], classes: Sequence[str]) -> Any:
    """Say what ``statistics.json`` says about a split.

    Args:
        samples: The split.
        headers: Of some of its images; None for a file that could not be opened.
        classes: Class names.
    """
    counts = count_classes(samples, classes)
    return {
        "n": len(samples),
        "imbalance": imbalance(counts),
        "classes": [
            {"name": name, "n": n, "share": n / len(samples) if samples else None}
            for name, n in zip(classes, counts, strict=True)
        ],
        "images": _summarise_headers(headers),
        "metadata": _summarise_metadata(samples),
    }


def imbalance(counts: Sequence[int]) -> float | None:
    """Divide the images of the most frequent class by those of the rarest that has any; None without images."""
    present = [n for n in counts if n]
    return max(present) / min(present) if present else None


def _summarise_headers(headers: Sequence[Header | None]) -> dict[str, Any]:
    known = [header for header in headers if header is not None]
    formats = Counter(header.format for header in known)
    return {
        "n": len(headers),
        "unreadable": len(headers) - len(known),
        "formats": dict(formats.most_common()),
        "width": _quantiles([header.width for header in known]),
        "height": _quantiles([header.height for header in known]),
        "aspect_ratio": _quantiles([header.width / header.height for header in known]),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.quantile(values, list(QUANTILES.values()), method="nearest")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def _summarise_metadata(samples: Sequence[Sample]) -> dict[str, Any]:
    keys = sorted({key for sample in samples for key in sample.metadata})
    return {key: _summarise_key([s.metadata[key] for s in samples if key in s.metadata]) for key in keys}


def _summarise_key(values: Sequence[str | int | float | bool | None]) -> dict[str, Any]:
    """Count a key's values; of many different numbers the quantiles, of many texts the most frequent."""
    # By type as well: 1, 1.0 and true are one and the same to a dictionary.
    counted = Counter((type(value), value) for value in values)
    named = [{"value": value, "n": n} for (_, value), n in counted.most_common(MOST_VALUES)]
    summary = {"n": len(values), "distinct": len(counted), "values": named}
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(counted) > MOST_VALUES and len(numbers) == len(values):
        return {**summary, "values": [], "quantiles": _quantiles(numbers)}
    return summary


def table(splits: Mapping[Split, Any]) -> str:
    """Lay the statistics out for a terminal: the most frequent and the rarest classes, then what the images are like.

    Args:
        splits: What `summarise_split` says, by split.
    """
    return "\n".join([as_text(_class_table(splits)), as_text(_image_table(splits))])


def _class_table(splits: Mapping[Split, Any]) -> Table:
    laid_out = Table("class", box=box.SIMPLE)
    for split in splits:
        laid_out.add_column(split, justify="right")
        laid_out.add_column("share", justify="right")
    first = next(iter(splits.values()))["classes"]
    order = sorted(range(len(first)), key=lambda at: -first[at]["n"])
    half = _MOST_CLASSES // 2
    left_out = len(order) - _MOST_CLASSES
    shown = order if left_out <= 0 else [*order[:half], *order[-half:]]
    for row, at in enumerate(shown):
        if left_out > 0 and row == half:
            laid_out.add_row(f"… {left_out} more")
        entries = [found["classes"][at] for found in splits.values()]
        laid_out.add_row(Text(first[at]["name"]), *(cell for each in entries for cell in _count_cells(each)))
    return laid_out


def _count_cells(entry: Mapping[str, Any]) -> tuple[str, str]:
    return f"{entry['n']:,}", "–" if entry["share"] is None else f"{100 * entry['share']:.1f} %"


def _image_table(splits: Mapping[Split, Any]) -> Table:
    found = list(splits.values())
    images = [each["images"] for each in found]
    laid_out = Table("", *splits, box=box.SIMPLE)
    laid_out.add_row("images", *(f"{each['n']:,}" for each in found))
    ratios = [each["imbalance"] for each in found]
    laid_out.add_row("most / fewest of a class", *("–" if ratio is None else f"{ratio:.3g}" for ratio in ratios))
    laid_out.add_row("opened", *(f"{each['n']:,}" for each in images))
    if any(each["unreadable"] for each in images):
        laid_out.add_row("could not be opened", *(f"{each['unreadable']:,}" for each in images))
    for key, name in (("width", "width"), ("height", "height"), ("aspect_ratio", "width / height")):
        laid_out.add_row(f"{name}: min, median, max", *(_range(each[key]) for each in images))
    laid_out.add_row("formats", *(_shares(each["formats"]) for each in images))
    keys = sorted({key for each in found for key in each["metadata"]})
    for key in keys[:_MOST_KEYS]:
        laid_out.add_row(Text(key), *(Text(_describe_key(each["metadata"].get(key))) for each in found))
    if len(keys) > _MOST_KEYS:
        laid_out.add_row(f"… {len(keys) - _MOST_KEYS} more keys")
    return laid_out


def _range(quantiles: Mapping[str, float] | None) -> str:
    return "–" if quantiles is None else ", ".join(f"{quantiles[name]:.3g}" for name in ("min", "median", "max"))


def _shares(counts: Mapping[str, int], *, most: int = 3) -> str:
    total = sum(counts.values())
    named = [f"{name} {100 * n / total:.0f} %" for name, n in list(counts.items())[:most]]
    return ", ".join([*named, "…"] if len(counts) > most else named) or "–"


def _describe_key(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "–"
    if "quantiles" in summary:
        return f"{summary['distinct']:,} numbers: {_range(summary['quantiles'])}"
    shares = [f"{each['value']} {100 * each['n'] / summary['n']:.0f} %" for each in summary["values"][:3]]
    return ", ".join([*shares, f"… ({summary['distinct']:,} values)"] if summary["distinct"] > 3 else shares)

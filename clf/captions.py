"""What a run's pictures show, in words: titles, and alternatives for people who do not see them."""

from collections.abc import Mapping
from typing import Any

from clf.data.samples import SCORED_SPLITS
from clf.records import Records, number

ALTERNATIVES = {
    "classes": ("data", "Images per class"),
    "image_sizes": ("data", "Image sizes"),
    "sampler": ("data", "What the sampler drew"),
    "history": ("curves", "Training history"),
    "confusion_matrix_val": ("confusion", "Validation"),
    "confusion_matrix_test": ("confusion", "Test"),
    "calibration_val": ("calibration", "Validation"),
    "calibration_test": ("calibration", "Test"),
    "mistakes_val": ("mistakes", "Validation"),
    "mistakes_test": ("mistakes", "Test"),
    "samples": ("samples", "Validation images"),
}
"""Picture -> section and title, in the order of the page."""


def isolate(text: str) -> str:
    """Keep the direction of a name to itself where no element can, e.g. in an attribute."""
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"


def describe_picture(name: str, records: Records) -> str:
    """Say in numbers what a picture shows.

    Args:
        name: The picture.
        records: The run.
    """
    kind, _, split = name.rpartition("_")
    scored = {"confusion_matrix": _confusion, "calibration": _calibration, "mistakes": _mistakes}
    if kind in scored and split in SCORED_SPLITS:
        return scored[kind](records, split)
    if name == "history":
        return _history(records)
    if name in ("classes", "image_sizes", "sampler"):
        about = {"classes": "Bars: images per class", "image_sizes": "Widths and heights of the images"}
        return f"{about.get(name, 'Drawn images against the expected ones, by class')}. {_data(records)}".strip()
    if name == "samples":
        return f"Validation images, each with its class, the prediction and how sure it is. {_score(records, 'val')}"
    return f"Picture of this run: {isolate(name)}"


def _entry(records: Records, split: str) -> Mapping[str, Any]:
    entry = records.metrics.get(split)
    return entry if isinstance(entry, dict) else {}


def _score(records: Records, split: str) -> str:
    entry = _entry(records, split)
    top1, n = number(entry.get("acc_top1")), number(entry.get("n"))
    if top1 is None or n is None:
        return ""
    return f"{round(top1 * n)} of {n:.0f} {SCORED_SPLITS[split]} images are right ({100 * top1:.1f} %)."


def _data(records: Records) -> str:
    data = records.environment.get("data")
    return f"{isolate(str(data['description']))}." if isinstance(data, dict) and "description" in data else ""


def _confusion(records: Records, split: str) -> str:
    classes = _entry(records, split).get("classes")
    size = f" with {len(classes)} classes" if isinstance(classes, list) else ""
    text = f"Confusion matrix{size}, true class by predicted class. {_score(records, split)}"
    predicted = records.predicted.get(split)
    if predicted is None or not predicted.confusions:
        return text.strip()
    true, label, count = predicted.confusions[0]
    return f"{text} Most frequent confusion: {isolate(true)} taken for {isolate(label)}, {count} times."


def _calibration(records: Records, split: str) -> str:
    entry = _entry(records, split)
    error, after = (number(entry.get(key)) for key in ("ece", "ece_calibrated"))
    text = f"Reliability diagram of the {SCORED_SPLITS[split]} images: accuracy by confidence."
    if error is not None:
        text += f" Expected calibration error {error:.3f}"
        text += "." if after is None else f", {after:.3f} with the temperature."
    return text


def _mistakes(records: Records, split: str) -> str:
    text = f"The {SCORED_SPLITS[split]} images that were mistaken with the highest confidence."
    predicted = records.predicted.get(split)
    if predicted is None or not predicted.mistakes:
        return text
    first = predicted.mistakes[0]
    most_confident = (
        f"{isolate(first.true)} taken for {isolate(first.label)} with {100 * first.confidence:.0f} % confidence"
    )
    return f"{text} {predicted.wrong} of {predicted.n} are wrong; the most confident: {most_confident}."


def _history(records: Records) -> str:
    rows = records.history
    text = f"Curves of {len(rows)} epochs." if rows else "Curves of the training."
    for name, title in (("train/loss", "training loss"), ("val/loss", "validation loss"), ("val/acc_top1", "top-1")):
        known = [value for row in rows if (value := row.get(name)) is not None]
        if known:
            text += f" {title[0].upper()}{title[1:]} from {known[0]:.3g} to {known[-1]:.3g}."
    return text

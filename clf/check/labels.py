"""What is wrong with labels: seen from the list of samples alone, before any rule has changed it."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from clf.check.findings import Finding, Severity
from clf.data.samples import Sample, Split, count_labels
from clf.errors import counted, name_some

FEW: Final = 10
"""Training images of a class below which it is called rare, unless the caller says otherwise."""

UNEVEN: Final = 10
"""How many times as many images the largest class has as the smallest before it is said."""

SCORED: Final[tuple[Split, ...]] = ("val", "test")
"""Splits that a network is judged by."""

Counts = Mapping[Split, Counter[str]]


def check_labels(
    listing: Mapping[Split, Sequence[Sample]],
    *,
    few: int = FEW,
    on_unknown: Literal["error", "skip"] = "error",
    unlabelled: int = 0,
) -> list[Finding]:
    """Look for what is wrong with labels; opens no file.

    Args:
        listing: The samples of each split as their source lists them, see `Catalogue.found`.
        few: Classes with fewer training images are rare.
        on_unknown: What ``data.on_unknown_label`` is: whether a fit refuses labels that train lacks, or skips them.
        unlabelled: Rows that were dropped because their label is empty.
    Returns:
        What was found, the worst of each kind first; nothing where there is no train.
    """
    counts = {split: count_labels(samples) for split, samples in listing.items()}
    found = [*_empty(unlabelled), *_look_alikes(counts)]
    if counts.get("train"):
        found += [*_unknown(listing, counts, on_unknown), *_missing(counts), *_rare(counts["train"], few)]
        found += _imbalance(counts["train"])
    return found


def _finding(rule: str, severity: Severity, message: str, count: int, images: Sequence[str] = ()) -> Finding:
    return Finding(rule, "labels", severity, message, count, tuple(images))


def _empty(count: int) -> Iterator[Finding]:
    if count:
        said = counted(count, "row has an empty label and was dropped", "rows have an empty label and were dropped")
        yield _finding("empty-label", "note", said, count)


def _unknown(
    listing: Mapping[Split, Sequence[Sample]], counts: Counts, rule: Literal["error", "skip"]
) -> Iterator[Finding]:
    for split in (split for split in SCORED if split in counts):
        unknown = sorted(counts[split].keys() - counts["train"].keys())
        if not unknown:
            continue
        images = [sample.path for sample in listing[split] if sample.label in set(unknown)]
        does = "clf fit stops there" if rule == "error" else "left out by data.on_unknown_label=skip"
        found = counted(len(images), "image has a label", "images have labels")
        yield _finding(
            "unknown-label",
            "error" if rule == "error" else "warning",
            f"{split}: {found} that train lacks: {name_some(unknown)}; {does}; mend the labels, or add such images to "
            "train",
            len(images),
            images,
        )


def _missing(counts: Counts) -> Iterator[Finding]:
    for split in SCORED:
        if not counts.get(split):
            continue
        missing = sorted(counts["train"].keys() - counts[split].keys())
        if missing:
            have = "has" if len(missing) == 1 else "have"
            message = (
                f"{split}: {len(missing)} of {len(counts['train'])} classes {have} no image: {name_some(missing)}; "
            )
            told = f"no score of {split} says how well {'it is' if len(missing) == 1 else 'they are'} told"
            yield _finding("missing-class", "warning", message + told, len(missing))


def _rare(train: Counter[str], few: int) -> Iterator[Finding]:
    rare = sorted((name for name, count in train.items() if count < few), key=lambda name: (train[name], name))
    if rare:
        some = name_some(rare, write=lambda name: f"{name!r} ({train[name]})")
        have = f"{'has' if len(rare) == 1 else 'have'} fewer than {counted(few, 'image')}"
        message = f"train: {len(rare)} of {len(train)} classes {have}: {some}; "
        yield _finding("rare-class", "warning", f"{message}add images, or merge or remove the classes", len(rare))


def _imbalance(train: Counter[str]) -> Iterator[Finding]:
    (most, largest), *_ = train.most_common(1)
    fewest, smallest = min(train.items(), key=lambda item: (item[1], item[0]))
    if largest >= UNEVEN * smallest:
        yield _finding(
            "imbalance",
            "note",
            f"train: {most!r} has {largest:,} images, {fewest!r} {smallest:,}: {largest / smallest:.0f} times as many; "
            "model.class_weights or data.sampler can correct that, and macro F1 says more than top-1",
            len(train),
        )


def _look_alikes(counts: Counts) -> Iterator[Finding]:
    total = sum(counts.values(), Counter[str]())
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(total):
        alike[_plain(name)].append(name)
    for names in (names for names in alike.values() if len(names) > 1):
        written = ", ".join(f"{_spelt(name)} ({total[name]:,})" for name in names)
        yield _finding(
            "look-alike-labels",
            "warning",
            f"labels that differ only by {_difference(names)}: {written}; if they are one class, write them alike",
            sum(total[name] for name in names),
        )


def _plain(label: str) -> str:
    """Write a label without what people do not see; single letters keep their case: they are what is classified."""
    text = " ".join(_visible(unicodedata.normalize("NFKC", label)).split())
    return text if len(text) == 1 else text.casefold()


def _visible(label: str) -> str:
    """Leave out what takes no room, as a byte order mark."""
    return "".join(char for char in label if unicodedata.category(char) != "Cf")


def _difference(names: Sequence[str]) -> str:
    ways = {
        "Unicode form": lambda name: unicodedata.normalize("NFKC", name),
        "white space": lambda name: " ".join(name.split()),
        "case": str.casefold,
        "invisible characters": _visible,
    }
    several = ", ".join(way for way, write in ways.items() if any(write(name) != name for name in names))
    return next((way for way, write in ways.items() if len({write(name) for name in names}) == 1), several)


def _spelt(label: str) -> str:
    return repr(label) if label.isascii() else ascii(label)

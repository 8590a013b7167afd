"""Rules that samples obey before anything is trained: the class list, unseen labels, the carved validation split."""

import hashlib
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

from clf.data.samples import Sample, Samples, Split, count_labels
from clf.errors import UserError, did_you_mean, name_some


def class_names(train: Iterable[Sample], *, where: str) -> list[str]:
    """Name the classes: every label of the training split, sorted by code point.

    Args:
        train: The training split.
        where: The source, for the message.
    Raises:
        UserError: If there are fewer than two classes.
    """
    classes = sorted({_label(sample) for sample in train})
    if len(classes) < 2:
        raise UserError(f"{where}: train has only the class {name_some(classes)}; a classifier needs two or more")
    return classes


def count_classes(train: Iterable[Sample], classes: Sequence[str]) -> list[int]:
    """Count the samples of each class, in the order of the classes."""
    counts = count_labels(train)
    return [counts[name] for name in classes]


def require_same_classes(found: Sequence[str], *, checkpoint: Sequence[str], where: str) -> None:
    """Refuse data whose classes are not those that the checkpoint was trained on.

    Raises:
        UserError: Naming the classes that are missing from the data and those that the checkpoint does not know.
    """
    missing, extra = sorted(set(checkpoint) - set(found)), sorted(set(found) - set(checkpoint))
    if missing or extra:
        facts = [f"lacks {name_some(missing, 5)}"] * bool(missing) + [f"adds {name_some(extra, 5)}"] * bool(extra)
        raise UserError(
            f"{where}: the classes of train are not the checkpoint's: the data {' and '.join(facts)}; "
            "use the data that the checkpoint was trained on, or train on this data"
        )


def drop_unknown(
    samples: Samples,
    *,
    classes: Sequence[str],
    split: Split,
    rule: Literal["error", "skip"],
    where: str,
) -> tuple[Samples, int]:
    """Apply the rule for labels that training never saw.

    Args:
        samples: A validation or test split.
        classes: What the model knows.
        split: Which split it is, for the message.
        rule: ``error`` refuses them, ``skip`` leaves their samples out.
        where: The source, for the message.
    Returns:
        The samples that are left, and how many were left out.
    Raises:
        UserError: If a label is unknown under ``error``, or under ``skip`` nothing is left.
    """
    known = frozenset(classes)
    kept = Samples(sample for sample in samples if sample.label in known)
    if len(kept) == len(samples):
        return samples, 0
    unknown = sorted({_label(sample) for sample in samples} - known)
    if rule == "skip" and kept:
        return kept, len(samples) - len(kept)
    example = next(sample for sample in samples if sample.label == unknown[0])
    advice = "every label is unknown: is this the right dataset?"
    if kept:
        advice = "mend the labels, add such images to train, or leave them out by data.on_unknown_label=skip"
    raise UserError(
        f"{where}: {split} has labels that train lacks: {name_some(unknown)} in {len(samples) - len(kept)} of "
        f"{len(samples)} samples, e.g. {example.path}{did_you_mean(unknown[0], classes)}; {advice}"
    )


def carve(
    train: Sequence[Sample],
    *,
    fraction: float,
    seed: int,
    bases: Sequence[str],
    kept: Collection[str] = (),
    file: Callable[[str], str] = str,
) -> tuple[Samples, Samples]:
    """Set a stratified part of the training split aside for validation, the same on every machine.

    Which images go depends on the seed and on their paths below ``bases``, not on where those lie. Images, not rows,
    are divided: all rows of an image stay together, and an image whose rows disagree about its label stays in train.
    Classes share by largest remainder, and each keeps at least one image in train.

    Args:
        train: The whole training split.
        fraction: Share of the images to set aside, in (0, 1); at least one image goes where a class has two.
        seed: Another seed, another choice.
        bases: Folders that paths are relative to.
        kept: Paths that stay in train whatever happens; they are not counted in the share.
        file: Turns a path into what is the same for all paths to one image.
    Returns:
        What is left of train, and validation; both in the order given.
    """
    firsts: dict[str, int] = {}  # of each image, the row that names it first
    first = array("i", (firsts.setdefault(file(sample.path), row) for row, sample in enumerate(train)))
    stay = {firsts.get(file(path)) for path in kept}
    del firsts
    labels = [_label(sample) for sample in train]
    stay.update(own for row, own in enumerate(first) if labels[row] != labels[own])
    images: dict[str, list[int]] = defaultdict(list)
    for row, own in enumerate(first):
        if row == own and own not in stay:
            images[labels[own]].append(own)
    quota = _share({name: len(found) for name, found in images.items()}, fraction=fraction)
    chosen: set[int] = set()
    for name, found in images.items():
        order = sorted(found, key=lambda row: _shuffle_key(relative(train[row].path, bases), seed=seed))
        chosen.update(order[: quota[name]])
    left = Samples(sample for sample, own in zip(train, first, strict=True) if own not in chosen)
    return left, Samples(sample for sample, own in zip(train, first, strict=True) if own in chosen)


def _share(counts: Mapping[str, int], *, fraction: float) -> dict[str, int]:
    """Divide by largest remainder: the total is right to one image, and so is each class.

    Source: Hamilton's method of apportionment.
    """
    quota = {name: min(int(fraction * count), count - 1) for name, count in counts.items()}
    left = max(1, round(fraction * sum(counts.values()))) - sum(quota.values())
    for name in sorted(counts, key=lambda name: (-(fraction * counts[name] % 1), name)):
        if left > 0 and quota[name] < counts[name] - 1:
            quota[name] += 1
            left -= 1
    return quota


def _shuffle_key(path: str, *, seed: int) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{seed}/{path}".encode(errors="surrogateescape"), digest_size=8).digest(), path


def relative(path: str, bases: Sequence[str]) -> str:
    """Path below the innermost of some folders that holds it, with forward slashes: the same wherever they lie.

    Args:
        path: A path that begins with one of the folders; any other is told from the first.
        bases: The folders; an empty text is the working folder.
    """
    around = [base for base in bases if path.startswith(f"{base}/") or not (base or path.startswith("/"))]
    if around:
        base = max(around, key=len)
        return path[len(base) + 1 :] if base else path
    return os.path.relpath(path, bases[0] or ".").replace(os.sep, "/") if bases else path


def fingerprint(splits: Mapping[Split, Sequence[Sample]], *, bases: Sequence[str]) -> str:
    """Hash what the data is: split, path below ``bases`` and label of each sample, in order.

    Returns:
        A SHA-256 in hexadecimal; equal on every machine that holds the same dataset.
    """
    digest = hashlib.sha256()
    for split, samples in sorted(splits.items()):
        for sample in samples:
            line = "\0".join((split, relative(sample.path, bases), sample.label or ""))
            digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def _label(sample: Sample) -> str:
    if not isinstance(sample.label, str):
        raise UserError(f"{sample.path}: label {sample.label!r} is not text; a source must label its samples with text")
    return sample.label

"""What ``data.predict`` may name: an image, a folder, a glob, or a manifest that lists images."""

import glob
import os
from collections.abc import Collection

from clf.data.disk import Disk, Fence
from clf.data.layout import is_image, near, scan
from clf.data.samples import Sample, Samples
from clf.data.tables import (
    LABEL_COLUMNS,
    MANIFESTS,
    PATH_COLUMNS,
    Row,
    RowKeys,
    find_column,
    is_manifest,
    join,
    read_table,
    row_image,
)
from clf.errors import UserError, counted, name_some
from clf.preprocess import IMAGE_SUFFIXES

Found = tuple[Samples, list[str]]  # the samples, and what has to be said about them


def find_inputs(
    target: str,
    *,
    classes: Collection[str],
    path_key: str | None = None,
    label_key: str | None = None,
    outside: bool = False,
) -> Found:
    """List the images to predict on.

    A folder or a glob is listed in order of the paths; a manifest keeps the order of its rows and may name images that
    are not there, which become rows with an error. Labels are all known or all None: a manifest has them where every
    row names a class of the model, a folder where every image lies in a subfolder that is called like one.

    Args:
        target: Path of an image, a folder or a manifest (.jsonl, .csv, .tsv, .parquet), or a glob (``**`` goes deep).
        classes: The model's.
        path_key: Column of a manifest's paths; None takes ``path``, ``image``, ``file`` or ``filename``.
        label_key: Column of the labels; None takes ``true``, ``suffix``, ``label`` or ``class``.
        outside: Whether a manifest may name images outside its folder, or outside the working folder where it was
            written by ``clf predict``.
    Returns:
        The samples, and what has to be said about them.
    Raises:
        UserError: If nothing is found, or a manifest cannot be read.
    """
    if os.path.isdir(target):
        return _in_folder(target.rstrip("/") or target, classes=classes)
    if os.path.isfile(target):
        if is_image(target):
            return Samples([Sample(target)]), []
        return _in_manifest(target, classes=classes, keys=RowKeys(path_key, label_key), outside=outside)
    if not glob.has_magic(target):
        raise UserError(f"data.predict={target!r} does not exist{near(target)}; name a file, folder or glob")
    matches = sorted(path for path in glob.iglob(target, recursive=True) if os.path.isfile(path))
    images = Samples(Sample(path) for path in matches if is_image(path))
    if not images:
        no_images = f"{counted(len(matches), 'file')}, but no image ({', '.join(IMAGE_SUFFIXES)})"
        found = no_images if matches else "nothing"
        raise UserError(f"data.predict={target!r} matches {found}; quote the pattern and check it with ls")
    return images, _ignored(len(matches) - len(images), target)


def _in_folder(folder: str, *, classes: Collection[str]) -> Found:
    found = sorted(scan(folder))
    paths = [path for path, hidden in found if not hidden and is_image(path)]
    if not paths:
        raise UserError(f"data.predict={folder!r} holds no images ({', '.join(IMAGE_SUFFIXES)}); name another folder")
    parents = [os.path.basename(os.path.dirname(path)) for path in paths]
    known = all(name in classes for name in set(parents))
    samples = Samples(
        Sample(f"{folder}/{path}", name if known else None) for path, name in zip(paths, parents, strict=True)
    )
    notes = _ignored(len(found) - len(paths), folder)
    return samples, [*notes, f"{folder}: the names of the subfolders are taken as labels"] if known else notes


def _ignored(count: int, target: str) -> list[str]:
    files = counted(count, "hidden or other file that is no image", "hidden or other files that are no images")
    return [f"{target}: ignored {files}"] if count else []


def _in_manifest(file: str, *, classes: Collection[str], keys: RowKeys, outside: bool) -> Found:
    if not is_manifest(file):
        raise UserError(
            f"data.predict={file!r} is neither an image ({', '.join(IMAGE_SUFFIXES)}) "
            f"nor a manifest ({', '.join(MANIFESTS)}); give it the suffix of what it holds"
        )
    samples, disk = Samples(), Disk()
    fences = [Fence([folder], disk) for folder in ("", os.path.dirname(file))]
    for place, row in read_table(file):
        key = find_column(row, named=keys.path, usual=PATH_COLUMNS, option="path_key", place=place)
        if key is None:
            names = " or ".join(PATH_COLUMNS)
            raise UserError(f"{place}: no column for the path (it has {', '.join(row)}); call it {names}")
        image = row_image(row, place=place, key=key)
        # What `clf predict` wrote counts from the working folder, as what it was asked to predict on did.
        ours = "confidence" in row
        image = image if ours else join(place, image)
        if not outside:
            fences[not ours].require_inside(image, place=place)
        samples.append(Sample(image, _label(row, keys.label, place=place)))
    if not samples:
        raise UserError(f"data.predict={file!r} lists no images; it needs a row for each")
    labels = {sample.label for sample in samples}
    unknown = sorted(label for label in labels if label is not None and label not in classes)
    if None not in labels and not unknown:
        return samples, []
    notes = [f"{file}: its labels are left aside, the model does not know {name_some(unknown)}"] if unknown else []
    return Samples(Sample(path) for path in samples.paths), notes


def _label(row: Row, label_key: str | None, *, place: str) -> str | None:
    # A table that `clf predict` wrote: its `label` is a guess, the truth stands in `true` or nowhere.
    usual = ("true",) if "confidence" in row else LABEL_COLUMNS
    key = find_column(row, named=label_key, usual=usual, option="label_key", place=place)
    label = row[key] if key else None
    return str(label) if label not in (None, "") else None

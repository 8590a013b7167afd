"""The tree of a dataset on disk: its split folders, each scanned once, and which layout they are in."""

import os
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from clf.data.samples import Split
from clf.errors import UserError, did_you_mean
from clf.preprocess import IMAGE_SUFFIXES

FOLDERS: Final[Mapping[Split, tuple[str, ...]]] = {
    "train": ("train",),
    "val": ("valid", "val"),
    "test": ("test",),
}
SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")
SPLIT_NAMES: Final[Mapping[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What a split may be called in a table, in lower case."""


class Tree:
    """A dataset folder with ``train``, ``valid`` (or ``val``) and ``test`` inside, or with none: then all is train.

    Args:
        root: The folder.
    Raises:
        UserError: If it is not a folder, or has both ``valid`` and ``val``.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or root
        if not os.path.isdir(self.root):
            raise UserError(f"data.root={root!r} is not a folder{near(self.root)}; name the folder that holds train/")
        entries = [entry for entry in os.scandir(self.root) if not is_hidden(entry.name)]
        present = sorted(entry.name for entry in entries if is_folder(entry))
        self.loose = sorted(entry.name for entry in entries if not is_folder(entry))
        self._folders = {split: [n for n in names if n in present] for split, names in FOLDERS.items()}
        self.others = [name for name in present if not any(name in names for names in FOLDERS.values())]
        self.has_splits = any(self._folders.values())
        self.notes = [
            f"{self.root}/{name} is not read: the folders of splits are called train, valid (or val) and test"
            for name in self.others
            if self.has_splits
            and did_you_mean(name.lower(), ("train", "training", "val", "validation", "test", "testing"))
        ]
        self._listed: dict[Split, tuple[list[str], list[str]]] = {}
        if len(self._folders["val"]) > 1:
            raise UserError(f"data.root={root!r} has both 'valid' and 'val'; keep one validation folder")

    def folder(self, split: Split) -> str | None:
        """Path of a split's folder; None where the dataset has no such split."""
        if not self.has_splits:
            return self.root if split == "train" else None
        names = self._folders[split]
        return f"{self.root}/{names[0]}" if names else None

    def files(self, split: Split) -> tuple[list[str], list[str]]:
        """List a split, and forget the listing: whoever asks first keeps what it needs of it.

        Args:
            split: A split that has a folder.
        Returns:
            Paths of the visible files, and of the hidden files and folders; relative to the split's folder, sorted.
        """
        self._list(split)
        return self._listed.pop(split)

    def recognise(self) -> Literal["folder", "jsonl"]:
        """Tell the layout: JSONL if a ``*.jsonl`` lies anywhere in a split, a folder for each class otherwise."""
        for split in SPLITS:
            if self.folder(split) and any(name.endswith(".jsonl") for name in self._list(split)[0]):
                return "jsonl"
        return "folder"

    def class_folders(self) -> set[str]:
        """Name the folders in splits that hold images, however deep: each is a class in the folder layout."""
        return {
            name.partition("/")[0]
            for split in SPLITS
            if self.folder(split)
            for name in self._list(split)[0]
            if "/" in name and is_image(name)
        }

    def _list(self, split: Split) -> tuple[list[str], list[str]]:
        if split not in self._listed:
            folder = self.folder(split)
            assert folder is not None, f"no folder for {split}"
            found = sorted(scan(folder))
            visible = [name for name, hidden in found if not hidden]
            self._listed[split] = visible, [name for name, hidden in found if hidden]
        return self._listed[split]


def scan(folder: str, *, inside: str = "", above: frozenset[str] = frozenset()) -> Iterator[tuple[str, bool]]:
    """Walk a folder, through symbolic links too, but never in circles.

    Args:
        folder: Where to start.
        inside: Prefix of what is yielded, for the recursion.
        above: Real paths of the folders that lead here, for the recursion.
    Yields:
        A path relative to the first folder, and whether it is hidden; hidden folders are not entered.
    Raises:
        UserError: If a folder cannot be listed.
    """
    above |= {os.path.realpath(folder)}
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); mend its permissions or remove it") from error
    for entry in entries:
        name = inside + entry.name
        if is_hidden(entry.name) or not is_folder(entry):
            yield name, is_hidden(entry.name)
        elif not (entry.is_symlink() and os.path.realpath(entry.path) in above):
            yield from scan(entry.path, inside=f"{name}/", above=above)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or leads to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_hidden(name: str) -> bool:
    """Whether a name is one that file managers and archives hide or leave behind."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(path: str) -> bool:
    """Whether a path ends like an image, in whatever case."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def near(path: str) -> str:
    """Suggest a neighbour of a path that does not exist."""
    folder, name = os.path.split(path.rstrip("/"))
    try:
        return did_you_mean(name, (other for other in os.listdir(folder or ".") if other != name))
    except OSError:
        return ""

"""What ``data.root`` names: each root is recognised by itself, and several are merged split by split."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from clf.data.disk import Disk
from clf.data.folder import FolderSource
from clf.data.jsonl import JsonlSource
from clf.data.layout import FOLDERS, SPLIT_NAMES, Tree, is_image
from clf.data.manifest import ManifestSource, manifests_in
from clf.data.samples import Lister, Samples, Source, Split
from clf.data.synthetic import SyntheticJerseys
from clf.data.tables import MANIFESTS, RowKeys, is_manifest
from clf.errors import UserError, counted, name_some

Layout = Literal["auto", "folder", "jsonl", "manifest"]


def open_data(
    root: str | Sequence[str] | None,
    *,
    source: Source | None = None,
    layout: Layout = "auto",
    keys: RowKeys,
    outside: bool = False,
    keep_missing: bool = False,
) -> tuple[Lister, list[str]]:
    """Open what a configuration names as its data.

    Args:
        root: A root, or several; None for none.
        source: Where the samples come from without a root; None renders jersey numbers.
        layout: What the roots are; ``auto`` finds out for each.
        keys: What the columns of tables are called.
        outside: Whether tables may name images outside the roots.
        keep_missing: Whether tables may name images that are not on disk, for somebody who looks at them anyway.
    Returns:
        The source of the samples, and the folders that their paths count from.
    Raises:
        UserError: If a root is nothing that can be read.
    """
    if root is None:
        return source or SyntheticJerseys(), []
    roots = [root] if isinstance(root, str) else root
    if not roots:
        raise UserError("data.root=[] names nothing; give a folder or a manifest")
    folders = [_folder_of(each) for each in roots]
    if not outside:
        keys = replace(keys, inside=tuple(folders))
    sources = [_open(each, layout=layout, keys=keys, keep_missing=keep_missing) for each in roots]
    return (sources[0] if len(sources) == 1 else MergedSource(sources)), folders


def _folder_of(root: str) -> str:
    """Folder that the paths of a root's samples count from: itself, or the one that a manifest lies in."""
    return os.path.dirname(root) if os.path.isfile(root) else root.rstrip("/") or root


class MergedSource:
    """Several sources as one, split by split in the order given.

    Args:
        sources: What is merged.
    """

    def __init__(self, sources: Sequence[Lister]) -> None:
        self._sources = sources
        self._notes: list[str] = []

    def __str__(self) -> str:
        """Name all that is merged."""
        return " + ".join(map(str, self._sources))

    @property
    def unlabelled(self) -> int:
        """Rows that were left out because their label is empty, in what was listed so far."""
        return sum(getattr(source, "unlabelled", 0) for source in self._sources)

    @property
    def notes(self) -> list[str]:
        """What was left out or came twice, a line each."""
        return [*(note for source in self._sources for note in getattr(source, "notes", ())), *self._notes]

    def samples(self, split: Split) -> Samples:
        """List a split; a file that several sources name stays in as often as it is named, and is noted."""
        disk = Disk()
        merged = Samples()
        seen: set[str] = set()
        twice: list[str] = []
        for source in self._sources:
            samples = source.samples(split)
            files = {disk.real(sample.path): sample.path for sample in samples}
            twice += [path for real, path in files.items() if real in seen]
            seen |= files.keys()
            for sample in samples:
                merged.append(sample)
        if twice:
            count = counted(len(twice), "file")
            self._notes.append(f"{split} has {count} from more than one root, e.g. {twice[0]}")
        return merged


def require_one(root: str | Sequence[str] | None, source: Source | None) -> None:
    """Refuse data from two places.

    Raises:
        UserError: If there is a root and a source other than the rendered one, which a root replaces.
    """
    if root is not None and source is not None and not isinstance(source, SyntheticJerseys):
        raise UserError(
            f"data.root={root!r} and data.source={type(source).__name__} are both given, and only one can be the "
            "data; set the other to null"
        )


def _open(root: str, *, layout: Layout, keys: RowKeys, keep_missing: bool) -> Lister:
    if os.path.isfile(root):
        return ManifestSource([_manifest(root, layout=layout)], keys=keys, keep_missing=keep_missing)
    tree = Tree(root)
    found = _recognise(tree) if layout == "auto" else layout
    if found == "jsonl":
        if not tree.has_splits:
            raise UserError(f"data.root={root!r} has no folder train, valid or test, as data.layout=jsonl needs")
        return JsonlSource(tree, keys=keys, keep_missing=keep_missing)
    if found == "folder":
        return FolderSource(tree)
    tables = manifests_in(tree.root, tree.loose)
    if not tables:
        raise UserError(f"data.root={root!r} holds no manifest ({', '.join(MANIFESTS)}), as data.layout=manifest needs")
    return ManifestSource(tables, keys=keys, keep_missing=keep_missing)


def _manifest(root: str, *, layout: Layout) -> str:
    """Refuse a file that is no manifest."""
    if is_image(root):
        raise UserError(f"data.root={root!r} is an image; name the folder that holds train/")
    if not is_manifest(root):
        raise UserError(
            f"data.root={root!r} is not a folder, and no manifest ({', '.join(MANIFESTS)}); "
            "unpack an archive first, and name the folder"
        )
    if layout not in ("auto", "manifest"):
        raise UserError(f"data.root={root!r} is a file, and data.layout={layout} needs a folder; set it to auto")
    return root


def _recognise(tree: Tree) -> Literal["folder", "jsonl", "manifest"]:
    """Tell the layout of a folder: what lies in splits comes before tables, and tables before bare class folders."""
    tables = [name for name in tree.loose if is_manifest(name)]
    if not tree.has_splits:
        if tables:
            return "manifest"
        _require_classes(tree)
        return "folder"
    found = tree.recognise()
    if not tables:
        return found
    if found == "folder" and len(tree.class_folders()) < 2:
        return "manifest"
    tree.notes.append(
        f"{tree.root}: {name_some(tables)} not read, for the images lie in split folders; "
        "data.layout=manifest reads tables instead"
    )
    return found


def _require_classes(tree: Tree) -> None:
    """Refuse a folder without splits that does not hold a folder for each class."""
    root, expected = tree.root, f"expected {tree.root}/train/<class>/*.jpg or {tree.root}/train/*.jsonl"
    problem = f"data.root={root!r} has no folder train, valid or test"
    if inner := next((name for name in tree.others if _holds_splits(f"{root}/{name}")), None):
        raise UserError(f"{problem}, but {inner!r} in it has; did you mean data.root={root}/{inner}?")
    if split_like := [name for name in tree.others if name.lower() in SPLIT_NAMES]:
        raise UserError(f"{problem}; call {name_some(split_like)} by these names, in small letters")
    classes = sorted(tree.class_folders())
    if len(classes) >= 2:
        return
    if classes:
        raise UserError(f"{problem}, and {classes[0]!r} is its only folder with images; {expected}")
    if images := list(filter(is_image, tree.loose)):
        held = counted(
            len(images),
            "image lies in no class folder, so has no label",
            "images lie in no class folders, so have no labels",
        )
        raise UserError(f"{problem}: its {held}; {expected}")
    held = f" (it holds {name_some(tree.others, 4)})" if tree.others else ""
    raise UserError(f"{problem}{held}; {expected}")


def _holds_splits(folder: str) -> bool:
    return any(os.path.isdir(f"{folder}/{name}") for names in FOLDERS.values() for name in names)

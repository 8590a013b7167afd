"""The folder layout: ``root/{train,valid|val,test}/<class>/**/*.jpg``, or class folders alone, all of it train."""

import os
import sys

from clf.data.layout import Tree, is_folder, is_hidden, is_image
from clf.data.samples import Sample, Split
from clf.errors import UserError, counted, name_some
from clf.preprocess import IMAGE_SUFFIXES


class FolderSource:
    """Images in one folder for each class; the folder's name is the label.

    Args:
        tree: The dataset's folder.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.notes = tree.notes

    def __str__(self) -> str:
        """Name layout and place."""
        whole = "" if self._tree.has_splits else " (no split folders: all of it is train)"
        return f"folder layout in {self._tree.root}{whole}"

    def samples(self, split: Split) -> list[Sample]:
        """List a split, sorted by path; what is hidden, no image or in no class folder is left out, and noted.

        Raises:
            UserError: If the split's folder is there without any class folder or image, or a training class is empty.
        """
        folder = self._tree.folder(split)
        if folder is None:
            return []
        files, ignored = self._tree.files(split)
        samples = []
        for path in files:
            label, nested, _ = path.partition("/")
            if nested and is_image(path):
                samples.append(Sample(f"{folder}/{path}", sys.intern(label)))
            else:
                ignored.append(path)
        self._refuse_empty(folder, split, labels={sample.label for sample in samples})
        if ignored:
            count = counted(len(ignored), "hidden or other file that is", "hidden or other files that are")
            self.notes.append(f"{folder}: ignored {count} no image in a class folder ({name_some(sorted(ignored))})")
        return samples

    def _refuse_empty(self, folder: str, split: Split, *, labels: set[str | None]) -> None:
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if is_folder(entry) and not is_hidden(entry.name))
        expected = f"expected {folder}/<class>/*{{{','.join(IMAGE_SUFFIXES)}}}"
        if not classes:
            raise UserError(f"data.root={self._tree.root!r} has no class folders in {folder!r}; {expected}")
        if not labels:
            raise UserError(f"data.root={self._tree.root!r} has no images in {folder!r}; {expected}")
        empty = [f"{folder}/{name}" for name in classes if name not in labels]
        if empty and split == "train":
            raise UserError(
                f"data.root={self._tree.root!r} has class folders without images: {name_some(empty)}; "
                f"add images to them or remove them ({expected})"
            )

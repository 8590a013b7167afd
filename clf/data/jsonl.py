"""The JSONL layout: ``root/{train,valid|val,test}/**/*.jsonl``, one row a sample, images relative to the row's file."""

from clf.data.layout import Tree
from clf.data.samples import Sample, Split
from clf.data.tables import RowKeys, SampleReader, read_rows
from clf.errors import UserError, counted, name_some


class JsonlSource:
    """Rows like ``{"image": "a.jpg", "suffix": "23", "metadata": {"border": "none"}}``; an image may occur in several.

    Args:
        tree: The dataset's folder.
        keys: What a row's keys are called; by default ``image``, and ``suffix`` where a row has it, else ``label``.
        keep_missing: Whether images that are not on disk are listed all the same.

    Attributes:
        unlabelled: Rows that were left out because their label is empty, in what was listed so far.
    """

    def __init__(self, tree: Tree, *, keys: RowKeys, keep_missing: bool = False) -> None:
        self._tree = tree
        self._keys = keys
        self._keep_missing = keep_missing
        self.unlabelled = 0
        self.notes = tree.notes

    def __str__(self) -> str:
        """Name layout and place."""
        return f"JSONL layout in {self._tree.root}"

    def samples(self, split: Split) -> list[Sample]:
        """List a split: files in order of their paths, rows in order; rows with an empty label are left out, and noted.

        Raises:
            UserError: If the split's folder has no rows, a row cannot be used, or an image is not on disk.
        """
        folder = self._tree.folder(split)
        if folder is None:
            return []
        files = [f"{folder}/{path}" for path in self._tree.files(split)[0] if path.endswith(".jsonl")]
        if not files:
            raise UserError(f"data.root={self._tree.root!r} has no *.jsonl in {folder!r}; every split folder needs one")
        reader = SampleReader(
            path=self._keys.path or "image",
            label=self._keys.label,
            facts=self._keys.facts,
            inside=self._keys.inside,
            keep_missing=self._keep_missing,
        )
        rows = (reader.read(place, row) for file in files for place, row in read_rows(file))
        samples = [sample for sample in rows if sample is not None]
        reader.finish()
        if not samples:
            raise UserError(f"data.root={self._tree.root!r} has no labelled rows in {folder!r} ({name_some(files)})")
        self.unlabelled += reader.unlabelled
        if reader.unlabelled:
            self.notes.append(f"{folder}: dropped {counted(reader.unlabelled, 'row')} with an empty label")
        return samples

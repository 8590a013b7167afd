"""Bad files left out of every split: found by a scan before anything is trained, and the same ones ever after."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from lightning.fabric.utilities.rank_zero import rank_zero_only

from clf.data import splits
from clf.data.exclusion import Exclusion, comment, line_for
from clf.data.samples import Samples, Split
from clf.data.scan import Bad, Files, scan
from clf.errors import UserError, counted
from clf.files import replace_text

RECORD: Final = "excluded.txt"
"""What the list is called in a run directory."""

Listing = Mapping[Split, Samples]


class Skipping:
    """Finds the files that are no whole images, once, and leaves them out.

    The list is a file that ``data.exclude`` takes, and it says which listing it is of. Who finds it reads it, so that
    all processes of a run, and all that continue it, leave out the same images, whatever has become of the files.

    Args:
        most: Share of the files that may be bad, in [0, 1].
        record: Where the list is kept; written where there is none, never changed. None keeps it nowhere.
        roots: Folders that paths count from.

    Attributes:
        bad: How many files are bad; None before anything was listed.
        text: The list.
    """

    def __init__(self, *, most: float, record: str | None, roots: Sequence[str]) -> None:
        self.bad: int | None = None
        self.text = ""
        self._record, self._is_written = record, False
        self._most, self._roots = most, roots
        self._left: dict[Split, Samples] = {}

    def left(self, split: Split, listing: Listing) -> Samples:
        """List a split without its bad files.

        Args:
            split: Which one.
            listing: All splits, which are scanned together when the first is asked for.
        Raises:
            UserError: If more files are bad than may be.
        """
        if self.bad is None:
            key = splits.fingerprint(listing, bases=self._roots)
            if not self._take_record(key, listing):
                self._scan(listing)
                self._take_record(key, listing)
        return self._left[split]

    @property
    def notes(self) -> list[str]:
        """Say how many files were left out, and where they are listed."""
        where = f"; {self._record} lists them" if self._is_written else "; clf check lists them"
        if not self.bad:
            return []
        files = counted(self.bad, "file that cannot be read is", "files that cannot be read are")
        return [f"data.on_error=skip: {files} left out{where}"]

    def _take_record(self, key: str, listing: Listing) -> bool:
        """Leave out what the record lists: if there is one, if it is of this listing, and if the files are there still.

        Those of several roots are listed with all of their paths, and are not found where the roots were moved.
        """
        if self._record is None or not os.path.isfile(self._record):
            return False
        text = Path(self._record).read_text("utf-8", errors="replace")
        said = re.match(r"# (\d+) of (\d+) files .* listing (\w+)\n", text)
        if said is None or said[3] != key:
            return False
        exclusion = Exclusion([self._record], roots=self._roots)
        left = {split: exclusion.remove_from(samples) for split, samples in listing.items()}
        if sum(len(listing[split]) - len(left[split]) for split in left) < int(said[1]):
            return False
        reason, first, *_ = [*text.splitlines()[1:3], "", ""]
        self._require_few(int(said[1]), int(said[2]), example=f"e.g. {first} {reason.removeprefix('# ')}")
        self.bad, self.text, self._left, self._is_written = int(said[1]), text, left, True
        return True

    def _scan(self, listing: Listing) -> None:
        files = Files(listing)
        bad = scan(files.paths, title="reading all images (data.on_error=skip)")
        if bad:
            place, found = next(iter(bad.items()))
            self._require_few(len(bad), len(files.paths), example=f"e.g. {files.paths[place]} {found.reason}")
        self.bad = len(bad)
        self._left = {split: _without(samples, files, split, bad) for split, samples in listing.items()}
        self.text = as_record(listing, files, bad, roots=self._roots)
        if self._record is not None and not os.path.exists(self._record) and getattr(rank_zero_only, "rank", 0) == 0:
            replace_text(Path(self._record), self.text)

    def _require_few(self, bad: int, count: int, *, example: str) -> None:
        if bad > self._most * count:
            raise UserError(
                f"data.on_error=skip: {bad} of {count} files cannot be read, {example}; that is more than "
                f"data.max_bad_fraction={self._most}: mend or remove them (clf check lists all), or raise it"
            )


def as_record(listing: Listing, files: Files, bad: Mapping[int, Bad], *, roots: Sequence[str]) -> str:
    """Write the list of bad files, which says what it is a list of.

    Args:
        listing: All splits.
        files: The files of that listing.
        bad: The bad ones by their place.
        roots: Folders that paths count from.
    """
    key = splits.fingerprint(listing, bases=roots)
    were = "was" if len(bad) == 1 else "were"
    first = f"# {len(bad)} of {len(files.paths)} files {were} left out by data.on_error=skip; listing {key}\n"
    lines = (
        f"# {comment(found.reason)}\n{line_for(files.paths[place], roots=roots)}\n" for place, found in bad.items()
    )
    return "".join([first, *lines])


def _without(samples: Samples, files: Files, split: Split, bad: Mapping[int, Bad]) -> Samples:
    if not bad:
        return samples
    return Samples(sample for sample, file in zip(samples, files.rows[split], strict=True) if file not in bad)

"""SHA256SUMS beside checkpoints: what each file should hold, as ``sha256sum -c`` reads it."""

import re
from collections.abc import Mapping
from pathlib import Path

from clf.files import open_whole, replace_text, sha256

SUMS = "SHA256SUMS"
_MOST_BYTES = 1 << 24


def read(folder: Path) -> dict[str, str]:
    """Read the sums of a folder by file name; none where nobody wrote them. Lines that say nothing are passed over."""
    try:
        with open_whole(folder / SUMS, most=_MOST_BYTES) as file:
            text = file.read().decode(errors="replace")
    except (OSError, ValueError):
        return {}
    lines = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in text.splitlines())
    return {line[2]: line[1] for line in lines if line}


def record(folder: Path, sums: Mapping[str, str]) -> None:
    """Write down what files will hold, before they take their places; files that are gone are forgotten.

    A kill right after this leaves a file that is whole and has another sum: see `is_damaged`.

    Args:
        folder: Their folder.
        sums: SHA-256 by name; of other files what is known already stays.
    """
    kept = {name: digest for name, digest in read(folder).items() if (folder / name).is_file()}
    lines = (f"{digest}  {name}\n" for name, digest in sorted({**kept, **sums}.items()))
    replace_text(folder / SUMS, "".join(lines))


def is_damaged(path: Path) -> bool:
    """Tell whether a file holds something else than was written; it is read from end to end.

    Files without an entry are not looked at. One that holds what another file of the folder should is whole: a process
    was killed after it had written the sums and before it put the file in its place.
    """
    sums = read(path.parent)
    return path.name in sums and sha256(path) not in sums.values()

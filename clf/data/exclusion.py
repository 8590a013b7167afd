"""Images that are left out: lists of paths in text files."""

import fnmatch
import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from clf.data.disk import Disk
from clf.data.layout import near
from clf.data.samples import Sample, Samples
from clf.data.splits import relative
from clf.errors import UserError, counted


@dataclass(frozen=True)
class _Line:
    """A line of a list, with what it was found to match."""

    text: str
    number: int
    list: "_List"


@dataclass
class _List:
    """A list with the files that it left out and the numbers of the lines that matched."""

    file: str
    lines: list[_Line] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    matched: set[int] = field(default_factory=set)


class Exclusion:
    """Leaves out the images that text files list, a path on a line.

    A path counts from a root of the data or from the folder of the list, or is absolute; ``*``, ``?`` and ``[…]`` match
    any text, slashes too. Blank lines and lines that begin with ``#`` say nothing.

    Args:
        files: The lists.
        roots: Folders that the paths may count from.
    Raises:
        UserError: If a list does not exist or is not UTF-8.
    """

    def __init__(self, files: Sequence[str], *, roots: Sequence[str]) -> None:
        self._roots = roots
        self._disk = Disk()
        self._lists = [_read(file) for file in files]
        self._exact: dict[str, list[_Line]] = defaultdict(list)
        self._patterns: list[tuple[re.Pattern[str], _Line]] = []
        for line in (line for each in self._lists for line in each.lines):
            folder = os.path.dirname(line.list.file)
            for base in {*roots, folder}:
                self._exact[self._disk.real(os.path.join(base, line.text))].append(line)
            if glob.has_magic(line.text):
                below = os.path.join(glob.escape(os.path.realpath(folder or ".")), line.text)
                either = f"{fnmatch.translate(line.text)}|{fnmatch.translate(below)}"
                self._patterns.append((re.compile(either), line))

    def remove_from(self, samples: Iterable[Sample]) -> Samples:
        """Leave out what the lists name."""
        return Samples(sample for sample in samples if not self._names(sample.path))

    @property
    def notes(self) -> list[str]:
        """Say of each list how many images it left out so far, and which lines matched nothing."""
        notes = []
        for each in self._lists:
            unmatched = [line for line in each.lines if line.number not in each.matched]
            note = f"{each.file}: {counted(len(each.images), 'image')} left out"
            if unmatched:
                first, lines = unmatched[0], counted(len(unmatched), "line matches", "lines match")
                note += f"; {lines} nothing, e.g. line {first.number}: {first.text!r:.100}"
            notes.append(note)
        return notes

    def _names(self, path: str) -> bool:
        real = self._disk.real(path)
        lines = list(self._exact.get(real, ()))
        if self._patterns:
            name = relative(path, self._roots)
            lines += [line for pattern, line in self._patterns if pattern.match(name) or pattern.match(real)]
        for line in lines:
            line.list.images.add(real)
            line.list.matched.add(line.number)
        return bool(lines)


def line_for(path: str, *, roots: Sequence[str]) -> str:
    """Write a path as the line of a list that names it.

    Args:
        path: An image as the dataset lists it.
        roots: Folders of the data; below the only one a path is short, and holds wherever the data lie.
    """
    below = len(roots) == 1 and path.startswith(f"{roots[0]}/")
    line = relative(path, roots) if below else os.path.abspath(path)
    line = re.sub(r"[*?[]", lambda found: f"[{found[0]}]", line)
    line = re.sub(r"^(#|[^\S\n\r])|[^\S\n\r]\Z", lambda found: f"[{found[0]}]", line)
    line = re.sub(r"[\n\r]", "[! -\U0010ffff]", line)  # Any control character: no line can hold these,
    return re.sub(r"[\ud800-\udfff]", "[! -\ud7ff]", line)  # nor UTF-8 half a surrogate pair.


def comment(text: str) -> str:
    """Write any text as one line after a ``#``."""
    return re.sub(r"\s+", " ", text.encode("utf-8", "backslashreplace").decode())


def _read(file: str) -> _List:
    try:
        with open(file, encoding="utf-8-sig") as text:
            lines = [(number, line.strip()) for number, line in enumerate(text, start=1)]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error.reason}); data.exclude wants text with a path on a line") from error
    except OSError as error:
        raise UserError(f"data.exclude={file!r} cannot be read ({error.strerror}){near(file)}") from error
    if broken := next((number for number, line in lines if "\0" in line), None):
        raise UserError(f"{file}:{broken}: the line holds a null byte, as no path does; mend it")
    found = _List(file)
    found.lines += [
        _Line(os.path.normpath(line), number, found) for number, line in lines if line and not line.startswith("#")
    ]
    return found

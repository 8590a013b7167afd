"""What is wrong with files: those that no image can be had from, and those that are not what they are called."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from clf.check.findings import Finding, Severity
from clf.check.looks import Looks
from clf.data.scan import Bad, Problem
from clf.errors import counted
from clf.preprocess import MAX_PIXELS

_WORDS: Final[Mapping[Problem, str]] = {
    "missing-file": "not there",
    "broken-link": "links that lead nowhere",
    "not-a-file": "no files, but folders or devices",
    "empty-file": "empty (0 bytes)",
    "unreadable-file": "not readable; look at their permissions",
    "not-an-image": "no images, or their headers are damaged",
    "too-large-image": f"larger than {MAX_PIXELS:,} pixels",
    "truncated-image": "cut short",
    "damaged-image": "damaged",
}

_SUFFIXES: Final = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}


def check_files(paths: Sequence[str], bad: Mapping[int, Bad], looks: Looks, *, skipped: bool = False) -> list[Finding]:
    """Say which files are bad, kind by kind, and which are called wrongly.

    Args:
        paths: The files.
        bad: What a scan found, by place in ``paths``.
        looks: What it saw of the others.
        skipped: Whether a fit leaves bad files out (``data.on_error: skip``) instead of stopping at the first.
    """
    return [*_bad(paths, bad, "warning" if skipped else "error"), *_wrong_suffixes(paths, looks)]


def _bad(paths: Sequence[str], bad: Mapping[int, Bad], severity: Severity) -> Iterator[Finding]:
    places: dict[Problem, list[int]] = defaultdict(list)
    for place, found in bad.items():
        places[found.problem].append(place)
    does = "clf fit leaves it out" if severity == "warning" else "clf fit stops there; mend it or remove it"
    several = does.replace(" it", " them").replace("there", "at the first")
    for problem in (problem for problem in _WORDS if problem in places):
        images = tuple(paths[place] for place in places[problem])
        example = f"{images[0]} {bad[places[problem][0]].reason}"
        share = f"{len(images):,} of {counted(len(paths), 'file')}"
        if len(images) == 1:
            message = f"{share} is bad: {example}; {does}"
        else:
            message = f"{share} are {_WORDS[problem]}, e.g. {example}; {several}"
        yield Finding(problem, "files", severity, message, len(images), images)


def too_many(bad: int, count: int, *, most: float) -> list[Finding]:
    """Say that more files are bad than ``data.on_error: skip`` may leave out, if that is so."""
    if bad <= most * count:
        return []
    message = (
        f"{bad:,} of {counted(count, 'file')} cannot be read, more than data.max_bad_fraction={most}; clf fit stops"
    )
    return [Finding("too-many-bad-files", "files", "error", message, bad)]


def _wrong_suffixes(paths: Sequence[str], looks: Looks) -> Iterator[Finding]:
    """Note suffixes that name another format; all is read by its content."""
    wrong = []
    kinds: Counter[tuple[str, str]] = Counter()
    for place, path in enumerate(paths):
        suffix, holds = os.path.splitext(path)[1].lower(), str(looks.formats[place])
        if holds and _SUFFIXES.get(suffix, holds) != holds:
            wrong.append(path)
            kinds[suffix, holds] += 1
    if wrong:
        said = ", ".join(
            counted(count, f"called {suffix} holds {holds}", f"called {suffix} hold {holds}")
            for (suffix, holds), count in kinds.most_common()
        )
        files = counted(len(wrong), "file is not what its suffix says", "files are not what their suffix says")
        message = f"{files}: {said}, e.g. {wrong[0]}; clf goes by what files hold"
        yield Finding("wrong-suffix", "files", "note", message, len(wrong), tuple(wrong))

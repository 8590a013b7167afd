"""The images that a check would leave out, as a list that ``data.exclude`` takes."""

from collections.abc import Iterator, Sequence

from clf.check.findings import Finding
from clf.data.exclusion import comment, line_for


def exclusion_list(findings: Sequence[Finding], *, roots: Sequence[str]) -> str:
    """Write a list of the images of errors and warnings, each once, under the reason.

    Of an image that is in train and in what scores it, the one in train is listed.

    Args:
        findings: What was found.
        roots: Folders of the data, which paths count from.
    Returns:
        The text; empty where there is nothing to leave out.
    """
    return "\n".join(_lines(findings, roots))


def _lines(findings: Sequence[Finding], roots: Sequence[str]) -> Iterator[str]:
    listed: set[str] = set()
    for finding in findings:
        news = [(at, path) for at, path in enumerate(finding.images) if path not in listed]
        if finding.severity == "note" or not news:
            continue
        yield f"# {finding.rule}: {comment(finding.message)}"
        for at, path in news:
            if finding.partners and finding.partners[at] != path:
                yield f"# like {comment(finding.partners[at])}"
            yield line_for(path, roots=roots)
        listed.update(path for _, path in news)

"""What a check found, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
"""From the worst to the mildest: what stops a run or spoils it, what probably does, and what is good to know."""

Subject = Literal["files", "duplicates", "labels", "configuration", "cost"]


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one place.

    Args:
        rule: What was looked for, in kebab case and the same for ever, e.g. ``truncated-image``.
        subject: Which part of the check found it.
        severity: How bad it is.
        message: What is wrong, where, and what to do; one line.
        count: How many images, labels or keys are concerned.
        images: Paths of the images concerned, as the dataset lists them; what an exclusion list would name.
        partners: For each of these images the one that it is too much like; empty where that is not the matter.
    """

    rule: str
    subject: Subject
    severity: Severity
    message: str
    count: int = 1
    images: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()


def exit_code(findings: Sequence[Finding], *, strict: bool) -> int:
    """Say what the shell is told: 2 for an error, 1 for a warning if ``strict``, else 0."""
    found = {finding.severity for finding in findings}
    return 2 if "error" in found else 1 if strict and "warning" in found else 0

"""What a check found, for people and for programs."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from clf.check.findings import SEVERITIES, Finding, Subject
from clf.errors import counted, printable
from clf.results import as_text

_LEAST_WIDTH: Final = 100


@dataclass
class Report:
    """Findings, and what they are of.

    Args:
        about: What was looked at, in one line.
        subjects: What was looked for, in the order in which it is told.
        splits: Samples of each split.
        findings: What was found.
        costs: What the run costs: rows of what, how much, and from what it was predicted.
        cost: The same as primitives; None where it was not measured.
    """

    about: str
    subjects: Sequence[Subject]
    splits: Mapping[str, int]
    findings: list[Finding] = field(default_factory=list)
    costs: Sequence[tuple[str, str, str]] = ()
    cost: dict[str, Any] | None = None

    def of(self, subject: Subject) -> list[Finding]:
        """Findings of a subject, the worst first, of these those that concern most."""
        found = (finding for finding in self.findings if finding.subject == subject)
        return sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), -finding.count))

    @property
    def told(self) -> list[Subject]:
        """What there is to tell of: what was looked for, and what nevertheless came up on the way."""
        return list(dict.fromkeys([*self.subjects, *(finding.subject for finding in self.findings)]))

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def as_text(self) -> str:
        """Lay it out for a terminal."""
        tables = [part for subject in self.told for part in self._told(subject)]
        words = ", ".join(counted(count, name) for name, count in self.counts.items())
        return "\n".join([self.about, *tables, f"check: {words}" if self.findings else "check: nothing found"])

    def _told(self, subject: Subject) -> list[str]:
        found = self.of(subject)
        if not found and not (subject == "cost" and self.costs):
            return []
        laid_out = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for _ in range(3):
            laid_out.add_column(overflow="fold")
        for finding in found:
            laid_out.add_row(finding.severity, finding.rule, Text(printable(finding.message)))
        for row in self.costs if subject == "cost" else ():
            laid_out.add_row(*map(Text, row))
        width = max(shutil.get_terminal_size((_LEAST_WIDTH, 0)).columns, _LEAST_WIDTH)
        return [subject, *(f"  {line}" for line in as_text(laid_out, width=width - 2).splitlines())]

    def to_dict(self) -> dict[str, Any]:
        """Turn into primitives, with all images."""
        return {
            "about": self.about,
            "subjects": list(self.subjects),
            "splits": dict(self.splits),
            "counts": self.counts,
            "findings": [asdict(finding) for subject in self.told for finding in self.of(subject)],
            "cost": self.cost,
        }

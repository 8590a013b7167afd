"""The cheap part of the check, before each fit: no image is decoded, and a mistake costs seconds instead of a night."""

import logging
from collections.abc import Sequence
from typing import Final

from clf.check.configuration import SAID_BY_FIT
from clf.check.findings import Finding
from clf.errors import UserError

log = logging.getLogger("clf")

SKIPPING: Final = {"skip_check": "Train without looking first at what clf check would say about the configuration."}
"""The flag of fit, with its help."""

_WAY_OUT = "(found before training; --skip_check trains all the same)"


def tell(findings: Sequence[Finding], *, resumes: bool) -> None:
    """Say what was found, a line each, and stop where there are errors.

    Args:
        findings: What was found, the worst first.
        resumes: Whether the run has trained with this before: then nothing stops it.
    Raises:
        UserError: With the first error, if the run is a new one; the others are said before.
    """
    news = [finding for finding in findings if finding.rule not in SAID_BY_FIT]
    errors = [] if resumes else [finding for finding in news if finding.severity == "error"]
    for finding in news:
        if finding in errors[:1]:
            continue
        speak = log.info if finding.severity == "note" else log.error if finding in errors else log.warning
        speak("check: %s", finding.message)
    if errors:
        raise UserError(f"{errors[0].message} {_WAY_OUT}")

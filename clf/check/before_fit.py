"""The cheap part of the check, before each fit: no image is decoded, and a mistake costs seconds instead of a night."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lightning.pytorch import Callback

from clf.check.configuration import check_configuration
from clf.check.findings import SEVERITIES, Finding
from clf.check.labels import check_labels
from clf.classifier import Classifier
from clf.data.datamodule import ImageData
from clf.errors import UserError

log = logging.getLogger("clf")

SKIPPING: Final = {"skip_check": "Train without a look at configuration and labels for what would spoil the run."}
"""The flag of fit, with its help."""

_SAID_BY_FIT = (
    *("more-workers-than-cores", "half-precision-without-gpu", "no-test-split"),
    *("unknown-label", "empty-label"),
)
"""Rules that a fit has lines of its own for."""

_WAY_OUT = "(found before training; --skip_check trains all the same)"


def look(
    data: ImageData,
    model: Classifier,
    *,
    trainer: Mapping[str, Any],
    callbacks: Mapping[str, Callback | None],
    resumes: bool,
) -> None:
    """Look at configuration and labels, and say what is wrong with them.

    Args:
        data: See `clf.check.configuration.check_configuration`.
        model: See there.
        trainer: See there.
        callbacks: See there.
        resumes: See `tell`.
    Raises:
        UserError: See `tell`.
    """
    found = check_configuration(data, model, trainer=trainer, callbacks=callbacks)
    found += check_labels({split: data.catalogue.found(split) for split in data.available})
    tell(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)), resumes=resumes)


def tell(findings: Sequence[Finding], *, resumes: bool) -> None:
    """Say what was found, a line each, and stop where there are errors.

    Args:
        findings: What was found, the worst first.
        resumes: Whether the run has trained with this before: then nothing stops it.
    Raises:
        UserError: With the first error, if the run is a new one; the others are said before.
    """
    news = [finding for finding in findings if finding.rule not in _SAID_BY_FIT]
    errors = [] if resumes else [finding for finding in news if finding.severity == "error"]
    for finding in news:
        if finding in errors[:1]:
            continue
        speak = log.info if finding.severity == "note" else log.error if finding in errors else log.warning
        speak("check: %s", finding.message)
    if errors:
        raise UserError(f"{errors[0].message} {_WAY_OUT}")

"""What there is to look at: every split as its source lists it, and what keeps a source from listing one."""

from clf.check.findings import Finding
from clf.data.catalogue import Catalogue
from clf.data.layout import SPLITS
from clf.data.samples import Samples, Split
from clf.errors import UserError

_EMPTY_LABELS = "with an empty label"  # counted among the labels


def list_splits(catalogue: Catalogue) -> tuple[dict[Split, Samples], list[Finding]]:
    """List all splits that can be listed.

    Args:
        catalogue: What the data are.
    Returns:
        The splits that there are, and a finding for each that cannot be listed or says something about itself.
    """
    found: dict[Split, Samples] = {}
    findings = []
    for split in SPLITS:
        try:
            if samples := catalogue.found(split):
                found[split] = samples
        except UserError as error:
            findings.append(Finding("unlisted-split", "files", "error", f"{split} cannot be listed: {error}"))
    if not found and not findings:
        findings.append(Finding("no-images", "files", "error", f"{catalogue.source} holds no images"))
    notes = [note for note in getattr(catalogue.source, "notes", ()) if _EMPTY_LABELS not in note]
    return found, [*findings, *(Finding("left-out", "files", "note", note) for note in notes)]

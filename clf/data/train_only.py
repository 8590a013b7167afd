"""Images that are for training alone, told by their metadata: rendered ones, say, are no measure of real ones."""

import json
from collections.abc import Mapping, Sequence

from clf.data.samples import Sample
from clf.errors import UserError, did_you_mean

Value = str | int | float | bool


class TrainOnly:
    """Tells the samples that may be trained on but not scored.

    Values are compared as the text that JSON writes: ``3`` and ``"3"`` are one value, and so are ``true`` and
    ``"true"``.

    Args:
        facts: Metadata keys with the value, or the values, that keep a sample in train; one that fits is enough.
    """

    def __init__(self, facts: Mapping[str, Value | Sequence[Value]]) -> None:
        self._facts = {
            key: {_text(value) for value in (values if isinstance(values, list | tuple) else [values])}
            for key, values in facts.items()
        }

    def __str__(self) -> str:
        """Write the rule, e.g. ``source=rendered``."""
        return ", ".join(f"{key}={'|'.join(sorted(values))}" for key, values in self._facts.items())

    def __call__(self, sample: Sample) -> bool:
        """Whether a sample is for training alone."""
        return any(
            key in sample.metadata and _text(sample.metadata[key]) in values for key, values in self._facts.items()
        )

    def require_known(self, samples: Sequence[Sample], *, where: str) -> None:
        """Refuse a key or value that no sample has: misspelt, it would let all into validation.

        Raises:
            UserError: Naming it and the nearest one that there is.
        """
        there = {key for sample in samples for key in sample.metadata}
        if missing := next((key for key in self._facts if key not in there), None):
            found = f"only {', '.join(sorted(there))}" if there else "there is none"
            raise UserError(
                f"{where}: data.train_only names {missing!r}, which no image of train has in its metadata ({found})"
                f"{did_you_mean(missing, there)}"
            )
        for key, values in self._facts.items():
            there = {_text(sample.metadata[key]) for sample in samples if key in sample.metadata}
            if lost := sorted(values - there):
                some = ", ".join(repr(value) for value in sorted(there)[:3])
                raise UserError(
                    f"{where}: data.train_only has {key}={lost[0]}, which no image of train has (there are: {some}"
                    f"{', …' if len(there) > 3 else ''}){did_you_mean(lost[0], there)}"
                )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

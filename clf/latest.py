"""Which configuration is measured where a command line names none."""

from collections.abc import Sequence
from pathlib import Path

from clf import runs
from clf.errors import UserError


def with_configuration(words: Sequence[str]) -> list[str]:
    """Name the configuration of ``--run``, or of the latest run, where a command line names none.

    Args:
        words: What follows the kind.
    Raises:
        UserError: If there is no such run, or none at all.
    """
    rest = list(words)
    keys = [word.partition("=")[0] for word in rest]
    if {"--config", "-c"} & set(keys):
        return rest
    run = None
    if "--run" in keys:
        at = keys.index("--run")
        _, given, value = rest[at].partition("=")
        value = value if given else "".join(rest[at + 1 : at + 2])
        if not value or value.startswith("--"):
            raise UserError("--run needs a value")
        run = runs.open_run(Path(value))
        del rest[at : at + (1 if given else 2)]
    return ["--config", str((run or runs.latest()).config), *rest]

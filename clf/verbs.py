"""One of the Trainer's verbs from its words to its exit code, in one process or several."""

import sys
from collections.abc import Sequence

from clf import logs
from clf.cli import CLI
from clf.endings import exit_code
from clf.errors import UserError
from clf.invocation import understand
from clf.processes import Processes, find_place
from clf.session import Session


def run(verb: str, words: Sequence[str]) -> int:
    """Run one of the Trainer's verbs.

    Args:
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        words: What follows it on the command line.
    Returns:
        Exit code, see `clf.main.main`.
    Raises:
        UserError: For mistakes in usage, configuration or data.
    """
    processes = Processes(find_place())
    if verb == "export" and processes.external:
        raise UserError(f"clf export is the work of one process; leave out {processes.place.starter}")
    with logs.logging_to_terminal(quiet=not processes.first):
        processes.meet()
        try:
            with processes.ending_together():
                session = Session(understand(verb, words, processes), processes)
                processes.tidy = session.close
                return exit_code(lambda: CLI(session).exit_code, session)
        finally:
            processes.tidy()
            if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
                wandb.finish()  # writes the summary; the next run in this process must not continue this one

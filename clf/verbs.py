"""One of the Trainer's verbs from its words to its exit code, in one process or several."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from clf import logs
from clf.callbacks.interrupt import Interrupted
from clf.cli import CLI, AlreadyDone
from clf.errors import Ended, UserError, first_line
from clf.export import NotProven
from clf.invocation import understand
from clf.processes import Processes, find_place
from clf.session import Session

log = logging.getLogger("clf")


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
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a class_path may name a file in the working folder
    processes = Processes(find_place())
    if verb == "export" and processes.external:
        raise UserError(f"clf export is the work of one process; leave out {processes.place.starter}")
    with logs.logging_to_terminal(quiet=not processes.first):
        processes.meet()
        try:
            with processes.ending_together():
                session = Session(understand(verb, words, processes), processes)
                processes.tidy = session.close
                return _work(session)
        finally:
            processes.tidy()
            if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
                wandb.finish()  # writes the summary; the next run in this process must not continue this one


def _work(session: Session) -> int:
    try:
        return CLI(session).exit_code
    except AlreadyDone as done:
        log.info("%s", done)
        return 0
    except Interrupted as stop:
        if stop.checkpoint is None and session.processes.line is not None:
            raise Ended(str(stop), stop.exit_code) from stop  # the others may not have been asked
        log.warning("%s%s", stop, "; go on with: clf fit --ckpt_path last" if stop.checkpoint else "")
        # Whoever started the other processes ends all of them as soon as one reports a failure.
        return stop.exit_code if session.processes.first else 0
    except NotProven as failure:
        log.error("%s", failure)
        return 1
    except MisconfigurationException as error:
        raise UserError(first_line(error)) from error

"""How a verb ends: with which exit code, and with which last line."""

import logging
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException

from clf.callbacks.interrupt import Interrupted
from clf.checkpoints import read_step
from clf.errors import Ended, UserError, WorkFailed, first_line
from clf.files import is_full, is_refused
from clf.runs import LAST
from clf.session import Session

log = logging.getLogger("clf")


class AlreadyDone(Exception):
    """Raised where a resumed run turns out to be finished."""


def exit_code(work: Callable[[], int], session: Session) -> int:
    """Do the work of a verb, and turn whatever ends it early into an exit code and a line in the log.

    Args:
        work: Returns the exit code of work that is done.
        session: What it works in.
    Raises:
        UserError: For mistakes in usage, configuration or data.
    """
    try:
        return work()
    except AlreadyDone as done:
        log.info("%s", done)
        return 0
    except Interrupted as stop:
        if stop.checkpoint is None and session.processes.line is not None:
            raise Ended(str(stop), stop.exit_code) from stop  # the others may not have been asked
        nothing = "; nothing was saved" if session.invocation.verb == "fit" else ""
        log.warning("%s%s", stop, "; go on with: clf fit --ckpt_path last" if stop.checkpoint else nothing)
        return _of_all(stop.exit_code, session)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Ctrl-C while something is drawn or written in the end; inside of its fit Lightning makes a SystemExit of it.
        pressed = isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt)
        if not (pressed and session.trained):
            raise
        said = "stopped by Ctrl-C; %s is trained and saved; clf fit --ckpt_path last writes what is missing"
        log.warning(said, session.run)
        return 130
    except WorkFailed as failure:
        if session.processes.first:
            log.error("%s", failure)
        return _of_all(1, session)
    except OSError as error:
        if is_refused(error) and error.filename is not None:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"{error.filename} cannot be used: {reason}; mend that, or work on a copy") from error
        if not is_full(error):
            raise
        log.error("%s", _no_room(error, session))
        return 1
    except MisconfigurationException as error:
        raise UserError(first_line(error)) from error


def _of_all(code: int, session: Session) -> int:
    """Whoever started the other processes ends all of them as soon as one reports a failure: only the first does."""
    return code if session.processes.first else 0


def _no_room(error: OSError, session: Session) -> str:
    """Say that the disk is full, and from where the run goes on."""
    said = f"no space left for {error.filename}"
    if session.run is None or session.invocation.verb != "fit":
        return f"{said}; make room and run this again"
    last = session.run.checkpoints / LAST
    try:
        kept = f"{session.run}/checkpoints/{LAST} is from step {read_step(last)}"
    except UserError:
        return f"{said}; no checkpoint was written yet: make room and start again"
    return f"{said}; nothing was lost: {kept}; make room and go on with: clf fit --ckpt_path last"

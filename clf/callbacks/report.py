"""The run's page: written when a command has written everything else."""

import logging

from lightning.pytorch import Callback

from clf.files import is_full
from clf.report import write_report
from clf.runs import Run

log = logging.getLogger("clf")


class Report(Callback):
    """Writes ``report.html``, one self-contained page with all that the run directory says.

    ``fit``, ``validate`` and ``test`` write it at their end, when all other files are there; ``clf report`` writes it
    again. A page that cannot be made is a warning: what it would show is in the other files.
    """

    def write(self, run: Run) -> None:
        """Write the page; called by the command once its work is done, in the first process.

        Args:
            run: The run.
        """
        try:
            log.info("report: %s", write_report(run))
        except Exception as error:
            if is_full(error):
                raise
            reason = f"{type(error).__name__}: {error}"
            log.warning("report.html was not written: %s; clf report --debug %s shows where", reason, run)

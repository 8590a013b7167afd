"""A process of its own that draws, so that training never waits for a picture: ``python -m clf.artist``.

It reads pickled drawings from standard input, one after the other, and answers each on standard output with what went
wrong, or nothing. It ends when its input does: also when the process that asked is killed.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from clf.files import partial_of, replace_file


@dataclass(frozen=True)
class Drawing:
    """Something to be drawn.

    Args:
        path: Where the picture goes, a PNG; an earlier one is replaced once the new one is whole.
        figure: Function of a module (its name is what travels) that returns a matplotlib figure.
        numbers: What it is called with.
        key: What trackers call the picture, e.g. ``val/confusion_matrix``.
        step: The training step that it shows.
    """

    path: Path
    figure: Callable[..., Any]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    step: int = 0

    def draw(self) -> None:
        """Draw it, here and now."""
        figure = self.figure(**self.numbers)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a font may lack a letter of a class name: it becomes a box
            replace_file(self.path, lambda file: figure.savefig(file, format="png"))


class Artist:
    """Draws in a process of low priority, one picture at a time; of several for one file only the newest.

    The process starts with the first drawing. It costs no thread of the trainer's but one that waits.
    """

    def __init__(self) -> None:
        self._todo: dict[Path, Drawing] = {}
        self._done: list[tuple[Drawing, str]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def submit(self, drawing: Drawing) -> None:
        """Have something drawn; returns at once."""
        with self._changed:
            self._todo.pop(drawing.path, None)
            self._todo[drawing.path] = drawing
            if self._thread is None:
                self._closing = False
                self._thread = threading.Thread(target=self._work, name="artist", daemon=True)
                self._thread.start()
            self._changed.notify()

    def collect(self) -> list[tuple[Drawing, str]]:
        """Take what was drawn since the last call, each with what went wrong, or an empty text."""
        with self._changed:
            done, self._done = self._done, []
        return done

    def finish(self, *, within: float | None = None) -> None:
        """Wait until everything is drawn, and end the process.

        Args:
            within: Seconds after which the rest is abandoned; None waits as long as it takes.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(within)
            if self._thread.is_alive():
                self._cut_off()
                self._thread.join()
            self._thread = None

    def abandon(self) -> None:
        """End the process at once; what is not drawn yet never will be."""
        self._cut_off()
        self.finish()

    def _cut_off(self) -> None:
        with self._changed:
            self._todo.clear()
        if (process := self._process) is not None:
            process.kill()

    def _work(self) -> None:
        while (drawing := self._next()) is not None:
            try:
                error = self._draw(drawing)
            except (OSError, EOFError, pickle.PickleError, AttributeError) as reason:
                self._stop()  # the next drawing gets a new process
                partial_of(drawing.path).unlink(missing_ok=True)
                error = f"the drawing process ended ({type(reason).__name__}: {reason})"
            with self._changed:
                self._done.append((drawing, error))
        if self._process is not None:
            self._process.communicate()  # closes its input, by which it ends
            self._process = None

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _next(self) -> Drawing | None:
        with self._changed:
            self._changed.wait_for(lambda: self._todo or self._closing)
            return self._todo.pop(next(iter(self._todo))) if self._todo else None

    def _draw(self, drawing: Drawing) -> str:
        if self._process is None:
            self._process = _start()
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None and answers is not None
        to.write(pickle.dumps(drawing))
        to.flush()
        error: str = pickle.load(answers)
        return error


def _start() -> subprocess.Popen[bytes]:
    # One thread, for two cores may be all there are; a process group of its own, for Ctrl-C is not meant for it. No
    # session: where Linux shares cores out among sessions (sched_autogroup), priorities count only within each.
    # -P: a random.py in the working folder is not meant for it, either.
    package = str(Path(__file__).parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "clf.artist"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, process_group=0)


def serve(drawings: IO[bytes], answers: IO[bytes]) -> None:
    """Draw what comes until nothing comes any more."""
    while True:
        try:
            drawing: Drawing = pickle.load(drawings)
        except EOFError:
            return
        try:
            drawing.draw()
            error = ""
        except Exception as reason:
            error = f"{type(reason).__name__}: {reason}"
        try:
            answers.write(pickle.dumps(error))
            answers.flush()
        except BrokenPipeError:  # who asked was killed
            os._exit(0)  # and not another attempt to write, with a traceback


if __name__ == "__main__":
    os.nice(19)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers
    serve(sys.stdin.buffer, answers)

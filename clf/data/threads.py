"""Many small pieces of work in threads: decoders work without the interpreter's lock."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final

from clf.cores import usable_cores
from clf.progressbar import watched

_CHUNK: Final = 16  # pieces that a thread takes at a time


def in_threads(
    work: Callable[[int], object], count: int, *, title: str, between: Callable[[], object] = lambda: None
) -> None:
    """Do something with each of so many numbers, in as many threads as there are cores; with a bar if it takes long.

    Args:
        work: Does it with one of 0, 1, …; an exception ends the whole, and so does Ctrl-C.
        count: How many there are.
        title: What the bar says.
        between: Called now and then in the thread that waits for the others.
    """
    starts = range(0, count, _CHUNK)
    todo, done, stop = iter(starts), SimpleQueue[BaseException | None](), threading.Event()

    def take() -> None:
        try:
            for start in itertools.takewhile(lambda _: not stop.is_set(), todo):
                for index in range(start, min(start + _CHUNK, count)):
                    if stop.is_set():
                        return
                    work(index)
                done.put(None)
        except BaseException as error:
            done.put(error)

    with _running(take, stop):
        for _ in watched(starts, title=title):
            if (error := done.get()) is not None:
                raise error
            between()


@contextmanager
def _running(work: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(usable_cores())]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()

"""When Python looks for garbage: not while it starts, and not when it ends."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def process_of_our_own() -> Iterator[None]:
    """Look for no garbage from here to `settled`, and none at the end of the process.

    Importing torch, Lightning and timm makes a million objects that all stay: looking through them again and again is a
    quarter of the time that it takes, and letting go of them one by one takes longer than reading them in.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.disable()
        gc.freeze()


def settled() -> None:
    """Look for garbage from now on, but among new objects only; worker processes share the old ones untouched.

    Does nothing in a process that is not ours, where others may call this again and again.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()

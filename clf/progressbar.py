"""A bar for work that a user waits for outside of training."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_SECONDS_BEFORE = 2


def watched(items: Sequence[Item], *, title: str) -> Iterator[Item]:
    """Pass items on, with a bar once they have taken two seconds and somebody is looking.

    Args:
        items: What is worked on, one after the other.
        title: What the bar says.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # Slow to import, and needed here alone.
    from rich.progress import Progress

    start = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=len(items), visible=False)
        for item in items:
            yield item
            progress.update(task, advance=1, visible=time.monotonic() - start > _SECONDS_BEFORE)

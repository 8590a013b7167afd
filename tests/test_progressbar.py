"""The bar for work outside of training: seen when it takes long and somebody looks, and never in the way."""

import io
import itertools
import sys
import time

import pytest

from clf.progressbar import watched


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "seconds", "shown"), [(Terminal(), 1.0, True), (Terminal(), 0.01, False), (io.StringIO(), 1.0, False)]
)
def test_all_items_pass_and_only_long_work_in_a_terminal_is_shown(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, seconds: float, shown: bool
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * seconds)
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(watched(range(9), title="keeping images")) == list(range(9))
    assert ("keeping images" in stream.getvalue()) == shown

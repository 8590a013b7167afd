"""The page of ``clf compare --html`` in a real Chromium."""

from pathlib import Path

import pytest
from browser import Browser
from made_up_runs import HOSTILE, write_compared

from clf.main import main


@pytest.fixture
def page(workdir: Path) -> Path:
    """Compare three made-up runs whose names would like to be more than text."""
    for run, marks in (("a/001", "0011"), ("b/001", "1111"), ("<b>bold/001", "1011")):
        write_compared(run, test=marks * 5, label=HOSTILE, config={"model": {HOSTILE: run}})
    assert main(["compare", "runs/a/001", "runs/b/001", "runs/<b>bold/001", "--html", "made.html"]) == 0
    return workdir / "made.html"


def test_the_page_asks_for_nothing_and_runs_nothing(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    assert chromium.complaints() == []
    assert chromium.requests() == [page.as_uri()]
    assert chromium.run("return document.scripts.length") == 0
    said = chromium.run("return document.body.innerText")
    assert "<b>bold/001" in said
    assert "alert('1')" in said


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_is_legible_by_day_and_at_night(chromium: Browser, page: Path, dark: bool) -> None:
    chromium.open(page, dark=dark)
    looked, low = chromium.contrasts()
    assert looked > 30
    assert low == []
    background = chromium.run("return parseInt(getComputedStyle(document.body).backgroundColor.slice(4))")
    assert (background < 60) == dark


def test_on_a_phone_nothing_reaches_beyond_the_page(chromium: Browser, page: Path) -> None:
    chromium.open(page, width=360, height=740)
    assert chromium.breadth() == 360

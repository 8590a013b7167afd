"""The report in a real Chromium: nothing loaded or injected, tables sort, legible on a phone and at night."""

from pathlib import Path

import pytest
from browser import ENTER, SPACE, Browser
from made_up_runs import NASTY, make_run

from clf.report import write_report
from clf.runs import Run

TAB = "\ue004"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Write the report of a made-up run."""
    return write_report(Run(make_run(tmp_path)))


def names(chromium: Browser, section: str) -> list[str]:
    """Read a sortable table's rows by their names, from top to bottom."""
    script = """
      const rows = document.querySelectorAll(`section[aria-labelledby=${arguments[0]}] .scores tbody tr`);
      return [...rows].map((row) => [...row.querySelectorAll("th")].map((cell) => cell.textContent).join(" "));
    """
    found: list[str] = chromium.run(script, section)
    return found


def directions(chromium: Browser, section: str) -> list[str]:
    script = """
      const heads = document.querySelectorAll(`section[aria-labelledby=${arguments[0]}] th[aria-sort]`);
      return [...heads].map((head) => head.getAttribute("aria-sort"));
    """
    found: list[str] = chromium.run(script, section)
    return found


def test_the_page_asks_for_nothing_and_has_no_complaints(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    chromium.click("details summary")
    assert chromium.complaints() == []
    assert chromium.requests() == [report.as_uri()]
    whole = "return [...document.images].every((image) => image.complete && image.naturalWidth > 300)"
    assert chromium.run(whole)


def test_a_page_that_loads_something_would_be_noticed(chromium: Browser, report: Path) -> None:
    leak = '<img src="http://127.0.0.1:9/leak.png"><script>window.hacked = 1</script>'
    tampered = report.with_name("tampered.html")
    tampered.write_text(report.read_text("utf-8").replace("</main>", f"{leak}</main>"), "utf-8")
    chromium.open(tampered)
    complaints = "\n".join(chromium.complaints())
    assert complaints.count("Content Security Policy") >= 2, "neither the picture nor the script is let through"
    assert chromium.run("return window.hacked ?? null") is None
    free = report.with_name("free.html")
    free.write_text(f"<!doctype html>{leak}", "utf-8")
    chromium.open(free)
    assert "http://127.0.0.1:9/leak.png" in chromium.requests()
    assert chromium.run("return window.hacked") == 1


def test_no_name_becomes_markup_or_runs(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write_report(Run(make_run(tmp_path, classes=NASTY))))
    assert chromium.run("return window.hacked ?? null") is None
    assert chromium.run("return [document.scripts.length, document.querySelectorAll('img[src=x]').length]") == [1, 0]
    assert chromium.complaints() == []
    assert len(chromium.requests()) == 1
    assert names(chromium, "classes") == [name.encode("utf-8", "replace").decode() for name in NASTY]
    directed = (
        "return [...document.querySelectorAll('bdi')].every((name) => getComputedStyle(name).unicodeBidi === 'isolate')"
    )
    assert chromium.run(directed)


@pytest.mark.parametrize("key", ["click", ENTER, SPACE])
def test_a_column_s_head_sorts_by_click_and_by_keyboard(chromium: Browser, report: Path, key: str) -> None:
    chromium.open(report)
    head = "section[aria-labelledby=classes] thead tr:last-child th:nth-child(4) button"

    def choose() -> None:
        if key == "click":
            chromium.click(head)
        else:
            chromium.type(head, key)

    assert names(chromium, "classes") == ["0", "1", "7"]
    assert set(directions(chromium, "classes")) == {"none"}
    choose()
    assert names(chromium, "classes") == ["7", "0", "1"], "by accuracy; 1 has no images and comes last"
    assert directions(chromium, "classes")[1:5] == ["none", "none", "ascending", "none"]
    assert chromium.run("return document.getElementById('said').textContent") == "sorted by accuracy, ascending"
    choose()
    assert names(chromium, "classes") == ["0", "7", "1"]
    assert directions(chromium, "classes")[1:5] == ["none", "none", "descending", "none"]


def test_names_sort_as_people_count(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write_report(Run(make_run(tmp_path, classes=["10", "b2", "9", "b10", "00"]))))
    chromium.click("section[aria-labelledby=classes] th[data-column] button")
    assert names(chromium, "classes") == ["00", "9", "10", "b2", "b10"]


@pytest.mark.parametrize("classes", [["0", "1", "7"], [f"class number {number}" for number in range(200)], NASTY])
def test_on_a_phone_nothing_reaches_beyond_the_page(chromium: Browser, tmp_path: Path, classes: list[str]) -> None:
    chromium.open(write_report(Run(make_run(tmp_path, classes=classes))), width=360, height=740)
    assert chromium.breadth() == 360
    scrolls = "return [...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)"
    assert chromium.run(scrolls), "a wide table scrolls in its own box"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_is_legible_by_day_and_at_night(chromium: Browser, report: Path, dark: bool) -> None:
    chromium.open(report, dark=dark)
    looked, low = chromium.contrasts()
    assert looked > 100
    assert low == []
    page, paper = chromium.run(
        "return [document.body, document.querySelector('.paper')]"
        ".map((element) => parseInt(getComputedStyle(element).backgroundColor.slice(4)))"
    )
    assert (page < 60) == dark
    assert paper == 255, "pictures are drawn for white paper"


def test_who_uses_the_keyboard_sees_where_the_focus_is(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    seen = []
    for _ in range(30):
        chromium.press(TAB)
        focus = "const f = document.activeElement; return [f.tagName, getComputedStyle(f).outlineStyle]"
        seen.append(chromium.run(focus))
    assert {style for _, style in seen} == {"solid"}
    assert {"A", "SUMMARY", "DIV"} <= {tag for tag, _ in seen}

"""What all tests share: one thread each, a working folder of their own, and small datasets."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before torch is imported: two test processes share two cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from browser import CHROMEDRIVER, CHROMIUM, Browser, browser

# A test is never timed: how long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("clf", deadline=None)
hypothesis.settings.load_profile("clf")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a test in an empty folder, as a stranger would."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start one browser for all tests of a file."""
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("chromium or chromedriver is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw only for tests that look at pictures (marked ``drawn``): hundreds of fits would each start matplotlib."""
    if "drawn" not in request.keywords:
        monkeypatch.setattr("clf.artist.Artist.submit", lambda *_: None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell out what a test printed that is no text: pytest-xdist cannot send half a surrogate pair, and gives up."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report

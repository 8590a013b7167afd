"""Messages reach the terminal and the run's log, once, and only while a command runs."""

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf import logs
from clf.logs import logging_to_terminal

clf = logging.getLogger("clf")
library = logging.getLogger("lightning.pytorch")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave levels and handlers as they were."""
    loggers = [clf, library, logging.getLogger("lightning.fabric")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        assert logger.handlers == handlers


def test_messages_go_to_standard_error_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_terminal():
        clf.info("fit runs/%s", "exp/001")
        clf.debug("details")
    clf.info("after the command")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "fit runs/exp/001\n")


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["debug", "info", "warning", "error", "library debug", "library info", "library warning"]),
        ("info", ["info", "warning", "error", "library warning"]),
        ("warning", ["warning", "error", "library warning"]),
        ("error", ["error"]),
    ],
)
def test_the_level_decides_how_much_is_said(tmp_path: Path, level: str, said: list[str]) -> None:
    with logging_to_terminal(level):
        logs.also_to(tmp_path / "log.txt")
        for name in ("debug", "info", "warning", "error"):
            clf.log(getattr(logging, name.upper()), name)
        for name in ("debug", "info", "warning"):
            library.log(getattr(logging, name.upper()), "library %s", name)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [re.sub(r"^\S+ \S+ [A-Z]+ +", "", line) for line in lines] == said


def test_a_line_of_the_log_says_when_and_how_serious(tmp_path: Path) -> None:
    with logging_to_terminal():
        logs.also_to(tmp_path / "log.txt")
        clf.warning("größer")
    [line] = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING größer", line)


def test_a_resumed_run_goes_on_in_its_log(tmp_path: Path) -> None:
    for message in ("first", "second"):
        with logging_to_terminal():
            logs.also_to(tmp_path / "log.txt")
            clf.info(message)
    assert [line.split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]


def test_a_log_without_messages_is_no_file(tmp_path: Path) -> None:
    with logging_to_terminal():
        logs.also_to(tmp_path / "log.txt")
    assert not (tmp_path / "log.txt").exists()


def test_an_error_ends_logging_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with logging_to_terminal():
            logs.also_to(tmp_path / "log.txt")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    clf.warning("after the command")
    assert not (tmp_path / "log.txt").exists()
    assert "after the command" not in capfd.readouterr().err


def test_expected_warnings_of_libraries_are_silent_and_others_are_not() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with logging_to_terminal():
            warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
            warnings.warn("\nCheckpoint directory runs/a/001/checkpoints exists and is not empty.", stacklevel=1)
            warnings.warn("something new", stacklevel=1)
    assert [str(each.message) for each in caught] == ["something new"]


def test_a_name_that_is_no_text_is_spelled_out_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_terminal():
        logs.also_to(tmp_path / "log.txt")
        clf.info("class %s", b"caf\xe9".decode(errors="surrogateescape"))
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("class caf\\udce9\n")
    assert "Traceback" not in capfd.readouterr().err


def test_a_name_that_would_steer_the_terminal_is_spelled_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_terminal():
        logs.also_to(tmp_path / "log.txt")
        clf.info("read %s and\n\t%s", "\x1b]0;owned\x07.jpg", "küken.jpg")
    spelled = "read \\x1b]0;owned\\x07.jpg and\n\tküken.jpg\n"
    assert capfd.readouterr().err == spelled
    assert (tmp_path / "log.txt").read_text().endswith(spelled)

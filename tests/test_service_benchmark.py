import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parent.parent / "benchmarks" / "service.py"
SAID = """
Summary:
  Requests/sec:	{rate}

Latency distribution:
  50% in 0.0024 secs
  99% in 0.0158 secs

Status code distribution:
{statuses}
{errors}
"""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with servers that are none; what they were started with is in ``started``."""
    spec = importlib.util.spec_from_file_location("service_benchmark", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "service_benchmark", made)
    spec.loader.exec_module(made)
    made.started = []

    @contextmanager
    def serving(*words: Any) -> Iterator[tuple[str, int]]:
        made.started.append(words)
        yield "http://nowhere", os.getpid()

    monkeypatch.setattr(made, "serving", serving)
    found: ModuleType = made
    return found


def say(folder: Path, monkeypatch: pytest.MonkeyPatch, *, statuses: str, errors: str = "") -> None:
    """Put a program called hey first in the path that says something."""
    text = SAID.format(rate="100.5", statuses=statuses, errors=errors)
    (folder / "hey").write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
    (folder / "hey").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_rate_is_told_where_every_answer_is_200(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(tmp_path, monkeypatch, statuses="  [200]	1044 responses")
    benchmark.throughput(tmp_path, tmp_path, rounds=1, seconds=1, concurrency=[1])
    assert "| 1 | batched | 100 | 2.4 | 15.8 | 1.00 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("statuses", "errors"),
    [
        ("  [200]	1000 responses\n  [503]	3 responses", ""),
        ("", 'Error distribution:\n  [44]	Post "http://nowhere": connection refused'),
        ("  [200]	1000 responses", 'Error distribution:\n  [2]	Post "http://nowhere": EOF'),
    ],
)
def test_a_rate_of_anything_but_successes_is_no_result(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statuses: str, errors: str
) -> None:
    say(tmp_path, monkeypatch, statuses=statuses, errors=errors)
    with pytest.raises(SystemExit, match="not every answer was 200"):
        benchmark.throughput(tmp_path, tmp_path, rounds=1, seconds=1, concurrency=[1])
    with pytest.raises(SystemExit, match="not every answer was 200"):
        benchmark.endurance(tmp_path, tmp_path, requests=8)


def test_the_places_that_are_told_are_those_that_the_server_was_started_with(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(tmp_path, monkeypatch, statuses="  [200]	900 responses\n  [503]	100 responses")
    benchmark.saturation(tmp_path, tmp_path, clients=256)
    [(*_, flag, places)] = benchmark.started
    assert flag == "--queue"
    assert f"256 clients for {places} places: statuses {{200: 900, 503: 100}}" in capsys.readouterr().out


def test_an_image_must_be_named(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["service.py", "model"])
    with pytest.raises(SystemExit) as raised:
        benchmark.main()
    assert raised.value.code == 2
    assert "name an image" in capsys.readouterr().err

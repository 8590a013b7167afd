"""The service against its own description: whatever that allows or forbids is answered as it says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import Server, make_export, serving

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    make_export(folder / "export")
    with serving(folder / "server", "--model", str(folder / "export"), max_bytes=100_000) as running:
        assert httpx.get(f"{running.url}/info", timeout=60).status_code == 200, "it waits for the model"
        yield running


# That an image is one cannot be said in a schema: bytes at random are refused where the answer is about them alone.
@pytest.mark.parametrize(
    "words",
    [
        ("--exclude-path", "/predict", "--checks", "all"),
        ("--include-path", "/predict", "--checks", "all", "--exclude-checks", "positive_data_acceptance"),
    ],
    ids=["others", "predict"],
)
def test_schemathesis_finds_nothing(server: Server, tmp_path: Path, words: tuple[str, ...]) -> None:
    report = tmp_path / "report.ndjson"
    settings = (
        "--max-examples",
        "50",
        "--seed",
        "1",
        "--no-color",
        "--report",
        "ndjson",
        "--report-ndjson-path",
        str(report),
    )
    command = [str(SCHEMATHESIS), "run", f"{server.url}/openapi.json", *words, *settings]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(report.read_text(encoding="utf-8").splitlines()) > 20
    statuses = [json.loads(line)["status"] for line in server.access]
    assert not [status for status in statuses if status >= 500]
    assert httpx.get(f"{server.url}/ready").status_code == 200

"""What nobody would send on purpose, and what somebody would: each has its row, its reason, and stays as it was."""

import csv
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from datasets import draw
from hostile_corpus import CORPUS, Item, write_corpus
from serving import serving
from test_cli import TINY
from test_malicious_models import write

from clf.exported import MODEL
from clf.files import spelled_out
from clf.main import main
from clf.predictor import Predictor

MEMORY = 700  # MiB; two images of 49 megapixels are in the corpus
MEMORY_OF_TWO = 1500  # where two threads may decode them at once
READABLE = {name: item for name, item in CORPUS.items() if not item.refused}
UPLOADS = {name: item for name, item in CORPUS.items() if isinstance(item.make, bytes)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus in ``images`` and an exported model."""
    place = tmp_path_factory.mktemp("hostile")
    write_corpus(place / "images")
    write(place / "export")
    return place


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, float]:
    """How sure the model is of each image that can be read, asked one by one."""
    predictor = Predictor(place / "export")
    return {name: predictor.predict_one(place / "images" / name).ranked[0][1] for name in READABLE}


def sums(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of each file that can be read to its end."""
    small = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 1 << 30)
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in small}


# getrusage would count what the process held that started it.
PEAK = "import sys; from clf.main import main; n = main(sys.argv[1:]); print(*open('/proc/self/status')); sys.exit(n)"


def peak(status: str) -> int:
    """The most memory that a process has held, in MiB."""
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024


def require_rows(file: Path, names: list[str], alone: dict[str, float], *, folder: Path) -> None:
    """Each name has its row, in order, with the answer that it got alone or with its reason."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["path"] for row in rows] == [spelled_out(f"{folder}/{name}") for name in names]
    for name, row in zip(names, rows, strict=True):
        if CORPUS[name].refused:
            assert (row["status"], row["label"]) == ("error", "")
            assert CORPUS[name].refused in row["error"], name
        else:
            assert (row["status"], row["error"]) == ("ok", "")
            assert float(row["confidence"]) == pytest.approx(alone[name], rel=1e-5), name


def test_there_are_enough_of_each_kind() -> None:
    assert len(CORPUS) >= 90
    assert min(len(READABLE), len(CORPUS) - len(READABLE)) >= 35
    assert all("/" not in name for name in CORPUS)


def test_a_folder_of_them_is_predicted_row_by_row_in_little_memory(place: Path, alone: dict[str, float]) -> None:
    before = sums(place / "images")
    words = ["predict", "--ckpt_path", f"{place}/export/{MODEL}", "--data.predict", f"{place}/images"]
    command = [sys.executable, "-c", PEAK, *words, "--data.num_workers", "1", "--output", f"{place}/folder.csv"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    names = sorted(name for name in CORPUS if name != "folder.jpg")  # an empty folder holds nothing
    require_rows(place / "folder.csv", names, alone, folder=place / "images")
    assert peak(done.stdout.decode()) < MEMORY
    assert sums(place / "images") == before


def test_a_manifest_of_them_is_predicted_in_its_order(place: Path, alone: dict[str, float]) -> None:
    rows = "".join(json.dumps({"path": f"images/{name}"}) + "\n" for name in CORPUS)
    (place / "all.jsonl").write_text(rows)
    words = ["predict", "--ckpt_path", f"{place}/export/{MODEL}", "--data.predict", f"{place}/all.jsonl"]
    words += ["--output", f"{place}/manifest.csv"]
    assert main(words) == 2, "one of them is a link to a device"
    assert main([*words, "--data.allow_outside_root", "true"]) == 1
    require_rows(place / "manifest.csv", list(CORPUS), alone, folder=place / "images")


def test_the_service_answers_each_of_them_and_stays_small(place: Path, alone: dict[str, float]) -> None:
    with serving(place / "server", "--model", str(place / "export"), timeout=60) as server:
        for name, item in UPLOADS.items():
            answer = httpx.post(f"{server.url}/predict", content=item.make, timeout=120)  # type: ignore[arg-type]
            expected = (400, 413, 415, 422) if item.refused else (200,)
            assert answer.status_code in expected, (name, answer.text)
            if not item.refused:
                assert answer.json()["confidence"] == pytest.approx(alone[name], rel=1e-5), name
        assert peak(Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")) < MEMORY
        assert "Traceback" not in server.log


def dataset(folder: Path, items: Mapping[str, Item]) -> Path:
    """Two classes to train on, six good images and these ones, and two images to validate."""
    for number in range(8):
        split = "train" if number < 6 else "valid"
        draw(folder / f"{split}/{'ab'[number % 2]}/good {number}.png", seed=number)
    for number, (name, item) in enumerate(items.items()):
        item.write(folder / f"train/{'ab'[number % 2]}/{name}")
    (folder.parent / "tiny.yaml").write_text(TINY)
    return folder


FIT = ("fit", "--config", "tiny.yaml", "--data.root", "images", "--trainer.max_epochs", "1")


def test_all_that_can_be_read_can_be_trained_on(workdir: Path) -> None:
    before = sums(dataset(workdir / "images", READABLE))
    assert main([*FIT, "--data.batch_size", "16"]) == 0
    assert sums(workdir / "images") == before


@pytest.mark.parametrize(
    "name", ["cut in its pixels.jpg", "error page.jpg", "900 megapixels.png", "link to a device.jpg", "pipe.jpg"]
)
def test_training_ends_at_a_bad_image_with_its_name_and_leaves_it_as_it_was(
    workdir: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sums(dataset(workdir / "images", {name: CORPUS[name]}))
    capfd.readouterr()
    assert main(FIT) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("clf: ")]
    assert f"train/a/{name}" in line
    assert CORPUS[name].refused in line
    assert sums(workdir / "images") == before


def listed_in_dataset() -> dict[str, str]:
    """The files of the corpus that a dataset lists, by path from there: folders are part of the layout."""
    return {f"train/{'ab'[at % 2]}/{name}": name for at, name in enumerate(CORPUS) if name != "folder.jpg"}


def test_check_names_each_that_cannot_be_read_with_its_reason_in_little_memory(workdir: Path) -> None:
    before = sums(dataset(workdir / "images", CORPUS))
    words = ["check", "--config", "tiny.yaml", "--data.root", "images", "--only", "files,duplicates"]
    command = [sys.executable, "-c", PEAK, *words, "--json", "found.json", "--exclude_to", "bad.txt"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    findings = json.loads(Path("found.json").read_text(encoding="utf-8"))["findings"]
    named = [path for each in findings if each["severity"] == "error" for path in each["images"]]
    refused = [path for path, name in listed_in_dataset().items() if CORPUS[name].refused]
    assert sorted(named) == sorted(spelled_out(f"images/{path}") for path in refused)
    assert peak(done.stdout.decode()) < MEMORY_OF_TWO
    assert sums(workdir / "images") == before


def test_training_without_those_that_cannot_be_read_lists_them(workdir: Path) -> None:
    before = sums(dataset(workdir / "images", CORPUS))
    assert main([*FIT, "--data.on_error", "skip", "--data.max_bad_fraction", "0.6", "--data.batch_size", "16"]) == 0
    lines = Path("runs/latest/excluded.txt").read_text(encoding="utf-8").splitlines()
    refused = [path for path, name in listed_in_dataset().items() if CORPUS[name].refused]
    assert sorted(line for line in lines if not line.startswith("#")) == sorted(refused)
    assert sums(workdir / "images") == before

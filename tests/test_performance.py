"""The page about performance says what was measured and nothing else; the made photos are what they are said to be."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, JpegImagePlugin

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"


def script(name: str) -> ModuleType:
    """Load a benchmark, which is in no package."""
    spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


performance, photos, measuring = script("performance"), script("photos"), script("measuring")
ROWS = [row for section in performance.SECTIONS for row in section.rows]


def result(**more: Any) -> dict[str, Any]:
    facts = {"value": 1234.0, "unit": "images/s", "n": 5, "vs": {"torchvision": 2.5, "timm": 1.2, "decoding": 0.8}}
    return {**facts, "machine": "2 cores", "command": "python benchmarks/pipeline.py --sets photos", **more}


def test_the_page_is_what_the_results_give() -> None:
    made = performance.page(performance.read(), picture=performance.PICTURE.exists())
    assert performance.PAGE.read_text("utf-8") == made, "run: python benchmarks/performance.py"


def test_every_result_has_its_row_and_every_row_a_script_that_is_there() -> None:
    measures = [row.measure for row in ROWS]
    assert len(set(measures)) == len(measures)
    assert performance.read().keys() <= set(measures)
    for row in ROWS:
        assert (ROOT / row.script).is_file(), row.script


def test_every_recorded_result_has_what_the_format_asks_for() -> None:
    for name, found in performance.read().items():
        assert {"value", "unit", "n", "vs", "machine", "command"} <= found.keys(), name
        assert found["vs"].keys() <= performance.PEERS.keys(), name
        assert "/" not in found["command"].replace("benchmarks/", ""), f"{name} names a place on one machine"


def test_a_row_says_what_was_measured_and_whether_it_is_what_was_wanted() -> None:
    page = performance.page({"input_photos": result()}, picture=False)
    (row,) = [line for line in page.splitlines() if "1,234 images/s" in line]
    assert "2.50 × torchvision; 1.20 × timm; 0.80 × decoding alone" in row
    assert "≥ 2 × torchvision: yes; ≥ 1.6 × timm: **no**; ≥ 0.7 × decoding alone: yes" in row
    assert "`python benchmarks/pipeline.py --sets photos`" in row


def test_of_times_less_is_wanted() -> None:
    for ratio, verdict in ((0.84, "yes"), (0.86, "**no**")):
        found = result(unit="s", vs={"timm": ratio, "timm_channels_last": 0.5})
        assert f"≤ 0.85 × timm: {verdict}" in performance.page({"whole_run": found}, picture=False)


def test_what_is_not_measured_says_so_with_the_command() -> None:
    page = performance.page({}, picture=False)
    assert page.count("not measured yet") == len(ROWS)
    assert "| 1 |" not in page
    for row in ROWS:
        assert f"`{row.command}`" in page


def test_a_result_is_merged_into_the_others_and_names_no_place(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"other": result()}), "utf-8")
    program = (
        "import sys; from pathlib import Path; import measuring as m; "
        f"m.record(Path({str(file)!r}), 'speed', m.Series([3.0, 1.0, 2.0]), unit='images/s', "
        "peers={'timm': m.Series([4.0, 5.0, 3.0])}, threads=1)"
    )
    words = ["--data", "/home/me/photos/", "--record", str(file), "--sets", "folder"]
    subprocess.run([sys.executable, "-c", program, *words], check=True, cwd=BENCHMARKS, capture_output=True)
    found = json.loads(file.read_text("utf-8"))
    assert found["other"] == result()
    assert (found["speed"]["value"], found["speed"]["n"], found["speed"]["vs"]) == (2.0, 3, {"timm": 0.5})
    assert found["speed"]["spread"] == [1.0, 3.0]
    assert found["speed"]["command"].endswith("--data photos --sets folder")


def test_turns_alternate_and_begin_with_another_each_time() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return float(len(order))

        return once

    found = measuring.alternate({"a": note("a"), "b": note("b")}, rounds=2, warm=True)
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert found["a"].values == [3.0, 6.0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(photos.make(tmp_path_factory.mktemp("photos"), kind="photos", count=60, val=2))


def stored(path: Path) -> tuple[Any, ...]:
    with Image.open(path) as image:
        grey = image.mode == "L"
        subsampling = "" if grey else ("4:4:4", "4:2:2", "4:2:0")[JpegImagePlugin.get_sampling(image)]
        return image.size, subsampling, bool(image.info.get("progressive")), grey


def test_made_photos_have_all_the_forms_that_are_said(made: list[Path]) -> None:
    for path in made:
        how = photos.form(int(path.stem))
        size = photos.SIZES["photos"][::-1] if how.upright else photos.SIZES["photos"]
        assert stored(path) == (size, "" if how.grey else how.subsampling, how.progressive, how.grey)
    forms = [stored(path) for path in made]
    assert {form[1] for form in forms} == {"4:2:0", "4:2:2", "4:4:4", ""}
    assert sum(form[2] for form in forms) == 3
    assert sum(form[3] for form in forms) == 5


def test_made_photos_are_as_large_as_photos_and_hold_more_than_noise(made: list[Path]) -> None:
    sizes = [path.stat().st_size / 1024 for path in made]
    assert 40 < float(np.median(sizes)) < 110
    pixels = simplejpeg.decode_jpeg(made[0].read_bytes()).astype(float)
    assert np.corrcoef(pixels[:-1].ravel(), pixels[1:].ravel())[0, 1] > 0.7  # neighbours are alike


def test_the_same_flags_make_the_same_photos_and_another_seed_makes_others(made: list[Path], tmp_path: Path) -> None:
    again = photos.make(tmp_path / "again", kind="photos", count=3)
    other = photos.make(tmp_path / "other", kind="photos", count=3, seed=1)
    for path in again:
        twin = next(each for each in made if each.stem == path.stem)
        assert path.read_bytes() == twin.read_bytes()
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(again, other, strict=True))


def test_validation_photos_are_others_than_those_of_train(made: list[Path]) -> None:
    valid = sorted((made[0].parents[2] / "valid").rglob("*.jpg"))
    assert len(valid) == 2
    assert not {path.read_bytes() for path in valid} & {path.read_bytes() for path in made}


@pytest.mark.parametrize("name", sorted({row.script for row in ROWS}))
def test_every_benchmark_explains_itself(name: str) -> None:
    path = ROOT / name
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout

"""The tables of the documents are made of the collected results, and those of what runs really measured."""

import csv
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from clf.errors import UserError

ROOT = Path(__file__).parent.parent
SPEC = spec_from_file_location("result_tables", ROOT / "scripts" / "result_tables.py")
assert SPEC is not None
assert SPEC.loader is not None
result_tables = module_from_spec(SPEC)  # a script, in no package
SPEC.loader.exec_module(result_tables)


def write_run(path: Path, *, right: dict[str, str]) -> Path:
    """Write what a run leaves: predictions of four images a split, right (1) or wrong (0)."""
    (path / "predictions").mkdir(parents=True)
    metrics: dict[str, Any] = {"finished": {"epochs": 3}}
    for split, marks in right.items():
        with (path / "predictions" / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "true", "label", "status"])
            writer.writerows(
                [f"/data/{split}/{i}.jpg", "7", "7" if mark == "1" else "1", "ok"] for i, mark in enumerate(marks)
            )
        share = marks.count("1") / len(marks)
        worst = {"name": "7", "acc": share, "n": len(marks)}
        metrics[split] = {
            "n": len(marks),
            "acc_top1": share,
            "f1_macro": 0.5,
            "ece": 0.1,
            "loss": 9,
            "worst_class": worst,
        }
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "timing.csv").write_text("epoch,step,time/epoch_s\n0,1,30\n1,2,33\n")
    facts = {
        "command": [
            *("clf", "fit", "--data.root", "[/home/me/my crops, /data/more]", "--config", "/c/resnet18.yaml"),
            *("--name", "first try", "--trainer", "my/own/cpu.yaml"),
        ],
        "machine": {"device": "cpu (2 cores)"},
        "packages": {"torch": "2", "timm": "1", "lightning": "2", "clf": "0"},
    }
    (path / "environment.json").write_text(json.dumps(facts))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    base = write_run(tmp_path / "base" / "001", right={"val": "1100", "test": "1000"})
    return base, write_run(tmp_path / "changed" / "001", right={"val": "0111", "test": "1000"})


def test_a_result_is_what_the_run_measured_without_the_folders_of_a_machine(runs: tuple[Path, Path]) -> None:
    result = result_tables.collect(runs[0], data="crops", change=None, against=None)
    assert (result["config"], result["data"], result["epochs"], result["minutes"]) == ("resnet18.yaml", "crops", 3, 1.1)
    words = "--data.root '[my crops, more]' --config resnet18.yaml --trainer my/own/cpu.yaml"
    assert result["command"] == f"clf fit {words}"
    assert result["val"] == {
        "n": 4,
        "acc_top1": 0.5,
        "f1_macro": 0.5,
        "ece": 0.1,
        "worst_class": {"name": "7", "acc": 0.5, "n": 4},
    }
    assert result["test"]["acc_top1"] == 0.25


def test_two_runs_are_compared_image_by_image_over_both_splits(runs: tuple[Path, Path]) -> None:
    compared = result_tables.collect(runs[1], data="crops", change="more", against=runs[0])["against"]
    assert compared == {"n": 8, "correct": [3, 4], "gained": 2, "lost": 1, "p": 1.0}


def test_tables_say_n_and_interval_and_call_noise_noise(runs: tuple[Path, Path]) -> None:
    base, changed = runs
    results = {
        "base": result_tables.collect(base, data="crops", change=None, against=None),
        "more": result_tables.collect(changed, data="crops", change="more colours", against=base),
    }
    _, _, main, *others = result_tables.main_table(results).splitlines()
    assert not others
    assert "| resnet18.yaml | crops | 50.00 % (n = 4, 95 % interval 15.00–85.00 %) |" in main
    assert "| 0.500 / 0.500 | 7: 50 % of 4 / 7: 25 % of 4 | 1.1 | cpu (2 cores) | `clf fit" in main
    _, _, change, *others = result_tables.comparison_table(results).splitlines()
    assert not others
    assert "more colours" in change
    assert "| 50.0 % instead of 37.5 % (n = 8; 2 won, 1 lost) | p = 1.000: noise |" in change


def test_a_difference_beyond_chance_is_called_better_or_worse(tmp_path: Path) -> None:
    bad = write_run(tmp_path / "bad" / "001", right={"val": "0" * 12, "test": "0"})
    good = write_run(tmp_path / "good" / "001", right={"val": "1" * 12, "test": "0"})
    for first, second, verdict in ((bad, good, "better"), (good, bad, "worse")):
        result = result_tables.collect(second, data="x", change="c", against=first)
        assert f"p < 0.001: {verdict} |" in result_tables.comparison_table({"x": result})


def test_runs_on_different_images_are_not_compared(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    other = write_run(tmp_path / "other" / "001", right={"val": "11", "test": "1000"})
    with pytest.raises(UserError, match="were scored on different images"):
        result_tables.collect(other, data="x", change="c", against=runs[0])


def test_the_documents_hold_the_tables_of_the_collected_results() -> None:
    for path, text in result_tables.tables().items():
        assert path.read_text("utf-8") == text, f"{path.name}: run python scripts/result_tables.py tables"

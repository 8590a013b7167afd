"""``clf bench`` on data made on the spot: what it names, what its numbers have to agree on, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import draw_folders
from exports import exported
from forks import begun, ended

from clf.bench.data import STAGES, measure_cache, worker_counts
from clf.bench.startup import PHASES
from clf.bench.step import PARTS, precisions, usual_step
from clf.composed import composed
from clf.cores import usable_cores
from clf.main import main

TINY = """
model: {arch: test_resnet, pretrained: false, image_size: 32}
data: {batch_size: 4, num_workers: 0, augment: light}
trainer: {accelerator: cpu, max_epochs: 1, num_sanity_val_steps: 0}
"""
CONFIG = ("--config", "tiny.yaml", "--data.root", "images")
QUICK = ("--seconds", "0.05")


@pytest.fixture
def pets(workdir: Path) -> Path:
    """A folder with a small dataset and a configuration."""
    draw_folders(workdir / "images", {"train/cat": 6, "train/dog": 5, "valid/cat": 2, "valid/dog": 2})
    (workdir / "tiny.yaml").write_text(TINY)
    return workdir


def bench(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Measure, and read what was found."""
    code = main(["bench", *words, "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def require_consistent(found: dict[str, Any]) -> None:
    """Hold the numbers of a report against each other."""
    assert found["environment"]["machine"]["cores"] == usable_cores()
    assert found["environment"]["machine"]["cpu"]
    assert found["bottleneck"]
    for measured in (each for group in found["measurements"].values() for each in group):
        times = measured["seconds_per_repeat"]
        assert measured["n"] >= 1
        assert times["median"] > 0
        assert times["spread"] >= 0
        if "images" in measured:
            assert measured["n"] >= 5
            assert measured["images_per_s"] * measured["seconds_per_image"]["median"] == pytest.approx(1)
            assert measured["images"] == int(measured["images"]) >= measured["n"]


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# The front door


def test_bench_alone_says_what_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    alone = capsys.readouterr().out
    assert main(["bench", "--help"]) == 0
    assert capsys.readouterr().out == alone
    assert alone.startswith("usage: clf bench KIND")
    assert {"data", "step", "infer", "startup"} <= {line.split()[0] for line in alone.splitlines() if line.strip()}


def test_a_misspelt_kind_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "datta"]) == 2
    assert capsys.readouterr().err == (
        "clf: no benchmark 'datta'; did you mean 'data'?; `clf bench --help` lists them\n"
    )


@pytest.mark.parametrize("kind", ["data", "step", "infer", "startup"])
def test_every_kind_has_a_help_that_imports_nothing_heavy(kind: str, workdir: Path) -> None:
    code = f"import sys; from clf.main import main; main(['bench', '{kind}', '--help'])"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{code}",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.startswith(f"usage: clf bench {kind}")
    assert not {"torch", "lightning", "numpy", "rich", "jsonargparse"} & set(done.stderr.split())


@pytest.mark.parametrize(
    "mistake",
    [
        ("--model.archh", "resnet18"),
        ("--data.batch_size", "many"),
        ("--data.root", "nowhere"),
        ("--config", "demoo.yaml"),
        ("stray",),
    ],
)
def test_a_mistake_gets_the_message_that_fit_has_for_it(
    mistake: tuple[str, ...], pets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = []
    for verb in (["fit"], ["bench", "data"], ["bench", "step"]):
        assert main([*verb, *CONFIG, *mistake]) == 2
        said.append(capfd.readouterr().err.splitlines()[-1])
    assert said[0].startswith("clf: ")
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data", *CONFIG, "--seconds", "0"), "argument --seconds: '0' must be more than 0 and at most 600"),
        (("startup", *CONFIG, "--repeats", "0"), "argument --repeats: '0' must be between 1 and 100"),
        (("data", *CONFIG, "--json", "gone/x.json"), "--json gone/x.json: there is no such folder"),
        (("data", *CONFIG, "--json", "images"), "--json 'images' is a folder; choose a file"),
        (("data", *CONFIG, "--json", ""), "--json '' is a folder; choose a file"),
        (("data", *CONFIG, "--find_lr"), "find_lr is for clf fit; leave it out"),
        (("data",), "no run found"),
        (("infer",), "no run found"),
        (("infer", "--model", "gone.onnx"), "model 'gone.onnx' does not exist"),
    ],
)
def test_what_cannot_be_measured_is_a_mistake(
    words: tuple[str, ...], message: str, pets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = everything(pets)
    assert main(["bench", *words]) == 2
    assert message in capfd.readouterr().err
    assert everything(pets) == before


# What is measured


def test_data_names_every_stage_and_every_number_of_workers_and_writes_nothing(
    pets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = everything(pets)
    assert main(["bench", "data", *CONFIG, *QUICK]) == 0
    out = capfd.readouterr().out
    assert everything(pets) == before
    first = [line.split("  ")[1] for line in out.splitlines() if line.startswith("  ")]
    assert set(STAGES.values()) <= set(first)
    assert {"0 (configured)", *map(str, range(1, min(usable_cores(), 2) + 1))} <= set(first)
    assert "\nbottleneck: " in out
    assert "\nadvice: " in out


def test_the_numbers_of_data_agree_with_each_other(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = bench(capfd, "data", *CONFIG, *QUICK)
    require_consistent(found)
    assert {each["name"] for each in found["measurements"]["stages"]} <= set(STAGES)
    tried = [each["num_workers"] for each in found["measurements"]["loader"]]
    assert tried == worker_counts(usable_cores(), configured=0)
    assert found["settings"]["num_workers"] == 0
    assert found["settings"]["batch_size"] == 4


def test_an_image_that_cannot_be_read_stops_it_as_it_stops_a_fit(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (pets / "images/train/cat/0.png").write_bytes(b"no image")
    assert main(["bench", "data", *CONFIG, *QUICK]) == 2
    assert "images/train/cat/0.png" in capfd.readouterr().err.splitlines()[-1]


def test_step_names_its_parts_its_alternatives_and_the_loader(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = everything(pets)
    found = bench(capfd, "step", *CONFIG, *QUICK)
    assert everything(pets) == before
    require_consistent(found)
    assert [each["name"] for each in found["measurements"]["parts"]] == [*PARTS]
    changed = [(each["key"], each["value"]) for each in found["measurements"]["alternatives"]]
    assert ("model.channels_last", False) in changed
    assert ("trainer.precision", "16-mixed") not in changed
    assert "model.compile" not in dict(changed)
    assert found["settings"]["peak_memory_bytes"] > 10_000_000
    assert any("--compile" in note for note in found["notes"])
    assert found["measurements"]["training"][0]["images"] > 0


def test_a_cpu_is_not_offered_what_it_cannot_do() -> None:
    assert "16-mixed" not in precisions(torch.device("cpu"))
    assert "32-true" in precisions(torch.device("cpu"))


def test_another_memory_format_is_really_another_one_and_the_configured_one_stays(pets: Path) -> None:
    with composed("fit", CONFIG) as made:
        steps = {last: usual_step(made, channels_last=last) for last in (True, False)}
        for last, step in steps.items():
            [kernel] = [each for each in step.model.network.parameters() if each.shape[1:] == (3, 3, 3)][:1]
            assert kernel.is_contiguous(memory_format=torch.channels_last) is last
            assert kernel.is_contiguous() is not last
            assert step.model.channels_last is last
        assert made.model.channels_last is True


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_measured_in_every_precision_that_it_has(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = bench(capfd, "step", *CONFIG, *QUICK, "--trainer.accelerator", "gpu")
    require_consistent(found)
    assert found["settings"]["peak_memory_of"] == "GPU"
    changed = [(each["key"], each["value"]) for each in found["measurements"]["alternatives"]]
    assert ("trainer.precision", "16-mixed") in changed


def test_data_with_another_key_leave_the_configured_data_alone(pets: Path) -> None:
    with composed("fit", CONFIG) as made:
        other = made.data_with(batch_size=2)
        assert len(next(iter(other.train_dataloader()))["images"]) == 2
        assert len(next(iter(made.datamodule.train_dataloader()))["images"]) == 4


def test_a_cache_is_measured_only_where_the_data_have_one_that_is_off(pets: Path) -> None:
    with composed("fit", CONFIG) as made:
        found = measure_cache(made, rate=100, seconds=0.05)
        assert found is not None
        assert found["ram"].rate > 0
        assert measure_cache(made, rate=0.001, seconds=0.05) is None  # filling it would take hours
    with composed("fit", (*CONFIG, "--data.cache", "disk", "--data.cache_dir", "kept")) as made:
        assert measure_cache(made, rate=100, seconds=0.05) is None


def test_a_step_trains_as_the_trainer_does(pets: Path) -> None:
    with composed("fit", CONFIG) as made:
        step = usual_step(made)
        before = [each.clone() for each in step.model.network.parameters()]
        step(next(iter(made.datamodule.train_dataloader())))
        changed = [bool((old != new).any()) for old, new in zip(before, step.model.network.parameters(), strict=True)]
        assert any(changed)
        assert all(each.grad is None for each in step.model.network.parameters())
        started = made.model.network.state_dict()
        assert not any((started[name] != 0).all() for name in started if name.endswith("running_mean"))


def test_infer_measures_the_latest_run_and_its_export(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *CONFIG]) == 0
    before = everything(pets)
    capfd.readouterr()
    found = bench(capfd, "infer", *QUICK)
    require_consistent(found)
    assert everything(pets) == before
    measured = {(each["form"], each["batch_size"]) for each in found["measurements"]["forms"]}
    assert measured == {(form, size) for form in ("torch", "torch, channels last") for size in (1, 8, 64)}
    assert "runs/tiny/001/checkpoints/best.ckpt" in found["about"]
    assert any("clf export" in note for note in found["notes"])
    assert main(["export", "--output", "elsewhere"]) == 0
    capfd.readouterr()
    found = bench(capfd, "infer", "--model", "elsewhere", "--ckpt_path", "best", *QUICK)
    assert {each["form"] for each in found["measurements"]["forms"]} >= {"torch", "ONNX Runtime"}
    assert found["measurements"]["prepare"][0]["images_per_s"] > 0


def test_an_exported_model_is_measured_without_a_run(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exported(workdir)
    before = everything(workdir)
    for words in (("--model", "export"), ("--ckpt_path", "export/model.onnx", "--data.predict", "images")):
        found = bench(capfd, "infer", *words, *QUICK)
        require_consistent(found)
        assert {each["form"] for each in found["measurements"]["forms"]} <= {"ONNX Runtime", "ONNX Runtime, 1 thread"}
        assert ("prepare" in found["measurements"]) is ("--data.predict" in words)
    assert everything(workdir) == before


def test_startup_names_every_phase_and_adds_them_up(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = everything(pets)
    found = bench(capfd, "startup", *CONFIG, "--repeats", "1")
    assert everything(pets) == before
    require_consistent(found)
    phases = {each["name"]: each["seconds_per_repeat"]["median"] for each in found["measurements"]["phases"]}
    assert [*phases] == [*PHASES]
    assert found["measurements"]["all"][0]["seconds_per_repeat"]["median"] == pytest.approx(sum(phases.values()))
    assert "torch" in {each["name"] for each in found["measurements"]["imports"]}


def test_a_start_that_fails_says_what_fit_says(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = []
    for verb in (["fit"], ["bench", "startup"]):
        assert main([*verb, *CONFIG, "--model.archh", "x"]) == 2
        said.append(capfd.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]


def test_the_latest_run_is_measured_where_no_configuration_is_named(
    pets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *CONFIG, "--data.batch_size", "3"]) == 0
    for words in ((), ("--run", "runs/tiny/001")):
        capfd.readouterr()
        assert bench(capfd, "data", *words, *QUICK)["settings"]["batch_size"] == 3
    assert [path.name for path in (pets / "runs/tiny").iterdir()] == ["001"]


def test_numbers_are_written_beside_the_tables(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", *CONFIG, *QUICK, "--json", "found.json"]) == 0
    assert capfd.readouterr().out.endswith("written: found.json\n")
    require_consistent(json.loads((pets / "found.json").read_text()))


def test_ctrl_c_ends_it_and_its_workers(pets: Path) -> None:
    process, said = begun(pets, "bench", "data", *CONFIG, "--seconds", "8", before=os.setsid), pets / "output.txt"
    while not (said.exists() and "num_workers=1" in said.read_text() and has_children(process)):
        assert os.waitpid(process, os.WNOHANG) == (0, 0)
        time.sleep(0.02)
    os.killpg(process, signal.SIGINT)  # as a terminal does it: to all of them
    assert ended(process) == 130, said.read_text()
    assert "stopped by Ctrl-C" in said.read_text()
    assert "Traceback" not in said.read_text()
    with pytest.raises(ProcessLookupError):
        os.killpg(process, 0)  # nobody is left of its group


def has_children(pid: int) -> bool:
    parents = subprocess.run(["ps", "-A", "-o", "ppid="], capture_output=True, text=True, check=True).stdout
    return str(pid) in parents.split()

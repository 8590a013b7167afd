"""The wheel: in an empty folder, with what it declares and nothing else installed, every verb does its work."""

import csv
import json
import re
import shlex
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from hatchling import build
from installing import Environment, Pins, closure, files, make_environment, pinned, pip
from packaging.utils import canonicalize_name
from pyarrow import parquet  # type: ignore[import-untyped]
from serving import picture, serving
from test_packaging import PROJECT, ROOT, imported, sources

VERSION = PROJECT["version"]
RUNTIME = pinned(ROOT / "requirements.lock")
DEVELOPMENT = pinned(ROOT / "requirements-dev.lock")
QUICK = "--model.arch test_resnet --model.image_size 32 --data.root digits --data.batch_size 4 --data.num_workers 0"
# Verbs that need torch share a process where they can: each start of it takes seconds.
VERBS = """
import json, sys
from clf.main import main
for words in json.loads(sys.argv[1]):
    print("$ clf", *words, file=sys.stderr)
    if code := main(words):
        sys.exit(code)
"""
LOOK = """
import importlib.metadata, importlib.util, json, sys
installed = {each.name: each.version for each in importlib.metadata.distributions()}
missing = [name for name in json.loads(sys.argv[1]) if not importlib.util.find_spec(name)]
print(json.dumps({"installed": installed, "missing": missing}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return folder / build.build_wheel(str(folder))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Install the wheel beside what requirements.lock pins."""
    return make_environment(tmp_path_factory.mktemp("environments") / "plain", files(RUNTIME), wheel)


def changed(environment: Environment, wheel: Path, *, folder: Path, without: str = "clf", more: Pins) -> Environment:
    """Make another environment that lacks a distribution, or has more of them."""
    left_out = tuple({"clf", without, without.replace("-", "_")})
    linked = {path.name: path for path in environment.site.iterdir() if not path.name.startswith(left_out)}
    added = files(more)
    assert not {Path(name).parts[0] for name in added} & linked.keys()
    return make_environment(folder, linked | added, wheel)


def clf(environment: Environment, line: str, *, code: int = 0) -> str:
    """Run one command in the working folder; give what it printed."""
    done = environment.run("clf", *shlex.split(line))
    assert done.returncode == code, f"$ clf {line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def torch_verbs(environment: Environment, *lines: str) -> None:
    """Run several commands in one process."""
    done = environment.run("python", "-c", VERBS, json.dumps([shlex.split(line) for line in lines]))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_environment_holds_what_the_wheel_declares_and_nothing_else(
    environment: Environment, workdir: Path
) -> None:
    assert closure(environment.wheel) == RUNTIME.keys()
    assert "No broken requirements found" in pip(environment, "check")

    owners = {top: set(map(canonicalize_name, names)) for top, names in metadata.packages_distributions().items()}
    development = {top for top, names in owners.items() if names <= DEVELOPMENT.keys() - RUNTIME.keys()}
    assert {"scipy", "sklearn", "pytest", "hypothesis", "hatchling"} <= development
    ours = imported(sources("clf"))
    seen = json.loads(environment.run("python", "-c", LOOK, json.dumps([*(development | ours)])).stdout)
    assert set(seen["missing"]) == development
    assert ours & development == {"fastapi", "python_multipart", "starlette", "uvicorn"}, "what the extra serve brings"
    assert {canonicalize_name(name): each for name, each in seen["installed"].items()} == RUNTIME | {"clf": VERSION}


def test_every_verb_works_in_an_empty_folder(environment: Environment, wheel: Path, workdir: Path) -> None:
    assert clf(environment, "--version") == f"clf {VERSION}\n"
    assert "configs/demo.yaml\n    A first run" in clf(environment, "configs")
    clf(environment, "configs --copy mine")
    clf(environment, "synth --output digits --classes 7 23 --train_per_class 8 --val_per_class 4 --test_per_class 3")

    clf(environment, f"fit --config demo.yaml {QUICK} --trainer trainer/smoke.yaml")
    run = workdir / "runs/demo/001"
    assert {path.name for path in (run / "plots").glob("*.png")} >= {"history.png", "mistakes_val.png", "samples.png"}
    torch_verbs(
        environment,
        "fit --ckpt_path last --trainer.max_epochs 2",
        "validate",
        "test",
        "predict --data.predict digits/test --output torch.parquet",
        "export",
        f"fit --config mine/demo.yaml {QUICK} --trainer mine/trainer/smoke.yaml "
        "--trainer.logger mine/logger/tensorboard.yaml",
    )
    assert [row["epoch"] for row in rows(run / "metrics.csv")] == ["0", "1"]
    assert json.loads((run / "metrics.json").read_text()).keys() >= {"val", "test"}
    assert list((workdir / "runs/demo/002/tensorboard").glob("events.*"))

    assert "demo/002 and demo/001" in clf(environment, "compare runs/demo/001 runs/demo/002 --html better.html")
    (run / "report.html").unlink()
    clf(environment, "report runs/demo/001")
    assert (run / "report.html").stat().st_size > 100_000

    clf(environment, "predict --ckpt_path runs/demo/001/export/model.onnx --data.predict digits/test --output onnx.csv")
    labels = parquet.read_table("torch.parquet").column("label").to_pylist()
    assert [row["label"] for row in rows(workdir / "onnx.csv")] == labels
    assert len(labels) == 6
    serves(environment, wheel, model="runs/demo/001/export", folder=workdir)


def serves(environment: Environment, wheel: Path, *, model: str, folder: Path) -> None:
    """Serve a model: what is missing is said, and with what the extra brings it works."""
    said = clf(environment, f"serve --model {model}", code=2)
    assert re.fullmatch(
        r"clf: clf serve needs \w+; install its extra: pip install '\.\[serve\]' in clf's checkout\n", said
    )
    extra = {name: DEVELOPMENT[name] for name in closure(environment.wheel, extras=["serve"]) - RUNTIME.keys()}
    served = changed(environment, wheel, folder=folder / "with_extra", more=extra)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        with serving(folder, "--model", model, launcher=[str(served.folder / "bin/clf")]) as running:
            answer = httpx.post(f"{running.url}/predict", content=picture())
            assert answer.json()["label"] in {"7", "23"}
            assert running.interrupt() == 130


def test_a_dependency_that_is_left_out_is_named(environment: Environment, wheel: Path, workdir: Path) -> None:
    poorer = changed(environment, wheel, folder=workdir / "poorer", without="jsonargparse", more={})
    said = clf(poorer, f"fit --config demo.yaml {QUICK} --trainer trainer/smoke.yaml", code=1)
    assert said == "clf: ModuleNotFoundError: No module named 'jsonargparse' (--debug shows where)\n"

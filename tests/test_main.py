"""The front door: texts at once, one line for every error, and exit codes that scripts can rely on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import touch

from clf import __version__
from clf.main import PLAIN_VERBS, TRAINER_VERBS, main

VERBS = {*TRAINER_VERBS, *PLAIN_VERBS}
HEAVY = (
    "torch",
    "lightning",
    "timm",
    "torchvision",
    "torchmetrics",
    "jsonargparse",
    "numpy",
    "PIL",
    "pyarrow",
    "wandb",
)


def clf(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, which tells in its last line what it imported."""
    code = "import sys; from clf.main import main; code = main(); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 0, "usage: clf VERB"),
        (["--help"], 0, "usage: clf VERB"),
        (["-h"], 0, "usage: clf VERB"),
        (["help"], 0, "usage: clf VERB"),
        (["--version"], 0, f"clf {__version__}\n"),
        (["configs"], 0, "configs/demo.yaml\n    A first run that needs nothing"),
        (["configs", "--copy", "mine"], 0, "clf fit --config mine/resnet18.yaml\n"),
        (["fti"], 2, "clf: no verb 'fti'; did you mean 'fit'?; `clf --help` lists them\n"),
    ],
)
def test_texts_are_printed_without_importing_anything_heavy(
    workdir: Path, words: list[str], code: int, text: str
) -> None:
    done = clf(*words)
    *said, imported = done.stderr.splitlines(keepends=True)
    assert done.returncode == code
    assert text in (done.stdout if code == 0 else "".join(said))
    assert not set(HEAVY) & set(imported.split())
    assert "clf.main" in imported.split()


def test_help_shows_every_verb_and_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert {line.split()[0] for line in text.partition("verbs:\n")[2].partition("\n\n")[0].splitlines()} == VERBS
    assert "clf fit --config configs/demo.yaml" in text


def test_the_module_is_the_program(workdir: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "clf", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"clf {__version__}\n"
    done = subprocess.run([sys.executable, "-m", "clf", "nonsense"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "clf: no verb 'nonsense'; `clf --help` lists them\n")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_a_help_that_needs_no_run(workdir: Path, verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"usage: clf {verb}" if verb in PLAIN_VERBS else "usage: clf")
    assert verb in PLAIN_VERBS or {"--trainer.max_epochs", "--model.arch", "--callbacks.ema"} <= set(out.split())
    assert err == ""


def test_the_help_of_an_exported_model_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--ckpt_path", "model.onnx", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: clf predict")
    assert "--device" in text
    assert not {"Args:", "Raises:"} & set(text.split())


@pytest.mark.parametrize(
    ("word", "hint"), [("tset", "; did you mean 'test'?"), ("train", ""), ("--verison", ""), ("FIT", "")]
)
def test_a_misspelt_verb_is_a_mistake(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err == f"clf: no verb {word!r}{hint}; `clf --help` lists them\n"


# Errors that only show when something is built

CALLBACK = """
from lightning.pytorch import Callback
from clf.errors import UserError

class Own(Callback):
    def __init__(self, what: str) -> None:
        kinds = {"user": UserError, "bug": RuntimeError, "ctrl-c": KeyboardInterrupt}
        raise kinds[what]("it broke\\nin the middle")
"""
FIT = "fit --config my.yaml --data.root images --model.arch test_resnet --model.pretrained false --callbacks.own.what"


@pytest.fixture
def failing(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset and a callback that fails as it is told to."""
    monkeypatch.syspath_prepend(workdir)
    for name in [name for name in sys.modules if name == "failing_callback"]:
        monkeypatch.delitem(sys.modules, name)
    Path("failing_callback.py").write_text(CALLBACK)
    Path("my.yaml").write_text("callbacks.own: failing_callback.Own\n")
    touch(Path("images"), *(f"{split}/{name}/0.png" for split in ("train", "valid", "test") for name in ("cat", "dog")))
    return workdir


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("user", 2, "clf: it broke"),
        ("bug", 1, "clf: RuntimeError: it broke (--debug shows where)\n"),
        ("ctrl-c", 130, "clf: stopped by Ctrl-C before there was anything new to save\n"),
    ],
)
def test_whatever_goes_wrong_ends_in_one_line_and_an_exit_code(
    failing: Path, capfd: pytest.CaptureFixture[str], what: str, code: int, message: str
) -> None:
    assert main([*FIT.split(), what]) == code
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert list(Path("runs").glob("*")) == []


@pytest.mark.parametrize("place", ["front", "back", "environment"])
@pytest.mark.parametrize(("what", "code"), [("user", 2), ("bug", 1)])
def test_who_asks_for_it_sees_where_it_went_wrong(
    failing: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: str,
    what: str,
    code: int,
) -> None:
    monkeypatch.setenv("CLF_DEBUG", "1" if place == "environment" else "0")
    words = [*FIT.split(), what]
    assert main({"front": ["--debug", *words], "back": [*words, "--debug"]}.get(place, words)) == code
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "failing_callback.py" in err
    assert "(--debug shows where)" not in err


def test_debugging_is_off_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for value in ("", "0"):
        monkeypatch.setenv("CLF_DEBUG", value)
        assert main(["fti"]) == 2
        assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])  # printed at the end, and at once
def test_who_stops_reading_hears_no_complaint(unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": unbuffered}
    words = [sys.executable, "-m", "clf", "--help"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


def test_the_first_program_of_a_container_ends_at_sigterm() -> None:
    """The kernel gives such a program no signal that it has not asked for."""
    script = """
import os, signal
from clf import main
pid = os.getpid()
os.getpid = lambda: 1
main._dispatch = lambda words: os.kill(pid, signal.SIGTERM)
raise SystemExit(main.main(["fit"]))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 143

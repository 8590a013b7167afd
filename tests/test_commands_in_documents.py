"""Every command that a document shows is typed and works, or the document says why it was not."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from datasets import draw
from documents import DOCUMENTS, ROOT, blocks, complaints, program, words
from PIL import Image
from reader import EPOCHS, FEW, TINY, TOOLS, Reader, shortened

from clf.main import main

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Targets that pages name, and what runs them: in a test, `make test` would have no end.
MAKE = {"demo": ".github/workflows/test.yml", "test": ".ci/run"}
PROGRAMS = {"clf", "make", "scripts/cloud-build.sh", *TOOLS}


@dataclass(frozen=True)
class Page:
    """What a page takes for granted, and what its commands leave.

    Args:
        runs: Runs that the reader has, the latest last; they are copies of one run an experiment.
        draw: Makes what else the reader has, in the working folder.
        leaves: Files that are there in the end.
        python: Whether its Python is run in the end, too.
    """

    runs: tuple[str, ...] = ()
    draw: Callable[[Path], object] = lambda folder: None
    leaves: tuple[str, ...] = ()
    python: bool = False


def draw_birds(folder: Path) -> None:
    """Draw what every reader has: ``birds/`` with two classes that are easy to tell apart, new photos and one more."""
    counts = {"train": 8, "valid": 6, "test": 4}
    for at, (split, count) in enumerate(counts.items()):
        for label, colour in {"sparrow": (150, 90, 30), "wren": (30, 90, 150)}.items():
            for number in range(count):
                _photo(folder / "birds" / split / label / f"{number}.jpg", colour, seed=100 * at + number)
    for number in range(3):
        _photo(folder / "new_photos" / f"{number}.jpg", (150, 90, 30), seed=999 + number)
    _photo(folder / "photo.jpg", (30, 90, 150), seed=998)


def _photo(file: Path, colour: tuple[int, int, int], *, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *colour]).integers(0, 100, (40, 48, 3))
    Image.fromarray((noise + colour).astype(np.uint8)).save(file)


def draw_games(folder: Path) -> None:
    """Draw eight rare classes, as rare as the page says, and one that is not; and colours that nobody can read."""
    rare = {"46": 15, "20": 24, "26": 24, "35": 31, "18": 36, "44": 45, "28": 48, "77": 48}
    for label, count in {**rare, "7": 50}.items():
        for number in range(count):
            file = folder / "data/games/train" / label / f"{number}.png"
            draw(file, seed=int(label) * 1000 + number, size=(20, 30 + number % 19))
    (folder / "pale.yaml").write_text(
        "- {labels: ['7'], jersey_colors: [gold], number_colors: [white, gold], borders: [none], count: 1}\n"
    )


def draw_checkout(folder: Path) -> None:
    """Make a repository of what the scripts look at."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
    for step in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "all")):
        subprocess.run(("git", *step), cwd=folder, check=True)


def label_twice(folder: Path) -> None:
    """Give an image to two classes."""
    shutil.copy(folder / "birds/train/sparrow/0.jpg", folder / "birds/train/wren/copy.jpg")


def draw_folder(folder: Path) -> None:
    """Give the name that stands for any dataset to one."""
    (folder / "FOLDER").symlink_to("birds")


PAGES = {
    "README.md": Page(
        runs=("resnet50/001",),
        leaves=("runs/resnet18/002/export/model.onnx", "runs/resnet18/002/predictions/test.csv", "new.csv"),
    ),
    "docs/docker.md": Page(draw=draw_checkout),
    "docs/export.md": Page(runs=("resnet18/002", "resnet18/003"), python=True),
    "docs/seeing.md": Page(runs=("resnet50/001", "resnet18/003"), leaves=("comparison.html", "comparison.json")),
    "docs/howto/check.md": Page(draw=label_twice, leaves=("bad.txt",)),
    "docs/howto/faster.md": Page(runs=("resnet18/003",), leaves=("bench.json",)),
    "docs/howto/several_gpus.md": Page(leaves=("runs/demo/001/metrics.csv", "runs/together/001/metrics.csv")),
    "docs/serve.md": Page(runs=("resnet18/003",), leaves=("models/current/model.onnx",)),
    "docs/synthetic.md": Page(draw=draw_games, leaves=("data/wanted/synthetic.json", "data/games-rendered")),
    "docs/training.md": Page(draw=draw_folder, leaves=("runs/resnet18/find_lr-001.png",)),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two experiments on the birds until they can tell them apart; test both and export one."""
    folder = tmp_path_factory.mktemp("trained")
    draw_birds(folder)
    flags = "--model.arch test_resnet --model.image_size 32 --data.root birds --data.batch_size 8 --data.num_workers 0"
    flags += " --trainer trainer/cpu.yaml --trainer.max_epochs 4 --model.optimizer.lr 0.02 --model.warmup_epochs 0"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("clf.artist.Artist.submit", lambda *_: None)
        for name in ("resnet50", "resnet18"):
            assert main(["fit", "--config", f"{name}.yaml", *flags.split()]) == 0
            assert main(["test"]) == 0
        assert main(["export"]) == 0
    return folder / "runs"


def _refuse(*_: object) -> None:
    raise AssertionError("several processes would repeat the command line of pytest: SEVERAL_PROCESSES misses a word")


@pytest.fixture
def reader(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Sit down in an empty folder."""
    launcher = "lightning.pytorch.strategies.launchers.subprocess_script._SubprocessScriptLauncher"
    monkeypatch.setattr(f"{launcher}._call_children_scripts", _refuse)
    before, loaded = list(sys.path), set(sys.modules)
    with ExitStack() as resources:
        yield Reader(workdir, resources, frozenset(MAKE))
    sys.path[:] = before
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(workdir)):
            del sys.modules[name]


def prepare(page: Page, folder: Path, request: pytest.FixtureRequest) -> None:
    """Make what the page says that its reader has."""
    draw_birds(folder)
    page.draw(folder)
    for run in page.runs:
        shutil.copytree(request.getfixturevalue("trained") / run.split("/")[0] / "001", folder / "runs" / run)
    if page.runs:
        (folder / "runs/latest").symlink_to(page.runs[-1])


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_is_run_or_says_why_not(document: Path) -> None:
    assert list(complaints(document.read_text(encoding="utf-8"), PROGRAMS)) == []


WITH_COMMANDS = [each for each in DOCUMENTS if any(block.commands for block in blocks(each.read_text("utf-8")))]


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=name_of)
def test_the_commands_of_a_page_work(document: Path, reader: Reader, request: pytest.FixtureRequest) -> None:
    text, page = document.read_text(encoding="utf-8"), PAGES.get(name_of(document), Page())
    if re.search(r"^curl ", text, flags=re.MULTILINE) and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    prepare(page, reader.folder, request)
    reader.follow(text)
    assert [path for path in page.leaves if not (reader.folder / path).exists()] == []
    for block in blocks(text) if page.python else []:
        if block.language == "python":
            exec(compile(block.text, f"{document.name}:{block.line}", "exec"), {})


def test_pages_that_are_gone_are_no_longer_prepared() -> None:
    assert PAGES.keys() <= set(map(name_of, WITH_COMMANDS))


def test_what_make_does_for_pages_is_run_by_continuous_integration() -> None:
    rules = re.findall(r"^([\w-]+):([^#=\n]*)", MAKEFILE, flags=re.MULTILINE)
    needed = {target: prerequisites.split() for target, prerequisites in rules}
    for target, file in MAKE.items():
        text = re.sub(r"^\s*#.*", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
        run = set(re.findall(r"\bmake ([a-z-]+)", text))
        while more := {name for each in run for name in needed[each] if name in needed} - run:
            run |= more
        assert target in run, f"{file} does not run make {target}"


# The tests can fail.


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\nclf test\n```\n", "line 1: the language ''"),
        ("one\n\n```bash\nclf test\n```\n", "line 3: the language 'bash': commands stand in blocks of sh"),
        ("```sh\ndocker run image\n```\n", "the tests cannot run 'docker'"),
        ("- one\n\n  ```sh\n  clf test\n  X=1 pip install clf\n  ```\n", "line 3: the tests cannot run 'pip'"),
        ("```sh\n$ clf test\n```\n", "the tests cannot run '$'"),
        ("```sh\n# not run by the tests\ndocker run image\n```\n", "no reason"),
        ("```sh\n# not run by the tests: \ndocker run image\n```\n", "no reason"),
        ("```sh\nclf test\n# not run by the tests: a GPU\n```\n", "the mark stands on the first line"),
        ("```text\n# not run by the tests: a GPU\n```\n", "the mark stands on the first line of a block of sh"),
        ("```yaml\na: 1\na: 2\n```\n", "no YAML"),
        ("```sh\nclf test\n", "a fence without a partner"),
    ],
)
def test_a_block_that_is_neither_run_nor_marked_is_found(text: str, complaint: str) -> None:
    [found] = complaints(text, PROGRAMS)
    assert complaint in found


def test_commands_are_told_from_comments_files_and_what_is_marked() -> None:
    text = """
```sh
# a comment
clf fit --config own.yaml \\
    --data.root 'a # b'       # and another

X=1 make demo
```

```sh
# not run by the tests: a GPU
clf fit
```

```yaml
# parts/own.yaml
model.arch: resnet18
```

```bash
#!/bin/bash
shutdown now
```
"""
    first, second, third, fourth = blocks(text)
    assert first.commands == [
        "clf fit --config own.yaml --data.root 'a # b'       # and another",
        "X=1 make demo",
    ]
    assert words(first.commands[0])[-1] == "a # b"
    assert program(first.commands[1]) == "make"
    assert (second.commands, third.commands, fourth.commands) == ([], [], [])
    assert [block.file for block in (first, second, third, fourth)] == [None, None, "parts/own.yaml", None]
    assert list(complaints(text, PROGRAMS)) == []


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("```sh\nclf fti\n```\n", "exit code 2: $ clf fti\nclf: no verb 'fti'; did you mean 'fit'?"),
        ("```sh\nclf --version\ntest -e gone\n```\n", "exit code 1: $ test -e gone"),
        ("```sh\nclf --version | grep gone\n```\n", "exit code 1: $ clf --version | grep gone"),
        ("```sh\nclf --version --output gone.csv\n```\n", "gone.csv"),
        ("```sh\nmake tea\n```\n", "nobody runs make tea"),
        ("```sh\nclf --version\n```\n\n```text\nclf: no\n```\n", r"\$ clf --version"),
        ("```sh\nclf fti\n```\n\n```text\nclf: no verb\n```\n", "did you mean 'fit'"),
    ],
)
def test_a_command_that_does_not_do_what_the_page_says_fails(text: str, failure: str, reader: Reader) -> None:
    with pytest.raises(AssertionError, match=re.escape(failure).replace(r"\\\$", r"\$")):
        reader.follow(text)


def test_a_page_is_followed_with_its_files_variables_pipes_and_mistakes(reader: Reader) -> None:
    reader.follow("""
```sh
CLF_DEBUG=0 clf configs --copy mine trainer/cpu.yaml     # a part
clf configs | grep -c demo > count
clf fit --config own.yaml --print_config
clf configs --copy 'your own' "demo.yaml" && cp own.yaml '$literal'
clf --version
```

A mistake looks like this, but not here:

```text
clf: no
```

```sh
clf --version
cd mine && test -e trainer/cpu.yaml && clf fti
```

```text
clf: no verb 'fti'; did you mean 'fit'?; `clf --help` lists them
```

```yaml
# own.yaml
config: demo.yaml
trainer: mine/trainer/cpu.yaml
```
""")
    assert Path.cwd() == reader.folder / "mine"
    assert Path("trainer/cpu.yaml").is_file()
    assert int((reader.folder / "count").read_text()) > 1
    assert (reader.folder / "$literal").read_text() == (reader.folder / "own.yaml").read_text()
    assert "CLF_DEBUG" not in os.environ


def test_pages_about_several_processes_are_typed_outside_of_this_one(reader: Reader) -> None:
    reader.follow("```yaml\n# two.yaml\ntrainer.devices: 2\n```\n\n```sh\nclf configs --copy mine\n```\n")
    assert (reader.folder.parent / "programs").is_dir()
    assert {path.name for path in reader.folder.iterdir()} == {"two.yaml", "mine"}


@pytest.mark.parametrize(
    ("typed", "more"),
    [
        ("fit --config a.yaml", {**TINY, EPOCHS: "1"}),
        ("fit -c a.yaml --trainer.max_epochs 40", {**TINY, EPOCHS: "1"}),
        ("fit --config a.yaml --ckpt_path auto", {**TINY, EPOCHS: "1"}),
        ("fit --ckpt_path last", {}),
        ("fit --ckpt_path last --trainer.max_epochs 40", {EPOCHS: "3"}),
        ("fit --ckpt_path last --trainer.max_epochs=2", {EPOCHS: "2"}),
        ("test --config a.yaml --model.arch resnet18 --model.image_size=64", {k: TINY[k] for k in list(TINY)[2:]}),
        ("fit --config a.yaml --model.network nets.Own", {**{k: TINY[k] for k in list(TINY)[1:]}, EPOCHS: "1"}),
        ("export", {}),
        ("bench", {}),
        ("check --strict", {"--seconds": "0.05"}),
        ("check --config a.yaml", {"--seconds": "0.05", **TINY}),
        ("bench infer", {"--seconds": "0.05"}),
        ("bench startup --config a.yaml", {"--repeats": "1", **TINY}),
        ("bench data --config a.yaml --seconds 1", TINY),
        ("synth --output a", FEW),
        ("synth --output a --train_per_class 50", {}),
        ("synth --fill a", {}),
        ("compare runs/a runs/b", {}),
    ],
)
def test_a_training_is_shortened_where_the_document_does_not_say_otherwise(typed: str, more: dict[str, str]) -> None:
    assert shortened(typed.split()) == [*typed.split(), *(word for pair in more.items() for word in pair)]

"""A reader of the documents, who types their commands. Trainings are shortened; all else happens as it is written."""

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path

from documents import ROOT, Block, blocks, needs_shell, program, words
from serving import serving

from clf.main import TRAINER_VERBS, main

# Given to every training, unless the document says otherwise: a small network, one step, no processes beside.
ARCH, EPOCHS = "--model.arch", "--trainer.max_epochs"
TINY = {
    ARCH: "test_resnet",
    "--model.image_size": "32",
    "--data.num_workers": "0",
    "--trainer.num_sanity_val_steps": "0",
    "--trainer.limit_train_batches": "1",
}
FEW = {"--train_per_class": "4", "--val_per_class": "2", "--test_per_class": "2"}
LAST = Path("runs/latest/checkpoints/last.ckpt")
# What a shell runs in the reader's folder.
TOOLS = {"cd", "cp", "ls", "mkdir", "mv", "rm", "touch"}
TOOLS |= {"cat", "cmp", "diff", "echo", "grep", "head", "printf", "sed", "sort", "tail", "wc"}
TOOLS |= {"curl", "for", "python", "test", "torchrun"}
# Lightning starts further processes by repeating the command line of the first, which must then not be that of pytest.
SEVERAL_PROCESSES = re.compile(r"\b(ddp|devices|num_nodes|strategy|torchrun)\b")
# Options that name what a command leaves.
LEAVES = ("--output", "--copy", "--html", "--json", "--exclude_to")


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Args:
        code: Its exit code.
        output: What it printed.
    """

    code: int
    output: str


def shortened(typed: Sequence[str]) -> list[str]:
    """Add flags that make a command of ``clf`` quick; what the document says itself stays, but for many epochs."""
    verb, *rest = typed or [""]
    given = {flag: value for flag, _, value in (word.partition("=") for word in rest) if flag.startswith("-")}
    given |= {flag: value for flag, value in pairwise(rest) if flag in given and not given[flag]}
    more: dict[str, str] = {}
    if verb == "synth" and not given.keys() & {"--fill", "--spec", *FEW}:
        more = FEW
    if verb == "bench" and rest:
        quick = {"--repeats": "1"} if rest[0] == "startup" else {"--seconds": "0.05"}
        more = {flag: value for flag, value in quick.items() if flag not in given}
    if verb == "check" and "--seconds" not in given:
        more = {"--seconds": "0.05"}
    composes = verb in TRAINER_VERBS or (verb == "bench" and rest[:1] != ["infer"]) or verb == "check"
    if composes and given.keys() & {"-c", "--config"}:  # a run's own configuration is a shortened one
        own = any(word.startswith("--model.network") or _names_a_network(Path(word)) for word in rest)
        more |= {flag: value for flag, value in TINY.items() if flag not in given and not (own and flag == ARCH)}
    if verb == "fit" and (more or EPOCHS in given):
        goes_on = {"--ckpt_path", EPOCHS} <= given.keys()
        more = {**more, EPOCHS: str(min(int(given[EPOCHS]), 3)) if goes_on else "1"}
    return [*typed, *(word for pair in more.items() for word in pair)]


def _names_a_network(file: Path) -> bool:
    """Tell whether a configuration of the page names a network of its own."""
    pattern = re.compile(r"^\s*(model\.)?network\b", flags=re.MULTILINE)
    return file.suffix == ".yaml" and file.is_file() and bool(pattern.search(file.read_text(encoding="utf-8")))


@dataclass
class Reader:
    """Somebody in a folder who types one command after the other, from a page.

    Args:
        folder: The working folder; it is the process's own.
        resources: What is stopped when the page ends: the server.
        make: The targets of ``make`` that are run elsewhere.
    """

    folder: Path
    resources: ExitStack
    make: frozenset[str]
    _addresses: dict[str, str] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)
    _apart: bool = False

    def follow(self, page: str) -> None:
        """Do all that a page says, from top to bottom.

        Raises:
            AssertionError: If a command does not do what it should.
        """
        found = blocks(page)
        typed = "\n".join(command for block in found for command in block.commands)
        self._apart = bool(SEVERAL_PROCESSES.search(typed + "".join(block.text for block in found if block.file)))
        files = [(block.file, block.text) for block in found if block.file is not None]
        self._files = dict(reversed(files))  # of several versions the first: the next comes at its place
        self._write_files(*self._files)
        for block, after in zip(found, [*found[1:], None], strict=True):
            if block.file is not None and self._files[block.file] != block.text:
                self._files[block.file] = block.text
                self._write_files(block.file)
            below = after is not None and not "".join(page.splitlines()[block.end : after.line - 1]).strip()
            for number, command in enumerate(block.commands, 1):
                shown = after if below and number == len(block.commands) else None
                self._follow(command, _mistake(shown))

    def _write_files(self, *names: str) -> None:
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(self._addressed(self._files[name]), encoding="utf-8")

    def _addressed(self, text: str) -> str:
        """Put the servers' real addresses where the page has those that it says."""
        for port, address in self._addresses.items():
            text = re.sub(rf"(127\.0\.0\.1|localhost):{port}\b", address, text)
        return text

    def _follow(self, command: str, mistake: str | None) -> None:
        before = _stamp(LAST)
        done = self.type(command)
        said = f"$ {command}\n{done.output}"
        if mistake is not None:
            assert (done.code, done.output.splitlines()[-1:]) == (2, [mistake]), said
            return
        assert done.code == 0, f"exit code {done.code}: {said}"
        missing = [path for path in _promised(command) if not path.exists()]
        assert missing == [], said
        if _trains(command) and "already finished" not in done.output:
            assert _stamp(LAST) != before, f"nothing was saved: {said}"

    def type(self, command: str) -> Done:
        """Run one command."""
        if "&&" in words(command) and not needs_shell(command.replace("&&", "")):
            return self._type_all(command)
        typed = [word for word in words(command) if word != "&"]
        at = typed.index(program(command))
        first, *rest = typed[at:]
        with _environment(dict(word.split("=", 1) for word in typed[:at])):
            if first == "make":
                known = set(rest) <= self.make
                return Done(0 if known else 2, "" if known else f"nobody runs make {' '.join(rest)}")
            if first == "cd" and not needs_shell(command):
                os.chdir(rest[0])
                return Done(0, "")
            if first == "clf" and rest[:1] == ["serve"]:
                return self._serve(rest[1:])
            if first == "clf" and not needs_shell(command) and not self._apart:
                return _clf(shortened(rest))
            if not self._apart and (piped := re.fullmatch(r"clf ([^|&;<>$`*?~]*)\|(.*)", command)):
                return self._piped(shlex.split(piped[1]), piped[2])
            if first == "torchrun" and "clf" in rest and not needs_shell(command):
                at += rest.index("clf") + 2
                command = shlex.join([*typed[:at], *shortened(typed[at:])])
            return self._shell(command)

    def _piped(self, typed: Sequence[str], into: str) -> Done:
        """Give what a command of ``clf`` prints to a shell."""
        printed = io.StringIO()
        done = _clf(shortened(typed), printed)
        return done if done.code else self._shell(into, given=printed.getvalue())

    def _type_all(self, command: str) -> Done:
        """Run commands that are joined by ``&&``; a ``cd`` among them holds for what follows."""
        output = ""
        for joined, part in groupby(words(command), key=lambda word: word == "&&"):
            if not joined:
                done = self.type(shlex.join(part))
                output += done.output
                if done.code:
                    return Done(done.code, output)
        return Done(0, output)

    def _serve(self, flags: list[str]) -> Done:
        """Start a server on a free port; it goes on until the page ends."""
        port = "8000"
        if "--port" in flags:
            at = flags.index("--port")
            port = flags[at + 1]
            del flags[at : at + 2]
        server = self.resources.enter_context(serving(self.folder.parent / f"server-{port}", *flags))
        self.resources.callback(lambda: _assert_stops(server.interrupt()))
        self._addresses[port] = server.url.removeprefix("http://")
        self._write_files(*self._files)
        return Done(0, server.log)

    def _shell(self, command: str, given: str = "") -> Done:
        """Let a shell run a command in which ``clf`` and ``python`` are those of the tests."""
        if program(command) == "curl":
            command = command.replace("curl", "curl --fail --silent --show-error", 1)
        variables = {"PATH": f"{_programs(self.folder)}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
        run = ["sh", "-c", self._addressed(command)]
        done = subprocess.run(run, env=os.environ | variables, input=given, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout + done.stderr)


def _mistake(block: Block | None) -> str | None:
    """The message of a mistake, if that is what a block shows below a command."""
    line = block.text.splitlines()[0] if block is not None and block.language == "text" else ""
    return line if line.startswith("clf: ") else None


def _promised(command: str) -> list[Path]:
    """What a command of ``clf`` has to leave."""
    if program(command) != "clf" or needs_shell(command):
        return []
    named = [Path(value) for option, value in pairwise(words(command)) if option in LEAVES]
    return [*named, LAST] if _trains(command) else named


def _trains(command: str) -> bool:
    """Whether a command of ``clf`` has to leave a checkpoint."""
    typed = words(command)
    mine = program(command) == "clf" and not needs_shell(command) and "fit" in typed
    return mine and not any(re.search(r"--print_config|--find_|help$", word) for word in typed)


def _stamp(path: Path) -> tuple[Path, int] | None:
    """Which file a path means, and when it was written."""
    return (path.resolve(), path.stat().st_mtime_ns) if path.exists() else None


def _clf(typed: Sequence[str], printed: io.StringIO | None = None) -> Done:
    said = io.StringIO()
    with redirect_stdout(printed or said), redirect_stderr(said):
        code = main(typed)
    return Done(code, said.getvalue())


def _assert_stops(code: int) -> None:
    assert code == 130, f"the server ended with {code}"


def _programs(folder: Path) -> Path:
    """Make the folder of the programs that a shell finds first."""
    made = folder.parent / "programs"
    made.mkdir(exist_ok=True)
    launchers = {"python": [], "clf": [str(made / "typed.py")], "torchrun": ["-m", "torch.distributed.run"]}
    for name, more in launchers.items():
        (made / name).write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *more])} "$@"\n')
        (made / name).chmod(0o755)
    (made / "typed.py").write_text(
        "import sys\nfrom clf.main import main\nfrom reader import shortened\nsys.exit(main(shortened(sys.argv[1:])))\n"
    )
    return made


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables for one command; what it sets itself is gone after it, too."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

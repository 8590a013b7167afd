"""The reference pages of the site: what stands where one says ``<!-- site: KIND WORDS -->``, made from the code."""

import ast
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from reference import Argument, Code, as_yaml

from clf.config import CALLBACKS, compose
from clf.main import main

log = logging.getLogger("mkdocs.reference")  # a warning of mkdocs ends a strict build


class Reference:
    """Makes the parts of the reference.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path) -> None:
        self._configs = root / "configs"
        self._code = Code(root)
        self._given = json.loads(compose([]).as_text())  # what configs/defaults.yaml says
        self._follows: dict[str, str] = self._code.literal("clf.parser.FOLLOWS")

    def make(self, kind: str, words: Sequence[str]) -> str:
        """Make a part; an unknown kind is a warning."""
        makers: dict[str, Callable[..., Iterator[str]]] = {
            "callbacks": self._callbacks,
            "class": self._class,
            "classes": self._classes,
            "configs": self._shipped,
            "help": self._help,
            "keys": self._keys,
            "modules": self._modules,
            "options": self._options,
        }
        if kind not in makers:
            log.warning("there is no <!-- site: %s -->; there is %s", kind, ", ".join(makers))
            return ""
        return "\n\n".join(makers[kind](*words))

    def _keys(self, group: str, path: str) -> Iterator[str]:
        """List the keys of a group, which are the arguments of a class."""
        for argument in self._code.arguments(path):
            yield from self._key(f"{group}.{argument.name}", argument, self._given.get(group, {}), level=3)

    def _classes(self, base: str) -> Iterator[str]:
        """Describe the classes that derive from one."""
        for path in self._code.leaves(base):
            yield from self._class(path)

    def _class(self, path: str) -> Iterator[str]:
        """Describe a class that a YAML file may name."""
        yield _heading(3, path, label=path.rpartition(".")[2])
        yield self._described(path)
        for argument in self._code.arguments(path):
            if argument.name != "optimizer":  # a schedule gets it from the classifier
                yield from self._key(f"{path}.{argument.name}", argument, {}, level=4, shown=argument.name)

    def _callbacks(self) -> Iterator[str]:
        """Describe all shipped callbacks with their keys."""
        for name, path in CALLBACKS.items():
            key, given = f"callbacks.{name}", self._given["callbacks"].get(name)
            yield _heading(2, key, label=name)
            yield f"`{path}`, {'on' if given is not None else 'off'} by default\n{{: .key }}"
            yield self._described(path)
            for argument in self._code.arguments(path):
                values = (given or {}).get("init_args", given or {})
                yield from self._key(f"{key}.{argument.name}", argument, values, level=3)

    def _described(self, path: str) -> str:
        text = self._code.text(path)
        if not text:
            log.warning("%s has no docstring", path)
        return text

    def _key(
        self, key: str, argument: Argument, given: dict[str, Any], *, level: int, shown: str | None = None
    ) -> Iterator[str]:
        if not argument.text:
            log.warning("%s is not documented: the docstring of its class says nothing about %s", key, argument.name)
        yield _heading(level, key, label=argument.name, shown=shown, kind=".key-name")
        default = as_yaml(given[argument.name]) if argument.name in given else argument.default
        *first, last = (f"`{word}`" for word in argument.types)
        types = f"{', '.join(first)} or {last}" if first else last
        if key in self._follows:
            yield f"{types}, follows `{self._follows[key]}` and cannot be given\n{{: .key }}"
        else:
            yield f"{types}, {'must be given' if default is None else f'default `{default}`'}\n{{: .key }}"
        yield argument.text

    def _options(self, path: str) -> Iterator[str]:
        """List flags and their help, which stand in a table of the code."""
        for name, text in self._code.literal(path).items():
            yield _heading(3, f"--{name}", label=name, kind=".key-name")
            yield text

    def _help(self, *words: str) -> Iterator[str]:
        """Show what ``clf … --help`` prints."""
        width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "80"
        try:
            with redirect_stdout(StringIO()) as printed:
                code = main([*words, "--help"])
        finally:
            os.environ.pop("COLUMNS")
            if width is not None:
                os.environ["COLUMNS"] = width
        if code != 0:
            log.warning("clf %s --help ended with %d", " ".join(words), code)
        yield f"```text\n{printed.getvalue().rstrip()}\n```"

    def _modules(self) -> Iterator[str]:
        """List the modules of the package, each with the first line of its docstring."""
        root = self._configs.parent
        texts = {path.relative_to(root): path.read_text("utf-8") for path in sorted((root / "clf").rglob("*.py"))}
        said = {path: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] for path, text in texts.items()}
        yield "\n".join(f"- `{path.as_posix()}`: {line}" for path, line in said.items())

    def _shipped(self, folder: str) -> Iterator[str]:
        """Show the shipped configurations of a folder: what their header says, then what they say."""
        yield f'<span id="configs/{folder}"></span>'
        for path in sorted((self._configs / folder).glob("*.yaml")):
            name = path.relative_to(self._configs.parent).as_posix()
            lines = path.read_text("utf-8").splitlines()
            end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
            header = (line.removeprefix("#").removeprefix(" ") for line in lines[:end])
            yield _heading(3, name, label=path.name)
            # An indented line of a header is a command.
            yield "\n".join(f"\n    {line.strip()}\n" if line.startswith(" ") else line for line in header).strip("\n")
            yield "\n".join(["```yaml", *lines[end:], "```"])


def _heading(level: int, anchor: str, *, label: str, shown: str | None = None, kind: str = "") -> str:
    return f'{"#" * level} `{shown or anchor}` {{: #{anchor} {kind} data-toc-label="{label}" }}'

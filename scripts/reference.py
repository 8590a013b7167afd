"""What the code says of its classes, without running it: their arguments with types, defaults and descriptions."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import griffe
import yaml
from griffe_sections import Sections

_TYPES = {"None": "null", "Any": "anything", "Path": "str", "timedelta": "str"}
_PLAIN = {"bool", "float", "int", "str"}
_LISTS = {"Iterable", "list", "Sequence"}
_MAPPINGS = {"dict", "Mapping"}

_ROLE = re.compile(r":\w+:`~?([^`]+)`")  # of reStructuredText, in other people's docstrings


@dataclass(frozen=True)
class Argument:
    """An argument of a class, as a YAML file gives it.

    Args:
        name: Its name.
        types: What it may be, in YAML's words, e.g. ``["int", "null"]``.
        default: Its default as YAML; None where it must be given.
        text: What its docstring says, Markdown; empty where it says nothing.
    """

    name: str
    types: list[str]
    default: str | None
    text: str


def as_yaml(value: Any) -> str:
    """Write a value as one line of YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()  # what ends a document that is one bare value


class Code:
    """Modules that are read and never imported.

    Args:
        root: The folder that holds the package ``clf``.
    """

    def __init__(self, root: Path) -> None:
        self._options: dict[str, Any] = {
            "docstring_parser": griffe.Parser.google,
            "docstring_options": {"warnings": False},  # what is missing is said where it is shown
        }
        extensions = griffe.load_extensions(Sections)
        loader = griffe.GriffeLoader(extensions=extensions, search_paths=[root], **self._options)
        loader.load("clf")
        self._own = loader.modules_collection

    def find(self, path: str) -> Any:
        """Find a class or an attribute by its dotted path; a module of another package is read when it is asked for.

        Raises:
            KeyError: If there is no such thing.
        """
        module, _, name = path.rpartition(".")
        found = self._module(module)[name]
        return self.find(found.target_path) if found.is_alias else found

    def _module(self, path: str) -> Any:
        top = path.partition(".")[0]
        if top in self._own:
            return self._own[path]
        spec = find_spec(top) if top else None  # finds a package, and does not import it
        if spec is None or not spec.submodule_search_locations:
            raise KeyError(path)
        file = Path(spec.submodule_search_locations[0]).parent.joinpath(*path.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        return griffe.visit(path, filepath=file, code=file.read_text("utf-8"), **self._options)

    def literal(self, path: str) -> Any:
        """Evaluate a constant that is written out.

        Raises:
            KeyError: If there is no such thing.
            ValueError: If it is none.
        """
        found = self.find(path)
        if not found.is_attribute:
            raise ValueError(path)
        return ast.literal_eval(str(found.value))

    def leaves(self, base: str) -> list[str]:
        """List the classes of a module that derive from one of them and are public and nobody's base."""
        module, _, name = base.rpartition(".")
        classes = [each for each in self._module(module).members.values() if not each.is_alias and each.is_class]
        bases = {each.name: [str(parent) for parent in each.bases] for each in classes}

        def derives(one: str) -> bool:
            return name in bases[one] or any(derives(parent) for parent in bases[one] if parent in bases)

        inner = {parent for parents in bases.values() for parent in parents}
        found = [each for each in bases if derives(each) and each not in inner]
        return [f"{module}.{each}" for each in found if not each.startswith("_")]

    def text(self, path: str) -> str:
        """Say what a class is: its docstring without arguments and what follows from them."""
        docstring = self.find(path).docstring
        sections = docstring.parsed if docstring else []
        texts = [section.value for section in sections if section.kind is griffe.DocstringSectionKind.text]
        return "\n\n".join(texts if path.startswith("clf.") else texts[:1])

    def arguments(self, path: str) -> list[Argument]:
        """List the arguments of a class; those that it inherits are described where they are inherited from."""
        found = self.find(path)
        texts: dict[str, str] = {}
        for each in self._with_bases(found):
            for docstring in (each.docstring, getattr(each.members.get("__init__"), "docstring", None)):
                for section in docstring.parsed if docstring else []:
                    if section.kind is griffe.DocstringSectionKind.parameters:
                        texts = {item.name: _ROLE.sub(r"`\1`", item.description) for item in section.value} | texts
        return [
            Argument(each.name, self._types(each.annotation), self._default(each.default), texts.get(each.name, ""))
            for each in found.parameters
            if each.name != "self" and "variadic" not in each.kind.value
        ]

    def _with_bases(self, found: Any) -> Iterator[Any]:
        yield found
        for base in found.bases:
            if getattr(base, "canonical_path", "").startswith("clf."):
                yield from self._with_bases(self.find(base.canonical_path))

    def _default(self, default: Any) -> str | None:
        """Write a default as YAML; the name of a constant stands for its value."""
        if default is None:
            return None
        try:
            if isinstance(default, griffe.ExprName):
                return as_yaml(self.literal(default.canonical_path))
            return as_yaml(ast.literal_eval(str(default)))
        except (KeyError, ValueError):
            return str(default)

    def _types(self, annotation: Any) -> list[str]:
        """Say in YAML's words what an annotation admits, null last."""
        words = list(dict.fromkeys(self._words(annotation)))
        return sorted(words, key="null".__eq__)

    def _words(self, annotation: Any) -> list[str]:
        match annotation:
            case griffe.ExprBinOp(left=left, right=right):
                return [*self._words(left), *self._words(right)]
            case griffe.ExprSubscript(left=left, slice=inner):
                parts = list(inner.elements) if isinstance(inner, griffe.ExprTuple) else [inner]
                return self._subscript(str(left).rpartition(".")[2], parts)
            case griffe.ExprName(name=name):
                return [_TYPES[name]] if name in _TYPES else [name] if name in _PLAIN else self._named(annotation)
            case str():
                return [_TYPES.get(annotation, annotation)]
            case _:
                return ["class_path"]

    def _subscript(self, name: str, parts: list[Any]) -> list[str]:
        inner = [" or ".join(self._words(part)) for part in parts] if name != "Callable" else []
        if name == "Literal":
            return [as_yaml(ast.literal_eval(str(part))) for part in parts]
        if name in ("Optional", "Union"):
            return [word for part in parts for word in self._words(part)] + ["null"] * (name == "Optional")
        if name in _LISTS:
            return [f"list of {inner[0]}"]
        if name == "tuple":
            return [f"list of {len(parts)} {inner[0]}"]
        return [f"mapping of {inner[0]} to {inner[1]}"] if name in _MAPPINGS else ["class_path"]

    def _named(self, name: griffe.ExprName) -> list[str]:
        """Say what a name of a type stands for: what it is short for, or a class."""
        try:
            found = self.find(name.canonical_path)
        except KeyError:
            return ["class_path"]
        return self._words(found.value) if found.is_attribute and found.value is not None else ["class_path"]

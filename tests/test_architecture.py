"""The house: imports run strictly downward, heavy libraries stay where they belong, rooms stay small and well named."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent

# From the roof down; a room (module or package of clf/) imports only from rows below its own. The same picture for
# people stands in CONTRIBUTING.md. A new room is placed here first: that is the moment to ask where it belongs.
HOUSE = (
    ("F4", {"__main__"}),
    ("F4", {"main"}),
    ("F4", {"preflight"}),
    ("F4", {"bench", "diagnosis"}),
    ("F4", {"composed"}),
    ("F4", {"verbs"}),
    ("F4", {"cli", "compare", "predict_onnx", "serve", "shipped", "synth"}),
    ("F4", {"endings"}),
    ("F4", {"attaching", "latest", "session"}),
    ("F4", {"invocation", "options", "parser"}),
    ("F3", {"check"}),
    ("F3", {"callbacks", "finders", "loggers", "service"}),
    ("F2", {"comparison", "evaluation", "export", "pictures", "report", "scoreboard"}),
    ("F2", {"artist", "captions", "card", "figures", "pages", "proof", "quantisation", "tracking"}),
    ("F1", {"predictor"}),
    ("F1", {"classifier", "data"}),
    ("F0", {"calibration", "config", "confusion", "results", "slices", "transforms"}),
    ("F0", {"crops", "durable", "graph", "predictions", "processes", "rates", "recipes", "records", "recovery"}),
    (
        "F0",
        {
            "allocator",
            "checkpoints",
            "colors",
            "degradations",
            "environment",
            "lifeline",
            "logs",
            "runs",
            "seeding",
            "statistics",
        },
    ),
    (
        "F0",
        {
            "exported",
            "gradcam",
            "losses",
            "metrics",
            "mixing",
            "model_info",
            "networks",
            "optim",
            "parameters",
        },
    ),
    ("F0", {"history", "preprocess", "sums", "yamlfile"}),
    ("F0", {"chunks", "cores", "errors", "files", "illustrations", "garbage", "progressbar"}),
    ("F0", {"mounts"}),
)
HEIGHT = {room: len(HOUSE) - row for row, (_, rooms) in enumerate(HOUSE) for room in rooms}
FLOOR = {room: floor for floor, rooms in HOUSE for room in rooms}

# Only in these packages do files of one room import each other.
NEIGHBOURS = {"bench", "check", "data", "figures", "service"}

TORCH = {"torch", "torchvision", "torchmetrics", "lightning", "timm"}
# Neither these rooms nor anything that they import may need torch, not even inside a function.
TORCH_FREE = {
    "compare",
    "comparison",
    "config",
    "errors",
    "exported",
    "figures",
    "history",
    "predict_onnx",
    "predictions",
    "predictor",
    "preprocess",
    "report",
    "runs",
    "scoreboard",
    "serve",
    "service",
    "shipped",
    "yamlfile",
}
# Serving will install nothing else for its preprocessing.
PREPROCESS_MAY_IMPORT = {"numpy", "PIL", "clf.errors", "clf.files"}
# `clf --help` imports the top of main and of whatever that imports.
HELP_MAY_IMPORT = {"yaml"}
# The command line belongs to the top floor: below it, code does not know that it is driven by YAML.
COMMAND_LINE = {"jsonargparse", "lightning.pytorch.cli"}
# ... but for the types by which a class says that it takes an optimizer or a schedule.
ARGUMENT_TYPES = {
    "lightning.pytorch.cli.LRSchedulerCallable",
    "lightning.pytorch.cli.OptimizerCallable",
    "lightning.pytorch.cli.ReduceLROnPlateau",
}
# Imported inside the function that needs them, never when a module is loaded: each is slow, and seldom used.
LAZY = {"captum", "matplotlib", "onnx", "onnxruntime", "pyarrow", "tensorboard", "timm", "wandb"}
# Such names collect what has no subject.
NAMELESS = {"base", "common", "core", "factory", "helper", "helpers", "misc", "registry", "tools", "util", "utils"}

Tree = Mapping[str, str]
"""Dotted module name -> source."""


@dataclass(frozen=True)
class Import:
    """One import: what it names, where it stands, and whether loading the module already runs it."""

    target: str
    line: int
    lazy: bool

    def of(self, libraries: set[str]) -> bool:
        return any(self.target == name or self.target.startswith(f"{name}.") for name in libraries)


def house() -> dict[str, str]:
    """Every module of clf/, by its dotted name."""
    paths = sorted((ROOT / "clf").rglob("*.py"))
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    return {name.removesuffix(".__init__"): path.read_text() for name, path in zip(names, paths, strict=True)}


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def imports(source: str, modules: set[str]) -> list[Import]:
    """All imports of a module, those inside functions and ``import_module("x")`` included, those for types left out."""
    return list(_imports(ast.parse(source), modules, lazy=False))


def _imports(node: ast.AST, modules: set[str], *, lazy: bool) -> Iterator[Import]:
    for name, line in _named(node):
        # `from clf import runs` names a module, `from clf.runs import Run` a thing inside one.
        target = name if name in modules or name.rpartition(".")[0] not in modules else name.rpartition(".")[0]
        yield Import(target, line, lazy)
    if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from _imports(child, modules, lazy=lazy or inside)


def _named(node: ast.AST) -> list[tuple[str, int]]:
    match node:
        case ast.Import(names=names):
            return [(alias.name, node.lineno) for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            prefix = "." * level + (module or "")
            return [(f"{prefix}.{alias.name}", node.lineno) for alias in names]
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            if ast.unparse(function) in {"__import__", "import_module", "importlib.import_module"}:
                return [(name, node.lineno)]
    return []


def reached(module: str, imported: Mapping[str, list[Import]], *, at_load: bool = False) -> dict[str, str]:
    """Everything that a module leads to through the house, each with the way there."""
    ways = {module: module}
    queue = [module]
    while queue:
        here = queue.pop()
        for step in imported.get(here, []):
            if step.target not in ways and not (at_load and step.lazy):
                ways[step.target] = f"{ways[here]} -> {step.target}"
                queue.append(step.target)
    return ways


def complaints(tree: Tree) -> list[str]:
    """What is wrong with a house; empty when it stands."""
    imported = {module: imports(source, set(tree)) for module, source in tree.items()}
    return [*_placement(tree), *_upward(imported), *_kept_out(imported), *_shape(tree)]


def _placement(tree: Tree) -> Iterator[str]:
    for name in sorted({room(module) for module in tree} - HEIGHT.keys() - {""}):
        yield f"clf/{name} stands on no floor: place it in HOUSE, and in the picture in CONTRIBUTING.md"


def _upward(imported: Mapping[str, list[Import]]) -> Iterator[str]:
    for module, found in imported.items():
        here = room(module)
        for step in found:
            if step.target.startswith("."):
                yield f"{module}:{step.line} imports {step.target}: write the whole name"
            if step.target.split(".")[0] != "clf" or here not in HEIGHT:
                continue
            there = room(step.target)
            if here == there and here in NEIGHBOURS:
                continue
            if there in HEIGHT and HEIGHT[there] >= HEIGHT[here]:
                yield f"{module}:{step.line} ({FLOOR[here]}) imports {step.target} ({FLOOR[there]}): only downward"


def _kept_out(imported: Mapping[str, list[Import]]) -> Iterator[str]:
    for module, found in imported.items():
        for step in found:
            driven = step.of(COMMAND_LINE) and step.target not in ARGUMENT_TYPES
            if driven and FLOOR.get(room(module)) not in {"F4", None}:
                yield f"{module}:{step.line} imports {step.target}: only the command line does"
            if step.of(LAZY) and not step.lazy:
                yield f"{module}:{step.line} imports {step.target} when it is loaded: do it where it is needed"
            if room(module) == "preprocess" and not step.of(PREPROCESS_MAY_IMPORT) and not _standard(step.target):
                yield f"{module}:{step.line} imports {step.target}: only {sorted(PREPROCESS_MAY_IMPORT)}"
        if room(module) in TORCH_FREE:
            for target, way in reached(module, imported).items():
                if target.split(".")[0] in TORCH:
                    yield f"{module} needs torch: {way}"
    for target, way in reached("clf.main", imported, at_load=True).items():
        if target.split(".")[0] not in {"clf", *HELP_MAY_IMPORT} and not _standard(target):
            yield f"clf --help waits for {target}: {way}"


def _standard(target: str) -> bool:
    return target.split(".")[0] in sys.stdlib_module_names


def _shape(tree: Tree) -> Iterator[str]:
    for module, source in tree.items():
        for name in sorted(NAMELESS & set(module.split("."))):
            yield f"{module}: {name!r} says nothing about its subject"
        if (lines := len(source.splitlines())) > 400:
            yield f"{module} has {lines} lines, more than 400: what can go?"
        first, *rest = (ast.get_docstring(ast.parse(source)) or "").splitlines() or [""]
        if not first.endswith(".") or (rest and rest[0]):
            yield f"{module} must open with one line that says why it exists"
    if median(len(source.splitlines()) for source in tree.values()) >= 250:
        yield "half of all modules have 250 lines or more"


def test_imports_run_downward_and_every_room_keeps_its_shape() -> None:
    assert "\n".join(complaints(house())) == ""


def test_the_picture_for_people_shows_every_room() -> None:
    picture = (ROOT / "CONTRIBUTING.md").read_text().partition("```")[2].partition("```")[0]
    missing = {room(module) for module in house()} - {"", *picture.replace("/", " ").replace(".py", " ").split()}
    assert missing == set()


DOC = '"""Why this exists."""\n'


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({"clf.attic": DOC}, "clf/attic stands on no floor"),
        ({"clf.losses": "import clf.cli", "clf.cli": ""}, "clf.losses:1 (F0) imports clf.cli (F4): only downward"),
        ({"clf.losses": "def f():\n    from clf import cli", "clf.cli": ""}, "clf.losses:2 (F0) imports clf.cli (F4)"),
        ({"clf.losses": "import_module('clf.main')"}, "clf.losses:1 (F0) imports clf.main (F4)"),
        ({"clf.data.sources": "from clf.classifier import Classifier", "clf.classifier": ""}, "only downward"),
        ({"clf.classifier": "from clf.data.samples import Sample"}, "clf.classifier:1 (F1) imports clf.data"),
        ({"clf.callbacks.ema": "import clf.callbacks.timing"}, "(F3) imports clf.callbacks.timing (F3): only downward"),
        ({"clf.runs": "from . import errors"}, "clf.runs:1 imports ..errors: write the whole name"),
        ({"clf.classifier": "from lightning.pytorch.cli import LightningCLI"}, "only the command line does"),
        ({"clf.data.jsonl": "async def f():\n    import jsonargparse"}, "clf.data.jsonl:2 imports jsonargparse"),
        ({"clf.classifier": "import timm"}, "clf.classifier:1 imports timm when it is loaded"),
        ({"clf.loggers": "try:\n    import wandb.sdk\nexcept ImportError: ..."}, "clf.loggers:2 imports wandb.sdk"),
        ({"clf.preprocess": "import cv2"}, "clf.preprocess:1 imports cv2: only"),
        ({"clf.runs": "def f():\n    import torch.cuda"}, "clf.runs needs torch: clf.runs -> torch.cuda"),
        (
            {"clf.config": "import clf.yamlfile", "clf.yamlfile": "def f():\n    from torchvision import io"},
            "clf.config needs torch: clf.config -> clf.yamlfile -> torchvision.io",
        ),
        (
            {"clf.main": "from clf import runs", "clf.runs": "import numpy"},
            "clf --help waits for numpy: clf.main -> clf.runs -> numpy",
        ),
        ({"clf.data.utils": DOC}, "clf.data.utils: 'utils' says nothing"),
        ({"clf.losses": "x = 1\n" * 401}, "clf.losses has 401 lines, more than 400"),
        ({"clf.losses": "x = 1\n" * 250, "clf.optim": "x = 1\n" * 250}, "half of all modules have 250 lines"),
        ({"clf.losses": "import math"}, "clf.losses must open with one line"),
        ({"clf.losses": '"""Two lines\nthat run on."""'}, "clf.losses must open with one line"),
    ],
)
def test_a_house_that_breaks_a_rule_is_refused_with_its_place(tree: Tree, complaint: str) -> None:
    assert complaint in "\n".join(complaints(tree))


@pytest.mark.parametrize(
    "source",
    [
        "from clf.errors import UserError",
        "def f():\n    import timm, wandb",
        "from lightning.pytorch.cli import OptimizerCallable",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from clf.cli import Command",
    ],
)
def test_imports_downward_inside_functions_and_for_types_are_free(source: str) -> None:
    assert complaints({"clf.classifier": DOC + source, "clf.errors": DOC, "clf.cli": DOC}) == []


def test_files_of_the_data_package_may_import_each_other() -> None:
    assert complaints({"clf.data.folder": DOC + "import clf.data.samples", "clf.data.samples": DOC}) == []

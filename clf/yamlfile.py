"""Finding and reading one YAML file: keys are text and never repeat, and every mistake names file and line."""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from clf.errors import UserError, did_you_mean

_INSTALLED = Path(__file__).parent / "configs"
SHIPPED = (_INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "configs").resolve()
"""Folder of the shipped configs: inside the installed package, or beside it in a checkout."""

FLOAT = re.compile(
    r"""[-+]?(?:
      \d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?
    | \d[\d_]*[eE][-+]?\d+
    | \.\d[\d_]*(?:[eE][-+]?\d+)?
    | \.(?:inf|Inf|INF)
    )$ | \.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
"""What is a number here, and what a saved text must be quoted for: also 1e3, which YAML 1.1 takes for text."""
FLOAT_STARTS = list("-+0123456789.")
_INT = r"[-+]?(?:0|[1-9][\d_]*|0x[\da-fA-F]+)$"


class Key(str):
    """A mapping key that remembers the line it was written on (``line``, from 1)."""

    __slots__ = ("line",)
    line: int


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: ``1e-3`` is a number; dates, times (``12:30``) and ``007`` are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key_node.value in seen:
                raise ConstructorError(None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark)
            seen.add(key_node.value)
        self.flatten_mapping(node)
        mapping = {}
        for key_node, value_node in node.value:
            # `0` and `00` are the same integer but two keys: the text is what counts.
            key = Key(key_node.value)
            key.line = key_node.start_mark.line + 1
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":timestamp", ":float", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, FLOAT_STARTS)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(_INT), list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """Read YAML text.

    Raises:
        yaml.YAMLError: If it is none.
    """
    return yaml.load(text, Loader=_Loader)


def load_yaml(path: Path) -> Any:
    """Read one YAML file.

    Raises:
        UserError: If it cannot be read or parsed; names file and line.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"))  # some editors write a BOM
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        syntax = "" if isinstance(error, ConstructorError) else "not valid YAML: "
        raise UserError(f"{display(path)}:{line}: {syntax}{error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{display(path)}: not a YAML text file ({str(error).splitlines()[0]})") from error
    except OSError as error:
        raise UserError(f"{display(path)}: {error.strerror or error}") from error


def find_config(name: str, *, near: Path) -> Path:
    """Find a YAML file by the name a user wrote.

    Args:
        name: Path as written; relative ones are looked up in ``near`` and then among the shipped configs.
        near: Folder of the naming file, or the working folder.
    Raises:
        UserError: If it is nowhere; lists where it was looked for and suggests a near name.
    """
    for place in (near / name, SHIPPED / name, SHIPPED.parent / name):
        if place.is_file():
            return place
    known = {*shipped_configs(), *(f"configs/{shipped}" for shipped in shipped_configs())}
    known |= {str(Path(name).parent / path.name) for path in (near / name).parent.glob("*.y*ml")}
    looked = f"looked for {display(near / name)} and the shipped configs"
    raise UserError(f"config file {name!r} not found ({looked}){did_you_mean(name, sorted(known))}")


def shipped_configs() -> list[str]:
    """List the shipped YAML files, relative to their folder."""
    return sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))


def is_yaml_name(value: object) -> bool:
    """Tell whether a value names a YAML file."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml")) and "\n" not in value


def display(path: Path) -> str:
    """Show a path as a user would type it."""
    path = path.resolve()
    for folder, prefix in ((Path.cwd(), ""), (SHIPPED, "configs/")):
        if path.is_relative_to(folder):
            return f"{prefix}{path.relative_to(folder)}"
    return str(path)

"""Environments of their own for a wheel: links to what is installed here, distribution by distribution, and no more."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Pins = Mapping[str, str]
"""Distribution -> version."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Args:
        folder: Where it lies.
    """

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        [found] = self.folder.glob("lib/python*/site-packages")
        return found

    @property
    def wheel(self) -> metadata.Distribution:
        """What the wheel in it says of itself."""
        [found] = self.site.glob("clf-*.dist-info")
        return metadata.Distribution.at(found)

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs; nothing but the environment says what can be imported."""
        command = [str(self.folder / "bin" / program), *words]
        return subprocess.run(command, env=bare(), capture_output=True, text=True, check=False)


def bare() -> dict[str, str]:
    """The variables of this process but for those that add to what Python can import."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}


def make_environment(folder: Path, entries: Mapping[str, Path], wheel: Path) -> Environment:
    """Make an environment of links, and install a wheel into it with pip, for real.

    Args:
        folder: Where it goes.
        entries: Path in site-packages -> what the link there points to.
        wheel: What is installed, without whatever it depends on.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    environment = Environment(folder)
    made = set()
    for name, target in entries.items():
        place = environment.site / name
        if place.parent not in made:
            place.parent.mkdir(parents=True, exist_ok=True)
            made.add(place.parent)
        place.symlink_to(target)
    pip(environment, "install", "--no-deps", "--no-index", str(wheel))
    return environment


def pip(environment: Environment, *words: str) -> str:
    """Let the pip of the tests' environment work on another one."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment.python), *words]
    done = subprocess.run(command, env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pinned(lock: Path) -> dict[str, str]:
    """What a lock installs into this Python, on this machine."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    wanted = [Requirement(line.strip()) for line in lines]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in wanted}


def closure(wheel: metadata.Distribution, *, extras: Iterable[str] = ()) -> set[str]:
    """The distributions that a wheel asks for, and those that these ask for, and so on."""
    found: set[tuple[str, frozenset[str]]] = set()
    queue = asked_for(wheel, extras)
    while queue:
        asked = queue.pop()
        name, more = canonicalize_name(asked.name), frozenset(asked.extras)
        if (name, more) not in found:
            found.add((name, more))
            queue += asked_for(metadata.distribution(name), more)
    return {name for name, _ in found}


def asked_for(distribution: metadata.Distribution, extras: Iterable[str]) -> list[Requirement]:
    """What one distribution asks for on this machine."""
    every = map(Requirement, distribution.requires or [])
    return [
        each
        for each in every
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def files(pins: Pins) -> dict[str, Path]:
    """Every file that distributions have in site-packages, and where it lies in the environment of the tests."""
    found: dict[str, Path] = {}
    for name, version in pins.items():
        distribution = metadata.distribution(name)
        assert distribution.version == version, f"{name} is {distribution.version}, not {version}: run make setup-dev"
        assert distribution.files is not None, name
        found |= {str(file): Path(str(file.locate())) for file in distribution.files if file.parts[0] != ".."}
    return found

"""The package: complete dependencies with reasons, one version, locks that fit, and archives that hold the configs."""

import ast
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling import build
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import clf

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
ARCHIVE = f"clf-{Version(PROJECT['version'])}"
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
# What developers install beside the rest; clf[serve] stands for what that extra names.
DEVELOPMENT = [*(each for each in EXTRAS["dev"] if each.name != "clf"), *EXTRAS["serve"]]

# Where what is imported and what is installed have different names.
# wandb brings protobuf, which reads its files.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "griffe": "griffelib",
    "google": "wandb",
    "python_multipart": "python-multipart",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
}


def undeclared(sources: list[str], declared: list[Requirement]) -> set[str]:
    """Third-party distributions that are imported, at the top or inside functions, without being declared."""
    known = {canonicalize_name(requirement.name) for requirement in declared}
    return {str(canonicalize_name(DISTRIBUTIONS.get(top, top))) for top in imported(sources)} - known


def imported(sources: list[str]) -> set[str]:
    """Top-level modules of others that are imported, at the top or inside functions."""
    found = {top for source in sources for node in ast.walk(ast.parse(source)) for top in _tops(node)}
    folders = ("benchmarks", "scripts", "tests")
    own = {"clf", "tests", *(path.stem for folder in folders for path in (ROOT / folder).glob("*.py"))}
    return found - sys.stdlib_module_names - own


def _tops(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []


def floors_without_reason(text: str) -> list[str]:
    """Requirement lines that have a bound but no comment behind it."""
    lines = re.findall(r"""^\s*"([\w.\[\]-]+(?:>=|<|~=|==|>)[^"]*)",?(.*)$""", text, flags=re.MULTILINE)
    return [requirement for requirement, rest in lines if not re.fullmatch(r"\s*# .{10,}", rest)]


def pins(lock: str) -> dict[str, list[Version]]:
    """The versions that a lock installs, by distribution; one that differs between Pythons has several."""
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, flags=re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def unmet(requirements: list[Requirement], lock: str) -> list[str]:
    """Requirements that a lock does not pin, or pins outside their bounds."""
    locked = pins(lock)
    names = [(requirement, locked.get(canonicalize_name(requirement.name), [])) for requirement in requirements]
    return [str(each) for each, versions in names if not versions or not all(v in each.specifier for v in versions)]


def sources(folder: str) -> list[str]:
    return [path.read_text() for path in sorted((ROOT / folder).rglob("*.py"))]


def lock(name: str) -> str:
    return (ROOT / name).read_text()


def test_everything_that_the_package_imports_is_declared() -> None:
    service = [path.read_text() for path in sorted((ROOT / "clf" / "service").rglob("*.py"))]
    rest = [text for text in sources("clf") if text not in [*service, lock("clf/serve.py")]]
    assert undeclared(rest, RUNTIME) == set()
    assert undeclared([*service, lock("clf/serve.py")], [*RUNTIME, *EXTRAS["serve"]]) == set()


@pytest.mark.parametrize("folder", ["benchmarks", "scripts", "tests"])
def test_everything_that_developers_run_is_declared(folder: str) -> None:
    # atheris has wheels for few systems; who fuzzes installs it.
    assert undeclared(sources(folder), [*RUNTIME, *DEVELOPMENT]) - {"atheris"} == set()


def test_an_undeclared_import_inside_a_function_is_found() -> None:
    source = (
        "import os\nimport numpy.typing\ndef draw():\n    from PIL import Image\n    import matplotlib.pyplot as plt"
    )
    assert undeclared([source], [Requirement("numpy>=2"), Requirement("Pillow")]) == {"matplotlib"}


def test_users_get_no_libraries_that_slow_every_start() -> None:
    assert {"scipy", "scikit-learn", "pandas"} & pins(lock("requirements.lock")).keys() == set()


def test_every_floor_has_its_reason_behind_it() -> None:
    assert floors_without_reason(PYPROJECT) == []


def test_every_runtime_dependency_has_a_floor() -> None:
    assert [str(each) for each in RUNTIME if not any(part.operator == ">=" for part in each.specifier)] == []


def test_a_floor_without_a_reason_is_found() -> None:
    text = '  "torch>=2.10",  # closes a hole in weights_only\n  "timm>=1.0.20",\n  "onnx>=1.21"  # why\n  "pytest",\n'
    assert floors_without_reason(text) == ["timm>=1.0.20", "onnx>=1.21"]


def test_the_version_stands_in_pyproject_alone() -> None:
    assert Version(clf.__version__) == Version(PROJECT["version"])
    stated = f'"{PROJECT["version"]}"'
    assert [source for source in [*sources("clf"), lock("Makefile")] if stated in source] == []
    assert not re.search(r"__version__\s*=", lock("clf/__init__.py"))


def test_a_misspelt_attribute_of_the_package_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'clf' has no attribute 'versoin'"):
        clf.versoin  # noqa: B018


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_pins_every_dependency_within_its_bounds_and_by_hash(name: str) -> None:
    text = lock(name)
    assert unmet([*RUNTIME, *(DEVELOPMENT if "dev" in name else [])], text) == []
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_names_no_index_and_no_place_on_a_disk(name: str) -> None:
    assert re.findall(r"^-.*|.*://.*|.* @ .*|.*(?<![\w.])/\w.*", lock(name), flags=re.MULTILINE) == []


# Releases that ran code or read files on behind their users' backs, and the interfaces that ours is written against.
FLOORS = {
    "lightning": ">=2.6.6",
    "jsonargparse": ">=4.53,<5",
    "torch": ">=2.10",
    "pillow": ">=12.3",
    "onnx": ">=1.21",
    "onnxruntime": ">=1.24.1",
    "timm": ">=1.0.20",
    "torchmetrics": ">=1.8",
}


def below_floor(requirements: list[Requirement], locks: list[str]) -> list[str]:
    """What is allowed or pinned below its floor, or outside of it."""
    found = []
    for name, bounds in FLOORS.items():
        asked = next((each for each in requirements if canonicalize_name(each.name) == name), None)
        if asked is None or not set(Requirement(f"{name}{bounds}").specifier) <= set(asked.specifier):
            found.append(f"{name} in pyproject.toml")
        pinned = [version for text in locks for version in pins(text).get(name, [])]
        found += [f"{name}=={each}" for each in pinned if each not in Requirement(f"{name}{bounds}").specifier]
    return found


def test_nothing_is_installed_below_the_floors_that_keep_users_safe() -> None:
    locks = [path.read_text() for path in sorted(ROOT.glob("requirements*.lock"))]
    assert len(locks) >= 5
    assert below_floor(RUNTIME, locks) == []
    gpu = pins(lock("requirements-serve-gpu.lock"))["onnxruntime-gpu"]
    assert all(version in Requirement(f"onnxruntime{FLOORS['onnxruntime']}").specifier for version in gpu)


def test_a_malicious_release_and_a_lowered_floor_are_found() -> None:
    lowered = [Requirement("lightning>=2.6") if each.name == "lightning" else each for each in RUNTIME]
    assert below_floor(lowered, ["lightning==2.6.2 \\\n", "lightning==2.6.3 \\\n"]) == [
        *("lightning in pyproject.toml", "lightning==2.6.2", "lightning==2.6.3")
    ]


def test_the_development_lock_installs_the_runtime_lock_and_more() -> None:
    development = pins(lock("requirements-dev.lock"))
    assert {name: development.get(name) for name in pins(lock("requirements.lock"))} == pins(lock("requirements.lock"))


def test_a_lock_that_is_behind_pyproject_is_found() -> None:
    text = "numpy==2.4.6 ; python_full_version < '3.12' \\\nnumpy==2.5.5 ; python_full_version >= '3.12' \\\n"
    assert unmet([Requirement("numpy>=2"), Requirement("numpy>=2.5"), Requirement("timm")], text) == [
        "numpy>=2.5",
        "timm",
    ]


def test_the_wheel_brings_configs_templates_types_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
        commands = wheel.read(f"{ARCHIVE}.dist-info/entry_points.txt").decode()
    shipped = {f"clf/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert shipped
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "clf/templates").iterdir()}
    assert templates >= {
        f"clf/templates/{name}" for name in ("report.html", "report.js", "comparison.html", "colours.css")
    }
    assert shipped | templates | {"clf/py.typed", "clf/main.py"} <= names
    assert {name.split("/")[0] for name in names} == {"clf", f"{ARCHIVE}.dist-info"}
    assert "clf = clf.main:main" in commands


def test_the_source_archive_builds_the_very_same_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / ARCHIVE
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "requirements.lock", "tests/test_packaging.py"):
        assert (source / name).exists(), name
    (tmp_path / "from_source").mkdir()
    (tmp_path / "from_checkout").mkdir()
    checkout = build.build_wheel(str(tmp_path / "from_checkout"))
    monkeypatch.chdir(source)
    wheel = build.build_wheel(str(tmp_path / "from_source"))
    assert (tmp_path / "from_source" / wheel).read_bytes() == (tmp_path / "from_checkout" / checkout).read_bytes()

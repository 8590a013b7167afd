"""Who writes files: only those that put them in their place whole, and a few that have a reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Module -> why it may write without `clf.files`.
REASONS = {
    "clf/files.py": "it is how others write",
    "clf/main.py": "the null device, for what nobody reads",
    "clf/options.py": "a device or a pipe that an option names, like /dev/stdout",
    "clf/mounts.py": "files of a few bytes, to try what the filesystem can do",
    "clf/check/memory.py": "a word to the kernel, not a file",
    "clf/durable.py": "writes what `replacing` has named",
    "clf/predictions.py": "rows as they come, into what `partial_of` has named; `place` puts it there",
    "clf/runs.py": "the link runs/latest, made under another name and renamed",
    "clf/logs.py": "log.txt grows line by line; it may end anywhere",
    "clf/export.py": "inside the folder that `replacement` puts in its place",
    "clf/graph.py": "inside the folder that `replacement` puts in its place",
    "clf/data/rendering.py": "a dataset inside `new_folder`; it can be rendered again",
    "clf/data/torchvision.py": "a dataset inside `new_folder`; it can be converted again",
    "clf/data/cacheplace.py": "pixels that can be decoded again; written beside their place and renamed",
    "clf/service/storage.py": "each server renames what `replace_file` wrote under a name of its own",
    "clf/shipped.py": "copies that must not be there yet, and can be made again",
}
IN_MEMORY = {"buffer", "file"}
WRITES = {"write_text", "write_bytes", "to_csv", "to_parquet", "symlink_to", "hardlink_to", "rename", "touch"}
COPIES = {"copy", "copy2", "copyfile", "move", "link", "symlink", "replace", "rename"}
SAVES = {"save", "savefig", "save_model", "save_file", "imsave", "savez", "write_table"}


def writes(source: str) -> Iterator[tuple[int, str]]:
    """Calls that make or change files, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _writes(node):
            yield node.lineno, ast.unparse(node.func)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("FileHandler") for base in node.bases):
            yield node.lineno, node.name


def _writes(call: ast.Call) -> bool:
    function, args = ast.unparse(call.func), [ast.unparse(arg) for arg in call.args]
    name = function.rpartition(".")[2]
    if function == "os.open":
        return any(flag in args[1] for flag in ("O_CREAT", "O_WRONLY", "O_RDWR"))
    if name == "open":
        mode = [*args, *(ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "mode")]
        return any(set(each) & set("wax+") and len(each) <= 5 for each in mode if each[0] in "'\"")
    if function in ("json.dump", "pickle.dump", "yaml.dump"):
        return len(args) > 1
    if function.rpartition(".")[0] in ("os", "shutil"):
        return name in COPIES
    if name == "replace" and "os.sep" not in args:  # of a path; that of a text takes two, that of a dataclass keywords
        return "." in function and len(args) == 1 and not call.keywords
    if name in SAVES and "." in function and args:
        return not IN_MEMORY & set(args)
    return name in WRITES or name.endswith("FileHandler")


def test_files_are_written_whole_or_for_a_reason() -> None:
    found = {path.relative_to(ROOT).as_posix(): list(writes(path.read_text())) for path in (ROOT / "clf").rglob("*.py")}
    found = {name: calls for name, calls in found.items() if calls}
    assert [f"{name}:{line} {call}" for name in found.keys() - REASONS.keys() for line, call in found[name]] == []
    assert REASONS.keys() - found.keys() == set(), "these need no reason any more"


@pytest.mark.parametrize(
    "source",
    [
        "open('x', 'w')",
        "path.open('ab')",
        "open(path, mode='r+')",
        "path.write_text('x')",
        "os.open(path, os.O_WRONLY)",
        "shutil.copyfile(a, b)",
        "os.replace(a, b)",
        "path.replace(other)",
        "figure.savefig('x.png')",
        "torch.save(state, path)",
        "image.save(folder / 'x.jpg', quality=95)",
        "table.to_csv(path)",
        "logging.FileHandler(path)",
    ],
)
def test_a_write_of_another_kind_is_found(source: str) -> None:
    assert list(writes(source))


@pytest.mark.parametrize(
    "source",
    ["open(path)", "path.open('rb')", "text.replace('a', 'b')", "replace(spec, x=1)", "image.save(buffer, 'JPEG')"],
)
def test_reading_and_memory_are_free(source: str) -> None:
    assert not list(writes(source))

"""Caches among several processes: built by one, waited for by others, gone when they must, and never too large."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from datasets import draw, draw_pets
from forks import Forked, begun, ended, with_mounts
from PIL import Image

from clf.cores import usable_memory
from clf.data.cache import Wanted, Where, keep
from clf.data.cacheplace import memory
from clf.errors import UserError

FIT = """
model: {arch: test_resnet, pretrained: false, image_size: 8}
data: {root: images, batch_size: 4, num_workers: 1}
trainer: {accelerator: cpu, max_epochs: 1, num_sanity_val_steps: 0}
"""
KEPT = "kept"  # what `begin` says when it has a cache
MEASURED = 100  # files whose headers are looked at beforehand


def begin(
    images: Path, where: Where, shortest: int, folder: Path, *, before: Callable[[], object] = lambda: None
) -> Forked:
    """Begin a process that builds or finds a cache, says so, and stays until it is told to leave."""

    def work(line: Connection) -> None:
        before()
        paths = sorted(str(path) for path in images.iterdir())
        try:
            cache = keep(Wanted(paths, where, shortest, str(folder)), say=line.send)
        except UserError as error:
            line.send(f"clf: {error}")
            sys.exit(1)
        line.send(KEPT)
        line.recv()
        del cache

    return Forked(work)


def end(process: Forked, *, code: int = 0) -> str:
    """Let a process leave, and return what else it said."""
    if not code:
        process.line.send("leave")
    said = [line for line in process.end() if line != KEPT]
    assert process.process.exitcode == code, said
    return "".join(f"{line}\n" for line in said)


def kill(process: Forked, signum: int = signal.SIGKILL) -> None:
    assert process.process.pid is not None
    os.kill(process.process.pid, signum)
    process.end()
    assert process.process.exitcode == -signum


def path_in(line: str) -> Path:
    """The file that a line of the log names."""
    return Path(line.split(" in ", 1)[1].split(" (")[0])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def noise(folder: Path, count: int, size: tuple[int, int] = (9, 9)) -> Path:
    for number in range(count):
        draw(folder / f"{number:04d}.png", seed=number, size=size)
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path, kept: Path) -> None:
    gate = Gate(tmp_path / "images")
    one = begin(tmp_path / "images", "disk", 9, kept, before=gate.shut)
    until(lambda: is_building(kept))
    other = begin(tmp_path / "images", "disk", 9, kept)
    assert "waiting for another process" in other.line.recv()
    gate.let_go()
    assert " (built in " in end(one)
    assert " (found there" in end(other)
    assert len(list(kept.iterdir())) == 1


class Gate:
    """Images of which one cannot be opened until it is let go; its header is never asked for.

    Args:
        folder: Gets 700 images, which come first of all.
        others: How many come after them.
    """

    def __init__(self, folder: Path, others: int = 0) -> None:
        names = sorted(path.name for path in noise(folder, 700, (1, 1)).iterdir())
        measured = set(np.linspace(0, len(names) + others - 1, MEASURED).astype(int).tolist())
        self._image = str((folder / names[max(set(range(len(names))) - measured)]).absolute())
        self._closed = folder.absolute().parent / "shut"
        self._closed.touch()

    def shut(self) -> None:
        """Stop this process at the opening of the file until it is let go, as a slow disk would."""

        def wait(event: str, words: tuple[object, ...]) -> None:
            if event == "open" and isinstance(words[0], str) and os.path.abspath(words[0]) == self._image:
                until(lambda: not self._closed.exists())

        sys.addaudithook(wait)

    def let_go(self) -> None:
        """Let the file be opened from now on."""
        self._closed.unlink()


def is_building(kept: Path) -> bool:
    return kept.exists() and any(kept.glob("*.partial"))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_builder_leaves_is_removed_by_the_next_one(tmp_path: Path, kept: Path, signum: int) -> None:
    images, others = tmp_path / "images", noise(tmp_path / "others", 3)
    killed = begin(images, "disk", 9, kept, before=Gate(images).shut)
    until(lambda: is_building(kept))
    kill(killed, signum)
    assert is_building(kept)
    assert end(begin(others, "disk", 9, kept)).startswith("cache: 3 images, ")
    assert [path.suffix for path in kept.iterdir()] == [".pixels"]
    assert not is_building(kept)
    assert end(begin(images, "disk", 9, kept)).startswith("cache: 700 images, ")


def test_the_next_builder_of_the_same_cache_begins_anew(tmp_path: Path, kept: Path) -> None:
    killed = begin(tmp_path / "images", "disk", 9, kept, before=Gate(tmp_path / "images").shut)
    until(lambda: is_building(kept))
    kill(killed)
    assert end(begin(tmp_path / "images", "disk", 9, kept)).startswith("cache: 700 images, ")
    assert [path.suffix for path in kept.iterdir()] == [".pixels"]


def test_ctrl_c_while_a_cache_is_built_ends_the_run_and_leaves_nothing(workdir: Path) -> None:
    noise(workdir / "images/train/dog", 5)
    noise(workdir / "images/valid/dog", 2)
    gate = Gate(workdir / "images/train/cat", others=5)
    (workdir / "tiny.yaml").write_text(FIT)
    words = ["fit", "--config", "tiny.yaml", "--data.cache", "disk", "--data.cache_dir", "kept"]
    process = begun(workdir, *words, before=gate.shut)
    until(lambda: is_building(Path("kept")))
    os.kill(process, signal.SIGINT)
    gate.let_go()
    code, said = ended(process), Path("output.txt").read_text()
    assert code == 130, said
    assert not list(Path("kept").iterdir())
    assert "Traceback" not in said


# In memory.


def test_a_cache_in_memory_goes_with_the_last_run_that_uses_it(tmp_path: Path) -> None:
    images = noise(tmp_path / "images", 5)
    one = begin(images, "ram", 9, tmp_path)
    line = one.line.recv()
    file = path_in(line)
    assert "it goes with the last run that uses it" in line
    assert file.stat().st_mode & 0o77 == file.parent.stat().st_mode & 0o77 == 0
    two = begin(images, "ram", 9, tmp_path)
    assert " (found there" in two.line.recv()
    end(one)
    assert file.exists()
    end(two)
    assert not list(file.parent.glob(f"{file.stem}*"))


def test_a_run_with_a_cache_in_memory_leaves_none(workdir: Path) -> None:
    draw_pets(workdir / "images")
    (workdir / "tiny.yaml").write_text(FIT)
    words = [sys.executable, "-m", "clf", "fit", "--config", "tiny.yaml", "--data.cache", "ram"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("cache: ")]
    file = path_in(line)
    assert str(file).startswith("/dev/shm/clf-")
    assert not list(file.parent.glob(f"{file.stem}*"))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_builder_gives_its_memory_back(tmp_path: Path, signum: int) -> None:
    place = memory()
    assert place is not None

    def is_writing() -> bool:
        with suppress(OSError):  # a file that was just closed
            files = [os.readlink(each) for each in Path(f"/proc/{killed.process.pid}/fd").iterdir()]
            return any(file.startswith(f"{place.folder}/") and not file.endswith(".lock") for file in files)
        return False

    killed = begin(tmp_path / "images", "ram", 9, tmp_path, before=Gate(tmp_path / "images").shut)
    until(is_writing)
    kill(killed, signum)
    assert not list(place.folder.glob("*.partial"))
    assert end(begin(tmp_path / "images", "ram", 9, tmp_path)).startswith("cache: 700 images, ")


def test_a_cache_that_nobody_refers_to_any_more_is_gone_before_the_process_is(tmp_path: Path) -> None:
    place = memory()
    assert place is not None
    wanted = Wanted([str(path) for path in noise(tmp_path / "images", 3).iterdir()], "ram", 9)
    cache = keep(wanted, say=print)
    assert place.file(wanted.key()).exists()
    image = cache[0] if cache else None
    del cache
    assert not place.file(wanted.key()).exists()
    assert image is not None
    assert image.shape == (9, 9, 3)  # still there, as removed files are for those who have them open


# Room.


def test_what_a_killed_run_left_in_memory_is_used_or_removed_by_the_next(tmp_path: Path, kept: Path) -> None:
    images, others = noise(tmp_path / "images", 5), noise(tmp_path / "others", 3)

    def two_are_killed_and_a_third_is_not() -> list[str]:
        said = []
        for _ in range(2):
            killed = begin(images, "ram", 9, kept)
            said.append(killed.line.recv())
            assert killed.line.recv() == KEPT  # and nobody is kept out any more
            kill(killed)
        [left] = os.listdir("/dev/shm/clf-0")
        return [*said, left, end(begin(others, "disk", 9, kept)), *os.listdir("/dev/shm/clf-0")]

    # And nothing is listed in the end.
    first, second, left, last = with_mounts("mount -t tmpfs tmpfs /dev/shm", two_are_killed_and_a_third_is_not)
    assert " (built in " in first
    assert " (found there" in second
    assert path_in(first).name == path_in(second).name == left
    assert "cache: 3 images" in last


SMALL_MEMORY = "mount -t tmpfs -o size=100k tmpfs /dev/shm\n"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder of images whose pixels take 480 kB."""
    return noise(tmp_path / "images", 10, (160, 100))


def test_what_does_not_fit_into_memory_is_refused_with_sizes_and_ways_out(large: Path, kept: Path) -> None:
    def both() -> tuple[str, str, list[str]]:
        message = end(begin(large, "ram", 200, kept), code=1)
        return message, end(begin(large, "ram", 20, kept)), os.listdir("/dev/shm/clf-0")

    message, smaller, left = with_mounts(SMALL_MEMORY, both)
    assert "data.cache=ram: 10 images of at most 200 pixels on the shorter edge do not fit" in message
    assert "about 480 kB are needed, and 102 kB may be used of " in message
    assert "102 kB in /dev/shm" in message
    assert message.endswith("choose a smaller data.cache_size, data.cache=disk or none\n")
    assert smaller.startswith("cache: 10 images, 19.4 kB in /dev/shm/clf-0/")
    assert left == []


def test_auto_takes_memory_else_the_disk_else_nothing_and_says_why(large: Path, tmp_path: Path) -> None:
    line = end(begin(large, "auto", 200, tmp_path / "kept"))
    assert " in /dev/shm/clf-" in line
    assert "chosen because about 480 kB are needed, and " in line
    assert not (tmp_path / "kept").exists() or not list((tmp_path / "kept").iterdir())
    folder = tmp_path / "disk"
    line = with_mounts(SMALL_MEMORY, lambda: end(begin(large, "auto", 200, folder)))
    assert line.startswith(f"cache: 10 images, 480 kB in {folder}/")
    assert "chosen because ram: about 480 kB are needed, and 51.2 kB may be used" in line
    small = tmp_path / "small"
    small.mkdir()
    both = f"{SMALL_MEMORY}mount -t tmpfs -o size=200k tmpfs {small}\n"
    line = with_mounts(both, lambda: end(begin(large, "auto", 200, small)))
    assert line.startswith("cache: none, because 10 images of at most 200 pixels on the shorter edge do not fit")
    assert "disk: about 480 kB are needed, and 0 B may be used of 205 kB on the disk" in line


def test_a_disk_that_turns_out_too_small_stops_the_build_and_keeps_nothing(tmp_path: Path) -> None:
    folder, small = noise(tmp_path / "images", 700, (1, 1)), tmp_path / "small"
    small.mkdir()
    looked_at = set(np.linspace(0, 699, MEASURED).astype(int).tolist())
    for number in set(range(700)) - looked_at:
        Image.new("RGB", (100, 200)).save(folder / f"{number:04d}.png")
    script = f"mount -t tmpfs -o size=260m tmpfs {small}"
    said, left = with_mounts(script, lambda: (end(begin(folder, "disk", 200, small), code=1), os.listdir(small)))
    assert "data.cache=disk: 700 images" in said
    assert "more is needed than the headers let expect, and 4.19 MB may be used of " in said
    assert left == []


def test_a_folder_in_memory_that_others_may_write_to_is_not_used(large: Path, kept: Path) -> None:
    def both() -> tuple[str, str]:
        return end(begin(large, "ram", 200, kept), code=1), end(begin(large, "auto", 200, kept))

    refused, elsewhere = with_mounts("mount -t tmpfs tmpfs /dev/shm; mkdir -m 777 /dev/shm/clf-0", both)
    assert "data.cache=ram needs /dev/shm/clf-0, which others may write to; remove it, or " in refused
    assert f"480 kB in {kept}/" in elsewhere


@pytest.mark.parametrize(
    "trap",
    ['ln -s "$precious" clf-0', 'mkdir -m 777 clf-0; ln -s "$precious/made" clf-0/old.lock'],
    ids=["folder", "lock"],
)
def test_what_others_put_into_memory_is_neither_followed_nor_removed(
    trap: str, large: Path, kept: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/old.pixels").touch()
    script = f"""mount -t tmpfs -o mode=1777 tmpfs /dev/shm
        precious="{tmp_path}/precious"; cd /dev/shm
        {trap}
        touch clf-0/old.pixels"""
    said = with_mounts(script, lambda: end(begin(large, "disk", 200, kept)))
    assert "cache: 10 images, " in said
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["old.pixels"]


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 2048_000),
        ("0::/", {"memory.max": "max", "memory.current": "5"}, 2048_000),
        ("0::/a/b", {"a/memory.max": "900000", "a/memory.current": "300000", "a/b/memory.max": "max"}, 600_000),
        ("0::/a", {"a/memory.max": "9", "a/memory.current": "10"}, 0),
        ("0::/", {"memory.max": "900", "memory.current": "400", "memory.stat": "anon 5\ninactive_file 100"}, 600),
        (
            "5:cpu,memory:/a\n4:pids:/a",
            {
                "memory/a/memory.limit_in_bytes": "1000",
                "memory/a/memory.usage_in_bytes": "500",
                "memory/a/memory.stat": "inactive_file 7\ntotal_inactive_file 50",
            },
            550,
        ),
    ],
)
def test_free_memory_is_what_machine_and_groups_leave(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 2000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        if name.endswith(("current", "usage_in_bytes")) and not (path.parent / "memory.stat").exists():
            (path.parent / "memory.stat").write_text("anon 1\n")
    assert usable_memory(tmp_path) == expected

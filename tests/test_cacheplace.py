"""Caches among several processes: built by one, waited for by others, gone when they must, and never too large."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from datasets import draw, draw_pets
from PIL import Image

from clf.cores import usable_memory
from clf.data.cache import Wanted, keep
from clf.data.cacheplace import memory

# Builds or finds a cache of the images in a folder, says so on standard output, and stays until its input ends.
KEEP = """
import sys
from pathlib import Path
from clf.data.cache import Wanted, keep
images, where, shortest, folder = sys.argv[1:]
paths = sorted(str(path) for path in Path(images).iterdir())
cache = keep(Wanted(paths, where, int(shortest), folder), say=lambda line: print(line, flush=True))
sys.stdin.read()
"""
# Stops at the first opening of one file for as long as another one exists, as a slow disk would.
GATE = """
import os, sys, time
image, shut = os.environ["GATE"].split(os.pathsep)
def wait(event, words):
    if event == "open" and isinstance(words[0], str) and os.path.abspath(words[0]) == image:
        while os.path.exists(shut):
            time.sleep(0.01)
sys.addaudithook(wait)
"""
FIT = """
model: {arch: test_resnet, pretrained: false, image_size: 8}
data: {root: images, batch_size: 4, num_workers: 1}
trainer: {accelerator: cpu, max_epochs: 1, num_sanity_val_steps: 0}
"""
CLF = (sys.executable, "-m", "clf")
SLOW_CLF = (sys.executable, "-c", f"{GATE}\nfrom clf.main import main\nsys.exit(main())")
MEASURED = 100  # files whose headers are looked at beforehand


def start(
    images: Path, where: str, shortest: int, folder: Path, *, gate: "Gate | None" = None
) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", GATE + KEEP if gate else KEEP, str(images), where, str(shortest), str(folder)]
    environment = gate.environment if gate else None
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: subprocess.Popen[str]) -> str:
    """Let a process leave, and return what else it said."""
    said, _ = process.communicate()
    assert process.returncode == 0
    return said


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
    one = start(tmp_path / "images", "disk", 9, kept, gate=gate)
    until(lambda: is_building(kept))
    other = start(tmp_path / "images", "disk", 9, kept)
    assert "waiting for another process" in first_line(other)
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
        image = folder / names[max(set(range(len(names))) - measured)]
        self._shut = folder.parent / "shut"
        self._shut.touch()
        self.environment = {**os.environ, "GATE": f"{image.absolute()}{os.pathsep}{self._shut.absolute()}"}

    def let_go(self) -> None:
        """Let the file be opened from now on."""
        self._shut.unlink()


def is_building(kept: Path) -> bool:
    return kept.exists() and any(kept.glob("*.partial"))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_builder_leaves_is_removed_by_the_next_one(tmp_path: Path, kept: Path, signum: int) -> None:
    images, others = tmp_path / "images", noise(tmp_path / "others", 3)
    killed = start(images, "disk", 9, kept, gate=Gate(images))
    until(lambda: is_building(kept))
    killed.send_signal(signum)
    killed.communicate()
    assert killed.returncode == -signum
    assert is_building(kept)
    assert end(start(others, "disk", 9, kept)).startswith("cache: 3 images, ")
    assert [path.suffix for path in kept.iterdir()] == [".pixels"]
    assert not is_building(kept)
    assert end(start(images, "disk", 9, kept)).startswith("cache: 700 images, ")


def test_the_next_builder_of_the_same_cache_begins_anew(tmp_path: Path, kept: Path) -> None:
    killed = start(tmp_path / "images", "disk", 9, kept, gate=Gate(tmp_path / "images"))
    until(lambda: is_building(kept))
    killed.kill()
    killed.communicate()
    assert end(start(tmp_path / "images", "disk", 9, kept)).startswith("cache: 700 images, ")
    assert [path.suffix for path in kept.iterdir()] == [".pixels"]


def test_ctrl_c_while_a_cache_is_built_ends_the_run_and_leaves_nothing(workdir: Path) -> None:
    noise(workdir / "images/train/dog", 5)
    noise(workdir / "images/valid/dog", 2)
    gate = Gate(workdir / "images/train/cat", others=5)
    (workdir / "tiny.yaml").write_text(FIT)
    words = [*SLOW_CLF, "fit", "--config", "tiny.yaml", "--data.cache", "disk", "--data.cache_dir", "kept"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=gate.environment)
    until(lambda: is_building(Path("kept")))
    process.send_signal(signal.SIGINT)
    gate.let_go()
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert not list(Path("kept").iterdir())
    assert "Traceback" not in said


# In memory.


def test_a_cache_in_memory_goes_with_the_last_run_that_uses_it(tmp_path: Path) -> None:
    images = noise(tmp_path / "images", 5)
    one = start(images, "ram", 9, tmp_path)
    line = first_line(one)
    file = path_in(line)
    assert "it goes with the last run that uses it" in line
    assert file.stat().st_mode & 0o77 == file.parent.stat().st_mode & 0o77 == 0
    two = start(images, "ram", 9, tmp_path)
    assert " (found there" in first_line(two)
    end(one)
    assert file.exists()
    end(two)
    assert not list(file.parent.glob(f"{file.stem}*"))


def test_a_run_with_a_cache_in_memory_leaves_none(workdir: Path) -> None:
    draw_pets(workdir / "images")
    (workdir / "tiny.yaml").write_text(FIT)
    words = [*CLF, "fit", "--config", "tiny.yaml", "--data.cache", "ram"]
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
            files = [os.readlink(each) for each in Path(f"/proc/{killed.pid}/fd").iterdir()]
            return any(file.startswith(f"{place.folder}/") and not file.endswith(".lock") for file in files)
        return False

    killed = start(tmp_path / "images", "ram", 9, tmp_path, gate=Gate(tmp_path / "images"))
    until(is_writing)
    killed.send_signal(signum)
    killed.communicate()
    assert not list(place.folder.glob("*.partial"))
    assert end(start(tmp_path / "images", "ram", 9, tmp_path)).startswith("cache: 700 images, ")


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


def mounts(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script with mounts of its own."""
    unshare = ["unshare", *([] if os.getuid() == 0 else ["--map-root-user"]), "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no mounts of one's own")
    given = [str(word) for word in words]
    return subprocess.run([*unshare, "sh", "-ec", script, "sh", *given], capture_output=True, text=True, check=False)


def test_what_a_killed_run_left_in_memory_is_used_or_removed_by_the_next(tmp_path: Path, kept: Path) -> None:
    images, others = noise(tmp_path / "images", 5), noise(tmp_path / "others", 3)
    killed = KEEP.replace("sys.stdin.read()", "import os; os.kill(os.getpid(), 9)")
    script = """mount -t tmpfs tmpfs /dev/shm
        "$1" -c "$2" "$4" ram 9 "$6" || "$1" -c "$2" "$4" ram 9 "$6" || ls /dev/shm/clf-0
        "$1" -c "$3" "$5" disk 9 "$6" < /dev/null
        ls /dev/shm/clf-0"""
    done = mounts(script, sys.executable, killed, KEEP, images, others, kept)
    first, second, left, last = done.stdout.splitlines()  # and nothing is listed in the end
    assert " (built in " in first
    assert " (found there" in second
    assert path_in(first).name == path_in(second).name == left
    assert "cache: 3 images" in last


SMALL_MEMORY = "mount -t tmpfs -o size=100k tmpfs /dev/shm\n"
RUN = 'python="$1"; code="$2"; shift 2; "$python" -c "$code" "$@" < /dev/null\n'


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder of images whose pixels take 480 kB."""
    return noise(tmp_path / "images", 10, (160, 100))


def test_what_does_not_fit_into_memory_is_refused_with_sizes_and_ways_out(large: Path, kept: Path) -> None:
    done = mounts(SMALL_MEMORY + RUN + "\n", sys.executable, KEEP, large, "ram", 200, kept)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert "data.cache=ram: 10 images of at most 200 pixels on the shorter edge do not fit" in message
    assert "about 480 kB are needed, and 102 kB may be used of " in message
    assert "102 kB in /dev/shm" in message
    assert message.endswith("choose a smaller data.cache_size, data.cache=disk or none")
    smaller = mounts(SMALL_MEMORY + RUN + "ls /dev/shm/clf-0", sys.executable, KEEP, large, "ram", 20, kept)
    assert smaller.returncode == 0, smaller.stderr
    assert smaller.stdout.startswith("cache: 10 images, 19.4 kB in /dev/shm/clf-0/")
    assert len(smaller.stdout.splitlines()) == 1  # nothing is left


def test_auto_takes_memory_else_the_disk_else_nothing_and_says_why(large: Path, tmp_path: Path) -> None:
    end_of_run = start(large, "auto", 200, tmp_path / "kept")
    line = end(end_of_run)
    assert " in /dev/shm/clf-" in line
    assert "chosen because about 480 kB are needed, and " in line
    assert not (tmp_path / "kept").exists() or not list((tmp_path / "kept").iterdir())
    folder = tmp_path / "disk"
    done = mounts(SMALL_MEMORY + RUN, sys.executable, KEEP, large, "auto", 200, folder)
    assert done.stdout.startswith(f"cache: 10 images, 480 kB in {folder}/"), done.stderr
    assert "chosen because ram: about 480 kB are needed, and 51.2 kB may be used" in done.stdout
    small = tmp_path / "small"
    small.mkdir()
    both = SMALL_MEMORY + f"mount -t tmpfs -o size=200k tmpfs {small}\n" + RUN
    done = mounts(both, sys.executable, KEEP, large, "auto", 200, small)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cache: none, because 10 images of at most 200 pixels on the shorter edge do not fit")
    assert "disk: about 480 kB are needed, and 0 B may be used of 205 kB on the disk" in done.stdout


def test_a_disk_that_turns_out_too_small_stops_the_build_and_keeps_nothing(tmp_path: Path) -> None:
    folder, small = noise(tmp_path / "images", 700, (1, 1)), tmp_path / "small"
    small.mkdir()
    looked_at = set(np.linspace(0, 699, MEASURED).astype(int).tolist())
    for number in set(range(700)) - looked_at:
        Image.new("RGB", (100, 200)).save(folder / f"{number:04d}.png")
    script = f"mount -t tmpfs -o size=260m tmpfs {small}\n" + RUN.strip() + f" || ls -A {small}\n"
    done = mounts(script, sys.executable, KEEP, folder, "disk", 200, small)
    assert "data.cache=disk: 700 images" in done.stderr
    assert "more is needed than the headers let expect, and 4.19 MB may be used of " in done.stderr
    assert done.stdout == ""


def test_a_folder_in_memory_that_others_may_write_to_is_not_used(large: Path, kept: Path) -> None:
    script = "mount -t tmpfs tmpfs /dev/shm; mkdir -m 777 /dev/shm/clf-0\n" + RUN
    done = mounts(script, sys.executable, KEEP, large, "ram", 200, kept)
    assert "data.cache=ram needs /dev/shm/clf-0, which others may write to; remove it, or " in done.stderr
    done = mounts(script, sys.executable, KEEP, large, "auto", 200, kept)
    assert f"480 kB in {kept}/" in done.stdout


def test_what_others_put_into_memory_is_neither_followed_nor_removed(large: Path, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/old.pixels").touch()
    traps = """mount -t tmpfs -o mode=1777 tmpfs /dev/shm; trap="$1"; shift; mine="$PWD"; cd /dev/shm
        if test "$trap" = folder; then ln -s "$1" clf-0; else mkdir -m 777 clf-0; ln -s "$1/made" clf-0/old.lock; fi
        touch clf-0/old.pixels; cd "$mine"; shift
        """
    for trap in ("folder", "lock"):
        done = mounts(traps + RUN, trap, tmp_path / "precious", sys.executable, KEEP, large, "disk", 200, kept)
        assert "cache: 10 images, " in done.stdout, done.stderr
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

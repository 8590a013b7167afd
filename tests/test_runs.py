"""Run directories: numbered without gaps or clashes, found by name, link or checkpoint, and missed with a hint."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import with_mounts

from clf import runs
from clf.errors import UserError
from clf.runs import Run


def start(name: str = "exp") -> Run:
    """Reserve a run and give it what only a run that began has."""
    run = runs.reserve(name)
    run.config.write_text("{}")
    return run


def save(run: Run, *names: str) -> Run:
    run.checkpoints.mkdir(exist_ok=True)
    for name in names:
        (run.checkpoints / name).touch()
    return run


def refusal(call: object, *words: object) -> str:
    assert callable(call)
    with pytest.raises(UserError) as caught:
        call(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Holding

HOLD = """
import os
import sys
import time
from clf import runs
from clf.runs import Run
from pathlib import Path
end = runs.hold(Run(Path("runs/exp/001")))
if os.fork() == 0:
    print("held", flush=True)
    sys.stdin.read()  # a worker, which outlives who started it
    os._exit(0)
time.sleep(600)
"""


@pytest.fixture
def holder(workdir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a run until it is killed."""
    start()
    words, environment = [sys.executable, "-c", HOLD], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment, bufsize=1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_run_is_trained_by_one_process_at_a_time(holder: subprocess.Popen[str]) -> None:
    run = Run(Path("runs/exp/001"))
    said = refusal(runs.hold, run)
    assert said.startswith(f"runs/exp/001 is being trained by process {holder.pid} on {socket.gethostname()}; wait for")
    holder.kill()
    holder.wait()
    runs.hold(run)()
    assert not (run.path / ".lock").exists()


def test_a_lock_that_its_owner_gives_back_while_it_is_taken_is_taken_anew(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, lockf = start(), fcntl.lockf
    path = run.path / ".lock"

    def after_the_owner(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "lockf", lockf)
        path.unlink()
        lockf(handle, how)

    monkeypatch.setattr(fcntl, "lockf", after_the_owner)
    end = runs.hold(run)
    assert path.read_text().startswith(f"process {os.getpid()} on ")
    end()
    assert not path.exists()


def test_a_run_that_may_not_be_written_is_told_at_once(tmp_path: Path) -> None:
    script = f"mount -t tmpfs none {tmp_path}; mkdir -p {tmp_path}/runs/exp/001; mount -o remount,ro {tmp_path}"

    def held() -> str:
        os.chdir(tmp_path)  # anew, to be in what was mounted
        return refusal(runs.hold, Run(Path("runs/exp/001")))

    said = "nothing can be written into runs/exp/001: read-only file system; mend that, or go on in a copy"
    assert with_mounts(script, held) == said


def test_a_lock_of_another_machine_is_a_warning_for_it_may_have_outlived_that(
    holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(Path("runs/exp/001"))
    (run.path / ".lock").write_text("process 7 on elsewhere\n")
    runs.hold(run)()
    assert caplog.messages[0].startswith("runs/exp/001: process 7 on elsewhere trains there, or did until its machine")


# Reserving


def test_numbers_count_up_by_name(workdir: Path) -> None:
    found = [str(runs.reserve(name)) for name in ("a", "a", "b", "a")]
    assert found == ["runs/a/001", "runs/a/002", "runs/b/001", "runs/a/003"]


def test_a_number_is_never_used_again_below_one_that_is_taken(workdir: Path) -> None:
    for taken in ("007", "2", "notes", "1000"):
        (workdir / "runs/exp" / taken).mkdir(parents=True)
    assert str(runs.reserve("exp")) == "runs/exp/1001"


def test_a_file_in_the_way_is_stepped_over(workdir: Path) -> None:
    runs.reserve("exp")
    (workdir / "runs/exp/002").write_text("a file")
    assert str(runs.reserve("exp")) == "runs/exp/003"


def test_processes_that_start_at_once_get_different_directories(workdir: Path) -> None:
    code = "from clf import runs; input(); print(*(runs.reserve('exp') for _ in range(25)), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [name for process in processes for name in process.communicate()[0].split()]
    assert sorted(found) == [f"runs/exp/{number:03d}" for number in range(1, 101)]


@pytest.mark.parametrize("name", ["a/b", "../up", "", ".hidden", "a\nb", "(copy)", "-x", "latest"])
def test_a_name_that_cannot_be_a_run_s_folder_is_refused(workdir: Path, name: str) -> None:
    assert refusal(runs.reserve, name) == (
        f"name={name!r} cannot be a run's folder; give --name with letters, digits, '-', '_' and '.'"
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["resnet18", "größe-2", "lr=1e-3", "my run", "v1.2+a"])
def test_a_name_may_be_what_people_call_experiments(workdir: Path, name: str) -> None:
    assert runs.reserve(name).name == name


def test_a_folder_that_cannot_be_made_says_why(workdir: Path) -> None:
    Path("runs").write_text("a file")
    assert refusal(runs.reserve, "exp") == "cannot make a run directory in runs/exp: Not a directory"
    Path("runs").unlink()
    assert refusal(runs.reserve, "x" * 300) == f"cannot make a run directory in runs/{'x' * 300}: File name too long"


# The latest


def test_a_folder_in_the_place_of_the_link_is_named_and_left_alone(workdir: Path) -> None:
    run = start()
    (workdir / "runs/latest").mkdir()
    with pytest.raises(UserError, match="runs/latest is a folder, where the link to the newest run belongs"):
        runs.publish(run)
    assert not [path for path in (workdir / "runs").iterdir() if path.name.startswith(".latest")]
    assert (workdir / "runs/latest").is_dir()


def test_latest_points_to_what_was_published_last_and_survives_a_move(workdir: Path) -> None:
    first, second = start(), start("other")
    for run in (second, first):
        runs.publish(run)
    assert os.readlink("runs/latest") == "exp/001"
    assert runs.latest() == first
    assert runs.latest().name == "exp"
    assert sorted(path.name for path in Path("runs").iterdir()) == ["exp", "latest", "other"]


def test_a_run_elsewhere_can_be_the_latest(workdir: Path) -> None:
    elsewhere = workdir.parent / "elsewhere/exp/004"
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.yaml").touch()
    runs.publish(Run(elsewhere))
    assert runs.latest().path == elsewhere


def test_the_link_is_never_missing_while_it_is_replaced(workdir: Path) -> None:
    one, two = start(), start()
    runs.publish(one)
    watcher = subprocess.Popen(
        [sys.executable, "-c", "import os\nprint('go', flush=True)\nfor _ in range(20000): os.readlink('runs/latest')"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout is not None
    watcher.stdout.readline()
    while watcher.poll() is None:
        runs.publish(two)
        runs.publish(one)
    watcher.stdout.close()
    assert watcher.returncode == 0


def test_what_a_killed_command_left_is_no_obstacle(workdir: Path) -> None:
    run = start()
    Path(f"runs/.latest-{os.getpid()}").symlink_to("nowhere")
    runs.publish(run)
    assert runs.latest() == run


def test_without_any_run_it_says_how_to_start_one(workdir: Path) -> None:
    assert refusal(runs.latest) == (
        f"no run found: {workdir}/runs/latest does not exist; "
        "start one with `clf fit --config FILE`, or name one with --config, --run or --ckpt_path FILE"
    )


def test_a_latest_run_that_was_deleted_is_named(workdir: Path) -> None:
    run = start()
    runs.publish(run)
    run.config.unlink()
    remedy = "pick a run with --run runs/<name>/<number>"
    assert refusal(runs.latest) == f"runs/latest points to exp/001, which has no config.yaml; {remedy}"
    run.path.rmdir()
    assert refusal(runs.latest) == f"runs/latest points to exp/001, which is gone; {remedy}"


# Finding


def test_the_newest_run_of_a_name_is_the_newest_that_began(workdir: Path) -> None:
    assert runs.newest("exp") is None
    runs.reserve("exp")
    assert runs.newest("exp") is None
    start(), start()
    runs.reserve("exp")
    start("other")
    assert str(runs.newest("exp")) == "runs/exp/003"


def test_the_newest_run_is_found_by_number_and_not_by_spelling(workdir: Path) -> None:
    for number in ("999", "1000"):
        (workdir / "runs/exp" / number).mkdir(parents=True)
        (workdir / "runs/exp" / number / "config.yaml").touch()
    assert str(runs.newest("exp")) == "runs/exp/1000"


def test_names_are_those_under_which_something_began(workdir: Path) -> None:
    runs.publish(start("b"))
    start("a")
    runs.reserve("never")
    assert runs.names() == ["a", "b"]


@pytest.mark.parametrize("name", ["runs/exp/001", "runs/latest", "./runs/exp/001/"])
def test_a_run_is_opened_by_its_directory_or_by_the_link(workdir: Path, name: str) -> None:
    runs.publish(start())
    run = runs.open_run(Path(name))
    assert (run.name, run.path.name, run.config.read_text()) == ("exp", "001", "{}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/exp/002", "run='runs/exp/002' does not exist; did you mean 'runs/exp/001'?"),
        ("exp/001", "run='exp/001' does not exist; did you mean 'runs/exp/001'?"),
        ("runs/exp", "run='runs/exp' has no config.yaml; did you mean 'runs/exp/001'?"),
        ("zzzzzzzzzzzz", "run='zzzzzzzzzzzz' does not exist"),
    ],
)
def test_what_is_no_run_is_answered_with_what_is_one(workdir: Path, name: str, message: str) -> None:
    runs.publish(start())
    assert refusal(runs.open_run, Path(name)) == message


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", ["runs/exp/001", "runs/latest"])
def test_the_run_of_a_checkpoint_is_found_and_shown_as_a_user_would_type_it(
    workdir: Path, name: str, absolute: bool
) -> None:
    runs.publish(save(start(), "last.ckpt"))
    file = Path(name) / "checkpoints/last.ckpt"
    run = runs.run_of(workdir / file if absolute else file)
    assert run == Run(Path("runs/exp/001"))
    runs.publish(run)  # must not make the link point to itself
    assert runs.latest() == run


def test_the_run_of_a_checkpoint_is_found_from_elsewhere(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(start(), "last.ckpt")
    monkeypatch.chdir(workdir / "runs")
    assert runs.run_of(Path("exp/001/checkpoints/last.ckpt")) == Run(Path("exp/001"))
    monkeypatch.chdir(workdir.parent)
    assert str(runs.run_of(workdir / "runs/exp/001/checkpoints/last.ckpt")) == "work/runs/exp/001"
    monkeypatch.chdir("/")
    run = runs.run_of(workdir / "runs/exp/001/checkpoints/last.ckpt")
    assert run is not None
    assert (run.name, run.path.samefile(workdir / "runs/exp/001")) == ("exp", True)


def test_a_checkpoint_outside_of_a_run_has_no_run(workdir: Path) -> None:
    run = save(start(), "last.ckpt")
    assert runs.run_of(Path("model.ckpt")) is None
    assert runs.run_of(run.path / "last.ckpt") is None
    run.config.unlink()
    assert runs.run_of(run.checkpoints / "last.ckpt") is None


# Checkpoints


@pytest.mark.parametrize("value", ["https://example.org/a.ckpt", "s3://bucket/a.ckpt", "file:///a.ckpt"])
def test_a_url_is_no_checkpoint(workdir: Path, value: str) -> None:
    assert refusal(runs.checkpoint_file, value) == (
        f"ckpt_path={value!r} is a URL; download the file first and give its path"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lst", "does not exist; give last, best, auto or a file; did you mean 'last'?"),
        ("models/bst.ckpt", "does not exist; give last, best, auto or a file; did you mean 'models/best.ckpt'?"),
        ("models", "is a folder; give last, best, auto or a file"),
        ("", "is empty; give last, best, auto or a file"),
        ("gone/away.ckpt", "does not exist; give last, best, auto or a file"),
    ],
)
def test_what_is_no_checkpoint_is_answered_with_what_is_one(workdir: Path, value: str, message: str) -> None:
    Path("models").mkdir()
    Path("models/best.ckpt").touch()
    assert refusal(runs.checkpoint_file, value) == f"ckpt_path={value!r} {message}"


def test_a_file_is_taken_as_it_is_written(workdir: Path) -> None:
    Path("odd name.pt").touch()
    assert runs.checkpoint_file("odd name.pt") == Path("odd name.pt")

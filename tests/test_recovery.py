"""Damaged checkpoints: found by their sums, replaced by the one before, and the run ends as if nothing had been."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from datasets import draw_folders
from test_cli import FIT, STOP, TINY, assert_equal, weights

from clf import recovery, sums
from clf.errors import UserError
from clf.main import main
from clf.runs import Run

STOPPED = ["--callbacks.stop", '{"class_path": "stopper.Stop", "init_args": {"step": 9}}']
RUN = Path("runs/tiny/002/checkpoints")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def folder(kept: Path, workdir: Path) -> Path:
    """A working folder with an uninterrupted run, and one that was stopped after nine steps of eighteen."""
    if not (kept / "runs").exists():
        draw_folders(kept / "images", {f"{split}/{name}": 8 for split in ("train", "valid", "test") for name in "abc"})
        (kept / "tiny.yaml").write_text(TINY)
        (kept / "stopper.py").write_text(STOP)
        with chdir(kept):
            assert main(FIT) == 0
            assert main([*FIT, *STOPPED]) == 143
    shutil.copytree(kept, workdir, symlinks=True, dirs_exist_ok=True)
    return workdir


def rewrite(path: Path, content: bytes) -> None:
    """Write a file, and not whatever else shares its bytes."""
    path.unlink()
    path.write_bytes(content)


def truncate(path: Path) -> None:
    rewrite(path, path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(path, bytes(content))


def empty(path: Path) -> None:
    rewrite(path, b"")


def ends_as_if_nothing_had_been() -> None:
    assert_equal(weights("tiny/001"), weights("tiny/002"))
    assert Path("runs/tiny/002/metrics.csv").read_bytes() == Path("runs/tiny/001/metrics.csv").read_bytes()
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=RUN, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    named = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert named == {path.name for path in RUN.glob("*.ckpt")} >= {"best.ckpt", "last.ckpt", "last-1.ckpt"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [(flip, "last.ckpt is damaged"), (Path.unlink, "last.ckpt is gone")],
)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    folder: Path, damage: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(RUN / "last.ckpt")
    assert main(["fit", "--ckpt_path", "last", "--callbacks.stop", "null"]) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if said in line)
    assert warning.endswith(f"in its place: {RUN}/last-1.ckpt, from step 6")
    ends_as_if_nothing_had_been()


def link_to_a_copy(path: Path) -> None:
    path.rename("archived.ckpt")
    path.symlink_to(Path("archived.ckpt").resolve())


def link_to_a_stranger(path: Path) -> None:
    Path("archived.ckpt").write_text("precious")
    path.unlink()
    path.symlink_to(Path("archived.ckpt").resolve())


def link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("put", [link_to_a_copy, link_to_a_stranger, link_to_a_device, make_a_pipe])
def test_what_stands_in_the_place_of_a_checkpoint_is_replaced_and_not_written_to(
    folder: Path, put: Callable[[Path], None]
) -> None:
    put(RUN / "last.ckpt")
    archived = Path("archived.ckpt")
    before = archived.read_bytes() if archived.exists() else None
    assert main(["fit", "--ckpt_path", "last", "--callbacks.stop", "null"]) == 0
    assert not (RUN / "last.ckpt").is_symlink()
    assert (archived.read_bytes() if archived.exists() else None) == before
    ends_as_if_nothing_had_been()


@pytest.mark.parametrize("damage", [truncate, empty])
@pytest.mark.parametrize("summed", [True, False])
def test_less_than_a_file_is_seen_with_and_without_its_sum(
    folder: Path, damage: Callable[[Path], None], summed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    damage(RUN / "last.ckpt")
    if not summed:
        (RUN / "SHA256SUMS").unlink()
    assert recovery.find(Run(Path("runs/tiny/002")), "last") == RUN / "last-1.ckpt"
    assert ("is damaged (its SHA-256" if summed else "is corrupt") in caplog.text


def test_a_run_on_a_machine_with_other_paths_goes_on_without_link_or_previous_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(RUN / "last.ckpt")
    (RUN / "last-1.ckpt").unlink()
    other = tmp_path / "other"
    (other / "runs").mkdir(parents=True)
    subprocess.run(["cp", "-rL", "runs/tiny", other / "runs"], check=True)  # new times, no links
    shutil.move("images", other / "elsewhere")
    for name in ("tiny.yaml", "stopper.py"):
        shutil.copy(name, other)
    monkeypatch.chdir(other)
    words = ["fit", "--config", "tiny.yaml", "--data.root", "elsewhere", "--ckpt_path", "auto"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "last.ckpt is damaged" in said
    assert re.search(r"in its place: \S+/(epoch=000-\S+|best)\.ckpt, from step 6", said)
    ends_as_if_nothing_had_been()
    assert main(words) == 0
    assert "already finished" in capsys.readouterr().err
    assert not Path("runs/tiny/003").exists()


def test_a_file_whose_sum_was_written_before_a_kill_is_whole(folder: Path) -> None:
    """Sums come first: a kill right after them leaves the old file, which goes by its next name there."""
    known = sums.read(RUN)
    sums.record(RUN, {"last.ckpt": "0" * 64, "last-1.ckpt": known["last.ckpt"]})
    assert recovery.find(Run(Path("runs/tiny/002")), "last") == RUN / "last.ckpt"


def test_checkpoints_without_sums_are_taken_as_they_are(folder: Path) -> None:
    (RUN / "SHA256SUMS").unlink()
    assert recovery.find(Run(Path("runs/tiny/002")), "last") == RUN / "last.ckpt"


@pytest.mark.parametrize("choice", ["last", "auto"])
def test_a_run_without_a_whole_checkpoint_ends_with_all_that_was_tried(
    folder: Path, choice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in RUN.glob("*.ckpt"):
        flip(path)
    assert main(["fit", "--ckpt_path", choice]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"clf: ckpt_path='last': {RUN.parent} has no checkpoint that can be read: last.ckpt is")
    for path in RUN.glob("*.ckpt"):
        assert f"{path.name} is damaged" in message


def test_a_missing_checkpoint_is_answered_with_what_there_is(workdir: Path) -> None:
    run = Run(Path("runs/exp/001"))
    run.checkpoints.mkdir(parents=True)
    missing = "ckpt_path='best': runs/exp/001/checkpoints/best.ckpt does not exist; "
    with pytest.raises(UserError, match=f"^{missing}no checkpoint was written there$"):
        recovery.find(run, "best")
    for name in ("last.ckpt", "epoch=1.ckpt", "notes.txt"):
        (run.checkpoints / name).touch()
    with pytest.raises(UserError, match=f"^{missing}the folder has epoch=1.ckpt, last.ckpt$"):
        recovery.find(run, "best")


def test_a_run_that_was_killed_before_its_first_checkpoint_is_started_again(folder: Path) -> None:
    shutil.rmtree(RUN)
    assert main([*FIT, *STOPPED, "--ckpt_path", "auto"]) == 143
    assert Path("runs/tiny/003/checkpoints/last.ckpt").is_file()


def test_a_damaged_best_checkpoint_is_replaced_by_the_same_epoch_s(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(RUN / "best.ckpt")
    found = recovery.find(Run(Path("runs/tiny/002")), "best")
    assert sums.read(RUN)[found.name] == sums.read(RUN)["best.ckpt"]
    for path in {*RUN.glob("*.ckpt")} - {RUN / "best.ckpt", RUN / "last.ckpt"}:
        flip(path)
    assert main(["test"]) == 2
    assert "best.ckpt is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt", "last-1.ckpt", "SHA256SUMS"])
def test_a_folder_in_the_place_of_a_file_is_told_before_the_training(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (RUN / name).unlink()
    (RUN / name).mkdir()
    before = (RUN.parent / "config.yaml").stat().st_mtime_ns
    assert main(["fit", "--ckpt_path", "last", "--callbacks.stop", "null"]) == 2
    *said, message = capsys.readouterr().err.splitlines()
    assert message == f"clf: {RUN}/{name} is a folder, where a file belongs; move it away"
    assert name != "last.ckpt" or "last.ckpt is no file; in its place: " in said[0]
    assert (RUN.parent / "config.yaml").stat().st_mtime_ns == before

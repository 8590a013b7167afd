"""Pictures are drawn in another process: whole or not there, the newest only, and never a reason to fail."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_figures
from PIL import Image

from clf.artist import Artist, Drawing

pytestmark = pytest.mark.drawn


@pytest.fixture
def artist(monkeypatch: pytest.MonkeyPatch) -> Iterator[Artist]:
    """An artist whose process can import this folder's figures."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    artist = Artist()
    yield artist
    artist.abandon()


def drawing(path: Path, figure: Callable[..., Any] = toy_figures.plain, **numbers: Any) -> Drawing:
    return Drawing(path, figure, numbers, key=path.stem)


def width(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for another process; a minute is for machines that do other things besides."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_pictures_are_there_once_the_artist_has_finished(tmp_path: Path, artist: Artist) -> None:
    for inches in (1, 2):
        artist.submit(drawing(tmp_path / f"deep/{inches}.png", inches=inches))
    artist.finish()
    assert [width(tmp_path / f"deep/{inches}.png") for inches in (1, 2)] == [100, 200]
    assert [(done.key, error) for done, error in artist.collect()] == [("1", ""), ("2", "")]
    assert artist.collect() == []
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["1.png", "2.png"]


def test_of_several_drawings_of_one_picture_only_the_newest_is_waited_for(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "first.png", toy_figures.when_told, told=str(tmp_path / "told")))
    for inches in (1, 2, 3):
        artist.submit(drawing(tmp_path / "picture.png", inches=inches))
    (tmp_path / "told").touch()
    artist.finish()
    assert width(tmp_path / "picture.png") == 300
    assert [done.path.name for done, _ in artist.collect()] == ["first.png", "picture.png"]


def test_one_that_cannot_be_drawn_says_why_and_leaves_the_old_one(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "picture.png", inches=1))
    artist.finish()
    artist.submit(drawing(tmp_path / "picture.png", toy_figures.broken))
    artist.submit(drawing(tmp_path / "picture2.png", inches=2))
    artist.finish()
    assert [error for _, error in artist.collect()] == ["", "ZeroDivisionError: division by zero", ""]
    assert width(tmp_path / "picture.png") == 100


def test_what_cannot_even_travel_says_so_and_the_next_one_is_drawn(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "a.png", lambda: None))
    artist.submit(drawing(tmp_path / "b.png"))
    artist.finish()
    [(_, first), (_, second)] = artist.collect()
    assert "PicklingError" in first or "AttributeError" in first
    assert second == ""


def test_a_process_that_dies_costs_one_picture(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "a.png", toy_figures.suicide))
    artist.submit(drawing(tmp_path / "b.png"))
    artist.finish()
    [(_, first), (_, second)] = artist.collect()
    assert "the drawing process ended" in first
    assert second == ""


def test_what_a_figure_prints_does_not_stand_in_the_way(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "a.png", toy_figures.talkative))
    artist.finish()
    assert [error for _, error in artist.collect()] == [""]


def test_an_artist_that_is_abandoned_draws_no_more_and_does_not_wait(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "first.png", toy_figures.when_told, told=str(tmp_path / "never")))
    artist.submit(drawing(tmp_path / "second.png"))
    wait_for((tmp_path / "never.asked").exists)
    artist.abandon()
    assert not list(tmp_path.glob("*.png*"))


def test_what_is_not_drawn_in_time_is_abandoned_and_what_is_stays(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "first.png"))
    artist.finish(within=60)
    artist.submit(drawing(tmp_path / "second.png", toy_figures.when_told, told=str(tmp_path / "never")))
    wait_for((tmp_path / "never.asked").exists)
    artist.finish(within=0.1)
    assert [path.name for path in tmp_path.glob("*.png*")] == ["first.png"]


def test_a_picture_that_is_cut_off_leaves_no_half_file(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "first.png", toy_figures.when_told, told=str(tmp_path / "never")))
    wait_for((tmp_path / "never.asked").exists)
    (tmp_path / "first.png.partial").touch()
    artist.abandon()
    assert not list(tmp_path.glob("*.png*"))


def test_ctrl_c_is_not_meant_for_the_drawing_process(tmp_path: Path, artist: Artist) -> None:
    artist.submit(drawing(tmp_path / "first.png", toy_figures.when_told, told=str(tmp_path / "told")))
    wait_for((tmp_path / "told.asked").exists)
    process = int((tmp_path / "told.asked").read_text())
    assert os.getpgid(process) != os.getpgid(0)
    assert os.getsid(process) == os.getsid(0)  # else its priority would not count beside ours
    assert os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0)
    for each in (signal.SIGINT, signal.SIGTERM):
        os.kill(process, each)
    (tmp_path / "told").touch()
    artist.finish()
    assert (tmp_path / "first.png").exists()


_KILLED = """
import sys, time
from pathlib import Path
import toy_figures
from clf.artist import Artist, Drawing
folder = Path(sys.argv[1])
Artist().submit(Drawing(folder / "a.png", toy_figures.when_told, {"told": str(folder / "told")}))
time.sleep(600)
"""


def test_a_trainer_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    said = tmp_path / "said"
    with said.open("wb") as file:
        trainer = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], env=environment, stderr=file)
    wait_for((tmp_path / "told.asked").exists)
    process = int((tmp_path / "told.asked").read_text())
    trainer.kill()
    trainer.wait()
    (tmp_path / "told").touch()  # it draws to the end, and then nobody asks any more
    wait_for(lambda: not _is_alive(process))
    assert said.read_text() == ""


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # whoever inherits it may take a while to read its exit code


def test_a_file_of_the_working_folder_is_not_taken_for_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artist: Artist
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    artist.submit(drawing(tmp_path / "a.png"))
    artist.finish()
    assert [error for _, error in artist.collect()] == [""]


def test_class_names_in_any_script_cost_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    drawing(tmp_path / "a.png", toy_figures.titled, title="球衣 ⚽ مرحبا").draw()
    assert (tmp_path / "a.png").exists()
    assert not recwarn.list

"""Disks that fill up and mounts that lack what others have: nothing is lost, and the run ends as it would have."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import draw_folders
from test_cacheplace import mounts
from test_cli import STOP, TINY

# Fills the disk after a step, but for some bytes.
FILL = """
import os
import shutil
from lightning.pytorch import Callback

class Fill(Callback):
    def __init__(self, step: int, left: int) -> None:
        self.step, self.left = step, left

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            with open("filler", "wb", buffering=0) as file:
                size = shutil.disk_usage(".").free - self.left
                while size > 0:
                    size -= file.write(bytes(size))
"""
PROGRAM = """
import io, json, os, shutil, subprocess, sys
from contextlib import redirect_stderr
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
import clf.artist
from clf.main import main

draw, clf.artist.Artist.submit = clf.artist.Artist.submit, lambda *_: None
home, mount = Path(sys.argv[1]), Path(sys.argv[3])
fit = ["fit", "--config", f"{home}/tiny.yaml", "--data.root", f"{home}/images"]
found = {}

def clf(*words):
    said = io.StringIO()
    with redirect_stderr(said):
        code = main(words)
    return code, said.getvalue()

def state(run):
    import torch
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    parts = [last["state_dict"], last["current_model_state"]]
    return (run / "metrics.csv").read_bytes(), [value.numpy().tobytes() for part in parts for value in part.values()]

def sums(run):
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=run / "checkpoints", capture_output=True)
    return done.returncode

os.chdir(home)
clf(*fit)
whole = state(home / "runs/tiny/001")
os.chdir(mount)
run = Path("runs/tiny/001")
"""
FULL = """
for left in (60_000, 0):
    shutil.rmtree("runs", ignore_errors=True)
    fill = json.dumps({"class_path": "filling.Fill", "init_args": {"step": 9, "left": left}})
    filled = clf(*fit, "--callbacks.fill", fill)
    kept = sums(run)
    os.remove("filler")
    resumed = clf("fit", "--ckpt_path", "last", "--callbacks.fill", "null")
    found[left] = [*filled, kept, *resumed, state(run) == whole]

from clf.figures.training import learning_rates
from clf.pictures import Pictures
pictures = Pictures(Path("plots"))
pictures._artist.submit = lambda drawing: draw(pictures._artist, drawing)
Path("plots").mkdir()
with open("filler", "wb", buffering=0) as file:
    file.write(bytes(shutil.disk_usage(".").free))
numbers = {"rates": [1e-6, 1e-5], "losses": [1.0, 0.5], "found": 1e-6}
pictures.draw("lr", learning_rates, key="lr", **numbers)
pictures._artist.finish()
class trainer: loggers = []
pictures._hand_over(trainer)
try:
    pictures.require_room()
except OSError as error:
    found["picture"] = [error.errno, error.filename, os.listdir("plots")]
print(json.dumps(found))
"""
BUCKET = """
stop = json.dumps({"class_path": "stopper.Stop", "init_args": {"step": 9}})
found["stopped"] = clf(*fit, "--callbacks.stop", stop)
found["link"] = Path("runs/latest").read_text()
found["resumed"] = clf("fit", "--ckpt_path", "last", "--callbacks.stop", "null")[0]
found["same"] = state(run) == whole
found["sums"] = sums(run)
found["tested"] = clf("test")[0]
found["left"] = [str(path) for path in Path(".").rglob("*.partial")]
last = run / "checkpoints/last.ckpt"
content = last.read_bytes()
last.write_bytes(content[:1000])  # killed while it was copied there
found["cut"] = clf("fit", "--ckpt_path", "last", "--trainer.max_epochs", "4")
print(json.dumps(found))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    draw_folders(folder / "images", {f"{split}/{name}": 8 for split in ("train", "valid", "test") for name in "abc"})
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "filling.py").write_text(FILL)
    (folder / "stopper.py").write_text(STOP)
    (tmp_path / "mount").mkdir()
    return folder


def ran(script: str, program: str, home: Path) -> Any:
    tests = Path(__file__).parent
    environment = f"export PYTHONPATH={tests.parent}:{home}\n"
    words = (sys.executable, PROGRAM + program, home, tests, home.parent / "mount")
    done = mounts(environment + script, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_disk_that_fills_up_costs_no_more_than_the_time_to_make_room(home: Path) -> None:
    script = 'mount -t tmpfs -o size=32m tmpfs "$5"\n"$1" -c "$2" "$3" "$4" "$5"'
    found = ran(script, FULL, home)
    for left in ("60000", "0"):
        code, said, sums, resumed, then, same = found[left]
        message = next(line for line in said.splitlines() if line.startswith("no space left for runs/tiny/001/"))
        after = "nothing was lost: runs/tiny/001/checkpoints/last.ckpt is from step 6; make room and go on with: "
        assert message.endswith(f"; {after}clf fit --ckpt_path last")
        assert ("checkpoints/" in message.split(";")[0]) == (left == "60000")
        assert "Traceback" not in said
        assert (code, sums, resumed, same) == (1, 0, 0, True), then
    assert found["picture"] == [28, "plots/lr.png", []]


def test_a_mount_without_links_and_atomic_renames_holds_a_run_all_the_same(home: Path) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no mounts of one's own")
    bucket = Path(__file__).parent / "bucket.py"
    script = f"""
    mkdir "$3/../behind"
    "$1" {bucket} "$3/../behind" "$5" fuse.bucket > "$3/ready" & bucket=$!
    until test -s "$3/ready"; do sleep 0.1; kill -0 $bucket; done
    code=0; "$1" -c "$2" "$3" "$4" "$5" || code=$?
    kill $bucket; exit $code
    """
    found = ran(script, BUCKET, home)
    code, said = found["stopped"]
    assert code == 143
    lacks = "lies where there are no atomic renames and hard links and symbolic links: files are made in"
    assert f"runs/tiny/001 {lacks}" in said
    assert found["link"] == "tiny/001\n"
    assert (found["resumed"], found["same"], found["sums"], found["tested"], found["left"]) == (0, True, 0, 0, [])
    code, said = found["cut"]
    assert code == 0
    assert "last.ckpt is damaged" in said


def test_a_kill_between_copy_and_place_leaves_one_of_both_whole(tmp_path: Path) -> None:
    """Where a mount cannot rename, the copy that was compared stays until the file itself is."""
    program = """
import os, shutil, sys
from pathlib import Path
from clf import files, mounts
mounts.mount_of = files.mount_of = lambda _: mounts.Mount(renames=False)
copy, copies = shutil.copyfile, []
def cut(source, target):
    copies.append(target)
    if len(copies) == int(sys.argv[1]):
        Path(target).write_bytes(Path(source).read_bytes()[:3])
        os._exit(9)
    copy(source, target)
shutil.copyfile = cut
Path.replace = lambda *_: (_ for _ in ()).throw(OSError(95, "not supported"))
files.replace_text(Path("x.json"), "after")
"""
    for number, whole in ((1, "x.json"), (2, "x.json.partial")):
        (tmp_path / "x.json").write_text("before")
        done = subprocess.run([sys.executable, "-c", program, str(number)], cwd=tmp_path, check=False)
        assert done.returncode == 9
        assert (tmp_path / whole).read_text() in ("before", "after")
    assert subprocess.run([sys.executable, "-c", program, "9"], cwd=tmp_path, check=False).returncode == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.json": "after"}

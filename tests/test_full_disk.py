"""Disks that fill up and mounts that lack what others have: nothing is lost, and the run ends as it would have."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import draw_folders
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
import torch
import clf.artist
from clf import recovery
from clf.figures.training import learning_rates
from clf.main import main
from clf.pictures import Pictures
from clf.runs import Run

draw, clf.artist.Artist.submit = clf.artist.Artist.submit, lambda *_: None
home, small, bucket = map(Path, sys.argv[1:])
fit = ["fit", "--config", f"{home}/tiny.yaml", "--data.root", f"{home}/images"]
run = Path("runs/tiny/001")
found = {}

def clf(*words):
    said = io.StringIO()
    with redirect_stderr(said):
        code = main(words)
    return code, said.getvalue()

def state(run):
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    parts = [last["state_dict"], last["current_model_state"]]
    return (run / "metrics.csv").read_bytes(), [value.numpy().tobytes() for part in parts for value in part.values()]

def sums():
    return subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=run / "checkpoints").returncode

os.chdir(home)
clf(*fit)
whole = state(run)

os.chdir(small)
for left in (60_000, 0):
    shutil.rmtree("runs", ignore_errors=True)
    fill = json.dumps({"class_path": "filling.Fill", "init_args": {"step": 9, "left": left}})
    filled = clf(*fit, "--callbacks.fill", fill)
    kept = sums()
    os.remove("filler")
    resumed = clf("fit", "--ckpt_path", "last", "--callbacks.fill", "null")
    found[left] = [*filled, kept, *resumed, state(run) == whole]

pictures = Pictures(Path("plots"))
pictures._artist.submit = lambda drawing: draw(pictures._artist, drawing)
Path("plots").mkdir()
with open("filler", "wb", buffering=0) as file:
    file.write(bytes(shutil.disk_usage(".").free))
pictures.draw("lr", learning_rates, key="lr", rates=[1e-6, 1e-5], losses=[1.0, 0.5], found=1e-6)
class trainer: loggers = []
pictures.teardown(trainer, None, "fit")
try:
    pictures.require_room()
except OSError as error:
    found["picture"] = [error.errno, error.filename, os.listdir("plots")]

os.chdir(bucket)
stop = json.dumps({"class_path": "stopper.Stop", "init_args": {"step": 9}})
found["stopped"] = clf(*fit, "--callbacks.stop", stop)
found["link"] = Path("runs/latest").read_text()
found["resumed"] = clf("fit", "--ckpt_path", "last", "--callbacks.stop", "null")[0]
found["same"] = state(run) == whole
found["sums"] = sums()
found["left"] = [str(path) for path in Path(".").rglob("*.partial")]
last = run / "checkpoints/last.ckpt"
last.write_bytes(last.read_bytes()[:1000])  # killed while it was copied there
found["cut"] = recovery.find(Run(run), "last").name
print(json.dumps(found))
"""
SCRIPT = """
mount -t tmpfs -o size=32m tmpfs "$4"
mkdir "$3/behind"
"$1" "$6" "$3/behind" "$5" fuse.bucket > "$3/ready" & bucket=$!
until test -s "$3/ready"; do sleep 0.1; kill -0 $bucket; done
code=0; PYTHONPATH="$7:$3" "$1" -c "$2" "$3" "$4" "$5" || code=$?
kill $bucket; exit $code
"""


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


def tried(folder: Path) -> Any:
    """Run the program above; one process tries everything, to start but once."""
    if os.path.exists("/dev/fuse") and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no mounts of one's own")
    home, small, bucket = (folder / name for name in ("home", "small", "bucket"))
    draw_folders(home / "images", {f"{split}/{name}": 8 for split in ("train", "valid") for name in "abc"})
    for path in (small, bucket):
        path.mkdir()
    (home / "tiny.yaml").write_text(TINY)
    (home / "filling.py").write_text(FILL)
    (home / "stopper.py").write_text(STOP)
    tests = Path(__file__).parent
    done = mounts(SCRIPT, sys.executable, PROGRAM, home, small, bucket, tests / "bucket.py", tests.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_neither_a_full_disk_nor_a_mount_that_lacks_things_costs_more_than_time(tmp_path: Path) -> None:
    found = tried(tmp_path)
    # A disk that fills up: with some room left a checkpoint does not fit, with none whatever comes first.
    for left in ("60000", "0"):
        code, said, sums, resumed, then, same = found[left]
        message = next(line for line in said.splitlines() if line.startswith("no space left for runs/tiny/001/"))
        after = "nothing was lost: runs/tiny/001/checkpoints/last.ckpt is from step 6; make room and go on with: "
        assert message.endswith(f"; {after}clf fit --ckpt_path last")
        assert ".partial" not in message
        assert ("checkpoints/" in message.split(";")[0]) == (left == "60000")
        assert "Traceback" not in said
        assert (code, sums, resumed, same) == (1, 0, 0, True), then
    assert found["picture"] == [28, "plots/lr.png", []]
    # A mount without links, fsync and atomic renames.
    code, said = found["stopped"]
    assert code == 143
    lacks = "lies where there are no atomic renames and hard links and symbolic links: files are made in"
    assert f"runs/tiny/001 {lacks}" in said
    assert found["link"] == "tiny/001\n"
    assert (found["resumed"], found["same"], found["sums"], found["left"]) == (0, True, 0, [])
    assert found["cut"] != "last.ckpt"


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

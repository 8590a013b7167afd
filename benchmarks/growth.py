"""How time and memory grow with the rows of a manifest and with workers: ``python benchmarks/growth.py``.

Manifests of a thousand to a million rows name a few hundred small images again and again. For each, in fresh processes:

- ``growth_listing``: seconds until the data are listed and the first loader is made.
- ``growth_epoch``: seconds of an epoch, with 0, 1 and 2 loader workers; the exponent is that of the most workers.
- ``growth_memory_main``: what the main process held at its highest beyond what it held after its imports.
- ``growth_memory_worker``: what a worker shares with no other process in the middle of an epoch, beyond what it has
  with the smallest manifest.
- ``growth_predict``: how much more memory ``clf predict`` takes at its highest for many files than for few.

The exponents are slopes of straight lines through the logarithms; with ``--record``, docs/growth.png is drawn, too.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring

measuring.fix_threads(1)

PICTURE = Path(__file__).parent.parent / "docs" / "growth.png"
IMAGES, PIXELS = 400, 32
MB = 1024 / 1e6  # of what /proc and getrusage call kB

Points = Mapping[int, float]  # by rows


def write_manifest(folder: Path, rows: int) -> Path:
    """A manifest of train rows and a few of validation."""
    path = folder / f"{rows}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for row in range(rows):
            image = row % (IMAGES - 2)
            writer.writerow([f"images/{image:06d}.jpg", "ab"[image % 2], "train"])
        for image in (IMAGES - 2, IMAGES - 1):
            writer.writerow([f"images/{image:06d}.jpg", "ab"[image % 2], "val"])
    return path


def write_images(folder: Path, *, count: int) -> None:
    """Small images with something on them."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        few = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        image = Image.fromarray(few).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number:06d}.jpg", quality=90)


def memory(pid: int | str = "self") -> dict[str, float]:
    """MB of a process: ``rss``, ``high`` (the most it ever was) and ``own``, shared with nobody."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    rollup = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    own = sum(int(rollup[key].split()[0]) for key in ("Private_Clean", "Private_Dirty"))
    return {
        "rss": int(status["VmRSS"].split()[0]) * MB,
        "high": int(status["VmHWM"].split()[0]) * MB,
        "own": own * MB,
    }


def child(flags: argparse.Namespace) -> None:
    """List a manifest and, where workers are named, go through an epoch; print what it took."""
    import torch
    from torchvision.transforms import v2

    from clf.data.datamodule import ImageData
    from clf.garbage import settled
    from clf.preprocess import Preprocessing

    settled()  # as every command of clf
    torch.set_num_threads(1)
    before, start = memory(), time.perf_counter()
    workers = max(0, flags.epoch)
    crop = [v2.RandomResizedCrop(PIXELS, antialias=True)]
    data = ImageData(str(flags.manifest), augment=crop, batch_size=256, num_workers=workers)
    data.setup("fit")
    data.bind(Preprocessing((PIXELS, PIXELS)))
    loader = data.train_dataloader()
    found: dict[str, Any] = {"listing": time.perf_counter() - start}
    if flags.epoch >= 0:
        start = time.perf_counter()
        for number, _ in enumerate(loader):
            if number == len(loader) // 2:
                looked = time.perf_counter()
                found["workers"] = [memory(pid)["own"] for pid in children()]
                start += time.perf_counter() - looked
        found["epoch"] = time.perf_counter() - start
    after = memory()
    found["main"] = after["high"] - before["rss"]
    found["main_after"] = after["rss"] - before["rss"]
    print(json.dumps(found))


def children() -> list[str]:
    """Processes that this one has started."""
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def ask(manifest: Path, *, workers: int = -1) -> dict[str, Any]:
    """Run a child: only the listing, or an epoch with so many workers."""
    command = [sys.executable, __file__, "--manifest", str(manifest), "--epoch", str(workers)]
    answer: dict[str, Any] = json.loads(measuring.run(command).output.splitlines()[-1])
    print(f"  {manifest.stem} rows, {workers if workers >= 0 else 'no'} workers: {answer}")
    return answer


def exponent(points: Points) -> float:
    """Slope of the straight line through the logarithms."""
    return statistics.linear_regression(
        *zip(*((math.log(x), math.log(y)) for x, y in points.items()), strict=True)
    ).slope


def manifests(folder: Path, *, flags: argparse.Namespace) -> dict[str, Points]:
    """Measure and record all that depends on manifests."""
    write_images(folder, count=IMAGES)
    listing: dict[int, list[float]] = {rows: [] for rows in flags.rows}
    epochs: dict[int, dict[int, float]] = {workers: {} for workers in flags.workers}
    main: dict[int, float] = {}
    own: dict[int, float] = {}
    for rows in flags.rows:
        manifest = write_manifest(folder, rows)
        for _ in range(flags.rounds):
            listing[rows].append(ask(manifest)["listing"])
        for workers in flags.workers:
            answer = ask(manifest, workers=workers)
            epochs[workers][rows] = answer["epoch"]
            main[rows] = max(answer["main"], main.get(rows, 0.0))
            if answer["workers"]:
                own[rows] = max(max(answer["workers"]), own.get(rows, 0.0))
    listed = {rows: statistics.median(seconds) for rows, seconds in listing.items()}
    least, most, last = min(flags.rows), max(flags.rows), max(flags.workers)
    more = {rows: value - own[least] for rows, value in own.items()}
    curves: dict[str, Points] = {"listing": listed, "main": main, "worker": own}
    curves |= {f"epoch, {workers} workers": points for workers, points in epochs.items()}

    def note(measure: str, value: float, unit: str, points: Mapping[Any, Any], n: int = 1) -> None:
        by_rows = {str(key): value for key, value in points.items()}
        measuring.record(flags.record, measure, value, unit=unit, n=n, threads=1, rows=most, points=by_rows)

    note("growth_listing", exponent(listed), "", listed, flags.rounds)
    note("growth_epoch", exponent(epochs[last]), "", epochs)
    note("growth_memory_main", main[most], "MB", main)
    if own:
        note("growth_memory_worker", more[most], "MB", own)
    return curves


def predictions(folder: Path, *, flags: argparse.Namespace) -> Points:
    """Measure and record the memory of predictions, by files."""
    import photos
    import predict

    photos.make(folder / "photos", kind="photos", count=64, val=64)
    model = predict.export(folder, data=folder / "photos", arch="test_resnet", size=PIXELS)
    peaks = {}
    for files in flags.files:
        many = folder / f"files{files}"
        for number in range(files):
            place = many / f"{number // 1000:03d}" / f"{number:07d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(folder / "images" / f"{number % IMAGES:06d}.jpg")
        words = ("--ckpt_path", model, "--data.predict", many, "--output", folder / f"{files}.csv")
        peaks[files] = peak(measuring.clf("predict", *words))
        print(f"  clf predict, {files} files: {peaks[files]:.0f} MB")
    least, most = min(peaks), max(peaks)
    by_files = {str(files): value for files, value in peaks.items()}
    more = peaks[most] - peaks[least]
    measuring.record(flags.record, "growth_predict", more, unit="MB", threads=1, files=most, points=by_files)
    return peaks


def peak(command: Sequence[str]) -> float:
    """MB that a command held at its highest."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed with {process.returncode}")
    return usage.ru_maxrss * MB


def draw(curves: Mapping[str, Points], path: Path) -> None:
    """Draw time and memory against rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    times, sizes = figure.subplots(1, 2)
    for name, points in curves.items():
        axes = sizes if name in ("main", "worker", "predict") else times
        axes.plot(list(points), list(points.values()), marker="o", label=name)
    times.set(xscale="log", yscale="log", xlabel="rows of the manifest", ylabel="seconds")
    sizes.set(xscale="log", xlabel="rows of the manifest, or files", ylabel="MB")
    for axes in (times, sizes):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """Measure all, or be one of the measured."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000, 100_000], help="for clf predict")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--epoch", type=int, default=-1, help=argparse.SUPPRESS)
    flags = measuring.parse(parser)
    if flags.manifest:
        from clf.garbage import process_of_our_own

        with process_of_our_own():
            child(flags)
        return
    with TemporaryDirectory() as name:
        curves = manifests(Path(name), flags=flags)
        predict = predictions(Path(name), flags=flags)
    if flags.record:
        draw({**curves, "predict": predict}, PICTURE)


if __name__ == "__main__":
    main()

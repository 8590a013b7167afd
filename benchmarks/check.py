"""How long ``clf check`` takes, and how much memory: ``python benchmarks/check.py``.

- ``check_photos``: seconds for ten thousand photo-like JPEGs of 500 x 375 pixels, all of them different: crops of a few
  hundred drawn ones, some mirrored. Everything about files, duplicates and labels is looked for; imports count.
- ``check_rows``: the same for manifests of ten thousand to a million rows that name a few hundred small images again
  and again.
- ``fit_start_rows``: ``clf fit`` on these manifests until its first step is done, the part of the check before a fit
  included.

Seconds are medians on the clock; memory is that of one further run at its highest. What is recorded is the largest
manifest; the others stand beside it.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import growth
import measuring
import numpy as np
import photos
import startup
from PIL import ImageOps

measuring.fix_threads(1)

DRAWN = 250
WIDTH, HEIGHT = 500, 375
SUBJECTS = ("--only", "files,duplicates,labels")


def draw(number: int, *, folder: Path, crops: int) -> None:
    """Draw one photo and store crops of it."""
    rng = np.random.default_rng(number)
    large = photos.photo(WIDTH * 2, HEIGHT * 2, hue=number % 4 / 4, rng=rng)
    for crop in range(crops):
        left, top = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
        image = large.crop((left, top, left + WIDTH, top + HEIGHT))
        image = ImageOps.mirror(image) if crop % 2 else image
        split = "valid" if number % 10 == 0 else "train"
        at = number * crops + crop
        photos.save(image, folder / split / f"hue{number // 10 % 4}" / f"{at:06d}.jpg", photos.form(at))


def draw_all(folder: Path, *, count: int) -> Path:
    """Draw so many different images."""
    drawn = min(DRAWN, count)
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.map(partial(draw, folder=folder, crops=count // drawn), range(drawn))
    return folder


def check(root: Path) -> list[str]:
    """Spell the command."""
    return measuring.clf("check", "--data.root", root, *SUBJECTS, "--few", "1")


def found(command: list[str], folder: Path) -> measuring.Ran:
    """Run a check; findings are no failure."""
    return measuring.run(command, cwd=folder)


def measure_photos(folder: Path, flags: argparse.Namespace) -> None:
    """Measure and record a dataset of photos."""
    root = draw_all(folder / "photos", count=flags.count)
    size = sum(path.stat().st_size for path in root.rglob("*.jpg"))
    print(f"  {flags.count} images, {size / 1e6:.0f} MB")
    runs = measuring.Runs({"check": partial(found, check(root), folder)})
    seconds = runs.alternate(rounds=flags.rounds)["check"]
    memory = round(growth.peak(check(root)))
    facts = {"images": flags.count, "megabytes": round(size / 1e6), "cpu_seconds": runs.cpu_seconds["check"]}
    measuring.record(flags.record, "check_photos", seconds, unit="s", threads=1, memory_megabytes=memory, **facts)


def measure_rows(folder: Path, flags: argparse.Namespace) -> None:
    """Measure and record manifests of more and more rows."""
    growth.write_images(folder, count=growth.IMAGES)
    commands: dict[str, Callable[[Path], list[str]]] = {"check_rows": check, "fit_start_rows": start}
    for measure, command in commands.items():
        seconds, memory = {}, {}
        for rows in flags.rows:
            words = command(growth.write_manifest(folder, rows))
            seconds[rows] = measuring.Runs({measure: partial(found, words, folder)}).alternate(rounds=flags.rounds)
            memory[rows] = round(growth.peak(words))
        most = max(flags.rows)
        points = {str(rows): [round(seconds[rows][measure].median, 2), memory[rows]] for rows in flags.rows}
        measuring.record(flags.record, measure, seconds[most][measure], unit="s", threads=1, rows=most, points=points)


def start(root: Path) -> list[str]:
    """Spell the command that trains one step of a tiny network."""
    network = ("--model.arch", "test_resnet", "--model.pretrained", "false", "--model.image_size", "32")
    words = ("--config", "resnet18.yaml", *network, "--trainer", "trainer/cpu.yaml", "--data.num_workers", "0")
    return measuring.clf("fit", *words, "--data.root", root, *startup.ENDS_AFTER_A_STEP)


def main() -> None:
    """Measure both."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="photos; 0 leaves them out")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    flags = measuring.parse(parser)
    with TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        os.environ.update(startup.surroundings(Path(name) / "cpu_seconds"))
        if flags.count:
            measure_photos(Path(name), flags)
        if flags.rows:
            measure_rows(Path(name), flags)


if __name__ == "__main__":
    main()

"""What data.cache brings: passes over decoded images, building it, and epochs of a training.

- ``cache_warm``: an epoch of training images out of the cache, against the same without it and against torchvision's
  reference, as in benchmarks/pipeline.py: one process, one thread, CPU time.
- ``cache_build``: seconds until the cache is on the disk, against reading and decoding the same files once, with
  simplejpeg and with Pillow, on the same number of threads, and against writing as many bytes to the same disk.
- ``cache_build_memory``: the same with ``data.cache: ram``, which writes nothing to a disk.
- ``cache_fit``: images a second in the last epoch of ``clf fit`` with a tiny network (time/images_per_s of timing.csv),
  with the cache and without it.

The images are made by benchmarks/photos.py, or are JPEGs of ``--data FOLDER``.
"""

import argparse
import csv
import gc
import inspect
import itertools
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import measuring

measuring.fix_threads(1)

import pipeline
import simplejpeg
import torch
from torchvision.transforms import v2

from clf.allocator import keep_freed_memory
from clf.cores import usable_cores
from clf.data.datamodule import ImageData
from clf.preprocess import Preprocessing, decode


def cached(root: Path, folder: Path, *, where: str = "disk") -> ImageData:
    """The pipeline benchmark's data, out of a cache in memory or in this folder."""
    crop = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()]
    keys = {"cache": where, "cache_dir": str(folder)}
    data = ImageData(str(root), augment=crop, batch_size=pipeline.BATCH, num_workers=0, **keys)  # type: ignore[arg-type]
    data.bind(Preprocessing((224, 224), interpolation="bilinear"))
    data.samples("train")
    return data


def wall_seconds(work: Callable[[], object]) -> float:
    """Time something on the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def warm(root: Path, folder: Path, *, flags: argparse.Namespace) -> None:
    """Record images a second out of the cache."""
    files = sorted((root / "train").rglob("*.jpg"))
    others = pipeline.passes(root, batch=min(pipeline.BATCH, len(files)), size=224, standard=False)
    data = cached(root, folder / "warm")
    data.setup("fit")
    loader = data.train_dataloader()
    passes = {**others, "clf": pipeline.through(loader, len(files)), "without": others["clf"]}
    wanted = ("clf", "without", "torchvision", "timm")
    work = {name: passes[name] for name in wanted}
    with measuring.apart(work, first=dict.fromkeys(pipeline.KEEPERS, keep_freed_memory)) as timed:
        seconds = measuring.alternate(timed, rounds=flags.rounds)
    rates = {name: measuring.Series([len(files) / each for each in found.values]) for name, found in seconds.items()}
    ours = rates.pop("clf")
    measuring.record(flags.record, "cache_warm", ours, unit="images/s", peers=rates, threads=1, images=len(files))


def build(root: Path, folder: Path, *, flags: argparse.Namespace) -> None:
    """Record how long building takes."""
    files = sorted((root / "train").rglob("*.jpg"))
    threads, numbers = usable_cores(), itertools.count()

    def building(where: str) -> float:
        place = folder / str(next(numbers))
        seconds = wall_seconds(partial(cached(root, place, where=where).setup, "fit"))
        gc.collect()  # lets go of what is in memory: the next turn must not find it
        if where == "disk":
            shutil.rmtree(place)  # else every turn takes memory for its pages that the system has not used yet
        return seconds

    def decoding(decoder: Callable[[Path], object]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(decoder, files, chunksize=16):
                pass

    cached(root, folder / "first").setup("fit")
    content = next((folder / "first").glob("*.pixels")).read_bytes()
    seconds = measuring.alternate(
        {
            "clf": partial(building, "disk"),
            "memory": partial(building, "ram"),
            "simplejpeg": lambda: wall_seconds(lambda: decoding(quick)),
            "pillow": lambda: wall_seconds(lambda: decoding(decode)),
            "writing": lambda: wall_seconds(lambda: write(folder / "written", content)),
        },
        rounds=flags.rounds,
    )
    facts = {"images": len(files), "decoding_threads": threads, "megabytes": round(len(content) / 1e6)}
    decoders = {name: seconds[name] for name in ("simplejpeg", "pillow")}
    peers = {"cache_build": {**decoders, "writing": seconds["writing"]}, "cache_build_memory": decoders}
    for name, ours in (("cache_build", seconds["clf"]), ("cache_build_memory", seconds["memory"])):
        measuring.record(flags.record, name, ours, unit="s", peers=peers[name], threads=1, **facts)


def quick(path: Path) -> object:
    """Decode with the fastest of Python's libraries for JPEG."""
    return simplejpeg.decode_jpeg(path.read_bytes())


def write(path: Path, content: bytes) -> None:
    """Write a file and wait for the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fit(root: Path, folder: Path, *, flags: argparse.Namespace) -> None:
    """Record images a second in the last epoch of trainings."""
    numbers = itertools.count()

    def last_epoch(*words: str) -> float:
        work = folder / f"fit{next(numbers)}"
        work.mkdir()
        model = ("--model.arch", "test_resnet", "--model.pretrained", "false", "--model.image_size", "96")
        data = ("--data.root", str(root.resolve()), "--trainer", "trainer/cpu.yaml", "--trainer.max_epochs", "3")
        own = ("--name", "cache", *words)
        measuring.run(measuring.clf("fit", "--config", "resnet18.yaml", *model, *data, *own), cwd=work)
        with (work / "runs" / "cache" / "001" / "timing.csv").open(encoding="utf-8", newline="") as file:
            return float(list(csv.DictReader(file))[-1]["time/images_per_s"])

    keys = ("--data.cache", "disk", "--data.cache_dir", str(folder / "cache"))
    rates = measuring.alternate(
        {"clf": lambda: last_epoch(*keys), "without": last_epoch}, rounds=flags.rounds, warm=False
    )
    ours = rates.pop("clf")
    measuring.record(flags.record, "cache_fit", ours, unit="images/s", peers=rates, threads=1, network="test_resnet")


def main() -> None:
    """Measure all three."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--data", type=Path, help="a folder of JPEGs; without it, photos are made")
    parser.add_argument("--images", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--only", choices=("warm", "build", "fit"), help="measure one of the three")
    flags = measuring.parse(parser)
    if "cache" not in inspect.signature(ImageData).parameters:
        print("nothing is measured: this version of clf has no key data.cache")
        return
    torch.set_num_threads(1)
    flags.large = flags.small_data = None
    with TemporaryDirectory() as name:
        folder = Path(name)
        root = pipeline.prepare("folder" if flags.data else "photos", folder, flags=flags)
        assert root is not None
        for part in (warm, build, fit):
            if flags.only in (None, part.__name__):
                part(root, folder, flags=flags)


if __name__ == "__main__":
    main()

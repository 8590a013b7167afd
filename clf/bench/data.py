"""``clf bench data``: what an image costs stage by stage, and what the train loader delivers."""

import argparse
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter

from clf.bench.advice import advise_data, best_workers, name_data_bottleneck
from clf.bench.measuring import REPEATS, Report, Series, Table, alternate, compare, digits, milliseconds, times_within
from clf.composed import Composed, composed
from clf.cores import usable_cores
from clf.data.datamodule import ImageData
from clf.data.loading import Batch, Loader, stack, train_tensor
from clf.data.sampling import Key
from clf.errors import UserError
from clf.preprocess import decode
from clf.transforms import TrainTransform

log = logging.getLogger("clf")

STAGES = {
    "disk": "read the file, not in memory",
    "read": "read the file, in memory",
    "decode": "decode the whole image",
    "augment": "augment an image that is decoded",
    "sample": "a sample: read, decode, augment",
    "collate": "collate",
}
"""What is measured of an image, and what it is called."""

_IMAGES = 64  # Decoded ones are held in memory, all at once.
_MOST_BATCHES = 1000
_LONGEST_FILLING = 60  # seconds


def bench(options: argparse.Namespace, words: Sequence[str]) -> Report:
    """Measure the data of a command line of ``clf fit``."""
    with composed("fit", words) as made:
        log.info("bench data on %s: a few minutes at most, Ctrl-C ends it", made.datamodule.source)
        stages = measure_stages(made, seconds=options.seconds)
        loaders = sweep(made, seconds=options.seconds)
        rate = loaders[configured_workers(made.datamodule)].rate
        cached = measure_cache(made, rate=rate, seconds=options.seconds)
        return _report(made, stages, loaders, cached)


def measure_stages(made: Composed, *, seconds: float) -> dict[str, Series]:
    """Measure what an image costs in one process, by the names of `STAGES`; ``disk`` where files can be let go of."""
    data = made.datamodule
    samples = data.samples("train")
    paths = [sample.path for sample in samples[:: max(1, len(samples) // _IMAGES)]][:_IMAGES]
    transform = TrainTransform(data.augment, preprocessing=made.model.preprocessing)
    load = partial(train_tensor, transform=transform, seed=data.seed)
    few = times_within(lambda: load(paths[0], Key(0, 0)), seconds=seconds / 3, most=len(paths))
    paths = paths[:few]
    files, images = [Path(path).read_bytes() for path in paths], [decode(path) for path in paths]
    tensors = [load(path, Key(0, index)) for index, path in enumerate(paths)]
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: [Path(path).read_bytes() for path in paths],
        "decode": lambda: [decode(file) for file in files],
        "augment": lambda: [transform(image, seed=index) for index, image in enumerate(images)],
        "sample": lambda: [load(path, Key(0, index)) for index, path in enumerate(paths)],
        "collate": lambda: stack(tensors),
    }
    found = alternate(actions, images=len(paths))
    return {**_from_disk(paths), **found}


def _from_disk(paths: Sequence[str]) -> dict[str, Series]:
    """Measure reading files that the system was asked to forget; it may keep them, as in a file system in memory."""
    if not hasattr(os, "posix_fadvise"):
        return {}
    taken = []
    for _ in range(REPEATS):
        for path in paths:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = perf_counter()
        for path in paths:
            Path(path).read_bytes()
        taken.append(perf_counter() - start)
    return {"disk": Series("disk", tuple(taken), (len(paths),) * REPEATS)}


def worker_counts(cores: int, *, configured: int) -> list[int]:
    """Choose the numbers of workers to try: 0, 1, 2, 4, … and all cores, beside the configured one."""
    doubled = {2**power for power in range(cores.bit_length())}
    return sorted({0, cores, configured} | {count for count in doubled if count <= cores})


def configured_workers(data: ImageData) -> int:
    """Say how many workers the configuration means here: ``auto`` depends on the machine."""
    return data.train_dataloader().settings.num_workers  # what was corrected to fit, not what was wished


def sweep(made: Composed, *, seconds: float) -> dict[int, Series]:
    """Measure the train loader with each number of workers; from few to many, then back, so that drift cancels out."""
    data, cores = made.datamodule, usable_cores()
    configured = configured_workers(data)
    counts = [0] if made.device.type == "mps" else worker_counts(cores, configured=configured)
    parts: dict[int, list[Series]] = {count: [] for count in counts}
    for count in [*counts, *reversed(counts)]:
        log.info("the train loader with data.num_workers=%d", count)
        parts[count].append(loader_series(data, workers=count, seconds=seconds / 2, repeats=3))
    return {count: _joined(str(count), each) for count, each in parts.items()}


def _joined(name: str, parts: Sequence[Series]) -> Series:
    seconds = tuple(value for part in parts for value in part.seconds)
    return Series(name, seconds, tuple(value for part in parts for value in part.images))


def loader_series(
    data: ImageData,
    *,
    workers: int,
    seconds: float,
    repeats: int = REPEATS,
    consume: Callable[[Batch], object] = lambda batch: None,
    settle: Callable[[], object] = lambda: None,
) -> Series:
    """Measure what a train loader delivers once its workers are at work and what they had made ahead is used up.

    Args:
        data: Whose loader.
        workers: Processes that load.
        seconds: About how long, all repeats together.
        repeats: How often the time is taken.
        consume: What is done with each batch.
        settle: What is done before the time is taken, e.g. waiting for a GPU.
    """
    loader = train_loader(data, workers=workers)
    taken: list[tuple[float, int]] = []
    with closing(loader), closing(_endless(data, loader)) as batches:
        start = perf_counter()
        for _ in range(1 + loader.settings.made_ahead):
            consume(next(batches))
            if perf_counter() - start > seconds:
                break
        for _ in range(repeats):
            settle()
            taken.append(_repeat(batches, seconds=seconds / repeats, consume=consume, settle=settle))
    return Series(str(workers), tuple(took for took, _ in taken), tuple(images for _, images in taken))


def train_loader(data: ImageData, *, workers: int) -> Loader:
    """Make the train loader with another number of workers; that of the data stays."""
    wished, data.num_workers = data.num_workers, workers
    try:
        return data.train_dataloader()
    finally:
        data.num_workers = wished


def _repeat(
    batches: Iterator[Batch], *, seconds: float, consume: Callable[[Batch], object], settle: Callable[[], object]
) -> tuple[float, int]:
    images, start = 0, perf_counter()
    for _ in range(_MOST_BATCHES):
        batch = next(batches)
        consume(batch)
        images += len(batch["images"])
        if perf_counter() - start >= seconds:
            break
    settle()
    return perf_counter() - start, images


def _endless(data: ImageData, loader: Loader) -> Generator[Batch]:
    """Yield batches of one epoch after the other; a file that cannot be read is an error, as in training."""
    while True:
        for batch in loader:
            yield data.on_before_batch_transfer(batch, 0)


def measure_cache(made: Composed, *, rate: float, seconds: float) -> dict[str, Series] | None:
    """Measure the loader with a warm cache in memory.

    Args:
        made: What was composed.
        rate: What the loader delivers without, in images per second; filling a cache is about as fast.
        seconds: About how long to measure.
    Returns:
        What it delivers by ``data.cache``; None where it is on already, or does not fit into memory or into a minute.
    """
    if made.options.cache != "none":
        return None
    if (filling := len(made.datamodule.samples("train")) / rate) > _LONGEST_FILLING:
        log.info("data.cache was not measured: filling it would take about %.0f s", filling)
        return None
    log.info("the train loader with a warm cache in memory")
    try:
        data = made.data_with(cache="ram")
    except UserError as error:
        log.info("data.cache was not measured: %s", error)
        return None
    workers = configured_workers(made.datamodule)
    return {"ram": loader_series(data, workers=workers, seconds=seconds, repeats=6)}


def _report(
    made: Composed, stages: dict[str, Series], loaders: dict[int, Series], cached: dict[str, Series] | None
) -> Report:
    data, configured = made.datamodule, configured_workers(made.datamodule)
    about = f"clf bench data: {data.describe()}; batch size {data.batch_size}, {made.device_name}"
    settings = {
        "data": data.describe(),
        "batch_size": data.batch_size,
        "num_workers": configured,
        "augment": data.augment if isinstance(data.augment, str) else "a list of its own",
        "device": made.device_name,
    }
    report = Report("data", about, settings)
    report.tables = [_stage_table(stages), _loader_table(loaders, configured, cached or {})]
    report.measurements = {
        "stages": [{**series.to_dict(), "name": name} for name, series in stages.items()],
        "loader": [{**series.to_dict(), "num_workers": count} for count, series in loaders.items()],
        "cached": [{**series.to_dict(), "cache": mode} for mode, series in (cached or {}).items()],
    }
    disk = disk_share(stages)
    cached_now = made.options.cache != "none"
    report.bottleneck = name_data_bottleneck(stages, disk=disk, cached=cached_now)
    report.advice = advise_data(loaders, configured=configured, cached=cached)
    decoding = max(0.0, 1 - stages["augment"].median / stages["sample"].median)
    best = best_workers(loaders)
    report.notes = [
        f"data.num_workers: {best} is the least that delivers all it can: {digits(loaders[best].rate)} images/s",
        f"reading and decoding have {decoding:.0%} of a sample, against augmenting an image that was decoded whole",
        f"waiting for the disk has {disk:.0%} of a sample whose file is not in memory",
        "the loader was measured by itself; clf bench step says whether the network is slower",
    ]
    if cached_now:
        report.notes.insert(0, f"data.cache: {made.options.cache} is on: the loader reads no files, the stages do")
    return report


def disk_share(stages: dict[str, Series]) -> float:
    """Say which share of a sample waiting for the disk has, where the file is not in memory."""
    if "disk" not in stages:
        return 0.0
    waiting = max(0.0, stages["disk"].median - stages["read"].median)
    return waiting / (waiting + stages["sample"].median)


def _stage_table(stages: dict[str, Series]) -> Table:
    rows = [
        (STAGES[name], milliseconds(stages[name].median), milliseconds(stages[name].spread), digits(stages[name].rate))
        for name in STAGES
        if name in stages
    ]
    return Table("an image, in one process", ("stage", "ms", "spread", "images/s"), rows)


def _loader_table(loaders: dict[int, Series], configured: int, cached: dict[str, Series]) -> Table:
    named = {f"{count}{' (configured)' if count == configured else ''}": series for count, series in loaders.items()}
    named |= {f"{configured}, data.cache: {mode}": series for mode, series in cached.items()}
    rows = [
        (
            name,
            digits(series.rate),
            f"± {series.spread / series.median:.0%}",
            "" if series is loaders[configured] else str(compare(loaders[configured], series)),
            str(sum(series.images)),
        )
        for name, series in named.items()
    ]
    return Table("the train loader", ("data.num_workers", "images/s", "spread", "to configured", "measured on"), rows)

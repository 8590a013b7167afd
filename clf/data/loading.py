"""From files to batches, in any number of workers with the same result, and from any batch of an epoch onwards."""

import atexit
import signal
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from clf.allocator import keep_freed_memory
from clf.cores import usable_cores
from clf.crops import Source
from clf.data.cachefile import Cache
from clf.data.sampling import Key
from clf.data.strings import Strings
from clf.errors import UserError
from clf.preprocess import Preprocessing, UnreadableImage, decode, evaluation_array
from clf.seeding import mix_seed
from clf.transforms import TrainTransform

Batch = dict[str, Any]
# File, or what a cache has of it, and its key -> (3, H, W): uint8, or normalised float32 in evaluation.
Pixels = Callable[[Any, Key], Tensor]

_MOST_WORKERS: Final = 8  # More decode no faster: they wait for the disk and for each other.
_GRACE_SECONDS = 30  # What a worker that was told to end gives the main process to finish its step and save.


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker made of one sample: its pixels, or the reason why there are none."""

    index: int
    image: Tensor | None
    error: str = ""
    filler: bool = False


class Images(Dataset[Loaded]):
    """Images of a split, decoded when asked for; it never raises for a bad file, because that would end a worker.

    Args:
        paths: Files to read.
        labels: Class index of each; None where they are not known.
        pixels: Reads a file and makes what the network gets of it.
        size: (height, width) of that input.
        with_index: Whether batches say which samples they hold.
        cache: What is decoded already, in the order of the paths.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        labels: Sequence[int] | None,
        pixels: Pixels,
        size: tuple[int, int],
        with_index: bool,
        cache: Cache | None = None,
    ) -> None:
        self._paths = paths if isinstance(paths, Strings) else Strings(paths)
        self._labels = None if labels is None else torch.tensor(labels, dtype=torch.int64)
        self._pixels = pixels
        self._size = size
        self._with_index = with_index
        self._cache = cache

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, key: Key) -> Loaded:
        index, path = key.index, self._paths[key.index]
        kept = None if self._cache is None else self._cache[index]
        try:
            return Loaded(index, self._pixels(path if kept is None else kept, key), filler=key.filler)
        except UnreadableImage as error:
            return Loaded(index, None, str(error))
        except UserError as error:  # of the augmentation, which does not know the path
            return Loaded(index, None, f"image {path!r}: {error}")

    def collate(self, loaded: list[Loaded]) -> Batch:
        """Stack what could be read.

        Returns:
            ``images`` (N, 3, H, W), stored as (N, H, W, 3) if they are uint8; ``labels`` int64 (N,) where they are
            known, ``index`` int64 (N,) if asked for, ``errors``, a list of (index, message), if there are any, and
            ``fillers``, how many of the last images count for nothing, if any do; N counts only what could be read.
        """
        good = [item for item in loaded if item.image is not None]
        images = [item.image for item in good if item.image is not None]
        index = torch.tensor([item.index for item in good], dtype=torch.int64)
        batch: Batch = {"images": stack(images) if images else torch.empty((0, 3, *self._size))}
        if self._labels is not None:
            batch["labels"] = self._labels[index]
        if self._with_index:
            batch["index"] = index
        if errors := [(item.index, item.error) for item in loaded if item.image is None]:
            batch["errors"] = errors
        if fillers := sum(item.filler for item in good):
            batch["fillers"] = fillers
        return batch


def stack(images: list[Tensor]) -> Tensor:
    """Make a batch of equally large images; 8-bit ones channels last, as decoders write them and networks like them."""
    if images[0].dtype != torch.uint8:
        return torch.stack(images)
    rows = [image.permute(1, 2, 0).numpy() for image in images]  # numpy copies these twenty times as fast as torch
    batch = torch.empty((len(rows), *rows[0].shape), dtype=torch.uint8)
    if get_worker_info() is not None:
        batch.share_memory_()  # type: ignore[no-untyped-call]  # where it would be copied to on its way to the main process
    np.stack(rows, out=batch.numpy())
    return batch.permute(0, 3, 1, 2)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch; from pinned memory without waiting."""
    return {
        key: each.to(device, non_blocking=True) if isinstance(each, Tensor) else each for key, each in batch.items()
    }


def train_tensor(source: Source, key: Key, *, transform: TrainTransform, seed: int) -> Tensor:
    """Augment an image as the seed and its key say: uint8 (3, H, W)."""
    return transform(source, seed=mix_seed(seed, key.epoch, key.index, key.repeat))


def eval_tensor(path: str, _: Key, *, preprocessing: Preprocessing) -> Tensor:
    """Prepare an image as in every evaluation: float32 (3, H, W)."""
    return torch.from_numpy(evaluation_array(decode(path), preprocessing))


@dataclass(frozen=True)
class LoaderSettings:
    """How batches are made ready; torch's ``DataLoader`` explains each.

    Args:
        num_workers: Processes that decode; 0 decodes in the main one.
        pin_memory: Whether batches lie where a GPU can fetch them.
        persistent_workers: Whether workers stay from epoch to epoch.
        prefetch_factor: Batches that each worker makes ahead.
    """

    num_workers: int = 0
    pin_memory: bool = False
    persistent_workers: bool = False
    prefetch_factor: int | None = None

    @property
    def made_ahead(self) -> int:
        """How many batches the workers may have made before the first is asked for."""
        return self.num_workers * (self.prefetch_factor or 2)


def fit_to_machine(
    wanted: LoaderSettings, *, num_workers: int | Literal["auto"], batches: int, processes: int, device: str
) -> tuple[LoaderSettings, list[str]]:
    """Choose the number of workers, and correct what cannot work.

    Args:
        wanted: As the user has them, but for the workers.
        num_workers: As the user has it.
        batches: How many there are to make.
        processes: Training processes on this machine, which share its cores.
        device: Type of the device that trains.
    Returns:
        Settings that work, and what there is to say about them, each line beginning with a key.
    """
    workers, notes = _count_workers(num_workers, batches=batches, processes=processes)
    settings, corrections = fit_to_device(replace(wanted, num_workers=workers), device=device)
    return settings, [*notes, *corrections]


def _count_workers(wanted: int | Literal["auto"], *, batches: int, processes: int) -> tuple[int, list[str]]:
    cores = max(1, usable_cores() // processes)
    if wanted == "auto":
        return min(cores, _MOST_WORKERS, batches), []
    return wanted, [f"num_workers={wanted} is more than this process has CPU cores ({cores})"] * (wanted > cores)


def fit_to_device(wanted: LoaderSettings, *, device: str) -> tuple[LoaderSettings, list[str]]:
    """Correct settings that cannot work here.

    Args:
        wanted: As the user has them.
        device: Type of the device that trains: ``cuda``, ``cpu``, ``mps``, …
    Returns:
        Settings that work, and for each correction what was done and why.
    """
    workers = 0 if device == "mps" else wanted.num_workers
    said = ["num_workers is 0, because workers and MPS do not get along"] if workers != wanted.num_workers else []
    idle = [
        key
        for key, on in (("persistent_workers", wanted.persistent_workers), ("prefetch_factor", wanted.prefetch_factor))
        if on and not workers
    ]
    if idle:
        said.append(f"{' and '.join(idle)} off, because num_workers is 0")
    pin_memory = wanted.pin_memory and device == "cuda"
    if wanted.pin_memory and not pin_memory:
        said.append(f"pin_memory off, because the device is {device}")
    return LoaderSettings(
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=wanted.persistent_workers and workers > 0,
        prefetch_factor=wanted.prefetch_factor if workers else None,
    ), said


class Loader:
    """The batches of a split, again for each epoch.

    Deliberately no ``DataLoader``: Lightning takes those apart (samplers, prediction, overfitting) and would shuffle
    ours differently. It has a ``state_dict`` to tell Lightning that it can be resumed: ``plan`` knows where to begin.

    Args:
        images: What to load.
        plan: Called when the first batch of an epoch is asked for, not before: by then the trainer has restored how
            far it had come. Returns the (epoch, index) of each sample of each batch that is still to come.
        length: Batches in a whole epoch.
        settings: As they work on this machine.
    """

    def __init__(
        self, images: Images, *, plan: Callable[[], Iterable[list[Key]]], length: int, settings: LoaderSettings
    ) -> None:
        self._images = images
        self._plan = _Plan(plan)
        self._length = length
        self.settings = settings
        self._loader: DataLoader[Loaded] | None = None
        # Lightning knows this name: at the end of a loop it shuts down the workers that it finds here.
        self._iterator: Any = None
        _open_loaders.add(self)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        with warnings.catch_warnings():
            # Whoever chose the settings has said how many workers there are, and why.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            if self._iterator is None or self._loader is None:
                self._loader = self._build()
            with _ctrl_c_held():
                self._iterator = iter(self._loader)
        yield from self._iterator

    def _build(self) -> DataLoader[Loaded]:
        return DataLoader(
            self._images,
            batch_sampler=self._plan,
            collate_fn=self._images.collate,
            num_workers=self.settings.num_workers,
            pin_memory=self.settings.pin_memory,
            persistent_workers=self.settings.persistent_workers,
            prefetch_factor=self.settings.prefetch_factor,
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(0),  # its own: making batches must not move the global one
        )

    def close(self) -> None:
        """End the workers; the next epoch starts new ones."""
        if hasattr(self._iterator, "_shutdown_workers"):
            self._iterator._shutdown_workers()
        self._iterator = self._loader = None

    def state_dict(self) -> dict[str, Any]:
        """Nothing: how far a run has come is the trainer's to remember."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing; see ``state_dict``."""


class _Plan(Sampler[list[Key]]):
    """A batch sampler that makes its plan when it is asked for the first batch."""

    def __init__(self, plan: Callable[[], Iterable[list[Key]]]) -> None:
        self._make = plan

    def __iter__(self) -> Iterator[list[Key]]:
        yield from self._make()  # torch makes an iterator too many, which must cost nothing


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back while workers start: between its fork and its first line, a worker would die of it, aloud."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where there is no fork
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process: it needs its workers to finish the step, and ends them itself."""
    keep_freed_memory()  # whatever the device: each image and each batch is as large as the last one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


_open_loaders: "weakref.WeakSet[Loader]" = weakref.WeakSet()


@atexit.register
def _close_loaders() -> None:
    # Else the interpreter ends the workers by SIGTERM, which they take their time over.
    for loader in list(_open_loaders):
        loader.close()

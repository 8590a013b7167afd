"""How fast training images come: files in, batches out, against torchvision, timm and the decoder alone.

Each loads the same files through its own loader, in a process of its own, without workers and with one thread: random
crops with RandomResizedCrop's shares of 8 to 100 %, mirrored half of the time, in batches of 32 at 224 pixels;
everything from the file to the batch counts. Recipe ``standard`` has crops of 35 % and more, bicubic resizing and
colour changes of 0.4. What arrives is what each hands over: clf, timm and torchvision's v2 give 8-bit batches, which
are normalised where they are used; torchvision's reference gives normalised floats. Rates are of CPU time, user and
system: what else runs on the machine then counts less. As in clf's loader workers, what clf frees is kept for the next
image (clf/allocator.py), and what the limit frees, too.

- torchvision: the reference's transforms on Pillow images, ``default_collate``.
- timm: ``create_loader`` as its train script calls it, up to and with its fast_collate.
- torchvision_v2: ``decode_jpeg``, transforms v2 on bytes.
- decoding: simplejpeg decodes the files from memory, whole, and nothing else: the limit of who decodes all pixels.

Of clf it is also measured with the normalisation on this CPU, which training on a CPU pays, too: ``…_normalised``,
against torchvision's reference, which hands over the same.

Sets: ``photos`` and ``large`` are made (benchmarks/photos.py), ``small`` is rendered (clf synth), ``--data FOLDER`` and
``--small_data FOLDER`` are yours: at most ``--images`` JPEGs of it, evenly drawn from the sorted list.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring

measuring.fix_threads(1)

import numpy as np
import photos
import simplejpeg
import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import InterpolationMode, v2

from clf import crops
from clf.allocator import keep_freed_memory
from clf.data.datamodule import ImageData
from clf.preprocess import Preprocessing
from clf.transforms import normalised

BATCH = 32
SETS = ("photos", "large", "small", "folder", "small_folder")
SIZES = {"small": 112, "small_folder": 112}
"""Pixels that come out, where it is not 224."""

KEEPERS = ("clf", "clf_normalised", "without", "decoding")
"""Who keeps freed memory: clf's loader workers do, and so does the limit."""

Pass = Callable[[], None]  # once through the set


class Bytes(Dataset[Any]):
    """torchvision's own decoder and its transforms on 8-bit tensors."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Any], Any]) -> None:
        self._paths = paths
        self._transform = transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = decode_jpeg(read_file(str(self._paths[index])), mode=ImageReadMode.RGB)
        return self._transform(image), 0


def passes(root: Path, *, batch: int, size: int, standard: bool) -> dict[str, Pass]:
    """Make what is compared, each ready to go through the files of ``root/train``."""
    paths = sorted((root / "train").rglob("*.jpg"))
    encoded = [path.read_bytes() for path in paths]

    def limit() -> None:
        for data in encoded:
            simplejpeg.decode_jpeg(data)

    data, preprocessing = _clf(root, batch=batch, size=size, standard=standard)
    return {
        "clf": through(data.train_dataloader(), len(paths)),
        "torchvision": through(_torchvision(root, batch=batch, size=size, standard=standard), len(paths)),
        "timm": through(_timm(root, batch=batch, size=size, standard=standard), len(paths)),
        "torchvision_v2": through(_torchvision_v2(paths, batch=batch, size=size, standard=standard), len(paths)),
        "decoding": limit,
        "clf_normalised": through(
            data.train_dataloader(), len(paths), then=lambda batch: normalised(batch["images"], preprocessing)
        ),
    }


def through(loader: Iterable[Any], count: int, then: Callable[[Any], Any] = lambda batch: batch) -> Pass:
    """Go through a loader; as many images have to come as there are."""

    def once() -> None:
        seen = 0
        for batch in loader:
            then(batch)
            seen += len(batch["images"] if isinstance(batch, dict) else batch[0])
        assert seen == count, f"{seen} of {count} images came"

    return once


def _clf(root: Path, *, batch: int, size: int, standard: bool) -> tuple[ImageData, Preprocessing]:
    crop = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    data = ImageData(str(root), augment="standard" if standard else crop, batch_size=batch, num_workers=0)
    preprocessing = Preprocessing((size, size), interpolation="bicubic" if standard else "bilinear")
    data.bind(preprocessing)
    return data, preprocessing


def _torchvision(root: Path, *, batch: int, size: int, standard: bool) -> DataLoader[Any]:
    crop = {"scale": (0.35, 1.0), "interpolation": InterpolationMode.BICUBIC} if standard else {}
    steps = [
        v1.RandomResizedCrop(size, **crop),
        v1.RandomHorizontalFlip(),
        *([v1.ColorJitter(0.4, 0.4, 0.4)] if standard else []),
        v1.PILToTensor(),
        v1.ConvertImageDtype(torch.float),
        v1.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    return DataLoader(ImageFolder(str(root / "train"), v1.Compose(steps)), batch_size=batch, shuffle=True)


def _timm(root: Path, *, batch: int, size: int, standard: bool) -> Iterable[Any]:
    crop: dict[str, Any] = {"scale": (0.35, 1.0), "interpolation": "bicubic"} if standard else {}
    dataset: Any = create_dataset("", root=str(root), split="train", is_training=True, batch_size=batch)
    loader: Any = create_loader(
        dataset,
        input_size=size,
        batch_size=batch,
        is_training=True,
        color_jitter=0.4 if standard else 0.0,
        num_workers=0,
        device=torch.device("cpu"),
        use_prefetcher=True,
        **crop,
    )
    batches: Iterable[Any] = loader.loader  # up to where it hands bytes over
    return batches


def _torchvision_v2(paths: Sequence[Path], *, batch: int, size: int, standard: bool) -> DataLoader[Any]:
    crop = {"scale": (0.35, 1.0), "interpolation": InterpolationMode.BICUBIC} if standard else {}
    steps = [v2.RandomResizedCrop(size, antialias=True, **crop), v2.RandomHorizontalFlip()]
    steps += [v2.ColorJitter(0.4, 0.4, 0.4)] if standard else []
    return DataLoader(Bytes(paths, v2.Compose(steps)), batch_size=batch, shuffle=True)


def parts(paths: Sequence[Path], *, size: int) -> dict[str, float]:
    """Share of the CPU time of a crop that goes into reading the file, decoding it and resizing the crop."""
    crop, _ = crops.split_crop([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    assert crop is not None
    opened = [jpeg for path in paths if (jpeg := crops._Jpeg.open(path)) is not None]
    torch.manual_seed(0)
    boxes = [crop._box(*jpeg.size) for jpeg in opened]
    drawn = [(jpeg, box, crop._reduction(box)) for jpeg, box in zip(opened, boxes, strict=True)]
    cut = [jpeg.region(tuple(edge // by * by for edge in box), by) for jpeg, box, by in drawn]

    def least(work: Callable[[Any], object], over: Sequence[Any]) -> float:
        return min(measuring.cpu_seconds(lambda: [work(each) and None for each in over]) for _ in range(5))

    whole = least(lambda path: crop(path).shape, paths)
    found = {
        "reading": least(lambda path: crops._Jpeg.open(path) is None, paths),
        "decoding": least(lambda one: one[0]._pixels(one[2]).shape, drawn),
        "resizing": least(lambda pixels: crops._resize(pixels, crop.size, crop.interpolation).shape, cut),
    }
    return {name: round(seconds / whole, 2) for name, seconds in found.items()}


def prepare(name: str, folder: Path, *, flags: argparse.Namespace) -> Path | None:
    """Make a set, or link what the user gave; None where it was not given."""
    given = {"folder": flags.data, "small_folder": flags.small_data}
    if name in given:
        if given[name] is None:
            print(f"{name}: left out, for no --{'data' if name == 'folder' else 'small_data'} FOLDER was given")
            return None
        found = sorted(path for path in given[name].rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    elif name == "small":
        per_class = str(-(-flags.images // 12))
        words = ("--train_per_class", per_class, "--val_per_class", "1", "--test_per_class", "1")
        measuring.run(measuring.clf("synth", "--output", folder / "rendered", *words))
        found = sorted((folder / "rendered" / "train").glob("*.jpg"))
    else:
        count = flags.images if name == "photos" else flags.large
        found = photos.make(folder / "made", kind=name, count=count)
    return link(found, folder / "set", most=flags.large if name == "large" else flags.images)


def link(found: Sequence[Path], root: Path, *, most: int) -> Path:
    """Lay images out so that all can read them: whole batches, two classes, and a validation that nobody uses."""
    count = min(len(found), most) // BATCH * BATCH or len(found)
    for number, at in enumerate(np.linspace(0, len(found) - 1, count).astype(int)):
        place = root / "train" / "ab"[number % 2] / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(found[at].resolve())
    unused = root / "valid" / "a" / "0.jpg"
    unused.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(unused)
    return root


def measure(name: str, root: Path, *, flags: argparse.Namespace) -> None:
    """Compare on one set, and record images per second."""
    size = SIZES.get(name, 224)
    files = sorted((root / "train").rglob("*.jpg"))
    for recipe in flags.recipes:
        print(f"{name}, {recipe}, {size} pixels, {len(files)} images")
        work = passes(root, batch=min(BATCH, len(files)), size=size, standard=recipe == "standard")
        with measuring.apart(work, first=dict.fromkeys(KEEPERS, keep_freed_memory)) as timed:
            seconds = measuring.alternate(timed, rounds=flags.rounds)
        rates = {each: measuring.Series([len(files) / second for second in s.values]) for each, s in seconds.items()}
        facts: dict[str, Any] = {"images": len(files), "pixels": size, "threads": 1, "unit": "images/s"}
        facts["mean_kib"] = round(sum(path.stat().st_size for path in files) / len(files) / 1024, 1)
        measure = f"input_{name}" + ("_standard" if recipe == "standard" else "")
        ours, normalised = rates.pop("clf"), rates.pop("clf_normalised")
        shares: dict[str, Any] = {} if recipe == "standard" else {"parts": parts(files, size=size)}
        measuring.record(flags.record, measure, ours, peers=rates, **shares, **facts)
        reference = {"torchvision": rates["torchvision"]}
        measuring.record(flags.record, f"{measure}_normalised", normalised, peers=reference, **facts)


def main() -> None:
    """Measure all sets that there are."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--recipes", nargs="+", choices=("crop", "standard"), default=("crop", "standard"))
    parser.add_argument("--data", type=Path, help="a folder of JPEGs of a few hundred pixels, for the set `folder`")
    parser.add_argument("--small_data", type=Path, help="a folder of small JPEGs, for the set `small_folder`")
    parser.add_argument("--images", type=int, default=256, help="of each set (default: 256)")
    parser.add_argument("--large", type=int, default=16, help="of the set `large` (default: %(default)s)")
    flags = measuring.parse(parser)
    torch.set_num_threads(1)
    for name in flags.sets:
        with TemporaryDirectory() as folder:
            root = prepare(name, Path(folder), flags=flags)
            if root is not None:
                measure(name, root, flags=flags)


if __name__ == "__main__":
    main()

"""Datasets of torchvision, by class path: their image files where they have some, else each image kept once as PNG."""

import hashlib
import importlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torchvision.datasets
from PIL import Image
from torch import Tensor
from torchvision.datasets import DatasetFolder, VisionDataset

from clf.data.jsonl import JsonlSource
from clf.data.layout import SPLIT_NAMES, SPLITS, Tree
from clf.data.samples import Sample, Split
from clf.data.tables import RowKeys
from clf.errors import UserError, did_you_mean
from clf.files import new_folder
from clf.progressbar import watched

RECORD_FILE: Final = "torchvision.json"
_KEPT_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # what PNG holds without loss
_IMAGES_PER_FOLDER: Final = 1000
# Names of a split, in the order in which a dataset is asked whether it has them.
_SPLIT_ARGUMENTS: Final[Mapping[Split, tuple[str, ...]]] = {
    "train": ("train", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
_OURS: Final = {
    **dict.fromkeys(("transform", "target_transform", "transforms"), "data.augment says what is done to images"),
    "loader": "clf reads the images itself",
    "download": "write it beside dataset and root",
}


class TorchvisionSource:
    """A classification dataset of torchvision, or a class of one's own that derives from its ``VisionDataset``.

    Splits are found by the constructor: ``train: bool``, or ``split: str`` with what the dataset accepts of train (or
    trainval), val (or valid) and test; without either, everything is train. Classes are called as in the dataset's
    ``classes``. Images that are no files of their own are written once, as PNG, and read from there ever after.

    Args:
        dataset: The class, e.g. ``CIFAR10`` or ``torchvision.datasets.CIFAR10``.
        root: Folder of the dataset; null for a class that takes none.
        download: Whether a dataset that is not there is downloaded.
        splits: Constructor arguments of each split by its name, e.g. ``{train: {split: trainval}, test: {split:
            test}}``; null finds them out.
        arguments: Further constructor arguments, the same for all splits.
        folder: Where PNG files are kept; by default a folder in the root, or in ``data`` without one, whose name has a
            hash of all of the above. Remove it to have it written anew.
    """

    def __init__(
        self,
        dataset: str,
        root: str | None = None,
        download: bool = False,
        splits: dict[str, dict[str, Any]] | None = None,
        arguments: dict[str, Any] | None = None,
        folder: str | None = None,
    ) -> None:
        self._class = _find_class(dataset)
        self._name = f"{self._class.__module__.partition('.')[0]}'s {self._class.__name__}"
        self._parameters = inspect.signature(self._class).parameters
        self._root = root
        self._download = download
        self._arguments = dict(arguments or {})
        self._splits = None if splits is None else {_split(name): dict(given) for name, given in splits.items()}
        if splits and len(self._splits or {}) < len(splits):
            raise UserError(f"splits names a split twice: {', '.join(splits)}")
        if root is not None and not self._takes("root"):
            raise UserError(f"root={root!r}: {self._name} lies in no folder; set it to null")
        for given in (self._arguments, *(self._splits or {}).values()):
            self._check(given)
        if download and not self._takes("download"):
            raise UserError(f"download=true: {self._name} cannot be downloaded; put it there and set it to false")
        self._folder = folder

    def __str__(self) -> str:
        """Name the dataset and its place."""
        return f"{self._name} in {self._root}" if self._root else self._name

    @property
    def folder(self) -> Path:
        """Where images are kept that are no files of their own."""
        digest = hashlib.sha256(json.dumps(self._record).encode()).hexdigest()
        return Path(self._folder or f"{self._root or 'data'}/{self._class.__name__}-{digest[:8]}")

    def samples(self, split: Split) -> list[Sample]:
        """List a split in the dataset's order.

        Raises:
            UserError: If the dataset is not there, or is not one of images with classes.
        """
        if not self._has_files:
            self._keep()
            return JsonlSource(Tree(str(self.folder)), keys=RowKeys()).samples(split)
        dataset = self._open(split)
        if dataset is None:
            return []
        names = _class_names(dataset)
        pairs = dataset.samples if isinstance(dataset, DatasetFolder) else _pairs(dataset)
        return [Sample(os.fspath(path), self._label(target, names)) for path, target in pairs]

    # The dataset's class.

    @property
    def _record(self) -> dict[str, object]:
        """What decides the kept images: equal records are equal images."""
        name = f"{self._class.__module__}.{self._class.__qualname__}"
        record = {"format": 1, "dataset": name, "arguments": self._arguments, "splits": self._splits}
        # A folder of the user's own does not move with the root.
        return {**record, "root": self._root} if self._folder else record

    @property
    def _has_files(self) -> bool:
        """Whether paths can be had: of torchvision's own classes those that take a ``loader`` hand it each path."""
        ours = self._class.__module__.startswith("torchvision.")
        return issubclass(self._class, DatasetFolder) or (ours and "loader" in self._parameters)

    def _takes(self, name: str) -> bool:
        kinds = {parameter.kind for parameter in self._parameters.values()}
        return name in self._parameters or inspect.Parameter.VAR_KEYWORD in kinds

    def _check(self, given: Mapping[str, Any]) -> None:
        for name in given:
            if name in _OURS:
                raise UserError(f"{name}={given[name]!r} is not for {self._name}; {_OURS[name]}")
            if not self._takes(name):
                hint = did_you_mean(name, self._parameters)
                raise UserError(f"{name}={given[name]!r}: {self._name} does not take {name!r}{hint}")

    def _choices(self, split: Split) -> list[dict[str, Any]]:
        """Constructor arguments that may make a split, the likeliest first."""
        if self._splits is not None:
            return [self._splits[split]] if split in self._splits else []
        if "train" in self._parameters:
            return [] if split == "val" else [{"train": split == "train"}]
        if "split" in self._parameters:
            return [{"split": name} for name in _SPLIT_ARGUMENTS[split]]
        return [{}] if split == "train" else []

    def _open(self, split: Split) -> Any:
        """Build the dataset of a split; None where it has no such split."""
        refusal: ValueError | None = None
        for given in self._choices(split):
            try:
                return self._build(given)
            except UserError:
                raise
            except ValueError as error:
                if self._splits is not None or "split" not in str(error):
                    raise UserError(f"{self._name} cannot be made with {given}: {error}") from error
                refusal = refusal or error
        if split == "train" and refusal:
            reason = str(refusal).rstrip(".")
            raise UserError(
                f"{self._name} has no split called train ({reason}); say in splits what each split is, "
                "e.g. splits: {train: {split: …}, test: {split: …}}"
            ) from refusal
        return None

    def _build(self, given: Mapping[str, Any]) -> Any:
        arguments = {**({} if self._root is None else {"root": self._root}), **self._arguments, **given}
        if "download" in self._parameters or self._download:
            arguments["download"] = self._download
        if self._has_files and "loader" in self._parameters:
            arguments["loader"] = os.fspath
        try:
            inspect.signature(self._class).bind(**arguments)
        except TypeError as error:
            raise UserError(f"{self._name}: {error}; give it as root, or in arguments") from error
        try:
            return self._class(**arguments)
        except ImportError as error:
            raise UserError(f"{self._name} needs a package that is not here ({error}); pip install it") from error
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split()).split(". ")[0]
            if self._download:
                raise UserError(f"{self._name} cannot be downloaded to {self._root!r} ({reason})") from error
            remedy = "set data.source.init_args.download to true" if self._takes("download") else "put it there"
            raise UserError(f"{self._name} is not in {arguments.get('root')!r} ({reason}); {remedy}") from error

    def _label(self, target: object, names: Sequence[str] | None) -> str:
        if isinstance(target, Tensor | np.generic | np.ndarray) and target.ndim == 0:
            target = target.item()
        if isinstance(target, str):
            return target
        if not isinstance(target, int):
            raise UserError(f"{self._name}: the target {target!r:.60} is no class; this is no classification dataset")
        if names is None:
            return str(target)
        if not 0 <= target < len(names):
            raise UserError(f"{self._name}: the target {target} is none of its {len(names)} classes")
        return names[target]

    # Images that are no files.

    def _keep(self) -> None:
        """Write all splits as PNG files with ``annotations.jsonl``: all of them or nothing."""
        if self._is_kept():
            return
        datasets = {split: dataset for split in SPLITS if (dataset := self._open(split)) is not None}
        try:
            with new_folder(self.folder) as partial:
                for split, dataset in datasets.items():
                    self._write(dataset, split=split, folder=partial / split)
                (partial / RECORD_FILE).write_text(json.dumps(self._record) + "\n", "utf-8")
        except OSError as error:
            if not self._is_kept():  # another process was faster
                raise UserError(f"cannot write the images to {self.folder}: {error}; set folder to another") from error

    def _is_kept(self) -> bool:
        try:
            found = json.loads((self.folder / RECORD_FILE).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir())):
                raise UserError(f"folder={str(self.folder)!r} holds something else; name a new one") from None
            return False
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / RECORD_FILE} is spoilt: {error}; remove {self.folder}") from error
        if found != json.loads(json.dumps(self._record)):
            raise UserError(f"folder={str(self.folder)!r} holds another dataset ({found}); name a new one")
        return True

    def _write(self, dataset: Any, *, split: Split, folder: Path) -> None:
        names = _class_names(dataset)
        rows = []
        for number in watched(range(len(dataset)), title=f"keeping {split} of {self._name} as PNG"):
            image, target = dataset[number]
            if not isinstance(image, Image.Image):
                raise UserError(f"{self._name}: an item is a {type(image).__name__}, and a Pillow image is needed")
            file = f"{number // _IMAGES_PER_FOLDER:04d}/{number:07d}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (image if image.mode in _KEPT_MODES else image.convert("RGB")).save(folder / file)
            rows.append(json.dumps({"image": file, "label": self._label(target, names)}) + "\n")
        (folder / "annotations.jsonl").write_text("".join(rows), "utf-8")


def _find_class(name: str) -> type[VisionDataset]:
    module, _, attribute = name.rpartition(".")
    module = module or "torchvision.datasets"
    try:
        found = vars(importlib.import_module(module)).get(attribute)
    except ImportError as error:
        raise UserError(f"dataset={name!r} cannot be imported ({error}); write package.module.Class") from error
    if found is None:
        known = (
            torchvision.datasets.__all__ if module == "torchvision.datasets" else vars(importlib.import_module(module))
        )
        raise UserError(f"dataset={name!r}: {module} has no {attribute!r}{did_you_mean(attribute, known)}")
    if not (inspect.isclass(found) and issubclass(found, VisionDataset)):
        raise UserError(f"dataset={name!r} is no torchvision.datasets.VisionDataset")
    return found


def _split(name: str) -> Split:
    if name not in SPLIT_NAMES:
        raise UserError(f"splits has {name!r}; call the splits train, val and test")
    return SPLIT_NAMES[name]


def _class_names(dataset: Any) -> list[str] | None:
    """Name the classes as the dataset does; None where it does not."""
    found = getattr(dataset, "classes", None)
    if not isinstance(found, list | tuple):
        return None
    names = [", ".join(name) if isinstance(name, list | tuple) else str(name) for name in found]  # synonyms
    counts = Counter(names)
    # ImageNet has two kinds of crane.
    return [name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]


def _pairs(dataset: Any) -> list[tuple[str, Any]]:
    return [dataset[index] for index in range(len(dataset))]

"""Datasets of torchvision: real ones, made on the spot in the files that torchvision reads."""

import importlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import draw, draw_folders, image_data, touch
from PIL import Image
from torchvision.datasets import MNIST, FakeData, VisionDataset

from clf.data.torchvision import TorchvisionSource
from clf.errors import UserError

DIGITS = {"train": [0, 7, 7, 3], "t10k": [3, 0]}


class Own(VisionDataset):  # type: ignore[misc]  # torchvision ships no types
    """A user's own dataset: squares in two greys, one image after the other."""

    classes = ("dark", "light")
    modes = ("RGB", "L", "CMYK", "RGBA")
    broken_at: int | None = None
    item: Callable[[int], Any] | None = None

    def __init__(self, root: str, size: int = 4) -> None:
        super().__init__(root)
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        if index == self.broken_at:
            raise RuntimeError("the disk is gone")
        image = Image.new("L", (4, 3), 40 * index).convert(self.modes[index % 4])
        return type(self).item(index) if type(self).item else (image, index % 2)  # type: ignore[misc]


class Crane(VisionDataset):  # type: ignore[misc]
    """ImageNet's way of naming classes: synonyms, and one name twice."""

    classes = (("crane",), ("crane",), ("tench", "Tinca tinca"))

    def __init__(self, root: str) -> None:
        super().__init__(root)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, np.int64]:
        return Image.new("RGB", (2, 2)), np.int64(index)


class Needy(Own):
    """Reads a format that needs another package, as Flowers102 needs scipy."""

    def __init__(self, root: str) -> None:
        importlib.import_module("a_package_that_nobody_has")
        super().__init__(root)


def own(root: Path, name: str = "Own", **options: Any) -> TorchvisionSource:
    return TorchvisionSource(f"test_torchvision.{name}", root=str(root), **options)


def write_mnist(root: Path) -> Path:
    """Write MNIST's files with the images that `DIGITS` names."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for split, digits in DIGITS.items():
        pixels = np.random.default_rng(len(digits)).integers(0, 256, (len(digits), 28, 28), np.uint8)
        head = struct.pack(">4I", 0x803, len(digits), 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(digits)) + bytes(digits))
    return root


def write_food(root: Path) -> Path:
    """Write the files of Food101; the images are empty, because nobody reads them."""
    (root / "food-101/meta").mkdir(parents=True)
    for split, names in {"train": ["pie/1", "soup/2", "pie/3"], "test": ["soup/4"]}.items():
        rows: dict[str, list[str]] = {"pie": [], "soup": []}
        for name in names:
            rows[name.split("/")[0]].append(name)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(rows))
        touch(root, *[f"food-101/images/{name}.jpg" for name in names])
    return root


def write_pets(root: Path) -> Path:
    """Write the files of OxfordIIITPet, whose splits are called trainval and test."""
    for split, names in {"trainval": ["Abyssinian_1", "pug_1"], "test": ["Abyssinian_2", "pug_2"]}.items():
        touch(root, "oxford-iiit-pet/annotations/x")
        lines = [f"{name} {1 + name.startswith('pug')} 1 1\n" for name in names]
        (root / f"oxford-iiit-pet/annotations/{split}.txt").write_text("".join(lines))
        for number, name in enumerate(names):
            draw(root / f"oxford-iiit-pet/images/{name}.jpg", seed=number)
    return root


def read(path: str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def labels(source: TorchvisionSource) -> dict[str, list[str | None]]:
    return {split: [sample.label for sample in source.samples(split)] for split in ("train", "val", "test")}


def test_images_are_kept_without_loss_and_called_as_the_dataset_calls_them(tmp_path: Path) -> None:
    source = TorchvisionSource("MNIST", root=str(write_mnist(tmp_path)))
    assert labels(source) == {
        "train": ["0 - zero", "7 - seven", "7 - seven", "3 - three"],
        "val": [],
        "test": ["3 - three", "0 - zero"],
    }
    for split, train in (("train", True), ("test", False)):
        original = MNIST(tmp_path, train=train)
        for sample, (image, _) in zip(source.samples(split), original, strict=True):  # type: ignore[arg-type]
            assert np.array_equal(np.asarray(read(sample.path)), np.asarray(image))


def test_kept_images_are_all_that_a_second_use_needs(tmp_path: Path) -> None:
    first = TorchvisionSource("torchvision.datasets.MNIST", root=str(write_mnist(tmp_path)))
    before = first.samples("train")
    for file in (tmp_path / "MNIST/raw").iterdir():
        file.unlink()
    second = TorchvisionSource("MNIST", root=str(tmp_path))
    assert second.samples("train") == before
    assert second.folder.parent == tmp_path


def test_dataset_of_files_gives_their_paths_without_reading_them(tmp_path: Path) -> None:
    source = TorchvisionSource("Food101", root=str(write_food(tmp_path)))
    assert labels(source) == {"train": ["pie", "pie", "soup"], "val": [], "test": ["soup"]}
    assert source.samples("test")[0].path == f"{tmp_path}/food-101/images/soup/4.jpg"
    assert not source.folder.exists()


def test_folders_of_images_are_read_as_they_are(tmp_path: Path) -> None:
    draw_folders(tmp_path, {"a/cat": 1, "a/dog": 2, "b/dog": 1})
    splits = {"train": {"root": f"{tmp_path}/a"}, "validation": {"root": f"{tmp_path}/b"}}
    source = TorchvisionSource("ImageFolder", splits=splits)
    assert labels(source) == {"train": ["cat", "dog", "dog"], "val": ["dog"], "test": []}
    assert source.samples("val")[0].path == f"{tmp_path}/b/dog/0.png"


def test_dataset_without_splits_is_train(tmp_path: Path) -> None:
    source = TorchvisionSource("ImageFolder", root=str(draw_folders(tmp_path, {"cat": 1, "dog": 1})))
    assert labels(source) == {"train": ["cat", "dog"], "val": [], "test": []}


def test_train_may_be_called_trainval(tmp_path: Path) -> None:
    source = TorchvisionSource("OxfordIIITPet", root=str(write_pets(tmp_path)))
    assert labels(source) == {"train": ["Abyssinian", "Pug"], "val": [], "test": ["Abyssinian", "Pug"]}


def test_splits_can_be_overruled(tmp_path: Path) -> None:
    swapped = {"train": {"train": False}, "val": {"train": True}}
    source = TorchvisionSource("MNIST", root=str(write_mnist(tmp_path)), splits=swapped)
    assert [len(source.samples(split)) for split in ("train", "val", "test")] == [2, 4, 0]


def test_dataset_without_root_and_class_names_lies_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"size": 5, "num_classes": 3, "image_size": [3, 6, 4]}
    source = TorchvisionSource("FakeData", arguments=options)
    samples = source.samples("train")
    expected = FakeData(**options)
    assert [sample.label for sample in samples] == [str(target) for _, target in expected]
    assert np.array_equal(np.asarray(read(samples[4].path)), np.asarray(expected[4][0]))
    assert samples[0].path.startswith(f"data/FakeData-{source.folder.name[-8:]}/train/")


def test_own_dataset_works_like_one_of_torchvision_s(tmp_path: Path) -> None:
    source = own(tmp_path)
    assert labels(source)["train"] == ["dark", "light", "dark", "light"]
    # PNG knows no CMYK.
    assert [read(sample.path).mode for sample in source.samples("train")] == ["RGB", "L", "RGB", "RGBA"]
    assert str(source) == f"test_torchvision's Own in {tmp_path}"


def test_arguments_and_splits_make_another_folder(tmp_path: Path) -> None:
    several: list[dict[str, Any]] = [{}, {"arguments": {"size": 2}}, {"splits": {"test": {}}}]
    assert len({own(tmp_path, **options).folder for options in several}) == 3
    assert own(tmp_path, folder="x").folder == Path("x")


def test_classes_of_one_name_are_told_apart_and_synonyms_joined(tmp_path: Path) -> None:
    assert labels(own(tmp_path, "Crane"))["train"] == ["crane (0)", "crane (1)", "tench, Tinca tinca"]


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "broken_at", 2)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        own(tmp_path).samples("train")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Own, "broken_at", None)
    assert len(own(tmp_path).samples("train")) == 4


def test_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "mine/notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"folder='.*/mine' holds something else; name a new one"):
        own(tmp_path, folder=f"{tmp_path}/mine").samples("train")
    own(tmp_path, folder=f"{tmp_path}/empty").samples("train")
    with pytest.raises(UserError, match="holds another dataset"):
        own(tmp_path, folder=f"{tmp_path}/empty", arguments={"size": 2}).samples("train")
    with pytest.raises(UserError, match="holds another dataset"):
        own(tmp_path / "elsewhere", folder=f"{tmp_path}/empty").samples("train")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((Image.new("L", (1, 1)), (1, 2)), r"the target \(1, 2\) is no class; this is no classification dataset"),
        ((Image.new("L", (1, 1)), -1), "the target -1 is none of its 2 classes"),
        ((np.zeros((1, 1)), 1), "an item is a ndarray, and a Pillow image is needed"),
    ],
)
def test_items_that_are_no_labelled_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: Any, message: str
) -> None:
    monkeypatch.setattr(Own, "item", lambda index: item)
    with pytest.raises(UserError, match=message):
        own(tmp_path).samples("train")


def test_absent_dataset_is_refused_with_the_key_that_downloads_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        TorchvisionSource("CIFAR10", root=f"{tmp_path}/x").samples("train")
    assert str(caught.value) == (
        f"torchvision's CIFAR10 is not in '{tmp_path}/x' (Dataset not found or corrupted); "
        "set data.source.init_args.download to true"
    )
    with pytest.raises(UserError, match=r"ImageFolder is not in .* \(.*\); put it there"):
        TorchvisionSource("ImageFolder", root=f"{tmp_path}/x").samples("train")


def test_package_that_a_dataset_needs_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Needy needs a package .* \(No module named 'a_package_that_nobody_has'\); pip"
    ):
        own(tmp_path, "Needy").samples("train")


def test_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "mirror").as_uri() + "/"])
    with pytest.raises(UserError, match=r"MNIST cannot be downloaded to '.*' \(Error downloading"):
        TorchvisionSource("MNIST", root=str(tmp_path), download=True).samples("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "CIFAR1O"}, "dataset='CIFAR1O': torchvision.datasets has no 'CIFAR1O'; did you mean 'CIFAR10'?"),
        ({"dataset": "torchvison.datasets.MNIST"}, r"cannot be imported \(No module named 'torchvison'\)"),
        ({"dataset": "torch.nn.Linear"}, "is no torchvision.datasets.VisionDataset"),
        ({"dataset": "torchvision.datasets.mnist"}, "is no torchvision.datasets.VisionDataset"),
        ({"dataset": "ImageFolder", "download": True}, "download=true: torchvision's ImageFolder cannot be downloaded"),
        (
            {"arguments": {"trian": True}},
            "trian=True: torchvision's CIFAR10 does not take 'trian'; did you mean 'train'",
        ),
        ({"splits": {"test": {"tain": True}}}, "tain=True: torchvision's CIFAR10 does not take 'tain'"),
        ({"splits": {"val": {}, "valid": {}}}, "splits names a split twice: val, valid"),
        ({"splits": {"trian": {}}}, "splits has 'trian'; call the splits train, val and test"),
        ({"arguments": {"transform": "x"}}, "transform='x' is not for .*; data.augment says what is done"),
        ({"arguments": {"download": True}}, "download=True is not for .*; write it beside dataset and root"),
    ],
)
def test_mistakes_are_refused_by_key_value_and_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TorchvisionSource(**{"dataset": "CIFAR10", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset": "EMNIST", "root": "x"},
            r"EMNIST has no split called train \(.*byclass.*\); say in splits what each split is",
        ),
        ({"dataset": "CIFAR10"}, "CIFAR10: missing a required argument: 'root'; give it as root, or in arguments"),
        (
            {"dataset": "Food101", "root": "x", "splits": {"train": {"split": "all"}}},
            "Food101 cannot be made with {'split': 'all'}: Unknown value 'all'",
        ),
    ],
)
def test_what_a_dataset_says_of_its_arguments_is_passed_on(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        TorchvisionSource(**options).samples("train")
    assert list(tmp_path.iterdir()) == []


def test_validation_is_carved_from_a_dataset_and_everything_is_described(tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "mnist")
    module = image_data(None, source=TorchvisionSource("MNIST", root=str(root)), val_fraction=0.25)
    assert module.describe() == (
        f"torchvision's MNIST in {root}: 3 classes, 3 train / 1 val / 2 test images, val carved from train"
    )
    before = module.fingerprint()
    root.rename(tmp_path / "moved")
    moved = TorchvisionSource("MNIST", root=str(tmp_path / "moved"))
    module = image_data(None, source=moved, val_fraction=0.25)
    assert module.fingerprint() == before
    assert next(iter(module.test_dataloader()))["labels"].tolist() == [1, 0]

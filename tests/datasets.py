"""Small datasets made on the spot."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clf.preprocess import Preprocessing

if TYPE_CHECKING:
    from clf.data.datamodule import ImageData


def touch(root: Path, *paths: str) -> Path:
    """Make empty files, and the folders that they lie in."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def write_rows(root: Path, file: str, *rows: Any) -> Path:
    """Write a JSONL file (text as it is, all else as JSON) and touch the images that its rows name."""
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("image"), str):
            touch((root / file).parent, row["image"])
    return root


def table(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a table in the format that the suffix names."""
    rows = list(rows)
    if file.suffix == ".parquet":
        import pyarrow as arrow  # type: ignore[import-untyped]
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = {".csv": ",", ".tsv": "\t"}[file.suffix]
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        file.write_text("".join(separator.join(line) + "\n" for line in lines))
    return file


def draw(file: Path, *, seed: int, size: tuple[int, int] = (12, 10)) -> None:
    """Write an image of noise, different for each seed, lossless where the suffix is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file)


def draw_folders(root: Path, counts: dict[str, int]) -> Path:
    """Fill folders like ``train/cat`` with so many images ``0.png``, ``1.png``, …; no two are the same."""
    for folder, count in counts.items():
        for number in range(count):
            draw(root / folder / f"{number}.png", seed=hash_of(f"{folder}/{number}"))
    return root


def draw_pets(root: Path) -> Path:
    """Draw two classes in the folder layout: 11 images to train on, 5 to validate, 3 to test."""
    counts = {"train/cat": 6, "train/dog": 5, "valid/cat": 3, "valid/dog": 2, "test/cat": 1, "test/dog": 2}
    return draw_folders(root, counts)


def image_data(
    root: Path | str | list[str] | None, *, checkpoint: list[str] | None = None, **options: Any
) -> "ImageData":
    """Make an ImageData as a command does, bound to a model of 8 x 8 pixels; without workers unless asked for."""
    from clf.data.datamodule import ImageData  # Here: most of those who need a dataset need no Lightning.

    options = {"batch_size": 4, "num_workers": 0, **options}
    module = ImageData(root=str(root) if isinstance(root, Path) else root, **options)
    module.bind(Preprocessing(size=(8, 8)), checkpoint)
    return module


def photo(width: int = 30, height: int = 40) -> Image.Image:
    """Make an image of noise, with a left half that is brighter than the right."""
    pixels = np.random.default_rng(width).integers(0, 100, (height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] += 150
    return Image.fromarray(pixels)


def hash_of(text: str) -> int:
    """Turn a name into a seed that is the same in every process."""
    return int.from_bytes(text.encode(), "little")

"""The cache of training images: the same training, faster; nothing but training; never stale, never half."""

import logging
import os
import pickle
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import draw, draw_folders, draw_pets
from datasets import image_data as data
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms import v2

from clf.data.cache import Wanted, keep
from clf.data.cachefile import Cache, TooLarge, Writer
from clf.data.datamodule import ImageData
from clf.data.loading import Batch
from clf.errors import UserError
from clf.main import main
from clf.preprocess import decode

CONFIG = """
model: {arch: test_resnet, pretrained: false, image_size: 32}
data: {root: images, batch_size: 4, augment: standard}
trainer: {accelerator: cpu, max_epochs: 2, num_sanity_val_steps: 0}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw_pets(tmp_path / "pets")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of the caches."""
    return tmp_path / "kept"


def cached(root: Path, kept: Path, **options: Any) -> ImageData:
    settings: dict[str, Any] = {"cache": "disk", "cache_dir": str(kept), "cache_size": 64}
    return data(root, **settings | options)


def batches(module: ImageData) -> list[Batch]:
    loader = module.train_dataloader()
    found = list(loader)
    loader.close()
    return found


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in ("images", "labels"))
        for a, b in zip(one, other, strict=True)
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("cache: ")]


def built(caplog: pytest.LogCaptureFixture) -> list[bool]:
    """For each cache that was used: whether it was built then."""
    return [" (built in " in line for line in lines(caplog)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["standard", "light", "ocr", [v2.RandomHorizontalFlip()]], ids=str)
def test_small_images_train_bit_for_bit_as_without_a_cache(root: Path, kept: Path, augment: Any, workers: int) -> None:
    for number in range(4):
        draw(root / f"train/cat/photo{number}.jpg", seed=number, size=(15, 14))  # less than twice of what is trained on
    options = {"augment": augment, "num_workers": workers, "batch_size": 4}
    assert same(batches(cached(root, kept, **options)), batches(data(root, **options)))


def test_a_run_with_a_cache_ends_with_the_weights_of_one_without(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_folders(workdir / "images", {f"{split}/{name}": 6 for split in ("train", "valid") for name in "ab"})
    (workdir / "tiny.yaml").write_text(CONFIG)
    runs = (("none", "0"), ("disk", "0"), ("disk", "2"))
    for where, workers in runs:
        flags = ("--data.cache", where, "--data.cache_dir", "kept", "--data.num_workers", workers)
        assert main(("fit", "--config", "tiny.yaml", *flags)) == 0
    plain, *others = (weights(workdir / f"runs/tiny/{number:03d}") for number in (1, 2, 3))
    for other in others:
        assert all(torch.equal(plain[name], other[name]) for name in plain)
    assert built(caplog) == [True, False]


def weights(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_cache_is_built_once_however_often_it_is_asked_for(
    root: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clf")
    module = cached(root, kept)
    module.setup("fit")
    before = batches(module)
    shutil.rmtree(kept)  # as the line in the log says
    module.setup("fit")
    assert same(batches(module), before)
    assert not kept.exists()
    (line,) = lines(caplog)
    assert line.startswith("cache: 11 images, 4.")
    assert line.endswith("; remove it with: rm " + line.split(" in ")[1].split(" (")[0])


def test_the_next_run_uses_what_is_there(root: Path, kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clf")
    first = batches(cached(root, kept))
    [file] = kept.iterdir()  # no lock and nothing half is left
    written = file.stat()
    assert same(batches(cached(root, kept)), first)
    assert built(caplog) == [True, False]
    assert file.stat().st_mtime_ns == written.st_mtime_ns
    batches(cached(root, kept, augment="light", seed=3, batch_size=2))
    assert built(caplog) == [True, False, False]


def test_a_file_that_was_changed_is_decoded_anew_whatever_its_date_says(
    root: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clf")
    file = root / "train/cat/0.bmp"
    draw(file, seed=1)
    before, first = file.stat(), batches(cached(root, kept))
    draw(file, seed=2)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    second = batches(cached(root, kept))
    assert not same(second, first)
    assert same(second, batches(data(root)))
    assert built(caplog) == [True, True]


def test_other_images_and_sizes_are_other_caches_and_all_of_them_are_counted(
    root: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clf")
    cached(root, kept).setup("fit")
    cached(root, kept, cache_size=8).setup("fit")
    (root / "train/cat/0.png").unlink()
    cached(root, kept).setup("fit")
    assert built(caplog) == [True] * 3
    assert len(list(kept.iterdir())) == 3
    assert "remove it, also the 2 others, " in lines(caplog)[-1]


def test_the_command_in_the_log_removes_caches_and_nothing_else(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clf")
    folder = tmp_path / "my data; rm x"
    shutil.copytree(root, folder / "pets")
    for size, left in ((64, 0), (32, 1), (16, 2)):
        cached(folder / "pets", folder, cache_size=size).setup("fit")
        assert len(list(folder.glob("*.pixels"))) == left + 1
    for line in (lines(caplog)[0], lines(caplog)[2]):
        subprocess.run(line.split(" with: ")[1], shell=True, check=True)
        assert not list(folder.glob("*.pixels")) or line is lines(caplog)[0]
    assert sum(path.is_file() for path in folder.rglob("*")) == sum(path.is_file() for path in root.rglob("*"))


def test_a_tilde_means_home_also_where_no_shell_sees_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    cached(root, Path("~/kept")).setup("fit")
    assert len(list((tmp_path / "home/kept").iterdir())) == 1


def test_a_damaged_cache_is_built_anew(root: Path, kept: Path) -> None:
    before = batches(cached(root, kept))
    [file] = kept.iterdir()
    good, last, start = file.read_bytes(), struct.Struct("<qii"), file.stat().st_size - 11 * 16
    places = [(1 << 40, 9, 9), (-99, 9, 9), (8, 9, 9), (start, 1, 1), (32, -3, -3), (32, 2**31 - 1, 2**31 - 1)]
    damaged = [good[: -last.size] + last.pack(*place) for place in places]
    nobody = struct.pack("<16sqq", good[:16], 0, 32)
    for content in (b"", b"nonsense" * 9, good[:-1], nobody, *damaged):
        file.write_bytes(content)
        assert same(batches(cached(root, kept)), before)
        assert file.read_bytes() != content


def test_evaluation_reads_files_and_makes_no_cache(root: Path, kept: Path) -> None:
    module, plain = cached(root, kept), data(root)
    for stage in ("validate", "test", "predict"):
        module.setup(stage)
    for loader in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        pairs = list(zip(getattr(module, loader)(), getattr(plain, loader)(), strict=True))
        assert pairs
        assert all(torch.equal(one["images"], other["images"]) for one, other in pairs)
    assert not kept.exists()
    module.setup("fit")
    draw(root / "valid/cat/0.png", seed=99)  # since the cache was made
    draw(root / "train/cat/0.png", seed=99)
    assert torch.equal(next(iter(module.val_dataloader()))["images"], next(iter(plain.val_dataloader()))["images"])
    assert not same(batches(module), batches(plain))


def test_an_unreadable_file_is_the_same_error_as_without_a_cache(
    root: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clf")
    (root / "train/cat/0.png").write_bytes(b"no image")
    (root / "train/dog/0.jpg").write_bytes(b"")
    found, plain = batches(cached(root, kept)), batches(data(root))
    assert [batch.get("errors") for batch in found] == [batch.get("errors") for batch in plain]
    assert sum(len(batch.get("errors", [])) for batch in found) == 2
    assert same(found, plain)
    assert "12 images (2 cannot be read)" in lines(caplog)[0]


# What is kept.


def odd_images(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    folder.mkdir()
    noise = Image.fromarray(rng.integers(0, 256, (40, 50, 4), np.uint8), "RGBA")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    noise.convert("L").save(folder / "grey.jpg")
    noise.convert("RGB").save(folder / "turned.jpg", exif=exif)
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    noise.save(folder / "transparent.png")
    noise.convert("P").save(folder / "palette.gif")
    noise.convert("L").convert("I;16").save(folder / "deep.png")
    noise.convert("RGB").resize((1, 1)).save(folder / "dot.png")
    noise.convert("RGB").resize((3000, 40)).save(folder / "wide.jpg")
    return sorted(str(path) for path in folder.iterdir())


def test_odd_images_are_kept_as_evaluation_decodes_them(tmp_path: Path, kept: Path) -> None:
    paths = odd_images(tmp_path / "odd")
    cache = keep(Wanted(paths, "disk", 40, str(kept)), say=print)
    assert cache is not None
    assert len(cache) == len(paths) == 8
    for path, pixels in zip(paths, cache, strict=True):
        assert pixels is not None, path
        assert np.array_equal(pixels, np.array(decode(path))), path
        assert not pixels.flags.writeable


@pytest.mark.parametrize(
    ("suffix", "size", "expected"),
    [
        ("png", (390, 260), (150, 100)),
        ("jpg", (390, 260), (150, 100)),
        ("png", (401, 900), (100, 224)),
        ("jpg", (401, 900), (101, 225)),
        ("jpg", (820, 807), (103, 101)),
        ("png", (126, 500), (100, 397)),
        ("jpg", (126, 500), (100, 397)),
        ("png", (125, 500), (125, 500)),
        ("jpg", (100, 450), (100, 450)),
    ],
)
def test_large_images_are_shrunk_in_proportion(
    tmp_path: Path, kept: Path, size: tuple[int, int], expected: tuple[int, int], suffix: str
) -> None:
    path = tmp_path / f"image.{suffix}"
    soft = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 5, 3), np.uint8)).resize(size)
    soft.save(path)
    cache = keep(Wanted([str(path)], "disk", 100, str(kept)), say=print)
    assert cache is not None
    pixels = cache[0]
    assert pixels is not None
    assert pixels.shape == (expected[1], expected[0], 3)
    reference = np.array(decode(path).resize(expected, Image.Resampling.BICUBIC), int)
    assert np.abs(pixels - reference).mean() <= 3


def test_what_is_kept_is_by_default_as_large_as_evaluation_resizes(root: Path, kept: Path) -> None:
    draw(root / "train/cat/0.png", seed=1, size=(320, 200))
    cached(root, kept, cache_size=None).setup("fit")
    cache = Cache(*kept.iterdir())
    assert [image.shape for image in cache if image is not None] == [(9, 14, 3)] + [(10, 12, 3)] * 10


def test_a_cache_travels_to_other_processes_as_its_path(root: Path, kept: Path) -> None:
    cached(root, kept).setup("fit")
    cache = Cache(*kept.iterdir())
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    for one, other in zip(cache, pickle.loads(sent), strict=True):
        assert one is not None
        assert np.array_equal(one, other)


def test_a_writer_stops_before_it_takes_more_than_it_may(tmp_path: Path) -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    with (tmp_path / "file").open("wb") as file:
        writer = Writer(file.fileno(), count=4, most=1000)
        for index in range(3):
            writer.add(index, image)
        with pytest.raises(TooLarge):
            writer.add(3, image)
        writer.finish()
    assert (tmp_path / "file").stat().st_size <= 1100
    assert Cache(tmp_path / "file")[3] is None


# What is refused.


def test_a_folder_that_cannot_be_used_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data.cache=disk cannot write to .*/file/kept: .*; choose another"):
        cached(root, tmp_path / "file/kept").setup("fit")


def test_sizes_below_one_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"data.cache_size=0 is out of range; choose 1 or more, or null"):
        data(root, cache="disk", cache_size=0)

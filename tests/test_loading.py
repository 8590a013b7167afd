"""Batches: the same for any number of workers, from any point of an epoch, with bad files as values."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import draw

from clf.data.loading import (
    Batch,
    Images,
    Loader,
    LoaderSettings,
    eval_tensor,
    fit_to_device,
    train_tensor,
)
from clf.data.sampling import Key, count_train_batches, epoch_order, eval_batches, train_batches
from clf.preprocess import Preprocessing, decode, evaluation_array
from clf.transforms import TrainTransform

PREPROCESSING = Preprocessing(size=(8, 8))
COUNT, BATCH_SIZE, LABELS = 11, 4, [0, 1, 2] * 3 + [0, 1]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for i in range(COUNT):
        draw(folder / f"{i}.png", seed=i)
    return [str(folder / f"{i}.png") for i in range(COUNT)]


def train_images(paths: list[str], *, augment: str | list[torch.nn.Module] = "standard", seed: int = 1) -> Images:
    transform = TrainTransform(augment, preprocessing=PREPROCESSING)  # type: ignore[arg-type]
    pixels = partial(train_tensor, transform=transform, seed=seed)
    return Images(paths, labels=LABELS[: len(paths)], pixels=pixels, size=(8, 8), with_index=False)


def eval_images(paths: list[str], labels: list[int] | None = None) -> Images:
    pixels = partial(eval_tensor, preprocessing=PREPROCESSING)
    return Images(paths, labels=labels, pixels=pixels, size=(8, 8), with_index=True)


def train_plan(count: int, *, epoch: int, seed: int = 1, skip: int = 0) -> Iterator[list[Key]]:
    return train_batches(epoch_order(count, seed=seed, epoch=epoch), batch_size=BATCH_SIZE, epoch=epoch, skip=skip)


def train_loader(
    paths: list[str], *, epochs: Iterator[int], skip: int = 0, seed: int = 1, settings: LoaderSettings | None = None
) -> Loader:
    length = count_train_batches(len(paths), batch_size=BATCH_SIZE, world_size=1)
    return Loader(
        train_images(paths, seed=seed),
        plan=lambda: train_plan(len(paths), seed=seed, epoch=next(epochs), skip=skip),
        length=length,
        settings=settings or LoaderSettings(),
    )


def eval_loader(paths: list[str], labels: list[int] | None = None, settings: LoaderSettings | None = None) -> Loader:
    plan = partial(eval_batches, len(paths), batch_size=BATCH_SIZE)
    return Loader(eval_images(paths, labels), plan=plan, length=3, settings=settings or LoaderSettings())


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(
    "settings",
    [
        LoaderSettings(num_workers=1),
        LoaderSettings(num_workers=2, prefetch_factor=3),
        LoaderSettings(num_workers=2, persistent_workers=True),
    ],
)
def test_batches_are_the_same_for_any_number_of_workers_in_every_epoch(
    paths: list[str], settings: LoaderSettings
) -> None:
    alone, helped = (train_loader(paths, epochs=iter(range(3)), settings=s) for s in (LoaderSettings(), settings))
    for _ in range(3):
        assert same(list(alone), list(helped))
    helped.close()


def test_every_epoch_and_seed_draws_and_orders_anew(paths: list[str]) -> None:
    loader = train_loader(paths, epochs=iter((0, 1, 0)))
    first, second, again = list(loader), list(loader), list(loader)
    assert same(first, again)
    assert not same(first, second)
    assert not same(first, list(train_loader(paths, epochs=iter((0,)), seed=2)))


def test_augmentation_depends_on_seed_epoch_index_and_repeat_each(paths: list[str]) -> None:
    same_picture = [paths[0]] * 2
    key_and_seed = [(Key(0, 0), 1), (Key(1, 0), 1), (Key(0, 1), 1), (Key(0, 0, 1), 1), (Key(0, 0), 2)]
    images = [train_images(same_picture, seed=seed)[key].image for key, seed in key_and_seed]
    drawn = [image for image in images if image is not None]
    assert len({image.numpy().tobytes() for image in drawn}) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_continues_the_epoch_without_touching_what_was_done(
    paths: list[str], tmp_path: Path, workers: int
) -> None:
    whole = list(train_loader(paths, epochs=iter((5,))))
    done = [key.index for key in next(train_plan(COUNT, epoch=5))]
    rest = [str(tmp_path / "gone.png") if i in done else path for i, path in enumerate(paths)]
    settings = LoaderSettings(num_workers=workers)
    assert same(list(train_loader(rest, epochs=iter((5,)), skip=1, settings=settings)), whole[1:])


def test_epoch_is_decided_when_its_first_batch_is_asked_for(paths: list[str]) -> None:
    epochs = iter((7,))
    waiting = iter(train_loader(paths, epochs=epochs))
    assert next(epochs) == 7  # nobody has taken it yet
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(waiting)


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_that_is_left_early_does_not_leak_into_the_next(paths: list[str], workers: int) -> None:
    settings = LoaderSettings(num_workers=workers, persistent_workers=workers > 0)
    loader = train_loader(paths, epochs=iter(range(2)), settings=settings)
    next(iter(loader))
    assert same(list(loader), list(train_loader(paths, epochs=iter((1,)))))
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_moves_no_generator_of_the_run(paths: list[str], workers: int) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    list(train_loader(paths, epochs=iter((0,)), settings=LoaderSettings(num_workers=workers)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]


def test_training_batch_holds_images_and_labels(paths: list[str]) -> None:
    (batch, *_) = train_loader(paths, epochs=iter((0,)))
    order = [key.index for key in next(train_plan(COUNT, epoch=0))]
    assert batch.keys() == {"images", "labels"}
    assert (batch["images"].shape, batch["images"].dtype) == ((BATCH_SIZE, 3, 8, 8), torch.uint8)
    assert (batch["labels"].tolist(), batch["labels"].dtype) == ([LABELS[i] for i in order], torch.int64)


def test_evaluation_batch_is_evaluations_own_array_with_its_index(paths: list[str]) -> None:
    batches = list(eval_loader(paths, LABELS))
    images = torch.cat([batch["images"] for batch in batches])
    expected = np.stack([evaluation_array(decode(path), PREPROCESSING) for path in paths])
    assert np.array_equal(images.numpy(), expected)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(COUNT))
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == LABELS
    assert all("errors" not in batch for batch in batches)


def test_unknown_labels_are_left_out_of_the_batch(paths: list[str]) -> None:
    assert next(iter(eval_loader(paths))).keys() == {"images", "index"}


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_file_travels_as_an_error_and_nothing_takes_its_place(
    paths: list[str], tmp_path: Path, workers: int
) -> None:
    (tmp_path / "cut.png").write_bytes(Path(paths[0]).read_bytes()[:60])
    mixed = [paths[0], str(tmp_path / "cut.png"), paths[2], str(tmp_path / "gone.png")]
    (batch,) = eval_loader(mixed, LABELS[:4], LoaderSettings(num_workers=workers))
    assert batch["index"].tolist() == [0, 2]
    assert batch["labels"].tolist() == [LABELS[0], LABELS[2]]
    assert len(batch["images"]) == 2
    assert [index for index, _ in batch["errors"]] == [1, 3]
    assert [name in message for name, (_, message) in zip(("cut.png", "gone.png"), batch["errors"], strict=True)]


def test_batch_of_nothing_but_bad_files_keeps_its_shapes(tmp_path: Path) -> None:
    (batch,) = eval_loader([str(tmp_path / "gone.png")], [1])
    assert batch["images"].shape == (0, 3, 8, 8)
    assert (batch["labels"].shape, batch["index"].shape) == ((0,), (0,))
    assert len(batch["errors"]) == 1


class Fails(torch.nn.Module):
    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such thing")


@pytest.mark.parametrize("workers", [0, 1])
def test_augmentation_that_fails_names_itself_and_the_image(paths: list[str], workers: int) -> None:
    images = train_images(paths[3:4], augment=[Fails()])
    plan = partial(eval_batches, 1, batch_size=1)
    (batch,) = Loader(images, plan=plan, length=1, settings=LoaderSettings(num_workers=workers))
    ((_, message),) = batch["errors"]
    assert message.startswith(f"image {paths[3]!r}: data.augment[0] (Fails) failed")
    assert message.endswith("no such thing")


def test_settings_that_work_are_left_alone_and_nothing_is_said() -> None:
    wanted = LoaderSettings(num_workers=2, pin_memory=True, persistent_workers=True, prefetch_factor=4)
    assert fit_to_device(wanted, device="cuda") == (wanted, [])


@pytest.mark.parametrize(
    ("wanted", "device", "works", "said"),
    [
        (
            LoaderSettings(persistent_workers=True, prefetch_factor=2),
            "cpu",
            LoaderSettings(),
            ["persistent_workers and prefetch_factor off, because num_workers is 0"],
        ),
        (LoaderSettings(pin_memory=True), "cpu", LoaderSettings(), ["pin_memory off, because the device is cpu"]),
        (LoaderSettings(pin_memory=True), "cuda", LoaderSettings(pin_memory=True), []),
        (
            LoaderSettings(num_workers=4, prefetch_factor=2),
            "mps",
            LoaderSettings(),
            [
                "num_workers is 0, because workers and MPS do not get along",
                "prefetch_factor off, because num_workers is 0",
            ],
        ),
    ],
)
def test_settings_that_cannot_work_are_corrected_and_said(
    wanted: LoaderSettings, device: str, works: LoaderSettings, said: list[str]
) -> None:
    assert fit_to_device(wanted, device=device) == (works, said)


PROGRAM = """
import signal, sys
from functools import partial
from clf.data.loading import Images, Loader, LoaderSettings, eval_tensor
from clf.data.sampling import eval_batches
from clf.preprocess import Preprocessing

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
name, *paths = sys.argv[1:]
pixels = partial(eval_tensor, preprocessing=Preprocessing(size=(8, 8)))
images = Images(paths, labels=None, pixels=pixels, size=(8, 8), with_index=True)
settings = LoaderSettings(num_workers=2, persistent_workers=True)
loader = Loader(images, plan=partial(eval_batches, len(paths), batch_size=4), length=3, settings=settings)
stops = []
signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
seen = sum(len(batch["index"]) for batch in loader)
try:
    print("ready", flush=True)
    while name == "SIGINT" or not stops:
        signal.sigtimedwait([], 0.05)
except KeyboardInterrupt:
    pass
print(seen + sum(len(batch["index"]) for batch in loader), flush=True)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signal_to_all_processes_leaves_the_workers_to_finish(paths: list[str], name: str) -> None:
    # Ctrl-C, `timeout` and a cloud that takes its machine back all signal the workers, too.
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", PROGRAM, name, *paths]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, getattr(signal, name))
        try:
            out, err = process.communicate(timeout=25)  # less than the workers would take if nobody ended them
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert (out, err, process.returncode) == (f"{2 * COUNT}\n", "", 0)

"""Every shipped YAML goes through parse, fit, resume, test and predict, on images made on the spot."""

import csv
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import draw_folders
from torchvision.datasets import cifar

from clf.main import main
from clf.yamlfile import SHIPPED, shipped_configs

EXPERIMENTS = [name for name in shipped_configs() if "/" not in name and name != "defaults.yaml"]
PARTS = {
    "model/mixing.yaml": "--model",
    "augment/ocr.yaml": "--data",
    "augment/randaugment.yaml": "--data",
    "augment/strong.yaml": "--data",
    "augment/video.yaml": "--data",
    "data/jersey_numbers.yaml": "--data",
    "logger/tensorboard.yaml": "--trainer.logger",
    "logger/wandb.yaml": "--trainer.logger",
    **{f"optim/{name}.yaml": "--model" for name in ("adam", "lamb", "one_cycle", "plateau", "sgd", "step")},
    "trainer/a100.yaml": "--trainer",
    "trainer/cpu.yaml": "--trainer",
    "trainer/ddp.yaml": "--trainer",
    "trainer/smoke.yaml": "--trainer",
    "trainer/t4.yaml": "--trainer",
}
CIFAR10 = "data/cifar10.yaml"
QUICK = ["--data.batch_size", "2", "--data.num_workers", "0", "--data.root"]
SMALL = ["--model.arch", "test_resnet", "--model.image_size", "32"]  # no part says anything about either
# A deep network at 224 pixels is what takes long: resnet18.yaml and vit_small.yaml show it for those that inherit it.
SMALLER = ["--model.image_size", "64"]
AS_RESNET18 = {"resnet34.yaml", "resnet50.yaml", "convnext_nano.yaml", "efficientnet_lite0.yaml"}
ONE_STEP = [
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
    *("--trainer.num_sanity_val_steps", "0"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = {f"{split}/{name}": 3 for split in ("train", "valid", "test") for name in ("0", "00", "1")}
    return draw_folders(tmp_path_factory.mktemp("images"), folders)


@pytest.fixture(autouse=True)
def _alone_again() -> Iterator[None]:
    """Leave the process group that a distributed run makes, and the variables by which Lightning knows its rank."""
    variables = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]


def rows(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_fits_resumes_tests_and_predicts(name: str, root: Path, workdir: Path) -> None:
    smaller = SMALLER if name in AS_RESNET18 else []
    assert main(["fit", "--config", name, *smaller, *QUICK, str(root), *ONE_STEP]) == 0
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert main(["test"]) == 0
    assert main(["predict", "--data.predict", str(root / "test" / "00")]) == 0

    assert [row["epoch"] for row in rows("runs/latest/metrics.csv")] == ["0", "1"]
    assert len(rows("runs/latest/predictions/test.csv")) == 9
    assert len(rows("runs/latest/predictions/predict.csv")) == 3
    assert Path("runs/latest").resolve() == workdir / "runs" / name.removesuffix(".yaml") / "001"


@pytest.mark.parametrize("name", PARTS)
def test_a_part_fits_with_an_experiment(name: str, root: Path, workdir: Path) -> None:
    assert main(["fit", "--config", "demo.yaml", PARTS[name], name, *SMALL, *QUICK, str(root), *ONE_STEP]) == 0
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert len(rows("runs/latest/metrics.csv")) == 2


def test_cifar10_fits_resumes_tests_and_predicts(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(workdir / "data/cifar10", monkeypatch)
    flags = ["--data", CIFAR10, "--data.num_workers", "0", *SMALL]
    assert main(["fit", "--config", "demo.yaml", *flags, *ONE_STEP]) == 0
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert main(["test"]) == 0
    assert [row["true"] for row in rows("runs/latest/predictions/test.csv")] == ["ship", "frog"] * 2
    assert main(["predict"]) == 0
    assert len(rows("runs/latest/predictions/predict.csv")) == 4


def test_cifar10_that_was_not_downloaded_is_refused_with_the_key(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "demo.yaml", "--data", CIFAR10]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("set data.source.init_args.download to true")
    assert not (workdir / "data").exists()


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write CIFAR-10's files with a few images of two classes; theirs are not the real checksums."""
    folder = root / cifar.CIFAR10.base_folder
    folder.mkdir(parents=True)
    for name, count in {"data_batch_1": 20, "test_batch": 4}.items():
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1] * (count // 2)}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["ship", "frog"]}))
    monkeypatch.setattr(cifar.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(cifar.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(cifar.CIFAR10, "meta", {**cifar.CIFAR10.meta, "md5": None})


def test_every_shipped_yaml_is_one_of_these() -> None:
    assert {*EXPERIMENTS, *PARTS, CIFAR10, "defaults.yaml"} == set(shipped_configs())


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_yaml_opens_with_what_it_is_for_and_how_to_use_it(name: str) -> None:
    header = []
    for line in (SHIPPED / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    assert len(header) >= 2
    assert name == "defaults.yaml" or any(word in "\n".join(header) for word in ("clf fit --config", "Use:"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_states_the_defaults_of_a_t4_or_of_a_cpu(
    name: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", name, "--print_config"]) == 0
    printed = capsys.readouterr().out
    half = "precision: 16-mixed" in printed and "max_epochs: 100" in printed
    full = "precision: 32-true" in printed and "accelerator: cpu" in printed
    assert half != full
    for line in ("seed_everything: 42", "gradient_clip_val: 1.0", "accumulate_grad_batches: 1", "batch_size: 64"):
        assert line in printed

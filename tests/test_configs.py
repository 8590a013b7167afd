"""Every shipped YAML goes through parse, fit, resume, test and predict, on images made on the spot."""

import csv
from pathlib import Path

import pytest
from datasets import draw_folders

from clf.main import main
from clf.yamlfile import SHIPPED, shipped_configs

EXPERIMENTS = [name for name in shipped_configs() if "/" not in name and name != "defaults.yaml"]
PARTS = {
    "data/jersey_numbers.yaml": "--data",
    "logger/tensorboard.yaml": "--trainer.logger",
    "logger/wandb.yaml": "--trainer.logger",
    **{f"optim/{name}.yaml": "--model" for name in ("adam", "lamb", "one_cycle", "plateau", "sgd", "step")},
    "trainer/cpu.yaml": "--trainer",
    "trainer/smoke.yaml": "--trainer",
    "trainer/t4.yaml": "--trainer",
}
QUICK = ["--data.batch_size", "2", "--data.num_workers", "0", "--data.root"]
ONE_STEP = [
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
    *("--trainer.num_sanity_val_steps", "0"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = {f"{split}/{name}": 3 for split in ("train", "valid", "test") for name in ("0", "00", "1")}
    return draw_folders(tmp_path_factory.mktemp("images"), folders)


def rows(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_fits_resumes_tests_and_predicts(name: str, root: Path, workdir: Path) -> None:
    assert main(["fit", "--config", name, *QUICK, str(root), *ONE_STEP]) == 0
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert main(["test"]) == 0
    assert main(["predict", "--data.predict", str(root / "test" / "00")]) == 0

    assert [row["epoch"] for row in rows("runs/latest/metrics.csv")] == ["0", "1"]
    assert len(rows("runs/latest/predictions/test.csv")) == 9
    assert len(rows("runs/latest/predictions/predict.csv")) == 3
    assert Path("runs/latest").resolve() == workdir / "runs" / name.removesuffix(".yaml") / "001"


@pytest.mark.parametrize("name", PARTS)
def test_a_part_fits_with_an_experiment(name: str, root: Path, workdir: Path) -> None:
    assert main(["fit", "--config", "demo.yaml", PARTS[name], name, *QUICK, str(root), *ONE_STEP]) == 0
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert len(rows("runs/latest/metrics.csv")) == 2


def test_every_shipped_yaml_is_one_of_these() -> None:
    assert {*EXPERIMENTS, *PARTS, "defaults.yaml"} == set(shipped_configs())


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

"""What the documents say can be done, can be done."""

import re
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml
from datasets import draw_folders
from lightning.pytorch.cli import LightningArgumentParser

from clf.config import CALLBACKS
from clf.data.datamodule import ImageData
from clf.main import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_link_between_documents_is_broken(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_the_readme_s_experiment_is_understood(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(
        r"```yaml\n# birds\.yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL
    )
    (workdir / "birds.yaml").write_text(example)
    assert main(["fit", "--config", "birds.yaml", "--print_config"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "arch: convnext_atto",
        "patience: 7",
        "decay: 0.999",
        "project: classifier-training",
        "class_weights: inverse",
    ):
        assert line in printed


EXPERIMENTS = re.findall(
    r"```yaml\n# (\w+\.yaml)\n(.*?)```", (ROOT / "docs" / "training.md").read_text("utf-8"), flags=re.DOTALL
)


@pytest.mark.parametrize(("name", "text"), EXPERIMENTS, ids=[name for name, _ in EXPERIMENTS])
def test_the_experiments_about_training_can_be_trained(name: str, text: str, workdir: Path) -> None:
    folders = {f"{split}/{label}": 3 for split in ("train", "valid") for label in "ab"}
    root = str(draw_folders(workdir / "images", folders))
    (workdir / name).write_text(text)
    quick = ["--trainer", "trainer/smoke.yaml", "--model.arch", "test_resnet", "--model.image_size", "32"]
    quick += ["--data.num_workers", "0", "--data.batch_size", "2", "--data.root", root]
    assert main(["fit", "--config", name, "--model.pretrained", "false", *quick]) == 0


def test_every_config_that_the_readme_lists_is_shipped() -> None:
    rows = re.findall(r"^\| (`\w+\.yaml`.*?) \|", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE)
    shipped = {path.name for path in (ROOT / "configs").glob("*.yaml")} - {"defaults.yaml"}
    assert {name for row in rows for name in re.findall(r"`(\w+\.yaml)`", row)} == shipped


def test_the_callbacks_that_show_something_are_listed_with_their_arguments_and_defaults() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| .*? \| (.*?)\|$", (ROOT / "docs/seeing.md").read_text("utf-8"), flags=re.MULTILINE
    )
    listed = {key: dict(re.findall(r"`(\w+): (\w+)`", arguments)) for key, arguments in rows if key in CALLBACKS}
    assert listed.keys() >= {name for name, path in CALLBACKS.items() if "pictures" in vars(resolve_name(path)())}
    for key, arguments in listed.items():
        parameters = signature(resolve_name(CALLBACKS[key])).parameters.values()
        assert {name: yaml.safe_load(value) for name, value in arguments.items()} == {
            parameter.name: parameter.default for parameter in parameters
        }, key


def test_every_example_of_data_is_understood() -> None:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(ImageData, "data")
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/data.md").read_text("utf-8"), flags=re.DOTALL)
    keys = set()
    for example in examples:
        keys |= yaml.safe_load(example)["data"].keys()
        parser.instantiate(parser.parse_string(example))
    assert keys >= {"root", "source", "label_key", "split_key", "exclude", "train_only"}

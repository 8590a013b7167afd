"""What the typed parser says of a mistake: one line with key, value, place and the nearest thing that would be right.

The texts that are shortened are jsonargparse's own and no interface of it: these are golden tests on the real parser.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import touch

from clf.errors import UserError
from clf.main import main
from clf.parser import Parser, shorten
from clf.yamlfile import parse_yaml

HERE = " (on the command line)"


def refusal(words: str, capfd: pytest.CaptureFixture[str], *, text: str = "") -> str:
    """Say what is answered to a mistake in a configuration or in flags."""
    Path("my.yaml").write_text(text)
    assert main(["fit", "--config", "my.yaml", *words.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("clf: ")
    assert err.count("\n") == 1
    return err.removeprefix("clf: ").rstrip("\n")


def resolved(words: str, capfd: pytest.CaptureFixture[str], *, text: str = "") -> Any:
    """Type a configuration and flags."""
    Path("my.yaml").write_text(text)
    assert main(["fit", "--config", "my.yaml", "--print_config", *words.split()]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return yaml.safe_load(out)


IN_FILES = {
    # keys
    "model: {arhc: vit}": "unknown key 'model.arhc' (in my.yaml); did you mean 'model.arch'?",
    "trainer.max_epoch: 3": "unknown key 'trainer.max_epoch' (in my.yaml); did you mean 'trainer.max_epochs'?",
    "modle: {arch: vit}": "unknown key 'modle.arch' (in my.yaml); did you mean 'model.arch'?",
    "batch_size: 3": "unknown key 'batch_size' (in my.yaml); did you mean 'data.batch_size'?",
    "arch: vit": "unknown key 'arch' (in my.yaml); did you mean 'model.arch'?",
    "nonsense: 1": "unknown key 'nonsense' (in my.yaml)",
    "model: part.yaml": "unknown key 'model.accelerator' (in part.yaml); did you mean 'trainer.accelerator'?",
    # values
    "trainer.max_epochs: many": "trainer.max_epochs=many (in my.yaml): expected int or null",
    "data: {batch_size: 3.5}": "data.batch_size=3.5 (in my.yaml): expected int",
    "data.root: 5": "data.root=5 (in my.yaml): expected str, list or null; quote it to make it text",
    "data.root: yes": "data.root=true (in my.yaml): expected str, list or null; quote it to make it text",
    "data.val_fraction: [1]": "data.val_fraction=[1] (in my.yaml): expected float",
    "model.mean: [1, 2]": "model.mean=[1, 2] (in my.yaml): expected list of 3 or null",
    "model.image_size: [1]": "model.image_size=[1] (in my.yaml): expected int, list of 2 or null",
    "data.augment: lihgt": (
        "data.augment=lihgt (in my.yaml): expected none, light, standard, ocr, strong or list; did you mean 'light'?"
    ),
    "data.augment: [{class_path: torchvision.transforms.v2.RandomRotation, init_args: {degrees: many}}]": (
        "data.augment.degrees=many (in my.yaml): expected number or list"
    ),
    "model.crop_mode: centre": (
        "model.crop_mode=centre (in my.yaml): expected center, squash, border or null; did you mean 'center'?"
    ),
    "data.num_workers: atuo": "data.num_workers=atuo (in my.yaml): expected auto or int; did you mean 'auto'?",
    "log_level: loud": "log_level=loud (in my.yaml): expected debug, info, warning or error",
    # null where it means nothing
    "data.batch_size: null": "data.batch_size=null (in my.yaml): expected int",
    "model.arch: null": "model.arch=null (in my.yaml): expected str; quote it to make it text",
    "model.optimizer: null": "model.optimizer=null (in my.yaml): expected a class_path",
    "model.optimizer.lr: null": "model.optimizer.lr=null (in my.yaml): expected float",
    "model.loss.label_smoothing: null": "model.loss.label_smoothing=null (in my.yaml): expected float",
    "callbacks.early_stopping.patience: null": "callbacks.early_stopping.patience=null (in my.yaml): expected int",
    # classes
    "model.optimizer: {class_path: AdamWW}": (
        "model.optimizer=AdamWW (in my.yaml): there is no such class; did you mean 'AdamW'?"
    ),
    "model.lr_scheduler: CosineAnnealingL": (
        "model.lr_scheduler=CosineAnnealingL (in my.yaml): there is no such class; did you mean 'CosineAnnealingLR'?"
    ),
    "model.optimizer: torch.optim.AdamWW": (
        "model.optimizer=torch.optim.AdamWW (in my.yaml): torch.optim has no 'AdamWW'; did you mean 'AdamW'?"
    ),
    "model.loss: {class_path: clf.loses.CrossEntropy}": (
        "model.loss=clf.loses.CrossEntropy (in my.yaml): clf has no 'loses'; did you mean 'losses'?"
    ),
    "model.loss: {class_path: my_losses.Focal, init_args: {gamma: 2}}": (
        "model.loss=my_losses.Focal (in my.yaml): there is no module 'my_losses'"
    ),
    "model.network: broken.Net": (
        "model.network=broken.Net (in my.yaml): importing it failed: invalid syntax (broken.py, line 2)"
    ),
    "model.loss: {class_path: failing.Loss, init_args: {gamma: 2}}": (
        "model.loss=failing.Loss (in my.yaml): importing it failed: no scipy here"
    ),
    "model.network: nowhere.Net": "model.network=nowhere.Net (in my.yaml): there is no module 'nowhere'",
    "model.loss: torch.optim.AdamW": "model.loss=torch.optim.AdamW (in my.yaml): this is no kind of Module",
    "model.optimizer: torch.nn.Linear": "model.optimizer=torch.nn.Linear (in my.yaml): this is no kind of Optimizer",
    "callbacks.mine: torch.nn.Linear": "callbacks.mine=torch.nn.Linear (in my.yaml): this is no kind of Callback",
    "model.lr_scheduler: ReduceLROnPlateau": (
        "model.lr_scheduler=ReduceLROnPlateau (in my.yaml): there are several; give one of "
        "torch.optim.lr_scheduler.ReduceLROnPlateau, lightning.pytorch.cli.ReduceLROnPlateau"
    ),
    "data.source: {class_path: Jerseys}": (
        "data.source=Jerseys (in my.yaml): there is no such class; write package.module.Class"
    ),
    "data.source: {seed: 3}": "data.source (in my.yaml) needs a class_path: which class is it?",
    "trainer.logger: TensorBoardLoger": (
        "trainer.logger=TensorBoardLoger (in my.yaml): there is no such class; did you mean 'TensorBoardLogger'?"
    ),
    "data.augment: [{class_path: torch.nn.Identitty}]": (
        "data.augment=torch.nn.Identitty (in my.yaml): torch.nn has no 'Identitty'; did you mean 'Identity'?"
    ),
    # arguments of classes
    "model.optimizer.lrr: 1": (
        "unknown key 'model.optimizer.lrr' (in my.yaml): torch.optim.AdamW does not take it; did you mean 'lr'?"
    ),
    "callbacks: {ema: {decy: 0.9}}": (
        "unknown key 'callbacks.ema.decy' (in my.yaml): clf.callbacks.ema.EMA does not take it; did you mean 'decay'?"
    ),
    "callbacks.ema.decay: slow": "callbacks.ema.decay=slow (in my.yaml): expected float",
    "callbacks.interrupt.signal: 9": (
        "unknown key 'callbacks.interrupt.signal' (in my.yaml): clf.callbacks.interrupt.Interrupt does not take it"
    ),
    "model.optimizer.betas: [0.9]": "model.optimizer.betas=[0.9] (in my.yaml): expected list of 2",
    "trainer.logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: x, version: {}}}": (
        "trainer.logger.version={} (in my.yaml): expected int, str or null; quote it to make it text"
    ),
    "trainer.callbacks: [{class_path: lightning.pytorch.callbacks.Timer, init_args: {durration: 3}}]": (
        "unknown key 'trainer.callbacks.durration' (in my.yaml): lightning.pytorch.callbacks.Timer does not take it; "
        "did you mean 'duration'?"
    ),
}


@pytest.mark.parametrize("text", IN_FILES)
def test_a_mistake_in_a_file_is_answered_with_key_value_file_and_remedy(
    workdir: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    Path("part.yaml").write_text("accelerator: cpu\n")
    Path("broken.py").write_text("import torch\nclass Net(:\n")
    Path("failing.py").write_text("raise RuntimeError('no scipy here')\n")
    assert refusal("", capfd, text=text) == IN_FILES[text]


ON_THE_COMMAND_LINE = {
    "--trainer.max_epoch 3": f"unknown key 'trainer.max_epoch'{HERE}; did you mean 'trainer.max_epochs'?",
    "--trainer.max-epochs 3": f"unknown key 'trainer.max-epochs'{HERE}; did you mean 'trainer.max_epochs'?",
    "--max_epochs 3": f"unknown key 'max_epochs'{HERE}; did you mean 'trainer.max_epochs'?",
    "--debugg": f"unknown key 'debugg'{HERE}",
    "--trainer.max_epochs many": f"trainer.max_epochs=many{HERE}: expected int or null",
    "--trainer.max_epochs=": f"trainer.max_epochs={HERE}: expected int or null",
    "--data.batch_size null": f"data.batch_size=null{HERE}: expected int",
    "--callbacks.early_stopping.patience null": f"callbacks.early_stopping.patience=null{HERE}: expected int",
    "--model.loss.label_smoothing null": f"model.loss.label_smoothing=null{HERE}: expected float",
    "--model.optimizer.lr fast": f"model.optimizer.lr=fast{HERE}: expected float",
    "--model.optimizer.init_args.lr fast": f"model.optimizer.lr=fast{HERE}: expected float",
    "--model.optimizer AdamWW": f"model.optimizer=AdamWW{HERE}: there is no such class; did you mean 'AdamW'?",
    "--model.optimizer.class_path AdamWW": (
        f"model.optimizer=AdamWW{HERE}: there is no such class; did you mean 'AdamW'?"
    ),
    "--model.optimizer SGD --model.optimizer.lrr 1": (
        f"unknown key 'model.optimizer.lrr'{HERE}: torch.optim.SGD does not take it; did you mean 'lr'?"
    ),
    "--data.source.seed 3": f"data.source{HERE} needs a class_path: which class is it?",
    "--data.augment [lihgt]": (
        f"data.augment=['lihgt']{HERE}: expected none, light, standard, ocr, strong or a class_path"
    ),
    "--data.sampler balanced --data.sampler.replacement false": (
        f"data.sampler.replacement=false{HERE}: expected none, balanced, weighted or a class_path"
    ),
    "--data 5": f"data=5{HERE}: give a YAML file, or single keys: --data.KEY VALUE",
    "--trainer cpu": f"trainer=cpu{HERE}: give a YAML file, or single keys: --trainer.KEY VALUE",
    "--data.seed 3": "data.seed follows seed_everything and cannot be given",
    "--model.classes [a,b]": "model.classes follows data.classes and cannot be given",
    "--data.root": "--data.root needs a value",
    "birds": "unexpected 'birds'; values follow their key: --key value",
    "-x": "unexpected '-x'; values follow their key: --key value",
}


@pytest.mark.parametrize("words", ON_THE_COMMAND_LINE)
def test_a_mistake_on_the_command_line_is_answered_as_well(
    workdir: Path, capfd: pytest.CaptureFixture[str], words: str
) -> None:
    assert refusal(words, capfd) == ON_THE_COMMAND_LINE[words]


def test_a_mistake_in_a_file_is_not_blamed_on_a_flag_that_would_mend_it(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refusal("--trainer.max_epochs 3", capfd, text="trainer.max_epochs: many")
    assert message == "trainer.max_epochs=many (in my.yaml): expected int or null"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "model.optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}"),
        ("", "model.optimizer: SGD\n"),
        ("--model.optimizer SGD --model.optimizer.lr 0.1", ""),
        ("--model.optimizer.class_path torch.optim.SGD", ""),
    ],
)
def test_another_optimizer_keeps_nothing_of_the_default_one(
    workdir: Path, capfd: pytest.CaptureFixture[str], words: str, text: str
) -> None:
    """Not even jsonargparse's own default: AdamW decays by 0.01, SGD not at all."""
    optimizer = resolved(words, capfd, text=text)["model"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["weight_decay"] == 0


@pytest.mark.parametrize("degrees", [8, 8.5, [-8, 8]])
def test_numbers_of_other_libraries_transforms_survive_being_saved(
    workdir: Path, capfd: pytest.CaptureFixture[str], degrees: Any
) -> None:
    """torchvision types them as ``Number | Sequence``, which a parser cannot write down without our help."""
    rotation = {"class_path": "torchvision.transforms.v2.RandomRotation", "init_args": {"degrees": degrees}}
    [printed] = resolved("", capfd, text=f"data.augment: {json.dumps([rotation])}")["data"]["augment"]
    assert printed["init_args"]["degrees"] == degrees


@pytest.mark.parametrize("text", ["1e3", "5e10", "00", "1_0", "true", "null", "0x1f"])
def test_text_that_looks_like_something_else_is_saved_as_text(
    workdir: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    """A class may be called 1e3. What is printed is what a run saves, and resumes from."""
    quoted = json.dumps(text)
    keys = f"data: {{train_only: {{source: {quoted}}}, sampler: weighted, sampler_weights: {{{quoted}: 2}}}}"
    Path("my.yaml").write_text(keys)
    printed = []
    for name in ("my.yaml", "again.yaml"):
        assert main(["fit", "--config", name, "--print_config"]) == 0
        printed.append(capfd.readouterr().out)
        Path("again.yaml").write_text(printed[-1])
        data = parse_yaml(printed[-1])["data"]
        assert (data["train_only"], data["sampler_weights"]) == ({"source": text}, {text: 2.0})


def test_flags_win_wherever_they_stand(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("my.yaml").write_text("trainer.max_epochs: 3\n")
    for words in (["--trainer.max_epochs", "7", "--config", "my.yaml"], ["--config=my.yaml", "--trainer.max_epochs=7"]):
        assert main(["fit", *words, "--print_config"]) == 0
        assert yaml.safe_load(capfd.readouterr().out)["trainer"]["max_epochs"] == 7


def test_quoted_numbers_stay_text_and_unquoted_ones_are_numbers(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = resolved("", capfd, text='data.root: "1e-3"\nmodel.loss.label_smoothing: 1e-3\nname: 007\n')
    assert (config["data"]["root"], config["model"]["loss"]["init_args"]["label_smoothing"]) == ("1e-3", 0.001)
    assert config["name"] == "007"


def test_callbacks_are_typed_by_name(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = '--callbacks.ema.decay 0.9 --callbacks.early_stopping null --callbacks.checkpoint {"save_top_k":1}'
    callbacks = resolved(words, capfd)["callbacks"]
    assert callbacks["ema"] == {"class_path": "clf.callbacks.ema.EMA", "init_args": {"decay": 0.9, "warmup": True}}
    assert callbacks["early_stopping"] is None
    assert callbacks["checkpoint"]["init_args"]["save_top_k"] == 1
    assert callbacks["checkpoint"]["init_args"]["monitor"] == "val/acc_top1"


@pytest.mark.parametrize(
    ("words", "argument", "value"),
    [
        ("--callbacks.swa StochasticWeightAveraging --callbacks.swa.swa_lrs 0.1", "device", "cpu"),
        ("--callbacks.timer Timer --callbacks.timer.duration 00:00:10:00", "interval", "step"),
    ],
)
def test_lightning_s_own_callbacks_can_be_saved_and_read_again(
    workdir: Path, capfd: pytest.CaptureFixture[str], words: str, argument: str, value: str
) -> None:
    name = words.split()[0].removeprefix("--callbacks.")
    config = resolved(words, capfd)
    assert config["callbacks"][name]["init_args"][argument] == value
    assert resolved("", capfd, text=yaml.safe_dump(config)) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--callbacks.checkpoint.save_top_k 0", "callbacks.checkpoint.save_top_k=0 keeps no best epoch"),
        ("--model.loss.label_smoothing 7", "label_smoothing=7.0 must be in [0, 1)"),
        (
            '--data.augment [{"class_path":"torchvision.transforms.v2.GaussianBlur","init_args":{"kernel_size":4}}]',
            "Kernel size value should be an odd and positive number.",
        ),
    ],
)
def test_what_a_class_says_of_its_arguments_is_passed_on(
    workdir: Path, capfd: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    text = "model: {arch: test_resnet, pretrained: false}\ndata.root: images\n"
    touch(Path("images"), *(f"{split}/{name}/0.png" for split in ("train", "valid") for name in ("cat", "dog")))
    assert refusal(words, capfd, text=text).startswith(message)


def test_a_message_of_another_shape_is_one_line_all_the_same() -> None:
    text = "Something new:\n  - that we have\n    never seen\n"
    assert shorten(text, known=[], origin=lambda key: "my.yaml") == "Something new: - that we have never seen"


def test_a_parser_of_its_own_refuses_abbreviations_and_nulls_and_says_so_in_one_line() -> None:
    parser = Parser()
    parser.add_argument("--batch_size", type=int, default=1)
    parser.keys = ["batch_size"]
    with pytest.raises(UserError, match=r"unknown key 'batch' \(on the command line\)"):
        parser.parse_args(["--batch", "2"])
    with pytest.raises(UserError, match=r"^batch_size=null \(on the command line\): expected int$"):
        parser.parse_args(["--batch_size", "null"])

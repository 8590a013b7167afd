"""The classifier: every argument changes what a user gets, and what it says is what it does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CLASSES, VAL, Loader, Net, batch, fit, from_yaml, tiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from toy import trainer

from clf.callbacks.checkpoint import Checkpoint
from clf.checkpoints import read_facts
from clf.classifier import Batch, Classifier
from clf.errors import UserError
from clf.losses import BinaryCrossEntropy, CrossEntropy, Focal

COUNTS = [1, 1, 2]
INVERSE = [1.2, 1.2, 0.6]  # 1/1, 1/1 and 1/2, made to sum to 3
ADJUSTED = CrossEntropy(logit_adjustment=1.0)


def weights(classifier: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def val_loss(tmp_path: Path, classifier: Classifier, **settings: Any) -> float:
    [metrics] = trainer(tmp_path).validate(classifier, Loader(VAL[:1]), verbose=False, **settings)
    return metrics["val/loss"]


def mean_loss(classifier: Classifier, batch: Batch, **options: Any) -> float:
    with torch.no_grad():
        logits = classifier.eval()(batch["images"])
    return F.cross_entropy(logits, batch["labels"], **options).item()


# What is built


def test_a_network_of_a_user_s_file_learns_by_class_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "class Linear(nn.Sequential):\n"
        "    def __init__(self, num_classes: int, bias: bool = True):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes, bias=bias))\n"
    )
    classifier = from_yaml("network: {class_path: my_networks.Linear, init_args: {bias: false}}")
    before = weights(classifier)
    fit(tmp_path, classifier, max_epochs=1)
    assert {name: tuple(value.shape) for name, value in before.items()} == {"network.1.weight": (3, 192)}
    assert not torch.equal(weights(classifier)["network.1.weight"], before["network.1.weight"])
    assert classifier.facts.network == {"class_path": "my_networks.Linear"}
    assert classifier.weights_from == "its own constructor"


def test_a_network_of_one_s_own_is_fed_as_imagenet_unless_said_otherwise() -> None:
    spec = tiny(image_size=None).preprocessing
    assert (spec.size, spec.mean, spec.std) == ((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("settings", [{"weights": "x.safetensors"}, {"drop_rate": 0.1}, {"drop_path_rate": 0.1}])
def test_what_only_timm_s_networks_take_is_refused_for_one_s_own(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"for model\.arch; .*model\.network\.init_args"):
        tiny(**settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop_mode", "squash"),
        ("crop_pct", 0.5),
        ("interpolation", "nearest"),
        ("mean", (0.1, 0.2, 0.3)),
        ("std", (0.1, 0.2, 0.3)),
    ],
)
@pytest.mark.parametrize("network", [Net, None], ids=["own", "timm"])
def test_preprocessing_is_what_the_configuration_says(network: Any, key: str, value: Any) -> None:
    settings = {"network": network, "arch": "test_resnet", "pretrained": False}
    assert getattr(tiny(**settings).preprocessing, key) != value
    assert getattr(tiny(**settings | {key: value}).preprocessing, key) == value


def test_fewer_than_two_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"at least two classes, found \['0'\]"):
        tiny(classes=["0"])


# What it is trained with


def test_the_loss_is_smoothed_cross_entropy_or_the_one_that_is_given(tmp_path: Path) -> None:
    default, own = tiny(), from_yaml("network: {class_path: tiny.Net}, loss: {class_path: torch.nn.CrossEntropyLoss}")
    assert val_loss(tmp_path, default) == pytest.approx(mean_loss(default, VAL[0], label_smoothing=0.1))
    assert val_loss(tmp_path, own) == pytest.approx(mean_loss(own, VAL[0]))


class Tempered(CrossEntropy):
    """A loss that learns, too."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits / self.temperature, labels)


def test_parameters_of_a_loss_are_trained(tmp_path: Path) -> None:
    loss = Tempered()
    fit(tmp_path, tiny(loss=loss), max_epochs=1)
    assert loss.temperature.item() != 1.0


def test_classes_are_not_weighed_unless_asked_for(tmp_path: Path) -> None:
    # Defect 5: weights that were always on corrected each balanced sampler twice.
    assert val_loss(tmp_path, tiny(class_counts=COUNTS)) == val_loss(tmp_path, tiny())


def test_inverse_class_weights_reach_the_loss(tmp_path: Path) -> None:
    weighed = tiny(class_counts=COUNTS, class_weights="inverse")
    expected = mean_loss(weighed, VAL[0], weight=torch.tensor(INVERSE), label_smoothing=0.1)
    assert val_loss(tmp_path, weighed) == pytest.approx(expected)
    assert val_loss(tmp_path, tiny()) != pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "scheme"),
    [
        *((loss(), scheme) for loss in (CrossEntropy, Focal, BinaryCrossEntropy) for scheme in ("inverse", "none")),
        (nn.CrossEntropyLoss(), "none"),
    ],
    ids=str,
)
def test_the_loss_of_an_evaluation_is_that_of_all_images_at_once(loss: nn.Module, scheme: Any, tmp_path: Path) -> None:
    """However they are dealt into batches."""
    classifier = tiny(class_counts=COUNTS, class_weights=scheme, loss=loss)
    whole = batch(0, 0, 0, 1, 2, 2, 0, seed=6)
    losses = []
    for sizes in ([7], [3, 4], [1] * 7):
        parts = {key: value.split(sizes) for key, value in whole.items()}
        batches = [{key: parts[key][i] for key in parts} for i in range(len(sizes))]
        [metrics] = trainer(tmp_path, enable_checkpointing=False).validate(classifier, Loader(batches), verbose=False)
        losses.append(metrics["val/loss"])
    with torch.no_grad():
        expected = float(classifier.eval().loss(classifier(whole["images"]), whole["labels"]))
    assert losses == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")  # there is nothing to train
@pytest.mark.parametrize("settings", [{"class_weights": "inverse"}, {}], ids=["said again", "not said"])
def test_class_weights_travel_in_the_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    trained = tiny(class_counts=COUNTS, class_weights="inverse")
    fit(tmp_path, trained, Checkpoint(dirpath=str(tmp_path)), max_epochs=1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved["loss.class_weights"].tolist() == pytest.approx(INVERSE)
    again = tiny(**settings)
    assert val_loss(tmp_path, again, ckpt_path=tmp_path / "last.ckpt") == pytest.approx(val_loss(tmp_path, trained))


@pytest.mark.filterwarnings("ignore:.*the best epochs of the resumed run")
@pytest.mark.parametrize(
    ("before", "after"), [({}, {"class_weights": "inverse"}), ({"class_weights": "inverse"}, {})], ids=["on", "off"]
)
def test_a_resumed_run_weighs_as_its_configuration_says(
    before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    fit(tmp_path, tiny(class_counts=COUNTS, **before), Checkpoint(dirpath=str(tmp_path)), max_epochs=1)
    resumed = tiny(class_counts=COUNTS, **after)
    fit(tmp_path, resumed, Checkpoint(dirpath=str(tmp_path)), resume=tmp_path / "last.ckpt", max_epochs=2)
    found = weights(resumed).get("loss.class_weights")
    assert (found is None) == (not after)


def test_class_weights_are_refused_for_a_loss_that_has_no_place_for_them() -> None:
    message = "model.class_weights='inverse': CrossEntropyLoss has no buffer named class_weights to put them in"
    with pytest.raises(UserError, match=re.escape(message)):
        tiny(loss=nn.CrossEntropyLoss(), class_counts=COUNTS, class_weights="inverse")


def test_the_optimizer_is_the_one_of_the_configuration(tmp_path: Path) -> None:
    classifier = from_yaml(
        "network: {class_path: tiny.Net}, lr_scheduler: null, "
        "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5, momentum: 0.9, weight_decay: 0.01}}"
    )
    [optimizer] = fit(tmp_path, classifier, max_epochs=1).optimizers
    assert isinstance(optimizer, SGD)
    assert [(group["lr"], group["momentum"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.5, 0.9, 0.01),
        (0.5, 0.9, 0.0),
    ]


def test_effective_class_weights_reach_the_loss_with_their_beta(tmp_path: Path) -> None:
    classifier = from_yaml("network: {class_path: tiny.Net}, class_weights: effective, class_weights_beta: 0.5")
    assert classifier.state_dict()["loss.class_weights"].tolist() == [1, 1, 1]  # no counts, so it is the shape alone
    found = [tiny(class_counts=[1, 2, 40], class_weights="effective", class_weights_beta=beta) for beta in (0.5, 0.9)]
    losses = [val_loss(tmp_path, each) for each in found]
    for each, loss in zip(found, losses, strict=True):
        weight = each.state_dict()["loss.class_weights"]
        assert loss == pytest.approx(mean_loss(each, VAL[0], weight=weight, label_smoothing=0.1))
    assert losses[0] != pytest.approx(losses[1])


@pytest.mark.parametrize(
    "settings",
    [{"class_weights": "inverse", "resampled": True}, {"class_weights": "inverse", "loss": ADJUSTED}],
    ids=["sampler", "adjustment"],
)
def test_two_corrections_of_one_imbalance_are_refused_unless_asked_for(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"correct the same imbalance .* model\.double_correction=true"):
        tiny(class_counts=COUNTS, **settings)
    tiny(class_counts=COUNTS, **settings, double_correction=True)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")  # there is nothing to train
@pytest.mark.parametrize("loss", ["CrossEntropy", "{class_path: CrossEntropy, init_args: {logit_adjustment: 2}}"])
def test_logit_adjustment_changes_training_and_its_prior_travels_in_the_checkpoint(loss: str, tmp_path: Path) -> None:
    adjusted, plain = (
        tiny(class_counts=COUNTS, loss=CrossEntropy(logit_adjustment=tau), warmup_epochs=0) for tau in (2.0, 0.0)
    )
    assert val_loss(tmp_path, adjusted) == val_loss(tmp_path, plain)  # evaluation scores the logits as they are
    fit(tmp_path, adjusted, Checkpoint(dirpath=str(tmp_path)), max_epochs=1)
    fit(tmp_path, plain, max_epochs=1)
    assert not torch.equal(weights(adjusted)["network.6.weight"], weights(plain)["network.6.weight"])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved["loss.log_prior"].exp().tolist() == pytest.approx([0.25, 0.25, 0.5])
    loss = loss.replace("CrossEntropy", "clf.losses.CrossEntropy")
    again = from_yaml(f"network: {{class_path: tiny.Net}}, loss: {loss}")
    assert val_loss(tmp_path, again, ckpt_path=tmp_path / "last.ckpt") == pytest.approx(val_loss(tmp_path, adjusted))
    assert weights(again)["loss.log_prior"].tolist() == saved["loss.log_prior"].tolist()


def test_the_area_under_the_curve_is_reported_on_request(tmp_path: Path) -> None:
    for auroc in (True, False):
        classifier = from_yaml(f"network: {{class_path: tiny.Net}}, auroc: {str(auroc).lower()}")
        for verb in ("validate", "test"):
            [metrics] = getattr(trainer(tmp_path), verb)(classifier, Loader(VAL), verbose=False)
            assert any(key.endswith("/auroc") for key in metrics) == auroc


# What it leaves


def test_a_checkpoint_says_in_primitives_what_rebuilds_the_classifier(tmp_path: Path) -> None:
    classifier = tiny(crop_mode="squash")
    fit(tmp_path, classifier, Checkpoint(dirpath=str(tmp_path)), max_epochs=1)
    block = torch.load(tmp_path / "last.ckpt", weights_only=True)["clf"]
    assert json.loads(json.dumps(block))["classes"] == CLASSES
    assert block["network"] == {"class_path": "tiny.Net"}
    assert (block["preprocessing"]["size"], block["preprocessing"]["crop_mode"]) == ((8, 8), "squash")
    assert read_facts(tmp_path / "last.ckpt") == classifier.facts

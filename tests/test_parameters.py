"""Parameter groups, layer-wise rates and the frozen backbone: seen in what a step changes."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from tiny import CLASSES, TRAIN, Net, Resumable, fit, from_yaml, tiny
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from toy import Stop, differences, trainer

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.ema import EMA
from clf.classifier import Classifier
from clf.errors import UserError
from clf.parameters import Backbone, build_optimizer, layer_groups, parameter_groups


def weights(classifier: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def test_norms_and_biases_are_not_decayed_and_no_parameter_is_lost_or_doubled() -> None:
    network = nn.Sequential(Net(3), nn.LayerNorm(3), nn.MultiheadAttention(3, 1))
    decay, rest = parameter_groups(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [[names[id(parameter)] for parameter in group["params"]] for group in (decay, rest)]
    assert found[0] == ["0.0.weight", "0.6.weight", "2.in_proj_weight", "2.out_proj.weight"]
    assert sorted(found[0] + found[1]) == sorted(names.values())
    assert (decay["name"], rest["name"], rest["weight_decay"]) == ("decay", "no_decay", 0.0)
    assert "weight_decay" not in decay  # it is the optimizer's


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_what_timm_spares_from_decay_is_spared(layer_decay: float) -> None:
    classifier = Classifier(CLASSES, arch="test_vit", pretrained=False)
    optimizer = build_optimizer(AdamW, classifier, classifier.network, layer_decay=layer_decay)
    spared = {id(each) for group in optimizer.param_groups if group["weight_decay"] == 0 for each in group["params"]}
    ours = {name for name, each in classifier.network.named_parameters() if id(each) in spared}
    network: Any = classifier.network
    spare = network.no_weight_decay()
    theirs = timm.optim.param_groups_weight_decay(network, no_weight_decay_list=spare)  # type: ignore[attr-defined]
    expected = {id(each) for group in theirs if group["weight_decay"] == 0 for each in group["params"]}
    assert ours == {name for name, each in classifier.network.named_parameters() if id(each) in expected}
    assert {"pos_embed", "cls_token"} <= ours


def test_a_parameter_that_two_layers_share_is_trained_once() -> None:
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    [group] = parameter_groups(tied)
    assert len(group["params"]) == 1


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    network = Net(3)
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name == "6.bias"
    [group] = parameter_groups(network)
    assert (group["name"], [tuple(parameter.shape) for parameter in group["params"]]) == ("no_decay", [(3,)])


def test_weight_decay_shrinks_kernels_and_leaves_norms_and_biases_alone() -> None:
    network = Net(3)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = SGD(parameter_groups(network), lr=1.0, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.5 if parameter.ndim > 1 else 1.0))


# Layer-wise rates


def timm_net(**settings: Any) -> Classifier:
    """A ResNet of timm's, small enough for a test: its stages are layers."""
    torch.manual_seed(0)
    return Classifier(CLASSES, arch="test_resnet", pretrained=False, image_size=32, **settings)


def test_layers_are_timm_s_and_each_learns_more_slowly_than_the_one_above() -> None:
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    network = timm_net().network
    groups = layer_groups(network, network, layer_decay=0.5)
    expected = param_groups_layer_decay(network, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in expected for parameter in group["params"]}
    assert {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]} == scales
    assert sorted({*scales.values()}, reverse=True) == [0.5**n for n in range(len({*scales.values()}))]
    head = next(group for group in groups if network.get_classifier().weight is group["params"][-1])  # type: ignore[operator]
    assert head["lr_scale"] == 1
    assert len({group["name"] for group in groups}) == len(groups)
    assert all(("weight_decay" in group) == group["name"].endswith("no_decay") for group in groups)


def test_layer_decay_scales_a_step_and_no_decay_leaves_it_alone(tmp_path: Path) -> None:
    stem, head = "network.conv1.0.weight", "network.fc.weight"
    moved: dict[float, dict[str, float]] = {}
    for decay in (1.0, 0.5):
        classifier = timm_net(
            layer_decay=decay, lr_scheduler=None, warmup_epochs=0, optimizer=lambda groups: SGD(groups, lr=0.1)
        )
        before = weights(classifier)
        images = {**TRAIN[0], "images": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
        fit(tmp_path, classifier, batches=[images], max_epochs=1, limit_val_batches=0)
        after = weights(classifier)
        moved[decay] = {name: (after[name] - before[name]).norm().item() for name in (stem, head)}
    lowest = min(group["lr_scale"] for group in layer_groups(timm_net().network, timm_net().network, layer_decay=0.5))
    assert moved[0.5][head] == pytest.approx(moved[1.0][head], rel=1e-4)
    assert moved[0.5][stem] == pytest.approx(moved[1.0][stem] * lowest, rel=1e-3)


def test_what_lies_outside_the_network_counts_as_the_topmost_layer() -> None:
    module = nn.ModuleDict({"network": timm_net().network, "loss": nn.Linear(2, 2)})
    groups = layer_groups(module, module["network"], layer_decay=0.5)
    [found] = [group for group in groups if any(each is module["loss"].weight for each in group["params"])]
    assert (found["lr_scale"], found["name"].endswith("_decay")) == (1.0, True)


def test_a_network_without_layers_is_refused_for_layer_decay(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"layer_decay=0\.5: Net has no group_matcher"):
        fit(tmp_path, tiny(layer_decay=0.5), max_epochs=1)


class OneLayer(Net):
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"all": "."}


def test_a_network_of_one_single_layer_is_refused_for_layer_decay() -> None:
    with pytest.raises(UserError, match="one single layer in OneLayer"):
        layer_groups(OneLayer(3), OneLayer(3), layer_decay=0.5)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5])
def test_a_layer_decay_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=rf"model\.layer_decay={value} must be in \(0, 1\]"):
        tiny(layer_decay=value)


def test_a_schedule_that_would_undo_layer_decay_is_refused(tmp_path: Path) -> None:
    yaml = "{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {max_lr: 0.1, total_steps: 9}}"
    classifier = from_yaml(
        f"network: {{class_path: test_parameters.TwoLayers}}, layer_decay: 0.5, lr_scheduler: {yaml}"
    )
    with pytest.raises(UserError, match=r"OneCycleLR gives all layers one rate; use clf\.optim\.OneCycle"):
        fit(tmp_path, classifier, max_epochs=1)


class TwoLayers(Net):
    """A network of a user's own that says all that timm's say."""

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": "^[01]", "blocks": "^6"}

    def get_classifier(self) -> nn.Module:
        return self[6]


# The frozen backbone


def tail(**settings: Any) -> Classifier:
    return tiny(network=TwoLayers, freeze_epochs=2, **settings)


class Snapshots(Stop):
    """Keeps the weights at the start of each epoch, and after the last."""

    def __init__(self) -> None:
        super().__init__(10**6)
        self.seen: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(weights(pl_module))

    on_train_end = on_train_epoch_start


def test_only_the_head_learns_while_the_backbone_is_frozen_and_then_everything(tmp_path: Path) -> None:
    snapshots = Snapshots()
    fit(tmp_path, tail(), snapshots, max_epochs=3)
    for epoch in range(3):
        changed = set(names_that_differ(*snapshots.seen[epoch : epoch + 2]))
        head, everything = {"network.6.weight", "network.6.bias"}, set(snapshots.seen[0])
        assert changed == (head if epoch < 2 else everything)


def names_that_differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_without_freezing_everything_learns_at_once(tmp_path: Path) -> None:
    snapshots = Snapshots()
    fit(tmp_path, tiny(network=TwoLayers), snapshots, max_epochs=1)
    assert set(names_that_differ(*snapshots.seen)) == set(snapshots.seen[0])


@pytest.mark.parametrize("step", [2, 3, 5, 6, 8], ids=lambda step: f"step {step}")
def test_a_run_resumed_before_or_after_the_thaw_is_the_whole_run(step: int, tmp_path: Path) -> None:
    whole = tail()
    fit(tmp_path / "whole", whole, EMA(decay=0.5), Checkpoint(dirpath=str(tmp_path / "whole")), max_epochs=4)
    for stop, resume in ((step, None), (10**6, tmp_path / "last.ckpt")):
        classifier = tail()
        callbacks = [EMA(decay=0.5), Checkpoint(dirpath=str(tmp_path), every_n_train_steps=1), Stop(stop)]
        batches = Resumable(TRAIN, classifier)
        try:
            fit(tmp_path, classifier, *callbacks, batches=batches, resume=resume, max_epochs=4)
        except SystemExit:
            continue
    assert differences(weights(classifier), weights(whole)) == []


def test_a_fit_that_ends_frozen_leaves_the_next_one_everything_to_train(tmp_path: Path) -> None:
    classifier = tail()
    fit(tmp_path, classifier, max_epochs=1)
    [optimizer] = fit(tmp_path, classifier, max_epochs=1).optimizers
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(classifier.parameters()))


def test_timm_s_heads_are_found_and_parameters_frozen_by_the_network_stay_frozen() -> None:
    network = timm_net().network
    network.bn1.weight.requires_grad = False  # type: ignore[union-attr]
    backbone = Backbone(network)
    backbone.freeze(True)
    assert {name for name, each in network.named_parameters() if each.requires_grad} == {"fc.weight", "fc.bias"}
    backbone.freeze(False)
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == ["bn1.weight"]


def test_freezing_needs_a_network_that_knows_its_head() -> None:
    with pytest.raises(UserError, match=r"model\.freeze_epochs: Net has no get_classifier"):
        tiny(freeze_epochs=1)
    with pytest.raises(UserError, match=r"model\.freeze_epochs=-1 must not be negative"):
        tiny(freeze_epochs=-1)


def test_several_processes_need_a_strategy_that_knows_of_frozen_parameters(tmp_path: Path) -> None:
    classifier = tail()
    classifier.trainer = trainer(tmp_path, strategy="ddp", devices=1)
    with pytest.raises(UserError, match=r"set trainer\.strategy=ddp_find_unused_parameters_true"):
        classifier.configure_optimizers()


@pytest.mark.parametrize(
    "optimizer",
    [
        "{class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9, nesterov: true}}",
        "{class_path: torch.optim.Adam, init_args: {lr: 0.01}}",
        "{class_path: torch.optim.AdamW, init_args: {lr: 0.01}}",
        "{class_path: timm.optim.Lamb, init_args: {lr: 0.01}}",
        "{class_path: timm.optim.Lion, init_args: {lr: 0.001}}",
    ],
    ids=["SGD", "Adam", "AdamW", "Lamb", "Lion"],
)
def test_optimizers_of_torch_and_timm_train_by_class_path(optimizer: str, tmp_path: Path) -> None:
    classifier = from_yaml(f"network: {{class_path: tiny.Net}}, warmup_epochs: 0, optimizer: {optimizer}")
    before = weights(classifier)
    [used] = fit(tmp_path, classifier, max_epochs=1).optimizers
    assert f".{type(used).__name__}," in optimizer
    assert set(names_that_differ(before, weights(classifier))) == set(before)


def test_an_optimizer_that_chooses_its_own_rate_must_be_given_one(tmp_path: Path) -> None:
    def yaml(rate: str) -> str:
        return f"network: {{class_path: tiny.Net}}, optimizer: {{class_path: timm.optim.Adafactor, init_args: {rate}}}"

    with pytest.raises(UserError, match=r"model.optimizer=Adafactor has no rate .*; set model.optimizer.lr"):
        fit(tmp_path, from_yaml(yaml("{lr: null}")))
    fit(tmp_path, from_yaml(yaml("{lr: 0.01}")), max_epochs=1)


@pytest.mark.parametrize("make", [Adam, AdamW, partial(SGD, lr=0.1, momentum=0.9)], ids=["Adam", "AdamW", "SGD"])
def test_a_step_is_one_kernel_and_gives_what_the_plain_loop_gives(make: Any) -> None:
    ends = []
    choices: list[dict[str, Any]] = [{}, {"foreach": False, "fused": False}]
    for options in choices:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        optimizer = build_optimizer(partial(make, **options), network, network, layer_decay=1.0)
        assert {group["fused"] for group in optimizer.param_groups} == {not options}
        for _ in range(5):
            optimizer.zero_grad()
            network(torch.linspace(-1, 1, 24).reshape(6, 4)).square().sum().backward()
            optimizer.step()
        ends.append(nn.utils.parameters_to_vector(network.parameters()))
    assert torch.allclose(ends[0], ends[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("choice", [{"foreach": True}, {"fused": False}, {"differentiable": True}], ids=str)
def test_how_a_step_is_computed_can_be_chosen(choice: dict[str, Any]) -> None:
    network = nn.Linear(4, 3)
    optimizer = build_optimizer(partial(AdamW, **choice), network, network, layer_decay=1.0)
    assert all(group["fused"] is not True for group in optimizer.param_groups)

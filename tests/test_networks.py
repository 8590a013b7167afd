"""timm's networks by name, from random, local and cached weights; nothing here needs the network."""

import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tiny import CLASSES
from torch import Tensor

from clf.classifier import Classifier
from clf.errors import UserError

State = dict[str, Tensor]


def build(**settings: Any) -> Classifier:
    """Build a small network of timm's; equal settings give equal weights."""
    defaults: dict[str, Any] = {"classes": CLASSES, "arch": "test_resnet", "pretrained": False}
    torch.manual_seed(0)
    return Classifier(**defaults | settings)


def state_of(classifier: Classifier) -> State:
    state: State = classifier.network.state_dict()
    return state


def noise(size: int = 64) -> Tensor:
    return torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights files, as timm publishes them: for 1000 classes, unlike any fresh network's."""
    folder = tmp_path_factory.mktemp("weights")
    for arch in ("test_resnet", "test_vit"):
        torch.manual_seed(99)
        state = timm.create_model(arch).state_dict()
        # Trained statistics and scales are not the zeros and ones of fresh ones.
        state = {
            key: value + torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()
        }
        save_file(state, folder / f"{arch}.safetensors")
    whole = (folder / "test_resnet.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "text.safetensors").write_text("no weights at all")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without connection."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(("arch", "name"), [("test_resnet", "ResNet"), ("test_vit", "VisionTransformer")])
def test_the_architecture_is_timm_s_with_a_logit_for_each_class(arch: str, name: str) -> None:
    classifier = build(arch=arch)
    assert type(classifier.network).__name__ == name
    assert classifier(noise(160)).shape == (8, 3)
    assert classifier.weights_from == "random"
    assert classifier.facts.network == {"arch": arch}


def test_what_the_network_is_fed_with_is_timm_s_for_the_architecture_and_its_tag() -> None:
    found = build(arch="test_resnet").preprocessing
    assert (found.size, found.crop_pct, found.crop_mode) == ((160, 160), 0.95, "center")
    assert (found.interpolation, found.mean, found.std) == ("bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    one, other = (build(arch=f"resnet18.{tag}").preprocessing for tag in ("a1_in1k", "tv_in1k"))
    assert (one.interpolation, other.interpolation) == ("bicubic", "bilinear")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("test_resnt", "model.arch='test_resnt' is no timm model; did you mean 'test_resnet'?"),
        (
            "resnet18.a1_in1",
            "model.arch='resnet18.a1_in1': resnet18 has no weights 'a1_in1'; did you mean 'resnet18.a1_in1k'?",
        ),
        ("no such thing", "model.arch='no such thing' is no timm model"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_one(arch: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        build(arch=arch)


def test_weights_of_a_file_reach_all_but_the_head(files: Path) -> None:
    file = files / "test_resnet.safetensors"
    from_file, fresh = build(weights=str(file)), build()
    saved = timm.models.load_state_dict(str(file))
    for name, value in state_of(from_file).items():
        if name.startswith("fc."):
            assert value.shape == state_of(fresh)[name].shape
            assert value.abs().max() < saved[name].abs().max()
        else:
            torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
    assert from_file.weights_from == f"file {file}"
    # What was read must not stay in memory beside what was made of it.
    assert not any(isinstance(value, dict) for value in vars(from_file.network)["pretrained_cfg"].values())


def test_the_head_stays_fresh_where_the_file_has_as_many_classes(files: Path) -> None:
    file = files / "test_resnet.safetensors"
    head = state_of(build(weights=str(file), classes=[str(i) for i in range(1000)]))["fc.weight"]
    assert not torch.allclose(head, timm.models.load_state_dict(str(file))["fc.weight"])


def test_weights_of_a_transformer_fit_another_image_size(files: Path) -> None:
    file = files / "test_vit.safetensors"
    classifier = build(arch="test_vit", weights=str(file), image_size=96)
    saved = timm.models.load_state_dict(str(file))
    torch.testing.assert_close(state_of(classifier)["blocks.0.mlp.fc1.weight"], saved["blocks.0.mlp.fc1.weight"])
    assert state_of(classifier)["pos_embed"].shape[1] == 6 * 6 + 1
    assert classifier(noise(96)).shape == (8, 3)


@pytest.mark.parametrize(
    ("arch", "file", "reason"),
    [
        ("test_vit", "test_resnet.safetensors", "Missing key"),
        ("test_resnet", "test_vit.safetensors", "Missing key"),
        ("resnet18", "test_resnet.safetensors", "Missing key"),
        ("test_resnet", "truncated.safetensors", "header"),
        ("test_resnet", "text.safetensors", "header"),
    ],
)
def test_a_file_that_holds_no_weights_for_the_architecture_is_refused(
    arch: str, file: str, reason: str, files: Path
) -> None:
    with pytest.raises(
        UserError, match=rf"model\.weights='.*{file}' does not hold weights for {arch} \(.*{reason}"
    ) as got:
        build(arch=arch, weights=str(files / file))
    assert len(str(got.value).splitlines()) == 1


def test_a_smaller_network_does_not_take_a_part_of_a_larger_one_s_weights(tmp_path: Path, files: Path) -> None:
    state = timm.models.load_state_dict(str(files / "test_resnet.safetensors"))
    save_file({**state, "layer5.0.conv1.weight": torch.zeros(3)}, tmp_path / "larger.safetensors")
    with pytest.raises(UserError, match=r"Unexpected key.*layer5"):
        build(weights=str(tmp_path / "larger.safetensors"))


def test_a_missing_file_is_refused_with_the_nearest_one(files: Path) -> None:
    wrong, right = (str(files / name) for name in ("test_resnett.safetensors", "test_resnet.safetensors"))
    with pytest.raises(UserError, match=rf"model\.weights='{wrong}' does not exist; did you mean '{right}'\?"):
        build(weights=wrong)


def test_required_weights_that_cannot_be_had_are_one_clear_message(cache: Path) -> None:
    message = r"model\.pretrained=true: the weights of test_resnet\.r160_in1k cannot be had \(.+\); connect, .*weights"
    with pytest.raises(UserError, match=f"^{message}") as got:
        build(pretrained=True)
    assert "\n" not in str(got.value)


def test_auto_says_that_it_trains_from_scratch(cache: Path) -> None:
    classifier = build(pretrained="auto")
    assert classifier.weights_from == "random (test_resnet.r160_in1k cannot be had here)"


@pytest.mark.parametrize("pretrained", [True, "auto"])
def test_cached_weights_need_no_connection(pretrained: Any, cache: Path, files: Path) -> None:
    repository, commit = cache / "models--timm--test_resnet.r160_in1k", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    shutil.copy(files / "test_resnet.safetensors", repository / "snapshots" / commit / "model.safetensors")

    classifier = build(pretrained=pretrained)
    saved = timm.models.load_state_dict(str(files / "test_resnet.safetensors"))
    torch.testing.assert_close(state_of(classifier)["layer4.0.conv1.weight"], saved["layer4.0.conv1.weight"])
    assert classifier.weights_from == "ImageNet (test_resnet.r160_in1k)"
    assert build(pretrained=False).weights_from == "random"


class Refusing(BaseHTTPRequestHandler):
    """A hub that hangs up on everyone."""

    asked = 0

    def handle_one_request(self) -> None:
        type(self).asked += 1
        self.close_connection = True


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Refusing]]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(Refusing, "asked", 0)
    yield Refusing
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_that_does_not_answer_is_asked_once(
    cache: Path, refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert build(pretrained="auto").weights_from.startswith("random (")
    assert refusing.asked == 1
    assert constants.HF_HUB_OFFLINE is False  # as it was: the next network may ask again


@pytest.mark.parametrize("rates", [{"drop_rate": 0.5}, {"drop_path_rate": 0.5}], ids=["drop_rate", "drop_path_rate"])
def test_drop_rates_make_training_vary_and_leave_evaluation_alone(rates: dict[str, float]) -> None:
    small: dict[str, Any] = {"arch": "test_vit", "image_size": 32}
    plain, dropping, images = build(**small).train(), build(**small | rates).train(), noise(32)
    assert torch.equal(plain(images), plain(images))
    assert not torch.equal(dropping(images), dropping(images))
    assert torch.equal(plain.eval()(images), dropping.eval()(images))


@pytest.mark.parametrize("key", ["drop_rate", "drop_path_rate"])
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_drop_rate_out_of_range_is_refused_by_name(key: str, rate: float) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}={rate} must be in \[0, 1\)"):
        build(**{key: rate})


def test_stochastic_depth_is_refused_where_the_architecture_has_none() -> None:
    with pytest.raises(UserError, match=r"model\.arch='vgg11' cannot be built with drop_path_rate=0\.1"):
        build(arch="vgg11", drop_path_rate=0.1)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(("given", "size"), [(96, (96, 96)), ((64, 96), (64, 96))])
def test_any_image_size_reaches_the_network_and_its_preprocessing(
    arch: str, given: int | tuple[int, int], size: tuple[int, int]
) -> None:
    classifier = build(arch=arch, image_size=given)
    assert classifier.preprocessing.size == size
    assert classifier(torch.zeros(1, 3, *size)).shape == (1, 3)


def test_a_transformer_has_a_position_for_each_patch_of_the_image_size() -> None:
    assert state_of(build(arch="test_vit", image_size=(64, 96)))["pos_embed"].shape[1] == 4 * 6 + 1


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_an_image_size_of_nothing_is_refused(arch: str) -> None:
    with pytest.raises(UserError, match=r"(image_size|img_size)=\(0, 0\)"):
        build(arch=arch, image_size=0)

"""An exported model does what the network does, on real files in a real ONNX Runtime, or it is not there."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exports import CLASSES, SPEC, draw_samples, exported, network

from clf import export as exporting
from clf import proof
from clf.data.samples import Sample
from clf.errors import UserError
from clf.export import ExportRequest, NotProven
from clf.exported import METADATA, SIDECAR
from clf.graph import Graph
from clf.predictor import Predictor
from clf.preprocess import Preprocessing, decode, evaluation_array
from clf.proof import Proof

Made = Callable[[str], tuple[Path, Proof]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Export the small network once a form, for all tests that ask what lies there or do something to a copy."""

    @cache
    def once(embed: str) -> tuple[Path, Proof]:
        folder = tmp_path_factory.mktemp(embed)
        return folder, exported(folder, embed=embed).proof

    return once


@pytest.fixture
def small(made: Made, tmp_path: Path) -> Path:
    """Have a copy of the small network's ``export``, and of the ``images`` that it was proven on."""
    return Path(shutil.copytree(made("none")[0], tmp_path, dirs_exist_ok=True))


def probabilities(net: torch.nn.Module, path: Path, spec: Preprocessing = SPEC, temperature: float = 1.0) -> Any:
    """What the network itself says about a file."""
    with torch.inference_mode():
        logits = net(torch.from_numpy(evaluation_array(decode(path), spec))[None])
    return (logits / temperature).softmax(1)[0].numpy()


def as_vector(prediction: Any) -> Any:
    ranked = dict(prediction.ranked)
    return np.array([ranked[name] for name in CLASSES])


@pytest.mark.parametrize("embed", ["none", "normalize", "full"])
def test_an_exported_model_says_what_the_network_says(made: Made, embed: str) -> None:
    folder, proven = made(embed)
    assert proven.holds
    assert proven.n == 12
    predictor = Predictor(folder / "export")
    for path in sorted((folder / "images").iterdir()):
        expected = probabilities(network(), path, temperature=1.5)
        assert as_vector(predictor.predict_one(path)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_the_families_of_networks_export(tmp_path: Path, arch: str) -> None:
    spec = Preprocessing(size=(160, 160))
    result = exported(tmp_path, network=network(arch), preprocessing=spec)
    assert result.proof.holds, str(result.proof)


def test_the_graph_is_what_the_contract_says(small: Path) -> None:
    model = onnx.load(small / "export/model.onnx")
    [given], [made] = model.graph.input, model.graph.output
    assert [given.name, made.name] == ["input", "logits"]
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    batch, *rest = given.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [size.dim_value for size in rest] == [3, 32, 32]
    assert [opset.version for opset in model.opset_import if not opset.domain] == [20]
    assert sorted(path.name for path in (small / "export").iterdir()) == ["README.md", SIDECAR, "model.onnx"]
    said = json.loads({prop.key: prop.value for prop in model.metadata_props}[METADATA])
    assert (said["classes"], said["run"], said["temperature"]) == (CLASSES, "small/001", 1.5)


def test_with_everything_inside_pixels_go_in_and_calibrated_probabilities_come_out(made: Made) -> None:
    folder, _ = made("full")
    predictor = Predictor(folder / "export")
    pixels = predictor.prepare(folder / "images/00.jpg")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 32, 3)
    found = predictor.run(np.stack([pixels] * 5))
    assert found.shape == (5, 3)
    assert found.sum(1) == pytest.approx(1, abs=1e-5)


def test_the_sidecar_says_what_logits_mean_and_which_file_it_is_of(small: Path) -> None:
    sidecar = json.loads((small / "export" / SIDECAR).read_text(encoding="utf-8"))
    assert sidecar["idx_to_class"] == {"0": "0", "1": "00", "2": "<b>1"}
    assert (sidecar["num_classes"], sidecar["class_to_idx"]["00"]) == (3, 1)
    assert sidecar["normalization"] == {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    assert sidecar["model_sha256"] == hashlib.sha256((small / "export/model.onnx").read_bytes()).hexdigest()


def test_the_card_says_how_the_graph_is_fed(small: Path) -> None:
    card = (small / "export/README.md").read_text(encoding="utf-8")
    assert "float32 `[batch, 3, 32, 32]`" in card
    assert "subtract the mean [0.4, 0.5, 0.6], divide by the standard deviation [0.2, 0.25, 0.3]" in card
    assert "On 12 validation images" in card
    assert "1. `00`" in card


# What must not be exported


class Moody(torch.nn.Module):
    """Does one thing while it is traced, and another one later."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images)
        return logits if torch.compiler.is_compiling() else logits + 0.01 * logits.roll(1, 1)


def test_a_model_that_does_something_else_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(NotProven, match="NOT EQUAL on 12 images"):
        exported(tmp_path, network=Moody())
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


class Lost(torch.nn.Module):
    """Says nothing that is a number once it is no longer traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images)
        return logits if torch.compiler.is_compiling() else logits * torch.nan


@pytest.mark.parametrize("embed", ["none", "full"])
def test_what_is_no_number_is_not_equal_and_not_close(tmp_path: Path, embed: str) -> None:
    with pytest.raises(NotProven, match=r"NOT EQUAL on 12 images: .* largest difference nan"):
        exported(tmp_path, network=Lost(), embed=embed)


def test_another_temperature_inside_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph
    monkeypatch.setattr(exporting, "Graph", lambda *args, **given: graph(*args, **given | {"temperature": 1.51}))
    with pytest.raises(NotProven):
        exported(tmp_path, embed="full")


def test_a_failed_export_leaves_the_proven_one_of_before(small: Path) -> None:
    before = (small / "export/model.onnx").read_bytes()
    with pytest.raises(NotProven):
        exported(small, network=Moody())
    assert (small / "export/model.onnx").read_bytes() == before
    assert sorted(path.name for path in small.iterdir()) == ["export", "images"]


def test_a_second_export_replaces_the_first_one_as_a_whole(small: Path) -> None:
    (small / "link").symlink_to("export")
    samples = draw_samples(small / "images")
    exporting.export(ExportRequest(network(), CLASSES, SPEC, 1.5, samples, embed="full"), small / "link")
    assert Predictor(small / "export").exported.embed == "full"
    assert sorted(path.name for path in small.iterdir()) == ["export", "images", "link"]


def test_a_folder_that_holds_other_things_is_left_alone(small: Path) -> None:
    before = (small / "export/model.onnx").read_bytes()
    (small / "export/best.ckpt").touch()
    with pytest.raises(UserError, match=r"holds other things than an export, e.g. best.ckpt; give another folder"):
        exported(small, embed="full")
    assert (small / "export/model.onnx").read_bytes() == before


def test_what_is_put_into_the_folder_meanwhile_is_left_alone(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (small / "export/model.onnx").read_bytes()

    def interfering(*words: Any, **named: Any) -> Any:
        (small / "export/notes.txt").write_text("mine")
        return proof.prove(*words, **named)

    monkeypatch.setattr(exporting, "prove", interfering)
    with pytest.raises(UserError, match=r"holds other things than an export, e.g. notes.txt"):
        exported(small, embed="full")
    assert (small / "export/notes.txt").read_text() == "mine"
    assert (small / "export/model.onnx").read_bytes() == before


@pytest.mark.parametrize("names", [["README.md"], ["model.onnx"], ["README.md", "model.onnx", "labels_mapping.json"]])
def test_files_that_only_have_an_export_s_names_are_left_alone(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "export").mkdir()
    for name in names:
        (tmp_path / "export" / name).write_text('{"mine": true}')
    with pytest.raises(UserError, match=f"holds other things than an export, e.g. {names[0]}"):
        exported(tmp_path)
    assert {(tmp_path / "export" / name).read_text() for name in names} == {'{"mine": true}'}


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "export").write_text("mine")
    with pytest.raises(UserError, match="is a file; give a folder"):
        exported(tmp_path)
    assert (tmp_path / "export").read_text() == "mine"


def test_the_proof_looks_at_images_from_the_whole_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    prove = proof.prove

    def watched(network: Any, predictor: Any, paths: list[str], **network_s: Any) -> Any:
        asked.extend(Path(path).stem for path in paths)
        return prove(network, predictor, paths, **network_s)

    monkeypatch.setattr(exporting, "prove", watched)
    exported(tmp_path, images=4)
    assert asked == ["00", "03", "06", "09"]


# Smaller precisions


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_smaller_precision_is_measured_against_the_full_one(tmp_path: Path, precision: str) -> None:
    result = exported(tmp_path, network=network("test_resnet"), precision=precision)
    assert result.cost is not None
    assert result.cost.n == 12
    full, smaller = result.cost.megabytes
    assert smaller < 0.7 * full
    assert result.cost.agreement >= 10
    lower, upper = result.cost.interval
    assert lower <= -result.cost.drop <= upper
    assert f"{100 * lower:+.2f} to {100 * upper:+.2f} points" in str(result.cost)
    assert set(result.cost.milliseconds) == {1, 8}
    model = onnx.load(tmp_path / "export/model.onnx")
    kinds = {weight.data_type for weight in model.graph.initializer}
    assert {"fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[precision] in kinds
    assert Predictor(tmp_path / "export").predict_one(tmp_path / "images/00.jpg").ranked
    assert f"## {precision} against fp32" in (tmp_path / "export/README.md").read_text(encoding="utf-8")


def test_an_image_that_cannot_be_read_counts_for_no_precision(tmp_path: Path) -> None:
    samples = draw_samples(tmp_path / "mine", 12)
    Path(samples[7].path).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"07.jpg' cannot be read"):
        exported(tmp_path, samples=samples, images=1, precision="fp16")
    assert not (tmp_path / "export").exists()


def test_class_names_may_be_any_text(tmp_path: Path) -> None:
    names = ["caf\udce9", "\u202egnp", "<script>"]
    samples = [Sample(sample.path, None) for sample in draw_samples(tmp_path / "images", 3)]
    exported(tmp_path, classes=names, samples=samples)
    assert Predictor(tmp_path / "export").classes == names
    assert "caf\\udce9" in (tmp_path / "export/README.md").read_text(encoding="utf-8")


def test_what_quantises_leaves_the_logging_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    exported(tmp_path, precision="int8")
    assert (root.handlers, root.level) == before
    assert "pre-process" not in capfd.readouterr().err


def test_a_precision_that_costs_too_much_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Labels are what the full model says, and the smaller one gets its head's rows in another order.
    samples = draw_samples(small / "images")
    said = [row.label for row in Predictor(small / "export").predict([sample.path for sample in samples])]
    labelled = [type(sample)(sample.path, label) for sample, label in zip(samples, said, strict=True)]

    def spoilt(model: onnx.ModelProto) -> onnx.ModelProto:
        [bias] = [each for each in model.graph.initializer if each.dims == [3]]
        values = onnx.numpy_helper.to_array(bias).copy()
        values[2] += 1000
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(exporting, "halve", spoilt)
    with pytest.raises(NotProven, match=r"fp16 costs .* points of top-1 .* more than max_accuracy_drop=0.01"):
        exported(small, samples=labelled, precision="fp16", max_accuracy_drop=0.01)
    assert Predictor(small / "export").exported.facts["precision"] == "fp32"


# Files that do not belong together


def edited(path: Path, **changes: Any) -> None:
    sidecar = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(sidecar | changes), encoding="utf-8")


def test_a_weight_that_was_changed_is_noticed(small: Path) -> None:
    path = small / "export/model.onnx"
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    with pytest.raises(UserError, match="do not belong together: the file's SHA-256"):
        Predictor(path)


def test_the_sidecar_of_another_model_is_refused(small: Path) -> None:
    exported(small / "other", network=network(seed=1))
    (small / "other/export" / SIDECAR).replace(small / "export" / SIDECAR)
    with pytest.raises(UserError, match="do not belong together"):
        Predictor(small / "export")


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"idx_to_class": {"0": "00", "1": "0", "2": "<b>1"}}, "classes"),
        ({"normalization": {"mean": [0, 0, 0], "std": [1, 1, 1]}}, "preprocessing"),
        ({"temperature": 1.0}, "temperature"),
        ({"embed": "full"}, "embed"),
    ],
)
def test_a_sidecar_that_says_other_things_than_the_file_is_refused(
    small: Path, changes: dict[str, Any], about: str
) -> None:
    edited(small / "export" / SIDECAR, **changes)
    with pytest.raises(UserError, match=f"disagree about {about}"):
        Predictor(small / "export")


def test_what_is_missing_or_no_model_is_named(small: Path) -> None:
    with pytest.raises(UserError, match=r"model '.*/gone/model.onnx' does not exist"):
        Predictor(small / "gone/model.onnx")
    (small / "export" / SIDECAR).rename(small / "kept.json")
    with pytest.raises(UserError, match=f"{SIDECAR} is missing"):
        Predictor(small / "export")
    (small / "export" / SIDECAR).write_text("{")
    with pytest.raises(UserError, match=f"{SIDECAR} cannot be read"):
        Predictor(small / "export")
    (small / "export/model.onnx").write_bytes(b"no model")
    (small / "kept.json").replace(small / "export" / SIDECAR)
    edited(small / "export" / SIDECAR, model_sha256=hashlib.sha256(b"no model").hexdigest())
    with pytest.raises(UserError, match=r"model '.*model.onnx' cannot be loaded"):
        Predictor(small / "export")


@pytest.mark.parametrize("content", ["5", "null", '"text"', "[" * 100_000, '{"model_sha256": 1}'])
def test_a_damaged_sidecar_is_said(small: Path, content: str) -> None:
    (small / "export" / SIDECAR).write_text(content)
    with pytest.raises(UserError, match=f"{SIDECAR} .*export again"):
        Predictor(small / "export")


@pytest.mark.parametrize(
    ("key", "value"), [("idx_to_class", []), ("idx_to_class", None), ("input", 3), ("normalization", {})]
)
def test_labels_of_another_kind_are_said(small: Path, key: str, value: Any) -> None:
    edited(small / "export" / SIDECAR, **{key: value})
    with pytest.raises(UserError, match=r"export again"):
        Predictor(small / "export")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "is damaged"),
        ({}, "is damaged"),
        ({"temperature": 0.0}, "is damaged .*temperature=0"),
        ({"classes": ["a", "b"]}, "says one thing and does another: .* and 2 classes"),
        ({"embed": "full"}, "says one thing and does another"),
    ],
)
def test_a_file_that_says_what_it_does_not_do_is_refused(
    small: Path, said: dict[str, Any] | None, message: str
) -> None:
    path = small / "export/model.onnx"
    model = onnx.load(path)
    [entry] = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | said if said else said)
    onnx.save(model, path)
    changes = dict(said or {})
    if names := changes.pop("classes", None):
        changes["idx_to_class"] = {str(at): name for at, name in enumerate(names)}
    edited(path.with_name(SIDECAR), **changes, model_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=message):
        Predictor(path)


def test_a_link_to_the_file_is_the_file(small: Path) -> None:
    (small / "link.onnx").symlink_to(small / "export/model.onnx")
    assert Predictor(small / "link.onnx").classes == CLASSES


def test_a_request_is_complete_without_facts(tmp_path: Path) -> None:
    samples = draw_samples(tmp_path / "images", 3)
    result = exporting.export(ExportRequest(network(), CLASSES, SPEC, 1.0, samples), tmp_path / "out")
    assert result.exported.path == tmp_path / "out/model.onnx"
    assert Predictor(tmp_path / "out").predict_one(samples[0].path).label in CLASSES

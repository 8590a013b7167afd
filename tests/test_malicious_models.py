"""Whoever hands out exported models may mean harm: a file and its labels open nothing but themselves."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from datasets import draw
from onnx import TensorProto, helper
from serving import picture
from test_checkpoints import Payload
from test_service_inside import play

from clf.exported import INPUT, METADATA, MODEL, OUTPUT, SIDECAR, sidecar_text
from clf.main import main
from clf.preprocess import Preprocessing
from clf.service.settings import Settings

CLASSES = ["a", "b"]
SIZE = 8
HUGE = 10**13


def write(folder: Path, *, weights: Any = None, domain: str = "", size: Any = SIZE, **facts: Any) -> Path:
    """An export of a network that asks how bright an image is, harmless but for what is given."""
    folder.mkdir(exist_ok=True)
    own = helper.make_tensor("weights", TensorProto.FLOAT, [2], [1.0, -1.0])
    nodes = [
        helper.make_node("ReduceMean", [INPUT, "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Mul", ["column", "weights"], [OUTPUT], domain=domain),
    ]
    whole = [helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in _AXES.items()]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 2])],
        [*whole, own if weights is None else weights],
    )
    versions = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=versions, ir_version=10)
    preprocessing = Preprocessing(size=(SIZE, SIZE))
    said = {"classes": CLASSES, "preprocessing": preprocessing.to_dict(), "embed": "none", "temperature": 1.0}
    helper.set_model_props(model, {METADATA: json.dumps(said | facts)})
    onnx.save_model(model, folder / MODEL)
    text = sidecar_text(folder / MODEL, CLASSES, preprocessing, embed="none", temperature=1.0)
    (folder / SIDECAR).write_text(json.dumps(json.loads(text) | facts.get("preprocessing", {})))
    return folder


_AXES = {"axes": [1, 2, 3], "one": [1]}


def elsewhere(location: str) -> TensorProto:
    """Weights that lie in another file."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def huge() -> TensorProto:
    return TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[HUGE, HUGE], raw_data=bytes(8))


def refusal(folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What predict and the service say, which is the same, before they give up."""
    draw(Path("image.png"), seed=1)
    capfd.readouterr()
    assert main(["predict", "--ckpt_path", str(folder / MODEL), "--data.predict", "image.png"]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("clf: ")]
    return line.removeprefix("clf: ")


def test_the_harmless_export_predicts(workdir: Path) -> None:
    draw(Path("image.png"), seed=1)
    assert main(["predict", "--ckpt_path", f"{write(workdir / 'm')}/{MODEL}", "--data.predict", "image.png"]) == 0


@pytest.mark.parametrize("location", ["../secret.bin", "{}/secret.bin", "link.bin", "../../../../../../etc/passwd"])
def test_a_model_reads_no_weights_from_elsewhere(
    workdir: Path, location: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (workdir / "secret.bin").write_bytes(np.arange(2, dtype=np.float32).tobytes())
    folder = write(workdir / "m", weights=elsewhere(location.format(workdir)))
    (folder / "link.bin").symlink_to("../secret.bin")
    assert "External data path" in refusal(folder, capfd)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"domain": "com.evil"}, "com.evil"),
        ({"weights": huge()}, "cannot be loaded"),
        ({"temperature": "import os"}, "is damaged"),
        ({"temperature": float("inf")}, "is damaged"),
        ({"classes": [["a"], ["b"]]}, "is damaged"),
        ({"classes": {"class_path": "evil.Evil"}}, "disagree about classes"),
        ({"embed": {"class_path": "evil.Evil"}}, "disagree about embed"),
        ({"preprocessing": {"input": "evil.yaml"}}, "disagree about preprocessing"),
    ],
)
def test_what_a_model_says_and_is_made_of_is_checked(
    workdir: Path, given: dict[str, Any], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert reason in refusal(write(workdir / "m", **given), capfd)


def test_an_input_of_gigabytes_is_refused(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocks = Preprocessing(size=(SIZE, SIZE)).to_dict()
    edge = 200_000
    blocks["input"] |= {"size": [edge, edge], "resize": {"size": [round(edge / 0.875)] * 2, "fit": "cover"}}
    folder = write(workdir / "m", size=edge, preprocessing=blocks)
    assert "image_size=(200000, 200000) is more than 50000000 pixels" in refusal(folder, capfd)


@pytest.mark.parametrize("name", [MODEL, SIDECAR])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="device"),
        pytest.param(lambda path: os.mkfifo(path), id="pipe"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), id="link"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.write_bytes(bytes(10**8)), id="large"),
        pytest.param(lambda path: path.write_text("[" * 100_000), id="deep"),
        pytest.param(lambda path: path.write_bytes(pickle.dumps(Payload(path.parent / "canary"))), id="pickle"),
    ],
)
def test_what_is_no_export_is_refused(
    workdir: Path, name: str, make: Callable[[Path], object], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(workdir / "m")
    (folder / name).unlink()
    make(folder / name)
    said = refusal(folder, capfd)
    assert "root:" not in said, "no word of another file"
    assert not (folder / "canary").exists()


def test_the_service_does_not_get_ready_with_such_a_model(workdir: Path) -> None:
    (workdir / "secret.bin").write_bytes(bytes(8))
    folder = write(workdir / "m", weights=elsewhere("../secret.bin"))

    async def scene(client: httpx.AsyncClient) -> None:
        answer = await client.post("/predict", content=picture())
        assert answer.status_code == 503
        assert "External data path" in answer.json()["detail"]

    play(Settings(model=str(folder)), scene, status=503)

"""Predictions by an exported model: the same as the network's, for whatever people call an image, without torch."""

import csv
import io
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import CLASSES, SPEC, exported, network
from image_kinds import KINDS
from numpy.typing import NDArray
from PIL import Image

from clf.errors import UserError
from clf.main import main
from clf.predictor import Predictor
from clf.preprocess import UnreadableImage, decode, evaluation_array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export, and the images that it was proven on."""
    folder = tmp_path_factory.mktemp("small")
    exported(folder)
    return folder


@pytest.fixture
def predictor(folder: Path) -> Predictor:
    return Predictor(folder / "export")


def by_network(data: bytes) -> NDArray[np.float32]:
    """Probabilities by the network itself."""
    import torch

    with torch.inference_mode():
        logits = network()(torch.from_numpy(evaluation_array(decode(data), SPEC))[None])
    return np.asarray((logits / 1.5).softmax(1)[0].numpy())


def vector(prediction: Any) -> list[float]:
    ranked = dict(prediction.ranked)
    return [ranked[name] for name in CLASSES]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_seen_as_the_network_saw_it(predictor: Predictor, tmp_path: Path, kind: str) -> None:
    data = KINDS[kind]
    (tmp_path / "image").write_bytes(data)
    expected = pytest.approx(by_network(data), abs=1e-4)
    assert vector(predictor.predict_one(data)) == expected
    assert vector(predictor.predict_one(tmp_path / "image")) == expected
    assert vector(predictor.predict_one(decode(data))) == expected
    assert vector(predictor.predict_one(Image.open(io.BytesIO(data)))) == expected
    assert vector(predictor.predict_one(np.array(decode(data)))) == expected


def test_predictions_come_in_the_order_of_the_images_whatever_the_batches(folder: Path, predictor: Predictor) -> None:
    paths = sorted(str(path) for path in (folder / "images").iterdir())
    expected = [predictor.predict_one(path) for path in paths]
    for batch_size, workers in ((1, 1), (5, 3), (64, None)):
        found = list(predictor.predict(paths, batch_size=batch_size, workers=workers))
        assert [row.path for row in found] == paths
        assert [row.label for row in found] == [row.label for row in expected]
        assert [vector(row) for row in found] == [pytest.approx(vector(row), abs=1e-5) for row in expected]


def test_a_prediction_names_as_many_labels_as_are_asked_for(predictor: Predictor) -> None:
    data = KINDS["image.bmp"]
    assert [len(predictor.predict_one(data, top_k=top_k).ranked) for top_k in (1, 2, 9)] == [1, 2, 3]


def test_an_image_that_cannot_be_read_is_a_row_with_the_reason(folder: Path, predictor: Predictor) -> None:
    good = str(folder / "images/00.jpg")
    first, second, third = predictor.predict([good, "gone.jpg", b"no image"], batch_size=2)
    assert (first.label is not None, first.error) == (True, "")
    assert (second.path, second.label) == ("gone.jpg", None)
    assert "no such file" in second.error
    assert "it is none of" in third.error
    with pytest.raises(UnreadableImage, match=r"'gone.jpg' cannot be read"):
        predictor.predict_one("gone.jpg")


def test_a_folder_means_all_images_below_it(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    one_by_one = [predictor.predict_one(path) for path in sorted((folder / "images").iterdir())]
    for named in (folder / "images", str(folder), f"{folder}/images/*.jpg"):
        assert [(row.path, row.label) for row in predictor.predict(named)] == [(r.path, r.label) for r in one_by_one]
    with pytest.raises(UserError, match="holds no images"):
        next(predictor.predict(tmp_path))
    with pytest.raises(UserError, match="one goes to predict_one"):
        next(predictor.predict(KINDS["image.bmp"]))  # type: ignore[arg-type]


def test_an_opened_image_is_treated_like_its_file(predictor: Predictor) -> None:
    cut = Image.open(io.BytesIO(KINDS["baseline.jpg"][:900]))
    good = Image.open(io.BytesIO(KINDS["turned by EXIF.jpg"]))
    [bad, fine] = predictor.predict([cut, good])
    assert "image without a file cannot be read: " in bad.error
    assert fine.error == ""
    assert good.size == (60, 40), "it is left as it is"
    with pytest.raises(UnreadableImage, match="60 x 40 pixels are more than 100"):
        Predictor(predictor.exported.path, max_pixels=100).predict_one(good)


def test_a_stream_without_end_is_predicted_as_it_comes(predictor: Predictor) -> None:
    asked = 0

    def camera() -> Any:
        nonlocal asked
        while True:
            asked += 1
            yield KINDS["image.bmp"]

    assert len(list(islice(predictor.predict(camera(), batch_size=4, workers=1), 6))) == 6
    assert asked <= 6 + 4 * 4  # a few batches ahead, and no more


@pytest.mark.parametrize("image", [np.zeros((0, 0, 3), np.uint8), Image.new("RGB", (0, 5))], ids=["array", "image"])
def test_an_image_without_pixels_is_a_row_with_the_reason(predictor: Predictor, image: Any) -> None:
    [row] = predictor.predict([image])
    assert "cannot be read: it has no pixels" in row.error


@pytest.mark.parametrize("given", [{"top_k": 0}, {"workers": -1}, {"batch_size": 0}])
def test_numbers_below_one_are_refused(predictor: Predictor, given: dict[str, int]) -> None:
    [[key, value]] = given.items()
    with pytest.raises(UserError, match=f"{key}={value} must be 1 or more"):
        list(predictor.predict([KINDS["image.bmp"]], **given))


@pytest.mark.parametrize(
    ("array", "shape"),
    [(np.zeros((4, 4), np.uint8), r"\(4, 4\)"), (np.zeros((4, 4, 3), np.float32), r"\(4, 4, 3\) and type float32")],
)
def test_an_array_that_is_no_image_is_refused(predictor: Predictor, array: Any, shape: str) -> None:
    with pytest.raises(UserError, match=f"an array of shape {shape}.* is no image"):
        predictor.predict_one(array)


def test_impossible_wishes_are_refused(folder: Path, predictor: Predictor) -> None:
    with pytest.raises(UserError, match="top_k=0 must be 1 or more"):
        next(predictor.predict([], top_k=0))
    with pytest.raises(UserError, match="batch_size=0 must be 1 or more"):
        next(predictor.predict([], batch_size=0))
    with pytest.raises(UserError, match="device='cuda': this ONNX Runtime knows no GPU"):
        Predictor(folder / "export", device="cuda")
    with pytest.raises(UserError, match="device='tpu' is none of auto, cpu, cuda"):
        Predictor(folder / "export", device="tpu")  # type: ignore[arg-type]
    assert Predictor(folder / "export").device == "cpu"


def test_images_that_are_too_large_are_refused_by_their_header(folder: Path) -> None:
    small = Predictor(folder / "export", max_pixels=1000)
    with pytest.raises(UnreadableImage, match="60 x 40 pixels are more than 1000"):
        small.predict_one(KINDS["image.bmp"])


_NO_TORCH = """
import sys
from clf.main import main
code = main(sys.argv[1:])
heavy = {"torch", "lightning", "timm", "torchvision", "torchmetrics", "onnx"} & sys.modules.keys()
assert not heavy, heavy
sys.exit(code)
"""


def test_clf_predict_with_an_exported_model_needs_no_torch(folder: Path, workdir: Path) -> None:
    words = ["predict", "--ckpt_path", str(folder / "export/model.onnx"), "--data.predict", str(folder / "images")]
    done = subprocess.run([sys.executable, "-c", _NO_TORCH, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "predictions: 12 rows in predictions/predict.csv" in done.stderr
    with open("predictions/predict.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    predictor = Predictor(folder / "export")
    for row in rows:
        found = predictor.predict_one(row["path"])
        assert row["label"] == found.label
        assert float(row["confidence"]) == pytest.approx(found.ranked[0][1], abs=1e-5)


@pytest.mark.parametrize("said", [None, "0"])
def test_onnx_runtime_reports_to_nobody_unless_it_is_told_to(folder: Path, tmp_path: Path, said: str | None) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    words = f"from clf.predictor import Predictor; Predictor({str(folder / 'export')!r})"
    told = {} if said is None else {"ORT_DISABLE_TELEMETRY": said}
    subprocess.run([sys.executable, "-c", words], env=environment | told, check=True, cwd=Path(__file__).parent.parent)
    assert bool([path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]) == (said == "0")


def test_clf_predict_counts_what_it_could_not_read(
    folder: Path, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (workdir / "list.csv").write_text(f"path,label\n{folder}/images/00.jpg,0\ngone.jpg,00\n")
    words = [
        *("--ckpt_path", f"{folder}/export/model.onnx"),
        *("--data.predict", "list.csv", "--data.allow_outside_root=true"),
    ]
    assert main(["predict", *words, "--output", "out.jsonl", "--callbacks.predictions.top_k", "1"]) == 1
    first, second = Path("out.jsonl").read_text().splitlines()
    assert '"true": "0"' in first
    assert "label_2" not in first
    assert "no such file" in second
    assert "1 of 2 images has no prediction" in caplog.text
    assert "top-1: " in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data.predict"),
        (
            ["--data.predict", "images", "--data.predct", "x"],
            "has no key '--data.predct'; did you mean '--data.predict'",
        ),
        (
            ["--data.predict", "images", "--data.batch_size", "0"],
            "--data.batch_size: '0' must be between 1 and 1000000",
        ),
        (["--data.predict", "images", "--model.arch", "resnet18"], "has no key '--model.arch'"),
    ],
)
def test_mistakes_on_the_command_line_are_said_in_one_line(
    folder: Path, workdir: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["predict", f"--ckpt_path={folder}/export/model.onnx", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line

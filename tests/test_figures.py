"""Pictures: what is in them, and that nothing people call their classes keeps one from being drawn."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clf import calibration
from clf.artist import Drawing
from clf.confusion import Counts
from clf.figures import canvas, data, evaluation, training

ROOT = Path(__file__).parent.parent
HOSTILE = ["a/b", '"q"', "$x_{$", "<script>alert(1)</script>", "🦊", "שלום", "line\nbreak\t", "x" * 300, "", "none"]


def matrix(num_classes: int, *, per_class: int = 40) -> Counts:
    """Mostly right, a few wrong by one class; the last class has no images."""
    counts = np.eye(num_classes, dtype=np.int64) * per_class
    counts += np.roll(np.eye(num_classes, dtype=np.int64), 1, axis=1) * 2
    counts[-1] = 0
    return counts


def names(num_classes: int) -> list[str]:
    return [f"class {at}" for at in range(num_classes)]


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def row(epoch: int, **values: float) -> dict[str, float]:
    return {"epoch": epoch, "step": epoch, **{name.replace("__", "/"): value for name, value in values.items()}}


BINS = calibration.reliability(np.array([0.31, 0.55, 0.57, 1.0]), np.array([False, True, False, True]))
EVERYTHING: dict[str, tuple[Any, dict[str, Any]]] = {
    "matrix-hostile": (
        evaluation.confusion_matrix,
        {"counts": matrix(len(HOSTILE), per_class=123456), "classes": HOSTILE, "title": "$\\bad{$"},
    ),
    "matrix-200": (evaluation.confusion_matrix, {"counts": matrix(200), "classes": names(200), "title": ""}),
    "matrix-1": (evaluation.confusion_matrix, {"counts": np.array([[3]]), "classes": ["a"], "title": "one"}),
    "matrix-no-images": (
        evaluation.confusion_matrix,
        {"counts": np.zeros((70, 70), np.int64), "classes": HOSTILE * 7, "title": "none"},
    ),
    "reliability": (evaluation.reliability, {"before": BINS, "after": BINS, "temperature": 1.5, "title": "t"}),
    "reliability-empty": (evaluation.reliability, {"before": [], "after": [], "temperature": 1.0, "title": "t"}),
    "history": (
        training.history,
        {
            "metrics": [row(0, train__loss=1.0, val__acc_top1=float("nan")), row(1, train__loss=float("inf"))],
            "timing": [row(0, time__images_per_s=9.0)],
            "monitor": "val/acc_top1",
            "mode": "max",
            "title": "$",
        },
    ),
    "history-none": (
        training.history,
        {"metrics": [], "timing": [], "monitor": "val/loss", "mode": "min", "title": "t"},
    ),
    "classes-hostile": (
        data.class_counts,
        {
            "counts": {"train": list(range(10)), "val": [0] * 10},
            "classes": HOSTILE,
            "imbalance": {"train": 9.0, "val": None},
            "title": "$",
        },
    ),
    "classes-200": (
        data.class_counts,
        {"counts": {"train": list(range(200))}, "classes": names(200), "imbalance": {"train": 1e9}, "title": "t"},
    ),
    "sizes": (
        data.image_sizes,
        {
            "sizes": {"train": [(3, 9000), (20, 20)], "val": [(5, 5)], "test": []},
            "input_size": (224, 224),
            "title": "t",
            "note": "n",
        },
    ),
    "sizes-none": (data.image_sizes, {"sizes": {"train": []}, "input_size": None, "title": "t", "note": "n"}),
    "sampler-hostile": (
        data.sampler,
        {
            "classes": HOSTILE,
            "images": [5] * 10,
            "epochs": [3, 4],
            "drawn": np.array([[5] * 10, [9, 1] * 5]),
            "expected": np.array([[5.0] * 9 + [0.0]] * 2),
            "title": "$",
        },
    ),
    "sampler-200": (
        data.sampler,
        {
            "classes": names(200),
            "images": [5] * 200,
            "epochs": [0],
            "drawn": np.full((1, 200), 5),
            "expected": np.full((1, 200), 5.0),
            "title": "t",
        },
    ),
}


@pytest.mark.parametrize(("figure", "numbers"), EVERYTHING.values(), ids=EVERYTHING)
def test_whatever_the_classes_are_called_and_however_little_there_is_a_picture_comes_out(
    figure: Any, numbers: dict[str, Any], tmp_path: Path
) -> None:
    Drawing(tmp_path / "new" / "picture.png", figure, numbers).draw()
    with Image.open(tmp_path / "new" / "picture.png") as picture:
        assert 300 < picture.width < 2000
        assert 200 < picture.height < 2000
        assert len(set(picture.convert("L").tobytes())) > 10  # something was drawn on it


def test_a_name_is_written_as_it_is_in_one_short_line() -> None:
    axes = evaluation.confusion_matrix(matrix(10), HOSTILE, "t").axes[0]
    written = labels(axes.yaxis)
    assert written[:5] == [*HOSTILE[:3], "<script>alert(1)</scrip…", "🦊"]
    assert written[6:8] == ["line break", f"{'x' * 23}…"]
    assert not any(label.get_parse_math() for label in [*axes.get_yticklabels(), *axes.get_xticklabels()])


def test_a_name_is_cut_only_where_it_is_longer_than_there_is_room() -> None:
    assert [canvas.shorten("cat", most=3), canvas.shorten("panther", most=4)] == ["cat", "pan…"]
    assert canvas.shorten(" a  b\tc\n", most=9) == "a b c"


def test_up_to_60_classes_have_all_names_and_their_counts_in_the_cells() -> None:
    axes = evaluation.confusion_matrix(matrix(42), names(42), "t").axes[0]
    assert labels(axes.yaxis) == labels(axes.xaxis) == names(42)
    assert sorted(texts(axes)) == sorted(["40"] * 41 + ["2"] * 41)


def test_200_classes_have_every_second_name_and_a_list_of_the_most_frequent_confusions() -> None:
    counts = matrix(200)
    counts[7, 150] = 30
    figure = evaluation.confusion_matrix(counts, names(200), "t")
    assert labels(figure.axes[0].yaxis) == names(200)[::2]
    assert texts(figure.axes[0]) == []
    [confused] = [text.get_text() for text in figure.texts if "Most frequent" in text.get_text()]
    assert confused.splitlines()[1].startswith(
        "class 7 taken for class 150: 30 of 72      class 0 taken for class 1: 2"
    )


def test_right_is_blue_wrong_is_red_and_a_class_without_images_is_grey() -> None:
    [cells] = [image.get_array() for image in evaluation.confusion_matrix(matrix(5), names(5), "t").axes[0].images]
    assert cells is not None
    right, wrong, never, without = cells[0, 0], cells[0, 1], cells[0, 2], cells[4]
    assert right[2] > right[0] + 0.3
    assert wrong[0] > wrong[2] + 0.3
    assert never.tolist() == [1, 1, 1, 1]
    assert (without == without[0]).all()
    assert without[0][0] < 1


def test_reliability_shows_how_often_each_confidence_is_right_and_both_errors() -> None:
    sharper = calibration.reliability(np.array([0.99]), np.array([True]))
    figure = evaluation.reliability(BINS, sharper, temperature=0.5, title="Calibration: test")
    bars = [patch.get_height() for patch in figure.axes[0].patches[: len(BINS)]]  # type: ignore[attr-defined]
    assert bars == [0.0, 0.5, 1.0]
    before = 100 * calibration.expected_calibration_error(BINS)
    note = figure.texts[1].get_text()
    assert note == f"expected calibration error (ECE) {before:.1f} % → 1.0 %, 4 images"


def panel(figure: Any, title: str) -> Any:
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def curve(axes: Any, label: str) -> tuple[list[float], list[float]]:
    line = next(line for line in axes.lines if line.get_label() == label)
    return list(line.get_xdata()), list(line.get_ydata())


def test_history_has_a_panel_for_what_was_logged_and_marks_the_first_best_epoch() -> None:
    scores = [0.2, 0.8, float("nan"), 0.8]
    metrics = [row(at, train__loss=1.0 - at / 10, val__acc_top1=score) for at, score in enumerate(scores)]
    figure = training.history(metrics, [row(0, time__val_s=3.0)], monitor="val/acc_top1", mode="max", title="t")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy", "Time"]
    assert "best: epoch 1, val/acc_top1 0.8 " in figure.texts[1].get_text()
    assert curve(panel(figure, "Loss"), "train") == ([0, 1, 2, 3], [1.0, 0.9, 0.8, 0.7])
    epochs, values = curve(panel(figure, "Accuracy"), "val")
    assert epochs == [0, 1, 2, 3]
    assert np.isnan(values[2])
    assert values[3] == 0.8
    lowest = training.best_row(metrics, monitor="train/loss", mode="min")
    assert lowest is not None
    assert lowest["epoch"] == 3
    assert training.best_row(metrics, monitor="val/loss", mode="min") is None


def test_history_leaves_the_place_of_a_panel_that_is_lacking_empty() -> None:
    metrics = [row(0, train__loss=1.0, val__acc_top1=0.5)]
    timing = [row(0, time__epoch_s=3.0, time__images_per_s=9.0, time__data_wait_share=0.1)]
    figure = training.history(metrics, timing, monitor="val/acc_top1", mode="max", title="t")
    assert [(axes.get_title(loc="left") != "", axes.axison) for axes in figure.axes] == [(True, True)] * 5 + [
        (False, False)
    ]


def test_a_single_epoch_is_a_dot_and_many_are_a_line() -> None:
    one, many = (
        training.history([row(at, val__loss=1.0) for at in range(n)], [], monitor="val/loss", mode="min", title="t")
        for n in (1, 100)
    )
    assert [panel(figure, "Loss").lines[0].get_marker() for figure in (one, many)] == ["o", "None"]
    assert "1 epoch;" in one.texts[1].get_text()


def test_an_infinite_loss_is_a_gap() -> None:
    assert np.isnan(training.points([row(0, val__loss=float("inf"))], "val/loss")[0][1])
    assert training.points([row(0)], "val/loss") == []


def test_classes_are_sorted_by_the_images_of_the_first_split_and_missing_ones_stand_out() -> None:
    counts = {"train": [5, 60, 7], "val": [1, 0, 2]}
    figure = data.class_counts(counts, ["a", "b", "c"], imbalance={"train": 12.0, "val": 2.0}, title="t")
    train, val = figure.axes
    assert labels(train.yaxis) == ["b", "c", "a"]
    assert texts(train) == [" 60", " 7", " 5"]
    assert texts(val) == [" 0", " 2", " 1"]
    assert val.texts[0].get_color() == canvas.RED
    assert train.get_title(loc="left") == "train: 72 images, most/fewest 12"


def test_sizes_of_one_kind_have_even_scales_and_very_different_ones_logarithmic_scales() -> None:
    def scale(*pairs: tuple[int, int]) -> str:
        return data.image_sizes({"train": pairs}, input_size=None, title="t", note="n").axes[0].get_xscale()

    assert (scale((100, 120), (90, 80)), scale((10, 12), (900, 80))) == ("linear", "log")


def test_the_sampler_s_earlier_epochs_are_shown_where_they_differ_from_what_is_expected() -> None:
    def panels(drawn: list[list[int]]) -> list[str]:
        expected = np.full((len(drawn), 2), 5.0)
        epochs = list(range(len(drawn)))
        figure = data.sampler(
            ["a", "b"], images=[9, 1], epochs=epochs, drawn=np.array(drawn), expected=expected, title="t"
        )
        return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]

    assert len(panels([[5, 5], [4, 6]])) == 2
    assert len(panels([[5, 5], [5, 5]])) == len(panels([[4, 6]])) == 1


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loading_our_modules_never_loads_matplotlib() -> None:
    # torchmetrics does, so what is looked at is who asks.
    asked = run(
        "import builtins, importlib, json, pkgutil\n"
        "ours, original = [], builtins.__import__\n"
        "def spy(name, globals=None, *args, **options):\n"
        "    asking = (globals or {}).get('__name__', '')\n"
        "    if name.startswith('matplotlib') and asking.startswith('clf'): ours.append(asking)\n"
        "    return original(name, globals, *args, **options)\n"
        "builtins.__import__ = spy\n"
        "import clf\n"
        "loaded = [m.name for m in pkgutil.walk_packages(clf.__path__, 'clf.') if m.name != 'clf.__main__']\n"
        "for name in loaded: importlib.import_module(name)\n"
        "from clf.figures.training import history\n"
        "before = list(ours)\n"
        "history([], [], monitor='x', mode='max', title='t')\n"
        "print(json.dumps([loaded, before, ours]))"
    )
    loaded, before, after = json.loads(asked)
    assert "clf.figures.evaluation" in loaded
    assert "clf.callbacks.history" in loaded
    assert before == []
    assert "clf.figures.canvas" in after


def test_drawing_needs_neither_torch_nor_pyplot_and_leaves_matplotlib_s_settings_alone(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "import matplotlib; before = list(dict.items(matplotlib.rcParams))\n"  # asking it would choose a backend
        "from pathlib import Path\n"
        "from test_figures import EVERYTHING, Drawing\n"
        "for name, (figure, numbers) in EVERYTHING.items():\n"
        f"    Drawing(Path({str(tmp_path)!r}) / f'{{name}}.png', figure, numbers).draw()\n"
        "print(list(dict.items(matplotlib.rcParams)) == before)\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    assert run(code).split() == ["True", "False", "False"]

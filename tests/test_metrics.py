"""Metrics against counts by hand and loops in numpy; torchmetrics is what is tested, so it is not the reference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from clf.metrics import AreaUnderROC, EvaluationMetrics, TrainingMetrics

Numbers = dict[str, float]


def noise(
    n: int, classes: int, *, seed: int, labels: list[int] | None = None, scale: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Make logits (N, C) that favour the label a little, with labels (N,) drawn from some of the classes."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(labels or range(classes), n)
    logits = scale * generator.standard_normal((n, classes)).astype(np.float32)
    logits[np.arange(n), drawn] += scale
    return torch.from_numpy(logits), torch.from_numpy(drawn.astype(np.int64))


def reference(logits: Tensor, labels: Tensor) -> Numbers:
    """Count, class by class and bin by bin."""
    n, classes = logits.shape
    probs = np.exp(logits.double().numpy())
    probs /= probs.sum(1, keepdims=True)
    truth, guess, sure = labels.numpy(), probs.argmax(1), probs.max(1)
    ranks = (probs > probs[np.arange(n), truth][:, None]).sum(1)
    numbers = {"acc_top1": (guess == truth).mean(), "acc_top5": (ranks < 5).mean(), "ece": 0.0}
    scores = []
    for index in range(classes):
        hits = ((guess == index) & (truth == index)).sum()
        predicted, there = (guess == index).sum(), (truth == index).sum()
        if there:
            numbers[f"acc_class_{index}"] = hits / there
        if there or predicted:
            scores.append((hits / max(predicted, 1), hits / max(there, 1), 2 * hits / (predicted + there)))
    precision, recall, f1 = np.mean(scores, axis=0)
    for low in range(15):
        inside = (sure > low / 15) & (sure <= (low + 1) / 15)
        if inside.any():
            numbers["ece"] += inside.mean() * abs((guess == truth)[inside].mean() - sure[inside].mean())
    return {**numbers, "precision_macro": precision, "recall_macro": recall, "f1_macro": f1}


def evaluate(logits: Tensor, labels: Tensor, *, sizes: list[int] | None = None) -> Numbers:
    """Run the metrics over batches of these sizes; the loss of an image is its number."""
    metrics = EvaluationMetrics(logits.shape[1], "val")
    start = 0
    for size in sizes or [len(labels)]:
        rows = slice(start, start + size)
        metrics.update(torch.arange(start, start + size).float().mean(), logits[rows], labels[rows])
        start += size
    return {name.removeprefix("val/"): float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("classes", "labels"), [(2, None), (4, [0, 3]), (12, None), (12, [1, 2, 5, 11])], ids=["2", "2of4", "12", "4of12"]
)
def test_every_number_is_the_counted_one(classes: int, labels: list[int] | None, seed: int) -> None:
    logits, truth = noise(60, classes, seed=seed, labels=labels)
    expected = {**reference(logits, truth), "loss": 29.5}
    assert evaluate(logits, truth) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 50, 3], [32, 28]])
def test_batches_of_uneven_size_count_by_their_images(sizes: list[int]) -> None:
    logits, labels = noise(60, 6, seed=9)
    expected = {**reference(logits, labels), "loss": 29.5}
    assert evaluate(logits, labels, sizes=sizes) == pytest.approx(expected, rel=1e-4)


def test_metrics_that_agree_on_the_first_batch_stay_different() -> None:
    # Classes come in order, as in a folder. After a first batch that is all right, torchmetrics would let the macro
    # scores share the counts of the top 5.
    logits = torch.tensor([[4.0, 2.0, 1.0]] * 8)
    numbers = evaluate(logits, torch.tensor([0] * 4 + [1] * 4), sizes=[4, 4])
    assert numbers["acc_top1"] == 0.5
    assert numbers["acc_top5"] == 1.0
    assert numbers["f1_macro"] == pytest.approx((2 / 3 + 0) / 2)
    assert (numbers["acc_class_0"], numbers["acc_class_1"]) == (1.0, 0.0)


def test_calibration_of_logits_between_0_and_1_is_that_of_their_softmax() -> None:
    # A fresh head gives such logits: torchmetrics would take them for probabilities.
    logits, labels = noise(40, 3, seed=1)
    small = (logits - logits.min()) / (logits.max() - logits.min())
    assert evaluate(small, labels)["ece"] == pytest.approx(reference(small, labels)["ece"], rel=1e-4)


def test_indifferent_logits_have_the_confidence_of_a_guess() -> None:
    # All 8 predictions are class 0, right in 2 of 8 cases, with confidence 1/4.
    assert evaluate(torch.zeros(8, 4), torch.arange(8) % 4)["ece"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4, 5])
def test_top_5_of_five_classes_or_fewer_is_always_right(classes: int) -> None:
    logits, labels = noise(20, classes, seed=3)
    assert evaluate(logits, labels)["acc_top5"] == 1.0


def test_the_sixth_guess_is_not_among_the_top_5() -> None:
    logits = torch.arange(8, 0, -1.0).repeat(8, 1)
    assert evaluate(logits, torch.arange(8))["acc_top5"] == 5 / 8


def test_a_class_without_images_has_no_accuracy_but_its_false_alarms_count() -> None:
    logits = torch.eye(4)[[0, 0, 1, 2]] * 5
    numbers = evaluate(logits, torch.tensor([0, 0, 1, 1]))
    assert [name for name in sorted(numbers) if name.startswith("acc_class")] == ["acc_class_0", "acc_class_1"]
    # Class 2 was predicted once, wrongly; class 3 plays no part.
    assert numbers["recall_macro"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert numbers["precision_macro"] == pytest.approx((1 + 1 + 0) / 3)


def test_the_keys_are_these() -> None:
    metrics = EvaluationMetrics(3, "test")
    metrics.update(torch.tensor(1.0), *noise(30, 3, seed=0))
    names = ["loss", "acc_top1", "acc_top5", "f1_macro", "precision_macro", "recall_macro", "ece"]
    values = metrics.compute()
    assert set(values) == {f"test/{name}" for name in [*names, "acc_class_0", "acc_class_1", "acc_class_2"]}
    assert all(value.ndim == 0 for value in values.values())


def test_each_metric_is_better_the_way_its_mode_says() -> None:
    labels, metrics = torch.arange(12) % 6, EvaluationMetrics(6, "val", auroc=True)
    right, wrong = (20.0 * torch.eye(6)[each] for each in (labels, (labels + 1) % 6))
    scores = []
    for logits in (right, wrong):
        metrics.update(torch.nn.functional.cross_entropy(logits, labels), logits, labels)
        scores.append(metrics.compute())
    good, bad = scores
    assert good.keys() == bad.keys() == metrics.modes.keys()
    # Of six classes the right one is among five guesses even here, where the first is wrong.
    better = {name: "max" if good[name] > bad[name] else "min" for name in good if name != "val/acc_top5"}
    assert better == {name: mode for name, mode in metrics.modes.items() if name in better}


def test_one_image_gives_numbers() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.0]])
    numbers = evaluate(logits, torch.tensor([1]))
    assert all(math.isfinite(value) for value in numbers.values())
    assert (numbers["acc_top1"], numbers["acc_class_1"], numbers["f1_macro"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("forget", ["compute", "reset"])
def test_a_pass_starts_from_nothing(forget: str) -> None:
    metrics = EvaluationMetrics(4, "val")
    first, second = noise(20, 4, seed=1), noise(30, 4, seed=2)
    metrics.update(torch.tensor(100.0), *first)
    getattr(metrics, forget)()
    metrics.update(torch.tensor(1.0), *second)
    expected = {f"val/{name}": value for name, value in {**reference(*second), "loss": 1.0}.items()}
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_is_not_a_number_shows() -> None:
    metrics = EvaluationMetrics(3, "val")
    for loss in (1.0, math.nan):
        metrics.update(torch.tensor(loss), *noise(4, 3, seed=0))
    assert metrics.compute()["val/loss"].isnan()


def train(metrics: TrainingMetrics, *sizes: int) -> None:
    for size in sizes:
        metrics.update(torch.tensor(float(size)), *noise(size, 3, seed=size))


def test_training_metrics_count_images_and_start_anew_each_epoch() -> None:
    metrics = TrainingMetrics()
    for sizes in ([5, 1], [3]):
        train(metrics, *sizes)
        right = sum(int((logits.argmax(1) == labels).sum()) for logits, labels in (noise(n, 3, seed=n) for n in sizes))
        expected = {
            "train/loss": sum(n * n for n in sizes) / sum(sizes),
            "train/acc_top1": right / sum(sizes),
        }
        assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(expected)


def test_soft_labels_count_by_the_share_of_the_predicted_class() -> None:
    metrics = TrainingMetrics()
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    metrics.update(torch.tensor(2.0), logits, torch.tensor([[0.7, 0.3, 0.0], [0.6, 0.3, 0.1]]))
    metrics.update(torch.tensor(1.0), logits, torch.tensor([0, 0]))  # a batch that was not mixed
    values = metrics.compute()
    assert float(values["train/acc_top1"]) == pytest.approx((0.7 + 0.1 + 1 + 0) / 4)
    assert float(values["train/loss"]) == pytest.approx(1.5)


def area(logits: Tensor, labels: Tensor) -> float:
    """Count, class by class, how often an image of the class scores higher than one of another; ties are half."""
    probs, areas = logits.double().softmax(1), []
    for index in range(logits.shape[1]):
        inside, outside = probs[labels == index, index], probs[labels != index, index]
        if len(inside) and len(outside):
            wins = (inside[:, None] > outside).double() + (inside[:, None] == outside).double() / 2
            areas.append(wins.mean())
    return float(torch.stack(areas).mean())


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
@pytest.mark.parametrize(("classes", "labels"), [(2, None), (7, None), (7, [1, 4]), (40, None)])
def test_the_area_under_the_curve_is_the_counted_one_also_without_some_classes(
    classes: int, labels: list[int] | None, scale: float
) -> None:
    logits, truth = noise(150, classes, seed=2, labels=labels, scale=scale)
    metrics = EvaluationMetrics(classes, "val", auroc=True)
    for rows in (slice(0, 100), slice(100, 150)):
        metrics.update(torch.tensor(1.0), logits[rows], truth[rows])
    assert float(metrics.compute()["val/auroc"]) == pytest.approx(area(logits, truth), abs=0.003)


def test_there_is_no_area_where_all_images_are_of_one_class_or_nobody_asked() -> None:
    logits, labels = noise(10, 3, seed=1, labels=[2])
    for auroc in (True, False):
        metrics = EvaluationMetrics(3, "val", auroc=auroc)
        metrics.update(torch.tensor(1.0), logits, labels)
        assert "val/auroc" not in metrics.compute()
    metrics = EvaluationMetrics(3, "val")
    metrics.update(torch.tensor(1.0), *noise(30, 3, seed=1))
    assert "val/auroc" not in metrics.compute()


def test_the_area_asks_for_little_memory_where_torch_is_told_to_be_deterministic() -> None:
    # The binned areas of torchmetrics would make a table of 10^12 numbers here.
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        area_of = AreaUnderROC(100)
        logits, labels = noise(256, 100, seed=1)
        area_of.update(logits.softmax(1), labels)
        found = area_of.compute().nanmean()
    finally:
        torch.use_deterministic_algorithms(before)
    assert float(found) == pytest.approx(area(logits, labels), abs=0.003)


def test_more_bins_come_nearer_to_the_counted_area() -> None:
    logits, labels = noise(300, 4, seed=3, scale=0.3)
    errors = []
    for bins in (10, 100, 1000):
        area_of = AreaUnderROC(4, bins)
        area_of.update(logits.softmax(1), labels)
        errors.append(abs(float(area_of.compute().mean()) - area(logits, labels)))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.03


def test_the_area_starts_from_nothing_in_each_pass() -> None:
    metrics = EvaluationMetrics(3, "val", auroc=True)
    metrics.update(torch.tensor(1.0), *noise(30, 3, seed=1))
    metrics.reset()
    second = noise(40, 3, seed=2)
    metrics.update(torch.tensor(1.0), *second)
    assert float(metrics.compute()["val/auroc"]) == pytest.approx(area(*second), abs=0.003)


def test_training_metrics_go_on_from_a_checkpoint_s_totals() -> None:
    whole, cut, resumed = TrainingMetrics(), TrainingMetrics(), TrainingMetrics()
    train(whole, 5, 4, 2)
    train(cut, 5, 4)
    train(resumed, 7)  # what a fit before left behind
    resumed.resume(cut.totals())
    train(resumed, 2)
    assert resumed.compute() == whole.compute()
    assert cut.totals()["images"] == [9]  # asking changes nothing


def test_training_metrics_of_processes_that_became_more_or_fewer_lose_nothing() -> None:
    saved = {"loss": [1.0, 3.0], "weight": [4.0, 4.0], "correct": [1.0, 2.0], "images": [4.0, 5.0]}
    for processes in (1, 3):
        resumed = [TrainingMetrics() for _ in range(processes)]
        for place, one in enumerate(resumed):
            one.resume(saved, process=place, processes=processes)
        assert [one.totals()["images"] for one in resumed] == [[9.0], *[[0.0]] * (processes - 1)]
        assert resumed[0].compute() == {"train/loss": torch.tensor(0.5), "train/acc_top1": torch.tensor(3 / 9)}


def score_a_share(rank: int, folder: Path) -> None:
    """Score every other image in one of two processes, with a cut in the middle of training; write what comes out."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    logits, labels = (tensor[rank::2] for tensor in noise(21, 6, seed=5))
    evaluation, whole, cut, resumed = EvaluationMetrics(6, "val", auroc=True), *(TrainingMetrics() for _ in range(3))
    evaluation.update(torch.tensor(float(rank)), logits, labels)
    for index, (one, other) in enumerate([(whole, cut)] * 5 + [(whole, resumed)] * (len(logits) - 5)):
        if index == 5:
            resumed.resume(cut.totals(), process=rank, processes=2)
        for metrics in (one, other):  # losses whose sum depends on the order
            metrics.update(torch.tensor(1 / (3 + rank + 2 * index)), logits[index, None], labels[index, None])
    exact = {name: float(value) for name, value in whole.compute().items()}
    assert {name: float(value) for name, value in resumed.compute().items()} == exact
    numbers = {name: float(value) for name, value in evaluation.compute().items()} | exact
    (folder / f"{rank}.json").write_text(json.dumps(numbers))
    # Left to the end of the interpreter, gloo's threads may abort the process (pytorch/pytorch#179291).
    torch.distributed.destroy_process_group()


def test_two_processes_report_the_numbers_of_one(tmp_path: Path) -> None:
    start_processes(score_a_share, args=(tmp_path,), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    expected = {f"val/{name}": value for name, value in reference(*noise(21, 6, seed=5)).items()}
    losses = [1 / number for number in range(3, 24)]
    expected |= {"val/loss": 10 / 21, "train/loss": sum(losses) / 21, "train/acc_top1": expected["val/acc_top1"]}
    assert one.pop("val/auroc") == other.pop("val/auroc") == pytest.approx(area(*noise(21, 6, seed=5)), abs=0.003)
    assert one == other == pytest.approx(expected, rel=1e-4)

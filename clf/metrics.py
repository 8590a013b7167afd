"""Classification metrics of an epoch, under the keys that are logged."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
    MulticlassStatScores,
)
from torchmetrics.utilities.distributed import gather_all_tensors

Stage = Literal["val", "test"]
Mode = Literal["min", "max"]
"""Which way a metric is better: less, or more."""

_SUMMED: Final = ("loss", "weight", "correct", "images")


class TrainingMetrics(nn.Module):
    """Running loss and top-1 accuracy of a training epoch, cheap enough for every step.

    Where labels are soft because images were mixed, a prediction is right by the share of its class in the image: one
    that names the larger of two classes, 0.7 to 0.3, counts 0.7. For hard labels that is the plain accuracy.

    Plain sums, so that a checkpoint can hold them and a run that is resumed in mid-epoch reports the whole epoch.
    """

    modes: Final[Mapping[str, Mode]] = {"train/loss": "min", "train/acc_top1": "max"}
    """What `compute` gives, and which way each is better."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = _Sums(len(_SUMMED))

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> None:
        """Add a batch: loss scalar, logits (N, C), labels (N,) or shares of the classes (N, C).

        The batch's loss counts by ``weight``, what its mean was divided by; by default the number of images.
        """
        guesses = logits.argmax(1)
        correct = (guesses == labels) if labels.ndim == 1 else labels.gather(1, guesses[:, None])
        count = _count(labels).float()
        weight = count if weight is None else weight.float()
        self.sums.update(torch.stack([loss.float() * weight, weight, correct.sum().float(), count]))

    def compute(self) -> dict[str, Tensor]:
        """Compute and reset; keys as they are logged."""
        loss, weight, correct, images = self.sums.compute()
        self.reset()
        return {"train/loss": loss / weight, "train/acc_top1": correct / images}

    def totals(self) -> dict[str, list[float]]:
        """Say how far the epoch has come in each process; all of them have to call this.

        Not summed over the processes: sums of floats depend on their order, and a resumed run is to report the same.
        """
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        each = torch.stack(gather_all_tensors(self.sums.values) if several else [self.sums.values])
        return dict(zip(_SUMMED, each.T.tolist(), strict=True))

    def resume(self, totals: Mapping[str, list[float]], *, process: int = 0, processes: int = 1) -> None:
        """Go on from `totals`: each process from its own; where there were more or fewer, the first from all."""
        each = torch.tensor([totals[name] for name in _SUMMED], device=self.sums.device).T
        if len(each) != processes:
            each = functional.pad(each.sum(0, keepdim=True), (0, 0, 0, processes - 1))
        self.reset()
        self.sums.update(each[process])

    def reset(self) -> None:
        """Forget all batches."""
        self.sums.reset()


class _Sums(Metric):
    """Adds numbers up side by side, where torchmetrics' own sums would be as many calls in each step.

    Unchecked: a loss of NaN must show, and looking for one would make the host wait for the device.
    """

    values: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.add_state("values", torch.zeros(count), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        self.values += values

    def compute(self) -> Tensor:
        return self.values


class AreaUnderROC(Metric):
    """Area under the ROC curve of each class against the rest: how often an image of the class scores higher.

    Probabilities are counted in bins that are evenly spaced in log-odds; images in one bin count as equal. (The binned
    areas of torchmetrics ask for gigabytes where torch is told to be deterministic, and evenly spaced probabilities put
    nearly all images of many classes into one bin.)

    Args:
        num_classes: C, at least 2.
        bins: How many.
    """

    full_state_update = False
    edges: Tensor
    images: Tensor
    of_class: Tensor

    def __init__(self, num_classes: int, bins: int = 1000) -> None:
        super().__init__()
        # From where nothing counts to what is just below 1 in single precision.
        self.register_buffer("edges", torch.linspace(-50, 17, bins - 1).sigmoid(), persistent=False)
        nothing = torch.zeros(num_classes * bins, dtype=torch.int64)
        self.add_state("images", nothing, dist_reduce_fx="sum")
        self.add_state("of_class", nothing.clone(), dist_reduce_fx="sum")
        self.shape = (num_classes, bins)

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probs (N, C), labels int64 (N,)."""
        classes, bins = self.shape
        places = torch.bucketize(probs, self.edges) + bins * torch.arange(classes, device=probs.device)  # (N, C)
        for counts, found in ((self.images, places), (self.of_class, places.gather(1, labels[:, None]))):
            counts.index_add_(0, found.flatten(), torch.ones_like(found.flatten()))

    def compute(self) -> Tensor:
        """Compute the area of each class (C,); not a number for one that has no images, or all."""
        inside = self.of_class.view(self.shape).double()
        outside = self.images.view(self.shape) - inside
        below = outside.cumsum(1) - outside
        wins = (inside * (below + outside / 2)).sum(1)
        return (wins / (inside.sum(1) * outside.sum(1))).float()


class EvaluationMetrics(nn.Module):
    """Everything that is reported about an evaluation, from one pass over its images.

    ``loss``, ``acc_top1``, ``acc_top5`` (top-min(5, C)), ``f1_macro``, ``precision_macro``, ``recall_macro``, ``ece``
    (15 equal bins) and ``acc_class_<i>``. A class without images has no accuracy: its key is left out rather than 0.
    The macro averages leave out classes that neither occur nor were predicted.

    On request ``auroc``, each class against the rest, averaged over the classes that occur beside others. Its memory
    does not grow with the images, see `AreaUnderROC`.

    Args:
        num_classes: C, at least 2.
        stage: First part of the keys, ``val`` or ``test``.
        auroc: Whether ``auroc`` is reported, too.
    """

    def __init__(self, num_classes: int, stage: Stage, *, auroc: bool = False) -> None:
        super().__init__()
        self.stage = stage
        self.num_classes = num_classes
        self.loss, self.weight = _sum(), _sum()
        # Labels come from our own class list; looking at them would wait for the GPU at every batch.
        unchecked: dict[str, Any] = {"validate_args": False}
        self.ece = MulticlassCalibrationError(num_classes, n_bins=15, **unchecked)
        self.auroc = AreaUnderROC(num_classes) if auroc else None
        self.metrics = MetricCollection(
            {
                "acc_top1": MulticlassAccuracy(num_classes, average="micro", **unchecked),
                "acc_top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes), **unchecked),
                "f1_macro": MulticlassF1Score(num_classes, average="macro", **unchecked),
                "precision_macro": MulticlassPrecision(num_classes, average="macro", **unchecked),
                "recall_macro": MulticlassRecall(num_classes, average="macro", **unchecked),
                "per_class": MulticlassStatScores(num_classes, average="none", **unchecked),
            },
            # Left alone, torchmetrics takes metrics for the same that happen to agree on the first batch.
            compute_groups=[["acc_top1"], ["acc_top5"], ["f1_macro", "precision_macro", "recall_macro", "per_class"]],
        )

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> None:
        """Add a batch: loss scalar, logits float32 (N, C), labels int64 (N,).

        The batch's loss counts by ``weight``, what its mean was divided by; by default the number of images.
        """
        weight = _count(labels) if weight is None else weight
        self.loss.update(loss * weight)
        self.weight.update(weight)
        self.metrics.update(logits, labels)
        # Probabilities: torchmetrics takes logits that happen to lie in [0, 1] for such.
        probs = logits.softmax(1)
        self.ece.update(probs, labels)
        if self.auroc is not None:
            self.auroc.update(probs, labels)

    def compute(self) -> dict[str, Tensor]:
        """Compute and reset; keys as they are logged, e.g. ``val/acc_top1``; each value a scalar."""
        values = self.metrics.compute()
        true_positives, *_, support = values.pop("per_class").T.cpu()  # each (C,)
        for index, (correct, images) in enumerate(zip(true_positives, support, strict=True)):
            if images > 0:
                values[f"acc_class_{index}"] = correct / images
        values |= {"loss": self.loss.compute() / self.weight.compute(), "ece": self.ece.compute()}
        comparable = (support > 0) & (support < support.sum())
        if self.auroc is not None and comparable.any():
            per_class: Tensor = self.auroc.compute()  # (C,)
            values["auroc"] = per_class.cpu()[comparable].mean()
        self.reset()
        return {f"{self.stage}/{name}": value for name, value in values.items()}

    @property
    def modes(self) -> dict[str, Mode]:
        """What `compute` can give, and which way each is better: keys as they are logged."""
        more = [str(name) for name in self.metrics.keys(keep_base=True) if name != "per_class"]
        more += ["auroc"] if self.auroc is not None else []
        more += [f"acc_class_{index}" for index in range(self.num_classes)]
        known: dict[str, Mode] = {**dict.fromkeys(("loss", "ece"), "min"), **dict.fromkeys(more, "max")}
        return {f"{self.stage}/{name}": mode for name, mode in known.items()}

    def reset(self) -> None:
        """Forget all batches."""
        for metric in (self.loss, self.weight, self.ece, self.metrics):
            metric.reset()
        if self.auroc is not None:
            self.auroc.reset()


def _count(labels: Tensor) -> Tensor:
    # Made on the device: a number from here would have to wait for all work that is queued there.
    return labels.new_full((), len(labels))


def _sum() -> SumMetric:
    # Unchecked: a loss of NaN must show, where torchmetrics would leave its batch out.
    return SumMetric(nan_strategy="disable")

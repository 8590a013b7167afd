"""What in a configuration spoils a run, or makes it longer than it has to be: seen from what it builds, trains nothing.

Few rules, each for a mistake that costs a night and that nothing else refuses.
"""

import statistics
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, StepLR

from clf.check.augmentation import check_augmentation
from clf.check.findings import Finding, Severity
from clf.check.monitors import check_monitors
from clf.check.plan import Plan, plan
from clf.classifier import Classifier
from clf.cores import usable_cores
from clf.data.datamodule import ImageData
from clf.data.statistics import read_headers
from clf.environment import has_bfloat16
from clf.errors import counted
from clf.optim import brings_warmup, schedule_config

MOST_HEADERS: Final = 256
"""Images whose size is looked at; evenly spaced over train."""

FAR_LARGER: Final = 4.0
"""An input of so many times the images' edge holds nothing that a smaller one would not."""

_HALF = ("16", "16-mixed", "16-true")
_BFLOAT16 = ("bf16", "bf16-mixed", "bf16-true")
_FEW = 0.1  # Share of the batches below which a limit looks forgotten.


def check_configuration(
    data: ImageData, model: Classifier, *, trainer: Mapping[str, Any], callbacks: Mapping[str, Callback | None]
) -> list[Finding]:
    """Look for what spoils a run that was configured like this; opens some images, but decodes none.

    Args:
        data: Its data, bound to the model.
        model: Its model; nothing is computed with it.
        trainer: Its trainer's settings, as configured.
        callbacks: Its callbacks by name; None is switched off.
    Raises:
        UserError: If the data cannot be listed.
    """
    run = plan(data, trainer)
    schedule = _schedule(model)
    watching = {f"callbacks.{name}": each for name, each in callbacks.items() if each is not None}
    watching |= {f"trainer.callbacks.{at}": each for at, each in enumerate(trainer["callbacks"] or [])}
    return [
        *check_monitors(model, watching, schedule=schedule, plan=run),
        *check_augmentation(data.augment, data.classes, preprocessing=model.preprocessing),
        *_check_batches(data, trainer, run),
        *_check_rates(model, schedule, run),
        *_check_machine(data, trainer, run),
        *_check_sizes(data, model),
        *_check_splits(data),
    ]


def _finding(rule: str, severity: Severity, message: str) -> Finding:
    return Finding(rule, "configuration", severity, message)


def _schedule(model: Classifier) -> Any:
    """Build the schedule over a parameter that nobody needs, to read its settings.

    None for a constant rate, and for what cannot be built: that is for the fit to say, in its own words.
    """
    if model.rates.make_schedule is None:
        return None
    nothing = nn.Parameter(torch.zeros(1))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.rates.make_schedule(model.rates.make_optimizer([{"params": [nothing], "name": "nothing"}]))
    except (ValueError, TypeError, KeyError):
        return None


def _check_batches(data: ImageData, trainer: Mapping[str, Any], run: Plan) -> Iterator[Finding]:
    together, each = data.batch_size * run.processes, f" in each of {run.processes} processes" * (run.processes > 1)
    if together > run.images:
        yield _finding(
            "batch-larger-than-data",
            "warning",
            f"data.batch_size={data.batch_size}{each} is more than the {counted(run.images, 'training image')} of an "
            "epoch: there is one step an epoch; choose a smaller batch",
        )
    accumulate = trainer["accumulate_grad_batches"]
    if accumulate > run.batches >= 1:
        yield _finding(
            "accumulation-longer-than-epoch",
            "warning",
            f"trainer.accumulate_grad_batches={accumulate} is more than the "
            f"{counted(run.batches, 'batch', 'batches')} of an epoch: there is one step an epoch; choose less",
        )
    for key, used, there in (
        ("limit_train_batches", run.batches, run.all_batches),
        ("limit_val_batches", run.val_batches, run.all_val_batches),
    ):
        if trainer["overfit_batches"] == 0 and 0 < used < _FEW * there:
            yield _finding(
                "few-batches",
                "warning" if run.epochs > 1 else "note",
                f"trainer.{key}={trainer[key]} leaves {used} of {there} batches; take it away for a real run",
            )


def _check_rates(model: Classifier, schedule: Any, run: Plan) -> Iterator[Finding]:
    epochs = model.rates.warmup.epochs
    if epochs > run.epochs / 4 and not brings_warmup(schedule):
        yield _finding(
            "warmup-shortened",
            "note",
            f"model.warmup_epochs={epochs:g} is more than a quarter of the run: it is shortened to {run.epochs / 4:g}",
        )
    if 0 < model.freeze_epochs >= run.epochs:
        yield _finding(
            "frozen-throughout",
            "note",
            f"model.freeze_epochs={model.freeze_epochs} is all of the run: only the head is trained",
        )
    falls = _first_fall(schedule)
    if falls is None:
        return
    per_step = schedule_config(schedule, model.rates.interval)["interval"] == "step"
    unit, length = ("step", run.epochs * run.steps) if per_step else ("epoch", run.epochs)
    if falls >= length:
        yield _finding(
            "schedule-beyond-run",
            "warning",
            f"model.lr_scheduler={type(schedule).__name__} lowers the rate after {counted(falls, unit)} for the first "
            f"time, but the run has {length:g}; lower it sooner",
        )


def _first_fall(schedule: Any) -> int | None:
    """Say when a schedule of steps first lowers the rate, in its own unit; None for all others."""
    if isinstance(schedule, MultiStepLR):
        return min(schedule.milestones, default=None)
    return schedule.step_size if isinstance(schedule, StepLR) else None


def _check_machine(data: ImageData, trainer: Mapping[str, Any], run: Plan) -> Iterator[Finding]:
    cores = max(1, usable_cores() * max(1, int(trainer["num_nodes"])) // run.processes)
    if data.num_workers != "auto" and data.num_workers > cores:
        yield _finding(
            "more-workers-than-cores",
            "note",
            f"data.num_workers={data.num_workers} is more than the {counted(cores, 'CPU core')} of a process; auto "
            "takes as many",
        )
    precision = str(trainer["precision"])
    if precision in _HALF and run.device != "cuda":
        yield _finding(
            "half-precision-without-gpu", "note", f"trainer.precision={precision} becomes 32-true without a GPU"
        )
    if precision in _BFLOAT16 and not has_bfloat16(run.device):
        better = "16-mixed" if run.device == "cuda" else "32-true"
        yield _finding(
            "slow-bfloat16",
            "warning",
            f"trainer.precision={precision}: this {'GPU' if run.device == 'cuda' else 'CPU'} has no instructions for "
            f"bfloat16, which makes it several times slower; set trainer.precision={better}",
        )
    if str(trainer["accelerator"]) == "cpu" and torch.cuda.is_available():
        yield _finding(
            "idle-gpu", "warning", "trainer.accelerator=cpu leaves the GPU of this machine idle; set it to auto"
        )
    if trainer["detect_anomaly"]:
        text = "trainer.detect_anomaly=true makes each step slower; take it away once the fault is found"
        yield _finding("anomaly-detection", "warning", text)


def _check_sizes(data: ImageData, model: Classifier) -> Iterator[Finding]:
    train, (height, width) = data.samples("train"), model.preprocessing.size
    every = max(1, len(train) // MOST_HEADERS)
    headers = read_headers({"train": train[::every][:MOST_HEADERS]}, most=MOST_HEADERS)["train"]
    edges = [(header.width * header.height) ** 0.5 for header in headers if header is not None]
    if not edges or (height * width) ** 0.5 <= FAR_LARGER * (edge := statistics.median(edges)):
        return
    sizes = [(header.width, header.height) for header in headers if header is not None]
    wide, high = (statistics.median(each) for each in zip(*sizes, strict=True))
    size = str(height) if height == width else f"[{height}, {width}]"
    yield _finding(
        "input-larger-than-images",
        "warning",
        f"model.image_size={size} is {(height * width) ** 0.5 / edge:.1f} times the edge of the images, of {wide:g} x "
        f"{high:g} pixels (median of {len(edges)}): there is no more to see, and each costs "
        f"{height * width / _size_for(edge) ** 2:.0f} times as much as at {_size_for(edge)}, which would do",
    )


def _size_for(edge: float) -> int:
    """Suggest an input for small images: twice their edge, in steps of 32."""
    return max(32, 32 * round(2 * edge / 32))


def _check_splits(data: ImageData) -> Iterator[Finding]:
    if "test" not in data.available:
        text = "there is no test split: clf test will have nothing to score, and the validation chose the checkpoint"
        yield _finding("no-test-split", "note", text)

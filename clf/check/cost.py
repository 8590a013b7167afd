"""What a run will cost, from a few of its steps: time, memory and money."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from clf.check.findings import Finding
from clf.check.plan import Plan, plan
from clf.check.probe import Probe, Span, probe
from clf.classifier import Classifier
from clf.data.datamodule import ImageData
from clf.errors import counted
from clf.preprocess import UnreadableImage

_MUCH_WAITING = 0.3
_UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))


@dataclass(frozen=True)
class Cost:
    """What was measured, and what it means for the whole run.

    The start of the command, checkpoints, pictures and the report are not in it.

    Args:
        measured: What was measured.
        plan: How long the run is.
        epoch: Seconds of an epoch, with its share of the validations.
        run: Seconds of the run; None where nothing says when it ends.
        at_most: Whether it may end sooner.
        price_per_hour: What an hour of the machine costs; None where it was not said.
        notes: What a reader must know to read the numbers right.
    """

    measured: Probe
    plan: Plan
    epoch: Span
    run: Span | None
    at_most: bool
    price_per_hour: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def price(self) -> Span | None:
        """What the run costs, in the unit of the price; None where the price or the end of the run is not known."""
        if self.run is None or self.price_per_hour is None:
            return None
        return self.run.times(self.price_per_hour / 3600)

    def rows(self) -> list[tuple[str, str, str]]:
        """Lay it out as a table: what, how much, and from what it was predicted."""
        probed, most = self.measured, "at most " * self.at_most
        scored = f", {probed.val_batches} of validation" * (probed.val_batches > 0)
        per_batch = f"measured on {counted(probed.batches, 'batch', 'batches')}{scored}"
        rows = [
            (
                "an epoch",
                _duration(self.epoch),
                f"{counted(self.plan.batches, 'batch', 'batches')} of training; {per_batch}",
            ),
            ("waiting for data", f"{probed.waiting:.0%}", "of training"),
            ("memory", f"{probed.memory / 1e9:.2f} GB", "of the process and its workers, at most"),
        ]
        if probed.gpu_memory is not None:
            rows.append(("memory of the GPU", f"{probed.gpu_memory / 1e9:.2f} GB", "reserved, at most"))
        if self.run is not None:
            rows.insert(
                1,
                (
                    "the run",
                    most + _duration(self.run),
                    f"of {counted(self.plan.epochs, 'epoch')}",
                ),
            )
        if (price := self.price) is not None:
            rows.append(
                ("price", most + _range(f"{price.low:.2f}", f"{price.high:.2f}"), f"at {self.price_per_hour:g} an hour")
            )
        return [*rows, *(("note", note, "") for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """Say everything as primitives; the unit stands in the key."""
        probed = self.measured
        return {
            "measured": {
                "batches": probed.batches,
                "batch_seconds": asdict(probed.batch),
                "waiting_share": probed.waiting,
                "val_batches": probed.val_batches,
                "val_batch_seconds": asdict(probed.val_batch),
                "memory_bytes": probed.memory,
                "gpu_memory_bytes": probed.gpu_memory,
            },
            "batches_per_epoch": self.plan.batches,
            "epochs": None if math.isinf(self.plan.epochs) else self.plan.epochs,
            "epoch_seconds": asdict(self.epoch),
            "run_seconds": None if self.run is None else asdict(self.run),
            "at_most": self.at_most,
            "price_per_hour": self.price_per_hour,
            "price": None if self.price is None else asdict(self.price),
            "notes": list(self.notes),
        }


def measure_cost(
    trainer: Trainer,
    model: Classifier,
    data: ImageData,
    *,
    settings: Mapping[str, Any],
    callbacks: Mapping[str, Callback | None],
    seconds: float,
    price_per_hour: float | None = None,
    compiled: bool = False,
) -> tuple[Cost | None, list[Finding]]:
    """Measure a few steps and predict what the run costs; nothing is written, and the model stays as it is.

    Args:
        trainer: Made with `clf.finders.SETTINGS`, of one process.
        model: The classifier.
        data: What it would be trained on, bound to it.
        settings: The trainer's settings, as configured.
        callbacks: The run's callbacks by name; None is switched off.
        seconds: About how long training is measured, after its first batches.
        price_per_hour: What an hour of the machine costs, in any currency.
        compiled: Whether the run would compile its network; the probe does not.
    Returns:
        The cost, or None where nothing could be measured; and what was found besides.
    """
    run = plan(data, settings)
    try:
        probed = probe(trainer, model, data, callbacks=callbacks, val_batches=run.val_batches, seconds=seconds)
    except torch.cuda.OutOfMemoryError:
        text = (
            f"data.batch_size={data.batch_size} does not fit into the GPU's memory; clf fit --find_batch_size finds one"
        )
        return None, [Finding("out-of-memory", "cost", "error", text)]
    except UnreadableImage as error:
        return None, [Finding("not-measured", "cost", "note", f"the cost was not measured, because of {error}")]
    stops = any(isinstance(each, EarlyStopping) for each in (*callbacks.values(), *(settings["callbacks"] or [])))
    notes = [f"one process was measured, of {run.processes}"] * (run.processes > 1)
    notes += ["measured without model.compile, which is slow at first and faster later"] * compiled
    predicted = predict(probed, run, price_per_hour=price_per_hour, may_end_sooner=stops, notes=tuple(notes))
    return predicted, _findings(probed)


def predict(
    probed: Probe, run: Plan, *, price_per_hour: float | None, may_end_sooner: bool, notes: tuple[str, ...] = ()
) -> Cost:
    """Say what a run costs whose batches take as long as those that were measured.

    Args:
        probed: What was measured.
        run: How long the run is.
        price_per_hour: What an hour of the machine costs.
        may_end_sooner: Whether something may stop it before its last epoch.
        notes: What a reader must know besides.
    """
    scored = run.val_batches * run.validations_per_epoch
    epoch = probed.batch.times(run.batches).plus(probed.val_batch.times(scored))
    whole = None if math.isinf(run.epochs) else epoch.times(run.epochs)
    if run.longest < math.inf:
        longest = run.longest
        whole = (
            Span(longest, longest, longest)
            if whole is None
            else Span(*(min(each, longest) for each in (whole.low, whole.mean, whole.high)))
        )
        may_end_sooner = may_end_sooner or whole.high >= longest
    return Cost(probed, run, epoch, whole, may_end_sooner, price_per_hour, notes)


def _findings(probed: Probe) -> list[Finding]:
    if probed.waiting < _MUCH_WAITING:
        return []
    text = f"training waits for its data for {probed.waiting:.0%} of the time; clf bench data says which key to change"
    return [Finding("waiting-for-data", "cost", "note", text)]


def _duration(span: Span) -> str:
    """Write a range of seconds in a unit that suits it."""
    unit, size = next((each for each in _UNITS if span.low >= each[1]), _UNITS[-1])
    values = (value / size for value in (span.low, span.high))
    return f"{_range(*(f'{value:.3g}' if value < 1000 else f'{value:.0f}' for value in values))} {unit}"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low}–{high}"

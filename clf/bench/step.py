"""``clf bench step``: the network's training step, what would make it faster, and whether the loader keeps up."""

import argparse
import copy
import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from clf.bench.advice import Alternative, advise_data, advise_step
from clf.bench.data import configured_workers, loader_series, measure_cache, sweep, train_loader
from clf.bench.measuring import (
    REPEATS,
    Advice,
    Report,
    Series,
    Table,
    alternate,
    compare,
    digits,
    milliseconds,
    times_within,
)
from clf.check.memory import peak
from clf.composed import Composed, composed
from clf.data.loading import Batch
from clf.environment import has_bfloat16
from clf.parameters import build_optimizer
from clf.transforms import normalised

log = logging.getLogger("clf")

PARTS = ("to the device, normalised", "forward", "backward", "optimizer")


class Step:
    """A training step: what the trainer does with a batch, without callbacks.

    Args:
        made: What was composed; its network is copied.
        channels_last: As ``model.channels_last``.
        precision: As ``trainer.precision``.
        compiled: As ``model.compile``.
    """

    def __init__(self, made: Composed, *, channels_last: bool, precision: str, compiled: bool) -> None:
        fabric = Fabric(accelerator=made.settings["accelerator"], devices=1, precision=precision)  # type: ignore[arg-type]
        self._precision: Any = fabric.strategy.precision
        self._converts = precision.endswith("-true")
        self._clip = made.settings["gradient_clip_val"]
        self.device = made.device
        self.model = copy.deepcopy(made.model)
        self.model.channels_last = channels_last
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model.network.to(memory_format=layout)
        self.model = self._precision.convert_module(self.model).to(self.device).train()
        if compiled:
            self.model.network.compile()
        rates = self.model.rates
        self._optimizer = build_optimizer(
            rates.make_optimizer, self.model, self.model.network, layer_decay=rates.layer_decay
        )

    def __call__(self, batch: Batch) -> None:
        """Do all of it."""
        self._backward(self._forward(self._move(batch)))
        self._update()

    def parts(self, batch: Batch) -> tuple[float, ...]:
        """Do all of it and say what each of `PARTS` took, in seconds; a GPU is waited for after each."""
        taken, result = [], batch
        work: tuple[Callable[[Any], Any], ...] = (self._move, self._forward, self._backward, self._update)
        for part in work:
            self.wait()
            start = perf_counter()
            result = part(result)
            self.wait()
            taken.append(perf_counter() - start)
        return tuple(taken)

    def _move(self, batch: Batch) -> Batch:
        images = batch["images"].to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = normalised(images, self.model.preprocessing)
        images = self._precision.convert_input(images) if self._converts else images
        return {"images": images, "labels": batch["labels"].to(self.device, non_blocking=True)}

    def _forward(self, batch: Batch) -> Tensor:
        with self._precision.forward_context():
            loss: Tensor = self.model.training_step(batch, 0)
        return loss

    def _backward(self, loss: Tensor) -> None:
        self._precision.backward(loss, self.model)

    def _update(self, _: None = None) -> None:
        if self._clip:
            self._precision.unscale_gradients(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._precision.optimizer_step(self._optimizer)
        self._optimizer.zero_grad()

    def wait(self) -> None:
        """Wait until a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def bench(options: argparse.Namespace, words: Sequence[str]) -> Report:
    """Measure the training step of a command line of ``clf fit``."""
    with composed("fit", words) as made:
        log.info("bench step of %s on %s; Ctrl-C ends it", describe(made), made.device_name)
        batch = next(iter(train_loader(made.datamodule, workers=0)))
        batch = made.datamodule.on_before_batch_transfer(batch, 0)
        if made.compiled or options.compile:
            log.info("compiling the network: this takes minutes")
        usual = usual_step(made)
        memory = peak_memory(usual, batch)
        split = measure_parts(usual, batch)
        steps, alternatives, notes = measure_alternatives(made, usual, batch, options)
        loader, together = _beside(made, usual, seconds=options.seconds)
        loading = _advise_loading(made, loader, seconds=options.seconds) if compare(loader, steps).faster else []
        report = Report("step", _about(made, batch), _settings(made, batch, memory), notes=notes)
        report.bottleneck, report.advice = advise_step(
            steps, loader, alternatives=alternatives, loading=loading, on_cpu=made.on_cpu
        )
        report.tables = [
            _split_table(split, steps, memory),
            _step_table(steps, alternatives),
            _training_table(steps, loader, together),
        ]
        report.measurements = {
            "step": [steps.to_dict()],
            "parts": [series.to_dict() for series in split],
            "alternatives": [{**each.series.to_dict(), "key": each.key, "value": each.value} for each in alternatives],
            "loader": [loader.to_dict()],
            "training": [together.to_dict()],
        }
        return report


def _advise_loading(made: Composed, loader: Series, *, seconds: float) -> list[Advice]:
    """Find out what makes the loader faster."""
    cached = measure_cache(made, rate=loader.rate, seconds=seconds)
    return advise_data(sweep(made, seconds=seconds), configured=configured_workers(made.datamodule), cached=cached)


def usual_step(made: Composed, **changes: Any) -> Step:
    """Make the step as configured, but for some changes."""
    configured = {
        "channels_last": made.model.channels_last,
        "precision": str(made.settings["precision"]),
        "compiled": made.compiled,
    }
    return Step(made, **configured | changes)


def peak_memory(step: Step, batch: Batch) -> int:
    """Say how much memory a step takes at most, in bytes: of the GPU, or else of the whole process so far."""
    step(batch)
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(step.device)
        step(batch)
        step.wait()
        return int(torch.cuda.max_memory_allocated(step.device))
    return peak()


def measure_parts(step: Step, batch: Batch) -> list[Series]:
    """Measure what a step consists of."""
    step.parts(batch)
    taken = zip(*(step.parts(batch) for _ in range(REPEATS)), strict=True)
    images = (len(batch["images"]),) * REPEATS
    return [Series(name, tuple(seconds), images) for name, seconds in zip(PARTS, taken, strict=True)]


def other_values(made: Composed, *, compiling: bool) -> list[tuple[str, Any, dict[str, Any]]]:
    """List what can be changed: (key, other value, how `usual_step` says it)."""
    last, now = made.model.channels_last, str(made.settings["precision"])
    found: list[tuple[str, Any, dict[str, Any]]] = [("model.channels_last", not last, {"channels_last": not last})]
    found += [("trainer.precision", each, {"precision": each}) for each in precisions(made.device) if each != now]
    if compiling:
        found.append(("model.compile", not made.compiled, {"compiled": not made.compiled}))
    return found


def precisions(device: torch.device) -> list[str]:
    """List the precisions that a device has instructions for."""
    half = ["16-mixed"] if device.type in ("cuda", "mps") else []
    return ["32-true", *(["bf16-mixed"] if has_bfloat16(device.type) else []), *half]


def measure_alternatives(
    made: Composed, usual: Step, batch: Batch, options: argparse.Namespace
) -> tuple[Series, list[Alternative], list[str]]:
    """Measure the step as configured and with one change each, in turn; says what could not be measured."""
    notes = ["callbacks, like a moving average, are not in the step"]
    if not options.compile:
        notes.append("model.compile was left as it is, because compiling takes minutes: add --compile to measure it")
    steps: dict[str, Step] = {"as configured": usual}
    keys: dict[str, tuple[str, Any]] = {}
    for key, value, change in other_values(made, compiling=options.compile):
        name = Alternative(key, value, Series("", (), ())).name
        try:
            step = usual_step(made, **change)
            step(batch)
            step.wait()
        except torch.cuda.OutOfMemoryError:
            notes.append(f"{name} does not fit into the memory of the GPU")
            continue
        steps[name], keys[name] = step, (key, value)

    def timed(step: Step) -> Callable[[], None]:
        def run() -> None:
            step(batch)
            step.wait()

        return run

    actions = {name: timed(step) for name, step in steps.items()}
    times = times_within(actions["as configured"], seconds=options.seconds)
    log.info("the step as configured, and with %s", ", ".join(keys) or "nothing else")
    found = alternate(actions, images=len(batch["images"]), times=times)
    return found["as configured"], [Alternative(*keys[name], found[name]) for name in keys], notes


def _beside(made: Composed, step: Step, *, seconds: float) -> tuple[Series, Series]:
    """Measure the loader by itself, and training: the loader with the step."""
    workers = configured_workers(made.datamodule)
    log.info("the train loader with data.num_workers=%d, by itself and with the step", workers)
    alone = loader_series(made.datamodule, workers=workers, seconds=seconds)
    together = loader_series(made.datamodule, workers=workers, seconds=seconds, consume=step, settle=step.wait)
    return alone, together


def describe(made: Composed) -> str:
    """Name the network and its input."""
    height, width = made.model.preprocessing.size
    return f"{next(iter(made.model.facts.network.values()))} at {height} x {width} pixels"


def _about(made: Composed, batch: Batch) -> str:
    how = f"batches of {len(batch['images'])}, {made.settings['precision']}"
    how += ", channels last" if made.model.channels_last else ""
    how += ", compiled" if made.compiled else ""
    return f"clf bench step: {describe(made)}, {how}, {made.device_name}"


def _settings(made: Composed, batch: Batch, memory: int) -> dict[str, Any]:
    return {
        "network": describe(made),
        "batch_size": len(batch["images"]),
        "precision": str(made.settings["precision"]),
        "channels_last": made.model.channels_last,
        "compile": made.compiled,
        "num_workers": configured_workers(made.datamodule),
        "device": made.device_name,
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": memory,
        "peak_memory_of": "GPU" if made.device.type == "cuda" else "process",
    }


def _split_table(parts: Sequence[Series], step: Series, memory: int) -> Table:
    total = sum(series.median for series in parts)
    images = step.images[0]
    rows = [(series.name, *_times(series, images), f"{series.median / total:.0%}") for series in parts]
    title = f"a step: {milliseconds(step.median * images)} ms, at most {memory / 1e6:,.0f} MB of memory"
    return Table(title, ("part", "ms a step", "spread", "share"), rows)


def _times(series: Series, images: int) -> tuple[str, str]:
    return milliseconds(series.median * images), milliseconds(series.spread * images)


def _step_table(step: Series, alternatives: Sequence[Alternative]) -> Table:
    images = step.images[0]
    rows = [("as configured", *_times(step, images), digits(step.rate), "")]
    rows += [
        (each.name, *_times(each.series, images), digits(each.series.rate), str(compare(step, each.series)))
        for each in alternatives
    ]
    return Table("one change at a time", ("step", "ms a step", "spread", "images/s", "to configured"), rows)


def _training_table(step: Series, loader: Series, together: Series) -> Table:
    named = {"the network": step, "the loader": loader, "training: both together": together}
    rows = [(name, digits(each.rate), f"± {each.spread / each.median:.0%}") for name, each in named.items()]
    return Table("who waits for whom", ("part", "images/s", "spread"), rows)

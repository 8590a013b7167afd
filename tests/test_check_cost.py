"""What a run costs: predictions that follow from measurements, and a probe that leaves everything as it was."""

import copy
import json
import math
import multiprocessing
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import draw_pets, image_data
from forks import Forked
from lightning.pytorch import Callback, Trainer
from tiny import tiny
from torch import Tensor, nn

from clf import finders
from clf.callbacks.early_stopping import EarlyStopping
from clf.callbacks.ema import EMA
from clf.check import memory
from clf.check.cost import Cost, measure_cost, predict
from clf.check.findings import Finding
from clf.check.plan import Plan
from clf.check.probe import Probe, Span
from clf.composed import composed

DEFAULTS = {name: each.default for name, each in signature(Trainer).parameters.items()}
SETTINGS = {**DEFAULTS, "accelerator": "cpu", "devices": 1, "max_epochs": 10}
PROBE = Probe(20, Span(0.5, 1.0, 2.0), 0.1, 4, Span(0.25, 0.5, 1.0), memory=2_000_000_000)
PLAN = Plan("cpu", 1, 600, 60, 60, 60, 10.0, 10, 10, 1.0)


def predicted(plan: Plan = PLAN, **options: Any) -> Cost:
    return predict(PROBE, plan, **{"price_per_hour": None, "may_end_sooner": False, **options})


# Predictions


def test_an_epoch_is_its_batches_and_its_share_of_validations() -> None:
    assert predicted().epoch == Span(0.5 * 60 + 0.25 * 10, 65.0, 130.0)
    assert predicted(replace(PLAN, validations_per_epoch=0.5)).epoch.mean == 62.5
    assert predicted(replace(PLAN, batches=30)).epoch.mean == 35.0


def test_a_run_takes_as_many_times_as_long_as_it_has_epochs() -> None:
    run = predicted().run
    assert run is not None
    assert run.mean == 650.0
    assert predicted(replace(PLAN, epochs=20)).run == run.times(2)
    assert predicted(replace(PLAN, epochs=math.inf)).run is None


def test_a_price_is_that_of_the_hours() -> None:
    price = predicted(price_per_hour=3.6).price
    assert price is not None
    assert price.mean == pytest.approx(0.65)
    assert predicted(price_per_hour=7.2).price == price.times(2)
    assert predicted().price is None
    assert predicted(replace(PLAN, epochs=math.inf), price_per_hour=1.0).price is None


def test_a_run_ends_with_its_time_at_the_latest() -> None:
    timed = predicted(replace(PLAN, longest=500.0))
    assert (timed.run, timed.at_most) == (Span(325.0, 500.0, 500.0), True)
    assert predicted(replace(PLAN, longest=2000.0)).at_most is False
    assert predicted(replace(PLAN, longest=500.0, epochs=math.inf)).run == Span(500.0, 500.0, 500.0)


def test_the_table_says_how_many_batches_it_rests_on_and_what_is_only_a_limit() -> None:
    rows = {name: (value, why) for name, value, why in predicted(price_per_hour=3.6, may_end_sooner=True).rows()}
    assert rows["an epoch"] == ("32.5–130 s", "60 batches of training; measured on 20 batches, 4 of validation")
    assert rows["the run"][0] == "at most 5.42–21.7 min"
    assert rows["price"] == ("at most 0.33–1.30", "at 3.6 an hour")
    assert rows["memory"][0] == "2.00 GB"
    assert rows["waiting for data"][0] == "10%"
    assert {name for name, *_ in predicted(replace(PLAN, epochs=math.inf), price_per_hour=1.0).rows()} == {
        *("an epoch", "waiting for data", "memory")
    }


def test_the_numbers_have_their_units_in_json() -> None:
    found = json.loads(json.dumps(predicted(price_per_hour=3.6).to_dict(), allow_nan=False))
    assert found["run_seconds"] == {"low": 325.0, "mean": 650.0, "high": 1300.0}
    assert found["measured"]["memory_bytes"] == 2_000_000_000
    assert found["measured"]["batches"] == 20
    endless = json.dumps(predicted(replace(PLAN, epochs=math.inf)).to_dict(), allow_nan=False)
    assert json.loads(endless)["epochs"] is None


# The probe


def measure(
    root: Path,
    *,
    callbacks: Mapping[str, Callback | None] | None = None,
    settings: Mapping[str, Any] | None = None,
    loss: nn.Module | None = None,
    **options: Any,
) -> tuple[Cost | None, list[Finding]]:
    """Measure the cost of a tiny classifier on pets for a moment."""
    data, classifier = image_data(root, augment="light"), tiny(classes=["cat", "dog"], loss=loss)
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=str(root), **finders.SETTINGS)
    data.trainer = trainer
    state, before = copy.deepcopy(classifier.state_dict()), sorted(root.rglob("*"))
    try:
        return measure_cost(
            trainer,
            classifier,
            data,
            settings={**SETTINGS, **(settings or {})},
            callbacks=callbacks or {},
            seconds=0.05,
            **options,
        )
    finally:
        assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
        assert sorted(root.rglob("*")) == before
        assert not any(isinstance(each, EMA) for each in vars(trainer)["callbacks"])
        assert trainer.limit_val_batches == 1.0


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A dataset of 11 images to train on and 5 to validate."""
    return draw_pets(tmp_path / "pets")


def test_a_probe_measures_real_steps_and_leaves_everything_as_it_was(pets: Path) -> None:
    found, _ = measure(pets, callbacks={"ema": EMA(), "early_stopping": EarlyStopping()}, price_per_hour=100.0)
    assert found is not None
    assert found.measured.batches >= 2
    assert found.measured.val_batches >= 1
    for span in (found.measured.batch, found.measured.val_batch, found.epoch, found.run, found.price):
        assert span is not None
        assert 0 < span.low <= span.mean <= span.high
    assert 0 <= found.measured.waiting <= 1
    assert found.measured.memory > 100e6  # torch alone
    assert found.at_most
    assert found.plan.epochs == 10


def test_several_processes_and_a_compiled_network_are_named_as_not_measured(pets: Path) -> None:
    found, _ = measure(pets, settings={"devices": 2}, compiled=True)
    assert found is not None
    assert [note.split(",")[0] for note in found.notes] == [
        "one process was measured",
        "measured without model.compile",
    ]
    assert not found.at_most


def test_a_damaged_image_leaves_the_cost_unmeasured_and_says_why(pets: Path) -> None:
    for path in (pets / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    found, findings = measure(pets)
    assert found is None
    assert [(each.rule, each.severity) for each in findings] == [("not-measured", "note")]
    assert str(pets / "train") in findings[0].message


class TooLarge(nn.Module):
    """A loss for which a GPU has no room."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_a_batch_that_does_not_fit_into_the_gpu_is_an_error_that_names_its_key(pets: Path) -> None:
    found, findings = measure(pets, loss=TooLarge())
    assert found is None
    assert [(each.rule, each.severity) for each in findings] == [("out-of-memory", "error")]
    assert findings[0].message.startswith("data.batch_size=4 does not fit")


def test_what_a_command_line_would_train_is_measured_with_its_workers(pets: Path, workdir: Path) -> None:
    words = ["--config", "demo.yaml", "--data.root", str(pets), "--data.batch_size", "4", "--data.num_workers", "1"]
    with composed("fit", [*words, "--model.arch", "test_resnet", "--trainer.max_time", "00:00:00:30"]) as made:
        found, _ = measure_cost(
            *(made.trainer, made.model, made.datamodule),
            settings=made.configured,
            callbacks=made.watching,
            seconds=0.05,
        )
    assert found is not None
    assert found.plan.epochs == 8
    assert found.plan.longest == 30
    assert found.measured.batches >= 2
    assert list(workdir.iterdir()) == []


# Memory


def test_the_peak_of_a_process_rises_with_what_it_takes_and_is_forgotten_when_asked() -> None:
    memory.forget_peak()
    before = memory.peak()
    with mmap(-1, 200_000_000) as taken:
        _fill(taken)
        assert memory.peak() - before > 100e6
    memory.forget_peak()
    assert memory.peak() - before < 100e6


def test_the_memory_of_workers_is_what_they_add_to_that_which_they_share_with_this_process() -> None:
    shared = mmap(-1, 300_000_000, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    _fill(shared)
    nobody = memory.of_workers()
    workers = [Forked(_take) for _ in range(2)]
    try:
        assert [each.line.recv() for each in workers] == ["taken", "taken"]
        assert 190e6 < memory.of_workers() - nobody < 300e6
    finally:
        for each in workers:
            each.process.kill()
            each.process.join()


def _take(line: Connection) -> None:
    with mmap(-1, 100_000_000) as taken:
        _fill(taken)
        line.send("taken")
        multiprocessing.Event().wait()


def _fill(memory: mmap) -> None:
    for _ in range(0, len(memory), 1_000_000):
        memory.write(b"x" * 1_000_000)

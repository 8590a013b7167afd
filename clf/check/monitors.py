"""Metrics that a configuration watches: whether they are logged, which way they are better, and whether it matters."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.early_stopping import EarlyStopping
from clf.check.findings import Finding, Severity
from clf.check.plan import Plan
from clf.classifier import Classifier
from clf.errors import counted, did_you_mean
from clf.metrics import Mode

_RATES = "lr-"  # How Lightning's LearningRateMonitor begins its keys.
_COUNTS = ("epoch", "step")  # What a checkpoint's file name may hold beside metrics.
_OURS = ("clf.", "lightning.")


@dataclass(frozen=True)
class Watcher:
    """Something that watches a metric.

    Args:
        key: Where it stands in the configuration.
        watching: The callback or schedule itself, with a ``monitor`` and, mostly, a ``mode``.
    """

    key: str
    watching: Any

    @property
    def metric(self) -> str:
        """What it watches."""
        return str(self.watching.monitor)


def check_monitors(
    model: Classifier, callbacks: Mapping[str, Callback], *, schedule: object, plan: Plan
) -> list[Finding]:
    """Look for metrics that nobody logs, that are watched the wrong way round, or that come too late to matter.

    Args:
        model: Says what a fit logs.
        callbacks: Those of the run, by their key.
        schedule: The schedule of the learning rate; None for a constant one.
        plan: How long the run is.
    """
    might = {**callbacks, "model.lr_scheduler": schedule}
    watchers = [Watcher(key, each) for key, each in might.items() if isinstance(getattr(each, "monitor", None), str)]
    return [
        *_metrics(watchers, model, callbacks),
        *_validations(watchers, plan),
        *_patience(watchers, plan),
    ]


def _metrics(watchers: Sequence[Watcher], model: Classifier, callbacks: Mapping[str, Callback]) -> Iterator[Finding]:
    """Hold what is watched against what is logged; a user's own callback may log whatever it likes."""
    modes: dict[str, Mode] = {**model.metric_modes}
    for callback in callbacks.values():
        modes |= getattr(callback, "metric_modes", {})
    own = [key for key, each in callbacks.items() if not type(each).__module__.startswith(_OURS)]
    for watcher in watchers:
        for key, metric in (("monitor", watcher.metric), *_in_file_name(watcher.watching)):
            if metric not in modes and not metric.startswith(_RATES):
                yield _unknown(f"{watcher.key}.{key}", metric, modes, own=own)
        mode = getattr(watcher.watching, "mode", None)
        if watcher.metric in modes and mode in ("min", "max") and mode != modes[watcher.metric]:
            better = modes[watcher.metric]
            yield Finding(
                "wrong-mode",
                "configuration",
                "error",
                f"{watcher.key}: {watcher.metric} is better the {'lower' if better == 'min' else 'higher'} it is, "
                f"but mode={mode} would take the worst for the best; set {watcher.key}.mode={better}",
            )


def _in_file_name(watching: object) -> Iterator[tuple[str, str]]:
    """Name the metrics in a checkpoint's file name."""
    if isinstance(watching, Checkpoint):
        for metric in re.findall(r"\{([^:}]+)", watching.filename or ""):
            if metric not in _COUNTS and metric != watching.monitor:
                yield "filename", metric


def _unknown(key: str, metric: str, modes: Mapping[str, Mode], *, own: Sequence[str]) -> Finding:
    single = re.compile(r"val/acc_class_\d+")
    there = [name for name in modes if not single.fullmatch(name)] + ["val/acc_class_<index>"]
    severity: Severity = "warning" if own else "error"
    unless = f", unless {own[0]} logs it" if own else ""
    return Finding(
        "unknown-metric",
        "configuration",
        severity,
        f"{key}: {metric!r} is not logged{unless}; there are {', '.join(sorted(there))}{did_you_mean(metric, modes)}",
    )


def _validations(watchers: Sequence[Watcher], plan: Plan) -> Iterator[Finding]:
    """Look at what is to be judged by validations that never take place."""
    judged = [watcher for watcher in watchers if watcher.metric.startswith("val/")]
    if judged and (plan.val_batches == 0 or plan.validations < 1):
        rare = "trainer.check_val_every_n_epoch" if plan.epochs >= 1 else "less than an epoch"
        reason = "trainer.limit_val_batches=0" if plan.val_batches == 0 else rare
        plateau = any(isinstance(watcher.watching, ReduceLROnPlateau) for watcher in judged)
        yield Finding(
            "no-validation",
            "configuration",
            "error" if plateau and plan.val_batches == 0 else "warning",
            f"{reason}: the run ends without a validation, so {' and '.join(watcher.key for watcher in judged)} "
            "have nothing to judge by, and there is no best.ckpt; validate at least once",
            count=len(judged),
        )
    for watcher in watchers:
        every = getattr(watcher.watching, "_every_n_epochs", 1)
        if isinstance(watcher.watching, Checkpoint) and every > plan.epochs:
            yield Finding(
                "no-best-epoch",
                "configuration",
                "warning",
                f"{watcher.key}.every_n_epochs={every} is more than the run has ({plan.epochs:g}), so there is no "
                "best.ckpt; choose fewer",
            )


def _patience(watchers: Sequence[Watcher], plan: Plan) -> Iterator[Finding]:
    """Look at who waits for longer than the run takes, or than somebody else does."""
    stoppers = [each for each in watchers if isinstance(each.watching, LightningEarlyStopping)]
    for stopper in stoppers:
        patience = stopper.watching.patience
        # That a short run ends before the default patience does surprises nobody.
        if plan.validations <= patience < math.inf and patience != EarlyStopping().patience:
            yield Finding(
                "patience-longer-than-run",
                "configuration",
                "note",
                f"{stopper.key}.patience={patience} is not reached: the run has "
                f"{counted(plan.validations, 'validation')}, and never stops early",
            )
    for watcher in watchers:
        if not isinstance(watcher.watching, ReduceLROnPlateau):
            continue
        for stopper in stoppers:
            if stopper.metric == watcher.metric and stopper.watching.patience <= watcher.watching.patience:
                yield Finding(
                    "plateau-after-early-stopping",
                    "configuration",
                    "warning",
                    f"{watcher.key}.patience={watcher.watching.patience}: {stopper.key} ends the run after "
                    f"{counted(stopper.watching.patience, 'validation')} without an improvement of {stopper.metric}, "
                    "before the rate falls once; let early stopping wait for longer",
                )

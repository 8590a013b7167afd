"""The best epoch's numbers, handed to trackers when a fit ends: tables, and the final numbers of the run's row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from clf import results
from clf.tracking import log_summary, log_table

_OF_A_CLASS = ("n", "acc", "acc_low", "acc_high", "precision", "f1")


class Tracked(Callback):
    """Tells trackers at the end of a fit what ``metrics.json`` says about the best epoch.

    A resumed run that finds no better epoch says the same as before.

    Args:
        path: ``metrics.json`` of the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send tables by class and by slice, and the final numbers."""
        best = results.read(self.path).get("val")
        if best is None or not trainer.is_global_zero:
            return
        rows = [[each["name"], *_cells(each)] for each in best["classes"]]
        log_table(trainer.loggers, key="val/classes", columns=["class", *_OF_A_CLASS], rows=rows)
        if best["slices"]:
            rows = [[each["key"], each["value"], *_cells(each)[:4]] for each in best["slices"]]
            columns = ["key", "value", *_OF_A_CLASS[:4]]
            log_table(trainer.loggers, key="val/slices", columns=columns, rows=rows)
        log_summary(trainer.loggers, final_numbers(best, split="val"))


def final_numbers(summary: Mapping[str, Any], *, split: str) -> dict[str, Any]:
    """Choose what stands for a whole run in a list of runs.

    Args:
        summary: A split's entry of ``metrics.json``.
        split: ``val`` or ``test``.
    Returns:
        Numbers by name, the split in front; the ends of the intervals have names of their own.
    """
    worst = summary["worst_class"] or {"name": None, "acc": None}
    numbers = {"best_epoch": summary["epoch"], "worst_class": worst["name"], "worst_class_acc": worst["acc"]}
    for name in ("acc_top1", "f1_macro"):
        lower, upper = summary[f"{name}_interval"]
        numbers |= {name: summary[name], f"{name}_low": lower, f"{name}_high": upper}
    return {f"{split}/{name}": value for name, value in {**numbers, "ece": summary["ece"]}.items()}


def _cells(entry: Mapping[str, Any]) -> list[Any]:
    """Lay a class or a slice out; what cannot be said of it, e.g. the accuracy on no images, is None."""
    lower, upper = entry.get("acc_interval", (None, None))
    return [entry["n"], entry.get("acc"), lower, upper, entry.get("precision"), entry.get("f1")]

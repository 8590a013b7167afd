"""The run's network as a proven ONNX file: at the end of a fit, or whenever ``clf export`` is asked for it."""

import copy
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from clf import results
from clf.checkpoints import read_facts, read_step, read_weights
from clf.classifier import Classifier
from clf.data.datamodule import ImageData
from clf.data.samples import SCORED_SPLITS
from clf.errors import UserError
from clf.export import ExportRequest, ExportResult, export, require_room
from clf.exported import Embed
from clf.quantisation import Precision
from clf.runs import Run

log = logging.getLogger("clf")


class OnnxExport(Callback):
    """Exports a checkpoint: ``model.onnx``, ``labels_mapping.json`` and a model card, once they are proven right.

    The weights are those that were scored: the moving average where there is one. Images of the validation split go
    through the network and through the file; unless all outputs agree within rtol 1e-3 and atol 1e-4, and every most
    probable class does, nothing is written. At the end of ``fit`` the best checkpoint is exported.

    Args:
        embed: What lies in the graph. ``none``: it takes normalised float32 (N, 3, H, W) and gives logits.
            ``normalize``: it takes float32 in [0, 1] and normalises by itself. ``full``: it takes uint8 RGB pixels
            (N, H, W, 3) and gives calibrated probabilities.
        precision: Of the weights: ``fp32``; ``fp16``, for GPUs; or ``int8``, calibrated on training images, for CPUs.
            The smaller ones are measured against fp32 on the whole validation split.
        images: Validation images that the proof looks at, spread over the split; all if there are fewer.
        max_accuracy_drop: Top-1 that a smaller precision may cost, as a share: 0.01 is one point. What costs more is
            not written.
        output: Folder to write; an earlier export in it is replaced. Default: ``export`` in the run directory.
    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self,
        embed: Embed = "none",
        precision: Precision = "fp32",
        images: int = 256,
        max_accuracy_drop: float = 0.01,
        output: str | None = None,
    ) -> None:
        if images < 1:
            raise UserError(f"images={images} is too small: a proof looks at 1 image or more")
        if not 0 <= max_accuracy_drop <= 1:
            raise UserError(f"max_accuracy_drop={max_accuracy_drop} is outside [0, 1]: 0.01 is one point of top-1")
        self.embed = embed
        self.precision = precision
        self.images = images
        self.max_accuracy_drop = max_accuracy_drop
        self.output = output

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find before the training that its export would have no place."""
        if self.output:
            require_room(Path(self.output))

    def write(self, model: Classifier, data: ImageData, *, checkpoint: Path, run: Run | None) -> ExportResult:
        """Export a checkpoint; called by the command, in the first process.

        Args:
            model: A classifier that the checkpoint fits; it is left as it is.
            data: Its validation images prove the export; its training images calibrate 8-bit integers.
            checkpoint: The checkpoint file.
            run: The run that it lies in, whose facts go into the file.
        Raises:
            UserError: If there is nothing to prove or calibrate on.
            clf.export.NotProven: If the file does not do what the network does, or costs too much.
        """
        if "val" not in data.available:
            raise UserError("export needs validation images to prove the model on; give data.root with some")
        if self.precision == "int8" and "train" not in data.available:
            raise UserError("precision=int8 needs training images to calibrate on; give data.root with some")
        request = ExportRequest(
            network=_network(model, checkpoint),
            classes=model.classes,
            preprocessing=model.preprocessing,
            temperature=read_facts(checkpoint).temperature,
            samples=data.samples("val"),
            calibration=data.samples("train") if "train" in data.available else [],
            embed=self.embed,
            precision=self.precision,
            images=self.images,
            max_accuracy_drop=self.max_accuracy_drop,
            facts=_facts(model, data, checkpoint=checkpoint, run=run),
        )
        folder = Path(self.output) if self.output else (run.path if run else Path()) / "export"
        result = export(request, folder)
        log.info("export: %s, labels_mapping.json and README.md in %s", result.exported.path.name, folder)
        return result


def _network(model: Classifier, checkpoint: Path) -> nn.Module:
    """Copy the network, with the weights that the checkpoint's scores are of, to what an export starts from."""
    network = copy.deepcopy(model.network).cpu().float().eval().requires_grad_(False)
    weights, start = read_weights(checkpoint), "network."
    network.load_state_dict({key.removeprefix(start): weights[key] for key in weights if key.startswith(start)})
    return network


def _facts(model: Classifier, data: ImageData, *, checkpoint: Path, run: Run | None) -> dict[str, Any]:
    """Say where a model comes from: network, checkpoint, data, run, scores and versions; no paths."""
    import onnxruntime

    facts: dict[str, Any] = {
        "network": next(iter(model.facts.network.values())),
        "checkpoint": checkpoint.name,
        "proven_on": _sizes(data.describe()),
        **{package: version(package) for package in ("clf", "torch", "timm", "onnx")},
        "onnxruntime": onnxruntime.__version__,  # the package has other names, too: onnxruntime-gpu
    }
    if run is None:
        return facts
    facts["run"] = f"{run.name}/{run.path.name}"
    if trained_on := results.read(run.path / "environment.json").get("data"):
        facts["data"] = _sizes(trained_on["description"])
        facts["data_fingerprint"] = trained_on["fingerprint"]
    scores, step = results.read(run.path / "metrics.json"), read_step(checkpoint)
    kept = ("n", "acc_top1", "acc_top1_interval", "f1_macro", "f1_macro_interval")
    facts["metrics"] = {
        split: {name: scores[split].get(name) for name in kept}
        for split in SCORED_SPLITS
        if split in scores and scores[split].get("step") == step  # of other weights, it says nothing about these
    }
    return facts


def _sizes(description: str) -> str:
    """Leave the place out of a description of data: the model goes where it is nobody's business."""
    return description.rpartition(": ")[2]

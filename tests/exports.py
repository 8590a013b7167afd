"""A small network, exported for real: for tests of whatever an exported model is used by."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from clf.data.samples import Sample
from clf.export import ExportRequest, ExportResult, export
from clf.preprocess import Preprocessing

CLASSES = ["0", "00", "<b>1"]
SPEC = Preprocessing(size=(32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


class Small(nn.Sequential):
    """A network that is traced in a fraction of the time that the smallest one of timm takes."""

    def __init__(self, num_classes: int) -> None:
        first = (nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        super().__init__(
            *first, nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, num_classes)
        )

    def get_classifier(self) -> nn.Module:
        return self[-1]


def network(arch: str | None = None, *, seed: int = 0) -> nn.Module:
    """A random network whose logits differ from image to image, and clearly from class to class."""
    torch.manual_seed(seed)
    made: nn.Module = timm.create_model(arch, num_classes=len(CLASSES)) if arch else Small(len(CLASSES))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        made.get_classifier().weight.mul_(20)  # type: ignore[operator]
    return made.eval()


def draw_samples(folder: Path, count: int = 12) -> list[Sample]:
    """Labelled JPEGs of different sizes, of coloured noise."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    samples = []
    for number in range(count):
        colours = generator.integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(colours).resize((40 + number, 60)).save(folder / f"{number:02d}.jpg")
        samples.append(Sample(str(folder / f"{number:02d}.jpg"), CLASSES[number % 3]))
    return samples


def exported(folder: Path, **settings: Any) -> ExportResult:
    """Export the small network into ``folder/export``."""
    samples = draw_samples(folder / "images")
    request: dict[str, Any] = {
        "network": network(),
        "classes": CLASSES,
        "preprocessing": SPEC,
        "temperature": 1.5,
        "samples": samples,
        "calibration": samples,
        "max_accuracy_drop": 1.0,
        "facts": {"run": "small/001"},
    }
    return export(ExportRequest(**request | settings), folder / "export")

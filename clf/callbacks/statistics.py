"""What is in the data, said, drawn and written before training starts."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from clf import results
from clf.classifier import Classifier
from clf.data.datamodule import ImageData
from clf.data.samples import Split
from clf.data.statistics import Header, read_headers, summarise_split, table
from clf.errors import UserError
from clf.figures import data as figures
from clf.pictures import Pictures
from clf.tracking import log_table

log = logging.getLogger("clf")

_PICTURES = ("classes", "image_sizes")


class Statistics(Callback):
    """Counts the data before training: classes, imbalance, image sizes, formats and metadata of every split.

    Logged as a table, written as ``statistics.json`` and drawn as ``classes`` and ``image_sizes``. A resumed run does
    it again only if its data is not the same any more, or a picture is missing.

    Args:
        max_images: How many images, evenly spaced over all splits, are opened to learn their size and format; only
            their headers are read.
    Raises:
        UserError: If `max_images` is below 1.
    """

    def __init__(self, max_images: int = 2000) -> None:
        if max_images < 1:
            raise UserError(f"callbacks.statistics.max_images={max_images} is too small; give 1 or more")
        self.max_images = max_images
        self.pictures = Pictures(None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count, in the first process."""
        if not trainer.is_global_zero:
            return
        data = cast(ImageData, cast(Any, trainer).datamodule)
        folder = self.pictures.folder
        path = folder.parent / "statistics.json" if folder is not None else None
        fingerprint = data.fingerprint()
        if path is not None and results.read(path).get("fingerprint") == fingerprint and _are_there(path):
            return
        samples = {split: data.samples(split) for split in data.available}
        headers = read_headers(samples, most=self.max_images)
        splits = {split: summarise_split(samples[split], headers[split], data.classes) for split in samples}
        log.info("statistics:\n%s", table(splits))
        if path is not None:
            about = {"fingerprint": fingerprint, "data": str(data.source), "max_images": self.max_images}
            results.record(path, {**about, "splits": splits})
        self._draw(splits, headers, classes=data.classes, input_size=cast(Classifier, pl_module).preprocessing.size)
        rows = zip(data.classes, *([each["n"] for each in split["classes"]] for split in splits.values()), strict=True)
        log_table(trainer.loggers, key="data/classes", columns=["class", *splits], rows=rows)

    def _draw(
        self,
        splits: Mapping[Split, Any],
        headers: Mapping[Split, Sequence[Header | None]],
        *,
        classes: Sequence[str],
        input_size: tuple[int, int],
    ) -> None:
        self.pictures.draw(
            "classes",
            figures.class_counts,
            key="data/class_counts",
            counts={split: [each["n"] for each in found["classes"]] for split, found in splits.items()},
            classes=classes,
            imbalance={split: found["imbalance"] for split, found in splits.items()},
            title="Classes",
        )
        read, bad = (sum(found["images"][key] for found in splits.values()) for key in ("n", "unreadable"))
        total = sum(found["n"] for found in splits.values())
        failed = f"; {bad:,} could not be opened" if bad else ""
        self.pictures.draw(
            "image_sizes",
            figures.image_sizes,
            key="data/image_sizes",
            sizes={split: [(h.width, h.height) for h in found if h] for split, found in headers.items()},
            input_size=(input_size[1], input_size[0]),
            title="Image sizes",
            note=f"{read:,} of {total:,} images{', evenly spaced' if read < total else ''}{failed}",
        )


def _are_there(path: Path) -> bool:
    """Tell whether the pictures beside ``statistics.json`` were drawn: who was to may have been killed first."""
    return all((path.parent / "plots" / f"{name}.png").is_file() for name in _PICTURES)

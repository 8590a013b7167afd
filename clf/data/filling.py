"""What a real dataset lacks: its rare jersey numbers, and the size of its images."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from PIL import Image

from clf.data.layout import near
from clf.data.rendering import is_number
from clf.data.roots import open_data
from clf.data.samples import Sample, count_labels
from clf.data.tables import RowKeys
from clf.errors import UserError
from clf.files import open_whole
from clf.preprocess import FORMATS, MAX_BYTES

TIGHTNESS: Final = 0.6  # In crops that detectors make of numbers, the digits take 0.5 to 0.7 of the height.
_MOST_MEASURED: Final = 300
_MIDDLE: Final = (0.05, 0.95)


def train_samples(root: str, *, label_key: str | None = None) -> Sequence[Sample]:
    """List the training split of a real dataset, as training itself would, before a validation split is carved from it.

    Args:
        root: What ``data.root`` is in a configuration, in any layout.
        label_key: What ``data.label_key`` is there.
    Raises:
        UserError: If there is no such dataset, or it has no training split.
    """
    if samples := open_data(root, keys=RowKeys(label=label_key))[0].samples("train"):
        return samples
    raise UserError(f"--fill={root!r} has no train split{near(root)}; only training images are counted and added")


def rarest_first(samples: Sequence[Sample]) -> dict[str, int]:
    """Count the samples of each label, rarest first."""
    return dict(sorted(count_labels(samples).items(), key=lambda item: (item[1], item[0])))


def find_gaps(counts: Mapping[str, int], *, below: int, to: int) -> dict[str, int]:
    """Say how many images each rare jersey number lacks.

    Args:
        counts: Images of each class.
        below: A class with fewer images than this is rare.
        to: How many it shall have then.
    Returns:
        Images to add, for the rare classes whose label is a jersey number.
    Raises:
        UserError: If the limits are none.
    """
    if not 1 <= below <= to:
        raise UserError(f"--below={below}, --to={to} fill nothing; choose 1 <= below <= to, e.g. --below 100 --to 200")
    return {label: to - count for label, count in counts.items() if is_number(label) and count < below}


def typical_heights(samples: Sequence[Sample]) -> tuple[int, int, int]:
    """Measure how tall images are, from the headers of at most some hundred of them, always the same ones.

    Args:
        samples: At least one.
    Returns:
        Heights in pixels that nine of ten images lie between, within what can be rendered; and how many were measured.
    Raises:
        UserError: If a file is no image.
    """
    paths = sorted({sample.path for sample in samples})
    chosen = (
        [paths[i * len(paths) // _MOST_MEASURED] for i in range(_MOST_MEASURED)]
        if len(paths) > _MOST_MEASURED
        else paths
    )
    heights = [_height(path) for path in chosen]
    low, high = np.clip(np.quantile(heights, _MIDDLE), 16, 512).round().astype(int).tolist()
    return low, high, len(chosen)


def _height(path: str) -> int:
    try:
        with open_whole(path, most=MAX_BYTES) as file, Image.open(file, formats=FORMATS) as image:
            return image.height
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: its size cannot be read ({error}); mend the file, or give --size_min and --size_max"
        ) from error

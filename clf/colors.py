"""Colour changes of training images, all of them in one pass over the pixels."""

import math
from collections.abc import Iterable
from typing import Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clf.errors import UserError

Name = Literal["brightness", "contrast", "saturation"]
Colors = NDArray[np.float64]

_GREY: Final = np.array([0.2989, 0.587, 0.114])  # Luma of ITU-R BT.601, with torchvision's digits.


class ColorJitter(nn.Module):
    """Changes brightness, contrast and saturation: torchvision's ``ColorJitter``, some forty times as fast.

    Each change is linear in the colours, so that all three, in a random order, are one matrix. What leaves [0, 255] on
    the way is cut off at the end only, where torchvision cuts it off after each change. It knows no hue.

    Args:
        brightness: Colours are multiplied by a number from 1 - brightness (at least 0) to 1 + brightness.
        contrast: The same, for the distance from the image's mean grey.
        saturation: The same, for the distance from each pixel's own grey.
    Raises:
        UserError: If one of them is negative.
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        super().__init__()
        self.reach: dict[Name, float] = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, reach in self.reach.items():
            if not 0 <= reach < math.inf:
                raise UserError(f"ColorJitter: {name}={reach} must be 0 or more")

    def forward(self, image: Tensor) -> Tensor:
        """Change the colours of an image.

        Args:
            image: uint8 (3, H, W); fastest if stored as (H, W, 3).
        Returns:
            uint8 (3, H, W), stored as (H, W, 3).
        Raises:
            UserError: If it is no such image.
        """
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise UserError("ColorJitter takes uint8 images of three channels")
        draws = zip(self.reach.items(), torch.rand(3).tolist(), strict=True)
        changes = [(name, max(0.0, 1 + (2 * draw - 1) * reach)) for (name, reach), draw in draws]
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        mean = np.array(cv2.mean(pixels)[:3])
        matrix = color_matrix((changes[each] for each in torch.randperm(3).tolist()), mean=mean)
        return torch.from_numpy(cv2.transform(pixels, matrix)).permute(2, 0, 1)


def color_matrix(changes: Iterable[tuple[Name, float]], *, mean: Colors) -> Colors:
    """Make one affine map of several changes, one after the other.

    Args:
        changes: What is changed, and the factor: 1 leaves it, 0 takes all of it away.
        mean: The image's mean colour (3,).
    Returns:
        (3, 4): colours (R, G, B, 1) are multiplied by it.
    """
    matrix, mean = np.eye(3, 4), np.append(mean, 1.0)
    for name, factor in changes:
        if name == "contrast":
            grey = _GREY @ (matrix @ mean)
            matrix = factor * matrix
            matrix[:, 3] += (1 - factor) * grey
        elif name == "saturation":
            matrix = factor * matrix + (1 - factor) * (_GREY @ matrix)
        else:
            matrix = factor * matrix
    return matrix

"""What cameras, codecs and croppers do to images: training transforms for the user's lists and the shipped recipes."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clf.errors import UserError


class Degradation(nn.Module):
    """Something that happens to an image with a probability; the base of all that stand here.

    Takes a PIL image, or a tensor (3, H, W) of uint8 or floats in [0, 1]; returns the same kind in the same size.
    Everything is drawn from torch's CPU generator, which training seeds for each sample.

    Args:
        p: Probability that it happens, in [0, 1].
    Raises:
        UserError: If p is outside [0, 1].
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"{self._name}: p={p} must be in [0, 1]")
        self.p = p

    @property
    def _name(self) -> str:
        return type(self).__name__

    def forward(self, image: Any) -> Any:
        """Degrade the image, or leave it as it is."""
        if torch.rand(()) >= self.p:
            return image
        if isinstance(image, Image.Image):
            degraded: Image.Image = F.to_pil_image(self.degrade(F.pil_to_tensor(image)))
            return degraded
        return F.to_dtype(self.degrade(F.to_dtype(image, torch.uint8, scale=True)), image.dtype, scale=True)

    def degrade(self, pixels: Tensor) -> Tensor:
        """Make it happen.

        Args:
            pixels: uint8 (3, H, W).
        Returns:
            uint8 (3, H, W).
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the settings as they were given."""
        return ", ".join(f"{key}={value}" for key, value in vars(self).items() if key == "p" or type(value) is tuple)

    def _range(self, name: str, value: Sequence[float], *, low: float, high: float) -> tuple[float, float]:
        """Return (smallest, largest) as given, refusing what is no range or lies outside [low, high]."""
        if len(value) != 2 or not low <= value[0] <= value[1] <= high:
            raise UserError(
                f"{self._name}: {name}={list(value)} must be [smallest, largest] between {low:g} and {high:g}"
            )
        return value[0], value[1]


class JpegCompression(Degradation):
    """Blocks and ringing of a JPEG or video codec.

    Args:
        quality: Smallest and largest quality, integers in [1, 100]; less is worse.
        p: Probability that it happens.
    """

    def __init__(self, quality: tuple[int, int] = (20, 75), p: float = 0.5) -> None:
        super().__init__(p)
        low, high = self._range("quality", quality, low=1, high=100)
        self.quality = int(low), int(high)

    def degrade(self, pixels: Tensor) -> Tensor:
        """Encode and decode."""
        low, high = self.quality
        buffer = BytesIO()  # Pillow: torchvision gives its codecs up.
        F.to_pil_image(pixels).save(buffer, "JPEG", quality=int(torch.randint(low, high + 1, ())))
        degraded: Tensor = F.pil_to_tensor(Image.open(buffer))
        return degraded


class _Shrink(Degradation):
    """Loss of resolution: scaled down and up again by one filter."""

    _interpolation: InterpolationMode

    def __init__(self, scale: tuple[float, float], p: float) -> None:
        super().__init__(p)
        self.scale = self._range("scale", scale, low=0.01, high=1)

    def degrade(self, pixels: Tensor) -> Tensor:
        """Scale down, then up to the size it had."""
        height, width = pixels.shape[-2:]
        small = _scaled(pixels, _uniform(*self.scale))
        how: dict[str, Any] = {"interpolation": self._interpolation, "antialias": True}
        degraded: Tensor = F.resize(F.resize(pixels, small, **how), [height, width], **how)
        return degraded


class Pixelate(_Shrink):
    """Loss of resolution with hard squares, as in a screen grab that was enlarged.

    Args:
        scale: Smallest and largest share of the resolution that is left, in [0.01, 1].
        p: Probability that it happens.
    """

    _interpolation = InterpolationMode.NEAREST

    def __init__(self, scale: tuple[float, float] = (0.25, 0.75), p: float = 0.3) -> None:
        super().__init__(scale, p)


class Downscale(_Shrink):
    """Loss of resolution with soft edges, as of something far away.

    Args:
        scale: Smallest and largest share of the resolution that is left, in [0.01, 1].
        p: Probability that it happens.
    """

    _interpolation = InterpolationMode.BILINEAR

    def __init__(self, scale: tuple[float, float] = (0.3, 0.75), p: float = 0.3) -> None:
        super().__init__(scale, p)


class GaussianNoise(Degradation):
    """Noise of a sensor in little light, independent in each pixel and channel.

    Args:
        sigma: Smallest and largest standard deviation, in grey levels of 255, in [0, 255].
        p: Probability that it happens.
    """

    def __init__(self, sigma: tuple[float, float] = (5, 25), p: float = 0.3) -> None:
        super().__init__(p)
        self.sigma = self._range("sigma", sigma, low=0, high=255)

    def degrade(self, pixels: Tensor) -> Tensor:
        """Add the noise and clip."""
        noise = torch.randn(pixels.shape) * _uniform(*self.sigma)
        return pixels.add(noise).round_().clamp_(0, 255).to(torch.uint8)


class ZoomOut(Degradation):
    """A looser crop: the image becomes smaller and lies somewhere on a plain canvas.

    Args:
        factor: Smallest and largest side of the canvas, in sides of the image, in [1, 10].
        fill: Colour of the canvas, RGB in [0, 255]; the mean of ImageNet unless given.
        p: Probability that it happens.
    """

    def __init__(
        self,
        factor: tuple[float, float] = (1.0, 1.5),
        fill: tuple[int, int, int] = (124, 116, 104),
        p: float = 0.3,
    ) -> None:
        super().__init__(p)
        self.factor = self._range("factor", factor, low=1, high=10)
        if not all(0 <= value <= 255 for value in fill):
            raise UserError(f"{self._name}: fill={list(fill)} must be three numbers from 0 to 255")
        self.fill = fill

    def degrade(self, pixels: Tensor) -> Tensor:
        """Shrink the image and paste it."""
        height, width = pixels.shape[-2:]
        small = _scaled(pixels, 1 / _uniform(*self.factor))
        top, left = _corner(room=(height - small[0], width - small[1]))
        canvas = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
        canvas[:, top : top + small[0], left : left + small[1]] = F.resize(pixels, small, antialias=True)
        return canvas


class ZoomIn(Degradation):
    """A tighter crop: a part of the image, of the same shape, fills the whole.

    Args:
        scale: Smallest and largest share of each side that is kept, in [0.05, 1].
        p: Probability that it happens.
    """

    def __init__(self, scale: tuple[float, float] = (0.7, 1.0), p: float = 0.3) -> None:
        super().__init__(p)
        self.scale = self._range("scale", scale, low=0.05, high=1)

    def degrade(self, pixels: Tensor) -> Tensor:
        """Crop and enlarge."""
        height, width = pixels.shape[-2:]
        scale = _uniform(*self.scale)
        part = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = _corner(room=(height - part[0], width - part[1]))
        enlarged: Tensor = F.resized_crop(pixels, top, left, *part, size=[height, width], antialias=True)
        return enlarged


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _scaled(pixels: Tensor, scale: float) -> list[int]:
    """Size of an image that is scaled; never one single pixel of a larger image, which torch 2.14 fails to make."""
    height, width = pixels.shape[-2:]
    return [min(height, max(2, round(height * scale))), max(1, round(width * scale))]


def _corner(*, room: tuple[int, int]) -> tuple[int, int]:
    """Draw where something lies that could be moved down and right by so many pixels."""
    down, right = (int(torch.randint(0, most + 1, ())) for most in room)
    return down, right

"""Mixing of the images in a training batch, labels included."""

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp

from clf.errors import UserError


class Mixing(nn.Module):
    """MixUp or CutMix, one of the two for each batch, with labels that say how much of each class is in an image.

    MixUp blends every image with another one, CutMix pastes a box of it. How much is drawn from Beta(alpha, alpha): a
    small alpha hardly mixes, 1 mixes evenly.

    Args:
        mixup_alpha: MixUp's alpha; 0 leaves MixUp out.
        cutmix_alpha: CutMix's alpha; 0 leaves CutMix out.
        probability: Share of the batches that are mixed at all, in (0, 1].
        switch_probability: Share of CutMix among them where both are on, in (0, 1).
    Raises:
        UserError: If a value is out of range, or nothing would ever be mixed.
    Source: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """

    def __init__(
        self,
        mixup_alpha: float = 0.2,
        cutmix_alpha: float = 1.0,
        probability: float = 1.0,
        switch_probability: float = 0.5,
    ) -> None:
        super().__init__()
        for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if not alpha >= 0:
                raise UserError(f"model.mixing.{name}={alpha} must not be negative")
        if not mixup_alpha and not cutmix_alpha:
            raise UserError("model.mixing: mixup_alpha=0 and cutmix_alpha=0 mix nothing; set model.mixing=null instead")
        if not 0 < probability <= 1:
            raise UserError(
                f"model.mixing.probability={probability} must be in (0, 1]; set model.mixing=null to mix nothing"
            )
        if mixup_alpha and cutmix_alpha and not 0 < switch_probability < 1:
            raise UserError(
                f"model.mixing.switch_probability={switch_probability} must be in (0, 1); "
                "an alpha of 0 leaves one of the two out"
            )
        self.mixup = MixUp(alpha=mixup_alpha) if mixup_alpha else None
        self.cutmix = CutMix(alpha=cutmix_alpha) if cutmix_alpha else None
        self.probability = probability
        self.switch_probability = switch_probability

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch; all that is drawn comes from torch's CPU generator.

        Args:
            images: Normalised images, float (N, 3, H, W), N ≥ 1.
            targets: Share of each class in each image, float (N, C), rows summing to 1.
        Returns:
            Both, mixed.
        """
        mixed, cut = torch.rand(2).tolist()
        if mixed >= self.probability:
            return images, targets
        mix = self.mixup if self.cutmix is None or (self.mixup and cut >= self.switch_probability) else self.cutmix
        assert mix is not None, "one alpha is positive"
        both: tuple[Tensor, Tensor] = mix(images, targets)
        return both

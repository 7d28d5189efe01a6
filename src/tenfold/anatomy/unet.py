"""A 3-D U-Net (Ronneberger et al. 2015; Çiçek et al. 2016) of the shape that SynthSeg has, and its loss."""

# B batch · K classes · X right · Y anterior · Z superior

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UNet", "dice_and_entropy", "dice_scores"]

_TINY = 1e-5
_BACKGROUND_FIRST = 4.0


class UNet(nn.Module):
    """Two convolutions of 3³ with ELU and an instance norm per level; features double from level to level.

    Args:
        classes: K.
        features: Channels of the first level.
        levels: Of them the last is the bottom; sides are multiples of 2^(levels - 1).
    """

    def __init__(self, classes: int, features: int = 16, levels: int = 4) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(levels)]
        self.down = nn.ModuleList([_level(ins, outs) for ins, outs in pairwise([1, *widths])])
        self.up = nn.ModuleList([_level(ins + outs, outs) for outs, ins in reversed(list(pairwise(widths)))])
        self.last = nn.Conv3d(features, classes, 1)
        assert self.last.bias is not None
        with torch.no_grad():  # at first all is background, the commonest: a bias learns slowly by itself
            self.last.bias.copy_(torch.tensor([_BACKGROUND_FIRST, *[0.0] * (classes - 1)]))

    def forward(self, image_B1XYZ: Tensor) -> Tensor:
        """Logits (B, K, X, Y, Z)."""
        layer, kept = image_B1XYZ, []
        for number, level in enumerate(self.down):
            layer = level(functional.max_pool3d(layer, 2) if number else layer)
            kept.append(layer)
        for level, beside in zip(self.up, reversed(kept[:-1]), strict=True):
            layer = level(torch.cat([functional.interpolate(layer, scale_factor=2, mode="nearest"), beside], 1))
        logits: Tensor = self.last(layer)
        return logits


def _level(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(ins, outs, 3, padding=1), nn.ELU(), nn.Conv3d(outs, outs, 3, padding=1), nn.ELU(),
        nn.InstanceNorm3d(outs, affine=True),
    )  # fmt: skip


def dice_and_entropy(logits_BKXYZ: Tensor, shares_BKXYZ: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """1 less the mean soft Dice score (Milletari et al. 2016), plus the cross-entropy, which gets it started.

    Truth is shares of voxels. With squares in the denominator the score is highest where shares are equal, so that
    volumes as sums of probabilities are not biased.
    """
    log_BKXYZ = functional.log_softmax(logits_BKXYZ.float(), 1)
    score = _soft_dice(log_BKXYZ.exp(), shares_BKXYZ).mean()
    entropy = -(shares_BKXYZ * log_BKXYZ).sum(1).mean()
    return 1 - score + entropy, {"dice": score, "entropy": entropy}


def dice_scores(labels_XYZ: Tensor, truth_XYZ: Tensor, classes: int) -> Tensor:
    """Dice scores (K,) of whole labels; NaN where neither has a class."""
    both = torch.bincount(labels_XYZ[labels_XYZ == truth_XYZ], minlength=classes).double()
    counts = torch.bincount(labels_XYZ.flatten(), minlength=classes) + torch.bincount(
        truth_XYZ.flatten(), minlength=classes
    )
    return 2 * both / counts


def _soft_dice(shares_BKXYZ: Tensor, truth_BKXYZ: Tensor) -> Tensor:
    axes = (0, 2, 3, 4)
    both_K = (shares_BKXYZ * truth_BKXYZ).sum(axes)
    each_K = (shares_BKXYZ.square() + truth_BKXYZ.square()).sum(axes)
    scores: Tensor = (2 * both_K + _TINY) / (each_K + _TINY)
    return scores

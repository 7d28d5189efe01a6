"""Multi-scale structural similarity of volumes (MS-SSIM; Wang, Simoncelli and Bovik 2003) in 3D.

    cs = (2 s_xy + C2) / (s_x^2 + s_y^2 + C2)      contrast and structure, mean over the volume, at every scale
    l  = (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1)   luminance, at the last scale only, times cs and then the mean
    MS-SSIM = product over scales of cs^weight, at the last one of (l cs)^weight;  C1 = (0.01 L)^2, C2 = (0.03 L)^2

m and s are means and covariances under a Gaussian window, which is the product of three windows of one dimension: three
multiplications by narrow matrices, one per axis, instead of 11^3 products per voxel. Between scales volumes are halved.

The code of the paper does four things otherwise, which `legacy=True` repeats: the last scale's term is multiplied in at
every other scale, and so enters four times; L is 1 though values span 2; windows of 13 voxels are reflected at the
borders; all five scales are taken on volumes too small for them. Its pairs of real images are also mapped by
(value + 1) / 2 at every scale, its pairs with a generated one are not, so that the two cannot be compared.
"""

# B pairs · F = 4 fields (x, y, x^2 + y^2, x y) · X right · Y anterior · Z superior

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tenfold.core.errors import InputError

__all__ = ["WEIGHTS", "Scales", "choose_scales", "legacy_ms_ssim", "ms_ssim"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SIGMA = 1.5
_LEGACY_RADIUS = 6  # four sigmas
_BLOCK = 48  # outputs per multiplication: a narrow matrix is cut into dense ones


@dataclass(frozen=True)
class Scales:
    """How a similarity is computed.

    Attributes:
        window: Voxels of the Gaussian window along each axis; its sigma is 1.5.
        weights: Of the scales, finest first; they sum to 1.
    """

    window: int
    weights: tuple[float, ...]

    def __str__(self) -> str:
        count = len(self.weights)
        less = "" if count == len(WEIGHTS) else f" of {len(WEIGHTS)}, the grid being too small for more"
        return f"window {self.window}, {count} scale{'s' if count > 1 else ''}{less}"


def choose_scales(shape: Sequence[int], window: int = 11) -> Scales:
    """As many of the five scales as leave room for the window on the coarsest; weights are scaled to sum to 1.

    Raises:
        InputError: The window is even, below 3, or larger than the volume.
    """
    if window < 3 or window % 2 == 0:
        raise InputError(f"window {window}: is not an odd number of voxels from 3 on")
    count = sum(min(shape) // 2**level >= window for level in range(len(WEIGHTS)))
    if count == 0:
        raise InputError(
            f"window {window}: is larger than a volume of {' x '.join(map(str, shape))}; take a smaller one"
        )
    total = sum(WEIGHTS[:count])
    return Scales(window, tuple(weight / total for weight in WEIGHTS[:count]))


def ms_ssim(x_BXYZ: Tensor, y_BXYZ: Tensor, scales: Scales, value_range: float = 2.0) -> Tensor:
    """Similarity of each pair, (B,), in [0, 1]; 1 for equal volumes. Negative terms count as 0.

    Args:
        x_BXYZ: float32 or float64 (B, X, Y, Z).
        y_BXYZ: Of the same shape and type.
        scales: From `choose_scales`.
        value_range: Largest difference of two values; 2 for images in [-1, 1].
    """
    taps = _gaussian(scales.window // 2)
    terms = []
    for level, weight in enumerate(scales.weights):
        if level:
            x_BXYZ, y_BXYZ = _halve(x_BXYZ), _halve(y_BXYZ)
        similarity_B, contrast_B = _ssim(x_BXYZ, y_BXYZ, value_range, lambda fields, axis: _slide(fields, axis, taps))
        term_B = similarity_B if level == len(scales.weights) - 1 else contrast_B
        terms.append(torch.relu(term_B) ** weight)
    return torch.stack(terms).prod(0)


def legacy_ms_ssim(x_BXYZ: Tensor, y_BXYZ: Tensor, normalised: bool = False) -> Tensor:
    """What the paper's code computes, (B,) float64; NaN where a term is negative.

    Args:
        x_BXYZ: (B, X, Y, Z), at least 16 voxels along each axis.
        y_BXYZ: Of the same shape.
        normalised: Map every term by (value + 1) / 2, as that code does for pairs of real images.
    """
    if min(x_BXYZ.shape[1:]) < 2 ** (len(WEIGHTS) - 1):
        raise InputError(f"legacy MS-SSIM: halves volumes 4 times; {tuple(x_BXYZ.shape[1:])} is too small")
    x_BXYZ, y_BXYZ = x_BXYZ.double(), y_BXYZ.double()
    terms = []
    for level, weight in enumerate(WEIGHTS):
        if level:
            x_BXYZ, y_BXYZ = _halve(x_BXYZ), _halve(y_BXYZ)
        terms.append([(term_B + 1) / 2 if normalised else term_B for term_B in _ssim(x_BXYZ, y_BXYZ, 1.0, _reflect)])
        terms[-1] = [term_B**weight for term_B in terms[-1]]
    contrast_SB = torch.stack([contrast_B for _, contrast_B in terms[:-1]])
    return (contrast_SB * terms[-1][0]).prod(0)


def _ssim(
    x_BXYZ: Tensor, y_BXYZ: Tensor, value_range: float, smooth: Callable[[Tensor, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean similarity and mean contrast of each pair, (B,) each."""
    fields_FBXYZ = torch.stack([x_BXYZ, y_BXYZ, x_BXYZ * x_BXYZ + y_BXYZ * y_BXYZ, x_BXYZ * y_BXYZ])
    for axis in (2, 3, 4):
        fields_FBXYZ = smooth(fields_FBXYZ, axis)
    mean_x, mean_y, square, product = fields_FBXYZ
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    both, means = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    contrast = (2 * (product - both) + c2) / (square - means + c2)
    similarity = contrast * (2 * both + c1) / (means + c1)
    return similarity.flatten(1).mean(1), contrast.flatten(1).mean(1)


def _halve(x_BXYZ: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool3d(x_BXYZ[:, None], 2)[:, 0]


# --- windows ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _gaussian(radius: int) -> tuple[float, ...]:
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / _SIGMA) ** 2)
    return tuple((taps / taps.sum()).tolist())


@lru_cache(maxsize=64)
def _band(outputs: int, taps: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """(outputs, outputs + window - 1), the taps along the diagonal."""
    matrix = np.zeros((outputs, outputs + len(taps) - 1))
    for row in range(outputs):
        matrix[row, row : row + len(taps)] = taps
    return torch.from_numpy(matrix).to(dtype)


def _slide(fields: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    """Correlate with the taps along an axis, where they fit."""
    outputs = fields.shape[axis] - len(taps) + 1
    pieces = []
    for first in range(0, outputs, _BLOCK):
        count = min(_BLOCK, outputs - first)
        part = fields.narrow(axis, first, count + len(taps) - 1)
        pieces.append(_multiply(_band(count, taps, fields.dtype), part, axis))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)


def _reflect(fields: Tensor, axis: int) -> Tensor:
    """The same along an axis that is mirrored at its borders (c b a | a b c), as SciPy's filter does."""
    size, taps = fields.shape[axis], _gaussian(_LEGACY_RADIUS)
    matrix = np.zeros((size, size))
    for row in range(size):
        for offset, tap in zip(range(-_LEGACY_RADIUS, _LEGACY_RADIUS + 1), taps, strict=True):
            place = (row + offset) % (2 * size)
            matrix[row, min(place, 2 * size - 1 - place)] += tap
    return _multiply(torch.from_numpy(matrix).to(fields.dtype), fields, axis)


def _multiply(matrix: Tensor, fields: Tensor, axis: int) -> Tensor:
    if axis == fields.ndim - 1:
        return fields @ matrix.T
    if axis == fields.ndim - 2:
        return matrix @ fields
    shape = fields.shape
    flat = fields.reshape(*shape[: axis + 1], -1)
    return (matrix @ flat).reshape(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])

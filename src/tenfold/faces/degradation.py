"""From big faces to the small ones that a camera would have given: blur, shrink, noise, JPEG.

    z = JPEG(P (x) P' + noise)        P = D G, one matrix (r, S) per face: blur G (S, S), then the shrinking D (r, S)

B batch, N faces · S side of a crop (112) · r side of a small face · C = 3 channels

The paper makes small faces of big ones by down-sampling. Blur, noise, JPEG, their ranges and their shares are our
choices, each a field of `Degradation`. Evaluation shrinks by plain area averages (`shrink`), with nothing random.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tenfold.core.errors import InputError
from tenfold.faces.model import to_input

__all__ = ["HARSH", "PLAIN", "Degradation", "degrade", "enlarge", "shrink"]

_CHUNK = 256  # faces that are shrunk at once
_QUALITIES = (1, 95)  # Pillow advises against more


@dataclass(frozen=True)
class Degradation:
    """How faces are made small. Everything but the shrinking itself is our choice.

    Attributes:
        share: Probability of each of blur, noise and JPEG, independently, 0 to 1.
        blur: The blur's sigma is uniform in 0 to `blur` * S / r / 2 pixels of the crop.
        noise: The sigma of the Gaussian noise on the small face is uniform in 0 to `noise`, in steps of a byte.
        jpeg: Lowest and highest JPEG quality, 1 to 95.
        bicubic: Probability that a face is shrunk with an antialiased bicubic kernel, not by area, 0 to 1.
        sizes: Sides in pixels of a student for several resolutions, one drawn per batch; empty: the student's size.

    Raises InputError for a value out of range.
    """

    share: float = 0.5
    blur: float = 1.2
    noise: float = 6.0
    jpeg: tuple[int, int] = (40, 95)
    bicubic: float = 0.5
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, most in (("share", 1.0), ("bicubic", 1.0), ("blur", 10.0), ("noise", 255.0)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise InputError(f"{name} of the degradation is {value!r}; it must be a number from 0 to {most:g}")
        low, high = self.jpeg
        if not _QUALITIES[0] <= low <= high <= _QUALITIES[1]:
            raise InputError(f"jpeg of the degradation is {low} to {high}; it must rise within 1 to 95")
        if any(size < 1 for size in self.sizes):
            raise InputError(f"sizes of the degradation are {self.sizes}; they must be 1 pixel or more")

    def draw_size(self, size: int, generator: torch.Generator | None = None) -> int:
        """One of `sizes`, all alike probable; `size` where there are none."""
        if not self.sizes:
            return size
        return self.sizes[int(torch.randint(len(self.sizes), (1,), generator=generator))]


PLAIN = Degradation(share=0.0, bicubic=0.0)
"""Area averages and nothing else: what evaluation does."""

HARSH = Degradation(share=1.0, blur=2.0, noise=16.0, jpeg=(15, 50))
"""A preset for evaluation on bad cameras; our choice."""


def degrade(
    x_B3SS: Tensor, size: int, how: Degradation | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Small faces z, float32 (B, 3, r, r), -1 to 1, of crops in the range of `to_input`; values lie on 256 levels.

    Args:
        x_B3SS: Crops; are not changed.
        size: r in pixels.
        how: What is done to them; by default `Degradation()`.
        generator: Where random numbers come from; by default torch's own.

    Raises InputError for a size below 1.
    """
    how = how or Degradation()
    count, side = x_B3SS.shape[0], x_B3SS.shape[3]
    chances = torch.rand((8, count), generator=generator)
    sigma_B = how.blur * side / size / 2 * chances[0] * (chances[1] < how.share)
    shrink_BrS = _draw_shrinking(side, size, chances[2] < how.bicubic) @ _blur_matrices(side, sigma_B)
    z_B3rr = _apply(shrink_BrS.to(x_B3SS.device), x_B3SS)
    noise_B = how.noise / 127.5 * chances[3] * (chances[4] < how.share)
    if noise_B.any():
        noise = torch.randn(z_B3rr.shape, generator=generator) * noise_B[:, None, None, None]
        z_B3rr = z_B3rr + noise.to(z_B3rr.device)
    bytes_BrrC = _to_bytes(z_B3rr)
    low, high = how.jpeg
    qualities = (low + chances[5] * (high + 1 - low)).floor().clamp(low, high).int().tolist()
    for row in torch.nonzero(chances[6] < how.share).flatten().tolist():
        bytes_BrrC[row] = _through_jpeg(bytes_BrrC[row], qualities[row])
    return to_input(bytes_BrrC).to(x_B3SS.device)


def shrink(crops_NSSC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Crops (N, S, S, 3) as faces of `size` pixels (N, r, r, 3), each pixel the mean over its area. Bytes of RGB.

    Nothing random: the small faces of every evaluation. Raises InputError for a size below 1 and for other arrays.
    """
    return _resize(crops_NSSC, _area(crops_NSSC.shape[1], size))


def enlarge(crops_NrrC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Small faces (N, r, r, 3) as crops (N, S, S, 3), bicubic: how a teacher without a student sees small faces."""
    return _resize(crops_NrrC, _bicubic(crops_NrrC.shape[1], side))


# --- matrices --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _area(side: int, size: int) -> Tensor:
    """(r, S): row i averages what lies in the i-th of r equal parts of the side."""
    _check_size(size)
    step = side / size
    starts = torch.arange(size, dtype=torch.float64)[:, None] * step
    pixels = torch.arange(side, dtype=torch.float64)[None]
    overlap = (torch.minimum(starts + step, pixels + 1) - torch.maximum(starts, pixels)).clamp(min=0)
    return (overlap / overlap.sum(1, keepdim=True)).float()


@lru_cache(maxsize=64)
def _bicubic(side: int, size: int) -> Tensor:
    """(r, S): Keys' cubic with a = -0.5, as wide as a small pixel where a picture shrinks, so that nothing aliases."""
    _check_size(size)
    step = side / size
    centres = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * step
    pixels = torch.arange(side, dtype=torch.float64)[None] + 0.5
    t = (centres - pixels).abs() / max(1.0, step)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    return (weights / weights.sum(1, keepdim=True)).float()


def _draw_shrinking(side: int, size: int, is_bicubic_B: Tensor) -> Tensor:
    return torch.stack([_area(side, size), _bicubic(side, size)])[is_bicubic_B.long()]


def _blur_matrices(side: int, sigma_B: Tensor) -> Tensor:
    """(B, S, S): a Gaussian per sigma, cut at the border and summing to 1 there too; a sigma of 0 changes nothing."""
    distance = torch.arange(side)
    kernel_BS = torch.exp(-0.5 * (distance / sigma_B.clamp(min=1e-3)[:, None]) ** 2)
    blur_BSS = kernel_BS[:, (distance[:, None] - distance).abs()]
    return blur_BSS / blur_BSS.sum(2, keepdim=True)


def _apply(matrix_BrS: Tensor, x_B3SS: Tensor) -> Tensor:
    """The matrix along both sides of each picture."""
    count, channels, side, _ = x_B3SS.shape
    half = x_B3SS.reshape(count, channels * side, side) @ matrix_BrS.transpose(1, 2)
    return matrix_BrS[:, None] @ half.view(count, channels, side, -1)


def _resize(crops: NDArray[np.uint8], matrix: Tensor) -> NDArray[np.uint8]:
    size = len(matrix)
    small = np.empty((len(crops), size, size, 3), np.uint8)
    for start in range(0, len(crops), _CHUNK):
        x = to_input(crops[start : start + _CHUNK])
        small[start : start + _CHUNK] = _to_bytes(_apply(matrix.expand(len(x), -1, -1), x)).numpy()
    return small


# --- bytes -----------------------------------------------------------------------------------------------------------


def _to_bytes(x_B3rr: Tensor) -> Tensor:
    """RGB bytes (B, r, r, 3) of pictures in -1 to 1, rounded, on the CPU."""
    levels = ((x_B3rr.cpu() + 1) * 127.5 + 0.5).floor().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _through_jpeg(picture_rrC: Tensor, quality: int) -> Tensor:
    packed = io.BytesIO()
    Image.fromarray(picture_rrC.numpy()).save(packed, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(packed, formats=["JPEG"])))


def _check_size(size: int) -> None:
    if size < 1:
        raise InputError(f"the size of small faces is {size}; it must be 1 pixel or more")

"""Feature vectors of prepared images, for distances between sets; every extractor has a name that results carry.

    voxels        the image itself, averaged to at most 48 voxels a side
    handcrafted   histograms of intensities and gradients at three scales: no weights, no network
    random3d      an untrained 3D convolutional network with seeded weights
    a .pth file   MedicalNet's ResNet-50 or -101, the weights that the paper's code uses (not included)

Vectors can be kept in a folder, a file per image, named by the image's bytes and the extractor: a killed run goes on
there, and images that are in several sets are embedded once.
"""

# X right · Y anterior · Z superior · N images · D features

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.anatomy.images import Image
from tenfold.anatomy.sets import ImageSet
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.core.progress import Progress, no_progress

__all__ = ["Extractor", "Handcrafted", "RandomNetwork", "Voxels", "extract", "open_extractor", "prepared_voxels"]

_WIDEST = 48
_OVERSHOOT = 0.5  # a diffusion model without clipping overshoots [-1, 1] a little; unprepared images a lot


class Extractor(Protocol):
    """What turns an image into a vector.

    Attributes:
        name: For results; says all that the vector depends on.
    """

    name: str

    def __call__(self, voxels_XYZ: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features (D,) of one image in [-1, 1]; D is the same for images of one shape."""


def open_extractor(named: str) -> Extractor:
    """`voxels`, `handcrafted`, `random3d` (`random3d:7` for seed 7), or the path of MedicalNet's weights.

    Raises:
        InputError: No such extractor, or no such weights.
    """
    kind, _, seed = named.partition(":")
    if kind == "random3d" and (seed.isdecimal() or not seed):
        return RandomNetwork(int(seed or 0))
    if named in ("voxels", "handcrafted"):
        return Voxels() if named == "voxels" else Handcrafted()
    if Path(named).suffix in (".pth", ".pt") or Path(named).exists():
        from tenfold.anatomy.medicalnet import MedicalNet  # noqa: PLC0415 - rarely there

        return MedicalNet(Path(named))
    raise InputError(f"features '{named}': take voxels, handcrafted, random3d or the path of MedicalNet's .pth")


def prepared_voxels(image: Image) -> NDArray[np.float32]:
    """The image's voxels, clipped to [-1, 1].

    Raises:
        InputError: Values lie far outside: the image was not prepared.
    """
    low, high = float(image.voxels_XYZ.min()), float(image.voxels_XYZ.max())
    if low < -1 - _OVERSHOOT or high > 1 + _OVERSHOOT:
        raise InputError(f"{image.path}: has values from {low:g} to {high:g}, not -1 to 1; prepare the images first")
    if low >= 0:
        raise InputError(
            f"{image.path}: has values from {low:g} to {high:g}, its background is not -1; prepare it first"
        )
    return image.voxels_XYZ.clip(-1, 1)


def extract(
    images: ImageSet, extractor: Extractor, cache: Path | str | None = None, progress: Progress = no_progress
) -> NDArray[np.float64]:
    """Features (N, D) of a set of prepared images; they are read one at a time.

    Args:
        images: In [-1, 1], all of one shape.
        extractor: From `open_extractor`.
        cache: A folder for the vectors, made where it is missing.
        progress: Told of the phase "features".

    Raises:
        InputError: An image cannot be read, was not prepared, or has another shape than the first; the folder cannot
            be written.
    """
    vectors: list[NDArray[np.float64]] = []
    for number, vector_D in enumerate(_vectors(images, extractor, None if cache is None else Path(cache))):
        if vectors and len(vector_D) != len(vectors[0]):
            raise InputError(
                f"{images.paths[number]}: has another shape than {images.paths[0].name}; prepare both alike"
            )
        vectors.append(vector_D)
        progress("features", number + 1, len(images))
    return np.stack(vectors)


def _vectors(images: ImageSet, extractor: Extractor, cache: Path | None) -> Iterator[NDArray[np.float64]]:
    for number, path in enumerate(images.paths):
        kept = None if cache is None else cache / f"{_key(path, extractor)}.npy"
        vector_D = None if kept is None else _kept(kept)
        if vector_D is None:
            vector_D = extractor(prepared_voxels(images[number]))
            if kept is not None:
                _keep(kept, vector_D)
        yield vector_D


def _key(path: Path, extractor: Extractor) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file_hash(file) + extractor.name.encode()).hexdigest()[:32]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def file_hash(file: Any) -> bytes:
    """SHA-256 of an open file."""
    return hashlib.file_digest(file, "sha256").digest()


def _kept(path: Path) -> NDArray[np.float64] | None:
    try:
        vector_D: NDArray[np.float64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # missing or damaged: made again
    return vector_D if vector_D.ndim == 1 and vector_D.dtype == np.float64 and np.isfinite(vector_D).all() else None


def _keep(path: Path, vector_D: NDArray[np.float64]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial, partial.open("wb") as file:
            np.save(file, vector_D)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot hold features ({error.strerror}); choose another place") from None


# --- extractors that need no weights ---------------------------------------------------------------------------------


class Voxels:
    """The image itself, averaged over cubes so that no side has more than 48 voxels."""

    name = f"voxels (at most {_WIDEST} a side)"

    def __call__(self, voxels_XYZ: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features (X' Y' Z',)."""
        factor = -(-max(voxels_XYZ.shape) // _WIDEST)
        return _halved(voxels_XYZ, factor).ravel().astype(np.float64)


class Handcrafted:
    """Shares of voxels by intensity (32 bins) and by gradient (16 bins), whole, halved and quartered: 144 numbers.

    Background, at -1, is left out; the last number of each scale says how much of the volume that is.
    """

    name = "handcrafted (histograms at 3 scales)"

    def __call__(self, voxels_XYZ: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features (147,)."""
        found = []
        for factor in (1, 2, 4):
            scaled_XYZ = _halved(voxels_XYZ, factor)
            inside_XYZ = scaled_XYZ > -0.999
            steepness_XYZ = np.sqrt(sum(part**2 for part in np.gradient(scaled_XYZ)))
            count = max(1, int(inside_XYZ.sum()))
            found += [np.histogram(scaled_XYZ[inside_XYZ], 32, (-1, 1.0001))[0] / count]
            found += [np.histogram(steepness_XYZ[inside_XYZ].clip(0, 1), 16, (0, 1.0001))[0] / count]
            found += [np.array([inside_XYZ.mean()])]
        return np.concatenate(found).astype(np.float64)


class RandomNetwork:
    """Four untrained convolutions (3^3, stride 2, ReLU); mean and spread of every channel of every layer: 480 numbers.

    The weights come from NumPy's generator, He-normal, so that they are the same with every version of torch.
    """

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.name = f"random3d (untrained, seed {seed})"
        channels = (1, 16, 32, 64, 128)
        self._weights = [
            torch.from_numpy(draw.normal(0, np.sqrt(2 / (27 * ins)), (outs, ins, 3, 3, 3)).astype(np.float32))
            for ins, outs in pairwise(channels)
        ]

    @torch.inference_mode()
    def __call__(self, voxels_XYZ: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features (480,)."""
        layer: Tensor = torch.from_numpy(np.ascontiguousarray(voxels_XYZ))[None, None]
        found = []
        for weight in self._weights:
            layer = torch.relu(nn.functional.conv3d(layer, weight, stride=2, padding=1))
            flat = layer[0].flatten(1).double()
            found += [flat.mean(1), flat.std(1, correction=0)]
        return np.asarray(torch.cat(found).numpy())


def _halved(voxels_XYZ: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Averages over cubes of `factor` voxels a side; what is left over at the end is dropped."""
    if factor == 1:
        return voxels_XYZ
    x, y, z = (size // factor for size in voxels_XYZ.shape)
    whole = voxels_XYZ[: x * factor, : y * factor, : z * factor]
    return np.asarray(whole.reshape(x, factor, y, factor, z, factor).mean((1, 3, 5)), np.float32)

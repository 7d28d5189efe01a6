"""Grey matter, white matter and fluid of a brain without skull, told apart by brightness; nothing is trained.

Brightness is a mixture of three Gaussians, fitted by expectation maximisation; a Markov random field says that
neighbours are alike (Zhang, Brady & Smith 2001; with maps of where tissues are expected, as in Atropos: Avants et al.
2011). The field is solved by its mean-field equations:

    q_k(v) ∝ p_k(v) N(brightness(v); mean_k, deviation_k) exp(β Σ_{six neighbours u} q_k(u))
"""

# X right · Y anterior · Z superior · K = 3 tissues: fluid, grey, white · B bins

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.images import Image, read_image
from tenfold.anatomy.segmenters import Segmentation
from tenfold.core.errors import InputError

__all__ = ["TissuePriors", "TissueSegmenter", "Tissues", "brain_of", "fit_tissues"]

_DARK = 0.1  # of the way from the darkest voxel to the bright ones: below is background
_BINS, _ROUNDS, _SWEEPS = 256, 60, 6
_LEAST_PRIOR = 0.02  # a map that is off by a voxel must not rule a tissue out
_CSF, _GREY, _WHITE = (24,), (3, 42), (2, 41)


@dataclass(frozen=True)
class Tissues:
    """The brightness of fluid, grey and white matter in one image, in this order; float64 (K,) each.

    Attributes:
        means_K: Of each tissue, rising.
        deviations_K: Standard deviations, above 0.
        shares_K: Of the brain, adding up to 1.
    """

    means_K: NDArray[np.float64]
    deviations_K: NDArray[np.float64]
    shares_K: NDArray[np.float64]


@dataclass(frozen=True)
class TissuePriors:
    """Where tissues are expected, in the space of a template: NIfTI files, such as those of MNI152.

    Attributes:
        template: A T1-weighted brain without skull.
        grey: Probability of grey matter, 0 to 1, on any grid of that space.
        white: Of white matter.
    """

    template: Path
    grey: Path
    white: Path


def brain_of(image: Image) -> NDArray[np.bool_]:
    """The brain of an image without skull: its largest bright piece, filled; all of the image where there is none.

    The background need not be of one value: generators leave traces there.
    """
    from scipy import ndimage  # noqa: PLC0415

    low = float(image.voxels_XYZ.min())
    high = float(np.percentile(image.voxels_XYZ, 95))
    pieces_XYZ, count = ndimage.label(image.voxels_XYZ > low + _DARK * (high - low))
    if not count:
        return np.ones(image.voxels_XYZ.shape, np.bool_)
    sizes = np.bincount(pieces_XYZ.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(pieces_XYZ == sizes.argmax()))


def fit_tissues(values_N: NDArray[np.floating]) -> Tissues:
    """Fit the mixture to the brightness of a brain's voxels; bins of a histogram stand for the voxels in them."""
    counts_B, edges = np.histogram(values_N, _BINS)
    places_B = (edges[1:] + edges[:-1]) / 2
    least = max(float(edges[-1] - edges[0]) / _BINS, 1e-9)
    means_K = np.percentile(values_N, [10, 45, 85]).astype(np.float64)
    deviations_K = np.full(3, max(float(np.std(values_N)) / 3, least))
    shares_K = np.full(3, 1 / 3)
    for _ in range(_ROUNDS):
        density_BK = shares_K * _gauss(places_B[:, None], means_K, deviations_K)
        weight_BK = counts_B[:, None] * density_BK / (density_BK.sum(1, keepdims=True) + 1e-300)
        total_K = weight_BK.sum(0) + 1e-9
        means_K = (weight_BK * places_B[:, None]).sum(0) / total_K
        spread_K = (weight_BK * (places_B[:, None] - means_K) ** 2).sum(0) / total_K
        deviations_K, shares_K = np.maximum(np.sqrt(spread_K), least), total_K / total_K.sum()
    order = np.argsort(means_K)
    return Tissues(means_K[order], deviations_K[order], shares_K[order])


class TissueSegmenter:
    """Fluid, grey and white matter; ventricles count as fluid, deep nuclei and the cerebellum as grey and white matter.

    The volumes go by the names of the structures whose place they take (csf, cerebral cortex, cerebral white matter);
    left and right are what lies on either side of the brain's middle along X. There is no score of quality.

    Args:
        priors: Where tissues are expected; without, brightness and neighbours decide alone.
        smooth: β, how much a neighbour counts.

    Raises:
        InputError: A map cannot be read, or holds values outside of 0 to 1.
    """

    def __init__(self, priors: TissuePriors | None = None, smooth: float = 0.4) -> None:
        if not 0 <= smooth <= 10:
            raise InputError(f"smooth is {smooth}; it is between 0 and 10")
        self._smooth = smooth
        self._template = None if priors is None else read_image(priors.template)
        self._maps = () if priors is None else (_probabilities(priors.grey), _probabilities(priors.white))
        maps = "" if priors is None else f", maps {priors.grey.name} and {priors.white.name}"
        self.name = f"tissue, 3 Gaussians, smooth {smooth:g}{maps}"
        self.predictor: str | None = None

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image without skull, on any grid."""
        inside_XYZ = brain_of(image)
        where = np.argwhere(inside_XYZ)
        box = tuple(slice(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True))
        brain_XYZ, values_XYZ = inside_XYZ[box], image.voxels_XYZ[box]
        tissues = fit_tissues(values_XYZ[brain_XYZ])
        prior_KXYZ = self._expected(image, inside_XYZ)
        prior_KXYZ = prior_KXYZ[(slice(None), *box)] if self._maps else prior_KXYZ
        shares_KXYZ = _solve(values_XYZ, brain_XYZ, tissues, prior_KXYZ, self._smooth)
        left_X = np.arange(brain_XYZ.shape[0]) < np.median(np.nonzero(brain_XYZ)[0])
        labels_XYZ = np.zeros(inside_XYZ.shape, np.int16)
        labels_XYZ[box] = np.where(brain_XYZ, _labels(shares_KXYZ.argmax(0), left_X), 0)
        voxel = float(np.prod(image.zooms))
        left, right = (
            (shares_KXYZ[:, side].sum((1, 2, 3), dtype=np.float64) * voxel).tolist() for side in (left_X, ~left_X)
        )
        volumes = {
            "cerebral white matter": {"left": left[2], "right": right[2]},
            "cerebral cortex": {"left": left[1], "right": right[1]},
            "csf": {"middle": left[0] + right[0]},
        }
        return Segmentation(labels_XYZ, volumes, float(inside_XYZ.sum()) * voxel)  # type: ignore[arg-type]

    def _expected(self, image: Image, inside_XYZ: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Prior probabilities (K, X, Y, Z) on the image's grid; (K, 1, 1, 1) without maps."""
        if self._template is None:
            return np.ones((3, 1, 1, 1), np.float32)
        from tenfold.anatomy import alignment  # noqa: PLC0415 - SimpleITK is large

        low = float(image.voxels_XYZ.min())
        brain = Image(np.where(inside_XYZ, image.voxels_XYZ - low, 0).astype(np.float32), image.affine, image.path)
        found = alignment.register(brain, self._template, brain_of(self._template), "affine", 0)
        grey, white = (alignment.resample(one, found.GetInverse(), image) for one in self._maps)
        return np.stack([1 - grey - white, grey, white]).clip(_LEAST_PRIOR, 1)


def _probabilities(path: Path) -> Image:
    image = read_image(path)
    if image.voxels_XYZ.min() < -0.01 or image.voxels_XYZ.max() > 1.01:
        raise InputError(f"{path}: has values up to {image.voxels_XYZ.max():g}; give probabilities, 0 to 1")
    return image


def _solve(
    values_XYZ: NDArray[np.float32],
    inside_XYZ: NDArray[np.bool_],
    tissues: Tissues,
    prior_KXYZ: NDArray[np.float32],
    smooth: float,
) -> NDArray[np.float32]:
    """q_k(v) of the module's equation, 0 outside of the brain."""
    means, deviations = tissues.means_K.reshape(3, 1, 1, 1), tissues.deviations_K.reshape(3, 1, 1, 1)
    shares = tissues.shares_K.reshape(3, 1, 1, 1) if prior_KXYZ.shape[1] == 1 else 1.0
    alone_KXYZ = np.log(prior_KXYZ * shares) - ((values_XYZ - means) / deviations) ** 2 / 2 - np.log(deviations)
    alone_KXYZ = alone_KXYZ.astype(np.float32)
    q_KXYZ = _softmax(alone_KXYZ) * inside_XYZ
    for _ in range(_SWEEPS):
        q_KXYZ = _softmax(alone_KXYZ + np.float32(smooth) * _around(q_KXYZ)) * inside_XYZ
    return q_KXYZ


def _around(q_KXYZ: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over the six neighbours."""
    total = np.zeros_like(q_KXYZ)
    for axis in (1, 2, 3):
        before, after = np.moveaxis(total, axis, 0), np.moveaxis(q_KXYZ, axis, 0)
        before[1:] += after[:-1]
        before[:-1] += after[1:]
    return total


def _softmax(logits_KXYZ: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits_KXYZ - logits_KXYZ.max(0))
    return np.asarray(raised / raised.sum(0), np.float32)


def _gauss(
    places: NDArray[np.float64], means: NDArray[np.float64], deviations: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.exp(-(((places - means) / deviations) ** 2) / 2) / deviations)


def _labels(tissue_XYZ: NDArray[np.int64], left_X: NDArray[np.bool_]) -> NDArray[np.int16]:
    codes = np.array([[code[0], code[-1]] for code in (_CSF, _GREY, _WHITE)], np.int16)
    side_X = np.where(left_X, 0, 1)
    return np.asarray(codes[tissue_XYZ, side_X[:, None, None]])

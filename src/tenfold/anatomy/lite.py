"""The segmenter that is built in: a small U-Net, taught on images made of label maps, that works at 3 mm.

It follows SynthSeg (see `synth`). Sides are merged in the network and told apart afterwards by the plane of symmetry
through ventricles and brain-stem. Volumes are sums of sharpened probabilities.
"""

# X right · Y anterior · Z superior · xyz the same at the network's 3 mm · K classes

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.anatomy.images import Image
from tenfold.anatomy.probabilities import Probabilities, icv, left_share, likeliest, volumes
from tenfold.anatomy.quality import Quality
from tenfold.anatomy.segmenters import Segmentation
from tenfold.anatomy.sidecars import digest_of
from tenfold.anatomy.synth import CLASSES
from tenfold.anatomy.unet import UNet
from tenfold.anatomy.warps import take
from tenfold.core.artifacts import load_into, load_weights
from tenfold.core.errors import InputError

__all__ = ["QUALITY", "LiteSegmenter"]

QUALITY = "quality"  # the folder of the predictor of Dice scores, in the model's folder
_MULTIPLE = 8
_MARGIN = 2  # voxels around a brain that is larger than those learned from
_WIDER = 12  # voxels by which a head is wider than what the network was taught on, a brain is not
_BRIGHTEST = 99.5  # percentile of all voxels that becomes 1, as in training


class LiteSegmenter:
    """The network at work.

    Args:
        folder: A model folder; None takes the weights that come with the package.

    Attributes:
        name: Says at which voxel size it works, and which weights.
        mm: That voxel size.
        learned_from: Files of the label maps that it was taught on.
        quality: Its predictor of Dice scores; None where the folder has none.
        predictor: Which predictor it is; None likewise.

    Raises:
        InputError: It is no folder of this kind, or its weights do not fit.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        if folder is None:
            with resources.as_file(resources.files("tenfold.anatomy") / "weights" / "lite") as place:
                self._open(place)
        else:
            self._open(Path(folder))

    def _open(self, place: Path) -> None:
        config, weights = load_weights(place)
        if config.get("kind") != "lite" or config.get("classes") != list(CLASSES):
            raise InputError(f"{place}: is no model of this segmenter; give a folder that `train lite` has written")
        try:
            self.network = UNet(len(CLASSES), int(config["features"]), int(config["levels"]))
            self.mm = float(config["synthesis"]["mm"])
            self.grid = tuple(int(size) for size in config["synthesis"]["grid"])
            self.learned_from = tuple(map(str, config["maps"]))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{place}: its config.json is damaged; train the segmenter again") from None
        load_into(self.network, {name: tensor.float() for name, tensor in weights.items()}, str(place))
        self.network.eval().requires_grad_(False)
        has_scores = (place / QUALITY).is_dir()
        self.name = f"lite {self.mm:g} mm, weights {digest_of(weights)}"
        self.quality = Quality(place / QUALITY, self.name) if has_scores else None
        self.predictor = None if self.quality is None else self.quality.digest

    def __call__(self, image: Image) -> Segmentation:
        """Segment an image on any grid; the labels are on its own."""
        found = self.probabilities(image)
        left_xyz = left_share(found)
        # Scores were learned on this grid; on a larger one, with more background, they would be too low.
        scores = {} if self.quality is None else self.quality(found.middle(self.grid))
        return Segmentation(likeliest(found, left_xyz, image), volumes(found, left_xyz), icv(found), scores)

    def on_grid(self, image_xyz: NDArray[np.float32]) -> Probabilities:
        """What the network says of voxels that are on its grid already, 0 in the background."""
        return self._found(image_xyz, np.diag([self.mm, self.mm, self.mm, 1.0]))

    def probabilities(self, image: Image) -> Probabilities:
        """What the network says, on its own grid of 3 mm around the brain."""
        voxels, affine = _resampled(image, self.mm)
        inside = np.argwhere(voxels > 0.02 * voxels.max())
        low, high = inside.min(0), inside.max(0) + 1
        if (high - low + 2 * _MARGIN > np.array(self.grid) + _WIDER).any():  # a head: look where its brain is first
            whole, start = _cut(voxels, low, high, (0, 0, 0))
            brain = np.argwhere(self._run(_shown(whole))[0] < 0.5)
            if len(brain):
                low, high = start + brain.min(0), start + brain.max(0) + 1
        box, start = _cut(voxels, low, high, self.grid)
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ start
        return self._found(box, moved)

    def _found(self, voxels_xyz: NDArray[np.float32], affine: NDArray[np.float64]) -> Probabilities:
        shown_xyz = _shown(voxels_xyz)
        return Probabilities(_largest_piece(self._run(shown_xyz)), shown_xyz, affine)

    @torch.inference_mode()
    def _run(self, shown_xyz: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self.network(torch.from_numpy(shown_xyz)[None, None])[0].softmax(0).numpy())


# --- grids ------------------------------------------------------------------------------------------------------------


def _resampled(image: Image, mm: float) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The image in voxels of `mm`, along its own axes, with its darkest value at 0; and the affine of that."""
    from scipy import ndimage  # noqa: PLC0415

    zooms = np.array(image.zooms)
    sizes = [max(1, int(np.ceil(size * zoom / mm))) for size, zoom in zip(image.voxels_XYZ.shape, zooms, strict=True)]
    smooth = ndimage.gaussian_filter(image.voxels_XYZ, np.sqrt(np.maximum((mm / zooms) ** 2 - 1, 0)) * 0.35)
    step = mm / zooms
    first = (np.array(image.voxels_XYZ.shape) - 1) / 2 - (np.array(sizes) - 1) / 2 * step
    axes = [
        (first[axis] + step[axis] * np.arange(sizes[axis])).clip(0, image.voxels_XYZ.shape[axis] - 1)
        for axis in range(3)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    affine = image.affine.copy()
    affine[:3, :3] *= step
    affine[:3, 3] += image.affine[:3, :3] @ first
    return take(smooth, places) - np.float32(image.voxels_XYZ.min()), affine


def _shown(voxels_xyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """The brightness that the network is shown, 0 to 1."""
    bright = max(float(np.percentile(voxels_xyz, _BRIGHTEST)), 1e-6)
    return (voxels_xyz / bright).clip(0, 1).astype(np.float32)


def _cut(
    voxels_xyz: NDArray[np.float32], low: NDArray[np.int64], high: NDArray[np.int64], least: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A box around `low` to `high`, filled with 0 outside, and its corner.

    It has the `least` size, with which the network was taught, where that is enough; else some voxels more than needed.
    """
    wider = -(-(high - low + 2 * _MARGIN) // _MULTIPLE) * _MULTIPLE
    sizes = np.where(high - low <= np.array(least), least, wider)
    start = (low + high) // 2 - sizes // 2
    box = np.zeros(sizes, np.float32)
    source = tuple(slice(max(0, one), max(0, min(one + size, limit)))
                   for one, size, limit in zip(start, sizes, voxels_xyz.shape, strict=True))  # fmt: skip
    target = tuple(slice(part.start - one, part.stop - one) for part, one in zip(source, start, strict=True))
    box[target] = voxels_xyz[source]
    return box, start


def _largest_piece(shares_Kxyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """Only the largest connected brain is kept."""
    from scipy import ndimage  # noqa: PLC0415

    pieces, count = ndimage.label(shares_Kxyz[0] < 0.5)
    if count > 1:
        largest = 1 + np.argmax(np.bincount(pieces.ravel())[1:])
        near = ndimage.binary_dilation(pieces == largest, iterations=2)
        shares_Kxyz[0] = np.where(near, shares_Kxyz[0], 1)
        shares_Kxyz[1:] *= near
    return shares_Kxyz

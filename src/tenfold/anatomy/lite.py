"""The segmenter that is built in: a small U-Net, taught on images made of label maps, that works at 3 mm.

It follows SynthSeg (see `synth`). Sides are merged in the network and told apart afterwards by the plane of symmetry
through ventricles and brain-stem. Volumes are sums of sharpened probabilities.
"""

# X right · Y anterior · Z superior · xyz the same at the network's 3 mm · K classes

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.anatomy.images import Image
from tenfold.anatomy.probabilities import Probabilities, icv, left_share, likeliest, volumes
from tenfold.anatomy.quality import Quality
from tenfold.anatomy.segmenters import Segmentation
from tenfold.anatomy.synth import CLASSES
from tenfold.anatomy.unet import UNet
from tenfold.anatomy.warps import take
from tenfold.core.artifacts import load_into, load_weights
from tenfold.core.errors import InputError

__all__ = ["QUALITY", "LiteSegmenter"]

QUALITY = "quality"  # the folder of the predictor of Dice scores, in the model's folder
_MULTIPLE = 8
_MARGIN = 2  # voxels around the brain
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
        self.network = UNet(len(CLASSES), int(config["features"]), int(config["levels"]))
        load_into(self.network, {name: tensor.float() for name, tensor in weights.items()}, str(place))
        self.network.eval().requires_grad_(False)
        self.mm = float(config["synthesis"]["mm"])
        self.grid = tuple(int(size) for size in config["synthesis"]["grid"])
        has_scores = (place / QUALITY).is_dir()
        self.learned_from = tuple(map(str, config["maps"]))
        self.name = f"lite {self.mm:g} mm, weights {_hash(weights)}"
        self.quality = Quality(place / QUALITY, self.name) if has_scores else None

    def __call__(self, image: Image) -> Segmentation:
        """Segment an image on any grid; the labels are on its own."""
        found = self.probabilities(image)
        left_xyz, scores = left_share(found), {} if self.quality is None else self.quality(found)
        return Segmentation(likeliest(found, left_xyz, image), volumes(found, left_xyz), icv(found), scores)

    def on_grid(self, image_xyz: NDArray[np.float32]) -> Probabilities:
        """What the network says of voxels that are on its grid already, 0 in the background."""
        return Probabilities(_largest_piece(self._run(image_xyz)), image_xyz, np.diag([self.mm, self.mm, self.mm, 1.0]))

    def probabilities(self, image: Image) -> Probabilities:
        """What the network says, on its own grid of 3 mm around the brain."""
        voxels, affine = _resampled(image, self.mm)
        inside = np.argwhere(voxels > 0.02 * voxels.max())
        low, high = inside.min(0) - _MARGIN, inside.max(0) + 1 + _MARGIN
        if (high - low > np.array(self.grid) + _WIDER).any():  # a whole head: look where its brain is first
            whole, start = _cut(voxels, low, high, (0, 0, 0))
            brain = np.argwhere(self._run(whole)[0] < 0.5)
            if len(brain):
                low, high = start + brain.min(0) - _MARGIN, start + brain.max(0) + 1 + _MARGIN
        box, start = _cut(voxels, low, high, self.grid)
        shares_Kxyz = _largest_piece(self._run(box))
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ start
        return Probabilities(shares_Kxyz, box, moved)

    @torch.inference_mode()
    def _run(self, voxels_xyz: NDArray[np.float32]) -> NDArray[np.float32]:
        bright = max(float(np.percentile(voxels_xyz, _BRIGHTEST)), 1e-6)
        shown = torch.from_numpy((voxels_xyz / bright).clip(0, 1).astype(np.float32))[None, None]
        return np.asarray(self.network(shown)[0].softmax(0).numpy())


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


def _cut(
    voxels_xyz: NDArray[np.float32], low: NDArray[np.int64], high: NDArray[np.int64], least: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A box around `low` to `high`, as large as `least` and a multiple of 8, filled with 0 outside; and its corner."""
    sizes = np.maximum(high - low, least)
    sizes = -(-sizes // _MULTIPLE) * _MULTIPLE
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


def _hash(weights: Mapping[str, Any]) -> str:
    import hashlib  # noqa: PLC0415

    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]

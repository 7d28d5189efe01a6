"""The segmenter that is built in: a small U-Net, taught on images made of label maps, that works at 3 mm.

It follows SynthSeg (see `synth`). Sides are merged in the network and told apart afterwards by the plane of symmetry
through ventricles and brain-stem. Volumes are sums of probabilities.
"""

# X right · Y anterior · Z superior · xyz the same at the network's 3 mm · K classes

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.anatomy.images import Image, LabelMap
from tenfold.anatomy.labels import GLOBAL, SUBCORTICAL, Side
from tenfold.anatomy.segmenters import Segmentation
from tenfold.anatomy.synth import CLASSES, Synthesis, synthesise
from tenfold.anatomy.unet import UNet, dice_and_entropy
from tenfold.anatomy.warps import take
from tenfold.core.artifacts import ModelCard, load_into, load_weights, save_model
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, TrainingResult, train

__all__ = ["LiteConfig", "LiteSegmenter", "Probabilities", "train_lite"]

_STRUCTURES = SUBCORTICAL + GLOBAL
_MIDDLE = ("3rd ventricle", "4th ventricle", "brain-stem")  # the plane of symmetry goes through them
_MULTIPLE = 8
_MARGIN = 4  # voxels around the head
_BRIGHTEST = 99.5  # percentile of all voxels that becomes 1, as in training


@dataclass(frozen=True)
class LiteConfig:
    """How the network is taught.

    Attributes:
        features: Of its first level.
        levels: Of the U-Net.
        steps: Of training, one image each.
        learning_rate: The highest.
        synthesis: How the images are made.
        seed: Of weights and images.
    """

    features: int = 16
    levels: int = 4
    steps: int = 4000
    learning_rate: float = 1e-3
    synthesis: Synthesis = Synthesis()  # noqa: RUF009 - it is frozen
    seed: int = 0


@dataclass(frozen=True)
class Probabilities:
    """What the network says of one image.

    Attributes:
        shares_Kxyz: float32 in 0 to 1, sums to 1; outside of the largest piece of brain all is background.
        image_xyz: float32 in 0 to 1, what the network was shown.
        affine: float64 (4, 4), of that grid.
    """

    shares_Kxyz: NDArray[np.float32]
    image_xyz: NDArray[np.float32]
    affine: NDArray[np.float64]


def train_lite(
    maps: Sequence[LabelMap], folder: Path | str, config: LiteConfig | None = None, *,
    card_data: Mapping[str, str] | None = None, workers: int = 1, quiet: bool = False,
) -> TrainingResult:  # fmt: skip
    """Teach the network; the folder is a model folder's `last` in the end, which `LiteSegmenter` reads.

    Args:
        maps: Whole-head label maps; every image is made of one of them.
        folder: Where the run lies; an interrupted one goes on.
        config: The settings.
        card_data: The licences of the label maps by their name, for the model card.
        workers: Processes that make images.
        quiet: No progress bar.

    Raises:
        InputError: As `tenfold.core.training.train`; or no label map.
    """
    config = config or LiteConfig()
    if not maps:
        raise InputError("no label map was given; give a folder with whole-head label maps")
    torch.manual_seed(config.seed)
    network = UNet(len(CLASSES), config.features, config.levels)
    training = TrainingConfig(
        steps=config.steps, batch_size=1, learning_rate=config.learning_rate, warmup=min(50, config.steps), clip=1.0,
        precision="bf16", device="auto", seed=config.seed, workers=workers, save_every=250, log_every=50,
    )  # fmt: skip
    settings = {"kind": "lite", "classes": list(CLASSES), "maps": [one.path.name for one in maps]} | asdict(config)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        image_B1XYZ, shares_BKXYZ = batch
        return dice_and_entropy(model(image_B1XYZ), shares_BKXYZ)

    def save(model: nn.Module, place: Path) -> None:
        half = {name: tensor.half() for name, tensor in model.state_dict().items()}
        save_model(place, half, settings, _card(len(maps), card_data or {}))

    return train(network, _Images(maps, config), loss, folder, training, save=save, quiet=quiet)


@dataclass(frozen=True)
class _Images:
    """Images to learn from: number i is made of map i modulo their number, drawn anew each time."""

    maps: Sequence[LabelMap]
    config: LiteConfig

    def __len__(self) -> int:
        return len(self.maps) * -(-self.config.steps // len(self.maps))

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng(int(torch.randint(2**62, ())))
        made = synthesise(self.maps[number % len(self.maps)], draw, self.config.synthesis)
        return torch.from_numpy(made.image_XYZ[None]), torch.from_numpy(made.shares_KXYZ)


def _card(maps: int, data: Mapping[str, str]) -> ModelCard:
    return ModelCard(
        title="lite: brain segmentation at 3 mm",
        room="anatomy",
        summary=f"A 3-D U-Net that was taught on images made of {maps} label maps, after SynthSeg's principle: 15 "
        "subcortical structures, cerebral white matter, cortex and fluid, sides merged.",
        data=data,
        metrics={},
        intended_use="Volumes of brain structures in T1-weighted images, real or generated, to compare sets of them.",
        limits="No diagnosis, no statement about a person. At 3 mm small structures (inferior lateral ventricle, "
        "accumbens area, amygdala) are uncertain. Taught on few anatomies of adults: children, tumours and large "
        "lesions are unknown to it.",
        license="apache-2.0",
    )


class LiteSegmenter:
    """The network at work.

    Args:
        folder: A model folder; None takes the weights that come with the package.

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
        self.name = f"lite {self.mm:g} mm, weights {_hash(weights)}"

    def __call__(self, image: Image) -> Segmentation:
        """Segment an image on any grid; the labels are on its own."""
        found = self.probabilities(image)
        left_xyz = left_share(found, self.mm)
        return Segmentation(_labels(found, left_xyz, image), volumes(found, left_xyz), icv(found))

    def on_grid(self, image_xyz: NDArray[np.float32]) -> Probabilities:
        """What the network says of voxels that are on its grid already, 0 in the background."""
        return Probabilities(_largest_piece(self._run(image_xyz)), image_xyz, np.diag([self.mm, self.mm, self.mm, 1.0]))

    def probabilities(self, image: Image) -> Probabilities:
        """What the network says, on its own grid of 3 mm around the brain."""
        voxels, affine = _resampled(image, self.mm)
        inside = np.argwhere(voxels > 0.02 * voxels.max())
        low, high = inside.min(0) - _MARGIN, inside.max(0) + 1 + _MARGIN
        if (high - low > np.array(self.grid)).any():  # a whole head: look where its brain is first
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


# --- from probabilities to volumes and labels -------------------------------------------------------------------------


def volumes(found: Probabilities, left_xyz: NDArray[np.float32]) -> dict[str, dict[Side, float]]:
    """mm³ of every structure and side, as sums of probabilities."""
    voxel = abs(float(np.linalg.det(found.affine[:3, :3])))
    result: dict[str, dict[Side, float]] = {}
    for number, one in enumerate(_STRUCTURES, start=1):
        share_xyz = found.shares_Kxyz[number]
        total = float(share_xyz.sum(dtype=np.float64)) * voxel
        if "left" not in one.freesurfer:
            result[one.name] = {"middle": total}
            continue
        left = float((share_xyz * left_xyz).sum(dtype=np.float64)) * voxel
        result[one.name] = {"left": left, "right": total - left}
    return result


def icv(found: Probabilities) -> float:
    """mm³ of all that is not background."""
    voxel = abs(float(np.linalg.det(found.affine[:3, :3])))
    return max(float((1 - found.shares_Kxyz[0]).sum(dtype=np.float64)) * voxel, 1.0)


def left_share(found: Probabilities, mm: float) -> NDArray[np.float32]:
    """How much of each voxel lies left of the plane of symmetry, which is fitted to what lies in the middle."""
    middle = [CLASSES.index(name) for name in _MIDDLE]
    weight_xyz = found.shares_Kxyz[middle].sum(0)
    axes = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in weight_xyz.shape), indexing="ij")
    chosen = weight_xyz > 0.5
    x, y, z = axes
    if chosen.sum() >= 20:
        known = np.stack([np.ones(chosen.sum()), y[chosen], z[chosen]], 1)
        offset, of_y, of_z = np.linalg.lstsq(known, x[chosen], rcond=None)[0]
    else:
        offset, of_y, of_z = (weight_xyz.shape[0] - 1) / 2, 0.0, 0.0
    distance = (x - offset - of_y * y - of_z * z) / np.sqrt(1 + of_y**2 + of_z**2)
    return np.asarray((0.5 - distance).clip(0, 1), np.float32)


def _labels(found: Probabilities, left_xyz: NDArray[np.float32], image: Image) -> NDArray[np.int16]:
    """The likeliest label of each voxel of the image; class by class, so that memory stays small."""
    places = _places(image.voxels_XYZ.shape, image.affine, found.affine)
    best, labels = np.full(image.voxels_XYZ.shape, -1, np.float32), np.zeros(image.voxels_XYZ.shape, np.int16)
    is_left = take(left_xyz, places) > 0.5
    for number, share_xyz in enumerate(found.shares_Kxyz):
        here = take(np.ascontiguousarray(share_xyz), places)
        better = here > best
        best[better] = here[better]
        if number == 0:
            continue
        codes = _STRUCTURES[number - 1].freesurfer
        if "left" in codes:
            labels[better] = np.where(is_left[better], codes["left"][0], codes["right"][0])
        else:
            labels[better] = codes["middle"][0]
    outside = ((places < -0.5) | (places > np.array(left_xyz.shape).reshape(3, 1, 1, 1) - 0.5)).any(0)
    labels[outside] = 0
    return labels


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


def _places(shape: tuple[int, ...], affine: NDArray[np.float64], into: NDArray[np.float64]) -> NDArray[np.float32]:
    """For each voxel of one grid its coordinates in another."""
    turn = np.linalg.inv(into) @ affine
    x, y, z = (np.arange(size, dtype=np.float32) for size in shape)
    rows = [
        turn[row, 0] * x[:, None, None] + turn[row, 1] * y[None, :, None] + (turn[row, 2] * z + turn[row, 3])
        for row in range(3)
    ]
    return np.stack(rows).astype(np.float32)


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

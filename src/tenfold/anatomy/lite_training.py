"""How the built-in segmenter is taught: on images made of label maps; and on spoilt ones how good it is."""

# X right · Y anterior · Z superior · K classes

import hashlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.anatomy.corruptions import blur, corrupt, duplicate_half, hollow
from tenfold.anatomy.images import LabelMap
from tenfold.anatomy.lite import QUALITY, LiteSegmenter
from tenfold.anatomy.quality import Pairs, describe, group_dice, train_quality
from tenfold.anatomy.synth import CLASSES, Synthesis, synthesise
from tenfold.anatomy.unet import UNet, dice_and_entropy
from tenfold.core.artifacts import ModelCard, save_model
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file, replace_folder
from tenfold.core.progress import Progress, no_progress
from tenfold.core.training import TrainingConfig, TrainingResult, train

__all__ = ["LiteConfig", "make_pairs", "teach_lite", "train_lite"]

_SPOILT = 0.75  # share of the others that are spoilt
_HALVES = 0.1  # share of images of which one half is a copy of the other
_EMPTIED = 0.1  # share of the rest in which nothing but the outline, or large blobs, is left
_FEWEST_PAIRS = 8  # for the predictor: two that are left check it


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
    steps: int = 5000
    learning_rate: float = 2e-3
    synthesis: Synthesis = Synthesis()  # noqa: RUF009 - it is frozen
    seed: int = 0


def train_lite(
    maps: Sequence[LabelMap], folder: Path | str, config: LiteConfig | None = None, *,
    card_data: Mapping[str, str] | None = None, workers: int = 1, quiet: bool = False,
) -> TrainingResult:  # fmt: skip
    """Teach the network; the folder is a model folder's `last` in the end, which `LiteSegmenter` reads.

    Args:
        maps: Whole-head label maps; every image is made of one of them.
        folder: Where the run lies; an interrupted one goes on, with the same maps and settings.
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

    identity = {"maps": _digest(maps), **asdict(config.synthesis)}
    images = _Images(maps, config)
    return train(network, images, loss, folder, training, save=save, identity=identity, quiet=quiet)


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


def _digest(maps: Sequence[LabelMap], settings: str = "") -> str:
    """Of label maps, where they lie, and what is made of them."""
    digest = hashlib.sha256(settings.encode())
    for one in maps:
        digest.update(f"{one.labels_XYZ.shape} {one.affine.tolist()}".encode())
        digest.update(one.labels_XYZ.tobytes())
    return digest.hexdigest()[:16]


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


def teach_lite(
    maps: Sequence[LabelMap],
    held: Sequence[LabelMap],
    folder: Path | str,
    config: LiteConfig | None = None,
    *,
    pairs: int = 2000,
    card_data: Mapping[str, str] | None = None,
    workers: int = 1,
    progress: Progress = no_progress,
) -> Path:
    """Teach the segmenter and the predictor of its quality, and put them together.

    Args:
        maps: Whole heads that the segmenter learns from.
        held: Others, at least three: the predictor learns from all but the last two, which calibrate and check it.
        folder: `folder/run`, `folder/pairs` and `folder/scores` keep what is done: an interrupted call goes on.
        config: Of the segmenter.
        pairs: Images from which the predictor learns, and a quarter as many that check it.
        card_data: The licences of the label maps by their name.
        workers: Processes that make images.
        progress: Told of the phase "pairs".

    Returns:
        The model folder, `folder/model`.

    Raises:
        InputError: As `train_lite`; or too few are held back, or fewer than 8 pairs.
    """
    place = Path(folder)
    if len(held) < 3:
        raise InputError(f"{len(held)} label maps are held back; hold back 3 or more, to learn from and to check on")
    if pairs < _FEWEST_PAIRS:
        raise InputError(f"pairs {pairs}: give {_FEWEST_PAIRS} or more; a quarter of them set and check the curves")
    train_lite(maps, place / "run", config, card_data=card_data, workers=workers)
    segmenter = LiteSegmenter(place / "run" / "last")
    learned = make_pairs([*maps, *held[:-2]], segmenter, pairs, place / "pairs", progress=progress)
    checked = make_pairs(held[-2:], segmenter, pairs // 4, place / "pairs", seed=1, progress=progress)
    train_quality(learned, checked, segmenter.name, place / "scores")
    with replace_folder(place / "model") as partial:
        for name in ("config.json", "model.safetensors", "README.md"):
            shutil.copy(place / "run" / "last" / name, partial)
        shutil.copytree(place / "scores" / QUALITY, partial / QUALITY)
    return place / "model"


# --- how good segmentations are ---------------------------------------------------------------------------------------


def make_pairs(
    maps: Sequence[LabelMap],
    segmenter: LiteSegmenter,
    count: int,
    folder: Path | str,
    *,
    seed: int = 0,
    synthesis: Synthesis | None = None,
    progress: Progress = no_progress,
) -> Pairs:
    """Make images of label maps, spoil most of them, segment them, and compare with the truth.

    Args:
        maps: Whole heads, better ones the segmenter has not learned from.
        segmenter: Whose segmentations they are.
        count: Images; number i depends on the seed and i alone.
        folder: Keeps every 50 of them, so that an interrupted call goes on, with the same maps, segmenter and settings.
        seed: Draws all.
        synthesis: How images are made; by default T1 contrast without skull.
        progress: Told of the phase "pairs".
    """
    place, step = Path(folder), 50
    synthesis = synthesis or Synthesis(mm=segmenter.mm, t1=1.0, heads=0.0)
    made_of, parts = f"{segmenter.name.rpartition(' ')[2]}_{_digest(maps, repr(synthesis))}", []
    for start in range(0, count, step):
        kept = place / f"pairs_{seed}_{start}_{min(step, count - start)}_{made_of}.npz"
        if not kept.exists():
            numbers = range(start, min(start + step, count))
            _keep(kept, _stack([_pair(maps, segmenter, seed, number, synthesis) for number in numbers]))
        parts.append(_read(kept))
        progress("pairs", min(start + step, count), count)
    pairs = parts[0]
    for part in parts[1:]:
        pairs = pairs.join(part)
    return pairs


def _pair(
    maps: Sequence[LabelMap], segmenter: LiteSegmenter, seed: int, number: int, synthesis: Synthesis
) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.float32], str]:
    draw = np.random.default_rng([seed, number])
    made = synthesise(maps[int(draw.integers(len(maps)))], draw, synthesis)
    image_xyz, truth_Kxyz, said = made.image_XYZ, made.shares_KXYZ, "as it was"
    if draw.random() < _HALVES:
        middle, keep = _middle(truth_Kxyz), bool(draw.random() < 0.5)
        image_xyz = np.asarray(duplicate_half(image_xyz, middle, keep_left=keep), np.float32)
        halves = duplicate_half(truth_Kxyz.transpose(1, 2, 3, 0), middle, keep_left=keep)
        truth_Kxyz, said = np.ascontiguousarray(halves.transpose(3, 0, 1, 2), np.float32), "halves"
    elif draw.random() < _EMPTIED:
        image_xyz, said = _emptied(image_xyz, synthesis.mm, draw)
    elif draw.random() < _SPOILT:
        image_xyz, said = corrupt(image_xyz, synthesis.mm, draw)
    found = segmenter.on_grid(image_xyz)
    return (*describe(found), group_dice(found.shares_Kxyz, truth_Kxyz), said)


def _emptied(image_xyz: NDArray[np.float32], mm: float, draw: np.random.Generator) -> tuple[NDArray[np.float32], str]:
    """No brain any more, as generators in training make them: noise in its outline, or blurred beyond recognition."""
    if draw.random() < 0.5:
        smooth_mm = float(np.exp(draw.uniform(0, np.log(30))))
        return hollow(image_xyz, smooth_mm, mm, draw), f"hollow {smooth_mm:.1f} mm"
    sigma_mm = float(draw.uniform(8, 24))
    return np.where(image_xyz > 0, blur(image_xyz, sigma_mm, mm), 0), f"blur {sigma_mm:.1f} mm"


def _middle(truth_Kxyz: NDArray[np.float32]) -> float:
    """Where the plane between the halves is, nearly: the brain's centre along X."""
    weight_x = (1 - truth_Kxyz[0]).sum((1, 2))
    return float((weight_x * np.arange(len(weight_x))).sum() / weight_x.sum())


def _stack(rows: Sequence[tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.float32], str]]) -> Pairs:
    maps, numbers, dice, said = zip(*rows, strict=True)
    return Pairs(np.stack(maps), np.stack(numbers), np.stack(dice), said)


def _keep(path: Path, pairs: Pairs) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial, partial.open("wb") as file:
            np.savez(file, maps=pairs.maps_NCxyz, numbers=pairs.numbers_NF, dice=pairs.dice_NG, said=pairs.said)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot hold pairs ({error.strerror}); choose another place") from None


def _read(path: Path) -> Pairs:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Pairs(kept["maps"], kept["numbers"], kept["dice"], tuple(map(str, kept["said"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path}: is damaged; remove it, it is made again") from None

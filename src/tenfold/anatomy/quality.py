"""How well did the built-in segmenter do? A small network predicts its Dice score in each of the eight groups.

It learns from images whose truth is known, made of label maps and then spoilt until segmentation fails. Afterwards the
predictions are brought in line with the truth of further people, group by group, by isotonic regression. That SynthSeg
predicts Dice scores per group, and that 0.65 is the threshold, is its own and the paper's way; this network is ours.
"""

# N images · G = 8 groups · C channels · K classes · F numbers per image · xyz the segmenter's grid, halved

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tenfold.anatomy.calibration import rising_curve
from tenfold.anatomy.labels import GLOBAL, QC_GROUPS, SUBCORTICAL
from tenfold.anatomy.probabilities import Probabilities
from tenfold.anatomy.sidecars import digest_of
from tenfold.anatomy.synth import CLASSES
from tenfold.core.artifacts import ModelCard, load_into, load_weights, save_model
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, TrainingResult, train

__all__ = ["Agreement", "Pairs", "Quality", "QualityConfig", "agreement", "describe", "group_dice", "train_quality"]

_OUTER = "csf"  # fluid around the brain is in no group, as in SynthSeg's table: a brain mask cuts it off anyhow
_CHANNELS = 2 + len(QC_GROUPS)
_NUMBERS = 3 * len(QC_GROUPS)
_KNOTS = 21


@dataclass(frozen=True)
class QualityConfig:
    """How the predictor is taught.

    Attributes:
        width: Channels of its first layer.
        epochs: Passes over the pairs.
        batch_size: Pairs in a step.
        learning_rate: The highest.
        seed: Of weights and order.
    """

    width: int = 16
    epochs: int = 40
    batch_size: int = 16
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """Segmentations and how good they are.

    Attributes:
        maps_NCxyz: float16, what the predictor is shown: image, uncertainty, and the share of each group.
        numbers_NF: float32, size, confidence and brightness of each group.
        dice_NG: float32 in 0 to 1, the truth.
        said: How each image was spoilt.
    """

    maps_NCxyz: NDArray[np.float16]
    numbers_NF: NDArray[np.float32]
    dice_NG: NDArray[np.float32]
    said: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.said)

    def join(self, other: "Pairs") -> "Pairs":
        """Both, one behind the other."""
        return Pairs(
            np.concatenate([self.maps_NCxyz, other.maps_NCxyz]),
            np.concatenate([self.numbers_NF, other.numbers_NF]),
            np.concatenate([self.dice_NG, other.dice_NG]),
            (*self.said, *other.said),
        )


@dataclass(frozen=True)
class Agreement:
    """How predictions go with the truth, group by group.

    Attributes:
        mae_G: Mean absolute error.
        spearman_G: Rank correlation.
    """

    mae_G: NDArray[np.float64]
    spearman_G: NDArray[np.float64]


# --- pairs ------------------------------------------------------------------------------------------------------------


def group_dice(shares_Kxyz: NDArray[np.float32], truth_Kxyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dice scores (G,) of whole labels joined to groups; 1 where neither has a voxel of a group."""
    found, truth = (_group_of()[shares.argmax(0)] for shares in (shares_Kxyz, truth_Kxyz))
    both = np.bincount(found[found == truth], minlength=len(QC_GROUPS) + 1)[1:]
    each = np.bincount(found.ravel(), minlength=len(QC_GROUPS) + 1) + np.bincount(
        truth.ravel(), minlength=len(QC_GROUPS) + 1
    )
    scores: NDArray[np.float32] = np.where(each[1:] > 0, 2 * both / np.maximum(each[1:], 1), 1).astype(np.float32)
    return scores


def describe(found: Probabilities) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """What the predictor sees of a segmentation: maps (C, x, y, z) and numbers (F,)."""
    groups_Gxyz = np.stack([
        found.shares_Kxyz[_group_of() == number].sum(0) for number in range(1, len(QC_GROUPS) + 1)
    ])  # fmt: skip
    entropy_xyz = -(found.shares_Kxyz * np.log(np.maximum(found.shares_Kxyz, 1e-6))).sum(0)
    image_xyz = found.image_xyz
    maps_Cxyz = functional.avg_pool3d(torch.from_numpy(np.stack([image_xyz, entropy_xyz, *groups_Gxyz]))[None], 2)[0]
    sizes_G = groups_Gxyz.sum((1, 2, 3))
    safe_G = np.maximum(sizes_G, 1)
    confidence_G = (groups_Gxyz**2).sum((1, 2, 3)) / safe_G
    brightness_G = (groups_Gxyz * image_xyz).sum((1, 2, 3)) / safe_G
    numbers_F = np.concatenate([np.log1p(sizes_G) / 10, confidence_G, brightness_G])
    return maps_Cxyz.numpy().astype(np.float16), numbers_F.astype(np.float32)


def _group_of() -> NDArray[np.int64]:
    """The group of each class, from 1 on; 0 for what is in none."""
    names = dict(zip(QC_GROUPS, range(1, len(QC_GROUPS) + 1), strict=True))
    known = {one.name: names[one.group] for one in SUBCORTICAL + GLOBAL if one.name != _OUTER}
    return np.array([known.get(name, 0) for name in CLASSES])


# --- the predictor ----------------------------------------------------------------------------------------------------


class _Network(nn.Module):
    """Four convolutions over the maps; their means and maxima, and the numbers, through two layers: logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (_CHANNELS, width, 2 * width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv3d(ins, outs, 3, stride=2, padding=1), nn.GroupNorm(4, outs), nn.ReLU())
            for ins, outs in pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.Linear(2 * widths[-1] + _NUMBERS, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, len(QC_GROUPS))
        )

    def forward(self, maps_NCxyz: Tensor, numbers_NF: Tensor) -> Tensor:
        """Logits (N, G)."""
        layer = maps_NCxyz
        for part in self.layers:
            layer = part(layer)
        pooled = torch.cat([layer.mean((2, 3, 4)), layer.amax((2, 3, 4)), numbers_NF], 1)
        logits: Tensor = self.head(pooled)
        return logits


def train_quality(
    pairs: Pairs,
    checked: Pairs,
    segmenter: str,
    folder: Path | str,
    config: QualityConfig | None = None,
    *,
    quiet: bool = False,
) -> TrainingResult:
    """Teach the predictor, bring it in line with the truth, and write it as a model folder.

    Args:
        pairs: To learn from.
        checked: Of other people: half of them set the calibration, the other half say in the card how good it is.
        segmenter: The name of the one whose segmentations they are; the predictor is for these only.
        folder: `folder/run` keeps the training, `folder/quality` is the model folder.
        config: The settings.
        quiet: No progress bar.
    """
    config = config or QualityConfig()
    torch.manual_seed(config.seed)
    network = _Network(config.width)
    steps = max(1, config.epochs * len(pairs) // config.batch_size)
    training = TrainingConfig(
        steps=steps, batch_size=min(config.batch_size, len(pairs)), learning_rate=config.learning_rate,
        weight_decay=0.05, seed=config.seed, save_every=0, log_every=max(1, steps // 20), warmup=min(20, steps),
    )  # fmt: skip

    def sample(number: int) -> tuple[Tensor, Tensor, Tensor]:
        maps_Cxyz = torch.from_numpy(pairs.maps_NCxyz[number].astype(np.float32))
        if torch.rand(()) < 0.5:
            maps_Cxyz = maps_Cxyz.flip(1)
        return maps_Cxyz, torch.from_numpy(pairs.numbers_NF[number]), torch.from_numpy(pairs.dice_NG[number])

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        maps_NCxyz, numbers_NF, dice_NG = batch
        return (model(maps_NCxyz, numbers_NF).sigmoid() - dice_NG).abs().mean()

    digest = hashlib.sha256(pairs.numbers_NF.tobytes() + pairs.dice_NG.tobytes()).hexdigest()[:16]
    identity = {"segmenter": segmenter, "pairs": digest}
    items, place = _Items(len(pairs), sample), Path(folder) / "run"
    result = train(network, items, loss, place, training, identity=identity, quiet=quiet)
    network.cpu().eval()
    half = len(checked) // 2
    predicted_NG = _predict(network, checked)
    curves = [
        [one.tolist() for one in rising_curve(said_N, true_N, _KNOTS)]
        for said_N, true_N in zip(predicted_NG[:half].T, checked.dice_NG[:half].T, strict=True)
    ]
    found = agreement(_apply(curves, predicted_NG[half:]), checked.dice_NG[half:])
    settings = {"kind": "quality", "segmenter": segmenter, "curves": curves} | asdict(config)
    save_model(Path(folder) / "quality", network, settings, _card(segmenter, found))
    return result


@dataclass(frozen=True)
class _Items:
    count: int
    read: Any

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return self.read(number)


class Quality:
    """The predictor at work.

    Args:
        folder: A model folder that `train_quality` has written.
        segmenter: The name of the segmenter it is to be used with.

    Attributes:
        digest: Of its weights and curves.

    Raises:
        InputError: It is no such folder, or was taught on another segmenter.
    """

    def __init__(self, folder: Path, segmenter: str) -> None:
        config, weights = load_weights(folder)
        if config.get("kind") != "quality":
            raise InputError(f"{folder}: is no predictor of quality; give a folder that `train lite` has written")
        if config.get("segmenter") != segmenter:
            raise InputError(f"{folder}: was taught on {config.get('segmenter')}, not on {segmenter}; teach it again")
        try:
            self._network = _Network(int(config["width"]))
            self._curves = [(x, y) for (x, y), _ in zip(config["curves"], QC_GROUPS, strict=True)]
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{folder}: its config.json is damaged; teach the predictor again") from None
        load_into(self._network, weights, str(folder))
        self._network.eval()
        self.digest = digest_of(weights, json.dumps(self._curves))

    def __call__(self, found: Probabilities) -> dict[str, float]:
        """Predicted Dice score by group, 0 to 1. Where hardly any brain was found all are 0."""
        if (found.shares_Kxyz[0] < 0.5).mean() < 0.01:
            return dict.fromkeys(QC_GROUPS, 0.0)
        maps_Cxyz, numbers_F = describe(found)
        one = Pairs(maps_Cxyz[None], numbers_F[None], np.zeros((1, len(QC_GROUPS)), np.float32), ("",))
        return dict(zip(QC_GROUPS, map(float, self.of_pairs(one)[0]), strict=True))

    def of_pairs(self, pairs: Pairs) -> NDArray[np.float64]:
        """Predicted Dice scores (N, G), 0 to 1."""
        return _apply(self._curves, _predict(self._network, pairs))


@torch.inference_mode()
def _predict(network: nn.Module, pairs: Pairs) -> NDArray[np.float32]:
    rows = [
        network(torch.from_numpy(maps[None].astype(np.float32)), torch.from_numpy(numbers[None])).sigmoid()
        for maps, numbers in zip(pairs.maps_NCxyz, pairs.numbers_NF, strict=True)
    ]
    return np.asarray(torch.cat(rows).numpy())


# --- calibration ------------------------------------------------------------------------------------------------------


def agreement(predicted_NG: NDArray[np.floating], dice_NG: NDArray[np.floating]) -> Agreement:
    """How far predictions are from the truth, and whether they order it."""
    from scipy.stats import spearmanr  # noqa: PLC0415

    errors_G = np.abs(predicted_NG - dice_NG).mean(0).astype(np.float64)
    varies_G = (np.ptp(predicted_NG, 0) > 0) & (np.ptp(dice_NG, 0) > 0)  # elsewhere there is no order
    ranks = [float(spearmanr(predicted_NG[:, group], dice_NG[:, group])[0]) if varies else float("nan")
             for group, varies in enumerate(varies_G)]  # fmt: skip
    return Agreement(errors_G, np.array(ranks))


def _apply(curves: Sequence[Sequence[Sequence[float]]], predicted_NG: NDArray[np.floating]) -> NDArray[np.float64]:
    columns = [np.interp(predicted_NG[:, group], x, y) for group, (x, y) in enumerate(curves)]
    return np.stack(columns, 1).clip(0, 1)


def _card(segmenter: str, found: Agreement) -> ModelCard:
    errors = {f"mean absolute error, {name}": float(value) for name, value in zip(QC_GROUPS, found.mae_G, strict=True)}
    ranks = {f"rank correlation, {name}": float(value) for name, value in zip(QC_GROUPS, found.spearman_G, strict=True)}
    return ModelCard(
        title="Predicted Dice scores of lite",
        room="anatomy",
        summary=f"Predicts how well {segmenter} has segmented an image, in eight groups of structures.",
        data={"images made of label maps, most spoilt; calibrated and checked on people of its own": "as those"},
        metrics=errors | ranks,
        intended_use="To leave out images whose segmentation cannot be relied on, above 0.65 or not.",
        limits="Taught on made images only; for another segmenter, or other weights, it says nothing.",
        license="apache-2.0",
    )

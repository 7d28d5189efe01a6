"""The weights that the paper's authors publish, read into our generators: names by a table, nothing run from files.

    HA-GAN      G_iter50000.pth      {"model": ..., "optimizer": ...}
    alpha-WGAN  G_iter165000.pth     {"model": ..., "optimizer": ...}
    VAE-GAN     G_VG_ep_130.pth      the weights alone

Names stand behind "module.", as torch's DataParallel writes them, or not. The files lie where the README of
github.com/jiaqiw01/MRIAnatEval says; they draw 144 x 192 x 144 voxels of 1 mm, in the order of axes of their training
images, which nothing states: look at one before you give it an affine.
"""

# L latent · C channels · X right · Y anterior · Z superior

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tenfold.anatomy.generators import generator_class
from tenfold.anatomy.generators.adversarial import Adversarial
from tenfold.anatomy.generators.interface import Grid, Size
from tenfold.core.artifacts import read_state
from tenfold.core.errors import InputError

__all__ = ["NAMES", "PAPER_GRID", "load_published"]

PAPER_GRID: Grid = (144, 192, 144)
_SHOWN = 3
_UPSAMPLING = {
    "bn1": "norms.0",
    "tp_conv2": "convolutions.0",
    "bn2": "norms.1",
    "tp_conv3": "convolutions.1",
    "bn3": "norms.2",
    "tp_conv4": "convolutions.2",
    "bn4": "norms.3",
    "tp_conv5": "convolutions.3",
}
NAMES: dict[str, dict[str, str]] = {
    "vae-gan": {"fc": "start", **_UPSAMPLING},
    "alpha-wgan": {"tp_conv1": "start", **_UPSAMPLING},  # a transposed convolution of one voxel: a linear layer
    "ha-gan": {
        "fc1": "trunk.start",
        "tp_conv1": "trunk.blocks.0.0",
        "bn1": "trunk.blocks.0.1",
        "tp_conv2": "trunk.blocks.1.0",
        "bn2": "trunk.blocks.1.1",
        "tp_conv3": "trunk.blocks.2.0",
        "bn3": "trunk.blocks.2.1",
        "tp_conv4": "trunk.blocks.3.0",
        "bn4": "trunk.blocks.3.1",
        "tp_conv5": "trunk.blocks.4.0",
        "bn5": "trunk.blocks.4.1",
        "tp_conv6": "full.1.0",
        "bn6": "full.1.1",
        "tp_conv7": "full.3",
        "sub_G.tp_conv1": "small.0.0",
        "sub_G.bn1": "small.0.1",
        "sub_G.tp_conv2": "small.1.0",
        "sub_G.bn2": "small.1.1",
        "sub_G.tp_conv3": "small.2",
    },
}
"""The published name of each layer, and the name here, by generator."""


def load_published(name: str, path: Path | str, grid: Grid = PAPER_GRID, size: Size = "paper") -> Adversarial:
    """A generator with published weights, or with others that the paper's code saved.

    Args:
        name: vae-gan, alpha-wgan or ha-gan.
        path: The .pth file of G.
        grid: Of its images.
        size: Of its networks.

    Raises:
        InputError: No such generator; the file cannot be read without running code from it; or it lacks weights, has
            others, or some of another shape: the message names them as the file does.
    """
    if name not in NAMES:
        raise InputError(f"generator '{name}': has no published weights; choose {', '.join(NAMES)}")
    made = generator_class(name)(grid, size)  # type: ignore[call-arg]
    if not isinstance(made, Adversarial):
        raise TypeError(f"{name} is no adversarial generator")
    with torch.device("meta"):
        wanted = made.build_generator().state_dict()
    published = read_state(Path(path))
    layers = {here: there for there, here in NAMES[name].items()}
    names = {here: _published_name(here, layers) for here in wanted}
    counters = {here for here in names if here.endswith("num_batches_tracked")}
    weights = {here: _fitted(name, there, published[there]) for here, there in names.items() if there in published}
    weights |= {here: torch.zeros((), dtype=torch.long) for here in counters - set(weights)}  # older files have none
    _check(weights, wanted, names, set(published), Path(path))
    made.use(weights, path)
    return made


def _published_name(here: str, layers: Mapping[str, str]) -> str:
    layer, _, what = here.rpartition(".")
    return f"{layers[layer]}.{what}"


def _fitted(name: str, there: str, weight: Tensor) -> Tensor:
    """alpha-WGAN's first layer, (L, C, X, Y, Z), as a linear layer's weight, (C X Y Z, L); anything else as it is."""
    if (name, there, weight.ndim) == ("alpha-wgan", "tp_conv1.weight", 5):
        return weight.flatten(1).T.contiguous()
    return weight


def _check(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, str], found: set[str], path: Path
) -> None:
    """Raises InputError that names what is missing, left over or of another shape, as the file calls it."""
    faults = {
        "misses": [names[here] for here in wanted if here not in weights],
        "has besides": sorted(found - set(names.values())),
        "has other shapes of": [
            f"{names[here]} ({_times(weights[here])} instead of {_times(wanted[here])})"
            for here in wanted
            if here in weights and weights[here].shape != wanted[here].shape
        ],
    }
    said = [f"{what} {_some(which)}" for what, which in faults.items() if which]
    if said:
        raise InputError(f"{path}: does not fit: {'; '.join(said)}; are generator, grid and size those of the file?")


def _times(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

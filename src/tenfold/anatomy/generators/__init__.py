"""Generators of brain MRI behind one interface; each comes from its file when it is asked for."""

import json
from importlib import import_module
from pathlib import Path

from tenfold.anatomy.generators.interface import Generator, Grid, Size
from tenfold.core.errors import InputError

__all__ = ["GENERATORS", "generator_class", "load_generator", "make_generator"]

# Where each lies: file and class.
GENERATORS = {
    "vae-gan": ("vae_gan", "VAEGAN"),
    "alpha-wgan": ("alpha_wgan", "AlphaWGAN"),
    "ha-gan": ("ha_gan", "HAGAN"),
    "cdpm": ("slices", "ConditionalSlices"),
    "ldm": ("latent", "LatentDiffusion"),
    "two-stage": ("two_stage", "TwoStageDiffusion"),
}
"""The generators that can be trained, by name."""


def generator_class(name: str) -> type[Generator]:
    """The class of a generator. Raises InputError for a name that is not in `GENERATORS`."""
    if name not in GENERATORS:
        raise InputError(f"generator '{name}': there is none; choose {', '.join(GENERATORS)}")
    file, kind = GENERATORS[name]
    found: type[Generator] = getattr(import_module(f"{__name__}.{file}"), kind)
    return found


def make_generator(name: str, grid: Grid, size: Size) -> Generator:
    """An untrained generator of images of a grid. Raises InputError where there is none, or it cannot make the grid."""
    make = generator_class(name)
    return make(grid, size)  # type: ignore[call-arg]


def load_generator(folder: Path | str) -> Generator:
    """A saved generator, of the kind that its config.json states. Raises InputError where it is none."""
    config = Path(folder) / "config.json"
    try:
        kind = json.loads(config.read_bytes())["kind"]
    except FileNotFoundError:
        raise InputError(f"{config}: no such file; name the folder of a saved generator") from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        raise InputError(f"{config}: states no kind of generator; name the folder of a saved one") from None
    return generator_class(str(kind)).load(folder)

"""What all generators share: images as samples, a budget as a training run, seeded drawing, the folder of a model."""

# B batch · n images · X right · Y anterior · Z superior

import hashlib
import json
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.anatomy.features import prepared_voxels
from tenfold.anatomy.generators.interface import Budget, Cost, Grid, Size
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.sidecars import write_json
from tenfold.core.artifacts import ModelCard, load_weights, save_model
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, train
from tenfold.core.training.config import first_difference
from tenfold.core.training.order import Samples
from tenfold.core.training.randomness import derive_seed

__all__ = [
    "PreparedSamples",
    "check_grid",
    "draw_images",
    "load_generator_folder",
    "prepared_samples",
    "run",
    "save_generator",
    "seeded",
]

_IDENTITY = "generator.json"
_SAVES = 20  # checkpoints of a run
_WIDEST = 512  # voxels a side; a folder that asks for more is damaged
_SIZES: tuple[Size, ...] = ("paper", "miniature")
Device = Literal["auto", "cpu", "cuda"]


# --- images ----------------------------------------------------------------------------------------------------------


class PreparedSamples:
    """The images of a set as float32 tensors (1, X, Y, Z) in [-1, 1]; each is read when it is asked for.

    Args:
        images: Prepared images.
        grid: The shape that all must have.

    Raises:
        InputError: There is no image. Reading one raises it too: it was not prepared, or has another shape.
    """

    def __init__(self, images: ImageSet, grid: Grid) -> None:
        if not len(images):
            raise InputError(f"{images.folder}: has no image; there is nothing to learn from")
        self._images, self._grid = images, grid

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> Tensor:
        voxels_XYZ = prepared_voxels(self._images[number])
        if voxels_XYZ.shape != self._grid:
            raise InputError(
                f"{self._images.paths[number]}: has {_times(voxels_XYZ.shape)} voxels, the generator makes "
                f"{_times(self._grid)}; prepare the images at its voxel size, or make one of their grid"
            )
        return torch.from_numpy(np.ascontiguousarray(voxels_XYZ))[None]

    def fingerprint(self) -> str:
        """Which images these are, by their names and the sizes of their files."""
        try:
            listed = [[name, path.stat().st_size] for name, path in self._named()]
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def _named(self) -> Iterator[tuple[str, Path]]:
        return zip(self._images.names, self._images.paths, strict=True)


def prepared_samples(images: ImageSet, grid: Grid) -> PreparedSamples:
    """The images of a set as samples of a training run; see `PreparedSamples`."""
    return PreparedSamples(images, grid)


# --- training --------------------------------------------------------------------------------------------------------


def run(
    module: nn.Module,
    samples: Samples,
    loss: Callable[[nn.Module, Any], Any],
    folder: Path | str,
    budget: Budget,
    *,
    batch_size: int,
    learning_rate: float,
    betas: tuple[float, float],
    parameters: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    identity: Mapping[str, object] | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Cost:
    """Train a module with Adam (core's AdamW without decay and clipping, at a constant rate) until a budget is used up.

    Args:
        module: All that is trained.
        samples: What it learns from.
        loss: As `tenfold.core.training.train` takes it.
        folder: Of the run. One that was interrupted goes on; so does a finished one with a larger budget.
        budget: As many steps are made as show at least `budget.images`.
        batch_size: The paper's; taken where the budget names none, but at most as many as there are samples.
        learning_rate: Of all parameters that `parameters` gives no rate of their own.
        betas: Adam's.
        parameters: Groups with rates of their own, as torch takes them.
        identity: What the run is, as JSON values; a run of another is not gone on with.
        device: "auto", "cpu" or "cuda".
        quiet: No progress bar.

    Raises:
        InputError: As `train` does; or a budget below 1, or the folder holds another run.
    """
    if budget.images < 1 or budget.batch_size < 0:
        raise InputError(f"budget of {budget.images} images, {budget.batch_size} at once: show at least one")
    batch = budget.batch_size or min(batch_size, len(samples))
    steps = -(-budget.images // batch)
    config = TrainingConfig(
        steps, batch, learning_rate=learning_rate, schedule="constant", weight_decay=0.0, betas=betas, clip=0.0,
        device=cast(Device, device), seed=budget.seed, save_every=-(-steps // _SAVES),
    )  # fmt: skip
    _claim(Path(folder), json.loads(json.dumps(dict(identity or {}))))
    groups = parameters or (lambda trained: [{"params": list(trained.parameters())}])
    result = train(module, samples, loss, folder, config, parameters=groups, quiet=quiet)
    trained = sum(parameter.numel() for parameter in module.parameters())
    return Cost(trained, result.steps * batch, result.seconds, _peak_bytes(module))


def _claim(folder: Path, identity: dict[str, object]) -> None:
    """A folder belongs to one run."""
    path = folder / _IDENTITY
    try:
        if path.exists():
            if differs := first_difference(json.loads(path.read_bytes()), identity):
                raise InputError(f"{folder}: holds another run: {differs}; choose another folder")
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, identity)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise InputError(f"{path}: is damaged; choose another folder for the run") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot hold a run ({error.strerror}); choose another folder") from None


def _peak_bytes(module: nn.Module) -> int:
    if next(module.parameters()).is_cuda:
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """First weights depend on the seed, and the caller's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_checked(seed))
        yield


def _checked(seed: int) -> int:
    if not 0 <= seed < 1 << 32:
        raise InputError(f"seed is {seed}; it must be from 0 to 2^32 - 1")
    return seed


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw_images(
    count: int, seed: int, draw: Callable[[torch.Generator], Tensor], first: int = 0
) -> NDArray[np.float32]:
    """Images (n, X, Y, Z), clipped to [-1, 1]; each is drawn by itself, from a source of the seed and its number.

    Args:
        count: How many.
        seed: 0 to 2^32 - 1.
        draw: Makes one image, of any shape that holds X Y Z voxels and ones, from a generator of random numbers on
            the CPU.
        first: Number of the first image.

    Raises:
        InputError: A count below 1, a first number below 0, a seed out of range.
    """
    if count < 1:
        raise InputError(f"{count} images: ask for at least one")
    if first < 0:
        raise InputError(f"first image {first}: images are counted from 0")
    _checked(seed)
    drawn = []
    with torch.inference_mode():
        for number in range(first, first + count):
            source = torch.Generator()
            source.manual_seed(derive_seed(seed, "sample", number))
            image_XYZ = draw(source).squeeze().clamp(-1, 1).to("cpu", torch.float32)
            drawn.append(np.asarray(image_XYZ.numpy()))
    return np.stack(drawn)


# --- the folder of a model -------------------------------------------------------------------------------------------


def check_grid(grid: Grid, size: Size) -> tuple[Grid, Size]:
    """A grid of three sensible sides and a size that there is. Raises InputError."""
    if size not in _SIZES:
        raise InputError(f"size is {size!r}; choose {' or '.join(_SIZES)}")
    sides = tuple(grid)
    if len(sides) != 3 or not all(type(side) is int and 1 <= side <= _WIDEST for side in sides):
        raise InputError(f"grid is {grid!r}; give three whole numbers of voxels, up to {_WIDEST}")
    return (sides[0], sides[1], sides[2]), size


def save_generator(
    folder: Path | str, kind: str, grid: Grid, size: Size, module: nn.Module, about: Mapping[str, object]
) -> None:
    """Write a model folder: config.json with kind, grid, size and about; the weights; a card.

    Args:
        folder: Where it is to lie; an older model folder is replaced.
        kind: The generator's name.
        grid: Of its images.
        size: Of its networks.
        module: What sampling needs.
        about: JSON values for config.json, such as affine, processing, what it learned from. `data` in it, licence by
            data set, also goes into the card.

    Raises:
        InputError: As `tenfold.core.artifacts.save_model`.
    """
    data = about.get("data")
    card = ModelCard(
        title=f"{kind}, {size}",
        room="anatomy",
        summary=f"Draws T1-weighted brain images of {_times(grid)} voxels, without skull, in [-1, 1].",
        data={str(name): str(licence) for name, licence in data.items()} if isinstance(data, Mapping) else {},
        metrics={},
        intended_use="Research on generators of brain MRI; judge what it draws with `tenfold anatomy evaluate`.",
        limits="Not for medical use. Its images are no one's anatomy, may lack what is rare or small, and may repeat "
        "images that it learned from; judge them before use.",
        license="other",
    )
    save_model(folder, module, {"kind": kind, "grid": list(grid), "size": size, "about": dict(about)}, card)


def load_generator_folder(folder: Path | str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config, its grid and size checked, and the weights of a folder that `save_generator` wrote.

    Raises:
        InputError: It is no model folder, of another kind, or damaged.
    """
    config, weights = load_weights(folder)
    if config.get("kind") != kind:
        raise InputError(f"{folder}: holds a model of kind {config.get('kind')!r}, not {kind}; name another folder")
    grid = config.get("grid")
    if not isinstance(grid, list) or not isinstance(config.get("about"), dict):
        raise InputError(f"{folder}: its config.json has no grid or no about; save the generator again")
    config["grid"], config["size"] = check_grid(tuple(grid), config.get("size", ""))
    return config, weights


def _times(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))

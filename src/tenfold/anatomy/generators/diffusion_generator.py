"""What the diffusion models share: a denoiser trained beside the average of its weights, and a generator that draws."""

# n images · X right · Y anterior · Z superior

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.anatomy.generators.diffusion import Averaged
from tenfold.anatomy.generators.interface import Budget, Cost, Generator, Grid, Size
from tenfold.anatomy.generators.training import (
    check_grid,
    draw_images,
    load_generator_folder,
    run,
    save_generator,
    seeded,
)
from tenfold.core.artifacts import load_into
from tenfold.core.errors import InputError
from tenfold.core.training.order import Samples

__all__ = ["DiffusionGenerator", "add_costs", "share_budget", "train_denoiser"]


class DiffusionGenerator(Generator):
    """A generator that removes noise step by step; a kind says from what.

    Args:
        grid: Shape of the images.
        size: The paper's widths, or about an eighth of them.

    Raises:
        InputError: The networks cannot make such a grid; the message says what they need.
    """

    def __init__(self, grid: Grid, size: Size = "paper") -> None:
        self.grid, self.size = check_grid(grid, size)
        self._check_grid()
        self._networks: nn.ModuleDict | None = None

    @abstractmethod
    def _check_grid(self) -> None:
        """Raises InputError where the networks cannot make the grid."""

    @abstractmethod
    def build(self) -> nn.ModuleDict:
        """The untrained networks, by name."""

    @abstractmethod
    def draw(self, networks: Any, source: torch.Generator) -> Tensor:
        """One image, from noise that `source`, a generator of the CPU, gives."""

    def sample(self, count: int, seed: int = 0, first: int = 0) -> NDArray[np.float32]:
        """Images (n, X, Y, Z) in [-1, 1]; see `Generator.sample`. Raises InputError before `fit` or `load`."""
        networks = self._trained()
        return draw_images(count, seed, lambda source: self.draw(networks, source), first)

    def save(self, folder: Path | str, about: Mapping[str, object]) -> None:
        """Write the networks with their averaged weights; see `Generator.save`. Raises InputError before `fit`."""
        save_generator(folder, self.name, self.grid, self.size, self._trained(), about)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote; see `Generator.load`."""
        config, weights = load_generator_folder(folder, cls.name)
        made = cls(config["grid"], config["size"])
        with seeded(0):
            networks = made.build()
        load_into(networks, weights, folder)
        made._networks = networks.eval()
        return made

    def _trained(self) -> nn.ModuleDict:
        if self._networks is None:
            raise InputError(f"{self.name}: has not learned yet; fit it, or load a saved one")
        return self._networks

    def _identity(self, part: str, images: str) -> dict[str, object]:
        """What a run is; another is not gone on with in its folder."""
        return {"kind": self.name, "part": part, "grid": self.grid, "size": self.size, "images": images}


def train_denoiser(
    network: nn.Module,
    samples: Samples,
    loss: Callable[[nn.Module, Any], Tensor],
    folder: Path | str,
    budget: Budget,
    *,
    batch_size: int,
    learning_rate: float,
    identity: Mapping[str, object],
    device: str,
    quiet: bool,
) -> Cost:
    """Train a network with Adam (betas 0.9 and 0.999); it ends with the moving average of its weights.

    Args:
        network: Is trained in place, and on the run's device afterwards.
        samples: What it learns from.
        loss: Of the network and a batch.
        folder: Of the run; see `training.run`, also for what is not named here.
        budget: How much is shown.
        batch_size: The paper's.
        learning_rate: The paper's.
        identity: What the run is.
        device: "auto", "cpu" or "cuda".
        quiet: No progress bar.
    """
    averaged = Averaged(network)

    def averaging_loss(trained: Any, batch: Any) -> Tensor:
        trained.absorb()
        return loss(trained.network, batch)

    cost = run(
        averaged, samples, averaging_loss, folder, budget, batch_size=batch_size, learning_rate=learning_rate,
        betas=(0.9, 0.999), identity=identity, device=device, quiet=quiet,
    )  # fmt: skip
    averaged.absorb()  # the weights of the last step
    network.load_state_dict(averaged.average.state_dict())
    return replace(cost, parameters=sum(weight.numel() for weight in network.parameters()))


def share_budget(budget: Budget, share: float) -> tuple[Budget, Budget]:
    """A budget in two: this share of the images, at least one, and what is left of them.

    Raises:
        InputError: There are fewer than two images.
    """
    if budget.images < 2:
        raise InputError(f"budget of {budget.images} images: this kind trains two networks; show at least two")
    first = min(budget.images - 1, max(1, round(share * budget.images)))
    return replace(budget, images=first), replace(budget, images=budget.images - first)


def add_costs(one: Cost, other: Cost) -> Cost:
    """What two runs took together; the most memory of either."""
    return Cost(
        one.parameters + other.parameters,
        one.images + other.images,
        one.seconds + other.seconds,
        max(one.peak_bytes, other.peak_bytes),
    )

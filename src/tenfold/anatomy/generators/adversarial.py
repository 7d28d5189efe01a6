"""What the adversarial generators share: players that learn together, and a generator that draws alone.

Each player has a loss of its own. The official code lets them take turns, one step each; here all take their step
together, from the same point and on the same images: what is trained is the sum of their losses, and in each loss the
weights of the other players are held. No gradient of one player's loss reaches another's weights, so that the sum
changes each as its own loss does.
"""

# B batch · L latent · X right · Y anterior · Z superior

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.anatomy.generators.blocks import UpsamplingGenerator, check_sides
from tenfold.anatomy.generators.interface import Budget, Cost, Generator, Grid, Size
from tenfold.anatomy.generators.training import (
    check_grid,
    draw_images,
    load_generator_folder,
    prepared_samples,
    run,
    save_generator,
    seeded,
)
from tenfold.anatomy.sets import ImageSet
from tenfold.core.artifacts import load_into
from tenfold.core.errors import InputError

__all__ = ["Adversarial", "Upsampling", "held", "unrecorded"]

_NARROWER = 8  # a miniature's widths are the paper's by this


class Adversarial(Generator):
    """A generator that learns from players; a kind says which, with which losses.

    Args:
        grid: Shape of the images.
        size: The paper's widths, or an eighth of them.

    Attributes:
        batch_size: Images at once, the paper's.
        betas: Adam's, the paper's.
        rates: Learning rate by player, the paper's; "generator" is the one that draws. A miniature learns at eight
            times these: Adam's best rate rises as widths fall (arXiv 2203.03466), and it is to be done in minutes.

    Raises:
        InputError: The networks cannot make such a grid; the message says what they need.
    """

    batch_size: ClassVar[int]
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    rates: ClassVar[Mapping[str, float]]

    def __init__(self, grid: Grid, size: Size = "paper") -> None:
        self.grid, self.size = check_grid(grid, size)
        self._check_grid()
        self._network: nn.Module | None = None

    def _width(self, of_paper: int) -> int:
        """A number of channels in this size."""
        return of_paper if self.size == "paper" else of_paper // _NARROWER

    @property
    @abstractmethod
    def latent(self) -> int:
        """How many random numbers an image is made from."""

    @abstractmethod
    def _check_grid(self) -> None:
        """Raises InputError where the networks cannot make the grid."""

    @abstractmethod
    def build_generator(self) -> nn.Module:
        """The untrained network that makes images (B, 1, X, Y, Z) from latents (B, L)."""

    @abstractmethod
    def build_players(self) -> nn.ModuleDict:
        """All untrained networks, by their names in `rates`."""

    @abstractmethod
    def losses(self, players: Any, real_B1XYZ: Tensor) -> dict[str, Tensor]:
        """The loss of each player, or of players that learn as one; each reaches the weights of these alone."""

    def fit(
        self, images: ImageSet, folder: Path | str, budget: Budget, *, device: str = "auto", quiet: bool = False
    ) -> Cost:
        """Learn from prepared images; see `Generator.fit`."""
        samples = prepared_samples(images, self.grid)
        with seeded(budget.seed):
            # On a CPU convolutions of few channels take two thirds of the time in this order of voxels.
            players = self.build_players().to(memory_format=torch.channels_last_3d)

        def loss(trained: nn.Module, real_B1XYZ: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            parts = self.losses(trained, real_B1XYZ)
            return torch.stack(list(parts.values())).sum(), parts

        identity = {"kind": self.name, "grid": self.grid, "size": self.size, "images": samples.fingerprint()}
        cost = run(
            players, samples, loss, folder, budget, batch_size=self.batch_size, betas=self.betas,
            learning_rate=self._rate("generator"), parameters=self._groups, identity=identity, device=device,
            quiet=quiet,
        )  # fmt: skip
        self._network = players["generator"].eval()
        return cost

    def _groups(self, players: Any) -> list[dict[str, Any]]:
        return [{"params": list(players[name].parameters()), "lr": self._rate(name)} for name in self.rates]

    def _rate(self, player: str) -> float:
        return self.rates[player] * (1 if self.size == "paper" else _NARROWER)

    def sample(self, count: int, seed: int = 0, first: int = 0) -> NDArray[np.float32]:
        """Images (n, X, Y, Z) in [-1, 1]; see `Generator.sample`. Raises InputError before `fit` or `load`."""
        network = self._trained()
        device = next(network.parameters()).device
        return draw_images(
            count, seed, lambda source: network(torch.randn(1, self.latent, generator=source).to(device)), first
        )

    def save(self, folder: Path | str, about: Mapping[str, object]) -> None:
        """Write the network that draws; see `Generator.save`. Raises InputError before `fit` or `load`."""
        save_generator(folder, self.name, self.grid, self.size, self._trained(), about)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote; see `Generator.load`."""
        config, weights = load_generator_folder(folder, cls.name)
        made = cls(config["grid"], config["size"])
        made.use(weights, folder)
        return made

    def use(self, weights: Mapping[str, Tensor], source: Path | str) -> None:
        """Take weights for the network that draws. Raises InputError, which names `source`, where they do not fit."""
        with seeded(0):
            network = self.build_generator()
        load_into(network, weights, source)
        self._network = network.eval()

    def _trained(self) -> nn.Module:
        if self._network is None:
            raise InputError(f"{self.name}: has not learned yet; fit it, or load a saved one")
        return self._network


class Upsampling(Adversarial):
    """A generator that starts from a small volume and doubles it, as those of VAE-GAN and alpha-WGAN do.

    Attributes:
        bias: Whether its convolutions have one.
    """

    bias: ClassVar[bool]

    @property
    def latent(self) -> int:
        """1000 in the paper."""
        return self._width(1000)

    def _check_grid(self) -> None:
        check_sides(self.name, self.grid)

    def build_generator(self) -> nn.Module:
        """See `UpsamplingGenerator`."""
        return UpsamplingGenerator(self.latent, self._width(64), self.grid, self.size, bias=self.bias)


@contextmanager
def held(*players: nn.Module) -> Iterator[None]:
    """In the block these weights are constants; gradients pass through to what the players were given."""
    weights = [weight for player in players for weight in player.parameters()]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def unrecorded(player: nn.Module) -> Iterator[None]:
    """In the block batch norms do not take down what they see for drawing, where only latents of the prior come."""
    norms = [module for module in player.modules() if isinstance(module, nn.BatchNorm3d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True

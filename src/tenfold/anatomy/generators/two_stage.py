"""Two-stage diffusion: a whole volume at low resolution, then the grid's own resolution, given the first.

After MedSyn (Xu et al. 2024, arXiv 2310.03559): its widths, its loss, which is the image's error, and its 50 steps of
DDIM. Its factored convolutions, its text and its schedule by cosine are left out.
The second network learns on random boxes of half the grid's sides, as there every voxel depends on its surroundings and
the low resolution says the rest. The given volume has a little noise added, in training and in sampling, so that what
the first network gets wrong does not surprise the second (Ho et al. 2022, arXiv 2106.15282, section 4.1).
"""

# B batch · X right · Y anterior · Z superior · xyz the same at low resolution

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tenfold.anatomy.generators.denoiser import Denoiser, DenoiserConfig
from tenfold.anatomy.generators.diffusion import Judged, linear_schedule, sample_ddim, squared_error
from tenfold.anatomy.generators.diffusion_generator import (
    DiffusionGenerator,
    add_costs,
    share_budget,
    train_denoiser,
)
from tenfold.anatomy.generators.interface import Budget, Cost, Size
from tenfold.anatomy.generators.training import prepared_samples, seeded
from tenfold.anatomy.sets import ImageSet
from tenfold.core.errors import InputError

__all__ = ["TwoStageDiffusion", "lower"]

_SCHEDULE = linear_schedule()
_GIVEN_NOISE = 0.1  # standard deviation
_LEAST_SIDE = 8  # at low resolution


@dataclass(frozen=True)
class _Settings:
    """What differs between the paper's size and the miniature."""

    factor: int
    low: tuple[int, ...]
    low_steps: int
    fine: tuple[int, ...]
    fine_steps: int
    blocks: int
    batch_size: int
    learning_rate: float
    judged: Judged
    share: float  # of the images shown that the first network gets


_SETTINGS: dict[Size, _Settings] = {
    "paper": _Settings(4, (160, 320, 640, 1280), 50, (56, 112, 224, 448), 50, 2, 4, 1e-4, "image", 0.5),
    "miniature": _Settings(2, (16, 32, 64), 25, (16, 16, 32), 10, 1, 2, 1e-3, "velocity", 0.5),
}


class TwoStageDiffusion(DiffusionGenerator):
    """Two diffusion models, one of low resolution; needs sides that are multiples of 4 (miniature: 2), 8 times that.

    Each network is shown half of a budget's images; they are two runs in the folder, `low` and `fine`.
    """

    name = "two-stage"
    heads: ClassVar[int] = 4

    @property
    def _settings(self) -> _Settings:
        return _SETTINGS[self.size]

    def _check_grid(self) -> None:
        factor = self._settings.factor
        if any(side % factor or side < _LEAST_SIDE * factor for side in self.grid):
            sides = " x ".join(map(str, self.grid))
            raise InputError(
                f"{self.name}: a grid of {sides} does not fit; each side must be a multiple of {factor} voxels, "
                f"{_LEAST_SIDE * factor} or more"
            )

    def build(self) -> nn.ModuleDict:
        """The network of low resolution, with attention at its coarsest level, and the fine one, without."""
        settings = self._settings
        low = DenoiserConfig(3, 1, 1, settings.low, settings.blocks, (len(settings.low) - 1,), self.heads)
        fine = DenoiserConfig(3, 2, 1, settings.fine, settings.blocks)
        return nn.ModuleDict({"low": Denoiser(low), "fine": Denoiser(fine)})

    def fit(
        self, images: ImageSet, folder: Path | str, budget: Budget, *, device: str = "auto", quiet: bool = False
    ) -> Cost:
        """Learn from prepared images; see `Generator.fit`."""
        samples, settings = prepared_samples(images, self.grid), self._settings
        with seeded(budget.seed):
            networks = self.build()
        losses, costs = {"low": self._low_loss, "fine": self._fine_loss}, []
        for part, share in zip(losses, share_budget(budget, settings.share), strict=True):
            costs.append(
                train_denoiser(
                    networks[part], samples, losses[part], Path(folder) / part, share, device=device, quiet=quiet,
                    batch_size=settings.batch_size, learning_rate=settings.learning_rate,
                    identity=self._identity(part, samples.fingerprint()),
                )
            )  # fmt: skip
        self._networks = networks.eval()
        return add_costs(*costs)

    def _low_loss(self, network: Any, images_B1XYZ: Tensor) -> Tensor:
        low_B1xyz = lower(images_B1XYZ, self._settings.factor)
        return squared_error(network, low_B1xyz, _SCHEDULE, self._settings.judged).mean()

    def _fine_loss(self, network: Any, images_B1XYZ: Tensor) -> Tensor:
        low_B1xyz = lower(images_B1XYZ, self._settings.factor)
        given_B1XYZ = self._given(low_B1xyz + _GIVEN_NOISE * torch.randn_like(low_B1xyz))
        clean, given = _random_box(torch.cat([images_B1XYZ, given_B1XYZ], 1)).chunk(2, 1)

        def predict(noisy: Tensor, step_B: Tensor) -> Tensor:
            return network(torch.cat([noisy, given], 1), step_B)

        return squared_error(predict, clean, _SCHEDULE, self._settings.judged).mean()

    def _given(self, low_B1xyz: Tensor) -> Tensor:
        """Low resolution on the fine grid."""
        return nn.functional.interpolate(low_B1xyz, size=self.grid, mode="trilinear")

    def draw(self, networks: Any, source: torch.Generator) -> Tensor:
        """One image (1, 1, X, Y, Z)."""
        low, fine, settings = networks["low"], networks["fine"], self._settings
        device = next(low.parameters()).device

        def noise(*sides: int) -> Tensor:
            return torch.randn(1, 1, *sides, generator=source).to(device)

        sides = [side // settings.factor for side in self.grid]
        low_B1xyz = sample_ddim(low, noise(*sides), _SCHEDULE, settings.low_steps)
        given = self._given(low_B1xyz + _GIVEN_NOISE * noise(*sides))
        return sample_ddim(
            lambda noisy, step_B: fine(torch.cat([noisy, given], 1), step_B),
            noise(*self.grid),
            _SCHEDULE,
            settings.fine_steps,
        )


def lower(images_B1XYZ: Tensor, factor: int) -> Tensor:
    """The means of cubes of `factor` voxels a side."""
    return nn.functional.avg_pool3d(images_B1XYZ, factor)


def _random_box(volumes_BCXYZ: Tensor) -> Tensor:
    """A box of half the sides, at a place that is drawn from torch's global generator, the same for the whole batch."""
    for axis in (2, 3, 4):
        side = volumes_BCXYZ.shape[axis]
        first = int(torch.randint(side - side // 2 + 1, ()))
        volumes_BCXYZ = volumes_BCXYZ.narrow(axis, first, side // 2)
    return volumes_BCXYZ

"""cDPM: a diffusion model of a few axial slices at a time, given some others, that fills a volume set by set.

Peng et al. 2023 (arXiv 2212.08034), after flexible diffusion of videos (Harvey et al. 2022, arXiv 2205.11495). At each
step of training some slices of a volume are drawn, some of them given without noise, the rest noised; the loss is that
of the noised ones. A channel says which are given. Sampling begins with a set of slices from nothing and goes on, given
slices that are there, until the volume is full.

The paper's code has the slices know only how far apart they lie, and gives it the first slice of a real image at
sampling. Here each also knows its place in the volume, so that nothing real is needed.
"""

# B batch · K slices at a time · X right · Y anterior · Z superior

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tenfold.anatomy.generators.denoiser import Denoiser, DenoiserConfig
from tenfold.anatomy.generators.diffusion import (
    Judged,
    Predict,
    linear_schedule,
    sample_ddim,
    sample_ddpm,
    squared_error,
)
from tenfold.anatomy.generators.diffusion_generator import DiffusionGenerator, train_denoiser
from tenfold.anatomy.generators.interface import Budget, Cost, Grid, Size
from tenfold.anatomy.generators.training import prepared_samples, seeded
from tenfold.anatomy.sets import ImageSet
from tenfold.core.errors import InputError

__all__ = ["ConditionalSlices", "Order", "SliceSet", "draw_sets", "filling_order"]

Order = Literal["hierarchical", "autoregressive"]
_SCHEDULE = linear_schedule()
_LEAST_SIDE = 16  # halved four times


@dataclass(frozen=True)
class _Settings:
    """What differs between the paper's size and the miniature."""

    channels: tuple[int, ...]
    blocks: int
    window: int
    batch_size: int
    learning_rate: float
    judged: Judged
    ddim_steps: int  # 0: all steps of DDPM, as the paper samples


_SETTINGS: dict[Size, _Settings] = {
    "paper": _Settings((128, 128, 256, 384, 512), 2, 20, 2, 1e-4, "noise", 0),
    "miniature": _Settings((16, 16, 32, 64), 1, 8, 2, 1e-3, "velocity", 20),
}


@dataclass(frozen=True)
class SliceSet:
    """Slices that are generated together.

    Attributes:
        given: Numbers of slices that are there.
        wanted: Numbers of slices to generate.
    """

    given: tuple[int, ...]
    wanted: tuple[int, ...]


class ConditionalSlices(DiffusionGenerator):
    """cDPM; needs sides of 16 voxels or more.

    Args:
        grid: Shape of the images.
        size: The paper's widths, or an eighth of them and 8 slices at a time instead of 20.
        order: In which the volume is filled: evenly spread slices first and those between them later, or from the
            lowest slice up. It is of sampling alone, and not saved.
    """

    name = "cdpm"
    heads: ClassVar[int] = 4

    def __init__(self, grid: Grid, size: Size = "paper", order: Order = "hierarchical") -> None:
        super().__init__(grid, size)
        if order not in ("hierarchical", "autoregressive"):
            raise InputError(f"order is {order!r}; choose hierarchical or autoregressive")
        self.order: Order = order
        self._settings = _SETTINGS[size]
        self._window = min(self._settings.window, self.grid[2])

    def _check_grid(self) -> None:
        if min(self.grid) < _LEAST_SIDE:
            sides = " x ".join(map(str, self.grid))
            raise InputError(
                f"{self.name}: a grid of {sides} is too small; each side needs {_LEAST_SIDE} voxels or more"
            )

    def build(self) -> nn.ModuleDict:
        """The denoiser; two channels come in, values and whether the slice is given."""
        channels = self._settings.channels
        coarse = (len(channels) - 2, len(channels) - 1)
        config = DenoiserConfig(2, 2, 1, channels, self._settings.blocks, coarse, self.heads)
        return nn.ModuleDict({"denoiser": Denoiser(config)})

    def fit(
        self, images: ImageSet, folder: Path | str, budget: Budget, *, device: str = "auto", quiet: bool = False
    ) -> Cost:
        """Learn from prepared images; a set of slices counts as an image shown. See `Generator.fit`."""
        samples = prepared_samples(images, self.grid)
        with seeded(budget.seed):
            networks = self.build()
        cost = train_denoiser(
            networks["denoiser"], samples, self._loss, folder, budget, batch_size=self._settings.batch_size,
            learning_rate=self._settings.learning_rate, device=device, quiet=quiet,
            identity=self._identity("denoiser", samples.fingerprint()),
        )  # fmt: skip
        self._networks = networks.eval()
        return cost

    def _loss(self, network: Any, volumes_B1XYZ: Tensor) -> Tensor:
        """Mean squared error of the wanted slices."""
        place_BK, given_BK = draw_sets(len(volumes_B1XYZ), self.grid[2], self._window)
        place_BK, given_BK = place_BK.to(volumes_B1XYZ.device), given_BK.to(volumes_B1XYZ.device)
        slices_BZXY = volumes_B1XYZ[:, 0].permute(0, 3, 1, 2)
        clean = slices_BZXY.gather(1, place_BK[:, :, None, None].expand(-1, -1, *slices_BZXY.shape[2:]))

        def predict(noisy: Tensor, step_B: Tensor) -> Tensor:
            return self._predict(network, noisy, clean, step_B, place_BK, given_BK)

        squares_BK = squared_error(predict, clean, _SCHEDULE, self._settings.judged).mean((2, 3))
        return (squares_BK * ~given_BK).sum() / (~given_BK).sum()

    def _predict(
        self, network: Any, noisy: Tensor, clean: Tensor, step_B: Tensor, place_BK: Tensor, given_BK: Tensor
    ) -> Tensor:
        """The velocity (B, K, X, Y), where given slices are shown as they are."""
        is_given = given_BK[:, :, None, None].expand_as(noisy)
        shown = torch.stack([torch.where(is_given, clean, noisy), is_given.to(noisy.dtype)], 2)
        found: Tensor = network(shown, step_B, place_BK)[:, :, 0]
        return found

    def draw(self, networks: Any, source: torch.Generator) -> Tensor:
        """One image (X, Y, Z), set by set."""
        network = networks["denoiser"]
        device = next(network.parameters()).device
        volume_ZXY = torch.zeros(self.grid[2], *self.grid[:2], device=device)
        for one in filling_order(self.grid[2], self._window, self.order):
            chosen = torch.tensor([*one.given, *one.wanted], device=device)
            given_BK = (torch.arange(len(chosen), device=device) < len(one.given))[None]
            clean = volume_ZXY[chosen][None]
            start = torch.randn(clean.shape, generator=source).to(device)

            def predict(
                noisy: Tensor, step_B: Tensor, clean: Tensor = clean, chosen: Tensor = chosen, given: Tensor = given_BK
            ) -> Tensor:
                return self._predict(network, noisy, clean, step_B, chosen[None], given)

            made = self._remove(predict, start, source)
            volume_ZXY[list(one.wanted)] = made[0, len(one.given) :]
        return volume_ZXY.permute(1, 2, 0)

    def _remove(self, predict: Predict, start: Tensor, source: torch.Generator) -> Tensor:
        """As the size samples: DDIM, or DDPM as in the paper."""
        if steps := self._settings.ddim_steps:
            return sample_ddim(predict, start, _SCHEDULE, steps)
        return sample_ddpm(predict, start, _SCHEDULE, source)


# --- which slices ----------------------------------------------------------------------------------------------------


def draw_sets(batch: int, slices: int, window: int) -> tuple[Tensor, Tensor]:
    """Slices for a step of training, from torch's global generator of the CPU.

    Evenly spaced groups of slices, of random number, spacing and place, are drawn until there are enough; the first is
    wanted, each other given or wanted by a coin (Harvey et al. 2022, section 4).

    Args:
        batch: B.
        slices: Of a volume.
        window: K, at most `slices`.

    Returns:
        Numbers of slices (B, K), int64, no two the same in a row; and whether they are given, bool (B, K).
    """
    rows = [_draw_set(slices, window) for _ in range(batch)]
    place_BK = torch.tensor([[place for place, _ in row] for row in rows])
    return place_BK, torch.tensor([[is_given for _, is_given in row] for row in rows])


def _draw_set(slices: int, window: int) -> list[tuple[int, bool]]:
    chosen: dict[int, bool] = {}
    while len(chosen) < window:
        is_given = bool(chosen) and _uniform() < 0.5
        count = 1 + int(_uniform() * (window - len(chosen)))
        widest = (slices - 1) / max(1, count - 1)
        spacing = widest ** _uniform()  # as often between 1 and 2 as between 2 and 4
        first = _uniform() * (slices - 1 - spacing * (count - 1))
        for number in range(count):
            chosen.setdefault(min(slices - 1, max(0, round(first + number * spacing))), is_given)
    return sorted(chosen.items())


def _uniform() -> float:
    return float(torch.rand(()))


def filling_order(slices: int, window: int, order: Order) -> list[SliceSet]:
    """The sets in which a volume is filled.

    After a first set given nothing, half of a window is wanted at a time, given the slices that are nearest to it among
    those that are there.

    Args:
        slices: Of the volume.
        window: Most slices at a time, given ones included; 2 or more.
        order: "hierarchical": the first set is spread over the volume, later ones lie between. "autoregressive": from
            the lowest slice up.
    """
    if order == "autoregressive":
        first = list(range(min(window, slices)))
    else:
        first = sorted({round(number * (slices - 1) / (window - 1)) for number in range(window)})
    sets, there = [SliceSet((), tuple(first))], set(first)
    while missing := [number for number in range(slices) if number not in there]:
        wanted = missing[: max(1, window // 2)]
        middle = (wanted[0] + wanted[-1]) / 2
        nearest = sorted(there, key=lambda number: (abs(number - middle), number))
        sets.append(SliceSet(tuple(sorted(nearest[: window - len(wanted)])), tuple(wanted)))
        there.update(wanted)
    return sets

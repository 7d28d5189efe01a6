"""LDM: an autoencoder makes a small volume of latents from an image, and a diffusion model learns those.

    code = mean(x) + exp(logvar(x) / 2) noise        loss = |decode(code) - x| + 1e-6 KL(code, standard normal)
    z    = (code - centre) / spread                  what the diffusion model learns; sampled with DDIM

Rombach et al. 2022 (arXiv 2112.10752); sizes of the network for brain MRI, Pinaya et al. 2022 (arXiv 2209.07162), as
MONAI has it. Of the autoencoder's losses there, the perceptual one needs another network's weights and is left out, and
so is the adversarial one: decoded images are smoother than theirs. Each channel of the latents is standardised, where
theirs are divided by one number.
"""

# B batch · C channels of the latents · XYZ voxels · xyz places of the latents

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tenfold.anatomy.generators.denoiser import (
    Denoiser,
    DenoiserConfig,
    ResidualBlock,
    convolution,
    halve,
    leave,
    upsample,
)
from tenfold.anatomy.generators.diffusion import Judged, sample_ddim, scaled_schedule, squared_error
from tenfold.anatomy.generators.diffusion_generator import (
    DiffusionGenerator,
    add_costs,
    share_budget,
    train_denoiser,
)
from tenfold.anatomy.generators.interface import Budget, Cost, Size
from tenfold.anatomy.generators.training import prepared_samples, run, seeded
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.sidecars import digest_of
from tenfold.core.errors import InputError
from tenfold.core.training.order import Samples

__all__ = ["Autoencoder", "LatentDiffusion"]

_SCHEDULE = scaled_schedule()
_KL = 1e-6  # per image: of the sum over latents, beside the mean over voxels
_LOGVAR_RANGE = (-30.0, 20.0)
_MOST_KEPT = 1000  # latents in memory, at most 190 kB each in the paper's size
_MOST_MEASURED = 100  # images from which centre and spread are taken
_LEAST_SIDE = 4  # of the latents


@dataclass(frozen=True)
class _Settings:
    """What differs between the paper's size and the miniature."""

    autoencoder: tuple[int, ...]
    autoencoder_blocks: tuple[int, ...]
    autoencoder_rate: float
    denoiser: tuple[int, ...]
    denoiser_blocks: int
    denoiser_rate: float
    batch_size: int
    share: float  # of the images shown that the autoencoder gets
    judged: Judged
    ddim_steps: int


_SETTINGS: dict[Size, _Settings] = {
    "paper": _Settings((64, 128, 128, 128), (2, 2, 2, 2), 5e-5, (256, 512, 768), 2, 2.5e-5, 4, 0.5, "noise", 50),
    # Two halvings, not three: 36 x 48 x 36 leaves 9 x 12 x 9. Eight channels take a CPU as long as 16.
    "miniature": _Settings((16, 32, 32), (0, 1, 1), 2e-3, (32, 64, 96), 1, 1e-3, 2, 0.5, "velocity", 50),
}


class LatentDiffusion(DiffusionGenerator):
    """LDM; needs sides that are multiples of 8 voxels (miniature: 4), four times that or more.

    Of a budget's images the autoencoder is shown a half, the denoiser the rest; they are two runs in the folder,
    `autoencoder` and `denoiser_` with a digest of the autoencoder: where that learns on, a denoiser begins anew.
    """

    name = "ldm"
    latent: ClassVar[int] = 3

    @property
    def _settings(self) -> _Settings:
        return _SETTINGS[self.size]

    @property
    def _shrink(self) -> int:
        return int(2 ** (len(self._settings.autoencoder) - 1))

    def _check_grid(self) -> None:
        if any(side % self._shrink or side < _LEAST_SIDE * self._shrink for side in self.grid):
            sides = " x ".join(map(str, self.grid))
            raise InputError(
                f"{self.name}: a grid of {sides} does not fit; each side must be a multiple of {self._shrink} voxels, "
                f"{_LEAST_SIDE * self._shrink} or more"
            )

    def build(self) -> nn.ModuleDict:
        """Autoencoder and denoiser."""
        settings = self._settings
        config = DenoiserConfig(3, self.latent, self.latent, settings.denoiser, settings.denoiser_blocks, (1, 2), 1)
        autoencoder = Autoencoder(settings.autoencoder, settings.autoencoder_blocks, self.latent)
        return nn.ModuleDict({"autoencoder": autoencoder, "denoiser": Denoiser(config)})

    def fit(
        self, images: ImageSet, folder: Path | str, budget: Budget, *, device: str = "auto", quiet: bool = False
    ) -> Cost:
        """Learn from prepared images; see `Generator.fit`."""
        samples, settings = prepared_samples(images, self.grid), self._settings
        shown = samples.fingerprint()
        first, second = share_budget(budget, settings.share)
        with seeded(budget.seed):
            networks: Any = self.build()
        autoencoder, denoiser = networks["autoencoder"], networks["denoiser"]
        cost = run(
            autoencoder, samples, reconstruction_loss, Path(folder) / "autoencoder", first, device=device, quiet=quiet,
            batch_size=settings.batch_size, learning_rate=settings.autoencoder_rate, betas=(0.9, 0.999),
            identity=self._identity("autoencoder", shown),
        )  # fmt: skip
        weights = {name: weight.cpu() for name, weight in autoencoder.state_dict().items()}
        place = Path(folder) / f"denoiser_{digest_of(weights)}"  # another autoencoder has other latents
        found = _Latents(autoencoder.eval(), samples)
        autoencoder.measure(torch.stack([found[number] for number in range(min(_MOST_MEASURED, len(samples)))]))

        def loss(network: Any, encoded: Tensor) -> Tensor:
            latents = autoencoder.standardise(drawn(encoded))
            return squared_error(network, latents, _SCHEDULE, settings.judged).mean()

        cost = add_costs(
            cost,
            train_denoiser(
                denoiser, found, loss, place, second, device=device, quiet=quiet,
                batch_size=settings.batch_size, learning_rate=settings.denoiser_rate,
                identity=self._identity("denoiser", shown),
            ),
        )  # fmt: skip
        self._networks = networks.eval()
        return cost

    def draw(self, networks: Any, source: torch.Generator) -> Tensor:
        """One image (1, 1, X, Y, Z)."""
        autoencoder, denoiser = networks["autoencoder"], networks["denoiser"]
        x, y, z = (side // self._shrink for side in self.grid)
        start = torch.randn(1, self.latent, x, y, z, generator=source).to(autoencoder.centre.device)
        found = sample_ddim(denoiser, start, _SCHEDULE, self._settings.ddim_steps, clip=False)
        decoded: Tensor = autoencoder.decode(autoencoder.restore(found))
        return decoded


class Autoencoder(nn.Module):
    """Images to a normal distribution of latents, and latents to images.

    Args:
        channels: At each level; sides are halved between levels.
        blocks: Residual blocks of each level, on either way.
        latent: Channels of the latents.

    Attributes:
        centre: (C, 1, 1, 1), mean of each channel of the latents; 0 until `measure` is called.
        spread: (C, 1, 1, 1), their standard deviation; 1 until then.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(convolution(3, 1, channels[0]), *_blocks(channels[0], blocks[0]))
        for level, (ins, outs) in enumerate(pairwise(channels), 1):
            self.encoder.extend([halve(3, ins, outs), *_blocks(outs, blocks[level])])
        self.encoder.extend([*leave(3, channels[-1], 2 * latent)])
        self.decoder = nn.Sequential(convolution(3, latent, channels[-1]), *_blocks(channels[-1], blocks[-1]))
        for level, (outs, ins) in reversed(list(enumerate(pairwise(channels)))):
            self.decoder.extend([_Double(ins, outs), *_blocks(outs, blocks[level])])
        self.decoder.extend([*leave(3, channels[0], 1)])
        self.register_buffer("centre", torch.zeros(latent, 1, 1, 1))
        self.register_buffer("spread", torch.ones(latent, 1, 1, 1))

    def encode(self, images_B1XYZ: Tensor) -> Tensor:
        """Means, then logarithms of variances (B, 2 C, x, y, z)."""
        found: Tensor = self.encoder(images_B1XYZ.contiguous(memory_format=torch.channels_last_3d))
        return found

    def decode(self, code_BCxyz: Tensor) -> Tensor:
        """Images (B, 1, X, Y, Z), about in [-1, 1]."""
        found: Tensor = self.decoder(code_BCxyz.contiguous(memory_format=torch.channels_last_3d))
        return found

    @torch.no_grad()
    def measure(self, encoded: Tensor) -> None:
        """Take centre and spread from what `encode` found."""
        mean_CN = encoded.chunk(2, 1)[0].transpose(0, 1).flatten(1)
        self.centre.copy_(mean_CN.mean(1).reshape(self.centre.shape))
        self.spread.copy_(mean_CN.std(1).clamp(min=1e-6).reshape(self.spread.shape))

    def standardise(self, code_BCxyz: Tensor) -> Tensor:
        """Latents with mean about 0 and variance about 1."""
        return (code_BCxyz - self.centre) / self.spread

    def restore(self, z_BCxyz: Tensor) -> Tensor:
        """What `standardise` was given."""
        return z_BCxyz * self.spread + self.centre


def drawn(encoded: Tensor) -> Tensor:
    """A draw (B, C, ...) from the distribution that `encode` found, from torch's global generators."""
    mean, logvar = encoded.chunk(2, 1)
    return mean + (0.5 * logvar.clamp(*_LOGVAR_RANGE)).exp() * torch.randn_like(mean)


def reconstruction_loss(autoencoder: Any, images_B1XYZ: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean absolute error, and the divergence from a standard normal; both also as measures."""
    encoded = autoencoder.encode(images_B1XYZ)
    mean, logvar = encoded.chunk(2, 1)
    logvar = logvar.clamp(*_LOGVAR_RANGE)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()
    error = (autoencoder.decode(drawn(encoded)) - images_B1XYZ).abs().mean()
    return error + _KL * divergence, {"reconstruction": error, "divergence": divergence}


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(3, channels, channels) for _ in range(count)]


class _Double(nn.Module):
    """Twice the sides (nearest), then a convolution."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.convolution = convolution(3, ins, outs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to (B, C', ...)."""
        return self.convolution(upsample(x, [2 * side for side in x.shape[2:]]))


class _Latents:
    """What the autoencoder finds in each image, (2 C, x, y, z); of the first thousand it is kept."""

    def __init__(self, autoencoder: Autoencoder, samples: Samples) -> None:
        self._autoencoder, self._samples = autoencoder, samples
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._samples)

    @torch.no_grad()
    def __getitem__(self, number: int) -> Tensor:
        if (kept := self._kept.get(number)) is not None:
            return kept
        image_1XYZ = self._samples[number].to(self._autoencoder.centre.device)
        encoded = self._autoencoder.encode(image_1XYZ[None])[0].cpu().contiguous()
        if len(self._kept) < _MOST_KEPT:
            self._kept[number] = encoded
        return encoded

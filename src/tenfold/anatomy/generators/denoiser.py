"""The U-Net of diffusion: in 3D for volumes and latents, in 2D for slices that attend to each other.

Residual blocks with group norm, whose scale and shift depend on the step of diffusion (Dhariwal and Nichol 2021, arXiv
2105.05233); attention over space at the coarse levels; for slices also attention over slices with learned relative
positions (Harvey et al. 2022, arXiv 2205.11495; Shaw et al. 2018, arXiv 1803.02155, eq. 3 and 4). Sides need not be
powers of two: they are halved upwards, and the way back up aims at the sides that were left.
"""

# B batch · K slices · C channels · E embedding · H heads · D size of a head · L places · XYZ voxels

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Denoiser", "DenoiserConfig", "ResidualBlock", "convolution", "halve", "leave", "upsample"]

_GROUPS, _LEAST_PER_GROUP = 32, 4


@dataclass(frozen=True)
class DenoiserConfig:
    """What a denoiser is made of.

    Attributes:
        dims: 2 for slices that attend to each other, 3 for volumes.
        inputs: Channels of the input, conditions included.
        outputs: Channels of the answer.
        channels: At each level; sides are halved between levels.
        blocks: Residual blocks per level on the way down; one more on the way up.
        attention: Levels with attention, counted from 0, the finest.
        heads: Of the attention; they divide the channels of its levels.
    """

    dims: int
    inputs: int
    outputs: int
    channels: tuple[int, ...]
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 4


class Denoiser(nn.Module):
    """Noisy values and the step of diffusion to their velocity (see `diffusion`); untrained it says 0."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        first, size = config.channels[0], 4 * config.channels[0]
        self.embed = nn.Sequential(nn.Linear(first, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU())
        self.place = nn.Linear(first, size) if config.dims == 2 else None
        self.enter = convolution(config.dims, config.inputs, first)
        self.down, left = self._way_down(size)
        deepest = config.channels[-1]
        self.middle = nn.ModuleList(_Level(config, deepest, deepest, size, attends) for attends in (True, False))
        self.up = self._way_up(size, left)
        self.leave = leave(config.dims, first, config.outputs, zeroed=True)

    def _way_down(self, size: int) -> tuple[nn.ModuleList, list[int]]:
        """The steps down, and the channels of what each leaves for the way up."""
        config, steps, left = self.config, nn.ModuleList(), [self.config.channels[0]]
        for level, channels in enumerate(config.channels):
            if level:
                steps.append(halve(config.dims, left[-1], left[-1]))
                left.append(left[-1])
            for _ in range(config.blocks):
                steps.append(_Level(config, left[-1], channels, size, level in config.attention))
                left.append(channels)
        return steps, left

    def _way_up(self, size: int, left: Sequence[int]) -> nn.ModuleList:
        config, steps, waiting, now = self.config, nn.ModuleList(), list(left), self.config.channels[-1]
        for level, channels in reversed(list(enumerate(config.channels))):
            for _ in range(config.blocks + 1):
                steps.append(_Level(config, now + waiting.pop(), channels, size, level in config.attention))
                now = channels
            if level:
                steps.append(convolution(config.dims, now, now))
        return steps

    def forward(self, noisy: Tensor, step_B: Tensor, place_BK: Tensor | None = None) -> Tensor:
        """The velocity, of the shape of `noisy` but for channels.

        Args:
            noisy: 3D: (B, C, X, Y, Z). 2D: slices (B, K, C, X, Y).
            step_B: Steps of diffusion, integers.
            place_BK: 2D: the number of each slice in its volume.
        """
        first = self.config.channels[0]
        embedding_BE = self.embed(sinusoids(step_B, first))
        if self.place is None or place_BK is None:
            return self._denoise(noisy, embedding_BE, None)
        batch, slices = place_BK.shape
        place_BKE = self.place(sinusoids(place_BK.flatten(), first)).reshape(batch, slices, -1)
        embedding = (embedding_BE[:, None] + place_BKE).flatten(0, 1)
        return self._denoise(noisy.flatten(0, 1), embedding, place_BK).unflatten(0, (batch, slices))

    def _denoise(self, noisy: Tensor, embedding: Tensor, place_BK: Tensor | None) -> Tensor:
        layout = torch.channels_last if self.config.dims == 2 else torch.channels_last_3d  # several times as fast
        now = self.enter(noisy.contiguous(memory_format=layout))
        left = [now]
        for step in self.down:
            now = step(now, embedding, place_BK) if isinstance(step, _Level) else step(now)
            left.append(now)
        for step in self.middle:
            now = step(now, embedding, place_BK)
        for step in self.up:
            if isinstance(step, _Level):
                now = step(torch.cat([now, left.pop()], 1), embedding, place_BK)
            else:
                now = step(upsample(now, left[-1].shape[2:]))
        return self.leave(now)


class _Level(nn.Module):
    """A residual block, and attention behind it where the level has it."""

    def __init__(self, config: DenoiserConfig, ins: int, outs: int, size: int, attends: bool = False) -> None:
        super().__init__()
        self.block = ResidualBlock(config.dims, ins, outs, size)
        over_slices = attends and config.dims == 2
        self.slices = SliceAttention(outs, config.heads) if over_slices else None
        self.space = SpaceAttention(outs, config.heads) if attends else None

    def forward(self, x: Tensor, embedding: Tensor, place_BK: Tensor | None) -> Tensor:
        """(B or B K, C, ...) to the same with other channels."""
        x = self.block(x, embedding)
        if self.slices is not None and place_BK is not None:
            x = self.slices(x, place_BK)
        return x if self.space is None else self.space(x)


# --- parts -----------------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; between them an embedding, if there is one, scales and shifts."""

    def __init__(self, dims: int, ins: int, outs: int, embedding: int = 0) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(ins), nn.SiLU(), convolution(dims, ins, outs))
        self.modulate = nn.Linear(embedding, 2 * outs) if embedding else None
        self.norm = _norm(outs)
        self.second = nn.Sequential(nn.SiLU(), _zeroed(convolution(dims, outs, outs)))
        self.shortcut = nn.Identity() if ins == outs else convolution(dims, ins, outs, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, C, ...) and (B, E) to (B, C', ...)."""
        h = self.norm(self.first(x))
        if self.modulate is not None:
            scale, shift = self.modulate(embedding).reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, 1)
            h = h * (1 + scale) + shift
        return self.shortcut(x) + self.second(h)


class SpaceAttention(nn.Module):
    """Every place of a slice or volume attends to every other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.leave = _zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same."""
        tokens_BLC = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.project(tokens_BLC).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen_BHLD = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.leave(seen_BHLD.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


class SliceAttention(nn.Module):
    """Every slice attends, place by place, to all slices of its volume; how far apart they lie is learned from.

    Keys and values get a vector each that a small network makes of the signed distance: logarithms of the distance up
    and down, and whether it is 0 (Harvey et al. 2022, appendix).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.relative = nn.Sequential(nn.Linear(3, channels), nn.SiLU(), _zeroed(nn.Linear(channels, 2 * channels)))
        self.leave = _zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, place_BK: Tensor) -> Tensor:
        """(B K, C, X, Y) and the slices' numbers to the same."""
        batch, slices = place_BK.shape
        tokens_BLKC = self.norm(x).unflatten(0, (batch, slices)).flatten(3).permute(0, 3, 1, 2)
        q, k, v = self.project(tokens_BLKC).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # B L H K D
        apart_BKK = (place_BK[:, :, None] - place_BK[:, None]).float()
        features = [apart_BKK.clamp(min=0).log1p(), (-apart_BKK).clamp(min=0).log1p(), (apart_BKK == 0).float()]
        key, value = self.relative(torch.stack(features, -1)).unflatten(3, (2, self.heads, -1)).unbind(3)  # B K K H D
        logits = q @ k.transpose(-1, -2) + torch.einsum("blhid,bijhd->blhij", q, key)
        weights = (logits / math.sqrt(q.shape[-1])).softmax(-1)
        seen = weights @ v + torch.einsum("blhij,bijhd->blhid", weights, value)
        found_BLKC = self.leave(seen.transpose(2, 3).flatten(3))
        return x + found_BLKC.permute(0, 2, 3, 1).reshape(x.shape)


def sinusoids(number_N: Tensor, size: int) -> Tensor:
    """(N, size): cosines and sines of numbers at wavelengths from 2 pi to 10,000 times that."""
    half = size // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=number_N.device) / half)
    angles = number_N[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def _norm(channels: int) -> nn.GroupNorm:
    """Group norm with at most 32 groups, of at least 4 channels each."""
    most = max(1, min(_GROUPS, channels // _LEAST_PER_GROUP))
    return nn.GroupNorm(max(groups for groups in range(1, most + 1) if channels % groups == 0), channels)


def leave(dims: int, ins: int, outs: int, zeroed: bool = False) -> nn.Sequential:
    """The last layers of a network: norm, SiLU, a convolution, which may begin at 0."""
    last = convolution(dims, ins, outs)
    return nn.Sequential(_norm(ins), nn.SiLU(), _zeroed(last) if zeroed else last)


def halve(dims: int, ins: int, outs: int) -> nn.Module:
    """A convolution that halves every side, rounding up."""
    return convolution(dims, ins, outs, stride=2)


def upsample(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Nearest neighbours on a grid of these sides."""
    return nn.functional.interpolate(x, size=tuple(sides), mode="nearest-exact")


def convolution(dims: int, ins: int, outs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution of odd kernel, padded to keep sides; its weights lie as its input does."""
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    return kind(ins, outs, kernel, stride=stride, padding=kernel // 2).to(memory_format=layout)


def _zeroed(layer: nn.Module) -> nn.Module:
    """So that a block begins as its shortcut."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

"""Denoising diffusion: noise schedules, the loss that predicts noise, and two ways to sample.

    q(x_t | x_0) = N(sqrt(a_t) x_0, (1 - a_t) I)                    a_t = product of (1 - b_s) for s <= t
    loss         = E |noise - predict(x_t, t)|^2                     Ho et al. 2020 (arXiv 2006.11239), eq. 14
    DDPM         x_t -> x_(t-1) with fresh noise, all T steps        eq. 7 and 11
    DDIM         x_t -> x_s without, any s < t: few steps            Song et al. 2021 (arXiv 2010.02502), eq. 12, eta 0

Steps count from 0: a of step -1 is 1, the image itself.
"""

# B batch · T steps of diffusion

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "Averaged",
    "Predict",
    "Schedule",
    "linear_schedule",
    "noise_loss",
    "sample_ddim",
    "sample_ddpm",
    "scaled_schedule",
]

Predict = Callable[[Tensor, Tensor], Tensor]
"""Noisy values (B, ...) and steps (B,) to the noise in them (B, ...)."""

_WARMUP = 10  # steps until the average is no longer dominated by the first weights, which were random


@dataclass(frozen=True)
class Schedule:
    """How much of the image is left at each step.

    Attributes:
        kept_T: float64 (T,), falling; the a_t above.
    """

    kept_T: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.kept_T)

    def kept(self, step: int) -> float:
        """a of a step; 1 for step -1."""
        return 1.0 if step < 0 else float(self.kept_T[step])

    def noised(self, clean: Tensor, noise: Tensor, step_B: Tensor) -> Tensor:
        """x_t of images (B, ...), each at its own step."""
        kept = torch.from_numpy(self.kept_T).to(clean.device)[step_B].reshape(-1, *[1] * (clean.ndim - 1))
        return kept.sqrt().to(clean.dtype) * clean + (1 - kept).sqrt().to(clean.dtype) * noise


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """b_t in a straight line; the paper's 1000 steps (Ho et al. 2020, section 4)."""
    return Schedule(np.cumprod(1 - np.linspace(first, last, steps, dtype=np.float64), dtype=np.float64))


def scaled_schedule(steps: int = 1000, first: float = 0.0015, last: float = 0.0205) -> Schedule:
    """The square root of b_t in a straight line, as latent diffusion has it; the bounds are those for brain MRI.

    Rombach et al. 2022 (arXiv 2112.10752); Pinaya et al. 2022 (arXiv 2209.07162).
    """
    return Schedule(np.cumprod(1 - np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2, dtype=np.float64))


# --- training --------------------------------------------------------------------------------------------------------


def noise_loss(predict: Predict, clean: Tensor, schedule: Schedule) -> Tensor:
    """Mean squared error of the predicted noise; step and noise are drawn from torch's global generators.

    Args:
        predict: The network.
        clean: (B, ...).
        schedule: Of the noise.
    """
    step_B = torch.randint(len(schedule), (len(clean),)).to(clean.device)  # on the CPU: a GPU then sees the same steps
    noise = torch.randn_like(clean)
    return nn.functional.mse_loss(predict(schedule.noised(clean, noise, step_B), step_B), noise)


class Averaged(nn.Module):
    """A network and the exponential moving average of its weights, from which is sampled.

    The average is part of the module, so it is saved with every checkpoint, and a run that was interrupted ends in the
    same bits. It takes no gradients.

    Attributes:
        network: What is trained.
        average: The same with averaged weights.
        steps: How many times `absorb` was called.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.9999) -> None:
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._decay = decay

    @torch.no_grad()
    def absorb(self) -> None:
        """Let the average take in the weights as they are now; to be called at every step.

        The decay grows with the steps, (1 + s) / (10 + s) up to its value: a short run is not held at random weights.
        """
        done = int(self.steps)
        decay = min(self._decay, (1 + done) / (_WARMUP + done))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        for mean, now in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(now)
        self.steps += 1


# --- sampling --------------------------------------------------------------------------------------------------------


def _clean(noisy: Tensor, noise: Tensor, kept: float, clip: bool) -> Tensor:
    """The image that noisy values and the noise in them imply, in [-1, 1] if asked for."""
    clean = (noisy - (1 - kept) ** 0.5 * noise) / kept**0.5
    return clean.clamp(-1, 1) if clip else clean


def sample_ddpm(
    predict: Predict, start: Tensor, schedule: Schedule, source: torch.Generator, *, clip: bool = True
) -> Tensor:
    """From pure noise to images, one step of the schedule at a time, with noise of variance b_t (Ho et al., eq. 7).

    Args:
        predict: The network.
        start: (B, ...), standard normal.
        schedule: Of the training.
        source: Where fresh noise comes from; a generator of the CPU.
        clip: Hold the implied image in [-1, 1].
    """
    noisy = start
    for step in range(len(schedule) - 1, -1, -1):
        kept, before = schedule.kept(step), schedule.kept(step - 1)
        rate = 1 - kept / before
        noise = predict(noisy, torch.full((len(noisy),), step, device=noisy.device))
        clean = _clean(noisy, noise, kept, clip)
        noisy = (before**0.5 * rate * clean + (1 - rate) ** 0.5 * (1 - before) * noisy) / (1 - kept)
        if step:
            fresh = torch.randn(noisy.shape, generator=source).to(noisy.device)
            noisy = noisy + (rate * (1 - before) / (1 - kept)) ** 0.5 * fresh
    return noisy


def sample_ddim(predict: Predict, start: Tensor, schedule: Schedule, steps: int, *, clip: bool = True) -> Tensor:
    """From pure noise to images in a few steps that draw nothing: the same start gives the same images.

    Args:
        predict: The network.
        start: (B, ...), standard normal.
        schedule: Of the training.
        steps: How many; see `ddim_steps`.
        clip: Hold the implied image in [-1, 1].
    """
    noisy = start
    for step, following in ddim_steps(len(schedule), steps):
        kept, left = schedule.kept(step), schedule.kept(following)
        noise = predict(noisy, torch.full((len(noisy),), step, device=noisy.device))
        clean = _clean(noisy, noise, kept, clip)
        implied = (noisy - kept**0.5 * clean) / (1 - kept) ** 0.5 if clip else noise  # the noise that fits what is kept
        noisy = left**0.5 * clean + (1 - left) ** 0.5 * implied
    return noisy


def ddim_steps(count: int, steps: int) -> Iterator[tuple[int, int]]:
    """Pairs of a step and the one behind it, from the last of `count` steps down to -1, denser towards the image.

    They grow with the square of their number (Song et al. 2021, appendix D.2). Evenly spread ones narrow what is
    generated: of normal data of spread 0.3, 20 of them leave 79 % of the spread, the squares 91 %.
    """
    chosen = [-1]
    for number in range(1, steps + 1):
        chosen.append(max(chosen[-1] + 1, round(count * (number / steps) ** 2) - 1))
    return zip(chosen[:0:-1], chosen[-2::-1], strict=True)

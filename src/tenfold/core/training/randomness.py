"""The generators of `random`, NumPy and torch: seeded, kept apart, written down and set again."""

import hashlib
import random
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["apart", "derive_seed", "random_state", "seed_device", "seed_random", "set_random_state"]

Purpose = Literal["order", "sample", "batch", "model", "evaluation"]
_PURPOSES: tuple[Purpose, ...] = ("order", "sample", "batch", "model", "evaluation")


def derive_seed(seed: int, purpose: Purpose, number: int) -> int:
    """A seed of 64 bits for one purpose and number; others share nothing with it."""
    text = struct.pack("<3Q", seed, _PURPOSES.index(purpose), number)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def seed_random(seed: int, purpose: Purpose, number: int) -> None:
    """Seed all global generators but CUDA's."""
    derived = derive_seed(seed, purpose, number)
    random.seed(derived)
    np.random.seed(derived & 0xFFFFFFFF)
    # Not torch.manual_seed: it also queues a call per seed until CUDA is in use.
    torch.default_generator.manual_seed(derived)


def seed_device(seed: int, purpose: Purpose, number: int, device: torch.device) -> None:
    """Seed all global generators, and that of `device`, the current one, if it is of CUDA."""
    seed_random(seed, purpose, number)
    if device.type == "cuda":
        torch.cuda.manual_seed(derive_seed(seed, purpose, number))


@contextmanager
def apart(device: torch.device | None = None) -> Iterator[None]:
    """Put all generators back at the end of the block, that of the CUDA device included if one is given."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of all generators, that of `device` included, as tensors for a file."""
    _, python, gauss = random.getstate()
    legacy: dict[str, Any] = np.random.get_state(legacy=False)
    state = {
        "python": torch.tensor(python, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
        "numpy_position": torch.tensor([legacy["state"]["pos"], legacy["has_gauss"]], dtype=torch.int64),
        "numpy_gauss": torch.tensor([legacy["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Set what `random_state` returned; a CUDA device's only where there was one."""
    gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = state["numpy_position"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, state["numpy_gauss"].item()))
    torch.set_rng_state(state["torch"].clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), device)

"""How fast a block of layers is with one mixer and another, on this machine."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tenfold.attention.cache import SlotCache
from tenfold.attention.layers import MixerName
from tenfold.attention.model import Block, GSAConfig
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["BlockSpeed", "check_device", "compare_blocks"]

_DECODED = 32  # tokens one after the other for a decoding time


@dataclass(frozen=True)
class BlockSpeed:
    """Times of one block, medians in seconds, with the least and the greatest.

    Attributes:
        mixer: What mixes tokens in it.
        tokens: Of the sequence.
        prefill: Forward pass without gradients.
        train: Forward and backward pass.
        decode: A token more behind the sequence.
        state_bytes: What is remembered of the sequence.
    """

    mixer: str
    tokens: int
    prefill: tuple[float, float, float]
    train: tuple[float, float, float]
    decode: tuple[float, float, float]
    state_bytes: int


def compare_blocks(
    mixers: Sequence[MixerName],
    lengths: Sequence[int],
    *,
    hidden_size: int = 512,
    num_heads: int = 8,
    repeats: int = 5,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> list[BlockSpeed]:
    """Time blocks (mixer and feed-forward layer, as in Llama) of the same width on the same input.

    Runs of the mixers follow each other in turn, so that what else the machine does hits all alike.

    Args:
        mixers: What is compared.
        lengths: Tokens of the sequence, batch 1, float32.
        hidden_size: Width of the blocks.
        num_heads: Heads of the mixers.
        repeats: Rounds after one that does not count.
        device: Where.
        progress: Called with "speed", the lengths done and all.

    Raises:
        InputError: Numbers below 1, a width that the heads do not divide, a device that is not there.
    """
    if repeats < 1 or not lengths or min(lengths) < 1:
        raise InputError(f"lengths {list(lengths)}, {repeats} repeats: give at least one length, and 1 or more of each")
    if num_heads < 1:
        raise InputError(f"num_heads is {num_heads}; it must be at least 1")
    check_device(device)
    found = []
    blocks = {mixer: _block(mixer, hidden_size, num_heads, device) for mixer in mixers}
    for done, tokens in enumerate(lengths):
        x = torch.randn(1, tokens, hidden_size, generator=torch.Generator().manual_seed(0)).to(device)
        states = {mixer: SlotCache(1) for mixer in mixers}
        with torch.inference_mode():
            for mixer, block in blocks.items():
                block(x, None, states[mixer].states[0], None)
        sizes = {mixer: states[mixer].nbytes() for mixer in mixers}
        works: dict[tuple[str, str], Callable[[], object]] = {}
        for mixer, block in blocks.items():
            works[mixer, "prefill"] = lambda block=block, x=x: _prefill(block, x)  # type: ignore[misc]
            works[mixer, "train"] = lambda block=block, x=x: _train(block, x)  # type: ignore[misc]
            works[mixer, "decode"] = lambda block=block, x=x, state=states[mixer]: _decode(block, x, state)  # type: ignore[misc]
        times = _alternate(works, repeats, device)
        for mixer in mixers:
            decode = tuple(value / _DECODED for value in times[mixer, "decode"])
            found.append(
                BlockSpeed(mixer, tokens, times[mixer, "prefill"], times[mixer, "train"], decode, sizes[mixer])  # type: ignore[arg-type]
            )
        progress("speed", done + 1, len(lengths))
    return found


def _block(mixer: MixerName, hidden_size: int, num_heads: int, device: str) -> Block:
    config = GSAConfig(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_hidden_layers=1,
        mixer=mixer,
        num_slots=hidden_size // num_heads,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block: Block = Block(config).to(device)
    return block


def check_device(device: str) -> None:
    """Raise InputError for a GPU that is not there."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device is '{device}', but torch finds no NVIDIA GPU here; take cpu")


def _prefill(block: Block, x: torch.Tensor) -> None:
    with torch.inference_mode():
        block(x, None, None, None)


def _train(block: Block, x: torch.Tensor) -> None:
    block(x.requires_grad_(), None, None, None).sum().backward()
    block.zero_grad()
    x.grad = None


def _decode(block: Block, x: torch.Tensor, cache: SlotCache) -> None:
    copy = dict(cache.states[0])  # each run decodes behind the same tokens
    with torch.inference_mode():
        for _ in range(_DECODED):
            block(x[:, :1], None, copy, None)


def _alternate(
    works: dict[tuple[str, str], Callable[[], object]], repeats: int, device: str
) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Median, least and greatest seconds of every work."""
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in works}
    gc.collect()
    gc.freeze()  # what is there already need not be looked through before each run
    try:
        for _ in range(repeats + 1):
            for name, work in works.items():
                gc.collect()
                _wait(device)
                start = time.perf_counter()
                work()
                _wait(device)
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.unfreeze()
    return {name: (statistics.median(own[1:]), min(own[1:]), max(own[1:])) for name, own in seconds.items()}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()

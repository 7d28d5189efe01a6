"""Gated Slot Attention on a CPU beside its peers: same work, same threads, in turn, in one run; printed as ratios.

    python benchmarks/attention.py --json build/attention.json [--lengths 1024 4096 16384] [--quick]

- the operator, forward and backward: in chunks, against the token-by-token recurrence of flash-linear-attention
  (`naive_recurrent_gsa`, what that package has for CPUs; pip install --no-deps flash-linear-attention==0.6.0
  fla-core==0.6.0 einops triton) and our own;
- a block of layers: against the decoder layer of transformers' Llama with SDPA, and gated linear attention:
  prefill, training step, decoding step, and the peak memory of a process that does each;
- decoding: bytes of state and peak memory after 1 to 100,000 tokens.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tenfold.attention import GSAConfig, MixerConfig, SlotCache, gsa
from tenfold.attention.layers import MIXERS
from tenfold.attention.model import Block
from tenfold.core.machine import processor
from tenfold.core.reports import Cell, Table

WORKS = ("prefill", "train", "decode")
DECODED = 32


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.child:
        print(json.dumps(peak_of(*options.child)))
        return
    torch.set_num_threads(options.threads)
    tables = []
    for work in (
        lambda: operator_table(options.repeats, 512 if options.quick else 2048),
        lambda: block_table(options.lengths, options.repeats, options.width, options.threads),
        lambda: memory_table(1_000 if options.quick else 100_000),
    ):
        tables.append(work())
        tables[-1].print()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([json.loads(table.to_json()) for table in tables], indent=1) + "\n")
        options.json.with_suffix(".md").write_text("\n".join(table.to_markdown() for table in tables))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--width", type=int, default=512, help="of the blocks, heads of 64")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds; medians are shown")
    parser.add_argument("--json", type=Path, help="where results go too, and as .md beside")
    parser.add_argument("--quick", action="store_true", help="short sequences: shows that it runs")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.repeats = [256, 512], 2
    return options


# --- the operator -------------------------------------------------------------------------------------------


def operator_table(repeats: int, tokens: int) -> Table:
    """Forward and backward pass of 4 heads of 64 with 64 slots."""
    torch.manual_seed(0)
    q, k, v, f = (torch.randn(1, tokens, 4, 64) for _ in range(4))
    g = torch.nn.functional.logsigmoid(f) / 8
    given = [x.requires_grad_() for x in (q, k, v, -torch.expm1(g), g)]

    def ours(backend: str) -> Callable[[], torch.Tensor]:
        return lambda: gsa(*given, backend=backend)[0]  # type: ignore[arg-type]

    works = {"in chunks": ours("torch"), "token by token, ours": ours("naive")}
    versions = ""
    try:
        fla = importlib.import_module("fla.ops.gsa.naive").naive_recurrent_gsa
        works["token by token, flash-linear-attention"] = lambda: fla(*given, scale=1.0)[0]
        versions = f"flash-linear-attention {importlib.import_module('importlib.metadata').version('fla-core')}"
    except Exception as error:  # not installed, or not for this machine
        versions = f"flash-linear-attention left out: {' '.join(str(error).split())[:100]}"
    outputs = {name: work() for name, work in works.items()}
    times = alternate({"in chunks": backward_of(works["in chunks"])}, repeats)
    slow = {name: backward_of(work) for name, work in works.items() if name != "in chunks"}
    times |= alternate(slow, 1)  # each takes a thousand times as long
    rows: list[list[Cell]] = []
    for name, (median, least, most) in times.items():
        error = float((outputs[name] - outputs["in chunks"]).detach().abs().max())
        rows.append(
            [name, 1e3 * median, f"{1e3 * least:.3g} to {1e3 * most:.3g}", median / times["in chunks"][0], error]
        )
    columns = ["operator", "ms", "least to most", "times the time of chunks", "largest difference"]
    return Table(f"Operator, forward and backward, {tokens} tokens", columns, rows, [versions, machine()])


def backward_of(work: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """The work and its gradients."""
    return lambda: work().sum().backward()


# --- blocks -------------------------------------------------------------------------------------------------


def block_table(lengths: list[int], repeats: int, width: int, threads: int) -> Table:
    """Blocks of one width on the same input."""
    rows: list[list[Cell]] = []
    names = ("gsa", "llama", "gla")
    for tokens in lengths:
        blocks = {name: make_block(name, width) for name in names}
        x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
        for work in WORKS:
            times = alternate({name: prepare(blocks[name], name, work, x) for name in names}, repeats)
            base = times["gsa"][0]
            for name, (median, least, most) in times.items():
                peak = run_child(name, work, tokens, width) if work != "decode" else None
                each = DECODED if work == "decode" else 1
                spread = f"{1e3 * least / each:.3g} to {1e3 * most / each:.3g}"
                rows.append([tokens, work, name, 1e3 * median / each, spread, median / base, peak])
    columns = ["tokens", "work", "block", "ms", "least to most", "times the time of gsa", "peak MB above the block"]
    title = f"A block of width {width}, {width // 64} heads, batch 1, float32, {threads} threads"
    return Table(title, columns, rows, [f"llama: LlamaDecoderLayer of transformers, SDPA; {machine()}"])


def make_block(name: str, width: int) -> torch.nn.Module:
    """A mixer and a feed-forward layer."""
    torch.manual_seed(0)
    if name == "llama":
        models = importlib.import_module("transformers.models.llama.modeling_llama")
        config = importlib.import_module("transformers").LlamaConfig(
            hidden_size=width,
            num_attention_heads=width // 64,
            intermediate_size=GSAConfig(hidden_size=width).intermediate_size,
        )
        config._attn_implementation = "sdpa"
        return LlamaBlock(models.LlamaDecoderLayer(config, 0), models.LlamaRotaryEmbedding(config), config)
    config = GSAConfig(hidden_size=width, num_heads=width // 64, num_hidden_layers=1, mixer=name, num_slots=64)
    return Block(config)


class LlamaBlock(torch.nn.Module):
    """transformers' decoder layer called as our blocks are."""

    def __init__(self, layer: torch.nn.Module, rotary: torch.nn.Module, config: Any) -> None:
        super().__init__()
        self.layer, self.rotary, self.config = layer, rotary, config

    def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
        """Same shape as given."""
        seen = 0 if cache is None else cache.get_seq_length()
        places = torch.arange(seen, seen + x.shape[1])[None]
        options = {} if cache is None else {"cache": cache}
        output = self.layer(x, position_embeddings=self.rotary(x, places), position_ids=places, **options)
        return output[0] if isinstance(output, tuple) else output


def prepare(block: torch.nn.Module, name: str, work: str, x: torch.Tensor) -> Callable[[], None]:
    """What is timed."""
    if work == "prefill":
        return lambda: infer(block, name, x, None)
    if work == "train":
        return lambda: learn(block, name, x)
    cache = new_cache(name, block)
    infer(block, name, x, cache)

    def decode() -> None:
        for _ in range(DECODED):
            infer(block, name, x[:, :1], cache)
        if name == "llama":  # its cache grows, and every round is to begin behind the same tokens
            cache.crop(-DECODED)

    return decode


def new_cache(name: str, block: torch.nn.Module) -> Any:
    """What a block remembers by."""
    return importlib.import_module("transformers").DynamicCache() if name == "llama" else SlotCache(1)


def call(block: torch.nn.Module, name: str, x: torch.Tensor, cache: Any) -> torch.Tensor:
    """One pass."""
    if name == "llama":
        return block(x, cache)
    return block(x, None, None if cache is None else cache.states[0], None)


def infer(block: torch.nn.Module, name: str, x: torch.Tensor, cache: Any) -> None:
    """A pass without gradients."""
    with torch.inference_mode():
        call(block, name, x, cache)


def learn(block: torch.nn.Module, name: str, x: torch.Tensor) -> None:
    """Forward and backward pass."""
    given = x.clone().requires_grad_()
    call(block, name, given, None).sum().backward()
    block.zero_grad()


# --- memory -------------------------------------------------------------------------------------------------


def memory_table(longest: int) -> Table:
    """Streaming through one mixer: what it remembers, and what a process needs for it.

    Softmax attention stops at a tenth: it copies its keys and values at every token, which takes hours beyond.
    """
    rows: list[list[Cell]] = []
    for name, last in (("gsa", longest), ("softmax", longest // 10)):
        counts = [count for count in (1, 100, longest // 10, longest) if count <= last]
        rows += [[name, count, *run_child(name, "stream", count, 256)] for count in counts]
    columns = ["mixer", "tokens", "bytes of state", "peak MB above the mixer"]
    return Table("Streaming through one layer of width 256", columns, rows)


def run_child(name: str, work: str, tokens: int, width: int) -> Any:
    """What a process of its own finds: MB, or bytes of state and MB."""
    command = [sys.executable, __file__, "--child", name, work, str(tokens), str(width)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def peak_of(name: str, work: str, tokens: str, width: str) -> Any:
    """MB of this process above the block and its input; streaming, the bytes of state before that."""
    if work == "stream":
        return stream(name, int(tokens), int(width))
    block, x = make_block(name, int(width)), torch.randn(1, int(tokens), int(width))
    prepare(block, name, work, x[:, :64])()
    before = peak_megabytes()
    prepare(block, name, work, x)()
    return peak_megabytes() - before


def stream(name: str, count: int, width: int) -> tuple[int, float]:
    """Bytes of state after so many tokens through one layer, and the MB that took."""
    mixer = MIXERS[name](MixerConfig(hidden_size=width, num_heads=4, num_kv_heads=4))  # type: ignore[index]
    state: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        mixer(torch.zeros(1, 1, width), None, {})
        before, seen = peak_megabytes(), 0
        while seen < count:
            step = 1 if name == "gsa" else min(1024, count - seen)  # one by one would take softmax hours
            mixer(torch.zeros(1, step, width), None, state)
            seen += step
    return sum(x.numel() * x.element_size() for x in state.values()), peak_megabytes() - before


def peak_megabytes() -> float:
    """Of this process; the system's ru_maxrss would begin with that of the process which started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- time ---------------------------------------------------------------------------------------------------


def alternate(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, tuple[float, float, float]]:
    """Median, least and greatest seconds; works take turns, and a first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(own[1:]), min(own[1:]), max(own[1:])) for name, own in seconds.items()}


def machine() -> str:
    """What it was measured on."""
    return f"{processor()}, {os.cpu_count()} cores; torch {torch.__version__}"


if __name__ == "__main__":
    main()

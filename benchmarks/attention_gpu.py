"""Gated Slot Attention on an NVIDIA GPU: right? how fast, beside its peers? In one run, without a network.

    python benchmarks/attention_gpu.py --out build/gpu [--quick] [--limit 330]
    TRITON_INTERPRET=1 python benchmarks/attention_gpu.py --out build/gpu --interpret

Kernels are compiled and checked in processes beside each other, then timed one after the other. Results so far are
written after each part: attention_gpu.md and .json. The exit status is 1 unless every check is right. The kernels are
read from src/, nothing need be installed.
flash-linear-attention is timed where it can be imported, with fewer configurations to choose from than it has
(4 warps, 2 or 3 stages), for its own search takes minutes. --interpret runs every part on a few tokens in Triton's
interpreter; its times mean nothing.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).resolve().parents[1] / "src" / "tenfold" / "attention" / "kernels.py"
START = time.monotonic()
NAMES = ("q", "k", "v", "s", "g", "hk", "hv")
BOUNDS = {"float32": 2e-4, "float16": 1e-2, "bfloat16": 5e-2}  # of the largest value


@dataclass(frozen=True)
class Case:
    """A problem: B rows of T tokens, or packed sequences of the given lengths."""

    name: str
    query_heads: int
    heads: int
    keys: int
    values: int
    slots: int
    tokens: int = 200
    batch: int = 2
    kind: str = "float32"
    gates: str = "usual"
    chunk: int = 64
    lengths: tuple[int, ...] = ()


MODELS = (
    Case("1.3B", 4, 4, 512, 512, 64, kind="bfloat16"),
    Case("7B", 32, 8, 128, 128, 64, kind="bfloat16"),
    Case("small", 16, 16, 64, 64, 64, kind="bfloat16"),
)
CHECKS = (
    Case("heads of 64", 4, 2, 64, 64, 64),
    Case("heads of 64, ieee", 4, 2, 64, 64, 64),
    Case("heads of 64", 4, 2, 64, 64, 64, kind="bfloat16"),
    Case("heads of 64", 4, 2, 64, 64, 64, kind="float16"),
    Case("1.3B", 2, 2, 512, 512, 64, kind="bfloat16"),
    Case("1.3B", 1, 1, 512, 512, 64, kind="float32", tokens=130),
    Case("7B", 8, 2, 128, 128, 64, kind="bfloat16"),
    Case("odd sizes", 2, 1, 40, 72, 16, kind="float32", tokens=77, chunk=32),
    Case("odd sizes", 2, 1, 40, 72, 24, kind="bfloat16", tokens=77, chunk=16),
    Case("128 slots", 2, 2, 64, 64, 128, kind="bfloat16"),
    Case("hostile gates", 4, 2, 64, 64, 64, gates="mixed"),
    Case("hostile gates", 4, 2, 64, 64, 64, kind="bfloat16", gates="mixed"),
    Case("shut gates", 4, 2, 64, 64, 64, gates="floor"),
    Case("open gates", 4, 2, 64, 64, 64, gates="open"),
    Case("packed", 4, 2, 64, 64, 64, batch=1, lengths=(5, 64, 130, 0, 1)),
    Case("packed", 4, 2, 128, 64, 32, batch=1, kind="bfloat16", lengths=(64, 3, 200)),
)
# What the sweep tries: kernel, and its columns, slots, warps, stages.
SWEEP = (
    ("states", (64, 64, 4, 3)), ("states", (64, 32, 4, 2)), ("states", (64, 32, 4, 4)), ("states", (64, 32, 2, 3)),
    ("states", (128, 32, 4, 3)), ("states", (32, 64, 4, 3)),
    ("outputs", (64, 64, 8, 2)), ("outputs", (64, 64, 4, 3)), ("outputs", (32, 64, 4, 3)),
    ("outputs", (128, 64, 8, 2)),
    ("slot_gradients", (64, 64, 4, 2)), ("slot_gradients", (64, 64, 8, 3)), ("slot_gradients", (32, 64, 8, 3)),
    ("query_gradients", (64, 64, 4, 2)), ("query_gradients", (64, 64, 8, 3)), ("query_gradients", (32, 64, 8, 3)),
    ("column_gradients", (128, 64, 8, 2)), ("column_gradients", (64, 64, 8, 2)),
    ("column_gradients", (64, 64, 4, 3)),
    ("bf16 factors", ()),
)  # fmt: skip
UNCHANGED: tuple[str, tuple[int, ...]] = ("as it is", ())


def main() -> None:
    """Every part that the time allows."""
    options = parse()
    if options.interpret and os.environ.get("TRITON_INTERPRET") != "1":
        sys.exit("--interpret wants TRITON_INTERPRET=1 in the environment")
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "parts": {}}
    pool = None if options.interpret else ProcessPoolExecutor(12, get_context("spawn"), max_tasks_per_child=1)
    device = "cpu" if options.interpret else "cuda"
    checks = tiny(CHECKS) if options.interpret else CHECKS
    models = tiny(MODELS) if options.interpret else MODELS
    checking = [submit(pool, check, case, device) for case in checks]
    peers = {case.name: submit(pool, warm_peer, case) for case in models} if pool else {}
    tunings = list(SWEEP[: 2 if options.quick else len(SWEEP)])
    warming = [submit(pool, warm_tuning, case, UNCHANGED) for case in models] if pool else []
    warming += [submit(pool, warm_tuning, case, one) for case in models[:2] for one in tunings] if pool else []
    if importlib.util.find_spec("fla") and pool:
        importlib.import_module("fla.ops.gsa")  # takes a while, and the processes have enough to do
    keep(options, results, "checks", [answer(future, options, 0.4) for future in checking])
    problems = {name: answer(future, options, 0.5) for name, future in peers.items()}
    for problem in (answer(future, options, 0.5) for future in warming):
        if problem is not None:
            say(f"  not compiled ahead: {problem}")
    for child in active_children():  # late ones would disturb what is timed
        child.kill()
    results["card"] = card(options.interpret)
    keep(options, results, "speed", speeds(models, device, options))
    keep(options, results, "kernels", [row for case in models for row in kernel_times(case, device, options)])
    keep(options, results, "steps", steps(models, device, options))
    for case in models if not options.interpret else ():
        problem = problems[case.name]
        rows = peer_speeds(case, options) if problem is None else [{"model": case.name, "left out": problem}]
        keep(options, results, f"flash-linear-attention, {case.name}", rows)
    keep(options, results, "sweep", [row for case in models[:2] for row in sweep(case, tunings, device, options)])
    say(f"wrote {options.out / 'attention_gpu.md'}")
    wrong = [row for row in results["parts"]["checks"] if row.get("right") != "yes"]
    if wrong:
        say(f"{len(wrong)} of {len(checks)} checks are not right")
    sys.stdout.flush()
    os._exit(1 if wrong else 0)  # the pool would wait for processes that were ended


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--limit", type=float, default=330, help="seconds for all; later parts are left out")
    parser.add_argument("--quick", action="store_true", help="fewer lengths and shapes")
    parser.add_argument("--interpret", action="store_true", help="a few tokens in Triton's interpreter")
    options = parser.parse_args()
    options.quick = options.quick or options.interpret
    return options


def tiny(cases: Sequence[Case]) -> list[Case]:
    """The same kinds of problems, as small as the interpreter wants them; it cannot multiply bfloat16."""
    return [
        replace(case, query_heads=case.query_heads // case.heads, heads=1, keys=16, values=32, slots=16, batch=1,
                tokens=20, chunk=16, kind="float16" if case.kind == "bfloat16" else case.kind,
                lengths=tuple(length // 8 for length in case.lengths))
        for case in cases[::4]
    ]  # fmt: skip


def submit(pool: ProcessPoolExecutor | None, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run beside this process; without a pool, at once."""
    return pool.submit(work, *arguments) if pool else work(*arguments)


def answer(future: Any, options: argparse.Namespace, part: float) -> Any:
    """What a process found, or its error, until that part of the time is over."""
    if not isinstance(future, Future):
        return future
    try:
        return future.result(timeout=max(1.0, options.limit * part - (time.monotonic() - START)))
    except LateError:
        return "not ready in time"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"


# --- the problem and its reference --------------------------------------------------------------------------


def load_kernels() -> Any:
    """The module of the kernels, read from its file: the package around it needs an installation."""
    if "attention_kernels" not in sys.modules:
        spec = importlib.util.spec_from_file_location("attention_kernels", SOURCE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["attention_kernels"] = module
        spec.loader.exec_module(module)
    return sys.modules["attention_kernels"]


def inputs(case: Case, device: str, seed: int = 0) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """q, k, v, s, g, hk and hv, and gradients of outputs and final states."""
    torch.manual_seed(seed)
    tokens, kind = sum(case.lengths) or case.tokens, getattr(torch, case.kind)
    sequences, shape = len(case.lengths) or case.batch, (case.batch, tokens, case.heads)

    def draw(*sizes: int) -> Any:
        return torch.randn(*sizes, device=device)

    g = torch.nn.functional.logsigmoid(draw(*shape, case.slots)) / 8
    if case.gates == "floor":
        g = torch.full_like(g, -30.0)
    elif case.gates == "open":
        g = torch.zeros_like(g)
    elif case.gates == "mixed":
        kinds = torch.randint(0, 8, g.shape, device=device)
        g = torch.where(kinds == 0, -30.0, torch.where(kinds == 1, 0.0, torch.where(kinds == 2, g * 80, g)))
    s = torch.rand_like(g) / tokens if case.gates == "open" else -torch.expm1(g)
    tensors = {
        "q": draw(case.batch, tokens, case.query_heads, case.keys).to(kind),
        "k": draw(*shape, case.keys).to(kind),
        "v": draw(*shape, case.values).to(kind),
        "s": s,
        "g": g,
        "hk": draw(sequences, case.heads, case.keys, case.slots),
        "hv": draw(sequences, case.heads, case.slots, case.values),
    }
    grads = (
        draw(case.batch, tokens, case.query_heads, case.values).to(kind),
        draw(sequences, case.heads, case.keys, case.slots),
        draw(sequences, case.heads, case.slots, case.values),
    )
    return tensors, grads


def recurrence(q: Any, k: Any, v: Any, s: Any, g: Any, scale: float, hk: Any, hv: Any) -> tuple[Any, Any, Any]:
    """Token after token, as the paper has it."""
    group, out = q.shape[2] // k.shape[2], []
    for t in range(q.shape[1]):
        hk = hk * g[:, t, :, None].exp() + k[:, t, :, :, None] * s[:, t, :, None]
        hv = hv * g[:, t, :, :, None].exp() + s[:, t, :, :, None] * v[:, t, :, None]
        p = (scale * q[:, t, :, None] @ hk.repeat_interleave(group, 1)).softmax(-1)
        out.append((p @ hv.repeat_interleave(group, 1))[:, :, 0])
    return torch.stack(out, 1), hk, hv


def reference(q: Any, k: Any, v: Any, s: Any, g: Any, scale: float, hk: Any, hv: Any) -> tuple[Any, Any, Any]:
    """The same, 16 tokens at a time: the decays between all pairs, exponents never positive."""
    group, out = q.shape[2] // k.shape[2], [q.new_zeros(q.shape[0], 0, q.shape[2], v.shape[3])]
    for at in range(0, q.shape[1], 16):
        q_, k_, v_, s_, b = (x[:, at : at + 16].transpose(1, 2) for x in (q, k, v, s, g))  # (B, H, C, ·)
        b = b.cumsum(2)
        upper = torch.ones(b.shape[2], b.shape[2], dtype=torch.bool, device=q.device).triu(1)
        apart = (b[:, :, :, None] - b[:, :, None]).masked_fill(upper[:, :, None], -math.inf)
        decay = (apart.exp() * s_[:, :, None]).repeat_interleave(group, 1)
        heads = [x.repeat_interleave(group, 1) for x in (k_, v_, b.exp(), hk, hv)]
        z = heads[2] * (q_ @ heads[3]) + torch.einsum("bhij,bhijm->bhim", q_ @ heads[0].transpose(2, 3), decay)
        p = (scale * z).softmax(-1)
        o = (p * heads[2]) @ heads[4] + torch.einsum("bhim,bhijm->bhij", p, decay) @ heads[1]
        out.append(o.transpose(1, 2))
        left = (b[:, :, -1:] - b).exp() * s_
        hk = hk * b[:, :, -1, None].exp() + k_.transpose(2, 3) @ left
        hv = hv * b[:, :, -1, :, None].exp() + left.transpose(2, 3) @ v_
    return torch.cat(out, 1), hk, hv


def expected(case: Case, tensors: dict[str, Any], grads: tuple[Any, ...]) -> list[Any]:
    """Results and gradients in float64, sequence after sequence."""
    leaves = [tensors[name].double().requires_grad_() for name in NAMES]
    if not case.lengths:
        results = reference(*leaves[:5], 0.5, *leaves[5:])
    else:
        parts, at = [], 0
        for n, length in enumerate(case.lengths):
            here = [leaf[:, at : at + length] for leaf in leaves[:5]]
            parts.append(reference(*here, 0.5, leaves[5][n : n + 1], leaves[6][n : n + 1]))
            at += length
        results = tuple(torch.cat(one, int(number == 0)) for number, one in enumerate(zip(*parts, strict=True)))
    torch.autograd.backward(results, [grad.double() for grad in grads])
    return [*(result.detach() for result in results), *(leaf.grad for leaf in leaves)]


def check(case: Case, device: str) -> dict[str, Any]:
    """Largest errors of outputs, states and gradients, as shares of the largest values; of steps too."""
    kernels, (tensors, grads) = load_kernels(), inputs(case, device)
    if case.name.endswith("ieee"):
        kernels.FLOAT32_PRODUCTS = "ieee"
    starts = None
    if case.lengths:
        starts = torch.tensor([0, *case.lengths], device=device).cumsum(0).to(torch.int32)
    wanted = expected(case, tensors, grads)
    arguments = (*(tensors[name] for name in NAMES[:5]), 0.5, tensors["hk"], tensors["hv"], starts, case.chunk)
    o, z, hk, hv = kernels.forward(*arguments)
    got = [o, hk, hv, *kernels.backward(*arguments, z, *grads)]
    row: dict[str, Any] = {"case": case.name, "type": case.kind}
    for name, one, other in zip(("o", "hk", "hv", *(f"d{name}" for name in NAMES)), got, wanted, strict=True):
        row[name] = share(one, other)
    first = [tensors[name][:, :1] for name in NAMES[:5]]
    states = [tensors[name][: case.batch] for name in NAMES[5:]]
    stepped = kernels.step(*first, 0.5, *states)
    true = recurrence(*(one.double() for one in first), 0.5, *(one.double() for one in states))
    row["step"] = max(share(one, other) for one, other in zip(stepped, true, strict=True))
    short = [tensors[name][:, :40].double() for name in NAMES[:5]]
    doubled = [one.double() for one in states]
    pairs = zip(reference(*short, 0.5, *doubled), recurrence(*short, 0.5, *doubled), strict=True)
    row["reference"] = max(share(one, other) for one, other in pairs)
    worst = max(value for value in row.values() if isinstance(value, float))
    row["right"] = "yes" if worst <= BOUNDS[case.kind] else "NO"
    return row


def share(got: Any, wanted: Any) -> float:
    """The largest difference, as a share of the largest value or 0.01; inf where a number is not finite."""
    if not torch.isfinite(got).all():
        return math.inf
    if not wanted.numel():
        return 0.0
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-2))


# --- what is compiled beside -------------------------------------------------------------------------------


def use_tuning(kernels: Any, tuning: tuple[str, tuple[int, ...]]) -> None:
    """Set one entry of the table, or the type of factors."""
    if tuning[0] == "bf16 factors":
        kernels.BF16_FACTORS = True
    elif tuning != UNCHANGED:
        kernels.TUNING[tuning[0]] = tuning[1]


def warm_tuning(case: Case, tuning: tuple[str, tuple[int, ...]]) -> None:
    """Compile our kernels with one entry of the table changed."""
    kernels = load_kernels()
    use_tuning(kernels, tuning)
    ours(kernels, replace(case, tokens=128, batch=1), "cuda")[1]()


def warm_peer(case: Case) -> None:
    """Compile the kernels of flash-linear-attention."""
    both = fla_runs(replace(case, tokens=256, batch=1), "cuda")
    both[1]()
    fla_step(replace(case, batch=1), "cuda")()
    torch.cuda.synchronize()


# --- runs ---------------------------------------------------------------------------------------------------


def ours(kernels: Any, case: Case, device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward, and forward with backward."""
    tensors, grads = inputs(case, device)
    tensors["s"] = tensors["s"].to(tensors["q"].dtype)
    arguments = (*(tensors[name] for name in NAMES[:5]), 1.0, None, None, None, case.chunk)

    def forward() -> Any:
        return kernels.forward(*arguments)

    def both() -> Any:
        return kernels.backward(*arguments, forward()[1], grads[0], None, None)

    return forward, both


def fla_runs(case: Case, device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same with flash-linear-attention."""
    chunk_gsa = fla().chunk_gsa
    tensors, grads = inputs(case, device)
    tensors["s"] = tensors["s"].to(tensors["q"].dtype)
    leaves = [tensors[name].requires_grad_() for name in NAMES[:5]]

    def forward() -> Any:
        with torch.no_grad():
            return chunk_gsa(*leaves, scale=1.0)[0]

    def both() -> Any:
        return torch.autograd.grad(chunk_gsa(*leaves, scale=1.0)[0], leaves, grads[0])

    return forward, both


def fla() -> Any:
    """flash-linear-attention's operators, with fewer configurations to choose from."""
    ops = importlib.import_module("fla.ops.gsa")
    for name, module in list(sys.modules.items()):
        for found in list(vars(module).values()) if name.startswith("fla.ops") else ():
            kernel = found
            while hasattr(kernel, "fn"):
                if len(getattr(kernel, "configs", ())) > 4:
                    few = [one for one in kernel.configs if one.num_warps == 4 and one.num_stages in (2, 3)]
                    kernel.configs = few or kernel.configs[:4]
                kernel = kernel.fn
    return ops


def fla_step(case: Case, device: str) -> Callable[[], Any]:
    """One token with flash-linear-attention, as its layer calls it: keys repeated to all query heads."""
    run = fla().fused_recurrent_gsa
    tensors, _ = inputs(replace(case, tokens=1, heads=case.query_heads), device)
    tensors["s"] = tensors["s"].to(tensors["q"].dtype)
    states = (tensors["hk"], tensors["hv"])

    def step() -> Any:
        with torch.no_grad():
            return run(*(tensors[name] for name in NAMES[:5]), scale=1.0, initial_state=states,
                       output_final_state=True)  # fmt: skip

    return step


def softmax_runs(case: Case, device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Causal softmax attention of the same width, in heads of at most 128."""
    size = min(128, case.keys)
    heads = case.query_heads * case.keys // size
    shape = (case.batch, heads, case.tokens, size)
    kind = getattr(torch, case.kind)
    q, k, v, do = (torch.randn(shape, device=device, dtype=kind) for _ in range(4))
    leaves = [one.requires_grad_() for one in (q, k, v)]
    attend = torch.nn.functional.scaled_dot_product_attention

    def forward() -> Any:
        with torch.no_grad():
            return attend(*leaves, is_causal=True)

    def both() -> Any:
        return torch.autograd.grad(attend(*leaves, is_causal=True), leaves, do)

    return forward, both


# --- times --------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], device: str) -> dict[str, float]:
    """Median milliseconds of at least 20 runs, the fifths beside it, and the most memory, in GiB."""
    if device == "cpu":
        begun = time.perf_counter()
        work()
        return {"ms": 1e3 * (time.perf_counter() - begun), "low": 0.0, "high": 0.0, "gib": 0.0}
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, begun = torch.cuda.memory_allocated(), time.perf_counter()
    work()
    torch.cuda.synchronize()
    once = 1e3 * (time.perf_counter() - begun)
    memory = (torch.cuda.max_memory_allocated() - before) / 2**30
    do_bench = importlib.import_module("triton.testing").do_bench
    ms, low, high = do_bench(work, warmup=5, rep=max(40, 25 * once), quantiles=[0.5, 0.2, 0.8])
    return {"ms": ms, "low": low, "high": high, "gib": memory}


def lengths(case: Case, options: argparse.Namespace) -> list[Case]:
    """16 ki tokens in rows of 1 ki to 16 ki, and one row of 64 ki."""
    if options.interpret:
        return [case]
    sizes = ((1024, 16), (16384, 1)) if options.quick else ((1024, 16), (4096, 4), (16384, 1), (65536, 1))
    return [replace(case, tokens=tokens, batch=batch) for tokens, batch in sizes]


def row_of(name: str, case: Case, forward: dict[str, float], both: dict[str, float]) -> dict[str, Any]:
    """One line of the tables of speeds."""
    tokens = case.batch * case.tokens
    return {
        "model": case.name, "T": case.tokens, "B": case.batch, "what": name,
        "forward [ms]": forward["ms"], "fifths": f"{forward['low']:.3f} to {forward['high']:.3f}",
        "both [ms]": both["ms"], "fifths of both": f"{both['low']:.3f} to {both['high']:.3f}",
        "Mtokens/s, forward": tokens / forward["ms"] / 1e3, "Mtokens/s, both": tokens / both["ms"] / 1e3,
        "GiB, forward": forward["gib"], "GiB, both": both["gib"],
    }  # fmt: skip


def measured(name: str, case: Case, runs: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """A line, or none with a word why."""
    try:
        forward, both = runs()
        row = row_of(name, case, timed(forward, device), timed(both, device))
        say(f"  {case.name} T {case.tokens} {name}: {row['forward [ms]']:.3f} ms, both {row['both [ms]']:.3f} ms")
        return [row]
    except Exception as error:  # too little memory, say
        say(f"  {case.name} T {case.tokens} {name}: left out ({' '.join(str(error).split())[:200]})")
        return []
    finally:
        if device != "cpu":
            torch.cuda.empty_cache()


def speeds(models: Sequence[Case], device: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours, what the card's memory and matrix units allow at best, and softmax attention."""
    kernels, rows = load_kernels(), []
    for model in models:
        for case in lengths(model, options):
            found = measured("ours", case, lambda case=case: ours(kernels, case, device), device)  # type: ignore[misc]
            for row in found:
                row |= floors(case)
            rows += found
            if (not over(options, 0.6)) and (case.tokens <= 16384 or not options.quick):
                rows += measured("softmax", case, lambda case=case: softmax_runs(case, device), device)  # type: ignore[misc]
        if len(lengths(model, options)) > 2:
            case = replace(lengths(model, options)[2], gates="mixed")
            rows += measured("ours, hostile gates", case, lambda case=case: ours(kernels, case, device), device)  # type: ignore[misc]
    return rows


def floors(case: Case) -> dict[str, float]:
    """Gigabytes that must cross, and teraflops of all products: forward, and both passes."""
    tokens, size = case.batch * case.tokens, 2 if case.kind != "float32" else 4
    own, query, chunk = case.heads, case.query_heads, 64
    wide, slots = case.keys + case.values, case.slots
    must = tokens * (size * wide * (own + query) + (size + 4) * own * slots + 4 * query * slots)
    kept = 2 * tokens / chunk * own * wide * slots * size  # states: written, read
    flops = 2.0 * tokens * (own * slots * wide + query * (chunk * wide + slots * wide + 2 * chunk * slots))
    back = 2.0 * tokens * (own * slots * wide * 3 + query * (2 * chunk * wide + 3 * slots * wide + 4 * chunk * slots))
    return {
        "GB, forward": (must + kept) / 1e9, "TFLOP, forward": flops / 1e12,
        "GB, both": (3 * must + 4 * kept) / 1e9, "TFLOP, both": (flops * 1.5 + back) / 1e12,
    }  # fmt: skip


def kernel_times(model: Case, device: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds of each kernel in one pass of both directions, by torch's profiler."""
    case = lengths(model, options)[-1 if options.quick else 2]
    if device == "cpu":
        return [{"model": case.name, "kernel": "none in the interpreter", "us": 0.0}]
    _, both = ours(load_kernels(), case, device)
    both()
    torch.cuda.synchronize()
    say(f"  profile of {case.name}")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(5):
            both()
        torch.cuda.synchronize()
    found = sorted(profile.key_averages(), key=lambda event: -event.device_time_total)
    return [{"model": f"{case.name}, T {case.tokens}", "kernel": one.key[:60], "us": one.device_time_total / 5}
            for one in found[:12]]  # fmt: skip


def steps(models: Sequence[Case], device: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds of a token: as called from Python, and replayed as a CUDA graph."""
    kernels, rows = load_kernels(), []
    for model in models:
        for batch in (1, 64):
            case = replace(model, tokens=1, batch=batch)
            tensors, _ = inputs(case, device)
            arguments = (*(tensors[name] for name in NAMES[:5]), 1.0, tensors["hk"], tensors["hv"])
            rows += step_row("ours", case, lambda arguments=arguments: kernels.step(*arguments), device)  # type: ignore[misc]
            if device != "cpu" and importlib.util.find_spec("fla") and not over(options, 0.8):
                try:
                    rows += step_row("flash-linear-attention", case, fla_step(case, device), device)
                except Exception as error:
                    say(f"  step of flash-linear-attention: left out ({' '.join(str(error).split())[:200]})")
    return rows


def step_row(name: str, case: Case, work: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """One line of the table of steps."""
    called = timed(work, device)
    graph = None
    if device != "cpu":
        graph = 1e3 * importlib.import_module("triton.testing").do_bench_cudagraph(work, rep=20)
    states = 2 * 4 * case.batch * case.heads * case.slots * (case.keys + case.values)  # bytes read and written
    say(f"  step {case.name} B {case.batch} {name}: {1e3 * called['ms']:.1f} us, as a graph {graph} us")
    return [{"model": case.name, "B": case.batch, "what": name, "called [us]": 1e3 * called["ms"], "graph [us]": graph,
             "states [MB]": states / 1e6}]  # fmt: skip


def sweep(model: Case, tunings: Sequence[Any], device: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times with one entry of the table changed at a time, beside those of the table."""
    kernels, rows = load_kernels(), []
    case = lengths(model, options)[-1 if options.quick else 2]
    before, factors = dict(kernels.TUNING), kernels.BF16_FACTORS
    for tuning in (UNCHANGED, *tunings):
        if over(options, 1.0):
            break
        try:
            use_tuning(kernels, tuning)
            forward, both = ours(kernels, case, device)
            one, two = timed(forward, device)["ms"], timed(both, device)["ms"]
            rows.append({"model": f"{case.name}, T {case.tokens}", "kernel": tuning[0], "shape": str(tuning[1]),
                         "forward [ms]": one, "both [ms]": two})  # fmt: skip
        except Exception as error:  # too much shared memory, say
            say(f"  {tuning}: left out ({' '.join(str(error).split())[:150]})")
        finally:
            kernels.TUNING.update(before)
            kernels.BF16_FACTORS = factors
    return rows


def peer_speeds(model: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """flash-linear-attention beside ours, one after the other, and how far its outputs are from ours."""
    kernels, rows = load_kernels(), []
    for case in reversed(lengths(model, options)):
        if over(options, 0.85):
            break
        mine = measured("ours", case, lambda case=case: ours(kernels, case, "cuda"), "cuda")  # type: ignore[misc]
        theirs = measured("flash-linear-attention", case, lambda case=case: fla_runs(case, "cuda"), "cuda")  # type: ignore[misc]
        if not theirs or not mine:
            continue
        for row in (*mine, *theirs):
            row["forward, of ours"] = row["forward [ms]"] / mine[0]["forward [ms]"]
            row["both, of ours"] = row["both [ms]"] / mine[0]["both [ms]"]
        rows += [*mine, *theirs]
        if case.tokens == 1024:
            one, other = ours(kernels, case, "cuda")[0]()[0], fla_runs(case, "cuda")[0]()
            say(f"  {case.name}: outputs of the two differ by {share(one, other):.2g} of the largest")
    return rows


def over(options: argparse.Namespace, part: float) -> bool:
    """Whether that part of the time is gone."""
    return time.monotonic() - START > part * options.limit


def card(interpret: bool) -> dict[str, Any]:
    """Name, bandwidth of copies and rate of matrix products in bfloat16: the best that this card does."""
    triton = importlib.import_module("triton")
    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__, "python": sys.version.split()[0]}
    if importlib.util.find_spec("fla"):
        found["flash-linear-attention"] = getattr(importlib.import_module("fla"), "__version__", "?")
    if interpret:
        return found | {"name": "none: Triton's interpreter"}
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    target, square = torch.empty_like(source), torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy = triton.testing.do_bench(lambda: target.copy_(source), rep=50, quantiles=[0.5])
    product = triton.testing.do_bench(lambda: square @ square, rep=50, quantiles=[0.5])
    copy, product = (one[0] if isinstance(one, list | tuple) else one for one in (copy, product))
    return found | {
        "name": torch.cuda.get_device_name(),
        "GB/s of copies": 2 * source.numel() / copy / 1e6,
        "bf16 TFLOP/s": 2 * 8192**3 / product / 1e9,
    }


# --- results ------------------------------------------------------------------------------------------------


def keep(options: argparse.Namespace, results: dict[str, Any], part: str, rows: list[Any]) -> None:
    """Write what is known so far."""
    results["parts"][part] = [row if isinstance(row, dict) else {"left out": row} for row in rows]
    results["seconds"] = time.monotonic() - START
    (options.out / "attention_gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "attention_gpu.md").write_text(page(results))
    say(f"{part}: {len(rows)} rows")
    if part == "checks":
        for row in results["parts"][part]:
            say("  " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()))


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    about = ", ".join(f"{name} {cell(value)}" for name, value in results.get("card", {}).items())
    parts = [f"# Gated Slot Attention on a GPU\n\n{results['date']}; {about}; {results['seconds']:.0f} s."]
    for title, rows in results["parts"].items():
        columns = list(dict.fromkeys(name for row in rows for name in row))
        lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
        parts.append(f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def cell(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value).replace("|", "\\|")


def say(text: str) -> None:
    """Progress, at once."""
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()

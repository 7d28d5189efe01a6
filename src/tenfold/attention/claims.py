"""GSA's claims (arXiv 2409.07146) in miniature: what its gate, its softmax and its conversion bring, against baselines.

The paper trains 1.3 to 7 billion parameters on 100 billion tokens. Here are models of a million parameters, trained on
as many bytes: the order of the mixers is what can be compared, not the figures.
"""

import platform
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tenfold import __version__
from tenfold.attention.blocks import Blocks, pack
from tenfold.attention.data import read_texts
from tenfold.attention.experiments import (
    Effort,
    Language,
    Transfer,
    measure_language,
    measure_recall,
    measure_transfer,
)
from tenfold.attention.layers import MixerName
from tenfold.attention.tokens import byte_tokenizer
from tenfold.core.claims import Claim, Finding, tabulate
from tenfold.core.errors import InputError
from tenfold.core.machine import processor
from tenfold.core.progress import Progress
from tenfold.core.reports import Cell, Plot, Report, Series, Table

__all__ = ["CLAIMS", "reproduce"]

CLAIMS = {
    claim.name: claim
    for claim in (
        Claim("R1", "MQAR: share of queries that GSA answers", "ours, after the paper's MQAR", 0.9),
        Claim("R2", "MQAR: GSA's share less ABC's", "ours, after the paper's MQAR", 0.05),
        Claim("R3", "MQAR: GSA's share less that of fixed decay (RetNet)", "ours, after the paper's MQAR", 0.05),
        Claim("R4", "MQAR: share of queries that softmax attention answers", "ours", 0.99),
        Claim("L1", "loss: fixed decay (RetNet) less GSA, states of one size, nats", "paper: order of mixers", 0),
        Claim("L2", "loss: ABC less GSA, nats: what the gate brings", "paper: ablation of the gate", 0),
        Claim("L3", "loss: ABC less fixed decay (RetNet), nats", "paper: ablation of the gate", 0),
        Claim("L4", "loss: GLA less GSA with half its state, nats", "paper: smaller state", 0),
        Claim("L5", "loss: GSA / softmax attention", "ours", 1.05, at_least=False),
        Claim("N1", "GSA: loss beyond the trained length / within it", "ours", 1.02, at_least=False),
        Claim("N2", "softmax attention with rotary positions: the same", "ours", 1.02),
        Claim("T1", "conversion: share of the lost loss that a tenth of the steps brings back", "ours", 0.9),
        Claim(
            "T2",
            "conversion: loss of the same steps from scratch less that of the converted",
            "paper: finetuning to RNNs",
            0,
        ),
        Claim("T3", "conversion: loss as GLA less that as GSA, nats", "paper: finetuning to RNNs", 0),
    )
}

_QUICK = Effort(width=64, layers=2, length=128, batch=8, steps=120, recall_steps=20, longest=512)
_FULL = Effort(layers=2, steps=400)
_CHARACTERS = 3 << 20  # of the default text


def reproduce(folder: Path | None, work_in: Path, *, seeds: int, quick: bool, progress: Progress) -> Report:
    """Measure every claim and report.

    Args:
        folder: A text file or a folder of texts; None: the standard library of this Python installation.
        work_in: Not used: nothing is written meanwhile.
        seeds: Repetitions, each with other weights and another order.
        quick: Smaller models and a few steps, which show that it runs, not what holds.
        progress: Called along the way.

    Raises:
        InputError: Text not usable, or too little.
    """
    if not 1 <= seeds <= 16:
        raise InputError(f"seeds is {seeds}; it is from 1 to 16")
    effort = _QUICK if quick else _FULL
    blocks, held, about = _texts(folder, effort)
    runs: dict[str, list[Language]] = {}
    recalls: dict[str, list[float]] = {}
    transfers: list[Transfer] = []
    works = _works(effort, blocks, held, runs, recalls, transfers)
    for seed in range(seeds):
        for done, (_, work) in enumerate(works):
            progress("claims", seed * len(works) + done, seeds * len(works))
            work(seed)
    progress("claims", 1, 1)
    return _report(effort, about, runs, recalls, transfers, seeds)


def _works(
    effort: Effort,
    blocks: Blocks,
    held: Blocks,
    runs: dict[str, list[Language]],
    recalls: dict[str, list[float]],
    transfers: list[Transfer],
) -> list[tuple[str, Callable[[int], None]]]:
    """What is done for each seed."""
    works: list[tuple[str, Callable[[int], None]]] = []
    language: tuple[tuple[str, MixerName, int], ...] = (
        ("GSA", "gsa", effort.slots),
        ("GSA, half the state", "gsa", effort.slots // 2),
        ("ABC", "abc", effort.slots),
        ("RetNet", "retnet", effort.slots),
        ("GLA", "gla", effort.slots),
        ("softmax", "softmax", effort.slots),
    )
    for name, mixer, slots in language:

        def learn(seed: int, name: str = name, mixer: MixerName = mixer, slots: int = slots) -> None:
            runs.setdefault(name, []).append(measure_language(mixer, slots, blocks, held, effort, seed))

        works.append((name, learn))
    recalling: tuple[tuple[str, MixerName], ...] = (
        ("GSA", "gsa"), ("ABC", "abc"), ("RetNet", "retnet"), ("GLA", "gla"), ("softmax", "softmax"),
    )  # fmt: skip
    for name, mixer in recalling:

        def recall(seed: int, name: str = name, mixer: MixerName = mixer) -> None:
            recalls.setdefault(name, []).append(measure_recall(mixer, effort, seed))

        works.append((f"MQAR {name}", recall))
    works.append(("conversion", lambda seed: transfers.append(measure_transfer(blocks, held, effort, seed))))
    return works


def _texts(folder: Path | None, effort: Effort) -> tuple[Blocks, Blocks, str]:
    if folder is None:
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        texts = "\n".join(file.read_text(errors="replace") for file in files)[:_CHARACTERS]
        blocks = pack([texts], byte_tokenizer(), effort.length)
        about = f"Python source of the standard library, {len(texts):,} characters"
    else:
        blocks = pack(read_texts([folder]), byte_tokenizer(), effort.length)
        about = f"{folder.name}, {len(blocks.tokens):,} bytes"
    train, held = blocks.split(0.1)
    if len(held.tokens) < 2 * effort.length + 1:
        least = 20 * effort.length + 10
        raise InputError(f"{about}: too little to measure beyond {effort.length} bytes; give {least:,} or more")
    most = 32 * effort.longest  # enough to tell losses apart by a thousandth
    return train, Blocks(held.tokens[: most + 1], effort.length), about


def _findings(
    effort: Effort,
    runs: Mapping[str, list[Language]],
    recalls: Mapping[str, list[float]],
    transfers: list[Transfer],
) -> list[Finding]:
    loss = {name: [run.loss for run in own] for name, own in runs.items()}

    def beyond(name: str) -> list[float]:
        ratios = []
        for run in runs[name]:
            within = [value for start, value in run.positions.items() if start < effort.length]
            outside = [value for start, value in run.positions.items() if start >= effort.length]
            ratios.append((sum(outside) / len(outside)) / (sum(within) / len(within)))
        return ratios

    def less(first: list[float], second: list[float]) -> list[float]:
        return [a - b for a, b in zip(first, second, strict=True)]

    values = {
        "R1": recalls["GSA"],
        "R2": less(recalls["GSA"], recalls["ABC"]),
        "R3": less(recalls["GSA"], recalls["RetNet"]),
        "R4": recalls["softmax"],
        "L1": less(loss["RetNet"], loss["GSA"]),
        "L2": less(loss["ABC"], loss["GSA"]),
        "L3": less(loss["ABC"], loss["RetNet"]),
        "L4": less(loss["GLA"], loss["GSA, half the state"]),
        "L5": [a / b for a, b in zip(loss["GSA"], loss["softmax"], strict=True)],
        "N1": beyond("GSA"),
        "N2": beyond("softmax"),
        "T1": [(one.converted - one.tuned) / (one.converted - one.transformer) for one in transfers],
        "T2": [one.scratch - one.tuned for one in transfers],
        "T3": [one.gla - one.tuned for one in transfers],
    }
    return [Finding(CLAIMS[name], tuple(own)) for name, own in values.items()]


def _report(
    effort: Effort,
    about: str,
    runs: Mapping[str, list[Language]],
    recalls: Mapping[str, list[float]],
    transfers: list[Transfer],
    seeds: int,
) -> Report:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    rows: list[list[Cell]] = [
        [
            name,
            mean([run.loss for run in own]),
            f"{min(run.loss for run in own):.4f} to {max(run.loss for run in own):.4f}",
            mean([run.repeated for run in own]),
            own[0].parameters,
            own[0].state_bytes,
        ]
        for name, own in runs.items()
    ]
    columns = ["mixer", "loss, nats per byte", "least to most", "on repeated 4-grams", "parameters", "bytes of state"]
    language = Table("Language models, equal parameters, steps and data", columns, rows)
    shares: list[list[Cell]] = [[name, mean(own), f"{min(own):.3f} to {max(own):.3f}"] for name, own in recalls.items()]
    title = "Multi-query associative recall, 8 pairs in 64 tokens, width 64, with short convolutions"
    recall = Table(title, ["mixer", "share", "least to most"], shares)
    steps: list[list[Cell]] = [
        [name, mean([getattr(one, field) for one in transfers])]
        for name, field in (
            ("the transformer", "transformer"),
            ("converted, untrained", "converted"),
            ("converted to GSA, a tenth of the steps", "tuned"),
            ("converted to GLA, a tenth of the steps", "gla"),
            ("GSA from scratch, a tenth of the steps", "scratch"),
        )
    ]
    transfer = Table("From a transformer to a recurrent model", ["model", "loss, nats per byte"], steps)
    lines = []
    for name, own in runs.items():
        starts = list(own[0].positions)
        lines.append(
            Series(name, [max(1, s) for s in starts], [mean([run.positions[s] for run in own]) for s in starts])
        )
    plot = Plot(
        f"Loss by position, trained on {effort.length} tokens", "position from", "nats per byte", lines, log_x=True
    )
    notes = [
        f"Text: {about}; the last tenth is held back. Models of {effort.layers} layers of {effort.width}, "
        f"{effort.steps} steps of {effort.batch} samples of {effort.length} bytes; "
        f"MQAR {effort.recall_steps} steps of 256.",
        f"Seeds: {seeds}. Tenfold {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{processor()}.",
        "Converted models have random gates, as in the paper, and no warm-up of their layers.",
        "The paper's figures are of models a thousand times as large; here only the order of the mixers is compared.",
    ]
    findings = _findings(effort, runs, recalls, transfers)
    tables = [tabulate("GSA's claims in miniature", findings), language, recall, transfer]
    return Report("Gated Slot Attention: the claims", tables, [plot], notes)

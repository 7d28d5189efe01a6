"""The verbs of `tenfold attention`. Each imports what it needs: their help, and completion, do without torch."""

import json as json_format
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tenfold.core.errors import InputError
from tenfold.core.progress import progress_bar
from tenfold.core.reports import Cell, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tenfold.attention.blocks import Blocks
    from tenfold.attention.model import GSAForCausalLM
    from tenfold.core.training import TrainingResult

__all__ = ["COMMANDS"]

Share = Annotated[float, tyro.conf.arg(metavar="SHARE")]
MixerName = Literal["gsa", "abc", "gla", "retnet", "softmax"]  # of layers.py and convert.py, which need torch
GateInit = Literal["random", "key"]


def train(
    data: Path,
    out: Path,
    start: str | None = None,
    mixer: MixerName = "gsa",
    hidden_size: int = 256,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 0,
    slots: int = 0,
    tokenizer: str = "bytes",
    length: int = 256,
    steps: int = 1000,
    batch_size: int = 16,
    accumulate: int = 1,
    learning_rate: float = 1e-3,
    warmup: int = 100,
    validation: Share = 0.1,
    pattern: str = "*",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    evaluate_every: int = 200,
    save_every: int = 200,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train a language model on text.

    The same command goes on where an interrupted run has stopped. OUT/best and OUT/last are model folders. Under
    torchrun several processes share the work.

    Example: tenfold attention train war_and_peace.txt run --mixer gsa --steps 500

    Args:
        data: Text: a file (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet) or a folder of such.
        out: Folder of the run.
        start: A model to train further, as `convert` makes it: a folder, or a name on the Hub. Mixer, sizes and
            tokenizer are then its own.
        mixer: What mixes tokens: gsa, or what it is compared with.
        hidden_size: Width.
        layers: Blocks.
        heads: Query heads of each layer.
        kv_heads: Key-value heads (gsa, abc, softmax); 0 is as many as query heads, as gla and retnet have always.
        slots: Memory slots of each head; 0 is the size of a head.
        tokenizer: `bytes`, `bpe:N` for N tokens learned from the data, or a folder with a tokenizer.json.
        length: Tokens of a sample.
        steps: Changes of the weights.
        batch_size: Samples in one forward pass of one process.
        accumulate: Forward passes in a step.
        learning_rate: The highest.
        warmup: Steps in which the rate rises to it; with few steps, give fewer.
        validation: Share of the text, its end, that is kept for evaluation.
        pattern: Which files of a folder are read, such as '*.py'.
        precision: What is computed in.
        device: Where.
        evaluate_every: Steps from one evaluation to the next.
        save_every: Steps from one checkpoint to the next.
        seed: Of weights and order.
        json: Print one JSON object instead of a table.
    """
    from tenfold.attention import GSAConfig, load_tokenizer, make_model, pack, read_texts, train_language_model
    from tenfold.core.training import TrainingConfig

    settings = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        warmup=warmup,
        precision=precision,
        device=device,
        evaluate_every=evaluate_every,
        save_every=save_every,
        seed=seed,
    )
    _without_bars()
    words = _tokenizer(tokenizer, data, pattern) if start is None else load_tokenizer(find_model(start))
    blocks, held = pack(read_texts([data], pattern=pattern), words, length).split(validation)
    if start is not None:
        model = _load(start, "cpu").float()  # AdamW wants whole precision; `precision` says what is computed in
    else:
        config = GSAConfig(
            vocab_size=len(words),
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads or None,
            num_slots=slots or None,
            mixer=mixer,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
        model = make_model(config, seed)
    result = train_language_model(
        model, blocks, out, settings, validation=held, tokenizer=words, data={data.resolve().name: "as its owner says"}
    )
    _print_run(result, out, {"validation loss": result.best}, json)


def mqar(
    out: Path,
    mixer: MixerName = "gsa",
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 2,
    slots: int = 0,
    vocab: int = 512,
    length: int = 128,
    pairs: int = 8,
    samples: int = 20_000,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train a small model to recall values by their keys, and measure it (MQAR).

    Example: tenfold attention mqar run_mqar --mixer gsa --pairs 8

    Args:
        out: Folder of the run.
        mixer: What mixes tokens.
        hidden_size: Width.
        layers: Blocks.
        heads: Heads of each layer.
        slots: Memory slots of each head; 0 is the size of a head.
        vocab: Tokens of the task, half of them keys.
        length: Tokens of a sample.
        pairs: Keys with their values in each.
        samples: To train on; 1,000 others are the test.
        steps: Changes of the weights.
        batch_size: Samples in a step.
        learning_rate: The highest.
        device: Where.
        seed: Of task, weights and order.
        json: Print one JSON object instead of a table.
    """
    from tenfold.attention import MQAR, GSAConfig, make_model, train_recall
    from tenfold.core.training import TrainingConfig

    _without_bars()
    config = GSAConfig(
        vocab_size=vocab, hidden_size=hidden_size, num_hidden_layers=layers, num_heads=heads,
        num_slots=slots or None, mixer=mixer, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    settings = TrainingConfig(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, warmup=steps // 10, weight_decay=0.1,
        device=device, evaluate_every=max(1, steps // 10), save_every=max(1, steps // 10), seed=seed,
    )  # fmt: skip
    task = MQAR(samples, length, pairs, vocab, seed)
    test = MQAR(1000, length, pairs, vocab, seed, test=True)
    result = train_recall(make_model(config, seed), task, out, settings, test=test)
    _print_run(result, out, {"accuracy": result.best}, json)


def evaluate(
    model: str,
    measure: Literal["ppl", "recall", "mqar"],
    data: Path | None = None,
    length: int = 0,
    batch_size: int = 8,
    pairs: int = 8,
    samples: int = 1000,
    pattern: str = "*",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure a model: perplexity of text, recall from long documents, or recall by keys.

    ppl: loss per token, by position, and on what repeats (4-grams). recall: documents with a question whose answer is
    in them (FDA, SWDE, SQuAD and their kin). mqar: a fresh test set.

    Example: tenfold attention evaluate run ppl --data wikitext2_valid.txt --length 1024

    Args:
        model: Folder of a model or of a run, or a name on the Hub.
        measure: What is measured.
        data: Text (ppl) or items (recall: .jsonl, .parquet, SQuAD's .json).
        length: Tokens of a sample; 0 is 1,024 (ppl), no limit (recall), 128 (mqar).
        batch_size: Samples at a time.
        pairs: Keys of a sample (mqar).
        samples: Of the test set (mqar).
        pattern: Which files of a folder are read.
        device: Where.
        seed: Of the test set (mqar).
        json: Print one JSON object instead of a table.
    """
    from tenfold.attention import MQAR, evaluate_mqar, evaluate_recall, load_tokenizer, read_recall

    opened = _load(model, device)
    if measure == "mqar":
        test = MQAR(samples, length or 128, pairs, opened.config.vocab_size // 2 * 2, seed, test=True)
        with progress_bar() as progress:
            found: dict[str, Any] = {"accuracy": evaluate_mqar(opened, test, batch_size, progress=progress)}
    elif data is None:
        raise InputError(f"evaluate {measure} needs --data: text for ppl, items for recall")
    elif measure == "recall":
        with progress_bar() as progress:
            result = evaluate_recall(
                opened, load_tokenizer(find_model(model)), read_recall(data), batch_size=batch_size,
                max_length=length or None, progress=progress,
            )  # fmt: skip
        found = result.to_json()
        if not json:
            rows: list[list[Cell]] = [[str(n), s.items, s.score, s.low, s.high] for n, s in result.by_length.items()]
            rows.append(["all", result.overall.items, result.overall.score, result.overall.low, result.overall.high])
            Table("Recall", ["length", "items", "score", "95 % from", "to"], rows).print()
            return
    else:
        found = _measure_text(opened, load_tokenizer(find_model(model)), data, pattern, length or 1024, batch_size)
    _print(f"{measure} of {model}", found, json)


def generate(
    model: str,
    prompt: str = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_p: float = 0.95,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Write what follows on a prompt, as it comes; memory does not grow with the length.

    Example: tenfold attention generate run --prompt "It was " --tokens 300

    Args:
        model: Folder of a model or of a run, or a name on the Hub.
        prompt: What is there already; `-` reads it from standard input.
        tokens: How many at most.
        temperature: 0 takes the most probable token each time.
        top_p: Draw only from the most probable tokens that together have this probability.
        device: Where.
        seed: Of the draws.
        json: Print one JSON object at the end instead.
    """
    from tenfold.attention import load_tokenizer, stream_text

    opened, words = _load(model, device), load_tokenizer(find_model(model))
    text = _read_standard_input() if prompt == "-" else prompt
    pieces = stream_text(opened, words, text, tokens, temperature=temperature, top_p=top_p, seed=seed)
    if json:
        print(json_format.dumps({"prompt": text, "text": "".join(pieces)}))
        return
    sys.stdout.write(text)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()


def convert(
    source: str,
    out: Path,
    slots: int = 64,
    gate_init: GateInit | None = None,
    mixer: Literal["gsa", "gla"] = "gsa",
    license: str = "",
    json: bool = False,
) -> None:
    """Make a model of Gated Slot Attention of a pretrained Llama or Mistral, to be trained a little further.

    Then: tenfold attention train DATA RUN --start OUT --learning-rate 3e-5

    Example: tenfold attention convert mistral-7b mistral-gsa --slots 64

    Args:
        source: Folder of the transformer, or its name on the Hub.
        out: Folder to make.
        slots: Memory slots of each key-value head.
        gate_init: Gates of gsa made of the key projections (the default), or random as in the paper; gla's are random.
        mixer: gsa, or gla for comparison.
        license: Of the weights, for the model card; that of the source's card if empty.
        json: Print one JSON object instead of text.
    """
    from tenfold.attention import convert_folder

    _without_bars()
    gates = gate_init or ("key" if mixer == "gsa" else "random")
    made = convert_folder(source, out, slots, license=license or None, mixer=mixer, gate_init=gates)
    if json:
        sizes = {name: sum(getattr(made, name).values()) for name in ("copied", "derived", "fresh")}
        print(json_format.dumps({"parameters": made.parameters, **sizes, "dropped": made.dropped, "folder": str(out)}))
        return
    print(made)
    print(f"Written: {out}")


def bench(
    lengths: tuple[int, ...] = (1024, 4096, 16384),
    hidden_size: int = 512,
    heads: int = 8,
    repeats: int = 5,
    device: Literal["cpu", "cuda"] = "cpu",
    json: bool = False,
) -> None:
    """Time a block with GSA against one with softmax attention, and with GLA, on this machine.

    Example: tenfold attention bench --lengths 1024 4096

    Args:
        lengths: Tokens of a sequence.
        hidden_size: Width of the blocks.
        heads: Heads of each.
        repeats: Rounds; medians are shown.
        device: Where.
        json: Print one JSON object instead of a table.
    """
    import torch

    from tenfold.attention import compare_blocks

    with progress_bar() as progress:
        found = compare_blocks(
            ("gsa", "softmax", "gla"), lengths, hidden_size=hidden_size, num_heads=heads, repeats=repeats,
            device=device, progress=progress,
        )  # fmt: skip
    if json:
        print(json_format.dumps({"threads": torch.get_num_threads(), "blocks": [vars(one) for one in found]}))
        return
    base = {one.tokens: one for one in found if one.mixer == "softmax"}
    rows: list[list[Cell]] = []
    for one in found:
        other = base[one.tokens]
        for name in ("prefill", "train", "decode"):
            own, least, most = (1e3 * value for value in getattr(one, name))
            ratio = getattr(other, name)[0] / getattr(one, name)[0]
            rows.append([one.tokens, name, one.mixer, own, f"{least:.3g} to {most:.3g}", ratio])
    columns = ["tokens", "work", "mixer", "ms", "least to most", "times as fast as softmax"]
    Table(f"A block of width {hidden_size} on {device}, {torch.get_num_threads()} threads", columns, rows).print()


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "mqar": mqar,
    "evaluate": evaluate,
    "generate": generate,
    "convert": convert,
    "bench": bench,
}


# --- what the verbs share ---------------------------------------------------------------------------------------------


def find_model(name: str) -> Path:
    """The folder of a model: the best, else the last, of a run; a model folder itself; or a copy of one on the Hub."""
    from tenfold.core.artifacts import find

    for folder in (Path(name, "best"), Path(name, "last")):
        if (folder / "config.json").exists():
            return folder
    return find(name)


def _load(name: str, device: str = "auto") -> "GSAForCausalLM":
    import torch

    from tenfold.attention import GSAForCausalLM
    from tenfold.attention.speed import check_device

    _without_bars()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    model: GSAForCausalLM = GSAForCausalLM.from_pretrained(find_model(name))
    model.to(device).eval()
    return model


def _without_bars() -> None:
    """Bars of transformers, for weights read or written, would stand between the lines of what is asked for."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _read_standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input: is not UTF-8: byte {error.start:,}; convert it, for instance with iconv"
        ) from None


def _tokenizer(name: str, data: Path, pattern: str) -> "PreTrainedTokenizerFast":
    from tenfold.attention import byte_tokenizer, load_tokenizer, read_texts, train_tokenizer

    if name == "bytes":
        return byte_tokenizer()
    if name.startswith("bpe:"):
        if not name[4:].isdecimal():
            raise InputError(f"tokenizer '{name}': after bpe: comes the number of tokens, such as bpe:4096")
        return train_tokenizer(read_texts([data], pattern=pattern), int(name[4:]))
    return load_tokenizer(Path(name))


def _measure_text(
    model: "GSAForCausalLM", words: "PreTrainedTokenizerFast", data: Path, pattern: str, length: int, batch_size: int
) -> dict[str, Any]:
    from tenfold.attention import (
        count_bytes,
        document_perplexity,
        loss_by_position,
        pack,
        perplexity,
        read_texts,
        recall_slice,
    )

    blocks: Blocks = pack(read_texts([data], pattern=pattern), words, length)
    with progress_bar() as progress:
        size = count_bytes(blocks.labels, words)
        whole = perplexity(model, blocks, batch_size, text_bytes=size, progress=progress)
        places = loss_by_position(model, blocks, batch_size=batch_size, progress=progress)
        repeats = recall_slice(model, blocks, batch_size=batch_size, order=4, progress=progress)
        found: dict[str, Any] = whole.to_json()
        found |= {f"loss at {one.start} to {one.stop - 1}": one.loss for one in places}
        found |= {"loss on repeated 4-grams": repeats.repeated.loss, "share of them": repeats.share}
        if model.config.mixer != "softmax":
            carried = document_perplexity(model, blocks.tokens[: 1 << 18], progress=progress)
            found["loss with the state carried on"] = carried.loss
    return found


def _print_run(result: "TrainingResult", out: Path, measured: dict[str, float | None], json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun all processes have the same result, and one tells it
    facts: dict[str, Any] = {"steps": result.steps, **measured, "seconds": result.seconds}
    _print(f"Run {out}", facts | {"samples per second": result.samples_per_second, "folder": str(out)}, json)


def _print(title: str, facts: dict[str, Any], json: bool) -> None:
    if json:
        finite = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in facts.items()}
        print(json_format.dumps(finite))
        return
    Table(title, ["what", "value"], [[name, value] for name, value in facts.items() if value is not None]).print()

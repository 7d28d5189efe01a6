"""Recall from context: a document, then a question whose answer is in it.

The suite of Based (Arora et al. 2024, arXiv 2402.18668, section 5 and appendix) and of Just Read Twice (Arora et al.
2024, arXiv 2407.05483): FDA, SWDE, SQuAD, NQ, TriviaQA and DROP, read from local files. Models complete the prompt
greedily up to a line end or 48 tokens; an item scores 1 if a gold value occurs in that, whatever its case.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tenfold.attention.completion import complete_lines
from tenfold.attention.data import read_rows, read_text
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["RecallItem", "RecallResult", "Score", "evaluate_recall", "is_recalled", "read_recall"]

_BOOTSTRAPS = 10_000
_TRIVIA_MARKS = re.compile(r"\[(?:PAR|DOC|TLE)\]")


@dataclass(frozen=True)
class RecallItem:
    """A prompt and the values of which one is to come back.

    `length` groups the results: as the file says, or the characters of the prompt rounded up to a power of two.
    """

    prompt: str
    values: tuple[str, ...]
    id: str
    length: int


@dataclass(frozen=True)
class Score:
    """A share of items, with the 95 % interval of a bootstrap over items: of no width where all or none score."""

    score: float
    low: float
    high: float
    items: int

    @classmethod
    def of(cls, right: int, items: int) -> "Score":
        """From counts. A resample of items that score 0 or 1 is a binomial number; no item at all is refused."""
        share = right / items
        shares = np.random.default_rng(0).binomial(items, share, _BOOTSTRAPS) / items
        low, high = np.percentile(shares, [2.5, 97.5])
        return cls(share, float(low), float(high), items)


@dataclass(frozen=True)
class RecallResult:
    """The score over all items and by length; `answers` are the completions, in the order of the items."""

    overall: Score
    by_length: dict[int, Score]
    truncated: int  # prompts of which only the last tokens were shown
    answers: list[str]

    def to_json(self) -> dict[str, Any]:
        """As `tenfold attention evaluate --json` prints it."""
        return asdict(self)


def read_recall(path: str | Path) -> list[RecallItem]:
    """Items of a file; the prompt follows from the fields of a row.

    - `text`, `key`, `value` (based-fda, based-swde): the text, where it ends with the key and a colon; else the text
      without its last ".", then ". ", the key with a capital, and ":".
    - `text`, `value` (based-squad, which has `question` too): the text, a sentence without its end.
    - `context`, `question`, `answers` (based_nq, based_triviaqa, based_drop): the context without its last ".", then
      ". " and the question, a sentence without its end.
    - `text`, `question`, and a list `all_values` or `answers`: the text, an empty line, "Question: ", the question, and
      in a line of its own "Answer:".
    - SQuAD's own JSON, 1.1 or 2.0: the same of a paragraph. Questions without an answer are left out.

    Args:
        path: `.jsonl`, `.jsonl.gz`, `.jsonl.zst`, `.parquet`, or `.json` for SQuAD.

    Raises:
        InputError: The file cannot be read, has no item, or an item lacks fields or a value.
    """
    path = Path(path)
    items = list(_squad(path) if path.suffix == ".json" else read_rows(path, _item))
    if not items:
        raise InputError(f"{path}: has no item with an answer")
    return items


def evaluate_recall(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[RecallItem],
    max_new_tokens: int = 48,
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    progress: Progress = no_progress,
) -> RecallResult:
    """Let a model complete the prompts, and score what it writes.

    Args:
        model: With `generate` of transformers.
        tokenizer: Its tokenizer.
        items: At least one.
        max_new_tokens: Where a completion without line end stops.
        batch_size: Prompts of equal length at a time.
        max_length: Of prompt and completion, in tokens; longer prompts lose their beginning. Default: no limit.
        progress: Called with "complete", the prompts done and all.

    Raises:
        InputError: There are no items, or `max_length` leaves no room for a prompt.
    """
    if not items:
        raise InputError("there are no items to evaluate; give 1 or more")
    room = None if max_length is None else max_length - max_new_tokens
    if room is not None and room < 1:
        raise InputError(
            f"a length of {max_length} has no room for a prompt and {max_new_tokens} new tokens; take more"
        )
    prompts = [tokenizer(item.prompt)["input_ids"] for item in items]
    shown = prompts if room is None else [prompt[-room:] for prompt in prompts]
    answers = complete_lines(
        model, shown, tokenizer, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    right = np.array([is_recalled(answer, item.values) for answer, item in zip(answers, items, strict=True)])
    lengths = np.array([item.length for item in items])
    by_length = {
        int(length): Score.of(int(right[lengths == length].sum()), int((lengths == length).sum()))
        for length in np.unique(lengths)
    }
    truncated = sum(len(prompt) > len(part) for prompt, part in zip(prompts, shown, strict=True))
    return RecallResult(Score.of(int(right.sum()), len(items)), by_length, truncated, answers)


def is_recalled(answer: str, values: Sequence[str]) -> bool:
    """Whether one of the values occurs in the answer, whatever its case."""
    return any(value.strip().casefold() in answer.casefold() for value in values)


def _item(row: dict[str, Any], where: str) -> RecallItem | None:
    document = _string(row, "text" if "text" in row else "context", where)
    if "key" in row:
        prompt = _keyed(document, _string(row, "key", where))
    elif "context" in row and "text" not in row:
        prompt = _cloze(_TRIVIA_MARKS.sub("", document), _string(row, "question", where))
    elif "question" in row and ("all_values" in row or "value" not in row):
        prompt = _asked(document, _string(row, "question", where))
    else:
        prompt = document.strip()
    named = next((row[name] for name in ("all_values", "answers", "value") if row.get(name) is not None), None)
    number = row.get("id", row.get("doc_id", where.rpartition(" ")[2]))
    return _make(prompt, [named] if isinstance(named, str) else named, str(number), row.get("length"), where)


def _squad(path: Path) -> Iterator[RecallItem]:
    try:
        articles = json.loads(read_text(path))["data"]
        questions = [
            (paragraph["context"], question)
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        for context, question in questions:
            if not question.get("is_impossible", False):
                where = f"{path}: question {question['id']}"
                values = list(dict.fromkeys(answer["text"] for answer in question["answers"]))
                yield _make(_asked(context, question["question"]), values, str(question["id"]), None, where)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not JSON ({error})") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: is not shaped as SQuAD's JSON, data[].paragraphs[].qas[] ({type(error).__name__}: {error})"
        ) from None


def _make(prompt: str, values: Any, number: str, length: Any, where: str) -> RecallItem:
    is_list = isinstance(values, list | tuple) and len(values) > 0
    if not is_list or not all(isinstance(value, str) and value.strip() for value in values):
        raise InputError(f"{where}: has no value to find, or a blank one; give text in value, all_values or answers")
    if length is None:
        length = 1 << (len(prompt) - 1).bit_length()
    if not isinstance(length, int):
        raise InputError(f"{where}: its length {length!r} is no whole number")
    return RecallItem(prompt, tuple(values), number, length)


def _string(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: has no {field!r}, only {', '.join(row) or 'nothing'}; recall items need it")
    return value


def _keyed(document: str, key: str) -> str:
    document, key = document.strip(), key.strip()
    if document.casefold().endswith(f"{key}:".casefold()):
        return document
    return f"{document.rstrip('.')}. {key[0].upper()}{key[1:]}:"


def _cloze(context: str, question: str) -> str:
    context, question = context.strip(), question.strip()
    while context.casefold().endswith(question.casefold()):  # some contexts hold the question already
        context = context[: len(context) - len(question)].strip()
    return f"{context.strip('.')}. {question}"


def _asked(document: str, question: str) -> str:
    return f"{document.strip()}\n\nQuestion: {question.strip()}\nAnswer:"

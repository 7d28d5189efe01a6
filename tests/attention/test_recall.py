"""Recall: prompts as the suite words them, real files read, and an ideal copier scored as it must be."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from known_models import Induction, tiny_llama

from tenfold.attention.completion import complete_lines
from tenfold.attention.recall import RecallItem, Score, evaluate_recall, is_recalled, read_recall
from tenfold.attention.tokens import byte_tokenizer, train_tokenizer
from tenfold.core.errors import InputError

BYTES = byte_tokenizer()
FDA = "K1234 Purpose for submission: Clearance of a new device. Panel: Hematology. Type of test: automated."


def rows(path: Path, *objects: dict[str, object]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(objects)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in objects))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_prompts_of_keys(tmp_path: Path, name: str) -> None:
    """As the hub's files are, with the prompt at the end of the text, and without it."""
    path = rows(
        tmp_path / name,
        {"doc_id": "x", "text": f"{FDA}\n\nType of test: ", "key": "type of test", "value": "automated"},
        {"doc_id": "y", "text": f"{FDA} ", "key": "panel", "value": "Hematology"},
    )
    first, second = read_recall(path)
    assert first.prompt == f"{FDA}\n\nType of test:"
    assert second.prompt == f"{FDA} Panel:", "final period, space, capital, colon"
    assert (first.id, first.values, second.id, second.length) == ("x", ("automated",), "y", 128)


def test_prompts_of_sentences_and_questions(tmp_path: Path) -> None:
    path = rows(
        tmp_path / "a.jsonl",
        {"text": " The duke won. The winner was the ", "question": None, "all_values": ["duke"]},
        {"context": "[DOC] [TLE] Rome. The capital is", "question": "The capital is", "answers": ["Rome", "Roma"]},
        {"text": "A b.", "question": "What? ", "value": "b", "all_values": ["b", "B"], "length": 2000, "id": 7},
    )
    with pytest.raises(InputError, match="line 1: has no 'question'"):
        read_recall(path)
    objects = [json.loads(line) for line in path.read_text().splitlines()]
    objects[0] = {"text": " The duke won. The winner was the ", "value": "duke"}
    first, second, third = read_recall(rows(path, *objects))
    assert first.prompt == "The duke won. The winner was the" and first.values == ("duke",) and first.id == "1"
    assert second.prompt == "Rome. The capital is" and second.values == ("Rome", "Roma")
    assert third == RecallItem("A b.\n\nQuestion: What?\nAnswer:", ("b", "B"), "7", 2000)


def test_the_text_of_based_squad_is_the_prompt(tmp_path: Path) -> None:
    """Its rows name the question, too, that the text's last sentence puts in other words."""
    row = {"doc_id": "x", "title": "War", "context": "The duke won.", "question": "Who won?", "value": "duke"}
    (item,) = read_recall(rows(tmp_path / "a.parquet", row | {"text": "The duke won. The winner was the "}))
    assert item.prompt == "The duke won. The winner was the" and item.values == ("duke",)


def test_squad_as_it_is_published(attention_data: Path) -> None:
    path = attention_data / "squad2_dev_subset.json"
    items = read_recall(path)
    questions = [
        (paragraph["context"], question)
        for article in json.loads(path.read_text())["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
        if not question["is_impossible"]
    ]
    assert len(items) == len(questions) > 400
    for item, (context, question) in zip(items, questions, strict=True):
        assert item.id == question["id"]
        assert set(item.values) == {answer["text"] for answer in question["answers"]}
        assert item.prompt.startswith(context.strip()) and question["question"].strip() in item.prompt
        assert is_recalled(item.prompt, item.values), "the document holds the answer"


def test_the_long_items(attention_data: Path) -> None:
    path = attention_data / "recall_long.jsonl"
    items = read_recall(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(items) == len(lines) == 180
    assert {item.length for item in items} == {2000, 8000}
    for item, line in zip(items, lines, strict=True):
        assert item.prompt == f"{line['text'].strip()}\n\nQuestion: {line['question'].strip()}\nAnswer:"
        assert item.values == tuple(line["all_values"]) and item.id == line["id"]


def test_a_copier_finds_what_stands_behind_the_key_and_nothing_else() -> None:
    """The ideal of an induction head, through the whole path: tokenizer, batches, generate, line ends, scores."""
    model = Induction(len(BYTES))
    items = [
        RecallItem(f"{FDA} Panel:", ("HEMATOLOGY",), "right, in capitals", 100),
        RecallItem(f"{FDA} Type of test:", ("wrong", "Automated"), "the second value", 100),
        RecallItem(f"{FDA} Panel:", ("chemistry",), "wrong", 200),
        RecallItem("Panel: one\nSince: two\nPanel:", ("one",), "before the line end", 200),
        RecallItem("Panel: one\nSince: two\nPanel:", ("two",), "after the line end", 200),
    ]
    told: list[tuple[str, int, int]] = []
    result = evaluate_recall(model, BYTES, items, 14, batch_size=2, progress=lambda *state: told.append(state))
    assert result.answers[3] == " one" and result.answers[0] == " Hematology. T"
    assert result.overall.score == 3 / 5 and result.overall.items == 5 and result.truncated == 0
    assert {length: score.score for length, score in result.by_length.items()} == {100: 1.0, 200: 1 / 3}
    assert told[-1] == ("complete", 5, 5)
    assert max(rows for rows, _ in model.batches) == 2, "prompts of one length go together"
    assert json.loads(json.dumps(result.to_json()))["overall"]["items"] == 5


def test_longer_prompts_lose_their_beginning() -> None:
    items = [RecallItem("Key: gold; " + "x" * 50 + " Key:", ("gold",), "a", 1)]
    model = Induction(len(BYTES))
    assert evaluate_recall(model, BYTES, items, 6).overall.score == 1
    result = evaluate_recall(model, BYTES, items, 6, max_length=40)
    assert result.overall.score == 0 and result.truncated == 1
    assert max(length for _, length in model.batches[-6:]) < 40
    with pytest.raises(InputError, match="a length of 6 has no room"):
        evaluate_recall(model, BYTES, items, 6, max_length=6)


def test_batches_complete_as_single_prompts_do(attention_data: Path) -> None:
    """A transformer with a cache, prompts of mixed lengths, in whatever batches."""
    tokenizer = train_tokenizer([(attention_data / "tinyshakespeare.txt").read_text()[:50_000]], 300)
    model = tiny_llama(300)
    words = ["First", "Citizen", "speak", "We are", "resolved", "rather to die than", "you know", "First", "Second:"]
    prompts = [tokenizer(word)["input_ids"] for word in words]
    single = [complete_lines(model, [prompt], tokenizer, max_new_tokens=9, batch_size=1)[0] for prompt in prompts]
    assert len(set(single)) > 4
    for batch_size in (2, 9):
        assert complete_lines(model, prompts, tokenizer, max_new_tokens=9, batch_size=batch_size) == single


def test_line_ends_within_longer_tokens_end_a_completion() -> None:
    tokenizer = train_tokenizer(["a.\n\nb.\n\n" * 20, "x;\n\n\nx;\n\n\n" * 20], 270)
    token = next(
        token for token in range(len(tokenizer)) if "\n" in (text := tokenizer.decode([token])) and len(text) > 1
    )
    model = Induction(len(tokenizer))
    prompt = [5, 6, token, 7, 8, 5]
    assert complete_lines(model, [prompt], tokenizer) == [tokenizer.decode([6])]


@pytest.mark.parametrize(("right", "items"), [(50, 100), (3, 10), (990, 1000)])
def test_the_interval_is_that_of_a_bootstrap(right: int, items: int) -> None:
    """Against resampling the items themselves."""
    score = Score.of(right, items)
    scored = np.arange(items) < right
    means = np.random.default_rng(1).choice(scored, (10_000, items)).mean(1)
    assert [score.low, score.high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1.01 / items)
    assert score.low < score.score == right / items < score.high
    assert Score.of(right, items) == score


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a", "key": "b", "value": " "}', "line 1: has no value to find, or a blank one"),
        ("a.jsonl", '{"text": "a", "key": "b"}', "line 1: has no value to find"),
        ("a.jsonl", '{"context": "a", "question": "b", "answers": []}', "line 1: has no value to find"),
        ("a.jsonl", '{"text": "a", "value": 3}', "line 1: has no value to find"),
        ("a.jsonl", '{"context": "a", "answers": ["b"]}', "line 1: has no 'question', only context, answers"),
        ("a.jsonl", '{"body": "a", "value": "b"}', "line 1: has no 'context'"),
        ("a.jsonl", '{"text": "a", "value": "b", "length": "long"}', "length 'long' is no whole number"),
        ("a.jsonl", "", "has no item with an answer"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "is not shaped as SQuAD's JSON"),
        ("a.json", '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}', "KeyError: 'answers'"),
        ("a.json", '{"data": []}', "has no item with an answer"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_recall(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_bad_input() -> None:
    model = tiny_llama(300)
    with pytest.raises(InputError, match="no items"):
        evaluate_recall(model, BYTES, [])
    with pytest.raises(InputError, match="prompt 1 is empty"):
        complete_lines(model, [[1], []], BYTES)
    with pytest.raises(InputError, match="0 new tokens"):
        complete_lines(model, [[1]], BYTES, max_new_tokens=0)

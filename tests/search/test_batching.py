"""Searches that come together are answered together, each with its own answer."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tenfold.core.errors import InputError
from tenfold.search.batching import Answer, Batcher


class Recorder:
    """A search whose answers tell the query, k and recall; it waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], int, float]] = []
        self.go = threading.Event()

    def __call__(self, queries: np.ndarray, k: int, recall: float) -> Answer:
        assert self.go.wait(60)
        self.batches.append((queries[:, 0].tolist(), k, recall))
        if (queries < 0).any():
            raise InputError(f"query {int(queries.min())} is below zero")
        answers = np.repeat(queries, k, axis=1)
        return answers + np.float32(recall), answers.astype(np.int64)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.float32)[:, None]


def run(search: Recorder, ask: Callable[[Batcher], list[Any]], most: int = 256) -> tuple[list[Any], Batcher]:
    """What the asked come to, once all are waiting."""

    async def gather() -> tuple[list[Any], Batcher]:
        batcher = Batcher(search, most)
        tasks = [asyncio.ensure_future(one) for one in ask(batcher)]
        await asyncio.sleep(0)
        search.go.set()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60), batcher

    return asyncio.run(gather())


def test_what_comes_together_is_one_batch() -> None:
    """Sixty-four at once: one call, and everyone gets the rows asked for."""
    search = Recorder()
    answers, batcher = run(search, lambda batcher: [batcher.search(rows(n, -0), 2, 0.5) for n in range(64)])
    assert [batch[1:] for batch in search.batches] == [(2, 0.5)]
    assert (batcher.queries, batcher.batches) == (128, 1)
    for number, (distances, ids) in enumerate(answers):
        assert ids.tolist() == [[number, number], [0, 0]]
        assert distances.tolist() == [[number + 0.5] * 2, [0.5] * 2]


def test_while_one_batch_is_under_way_the_next_gathers() -> None:
    """The first starts alone; ninety-nine follow in the order of their coming, 40 at most together."""

    async def scenario(search: Recorder) -> list[Answer]:
        batcher = Batcher(search, 40)
        first = asyncio.create_task(batcher.search(rows(0), 1, 1.0))
        await asyncio.sleep(0.01)  # it is in its thread now, or will be before the others: either way it is alone
        others = [asyncio.create_task(batcher.search(rows(n), 1, 1.0)) for n in range(1, 100)]
        await asyncio.sleep(0)
        search.go.set()
        return list(await asyncio.gather(first, *others))

    search = Recorder()
    answers = asyncio.run(scenario(search))
    assert [len(batch[0]) for batch in search.batches] == [1, 40, 40, 19]
    assert [number for batch in search.batches for number in batch[0]] == list(range(100))
    assert [int(ids[0, 0]) for _, ids in answers] == list(range(100))


def test_only_like_searches_are_gathered() -> None:
    search = Recorder()
    kinds = [(1, 0.5), (2, 0.5), (2, 0.9)]
    answers, _ = run(search, lambda batcher: [batcher.search(rows(n), *kinds[n % 3]) for n in range(9)])
    assert sorted(search.batches) == [([0, 3, 6], 1, 0.5), ([1, 4, 7], 2, 0.5), ([2, 5, 8], 2, 0.9)]
    assert [answer[1].shape for answer in answers] == [(1, kinds[n % 3][0]) for n in range(9)]


def test_a_large_search_goes_alone() -> None:
    search = Recorder()
    answers, batcher = run(search, lambda batcher: [batcher.search(rows(*range(8)), 1, 1.0) for _ in range(3)], most=8)
    assert [len(batch[0]) for batch in search.batches] == [8, 8, 8]
    assert all(ids[:, 0].tolist() == list(range(8)) for _, ids in answers)
    assert batcher.batches == 3


def test_only_the_culprit_gets_the_error() -> None:
    answers, _ = run(Recorder(), lambda batcher: [batcher.search(rows(n), 1, 1.0) for n in (1, -2, 3)])
    assert [answers[0][1][0, 0], answers[2][1][0, 0]] == [1, 3]
    assert str(answers[1]) == "query -2 is below zero"


def test_after_an_error_others_are_answered() -> None:
    """Also where the search fails in a way that nobody foresaw."""
    search = Recorder()
    search.go.set()

    async def scenario(batcher: Batcher) -> list[int]:
        found = []
        for number in (1, -1, 2):
            try:
                found.append(int((await batcher.search(rows(number), 1, 1.0))[1][0, 0]))
            except InputError:
                found.append(-1)
        with pytest.raises(ValueError, match="many"):
            await batcher.search(rows(1), "many", 1.0)  # type: ignore[arg-type]
        return [*found, int((await batcher.search(rows(3), 1, 1.0))[1][0, 0])]

    assert asyncio.run(scenario(Batcher(search))) == [1, -1, 2, 3]


def test_who_leaves_while_waiting_harms_nobody() -> None:
    async def scenario(search: Recorder) -> list[int]:
        batcher = Batcher(search)
        tasks = [asyncio.create_task(batcher.search(rows(n), 1, 1.0)) for n in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        search.go.set()
        return [int((await tasks[n])[1][0, 0]) for n in (0, 2)]

    assert asyncio.run(scenario(Recorder())) == [0, 2]

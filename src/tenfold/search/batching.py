"""Searches of many clients, answered together: while one batch is under way, the next one gathers.

Nobody waits for company: what comes while nothing is under way starts at once. Unlike `gathering.py`, which threads
call, this is for one event loop, where a request that waits costs no thread.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
from starlette.concurrency import run_in_threadpool

from tenfold.core.errors import InputError

__all__ = ["Batcher"]

Answer = tuple[Any, ...]  # distances (q, k), ids (q, k), and what else `search` returns of a whole batch


class _Waiting(NamedTuple):
    queries: np.ndarray
    answer: asyncio.Future[Answer]


class Batcher:
    """Gathers small searches with the same options; all calls from one event loop.

    Args:
        search: Called with queries (q, dim) and options, in a thread; returns distances (q, k), ids (q, k), and
            what else belongs to every query of the batch.
        most: Queries in a batch; a search of as many or more is a batch of its own.

    Attributes:
        queries: How many were searched for.
        batches: By how many calls of `search`.
    """

    def __init__(self, search: Callable[..., Answer], most: int = 256) -> None:
        self._search, self._most = search, most
        self._lanes: dict[tuple[Hashable, ...], list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references
        self.queries = self.batches = 0

    async def search(self, queries: np.ndarray, *options: Hashable) -> Answer:
        """What `search` returns of queries (q, dim), all of one dtype; raises what it raises."""
        if len(queries) >= self._most:
            return await self._call(queries, options)
        waiting = _Waiting(queries, asyncio.get_running_loop().create_future())
        if options in self._lanes:
            self._lanes[options].append(waiting)
        else:
            self._lanes[options] = [waiting]
            task = asyncio.create_task(self._run(options))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.answer

    async def _run(self, options: tuple[Hashable, ...]) -> None:
        """Batch after batch, until nothing waits."""
        lane = self._lanes[options]
        try:
            while lane:
                group = _take(lane, self._most)
                await self._answer(group, options)
        finally:
            del self._lanes[options]

    async def _answer(self, group: list[_Waiting], options: tuple[Hashable, ...]) -> None:
        try:
            distances, ids, *rest = await self._call(np.concatenate([one.queries for one in group]), options)
        except Exception as error:
            if len(group) > 1 and isinstance(error, InputError):  # only the culprit gets it
                for one in group:
                    await self._answer([one], options)
                return
            for one in group:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        start = 0
        for one in group:
            rows = slice(start, start + len(one.queries))
            start = rows.stop
            if not one.answer.done():  # its client may have gone
                one.answer.set_result((distances[rows], ids[rows], *rest))

    async def _call(self, queries: np.ndarray, options: tuple[Hashable, ...]) -> Answer:
        self.queries, self.batches = self.queries + len(queries), self.batches + 1
        return await run_in_threadpool(self._search, queries, *options)


def _take(lane: list[_Waiting], most: int) -> list[_Waiting]:
    """Those that came first, up to `most` queries, off the lane."""
    size, taken = 0, 0
    for one in lane:
        if taken and size + len(one.queries) > most:
            break
        size, taken = size + len(one.queries), taken + 1
    group = lane[:taken]
    del lane[:taken]
    return group

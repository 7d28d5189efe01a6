"""Small requests of many threads, answered together."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import Generic, TypeVar

__all__ = ["Gatherer"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Request(Generic[Item, Answer]):
    item: Item
    kind: Hashable
    size: int
    done: bool = False
    answers: list[Answer] = field(default_factory=list)
    error: BaseException | None = None
    called: Lock = field(default_factory=Lock)  # held until it is answered, or is to lead


class Gatherer(Generic[Item, Answer]):
    """Gathers what threads ask for at about the same time; one of them, the leader, answers for all.

    There is no thread of its own. Who finds no leader becomes it, waits until `most` are there or `wait`
    seconds have passed, but not where nobody else is on the way, answers requests of one kind together, and
    hands over. Each of the others wakes once, when its answer is there or when it is to lead. Where a group
    fails, each request is tried alone, so that only the culprit gets the error.

    Args:
        answer: Turns items of one kind into as many answers.
        most: Size of a group, at most; a single larger item makes a group of its own.
        wait: Seconds.
    """

    def __init__(self, answer: Callable[[list[Item]], list[Answer]], most: int = 256, wait: float = 200e-6) -> None:
        self._answer, self._most, self._wait = answer, most, wait
        self._more = Condition()  # what the leader alone waits for
        self._waiting: list[_Request[Item, Answer]] = []
        self._leader: _Request[Item, Answer] | None = None
        self._callers = 0

    def enter(self) -> None:
        """Say that a caller is on its way: it asks now or soon. To be followed by `leave`."""
        with self._more:
            self._callers += 1

    def leave(self) -> None:
        """Say that a caller is through."""
        with self._more:
            self._callers -= 1

    def ask(self, item: Item, kind: Hashable, size: int) -> Answer:
        """The answer to an item, perhaps computed by another thread; raises what computing it raised."""
        request: _Request[Item, Answer] = _Request(item, kind, size)
        request.called.acquire()
        try:
            with self._more:
                self._waiting.append(request)
                leads = self._leader is None
                if leads:
                    self._leader = request
                else:
                    self._more.notify()
            if not leads:
                request.called.acquire()
            if not request.done:
                self._lead(request)
        finally:
            if self._leader is request or not request.done:
                self._hand_over(request)
        if request.error is not None:
            raise request.error
        return request.answers[0]

    def _lead(self, own: _Request[Item, Answer]) -> None:
        group: list[_Request[Item, Answer]] = []
        try:
            group = self._gather(own)
            self._run(group)
        finally:
            with self._more:  # after an interrupt, which is the leader's, the others go on without it
                self._waiting = [request for request in group if not request.done] + self._waiting
            for request in group:
                if request.done:
                    request.called.release()

    def _hand_over(self, own: _Request[Item, Answer]) -> None:
        """Whoever has waited longest leads next, where this request did; it itself is of the past."""
        with self._more:
            own.done = True
            self._waiting = [request for request in self._waiting if request is not own]
            if self._leader is own:
                self._leader = self._waiting[0] if self._waiting else None
                if self._leader is not None:
                    self._leader.called.release()

    def _gather(self, own: _Request[Item, Answer]) -> list[_Request[Item, Answer]]:
        """The leader's own request and others of its kind, out of the queue."""
        deadline = time.monotonic() + self._wait
        with self._more:
            while self._callers > len(self._waiting) and sum(r.size for r in self._waiting) < self._most:
                left = deadline - time.monotonic()
                if left <= 0 or not self._more.wait(left):
                    break
            group, size = [own], own.size
            for request in self._waiting:
                if request is not own and request.kind == own.kind and size + request.size <= self._most:
                    group.append(request)
                    size += request.size
            self._waiting = [request for request in self._waiting if request not in group]
        return group

    def _run(self, group: list[_Request[Item, Answer]]) -> None:
        try:
            answers = self._answer([request.item for request in group])
            for request, answer in zip(group, answers, strict=True):
                request.answers, request.done = [answer], True
        except Exception as error:
            if len(group) == 1:
                group[0].error, group[0].done = error, True
                return
            for request in group:
                self._run([request])

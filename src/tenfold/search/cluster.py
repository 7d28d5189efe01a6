"""Shards on a Ray cluster: who builds them, who holds them open, and what happens when one of those dies.

    search --- queries ---> an open replica of every shard --- k nearest rows each ---> merged by `sharding.py`
    tend   --- "are you there?", twice a second -------> all replicas; one that died or is silent is opened elsewhere

A *replica* is an actor: a process somewhere in the cluster that holds a shard open. Vectors never travel: workers open
files by their paths, and only queries and results go through Ray. Ray is imported once it is asked for.
"""

import contextlib
import importlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.index import Index, IoBackend
from tenfold.search.shards import Shard, check_shard

__all__ = ["Cluster", "Opening", "connect", "run_everywhere"]

Found = tuple[np.ndarray, np.ndarray]

_BEAT = 0.5  # seconds between two questions to a replica
_LONGEST_PAUSE = 30.0  # seconds between two tries to open a shard that cannot be opened
_TRIES = 3  # to open a shard, when the whole index is opened, on machines that go away
_SEARCHES = 16  # that a replica works on at the same time
_STORE_BYTES = 128 << 20  # of the object store of a cluster that is started here: queries and results
_INLINE_BYTES = 64 << 10  # queries beyond that are put into the object store once, and not sent to every shard
_CONNECT_SECONDS = 5.0
_CANCEL_SECONDS = 10.0

_connecting = threading.Lock()


def connect(address: str) -> Any:
    """The module `ray`, connected to a cluster: "local" starts one here, "auto" finds that of this machine.

    A process that is connected already stays so, whatever the address. Raises InputError where Ray is missing, or no
    cluster can be reached there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise InputError(f"shards on a cluster need {error.name}; pip install 'tenfold[cluster]'") from None
    with _connecting:
        if ray.is_initialized():
            return ray
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            own = {"num_cpus": _native.usable_cores(), "object_store_memory": _STORE_BYTES}
            options |= {"include_dashboard": False, **own}
        elif address != "auto":
            _check_address(address)
        try:
            ray.init(**options)
        except Exception as error:  # of many kinds, some of them plain RuntimeErrors
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"ray {address!r}: no cluster can be used there: {reason}") from None
    return ray


def _check_address(address: str) -> None:
    """InputError where nothing listens: Ray itself would try again for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InputError(
            f"ray {address!r}: is no address; write HOST:PORT as `ray start --head` shows it, auto for the cluster "
            "that this machine belongs to, or local to start one here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"ray {address!r}: cannot be reached: {reason}; is `ray start --head` running?") from None


def run_everywhere(
    ray: Any, function: Callable[[Any], str | None], jobs: Sequence[Any], done: Callable[[int], None]
) -> None:
    """Call a function with every job, on one job per machine at a time; again where its process dies.

    The function returns what is wrong, or None; the first such text becomes an InputError, and the other jobs stop.
    `done` is called with the number of jobs that are finished.
    """
    cores = min((int(node["Resources"].get("CPU", 0)) for node in _machines(ray)), default=0)
    remote = ray.remote(function).options(num_cpus=max(1, cores))
    waiting = [remote.remote(job) for job in jobs]
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            problem = ray.get(ready[0])
            if problem is not None:
                raise InputError(problem)
            done(len(jobs) - len(waiting))
    finally:
        for reference in waiting:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)
        if waiting:  # until they are gone, they hold their folders
            ray.wait(waiting, num_returns=len(waiting), timeout=_CANCEL_SECONDS)


def _machines(ray: Any) -> list[dict[str, Any]]:
    """Those of the cluster that are alive and take work."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


class Place(NamedTuple):
    """Where a worker is."""

    host: str
    pid: int
    machine: str  # as Ray calls it


class Opening(NamedTuple):
    """How a replica opens its shard; paths are those of the worker's machine."""

    folder: Path
    shard: Shard
    io: IoBackend
    cache: str | int


class ShardWorker:
    """The actor: holds a shard open. What is wrong it answers with a text, so that it is one sentence here too."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    def open(self) -> str | Place:
        """Where it is, once the shard is open."""
        folder, shard, io, cache = self._opening
        try:
            check_shard(folder, shard)
            self._index = Index.open(folder, io=io, cache=cache)
        except InputError as error:
            return str(error)
        machine = importlib.import_module("ray").get_runtime_context().get_node_id()
        return Place(socket.gethostname(), os.getpid(), machine)

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Found | str:
        """As `Index.search`."""
        try:
            return self._index.search(queries, k, **options)
        except InputError as error:
            return str(error)

    def get(self, ids: np.ndarray) -> np.ndarray | str:
        """As `Index.get`."""
        try:
            return self._index.get(ids)
        except InputError as error:
            return str(error)

    def is_there(self) -> Place | None:
        """Nothing: that it answers is what is wanted to know."""
        return None


@dataclass(eq=False)
class _Replica:
    """An actor as this process knows it; `state` is "opening", "open" or "lost"."""

    shard: int
    state: str = "lost"
    actor: Any = None
    machine: str = ""
    question: Any = None  # reference to the answer that is waited for: to `open`, then to `is_there`
    since: float = 0.0  # when it was asked or, if it is not asked now, when it answered
    failures: int = 0  # tries to open it, one after the other
    is_refused: bool = False  # whether a worker has said so, and not only died
    problem: str = ""
    place: Place | None = None  # of the actor, once it has opened


@dataclass(eq=False)
class _Request:
    """A call to one shard: the replicas that were asked."""

    shard: int
    replica: _Replica
    actor: Any
    asked: set[_Replica] = field(default_factory=set)


class Cluster:
    """Open replicas of shards, and a thread that looks after them. Any number of threads may search.

    Args:
        ray: As `connect` gives it.
        openings: How each shard is opened.
        replicas: Of each shard.
        patience: Seconds after which a replica that does not say that it is there is given up.

    Raises:
        InputError: A shard cannot be opened.
    """

    def __init__(self, ray: Any, openings: Sequence[Opening], replicas: int, patience: float) -> None:
        self._ray, self._openings, self._patience = ray, openings, patience
        self._placing = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        self._actor_class = ray.remote(concurrency_groups={"life": 1})(ShardWorker)
        self._turn = itertools.count()
        self._replicas = [_Replica(shard) for _ in range(replicas) for shard in range(len(openings))]
        self._changed = threading.Condition()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="tenfold-cluster", daemon=True)
        self._thread.start()
        try:
            self._wait_until_open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let all replicas go."""
        self._is_closing.set()
        self._thread.join()
        for replica in self._replicas:
            self._kill(replica.actor)

    def states(self) -> list[dict[str, Any]]:
        """Of each shard: `replicas`, how many are `open`, by which `workers`, and a `problem` of those that are not."""
        with self._changed:
            return [
                _state([one for one in self._replicas if one.shard == shard]) for shard in range(len(self._openings))
            ]

    # --- searching ------------------------------------------------------------------------------------------

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> list[Found | None]:
        """What each shard finds, None where none of its replicas answered. Raises InputError as `Index.search` does."""
        sent = self._ray.put(queries) if queries.nbytes > _INLINE_BYTES else queries
        found = self._ask("search", dict.fromkeys(range(len(self._openings)), (sent, k, options)))
        return [found[shard] for shard in range(len(self._openings))]

    def get(self, ids: Mapping[int, np.ndarray]) -> dict[int, np.ndarray | None]:
        """Vectors by shard and ids there, None where none of its replicas answered."""
        return self._ask("get", {shard: (some,) for shard, some in ids.items()})

    def _ask(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """What shards answer to a call of a method with arguments by shard, None where no replica does."""
        found: dict[int, Any] = {}
        waiting: dict[Any, _Request] = {}

        def ask(shard: int, asked: set[_Replica]) -> None:
            replica = self._choose(shard, asked)
            if replica is not None:
                request = _Request(shard, replica, replica.actor, asked | {replica})
                waiting[getattr(request.actor, method).remote(*arguments[shard])] = request

        for shard in arguments:
            found[shard] = None
            ask(shard, set())
        while waiting:
            ready, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=_BEAT)
            given_up = [ref for ref, one in waiting.items() if not self._is_open(one.replica, one.actor)]
            for reference in {*ready, *given_up}:
                request = waiting.pop(reference)
                answer = self._answer(reference, request) if reference in ready else None
                if answer is None:
                    ask(request.shard, request.asked)
                found[request.shard] = answer
        return found

    def _choose(self, shard: int, asked: set[_Replica]) -> _Replica | None:
        """An open replica that was not asked yet; in turn, so that all have work."""
        with self._changed:
            able = [one for one in self._replicas if one.shard == shard and one.state == "open" and one not in asked]
            return able[next(self._turn) % len(able)] if able else None

    def _is_open(self, replica: _Replica, actor: Any) -> bool:
        return replica.actor is actor and replica.state == "open"

    def _answer(self, reference: Any, request: _Request) -> Any:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:  # a bug, or no memory: the next replica would fail too
            raise
        except self._ray.exceptions.RayError as error:
            self._lose(request.replica, request.actor, error)
            return None
        if isinstance(answer, str):
            raise InputError(answer)
        return answer

    # --- looking after replicas -----------------------------------------------------------------------------

    def _tend(self) -> None:
        while not self._is_closing.is_set():
            try:
                self._ask_all()
            except Exception as error:  # of Ray, about the cluster: it may come back
                with self._changed:
                    for replica in self._replicas:
                        if replica.state == "lost":
                            replica.failures, replica.problem = replica.failures + 1, str(error)
                self._is_closing.wait(_BEAT)

    def _ask_all(self) -> None:
        """Open what is lost, ask those that are open, and hear what they say."""
        now = time.monotonic()
        for replica in self._replicas:
            if replica.state == "lost" and now >= replica.since + _pause(replica.failures):
                self._open(replica)
            elif replica.state == "open" and replica.question is None and now >= replica.since + _BEAT:
                question = replica.actor.is_there.options(concurrency_group="life").remote()
                with self._changed:
                    if replica.state == "open":  # still: searches may have lost it
                        replica.question, replica.since = question, now
        with self._changed:
            questions = {one.question: one for one in self._replicas if one.question is not None}
        if not questions:
            self._is_closing.wait(_BEAT / 4)
            return
        ready, silent = self._ray.wait(list(questions), num_returns=len(questions), timeout=_BEAT / 2)
        for question in ready:
            self._hear(questions[question], question)
        for question in silent:  # only now: this process may itself have stood still
            replica = questions[question]
            if replica.state == "open" and now > replica.since + self._patience:
                self._lose(replica, replica.actor, f"did not answer for {self._patience:g} seconds")

    def _open(self, replica: _Replica) -> None:
        """Start an actor that opens the shard."""
        machine = self._place(replica)
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": _SEARCHES}
        if machine:
            options["scheduling_strategy"] = self._placing(machine, soft=False)  # what is soft Ray passes over
        actor = self._actor_class.options(**options).remote(self._openings[replica.shard])
        question = actor.open.remote()
        with self._changed:
            replica.state, replica.actor, replica.machine = "opening", actor, machine
            replica.question, replica.since = question, time.monotonic()

    def _place(self, replica: _Replica) -> str:
        """The machine with the fewest replicas of this shard and then the fewest of all; not where it was lost."""
        held = [one for one in self._replicas if one.state != "lost"]

        def load(machine: str) -> tuple[int, bool, int]:
            here = [one for one in held if one.machine == machine]
            return sum(one.shard == replica.shard for one in here), machine == replica.machine, len(here)

        return min((str(node["NodeID"]) for node in _machines(self._ray)), key=load, default="")

    def _hear(self, replica: _Replica, question: Any) -> None:
        """Note the answer to a question."""
        actor = replica.actor
        try:
            answer: str | Place | None = self._ray.get(question)
        except self._ray.exceptions.RayError as error:
            self._lose(replica, actor, error)
            return
        if isinstance(answer, str):
            self._lose(replica, actor, answer)
            return
        with self._changed:
            if replica.question is question:
                replica.state, replica.question, replica.since = "open", None, time.monotonic()
                replica.failures, replica.problem = 0, ""
                if answer is not None:
                    replica.place, replica.machine = answer, answer.machine
                self._changed.notify_all()

    def _lose(self, replica: _Replica, actor: Any, problem: object) -> None:
        """Give an actor up, unless another has taken its place already."""
        with self._changed:
            if replica.actor is not actor or replica.state == "lost":
                return
            replica.failures += replica.state == "opening"
            replica.is_refused = isinstance(problem, str) and replica.state == "opening"
            replica.state, replica.question, replica.since = "lost", None, time.monotonic()
            replica.problem = " ".join(str(problem).split())[:500] or type(problem).__name__
            self._changed.notify_all()
        self._kill(actor)

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(Exception):  # it may be dead, or the whole cluster
            self._ray.kill(actor)

    def _wait_until_open(self) -> None:
        with self._changed:
            while any(one.state != "open" for one in self._replicas):
                for one in self._replicas:
                    if one.failures >= (1 if one.is_refused else _TRIES):
                        folder = self._openings[one.shard].folder
                        said = "" if str(folder) in one.problem else f"{folder}: a worker cannot open it: "
                        raise InputError(said + one.problem)
                self._changed.wait(_BEAT)


def _state(replicas: Sequence[_Replica]) -> dict[str, Any]:
    """Of one shard."""
    places = [one.place for one in replicas if one.state == "open" and one.place]
    return {
        "replicas": len(replicas),
        "open": len(places),
        "workers": [f"{place.host}:{place.pid}" for place in places],
        "problem": next((one.problem for one in replicas if one.state != "open"), ""),
    }


def _pause(failures: int) -> float:
    """Seconds to wait before a shard is opened again."""
    return 0.0 if failures == 0 else min(_LONGEST_PAUSE, 0.5 * 2.0**failures)

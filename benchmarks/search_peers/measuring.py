"""The measured rounds: every peer at every recall, in alternating order."""

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search_peers.building import Store, drop_from_page_cache
from search_peers.peer import Peer
from search_peers.process import PeerError, Process
from search_peers.tuning import Choice, Tuner
from search_peers.workload import Workload

TOLERANCE = 0.0005  # a setting tuned on some of the queries may miss by this much on all
SINGLE_QUERIES = 1000
COLD_TARGET = 0.95


@dataclass
class Contestant:
    """A peer in its running process, with what was found and measured."""

    peer: Peer
    process: Process
    opened: dict[str, Any]
    choices: dict[float, Choice | None] = field(default_factory=dict)
    batches: dict[float, list[dict[str, Any]]] = field(default_factory=dict)
    singles: dict[float, dict[str, Any]] = field(default_factory=dict)
    asked: dict[float, dict[str, Any]] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    cold: dict[str, Any] | None = None

    @classmethod
    def enter(cls, peer: Peer, store: Store) -> "Contestant":
        """Start the peer's process and open its index."""
        process = Process(peer, store.work)
        try:
            opened = process.order("open", **where(peer, store))
        except Exception:
            process.close()
            raise
        return cls(peer, process, opened)

    def tune(self, workload: Workload, targets: Sequence[float]) -> None:
        """Choose the settings that the rounds measure."""

        def trial(setting: dict[str, object]) -> tuple[float, float]:
            cost = self._batch(setting, workload, self.peer.tuning_queries)
            print(f"  {self.peer.name} {setting}: recall {cost['recall']:.4f}, {cost['qps']:,.0f}/s", file=sys.stderr)
            self.trials.append({"setting": setting, **{name: cost[name] for name in ("recall", "qps", "pages")}})
            return float(cost["recall"]), float(cost["qps"])

        self.choices = Tuner(self.peer, trial).tune(targets)
        self.batches = {target: [] for target in targets}

    def ask(self, workload: Workload, targets: Sequence[float]) -> None:
        """Of a library that takes the recall itself as its parameter, measure what that gives."""
        if self.peer.axis != "recall":
            return
        for target in targets:
            setting = {**self.peer.families[0], "recall": target}
            self.asked[target] = self._batch(setting, workload, self.peer.batch_queries)

    def measure_batch(self, workload: Workload, target: float) -> None:
        """Measure one batch; move along the grid first if the setting misses on its queries."""
        while (choice := self.choices[target]) is not None:
            setting = self.peer.setting(choice.family, choice.step)
            cost = self._batch(setting, workload, self.peer.batch_queries)
            if cost["recall"] >= target - TOLERANCE:
                self.batches[target].append(cost)
                return
            self.batches[target].clear()
            following = Choice(choice.family, choice.step + 1, choice.qps)
            self.choices[target] = following if following.step < len(self.peer.grid) else None

    def measure_single(self, workload: Workload, target: float) -> None:
        """Measure queries one at a time."""
        choice = self.choices[target]
        if choice is not None:
            setting = self.peer.setting(choice.family, choice.step)
            cost = self.process.order("single", setting=setting, queries=min(SINGLE_QUERIES, len(workload.queries)))
            self.singles[target] = self._counted(cost)

    def measure_cold(self, store: Store, targets: Sequence[float]) -> None:
        """Measure opening and the first answers in a new process, with the index dropped from the page cache.

        The setting is that of recall 0.95, or the nearest that was reached. No process may have the
        index open: what is mapped stays in the cache.
        """
        reached = [target for target in targets if self.batches[target]]
        if not reached:
            return
        target = min(reached, key=lambda one: abs(one - COLD_TARGET))
        choice = self.choices[target]
        assert choice
        print(f"cold: {self.peer.title}", file=sys.stderr, flush=True)
        with Process(self.peer, store.work) as process:
            drop_from_page_cache(store.folder(self.peer))
            self.cold = process.order(
                "cold",
                **where(self.peer, store),
                setting=self.peer.setting(choice.family, choice.step),
                threads=self.peer.threads,
            )
        self.cold["target"] = f"{target:.2f}"

    def result(self, cost: dict[str, Any] | None) -> dict[str, Any]:
        """Return everything about this peer as JSON values; `cost` is that of its build."""
        batches = [batch for runs in self.batches.values() for batch in runs]
        return {
            "title": self.peer.title,
            "on_disk": self.peer.on_disk,
            "reads_cached": self.peer.reads_cached,
            "threads": self.peer.threads,
            "versions": self.process.versions,
            "build": cost,
            "open_seconds": self.opened["seconds"],
            "rss_growth": max((batch["rss_growth"] for batch in batches), default=self.opened["rss_growth"]),
            "peak_rss_growth": max((batch["peak_rss_growth"] for batch in batches), default=None),
            "asked": {f"{target:.2f}": cost for target, cost in self.asked.items()},
            "targets": {f"{target:.2f}": self._at(target) for target in self.choices},
            "trials": self.trials,
            "cold": self.cold,
        }

    def _batch(self, setting: dict[str, Any], workload: Workload, queries: int) -> dict[str, Any]:
        cost, ids = self.process.batch(setting, min(queries, len(workload.queries)))
        return self._counted(cost) | {"recall": workload.recall(ids)}

    def _counted(self, cost: dict[str, Any]) -> dict[str, Any]:
        """Return a cost with the pages that count for this peer."""
        return cost | {"pages": cost["asked"] if self.peer.reads_cached else cost["pages"]}

            "edges": self.peer.edges(choice.family, choice.step),
    def _at(self, target: float) -> dict[str, Any] | None:
        choice, runs = self.choices[target], self.batches[target]
        if choice is None or not runs:
            return None
        return {
            "setting": self.peer.setting(choice.family, choice.step),
            "recall": statistics.median(run["recall"] for run in runs),
            "qps": [run["qps"] for run in runs],
            "cpu_us": statistics.median(run["cpu_us"] for run in runs),
            "pages": statistics.median(run["pages"] for run in runs),
            "own_pages": runs[-1]["own_pages"],
            "single": self.singles.get(target),
        }


def where(peer: Peer, store: Store) -> dict[str, Any]:
    """Return the arguments of the orders that open an index."""
    folder, queries = store.folder(peer), store.workload.query_path
    return {"folder": str(folder.absolute()), "queries": str(queries.absolute()), "options": dict(peer.open)}


def rounds(contestants: Sequence[Contestant], workload: Workload, targets: Sequence[float], repeats: int) -> list[str]:
    """Measure all contestants `repeats` times, turn by turn; every second round in reverse order.

    Returns why a contestant that failed on the way did; it keeps what was measured before.
    """
    failures: dict[str, str] = {}

    def attempt(contestant: Contestant, measure: Callable[[], None]) -> None:
        if contestant.peer.name in failures:
            return
        try:
            measure()
        except PeerError as error:
            failures[contestant.peer.name] = str(error)
            print(f"gave up: {error}", file=sys.stderr, flush=True)

    for number in range(repeats):
        order = contestants if number % 2 == 0 else contestants[::-1]
        for target, contestant in itertools.product(targets, order):
            attempt(contestant, partial(contestant.measure_batch, workload, target))
        print(f"round {number + 1} of {repeats} done", file=sys.stderr, flush=True)
    for target, contestant in itertools.product(targets, contestants):
        attempt(contestant, partial(contestant.measure_single, workload, target))
    return list(failures.values())


def cold(contestants: Sequence[Contestant], store: Store, targets: Sequence[float]) -> list[str]:
    """Measure each contestant from a new process with an empty page cache; return why those that failed did."""
    failures = []
    for contestant in contestants:
        try:
            contestant.measure_cold(store, targets)
        except PeerError as error:
            failures.append(str(error))
            print(f"not measured cold: {error}", file=sys.stderr, flush=True)
    return failures

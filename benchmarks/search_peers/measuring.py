"""The measured rounds: every peer at every recall, in alternating order."""

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from search_peers.building import Store, drop_from_page_cache
from search_peers.peer import Peer
from search_peers.process import PeerError, Process
from search_peers.tuning import Choice, Tuner
from search_peers.workload import Workload

SINGLE_QUERIES = 1000


@dataclass
class Contestant:
    """A peer in its running process, with what was found and measured."""

    peer: Peer
    process: Process
    opened: dict[str, Any]
    choices: dict[float, Choice | None] = field(default_factory=dict)
    batches: dict[float, list[dict[str, Any]]] = field(default_factory=dict)
    singles: dict[float, list[dict[str, Any]]] = field(default_factory=dict)
    cold: dict[float, dict[str, Any]] = field(default_factory=dict)
    asked: dict[float, dict[str, Any]] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)

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
        if self.peer.tuning_queries < min(self.peer.batch_queries, len(workload.queries)):
            for target, choice in self.choices.items():
                self.choices[target] = choice and self._settled(choice, target, workload)
        self.batches = {target: [] for target in targets}
        self.singles = {target: [] for target in targets}

    def ask(self, workload: Workload, targets: Sequence[float]) -> None:
        """Of a library that takes the recall itself as its parameter, measure what that gives."""
        if self.peer.axis != "recall":
            return
        for target in targets:
            setting = {**self.peer.families[0], "recall": target}
            self.asked[target] = self._batch(setting, workload, self.peer.batch_queries)

    def measure(self, workload: Workload, target: float) -> None:
        """Measure a batch, then single queries."""
        if choice := self.choices[target]:
            setting = self.peer.setting(choice.family, choice.step)
            cost = self._batch(setting, workload, self.peer.batch_queries)
            self.singles[target].append(self._counted(self.process.single(setting, SINGLE_QUERIES)))
            self.batches[target].append(cost)

    def measure_cold(self, store: Store, target: float) -> None:
        """Measure the first answers of a new process, with the index dropped from the page cache before each step.

        No other process may have the index open: what is mapped stays in the cache.
        """
        choice = self.choices[target]
        if choice is None or not self.batches[target]:
            return
        print(f"cold at {target:.2f}: {self.peer.title}", file=sys.stderr, flush=True)
        setting, folder = self.peer.setting(choice.family, choice.step), store.folder(self.peer)
        with Process(self.peer, store.work) as process:
            drop_from_page_cache(folder)
            first = process.order("first", **where(self.peer, store), setting=setting)
            drop_from_page_cache(folder)
            single = process.single(setting, SINGLE_QUERIES)
            drop_from_page_cache(folder)
            batch, _ = process.batch(setting, SINGLE_QUERIES)
        self.cold[target] = {
            "first_answer_seconds": first["seconds"],
            "first_answer_pages": first["pages"],
            **{name: single[name] for name in ("p50_us", "p99_us", "pages")},
            "qps": batch["qps"],
        }

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
        }

    def _settled(self, choice: Choice, target: float, workload: Workload) -> Choice | None:
        """Return the first step near a choice, which fewer queries made, that reaches the recall with all of them."""

        def reaches(step: int) -> bool:
            setting = self.peer.setting(choice.family, step)
            return bool(self._batch(setting, workload, self.peer.batch_queries)["recall"] >= target)

        step, last = choice.step, len(self.peer.grid) - 1
        if reaches(step):
            while step > 0 and reaches(step - 1):
                step -= 1
            return replace(choice, step=step)
        while step < last:
            step += 1
            if reaches(step):
                return replace(choice, step=step)
        return None

    def _batch(self, setting: dict[str, Any], workload: Workload, queries: int) -> dict[str, Any]:
        cost, ids = self.process.batch(setting, min(queries, len(workload.queries)))
        return self._counted(cost) | {"recall": workload.recall(ids)}

    def _counted(self, cost: dict[str, Any]) -> dict[str, Any]:
        """Return a cost with the pages that count for this peer."""
        return cost | {"pages": cost["asked"] if self.peer.reads_cached else cost["pages"]}

    def _at(self, target: float) -> dict[str, Any] | None:
        choice, runs, singles = self.choices[target], self.batches[target], self.singles[target]
        if choice is None or not runs:
            return None
        return {
            "setting": self.peer.setting(choice.family, choice.step),
            "edges": self.peer.edges(choice.family, choice.step),
            "recall": statistics.median(run["recall"] for run in runs),
            "qps": [run["qps"] for run in runs],
            "cpu_us": statistics.median(run["cpu_us"] for run in runs),
            "pages": statistics.median(run["pages"] for run in runs),
            "own_pages": runs[-1]["own_pages"],
            "p50_us": [one["p50_us"] for one in singles],
            "p99_us": [one["p99_us"] for one in singles],
            "single_pages": statistics.median(one["pages"] for one in singles),
            "cold": self.cold.get(target),
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
            failures[contestant.peer.name] = complain("given up in the rounds", error)

    for number in range(repeats):
        order = contestants if number % 2 == 0 else contestants[::-1]
        for target, contestant in itertools.product(targets, order):
            attempt(contestant, partial(contestant.measure, workload, target))
        print(f"round {number + 1} of {repeats} done", file=sys.stderr, flush=True)
    return list(failures.values())


def cold(contestants: Sequence[Contestant], store: Store, targets: Sequence[float]) -> list[str]:
    """Measure each contestant in new processes with an empty page cache; return why those that failed did."""
    failures = []
    for target, contestant in itertools.product(targets, contestants):
        try:
            contestant.measure_cold(store, target)
        except PeerError as error:
            failures.append(complain(f"not measured cold at {target:.2f}", error))
    return failures


def complain(what: str, error: PeerError) -> str:
    """Show what was not done and why, and return it for the page."""
    reason = f"{what}: {error}"
    print(reason, file=sys.stderr, flush=True)
    return reason

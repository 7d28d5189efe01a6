"""The measured rounds: every peer at every recall, in alternating order."""

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search_peers.building import Store
from search_peers.catalogue import Peer
from search_peers.process import PeerError, Process
from search_peers.tuning import Choice, Tuner
from search_peers.workload import Workload

TOLERANCE = 0.0005  # a setting tuned on some of the queries may miss by this much on all
SINGLE_QUERIES = 1000


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

    @classmethod
    def enter(cls, peer: Peer, store: Store) -> "Contestant":
        """Start the peer's process and open its index."""
        process = Process(peer, store.work)
        queries = str(store.workload.query_path.absolute())
        try:
            opened = process.order(
                "open", folder=str(store.folder(peer).absolute()), queries=queries, options=dict(peer.open)
            )
        except Exception:
            process.close()
            raise
        return cls(peer, process, opened)

    def tune(self, workload: Workload, targets: Sequence[float]) -> None:
        """Choose the settings that the rounds measure."""

        def trial(setting: dict[str, object]) -> tuple[float, float]:
            queries = min(self.peer.tuning_queries, len(workload.queries))
            cost, ids = self.process.batch(setting, queries)
            recall = workload.recall(ids)
            print(f"  {self.peer.name} {setting}: recall {recall:.4f}, {cost['qps']:,.0f}/s", file=sys.stderr)
            return recall, float(cost["qps"])

        self.choices = Tuner(self.peer, trial).tune(targets)
        self.batches = {target: [] for target in targets}

    def ask(self, workload: Workload, targets: Sequence[float]) -> None:
        """Of a library that takes the recall itself as its parameter, measure what that gives."""
        if self.peer.axis != "recall":
            return
        for target in targets:
            cost, ids = self.process.batch({**self.peer.families[0], "recall": target}, len(workload.queries))
            self.asked[target] = cost | {"recall": workload.recall(ids)}

    def measure_batch(self, workload: Workload, target: float) -> None:
        """Measure one batch of all queries; move along the grid first if the setting misses on them."""
        while (choice := self.choices[target]) is not None:
            cost, ids = self.process.batch(self.peer.setting(choice.family, choice.step), len(workload.queries))
            cost["recall"] = workload.recall(ids)
            if cost["recall"] >= target - TOLERANCE:
                self.batches[target].append(cost)
                return
            self.batches[target].clear()
            following = Choice(choice.family, choice.step + 1, choice.qps)
            self.choices[target] = following if following.step < len(self.peer.grid) else None

    def measure_single(self, target: float) -> None:
        """Measure queries one at a time."""
        choice = self.choices[target]
        if choice is not None:
            setting = self.peer.setting(choice.family, choice.step)
            self.singles[target] = self.process.order("single", setting=setting, queries=SINGLE_QUERIES)

    def result(self, cost: dict[str, Any] | None) -> dict[str, Any]:
        """Return everything about this peer as JSON values; `cost` is that of its build."""
        batches = [batch for runs in self.batches.values() for batch in runs]
        return {
            "title": self.peer.title,
            "on_disk": self.peer.on_disk,
            "threads": self.peer.threads,
            "versions": self.process.versions,
            "build": cost,
            "open_seconds": self.opened["seconds"],
            "rss_growth": max((batch["rss_growth"] for batch in batches), default=self.opened["rss_growth"]),
            "peak_rss_growth": max((batch["peak_rss_growth"] for batch in batches), default=None),
            "asked": {f"{target:.2f}": cost for target, cost in self.asked.items()},
            "targets": {f"{target:.2f}": self._at(target) for target in self.choices},
        }

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
        attempt(contestant, partial(contestant.measure_single, target))
    return list(failures.values())

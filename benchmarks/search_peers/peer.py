"""What a peer is: one library in one configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

THREADS = 2


@dataclass(frozen=True)
class Peer:
    """One library in one configuration: one row of the tables.

    Attributes:
        name: What `--peers` and the plots call it.
        title: What the tables call it, with its build parameters.
        adapter: The module of this package that drives the library.
        distribution: The installed distribution whose version is reported.
        requirements: What its own environment holds; empty: the interpreter that runs the harness.
        build: Keyword arguments for the adapter's `build`.
        open: Keyword arguments for the adapter's `open`.
        axis: The search parameter that is tuned until a recall is just reached.
        grid: Its values, rising in recall.
        families: Values of the other search parameters; each is tried and the fastest is kept.
        threads: Threads of a batch; always on two cores.
        on_disk: Whether searching reads vectors from disk.
        reads_cached: Whether those reads go through the system's page cache; then what the library asks
            for is counted, not what the disk delivers.
        tuning_queries: How many queries a tuning step takes.
        batch_queries: How many queries a measured batch takes.
        build_estimate: Seconds to build, for the plan.
        measure_estimate: Seconds to tune and to measure, for the plan.
    """

    name: str
    title: str
    adapter: str
    distribution: str
    requirements: tuple[str, ...]
    axis: str
    grid: tuple[float, ...]
    build: Mapping[str, Any] = field(default_factory=dict)
    open: Mapping[str, Any] = field(default_factory=dict)
    families: tuple[Mapping[str, Any], ...] = ({},)
    threads: int = THREADS
    on_disk: bool = False
    reads_cached: bool = False
    tuning_queries: int = 10_000
    batch_queries: int = 10_000
    build_estimate: float = 0.0
    measure_estimate: float = 0.0

    def setting(self, family: int, step: int) -> dict[str, Any]:
        """Return the search parameters of one family at one grid step."""
        return {**self.families[family], self.axis: self.grid[step]}

    def edges(self, family: int, step: int) -> list[str]:
        """Return the search parameters whose value there is the smallest or the largest of those tried."""
        tried = {name: [other[name] for other in self.families] for name in self.families[family]}
        tried[self.axis] = list(self.grid)
        chosen = self.setting(family, step)
        return [name for name, values in tried.items() if chosen[name] in (min(values), max(values))]


def geometric(low: int, high: int) -> tuple[float, ...]:
    """Return whole numbers from `low` to `high`, about 4 % apart."""
    steps = int(np.log(high / low) / np.log(1.04)) + 1
    return tuple(int(value) for value in np.unique(np.rint(np.geomspace(low, high, steps))))

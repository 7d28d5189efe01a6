"""Which libraries are compared, how each is built and opened, and over what it is tuned."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np

THREADS = 2
NEWEST_NUMPY = "numpy==2.4.6"


@dataclass(frozen=True)
class Peer:
    """One library in one configuration: one row of the tables.

    Attributes:
        name: What `--peers` calls it.
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
        tuning_queries: How many queries a tuning step takes.
        build_estimate: Seconds for one million vectors, for the plan.
        measure_estimate: Seconds to tune and to measure at one million vectors, for the plan.
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
    tuning_queries: int = 10_000
    build_estimate: float = 0.0
    measure_estimate: float = 0.0

    def setting(self, family: int, step: int) -> dict[str, Any]:
        """Return the search parameters of one family at one grid step."""
        return {**self.families[family], self.axis: self.grid[step]}


def geometric(low: int, high: int) -> tuple[float, ...]:
    """Return whole numbers from `low` to `high`, about 4 % apart."""
    steps = int(np.log(high / low) / np.log(1.04)) + 1
    return tuple(int(value) for value in np.unique(np.rint(np.geomspace(low, high, steps))))


def catalogue(
    rows: int, diskann_graph: tuple[int, int], build: Mapping[str, Any], open_: Mapping[str, Any]
) -> tuple[Peer, ...]:
    """Return all configurations for a base of `rows` vectors.

    Args:
        rows: Decides the number of faiss's lists (4,096 from 160,000 vectors on) and of the nodes that
            DiskANN caches, where it does (a tenth).
        diskann_graph: Degree R and build complexity L of DiskANN's graph.
        build: Extra keyword arguments for Tenfold's `Index.build`.
        open_: Extra keyword arguments for Tenfold's `Index.open`.
    """
    return (*_tenfold(build, open_), *_diskann(rows, *diskann_graph), _faiss(rows), _hnswlib())


def _tenfold(build: Mapping[str, Any], open_: Mapping[str, Any]) -> tuple[Peer, ...]:
    asked = [*np.arange(0.70, 0.90, 0.02), *np.arange(0.90, 0.98, 0.005), *np.arange(0.98, 0.9995, 0.001)]
    disk = Peer(
        name="tenfold",
        title="tenfold",
        adapter="ours",
        distribution="tenfold",
        requirements=(),
        build=build,
        open=open_,
        axis="recall",
        grid=tuple(round(float(recall), 4) for recall in asked),
        on_disk=True,
        tuning_queries=4_000,
        build_estimate=60,
        measure_estimate=90,
    )
    memory = replace(
        disk,
        name="tenfold-memory",
        title="tenfold, vectors in memory",
        open={**open_, "io": "memory"},
        on_disk=False,
        tuning_queries=10_000,
        build_estimate=0,
    )
    return disk, memory


def _diskann(rows: int, degree: int, complexity: int) -> tuple[Peer, ...]:
    def peer(name: str, cached: int, threads: int, measure_estimate: float) -> Peer:
        nodes = f"{cached:,} nodes cached" if cached else "no node cache"
        return Peer(
            name=name,
            title=f"diskannpy R{degree} L{complexity}, {nodes}, {threads} threads",
            adapter="diskann",
            distribution="diskannpy",
            requirements=("diskannpy==0.7.0", "numpy==1.25.0"),
            build={"degree": degree, "complexity": complexity, "code_bytes": 32},
            open={"cached_nodes": cached, "threads": threads},
            axis="complexity",
            grid=geometric(10, 1000),
            families=tuple({"beam_width": width} for width in (4, 2, 8)),
            threads=threads,
            on_disk=True,
            tuning_queries=1_000,
            build_estimate=200 + 7 * degree + 1.5 * complexity if not cached else 0,
            measure_estimate=measure_estimate,
        )

    return (
        peer("diskann", 0, THREADS, 330),
        peer("diskann-cached", rows // 10, THREADS, 260),
        peer("diskann-16", rows // 10, 16, 140),
    )


def _faiss(rows: int) -> Peer:
    lists = 4096 if rows >= 160_000 else 2 ** int(np.log2(4 * sqrt(rows)))
    description = f"IVF{lists},PQ64x4fs,Refine(SQ8_direct)"
    return Peer(
        name="faiss",
        title=f"faiss {description}",
        adapter="faiss_ivf",
        distribution="faiss-cpu",
        requirements=("faiss-cpu==1.15.1", NEWEST_NUMPY),
        build={"description": description},
        axis="nprobe",
        grid=geometric(1, min(lists, 512)),
        families=tuple({"k_factor": factor} for factor in (10, 4, 6, 16, 25, 40, 64)),
        build_estimate=45,
        measure_estimate=75,
    )


def _hnswlib() -> Peer:
    return Peer(
        name="hnswlib",
        title="hnswlib M16 efC200",
        adapter="hnsw",
        distribution="hnswlib",
        requirements=("hnswlib==0.8.0", NEWEST_NUMPY),
        build={"links": 16, "complexity": 200},
        axis="ef",
        grid=geometric(10, 2000),
        build_estimate=350,
        measure_estimate=40,
    )

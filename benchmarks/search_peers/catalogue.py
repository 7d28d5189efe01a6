"""Which libraries are compared, how each is built and opened, and over what it is tuned."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np

from search_peers.peer import THREADS, Peer, geometric

NUMPY = "numpy==2.4.6"
FAISS = ("faiss-cpu==1.15.1", NUMPY)
MILLION = 1_000_000


@dataclass(frozen=True)
class Kind:
    """What the configurations depend on.

    Attributes:
        rows: Vectors in the base.
        dims: Their dimensions.
        is_bytes: Whether they are uint8; else float32.
        metric: "l2" or "cosine".
        tenfold_build: Extra keyword arguments for Tenfold's `Index.build`.
        tenfold_open: Extra keyword arguments for Tenfold's `Index.open`.
    """

    rows: int = MILLION
    dims: int = 128
    is_bytes: bool = True
    metric: str = "l2"
    tenfold_build: Mapping[str, Any] = field(default_factory=dict)
    tenfold_open: Mapping[str, Any] = field(default_factory=dict)

    @property
    def code_bytes(self) -> int:
        """Bytes of code per vector: what Tenfold takes by default."""
        quarter = -(-self.dims // 4)
        return quarter if self.dims >= 256 else min(max(quarter, 16), 64)

    @property
    def lists(self) -> int:
        """Inverted lists: 4,096 from 160,000 vectors on."""
        return 4096 if self.rows >= 160_000 else 2 ** int(np.log2(4 * sqrt(self.rows)))

    @property
    def refinement(self) -> str:
        """What faiss re-ranks with: bytes as they are, floats in half precision."""
        return "Refine(SQ8_direct)" if self.is_bytes else "Refine(SQfp16)"

    def seconds(self, at_a_million: float) -> float:
        """Estimate the seconds of a build from those for a million vectors of 128 bytes."""
        return at_a_million * (0.1 + 0.9 * self.rows / MILLION) * max(1.0, self.dims / 128)

    def effort(self, at_a_million: float) -> float:
        """Estimate the seconds of measuring likewise; the batches shrink less than the base."""
        share = float(min(1.0, self.rows / MILLION) ** 0.3)
        return at_a_million * (0.3 + 0.7 * share) * max(1.0, self.dims / 256)


def catalogue(kind: Kind) -> tuple[Peer, ...]:
    """Return all configurations: those that read from disk, then those in memory."""
    ours = _tenfold(kind)
    disk, memory = ([peer for peer in ours if peer.on_disk is on_disk] for on_disk in (True, False))
    lists = (_faiss_pq(kind), _faiss_rabitq(kind), _scann(kind))
    graphs = (_faiss_hnsw(kind), _hnswlib(kind), _usearch(kind), _svs(kind))
    return (*disk, *_diskann(kind), _lancedb(kind), *memory, *lists, *graphs)


def _tenfold(kind: Kind) -> tuple[Peer, ...]:
    asked = [*np.arange(0.70, 0.86, 0.02), *np.arange(0.86, 0.98, 0.005), *np.arange(0.98, 0.9995, 0.001)]
    disk = Peer(
        name="tenfold",
        title="tenfold",
        adapter="ours",
        distribution="tenfold",
        requirements=(),
        build={"metric": kind.metric, **kind.tenfold_build},
        open=kind.tenfold_open,
        axis="recall",
        grid=tuple(round(float(recall), 4) for recall in asked),
        on_disk=True,
        tuning_queries=4_000,
        build_estimate=kind.seconds(60),
        measure_estimate=kind.effort(100),
    )
    short, long = 5 * kind.code_bytes // 8, 2 * kind.code_bytes  # on SIFT about DiskANN's memory without and with cache
    codec = "PQ " if kind.dims >= 256 else ""  # there the default is another
    small = replace(
        disk,
        name="tenfold-small",
        title=f"tenfold, {codec}codes of {short} bytes and lists of 256 rows",
        build={**disk.build, "codec": "pq", "code_bytes": short, "rows_per_list": 256},
    )
    large = replace(
        disk,
        name="tenfold-large",
        title=f"tenfold, {codec}codes of {long} bytes",
        build={**disk.build, "codec": "pq", "code_bytes": long},
    )
    memory = replace(
        disk,
        name="tenfold-memory",
        title="tenfold, vectors in memory",
        open={**kind.tenfold_open, "io": "memory"},
        on_disk=False,
        tuning_queries=10_000,
        build_estimate=0,
    )
    if kind.dims < 256:  # their neighbours lie in few lists
        return disk, small, large, memory
    second = replace(
        memory,
        name="tenfold-memory-second",
        title="tenfold, second lists, vectors in memory",
        build={**disk.build, "second_lists": True},
        build_estimate=disk.build_estimate,
    )
    return disk, small, large, memory, second


def _diskann(kind: Kind) -> tuple[Peer, ...]:
    slim, thick, tenth = (32, 64), (64, 100), kind.rows // 10

    def peer(
        name: str, graph: tuple[int, int], cached: int, threads: int, measure_estimate: float, longer: int = 1
    ) -> Peer:
        degree, complexity = graph
        code_bytes = longer * kind.code_bytes
        codes = f", codes of {code_bytes} bytes" if longer > 1 else ""
        nodes = f"{cached:,} nodes cached" if cached else "no node cache"
        return Peer(
            name=name,
            title=f"diskannpy R{degree} L{complexity}{codes}, {nodes}, {threads} threads",
            adapter="diskann",
            distribution="diskannpy",
            requirements=("diskannpy==0.7.0", "numpy==1.25.0"),
            build={"degree": degree, "complexity": complexity, "code_bytes": code_bytes},
            open={"cached_nodes": cached, "threads": threads},
            axis="complexity",
            grid=geometric(10, 1000),
            families=tuple({"beam_width": width} for width in (4, 2, 1, 8, 16, 32)),
            threads=threads,
            on_disk=True,
            tuning_queries=1_000,
            build_estimate=kind.seconds(200 + 7 * degree + 1.5 * complexity),
            measure_estimate=kind.effort(measure_estimate),
        )

    return (
        peer("diskann", thick, 0, THREADS, 370),
        peer("diskann-16", thick, 0, 16, 300),
        peer("diskann-cached", thick, tenth, THREADS, 460),
        peer("diskann-cached-16", thick, tenth, 16, 300),
        peer("diskann-long", thick, tenth // 2, THREADS, 460, longer=2),  # as much memory as with more nodes
        peer("diskann-r32", slim, 0, THREADS, 370),
        peer("diskann-r32-cached", slim, tenth, THREADS, 460),
    )


def _lancedb(kind: Kind) -> Peer:
    return Peer(
        name="lancedb",
        title=f"lancedb IVF{kind.lists // 4} PQ{kind.code_bytes}, refined",
        adapter="lance",
        distribution="lancedb",
        requirements=("lancedb==0.40.0", NUMPY),
        build={"lists": kind.lists // 4, "code_bytes": kind.code_bytes},
        axis="nprobes",
        grid=geometric(1, kind.lists // 4),
        families=tuple({"refine_factor": factor} for factor in (10, 4, 3, 2, 25)),
        on_disk=True,
        reads_cached=True,
        tuning_queries=500,
        batch_queries=1_000,
        build_estimate=kind.seconds(160),
        measure_estimate=kind.effort(300),
    )


def _faiss_pq(kind: Kind) -> Peer:
    codes = kind.dims // 2 if kind.dims % 2 == 0 else kind.dims
    return _faiss("faiss", f"IVF{kind.lists},PQ{codes}x4fs,{kind.refinement}", kind, kind.seconds(100))


def _faiss_rabitq(kind: Kind) -> Peer:
    description = f"RR{kind.dims},IVF{kind.lists},RaBitQfs,{kind.refinement}"
    return _faiss("faiss-rabitq", description, kind, kind.seconds(60))


def _faiss(name: str, description: str, kind: Kind, build_estimate: float) -> Peer:
    return Peer(
        name=name,
        title=f"faiss {description}",
        adapter="faiss_ivf",
        distribution="faiss-cpu",
        requirements=FAISS,
        build={"description": description},
        axis="nprobe",
        grid=geometric(1, min(kind.lists, 512)),
        families=tuple({"k_factor": factor} for factor in (10, 6, 4, 3, 2, 16, 25, 40, 64)),
        build_estimate=build_estimate,
        measure_estimate=kind.effort(180),
    )


def _scann(kind: Kind) -> Peer:
    leaves = int(2 * sqrt(kind.rows))
    return Peer(
        name="scann",
        title=f"scann tree{leaves}, AH2, reordered",
        adapter="scann_tree",
        distribution="scann",
        requirements=("scann==1.4.2", NUMPY),
        build={"leaves": leaves, "metric": kind.metric},
        axis="leaves",
        grid=geometric(1, min(leaves, 512)),
        families=tuple({"reorder": count} for count in (100, 60, 40, 25, 15, 160, 250, 400, 600, 1000)),
        build_estimate=kind.seconds(60),
        measure_estimate=kind.effort(180),
    )


def _faiss_hnsw(kind: Kind) -> Peer:
    return Peer(
        name="faiss-hnsw",
        title="faiss HNSW32,Flat efC100",
        adapter="faiss_hnsw",
        distribution="faiss-cpu",
        requirements=FAISS,
        build={"links": 32, "complexity": 100},
        axis="efSearch",
        grid=geometric(10, 2000),
        build_estimate=kind.seconds(250),
        measure_estimate=kind.effort(40),
    )


def _hnswlib(kind: Kind) -> Peer:
    return Peer(
        name="hnswlib",
        title="hnswlib M16 efC200",
        adapter="hnsw",
        distribution="hnswlib",
        requirements=("hnswlib==0.8.0", NUMPY),
        build={"links": 16, "complexity": 200},
        axis="ef",
        grid=geometric(10, 2000),
        build_estimate=kind.seconds(350),
        measure_estimate=kind.effort(40),
    )


def _usearch(kind: Kind) -> Peer:
    return Peer(
        name="usearch",
        title=f"usearch M16 efC128, {'i8' if kind.is_bytes else 'f16'}",
        adapter="usearch_hnsw",
        distribution="usearch",
        requirements=("usearch==2.26.6", NUMPY),
        build={"links": 16, "complexity": 128},
        axis="expansion_search",
        grid=geometric(10, 2000),
        build_estimate=kind.seconds(250),
        measure_estimate=kind.effort(40),
    )


def _svs(kind: Kind) -> Peer:
    return Peer(
        name="svs",
        title=f"scalable-vs Vamana R32 W128, {'uint8' if kind.is_bytes else 'float16'}",
        adapter="svs_vamana",
        distribution="scalable-vs",
        requirements=("scalable-vs==0.5.0", NUMPY),
        build={"degree": 32, "window": 128},
        axis="search_window_size",
        grid=geometric(10, 2000),
        build_estimate=kind.seconds(600),
        measure_estimate=kind.effort(40),
    )

"""The same work for every method: vectors, queries that are not among them, and their true neighbours."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress
from tenfold.search.data import as_source, metric_of, open_vectors
from tenfold.search.demo import read_library
from tenfold.search.exact import exact_search
from tenfold.search.formats.source import VectorSource
from tenfold.search.space import Metric

__all__ = ["Workload", "load_workload", "mixed_queries"]

_K = 10
_BLOCK_ROWS = 1 << 14
_FEWEST_QUERIES = 100
_SEED = 0


@dataclass(frozen=True)
class Workload:
    """n vectors and q queries.

    Attributes:
        name: What the vectors are.
        base: (n, dim).
        queries: (q, dim), of the same type.
        metric: Of the distances.
        true_distances: Of the k nearest rows of each query, (q, k) float32, ascending.
        true_ids: Their ids, (q, k) int64.
    """

    name: str
    base: VectorSource
    queries: np.ndarray
    metric: Metric
    true_distances: np.ndarray
    true_ids: np.ndarray

    @property
    def k(self) -> int:
        """Results per query."""
        return int(self.true_ids.shape[1])

    def asked(self, queries: np.ndarray, progress: Progress) -> "Workload":
        """The same vectors with other queries."""
        distances, ids = exact_search(self.base, queries, self.k, self.metric, progress=progress)
        return replace(self, queries=queries, true_distances=distances, true_ids=ids)

    def part(self, rows: slice) -> "Workload":
        """The same vectors with some of the queries."""
        distances, ids = self.true_distances[rows], self.true_ids[rows]
        return replace(self, queries=self.queries[rows], true_distances=distances, true_ids=ids)


def load_workload(folder: Path | None, most_rows: int | None, most_queries: int, progress: Progress) -> Workload:
    """Read `base.*` and `query.*` of a folder; without one, the docstrings of this Python installation.

    Args:
        folder: May also hold `about.json`, whose "metric" is used; default: l2, or what the format says.
        most_rows: Only the first so many vectors; None: all.
        most_queries: Only the first so many queries.
        progress: Called while truth is computed.

    Raises:
        InputError: A file is missing, ambiguous or unusable, or there are no vectors or fewer than 100 queries.
    """
    metric: Metric = "cosine"
    if folder is None:
        library = read_library(progress)
        name = "docstrings of this Python installation (latent semantic analysis)"
        base, queries = as_source(library.vectors[:most_rows]), library.queries
    else:
        base, asked = open_vectors(_find(folder, "base")), open_vectors(_find(folder, "query"))
        metric = _metric(folder, base)
        name, queries = folder.resolve().name, _first_rows(asked, most_queries)
        if base.dim != asked.dim or base.dtype != asked.dtype:
            raise InputError(
                f"{folder}: base holds {base.dim} x {base.dtype}, query {asked.dim} x {asked.dtype}; they must be alike"
            )
        if most_rows is not None and base.rows > most_rows:
            base = as_source(_first_rows(base, most_rows))
    if base.rows == 0:
        raise InputError(f"{name}: base holds no vectors; give some to search")
    queries = queries[:most_queries]
    if len(queries) < _FEWEST_QUERIES:
        raise InputError(f"{name}: {len(queries)} queries tell too little about recall; give {_FEWEST_QUERIES} or more")
    distances, ids = exact_search(base, queries, min(_K, base.rows), metric, progress=progress)
    return Workload(name, base, queries, metric, distances, ids)


def mixed_queries(queries: np.ndarray) -> np.ndarray:
    """Twice as many queries unlike the vectors: each the middle of two others, of their type."""
    rng, both = np.random.default_rng(_SEED), np.concatenate([queries, queries]).astype(np.float32)
    middle = (both + both[rng.permutation(len(both))]) / 2
    return (np.rint(middle) if queries.dtype.kind in "iu" else middle).astype(queries.dtype)


def _find(folder: Path, stem: str) -> Path:
    found = sorted(folder.glob(f"{stem}.*"))
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} files are called {stem}.*; one is needed, such as {stem}.u8bin")
    return found[0]


def _metric(folder: Path, base: VectorSource) -> Metric:
    about = folder / "about.json"
    if not about.exists():
        return metric_of(base)
    try:
        metric = json.loads(about.read_text(encoding="utf-8")).get("metric", metric_of(base))
    except (ValueError, AttributeError):
        raise InputError(f"{about}: this is no JSON object; mend or remove it") from None
    if metric not in get_args(Metric):
        raise InputError(f"{about}: metric is {metric!r}; it is l2, ip or cosine")
    return cast(Metric, metric)


def _first_rows(source: VectorSource, most: int) -> np.ndarray:
    parts: list[np.ndarray] = []
    for block in source.blocks(_BLOCK_ROWS):
        parts.append(np.array(block[: most - sum(map(len, parts))]))
        if sum(map(len, parts)) >= most:
            break
    return np.concatenate(parts) if parts else np.empty((0, source.dim), source.dtype)

"""A search among allowed rows only finds what exact search over those rows finds, and none of the others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import BACKENDS, make_vectors, numpy_distances, open_with

from tenfold.core.errors import InputError
from tenfold.search import Index, _native
from tenfold.search.calibration import EVERYTHING, Tuning
from tenfold.search.segments import bits_of

ROWS, DIM = 900, 20


def nearest(base: np.ndarray, queries: np.ndarray, mask: np.ndarray, metric: str, k: int) -> np.ndarray:
    """Ids of the k nearest rows of the mask by brute force, ties by id, (q, k); -1 where there are fewer."""
    truth = np.where(mask, numpy_distances(base, queries, metric).astype(np.float32), np.inf)
    order = np.array([np.lexsort((np.arange(len(base)), row))[:k] for row in truth])
    order[np.isinf(np.take_along_axis(truth, order, axis=1))] = -1
    return order


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("io", BACKENDS)
@pytest.mark.parametrize(("dtype", "metric"), [("uint8", "l2"), ("float32", "ip")])
def test_only_allowed_rows_are_found(
    io: str, share: float, dtype: str, metric: str, index_cache: Callable[..., Path]
) -> None:
    index = open_with(index_cache(ROWS, DIM, dtype, metric, "pq", 32), io)
    queries = make_vectors(13, DIM, dtype, seed=1)
    labels = index.stored.labels()
    mask = np.random.default_rng(3).random(ROWS) < share  # by label
    tuning = Tuning(index.lists, ROWS, EVERYTHING)
    expected = nearest(make_vectors(ROWS, DIM, dtype), queries, mask, metric, 10)
    for rerank in ("bound", "paper"):
        for whole in (False, True):
            _, ids, _ = index.search_tuned(queries, 10, tuning, 2, rerank, whole, bits_of(mask[labels]))  # type: ignore[arg-type]
            np.testing.assert_array_equal(ids, expected)


def test_calibrated_settings_find_allowed_rows_only(index_cache: Callable[..., Path]) -> None:
    """Candidates that are not allowed take no place from those that are: recall among a tenth is no lower."""
    index, base = Index.open(index_cache(ROWS, DIM, "uint8", "l2", "pq", 32)), make_vectors(ROWS, DIM, "uint8")
    queries = make_vectors(200, DIM, "uint8", seed=1)
    mask = np.arange(ROWS) % 2 == 0
    tuning = index.tuning(10, 0.95)
    _, ids, _ = index.search_tuned(queries, 10, tuning, 2, allowed=bits_of(mask[index.stored.labels()]))
    assert mask[ids[ids >= 0]].all()
    expected = nearest(base, queries, mask, "l2", 10)
    found = np.mean([len(np.intersect1d(own, true)) / 10 for own, true in zip(ids, expected, strict=True)])
    assert found >= 0.93


def test_exact_search_takes_ids_and_allowed_rows() -> None:
    base, queries = make_vectors(300, DIM, "uint8"), make_vectors(9, DIM, "uint8", seed=1)
    rng = np.random.default_rng(0)
    names, mask = np.sort(rng.choice(10**9, 300, replace=False)), rng.random(300) < 0.3
    distances, ids = np.full((9, 10), np.inf, np.float32), np.full((9, 10), -1, np.int64)
    for part in (slice(0, 100), slice(100, 300)):
        _native.exact(
            base[part], "uint8", "l2", queries, 0, distances, ids, 2, row_ids=names[part], allowed=bits_of(mask[part])
        )
    np.testing.assert_array_equal(ids, names[nearest(base, queries, mask, "l2", 10)])


def test_as_many_bits_as_rows_are_needed(index_cache: Callable[..., Path]) -> None:
    index = Index.open(index_cache(ROWS, DIM, "uint8", "l2", "pq", 32))
    with pytest.raises(InputError, match="not one bit per row"):
        index.search_tuned(make_vectors(1, DIM, "uint8"), 10, index.tuning(10, 0.9), allowed=np.zeros(3, np.uint64))

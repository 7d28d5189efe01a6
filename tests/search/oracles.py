"""What the tests of the engine share: vectors of every kind, an oracle in NumPy, other processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import InputError
from tenfold.search import Index

DTYPES = ("float32", "float16", "uint8", "int8")
BACKENDS = ("uring", "direct", "buffered", "memory")


def make_vectors(rows: int, dim: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Whole numbers of which every tenth row is a copy of another: ties are common, float sums are exact.

    Squared distances stay below 2^24 up to dimension 4,097, so that float32 holds them without rounding.
    """
    rng = np.random.default_rng([seed, rows, dim])
    low, high = {"uint8": (0, 256), "int8": (-128, 128)}.get(dtype, (-12, 13))
    vectors = rng.integers(low, high, (rows, dim))
    copies = rng.integers(0, max(rows, 1), rows // 10)
    vectors[rng.integers(0, max(rows, 1), rows // 10)] = vectors[copies]
    return vectors.astype(dtype)


def numpy_distances(base: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """(queries, rows) float64 by the definition; exact where the numbers are whole."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    products = queries @ base.T
    if metric == "ip":
        return -products
    base_norms, query_norms = (base**2).sum(axis=1), (queries**2).sum(axis=1)
    if metric == "l2":
        return query_norms[:, None] + base_norms - 2 * products
    lengths = np.sqrt(query_norms[:, None] * base_norms)
    return 1 - np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def check_exact(found: tuple[np.ndarray, np.ndarray], base: np.ndarray, queries: np.ndarray, metric: str) -> None:
    """Assert that `found` holds the nearest rows, ties by id; whole numbers under l2 and ip allow no rounding."""
    distances, ids = found[:2]
    truth = numpy_distances(base, queries, metric)
    exact = metric != "cosine" and bool((base == np.rint(base)).all() and (queries == np.rint(queries)).all())
    slack = 1e-5 * max(1.0, float(np.abs(truth).max(initial=0)))
    width = min(ids.shape[1], len(base))
    assert distances.dtype == np.float32
    assert ids.dtype == np.int64
    assert (ids[:, width:] == -1).all()
    assert np.isposinf(distances[:, width:]).all()
    for row, (near, names) in enumerate(zip(distances[:, :width], ids[:, :width], strict=True)):
        expected = truth[row].astype(np.float32)
        order = np.lexsort((np.arange(len(base)), expected))[:width]
        if exact:
            np.testing.assert_array_equal(names, order)
            np.testing.assert_array_equal(near, expected[order])
            continue
        assert len(set(names.tolist())) == width
        np.testing.assert_allclose(near, truth[row][names], rtol=0, atol=slack)
        np.testing.assert_allclose(near, np.sort(truth[row])[:width], rtol=0, atol=slack)
        np.testing.assert_array_equal(np.lexsort((names, near)), np.arange(width))


def open_with(path: Path, io: str) -> Index:
    """Open with a forced I/O back end; skip the test where this machine refuses it."""
    try:
        return Index.open(path, io=io)  # type: ignore[arg-type]
    except InputError as error:
        if "refused" in str(error):
            pytest.skip(str(error))
        raise


def run_python(
    code: str, *arguments: object, timeout: float = 600, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, so that a crash or a hang is a failed test and not the end of all tests."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)  # type: ignore[call-overload,no-any-return]

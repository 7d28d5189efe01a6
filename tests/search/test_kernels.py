"""Every instruction set computes what the scalar path computes, to the last bit: distances and the scan of codes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DTYPES, make_vectors, numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import Index, _native, as_source, exact_search

METRICS = ("l2", "ip", "cosine")
EXTREMES = {"uint8": (0, 255), "int8": (-128, 127), "float16": (-65504, 6e-8), "float32": (-1e18, 1e-38)}


def at_each_level(compute: Callable[[], tuple[np.ndarray, ...]]) -> list[tuple[np.ndarray, ...]]:
    """What `compute` gives at every level of this machine, the scalar one first."""
    before, results = _native.simd_level(), []
    try:
        for level in _native.simd_levels():
            _native.use_simd_level(level)
            results.append(compute())
    finally:
        _native.use_simd_level(before)
    assert _native.simd_levels()[0] == "scalar"
    return results


def assert_identical(results: list[tuple[np.ndarray, ...]]) -> None:
    for other in results[1:]:
        for mine, scalar in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(mine.view(np.uint8), scalar.view(np.uint8))


def assert_distances_identical(base: np.ndarray, queries: np.ndarray, metric: str) -> None:
    """The kernels themselves: `exact_search` would refuse rows whose squares leave float32's range."""
    if base.dtype == np.float16:
        queries = queries.astype(np.float32)

    def nearest() -> tuple[np.ndarray, ...]:
        shape = len(queries), len(base)
        distances, ids = np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64)
        _native.exact(base, base.dtype.name, metric, queries, 0, distances, ids, 1)
        return distances, ids

    assert_identical(at_each_level(nearest))


@settings(max_examples=60)
@given(
    dim=st.integers(1, 300),
    dtype=st.sampled_from(DTYPES),
    metric=st.sampled_from(METRICS),
    kind=st.sampled_from(["normal", "extremes", "mixed"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_distances_are_bit_identical(dim: int, dtype: str, metric: str, kind: str, seed: int) -> None:
    """Any dimension, values at the ends of their range, huge beside tiny ones, subnormal halves."""
    rng = np.random.default_rng(seed)
    ends = np.array(EXTREMES[dtype])
    values = {
        "normal": lambda n: rng.normal(0, 50, (n, dim)).clip(-127, 127) + (dtype == "uint8") * 127,
        "extremes": lambda n: ends[rng.integers(0, 2, (n, dim))],
        "mixed": lambda n: np.where(rng.random((n, dim)) < 0.5, 1, ends[rng.integers(0, 2, (n, dim))]),
    }[kind]
    scale = 1 / np.sqrt(dim) if dtype == "float32" else 1
    base, queries = ((values(n) * scale).astype(dtype) for n in (5, 3))
    assert_distances_identical(base, queries, metric)


@pytest.mark.parametrize("dim", [1, 15, 16, 17, 31, 32, 33, 64, 4097, 65535])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_largest_whole_sums_are_right(dtype: str, dim: int) -> None:
    """255 against 0 and -128 against 127 in every place: no sum overflows, and NumPy agrees."""
    low, high = EXTREMES[dtype]
    base = np.array([[low] * dim, [high] * dim, [low, high] * (dim // 2) + [low] * (dim % 2)]).astype(dtype)
    for metric in ("l2", "ip"):
        assert_distances_identical(base, base, metric)
        distances, ids = exact_search(as_source(base), base, 3, metric)  # type: ignore[arg-type]
        expected = np.take_along_axis(numpy_distances(base, base, metric), ids, axis=1)
        np.testing.assert_array_equal(distances, expected.astype(np.float32))


@pytest.mark.parametrize("dim", [1, 31, 32, 33, 128, 300])
def test_turning_is_bit_identical_and_right(dim: int) -> None:
    """A product with a matrix: the same bits at every level, with any number of threads, for a row alone; NumPy's."""
    rng = np.random.default_rng(dim)
    rows, axes = (rng.normal(size=(n, dim)).astype(np.float32) for n in (203, dim))
    assert_identical(at_each_level(lambda: (_native.turn(rows, axes),)))
    turned = _native.turn(rows, axes, 3)
    alone = np.concatenate([_native.turn(row[None], axes) for row in rows])
    np.testing.assert_array_equal(turned, alone)
    np.testing.assert_allclose(turned, rows.astype(np.float64) @ axes, atol=1e-6 * dim)
    with pytest.raises(InputError, match="does not fit"):
        _native.turn(rows, axes[:-1] if dim > 1 else np.ones((2, 2), np.float32))


def test_every_half_is_read_right() -> None:
    """All finite float16 values, subnormal ones and both zeros included, have the value NumPy gives them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    one = np.ones((1, 1), np.float32)
    for levels in at_each_level(lambda: exact_search(as_source(halves[:, None]), one, len(halves), "ip")):
        distances, ids = levels
        np.testing.assert_array_equal(-distances[0], halves[ids[0]].astype(np.float32))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codec", ["pq", "rabitq"])
@pytest.mark.parametrize(("rows", "dim", "dtype"), [(331, 17, "float32"), (700, 33, "uint8"), (95, 129, "int8")])
def test_scan_is_bit_identical(
    rows: int, dim: int, dtype: str, codec: str, metric: str, index_cache: Callable[..., Path]
) -> None:
    """Estimates and error terms of all codes, and the work that searches do because of them."""
    index = Index.open(index_cache(rows, dim, dtype, metric, codec))
    queries = make_vectors(11, dim, dtype, seed=4)
    positions = np.tile(np.arange(rows), (len(queries), 1))

    def scan() -> tuple[np.ndarray, ...]:
        distances, ids, stats = index.search(queries, 5, probes=2, candidates=20, threads=1, return_stats=True)
        return (*index.estimates(queries, positions, 1), distances, ids, stats.candidates, stats.rows_scored)

    results = at_each_level(scan)
    assert np.isfinite(results[0][0]).all()
    assert_identical(results)


@settings(max_examples=12)
@given(
    rows=st.integers(1, 200),
    dim=st.integers(1, 70),
    code_bytes=st.integers(1, 70),
    codec=st.sampled_from(["pq", "rabitq"]),
    seed=st.integers(0, 1000),
)
def test_scan_of_any_shape_is_bit_identical(
    rows: int, dim: int, code_bytes: int, codec: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Odd numbers of pairs of sub-quantisers, lists that end inside a block, one to four bits per dimension."""
    rng = np.random.default_rng(seed)
    base = rng.standard_cauchy((rows, dim)).astype(np.float32)
    path = tmp_path_factory.mktemp("scan") / "index"
    index = Index.build(base, path, codec=codec, code_bytes=code_bytes, rows_per_list=50)  # type: ignore[arg-type]
    positions = np.tile(np.arange(rows), (4, 1))
    queries = base[rng.integers(0, rows, 4)]
    assert_identical(at_each_level(lambda: index.estimates(queries, positions, 1)[:2]))


def test_unknown_level_is_refused() -> None:
    """The message names what can be chosen."""
    with pytest.raises(InputError, match="scalar"):
        _native.use_simd_level("mmx")


def test_level_from_the_environment(python: Callable[..., object]) -> None:
    """TENFOLD_SIMD forces a path; one that this machine lacks is one clear line."""
    code = "from tenfold.search import _native\nprint(_native.simd_level())"
    for level in _native.simd_levels():
        done = python(code, env={"TENFOLD_SIMD": level})
        assert done.stdout.strip() == level, done.stderr  # type: ignore[attr-defined]
    done = python(code, env={"TENFOLD_SIMD": "mmx"})
    assert "InputError: TENFOLD_SIMD" in done.stderr  # type: ignore[attr-defined]

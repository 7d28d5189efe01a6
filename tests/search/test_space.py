"""Search space: distances there say what the metric says, and the rotation is a rotation."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import make_vectors, numpy_distances

from tenfold.search import Index
from tenfold.search.codec import CodecKind
from tenfold.search.space import Metric, Space

METRICS: tuple[Metric, ...] = ("l2", "ip", "cosine")


@pytest.mark.parametrize("rotation", [None, 0, 7])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 2, 3, 8, 31, 33, 128, 1025])
def test_distances_translate(dim: int, metric: Metric, rotation: int | None) -> None:
    """|q - x|^2 in search space is base + slope * distance, for every metric."""
    rows, queries = make_vectors(40, dim, "float32"), make_vectors(9, dim, "float32", seed=1)
    radius = float(np.linalg.norm(rows, axis=1).max()) if metric == "ip" else 0.0
    space = Space(metric, dim, radius, rotation)
    points, asked = space.rows(rows), space.queries(queries)
    assert points.shape == (40, space.dim)
    assert points.dtype == asked.space.dtype == np.float32
    found = numpy_distances(points, asked.space, "l2")
    expected = asked.base[:, None] + asked.slope[:, None] * numpy_distances(rows, queries, metric)
    if metric == "cosine":
        expected = np.where(np.any(queries, axis=1)[:, None] & np.any(rows, axis=1), expected, found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * float(np.abs(expected).max()))


@settings(max_examples=40)
@given(dim=st.integers(1, 700), seed=st.integers(0, 100))
def test_rotation_keeps_lengths_and_angles(dim: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(6, dim)).astype(np.float32)
    turned = Space("l2", dim, 0.0, seed).rows(rows)
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, atol=2e-4 * dim)


def test_rotation_spreads_a_single_axis() -> None:
    """No coordinate keeps more than a small part of a vector that had only one."""
    turned = Space("l2", 512, 0.0, 0).rows(np.eye(512, dtype=np.float32))
    assert np.abs(turned).max() < 0.5


@pytest.mark.parametrize("dim", [5, 300, 1500])
def test_a_row_does_not_depend_on_its_company(dim: int) -> None:
    """In a block or alone a row lands on the same point, but for rounding."""
    rows = np.random.default_rng(0).normal(size=(70, dim)).astype(np.float32)
    space = Space("cosine", dim, 0.0, 3)
    alone = np.concatenate([space.rows(row[None]) for row in rows])
    np.testing.assert_allclose(space.rows(rows), alone, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [65, 384, 1025])
def test_many_queries_at_once_are_the_same_to_the_bit(dim: int, metric: Metric) -> None:
    """However many they are, and however many threads share them: as few at a time give it."""
    queries = np.random.default_rng(0).normal(size=((1 << 19) // dim, dim)).astype(np.float32)
    space = Space(metric, dim, 5.0 if metric == "ip" else 0.0, 3)
    few = [space.queries(queries[first : first + 99]) for first in range(0, len(queries), 99)]
    for threads in (1, 2, 3):
        for found, *parts in zip(space.queries(queries, threads), *few, strict=True):
            np.testing.assert_array_equal(found, np.concatenate(parts))


@pytest.mark.parametrize("metric", METRICS)
def test_input_is_left_as_it_was(metric: Metric) -> None:
    rows = make_vectors(20, 16, "float32")
    before = rows.copy()
    rows.flags.writeable = False
    space = Space(metric, 16, 1e3, 0)
    space.rows(rows), space.queries(rows)
    np.testing.assert_array_equal(rows, before)


def test_center_and_axes_keep_distances() -> None:
    rng = np.random.default_rng(2)
    rows, queries = make_vectors(40, 12, "float32"), make_vectors(9, 12, "float32", seed=1)
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    space = Space("l2", 12, 0.0, None, rows.mean(axis=0), axes)
    found = numpy_distances(space.rows(rows), space.queries(queries).space, "l2")
    np.testing.assert_allclose(found, numpy_distances(rows, queries, "l2"), rtol=1e-4)
    np.testing.assert_allclose(space.rows(rows).mean(axis=0), 0, atol=1e-4)


@pytest.mark.parametrize("codec", ["pq", "rabitq"])
@pytest.mark.parametrize("metric", METRICS)
def test_lists_lie_where_their_rows_do(codec: CodecKind, metric: Metric, tmp_path: Path) -> None:
    """The map of rows and that of the sample that lists grow from are one, also for rows far from the origin."""
    rng = np.random.default_rng(0)
    rows = (3 + rng.standard_normal((2000, 24))).astype(np.float32)
    index = Index.build(rows, tmp_path / "index", metric=metric, codec=codec)
    placed, (centroids, _) = index.space.rows(rows.copy()), index.centroids()
    sizes = np.diff(index.list_starts().astype(np.int64))
    middle = (sizes[:, None] * centroids).sum(axis=0) / len(rows)
    spread = np.linalg.norm(placed - placed.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(placed.mean(axis=0) - middle) < 0.1 * spread
    nearest = np.sqrt(((placed[:, None] - centroids) ** 2).sum(axis=2).min(axis=1)).mean()
    assert nearest < spread

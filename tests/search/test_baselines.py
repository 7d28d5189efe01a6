"""The baselines do what they are said to do: SPANN's lists answer exactly when all are read, pruning is by distance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import check_exact, make_vectors

from tenfold.search import Index
from tenfold.search.baselines import ListIndex, Lists, moved_rows

ROWS, DIM = 1500, 24


@pytest.fixture(params=["uint8", "float32"])
def index(request: pytest.FixtureRequest, index_cache: Callable[..., Path]) -> Index:
    return Index.open(index_cache(ROWS, DIM, request.param, "l2"))


@pytest.fixture
def queries(index: Index) -> np.ndarray:
    return make_vectors(40, DIM, index.dtype.name, seed=7)


@pytest.mark.parametrize("rows_per_list", [None, 8])
@pytest.mark.parametrize("spacing", [1.0, 1.5])
def test_all_lists_together_are_exact(
    index: Index, queries: np.ndarray, rows_per_list: int | None, spacing: float, tmp_path: Path
) -> None:
    """Copies of a row are several entries and one answer."""
    lists = Lists.of_index(index, 2) if rows_per_list is None else Lists.grown(index, rows_per_list, 0, 2)
    spann = ListIndex(index, lists, tmp_path / "lists", spacing=spacing, threads=2)
    distances, ids, stats = spann.search(queries, 10, len(lists.centroids), 1e9, 2)
    check_exact((distances, ids), make_vectors(ROWS, DIM, index.dtype.name), queries, "l2")
    assert 1 <= spann.copies <= 8
    assert (stats.rows_scored >= ROWS).all()
    assert spann.file_bytes == (tmp_path / "lists").stat().st_size >= spann.copies * ROWS * (4 + DIM)


def test_more_spacing_gives_more_copies(index: Index, tmp_path: Path) -> None:
    lists = Lists.grown(index, 16, 0, 2)
    copies = [
        ListIndex(index, lists, tmp_path / f"{spacing}", spacing=spacing).copies for spacing in (1.0, 1.5, np.inf)
    ]
    assert copies[0] < copies[1] < copies[2] <= 8


def test_slack_leaves_out_lists_by_distance(index: Index, queries: np.ndarray, tmp_path: Path) -> None:
    """Equation 3 of SPANN against NumPy: lists within 1 + slack times the nearest one's distance are read."""
    lists = Lists.of_index(index, 2)
    spann = ListIndex(index, lists, tmp_path / "lists")
    reads = spann.search(queries, 10, len(lists.centroids), 0.25, 1)[2].reads
    space = index.space.queries(queries).space.astype(np.float64)
    gaps = np.linalg.norm(space[:, None] - lists.centroids[None], axis=2)
    wanted = (gaps <= 1.25 * gaps.min(1, keepdims=True)).sum(1)
    assert np.abs(reads - wanted).max() <= 1  # a distance at the very edge may round either way
    assert wanted.min() < len(lists.centroids)


def test_page_limit_drops_the_farthest_rows(index: Index, tmp_path: Path) -> None:
    lists = Lists.of_index(index, 2)
    whole = ListIndex(index, lists, tmp_path / "whole", spacing=np.inf)
    short = ListIndex(index, lists, tmp_path / "short", spacing=np.inf, page_limit=1)
    assert short.copies < whole.copies
    assert short.file_bytes <= 4096 * len(lists.centroids)


def test_batches_share_what_they_move(index: Index) -> None:
    """Two queries of the same lists: alone each moves them, together once."""
    sizes = np.diff(index.list_starts()).astype(np.int64)
    routes = np.array([[0, 1], [1, 0]], np.uint32)
    assert moved_rows(index, routes, 1) == sizes[:2].sum()
    assert moved_rows(index, routes, 2) == sizes[:2].sum() / 2

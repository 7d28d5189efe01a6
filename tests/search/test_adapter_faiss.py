"""The index for faiss's users answers as faiss does; the oracle is faiss itself, where it is installed, and NumPy."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from oracles import make_vectors, numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import LivingIndex
from tenfold.search.adapters.faiss_like import METRIC_INNER_PRODUCT, METRIC_L2, IndexTenfold

METRICS = {METRIC_L2: "l2", METRIC_INNER_PRODUCT: "ip"}
BASE, QUERIES = make_vectors(400, 16, "float32"), make_vectors(20, 16, "float32", seed=1)


def brute_force(metric: int, base: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What faiss promises: nearest first, ties by lower id here, padded with -1 and the farthest float32."""
    distances = numpy_distances(base, QUERIES, METRICS[metric])
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances), axis=1)[:, :k]
    near, names = np.take_along_axis(distances, order, axis=1), ids[order]
    missing = k - near.shape[1]
    near = np.pad(near, ((0, 0), (0, missing)), constant_values=np.finfo(np.float32).max)
    return near if metric == METRIC_L2 else -near, np.pad(names, ((0, 0), (0, missing)), constant_values=-1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 500])
def test_answers_are_those_of_brute_force(metric: int, k: int) -> None:
    index = IndexTenfold(16, metric, recall=1.0)
    assert index.is_trained and (index.d, index.ntotal, index.metric_type) == (16, 0, metric)
    index.train(BASE)
    index.add(BASE[:300])
    index.add_with_ids(BASE[300:], np.arange(1000, 1100))
    ids = np.concatenate([np.arange(300), np.arange(1000, 1100)])
    assert index.ntotal == 400
    distances, found = index.search(QUERIES, k)
    wanted = brute_force(metric, BASE, ids, k)
    assert distances.dtype == np.float32 and found.dtype == np.int64
    np.testing.assert_array_equal(found, wanted[1])
    np.testing.assert_array_equal(distances, wanted[0].astype(np.float32))

    gone = np.array([0, 7, 1003, 5555])
    assert index.remove_ids(gone) == 3
    kept = ~np.isin(ids, gone)
    np.testing.assert_array_equal(index.search(QUERIES, k)[1], brute_force(metric, BASE[kept], ids[kept], k)[1])
    np.testing.assert_array_equal(index.reconstruct(1004), BASE[304])
    index.add(BASE[:1])
    np.testing.assert_array_equal(index.reconstruct(1100), BASE[0])


@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_those_of_faiss(metric: int) -> None:
    """The same calls on both; whole numbers, so that distances are equal to the last bit."""
    faiss = pytest.importorskip("faiss", reason="faiss is not installed; brute force is the oracle elsewhere")
    assert (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2) == (METRIC_INNER_PRODUCT, METRIC_L2)
    theirs, ours = faiss.IndexIDMap2(faiss.IndexFlat(16, metric)), IndexTenfold(16, metric, recall=1.0)
    ids = np.random.default_rng(0).permutation(5000)[:400]
    for index in (theirs, ours):
        index.train(BASE)
        index.add_with_ids(BASE, ids)
    for k in (1, 10, 500):
        (wanted, names), (distances, found) = theirs.search(QUERIES, k), ours.search(QUERIES, k)
        np.testing.assert_array_equal(distances, wanted)
        assert distances.dtype == wanted.dtype and found.dtype == names.dtype
        same = found == names
        assert same.mean() > 0.5  # ties are in another order there
        np.testing.assert_array_equal((found == -1), (names == -1))
    assert ours.remove_ids(ids[:50]) == theirs.remove_ids(ids[:50])
    assert ours.ntotal == theirs.ntotal
    np.testing.assert_array_equal(ours.reconstruct(int(ids[60])), theirs.reconstruct(int(ids[60])))
    np.testing.assert_array_equal(ours.search(QUERIES, 10)[0], theirs.search(QUERIES, 10)[0])


def test_an_index_at_a_path_is_there_again(tmp_path: Path) -> None:
    """Nobody closes it, as in faiss: it goes with its object."""
    index = IndexTenfold(16, METRIC_L2, tmp_path / "index", dtype="int8")
    index.add(BASE)
    del index
    gc.collect()
    with IndexTenfold(16, METRIC_L2, tmp_path / "index", dtype="int8", recall=1.0) as again:
        np.testing.assert_array_equal(again.search(QUERIES, 5)[1], brute_force(METRIC_L2, BASE, np.arange(400), 5)[1])
        assert again.reconstruct(3).dtype == np.float32
    with LivingIndex.open(tmp_path / "index") as living:
        assert len(living) == 400


def test_a_temporary_index_goes_with_its_object() -> None:
    index = IndexTenfold(16)
    index.add(BASE)
    folder = index.living.path
    assert folder.exists()
    del index
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("is_sealed", [False, True])
def test_reset_empties_it_for_good(is_sealed: bool, tmp_path: Path) -> None:
    index = IndexTenfold(16, METRIC_L2, tmp_path / "index")
    index.add(BASE)
    if is_sealed:
        index.living.compact()
    index.reset()
    assert index.ntotal == 0
    np.testing.assert_array_equal(index.search(QUERIES, 2)[1], -1)
    index.add(BASE[:3])
    index.close()
    again = IndexTenfold(16, METRIC_L2, tmp_path / "index")
    assert again.ntotal == 3
    assert again.search(BASE[2:3], 1)[1].tolist() == [[2]]
    assert again.living.verify() == []
    assert not any(name.startswith("segment") for name in os.listdir(tmp_path / "index"))


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metric is 23; choose METRIC_L2 or METRIC_INNER_PRODUCT"):
        IndexTenfold(16, 23)
    with IndexTenfold(16, METRIC_L2, tmp_path / "index") as index:
        index.add_with_ids(BASE[:2], [4, 5])
        with pytest.raises(InputError, match="id 5 is there already"):
            index.add_with_ids(BASE[:1], [5])
        with pytest.raises(InputError, match="id 6 is not there"):
            index.reconstruct(6)
        with pytest.raises(InputError, match="dimension 16"):
            index.add(BASE[:, :3])
    with pytest.raises(InputError, match=r"are 16, float32, l2, int64, not 16, float32, ip, int64; give those or"):
        IndexTenfold(16, METRIC_INNER_PRODUCT, tmp_path / "index")
    IndexTenfold(16, METRIC_L2, tmp_path / "index").close()  # the refused one left it open to others

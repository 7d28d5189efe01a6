"""The scikit-learn transformer keeps scikit-learn's contract and, when everything is searched, gives its answers."""

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import DBSCAN
from sklearn.exceptions import NotFittedError
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from tenfold.core.errors import InputError
from tenfold.search.adapters.neighbors import TenfoldTransformer

METRICS = ["euclidean", "sqeuclidean", "cosine"]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """300 float32 rows of 12 dimensions around four centres that are far apart, and whose they are."""
    rng = np.random.default_rng(0)
    topics = rng.integers(4, size=300)
    centres = 10 * rng.standard_normal((4, 12))
    return (centres[topics] + rng.standard_normal((300, 12))).astype(np.float32), topics


@parametrize_with_checks([TenfoldTransformer()])
def test_scikit_learns_own_checks_pass(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], None], uncalibrated: None
) -> None:
    check(estimator)


def check_neighbours(
    found: tuple[np.ndarray, np.ndarray], wanted: np.ndarray, queries: np.ndarray, base: np.ndarray, metric: str
) -> None:
    """Distances are the wanted ones, and those of the rows named: of rows that tie but for rounding, either may be."""
    distances, numbers = found
    true = cdist(queries.astype(np.float64), base.astype(np.float64), metric)
    assert all(len(set(row)) == len(row) for row in numbers.tolist())
    np.testing.assert_allclose(distances, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(distances, np.take_along_axis(true, numbers, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8"])
def test_the_graph_is_that_of_scikit_learn(
    metric: str, dtype: str, blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None
) -> None:
    rows = (3 * blobs[0]).astype(dtype)
    base, queries = rows[:250], rows[250:]
    ours = TenfoldTransformer(n_neighbors=7, metric=metric, recall=1.0)
    exact = KNeighborsTransformer(n_neighbors=7, metric=metric, algorithm="brute")
    for found, wanted, asked in (
        (ours.fit_transform(base), exact.fit_transform(base.astype(np.float64)), base),
        (ours.transform(queries), exact.transform(queries.astype(np.float64)), queries),
    ):
        assert (found.format, found.dtype, found.shape) == ("csr", wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(found.indptr, wanted.indptr)
        neighbours = found.data.reshape(-1, 8), found.indices.reshape(-1, 8)
        check_neighbours(neighbours, wanted.data.reshape(-1, 8), asked, base, metric)


def test_a_graph_of_ones_has_no_neighbour_more(blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None) -> None:
    found = TenfoldTransformer(mode="connectivity", n_neighbors=7, recall=1.0).fit_transform(blobs[0])
    assert (found != KNeighborsTransformer(mode="connectivity", n_neighbors=7).fit_transform(blobs[0])).nnz == 0
    assert found.nnz == 300 * 7


def test_a_row_of_fit_is_its_own_first_neighbour(blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None) -> None:
    graph = TenfoldTransformer(n_neighbors=3, recall=1.0).fit_transform(blobs[0])
    np.testing.assert_array_equal(graph.indices.reshape(-1, 4)[:, 0], np.arange(300))
    np.testing.assert_array_equal(graph.data.reshape(-1, 4)[:, 0], 0)


@pytest.mark.parametrize("metric", METRICS)
def test_kneighbors_are_those_of_scikit_learn(
    metric: str, blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None
) -> None:
    """Without X a row is not its own neighbour."""
    rows, _ = blobs
    ours = TenfoldTransformer(n_neighbors=6, metric=metric, recall=1.0).fit(rows[:250])
    exact = NearestNeighbors(n_neighbors=6, metric=metric, algorithm="brute").fit(rows[:250].astype(np.float64))
    for asked, k in ((rows[250:], None), (None, None), (None, 1), (rows[250:], 250)):
        wanted = exact.kneighbors(asked, k)
        distances, numbers = ours.kneighbors(asked, k)
        check_neighbours((distances, numbers), wanted[0], rows[:250] if asked is None else asked, rows[:250], metric)
        if asked is None:
            assert (numbers != np.arange(250)[:, None]).all()
        np.testing.assert_array_equal(ours.kneighbors(asked, k, return_distance=False), numbers)
        np.testing.assert_array_equal(ours.kneighbors_graph(asked, k).indices, numbers.reshape(-1))


def test_copies_of_a_row_leave_k_neighbours(uncalibrated: None) -> None:
    """Ten copies of two rows: among its copies a row may not find itself, and still gets k others."""
    rows = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    distances, numbers = TenfoldTransformer(n_neighbors=4, recall=1.0).fit(rows).kneighbors()
    np.testing.assert_array_equal(distances, 0)
    assert all(row not in others and len(set(others)) == 4 for row, others in enumerate(numbers.tolist()))


def test_recall_is_about_what_was_asked_for(real_data: Path) -> None:
    """Measured on real SIFT descriptors that are not in the index, against scikit-learn's exact search."""
    base = np.fromfile(real_data / "bigann9k_base.u8bin", np.uint8, offset=8).reshape(-1, 128)
    rows, queries = base[:8000], base[8000:]
    ours = TenfoldTransformer(n_neighbors=10, recall=0.95).fit(rows)
    wanted, _ = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(rows).kneighbors(queries)
    distances, _ = ours.kneighbors(queries)
    assert np.mean(distances <= wanted[:, -1:] * (1 + 1e-6)) >= 0.93


def test_a_classifier_behind_it_predicts_the_same(blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None) -> None:
    rows, topics = blobs
    predicted = [
        make_pipeline(transformer, KNeighborsClassifier(n_neighbors=5, metric="precomputed", weights="distance"))
        .fit(rows[:200], topics[:200])
        .predict_proba(rows[200:])
        for transformer in (TenfoldTransformer(n_neighbors=5, recall=1.0), KNeighborsTransformer(n_neighbors=5))
    ]
    np.testing.assert_allclose(*predicted, atol=1e-5)


def test_clustering_and_embedding_take_the_graph(blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None) -> None:
    """DBSCAN finds the four blobs; t-SNE puts every row next to one of its own blob."""
    rows, topics = blobs
    graph = TenfoldTransformer(n_neighbors=46, recall=1.0).fit_transform(rows)
    found = DBSCAN(eps=6, metric="precomputed").fit_predict(graph)
    assert len({(blob, topic) for blob, topic in zip(found, topics, strict=True) if blob >= 0}) == 4
    places = TSNE(metric="precomputed", init="random", perplexity=15, random_state=0).fit_transform(graph)
    nearest = NearestNeighbors(n_neighbors=1).fit(places).kneighbors(return_distance=False)[:, 0]
    np.testing.assert_array_equal(topics[nearest], topics)


@pytest.mark.parametrize("has_path", [False, True])
def test_a_pickled_estimator_answers_the_same(
    has_path: bool, tmp_path: Path, blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None
) -> None:
    """Without a path also when the estimator it was made from is gone, and its folder with it."""
    ours = TenfoldTransformer(path=tmp_path / "index" if has_path else None).fit(blobs[0])
    before, folder, pickled = ours.transform(blobs[0]), ours.index_.path, pickle.dumps(ours)
    del ours
    assert folder.exists() == has_path
    again = pickle.loads(pickled)
    assert (again.index_.path == folder) == has_path
    assert (again.transform(blobs[0]) != before).nnz == 0
    assert not hasattr(pickle.loads(pickle.dumps(clone(again))), "index_")


def test_a_pickle_whose_index_is_another_or_gone_says_so(
    tmp_path: Path, blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None
) -> None:
    path = tmp_path / "index"
    ours = TenfoldTransformer(path=path).fit(blobs[0])
    pickled = pickle.dumps(ours)
    clone(ours).fit(blobs[0] + 1)
    with pytest.raises(InputError, match=r"index: holds another index than .*; fit it again, and give each .* a path"):
        pickle.loads(pickled)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"index"):
        pickle.loads(pickled)


def test_fit_replaces_an_index_and_nothing_else(
    tmp_path: Path, blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None
) -> None:
    ours = TenfoldTransformer(path=tmp_path / "index").fit(blobs[0])
    assert ours.fit(blobs[0][:100]).transform(blobs[0]).shape == (300, 100)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("work of years")
    with pytest.raises(InputError, match="is not a Tenfold index"):
        TenfoldTransformer(path=tmp_path / "mine").fit(blobs[0])
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_refit_without_a_path_leaves_one_folder(blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None) -> None:
    ours = TenfoldTransformer().fit(blobs[0])
    first = ours.index_.path
    second = ours.fit(blobs[0]).index_.path
    assert second.exists() and not first.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "graph"}, r"mode is 'graph'; choose distance or connectivity"),
        ({"metric": "l1"}, r"metric is 'l1'; choose euclidean, sqeuclidean, cosine"),
        ({"n_neighbors": 0}, r"n_neighbors is 0; it must be a whole number, at least 1"),
        ({"recall": 1.5}, r"recall is 1.5; it is a share"),
        ({"n_neighbors": 300}, r"takes 301 neighbours per row, but `fit` saw n_samples=300; ask for fewer"),
        ({"memory_budget": "much"}, r"size 'much' is not understood"),
    ],
)
def test_bad_parameters_are_named(
    settings: dict[str, Any], message: str, blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None
) -> None:
    with pytest.raises(InputError, match=message):
        TenfoldTransformer(**settings).fit_transform(blobs[0])


def test_rows_that_do_not_fit_are_refused(blobs: tuple[np.ndarray, np.ndarray], uncalibrated: None) -> None:
    with pytest.raises(TypeError, match=r"Sparse data was passed for X, but dense data is required"):
        TenfoldTransformer().fit(csr_array(blobs[0]))
    with pytest.raises(NotFittedError):
        TenfoldTransformer().kneighbors(blobs[0])
    bytes_index = TenfoldTransformer().fit(blobs[0].astype(np.int8))
    with pytest.raises(InputError, match=r"query 0 holds values that int8 cannot"):
        bytes_index.transform(blobs[0] + np.float32(0.5))


def test_missing_scikit_learn_is_one_sentence_and_search_needs_none(python: Python) -> None:
    hidden = "import sys; sys.modules['sklearn.base'] = None; import tenfold.search.adapters.neighbors"
    message = python(hidden).stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: tenfold.search.adapters.neighbors needs scikit-learn")
    assert message.endswith("pip install 'tenfold[adapters]'")
    plain = "import sys, tenfold.search; print({'sklearn', 'scipy', 'pyarrow', 'joblib'} & sys.modules.keys())"
    assert python(plain).stdout.strip() == "set()"

"""scikit-learn: an approximate `KNeighborsTransformer` whose vectors lie on disk.

n rows of `fit` · q rows of a call · k neighbours
"""

from pathlib import Path
from typing import Any, Self

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.adapters.folders import TemporaryFolder
from tenfold.search.exact import check_count
from tenfold.search.index import Index
from tenfold.search.manifest import read_manifest
from tenfold.search.space import Metric

try:
    from scipy.sparse import csr_matrix
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"tenfold.search.adapters.neighbors needs scikit-learn 1.6 or newer ({error}): pip install 'tenfold[adapters]'"
    ) from None

__all__ = ["TenfoldTransformer"]

_METRICS: dict[str, Metric] = {"euclidean": "l2", "sqeuclidean": "l2", "cosine": "cosine"}
_DTYPES = [np.float32, np.float16, np.uint8, np.int8]  # others become the first
_BLOCK_ROWS = 4096


class TenfoldTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform rows into the sparse graph of their nearest neighbours among the rows of `fit`.

    It stands where scikit-learn's `KNeighborsTransformer` stands: before an estimator with `metric="precomputed"`.
    Neighbours are found by a Tenfold index, about `recall` of them the true ones. Arrays of float32, float16, uint8 and
    int8 are kept as they are, others are rounded to float32; sparse ones are refused.

    A pickled estimator opens its index at `path` again, and says so where another one lies there by then. Without a
    `path` the pickle holds the index itself, and is as large.

    Args:
        mode: What the graph holds: "distance", or "connectivity": ones.
        n_neighbors: Neighbours of each row. In mode "distance" the graph has one more, since a row of `fit` is its own
            nearest neighbour.
        metric: "euclidean", "sqeuclidean" or "cosine" (1 - cos).
        recall: Wanted recall in (0, 1]; 1.0 searches everything.
        path: The folder of the index; `fit` replaces an index that lies there. Default: a temporary one, which goes
            with the estimator.
        memory_budget: What building may hold, such as "64MB", as for `Index.build`.
        n_jobs: Threads for building and searching; None and -1: all usable cores.

    Attributes:
        index_: The open `Index`.
        n_samples_fit_: Its rows, n.
        n_features_in_: Their dimension.
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        metric: str = "euclidean",
        recall: float = 0.95,
        path: str | Path | None = None,
        memory_budget: str | int = "1GB",
        n_jobs: int | None = None,
    ) -> None:
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.recall = recall
        self.path = path
        self.memory_budget = memory_budget
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> Self:
        """Build the index of the rows X (n, dim); y is ignored.

        Raises InputError for parameters out of range and where no index can be made; scikit-learn's own errors for
        arrays that are sparse, empty or hold NaN.
        """
        if self.mode not in ("distance", "connectivity"):
            raise InputError(f"mode is {self.mode!r}; choose distance or connectivity")
        if self.metric not in _METRICS:
            raise InputError(f"metric is {self.metric!r}; choose {', '.join(_METRICS)}")
        check_count("n_neighbors", self.n_neighbors)
        rows = validate_data(self, X, dtype=_DTYPES)
        folder = TemporaryFolder() if self.path is None else None
        place = folder.path / "index" if folder is not None else Path(self.path).absolute()  # type: ignore[arg-type]
        self.index_ = Index.build(
            rows, place, metric=_METRICS[self.metric], memory_budget=self.memory_budget, threads=self._threads(),
            overwrite=True,
        )  # fmt: skip
        self._folder, self._checksums = folder, read_manifest(place)["files"]
        self.n_samples_fit_ = self._n_features_out = len(rows)
        return self

    def transform(self, X: Any) -> csr_matrix:
        """The graph, a sparse (q, n) float64 matrix: a row per row of X (q, dim), nearest neighbours first."""
        check_is_fitted(self)
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), self.mode)

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """The nearest rows of `fit`.

        Args:
            X: (q, dim); None: the rows of `fit` (q = n), none of which is its own neighbour.
            n_neighbors: k; default: the estimator's.
            return_distance: Also return the distances.

        Returns:
            distances (q, k) float64, ascending, and row numbers (q, k) int64; inf and -1 where fewer than k were
            found, which happens only at a low recall.

        Raises:
            InputError: More neighbours than rows, or values that the index's dtype cannot hold.
        """
        check_is_fitted(self)
        k = check_count("n_neighbors", self.n_neighbors if n_neighbors is None else n_neighbors)
        if X is None:
            distances, numbers = self._search_itself(k)
        else:
            distances, numbers = self._search(validate_data(self, X, dtype=_DTYPES, reset=False), k)
        return (distances, numbers) if return_distance else numbers

    def kneighbors_graph(self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity") -> csr_matrix:
        """The neighbours that `kneighbors` finds as a sparse (q, n) float64 matrix of distances, or of ones."""
        distances, numbers = self.kneighbors(X, n_neighbors)
        found = numbers >= 0
        ends = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
        values = distances[found] if mode == "distance" else np.ones(ends[-1])
        return csr_matrix((values, numbers[found], ends), shape=(len(numbers), self.n_samples_fit_))

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k > self.n_samples_fit_:
            raise InputError(
                f"this takes {k:,} neighbours per row, but `fit` saw n_samples={self.n_samples_fit_:,}; ask for fewer"
            )
        distances, numbers = self.index_.search(queries, k, recall=self.recall, threads=self._threads())
        exact = np.maximum(distances, 0, dtype=np.float64)  # 1 - cos of a row with itself is rounded to either side
        return np.sqrt(exact) if self.metric == "euclidean" else exact, numbers

    def _search_itself(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours of the rows of `fit` without themselves, (n, k): block by block as they lie on disk."""
        distances = np.empty((self.n_samples_fit_, k))
        numbers = np.empty((self.n_samples_fit_, k), np.int64)
        labels, start = self.index_.stored.labels(), 0
        for block in self.index_.stored.blocks(_BLOCK_ROWS):
            rows = labels[start : start + len(block)].astype(np.int64)
            near, names = self._search(block, k + 1)
            others = names != rows[:, None]
            others[others.all(axis=1), -1] = False  # it did not find itself, say among its copies
            distances[rows], numbers[rows] = near[others].reshape(-1, k), names[others].reshape(-1, k)
            start += len(block)
        return distances, numbers

    def _threads(self) -> int | None:
        return None if self.n_jobs in (None, -1) else self.n_jobs

    # --- pickling -------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        index = state.pop("index_", None)
        if index is not None:
            state["_place"] = index.path
            if state.pop("_folder") is not None:
                state["_content"] = {file.name: file.read_bytes() for file in sorted(index.path.iterdir())}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        place, content = state.pop("_place", None), state.pop("_content", None)
        super().__setstate__(state)
        if place is None:
            return
        self._folder = None if content is None else TemporaryFolder()
        if self._folder is not None:
            place = self._folder.path / "index"
            place.mkdir()
            for name, data in content.items():
                (place / name).write_bytes(data)
        if read_manifest(place)["files"] != self._checksums:
            raise InputError(
                f"{place}: holds another index than the pickled estimator was fitted with; fit it again, "
                "and give each estimator a path of its own"
            )
        self.index_ = Index.open(place)

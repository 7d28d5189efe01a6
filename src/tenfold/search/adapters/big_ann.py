"""big-ann-benchmarks: the classes that its runners drive, for indexes on disk and for the streaming track.

They have the methods of `BaseANN` and `BaseStreamingANN` without inheriting them. Data sets are found by name in that
project's `benchmark.datasets`; indexes lie in `data/indices` below the current folder. What goes there lies
in `benchmarks/big_ann`.

q queries · dim numbers each · n rows of a step
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.adapters.ann_benchmarks import metric_named, split_options, sum_up
from tenfold.search.adapters.folders import TemporaryFolder
from tenfold.search.data import open_vectors
from tenfold.search.formats.source import VectorSource
from tenfold.search.index import Index, SearchStats
from tenfold.search.living import LivingIndex
from tenfold.search.memory import resident_bytes
from tenfold.search.storage import INDEX_FILES

__all__ = ["Tenfold", "TenfoldStreaming"]

_FORMATS = {"float32": "fbin", "uint8": "u8bin", "int8": "i8bin"}  # files there have all kinds of suffixes
_STEP_ROWS = 1 << 16


class _Entry:
    """What the two have in common: how they are asked.

    Args:
        metric: "euclidean", "angular" or "ip".
        options: Of the index, such as `{"code_bytes": 32}`.
    """

    _index: Index | LivingIndex

    def __init__(self, metric: str, options: Mapping[str, Any] | None = None) -> None:
        """Raises InputError for another metric."""
        self._metric, self._options = metric_named(metric), dict(options or {})
        self._asked: dict[str, Any] = {}
        self._stats: list[SearchStats] = []

    def set_query_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Options of `search` from now on, such as `{"recall": 0.9, "threads": 8}`."""
        self._asked = dict(arguments)
        self._stats.clear()

    def query(self, X: np.ndarray, k: int) -> None:
        """Find the k nearest rows of each of X (q, dim), for `get_results`."""
        _, self._found, stats = self._index.search(np.asarray(X), k, return_stats=True, **self._asked)
        self._stats.append(stats)

    def get_results(self) -> np.ndarray:
        """Ids (q, k) int64; -1 where there are fewer."""
        return self._found

    def get_additional(self) -> dict[str, Any]:
        """Exact distances since `set_query_arguments`, in all, and pages read per query."""
        scored, pages = sum_up(self._stats)
        return {"dist_comps": scored, "mean_ssd_ios": pages}

    def get_memory_usage(self) -> float:
        """Memory of this process, in KiB."""
        return resident_bytes() / 1024

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in {**self._asked, **self._options}.items())
        return f"Tenfold({settings})"


class Tenfold(_Entry):
    """A disk index, for tracks in which a data set is indexed once.

    Options are those of `Index.build` and `Index.open`.
    """

    def track(self) -> str:
        """ "T2": vectors on SSD."""
        return "T2"

    def fit(self, dataset: str) -> None:
        """Build the index of a data set, replacing one that is there.

        Raises InputError for data sets that are not dense or not for k-NN search.
        """
        building, opening = split_options(self._options)
        source, path = _open_dataset(dataset), self._path(dataset)
        path.parent.mkdir(parents=True, exist_ok=True)
        Index.build(source, path, metric=self._metric, overwrite=True, **building)
        self._index = Index.open(path, **opening)

    def load_index(self, dataset: str) -> bool:
        """Open the index of a data set if it was built with these options; whether it was."""
        path = self._path(dataset)
        if not path.exists():
            return False
        self._index = Index.open(path, **split_options(self._options)[1])
        return True

    def index_files_to_store(self, dataset: str) -> tuple[str, str, list[str]]:
        """Folder, common start of the names, and names of the files of an index."""
        return str(self._path(dataset)), "", [*INDEX_FILES, "manifest.json"]

    def done(self) -> None:
        """Close the index, which stays where it is."""
        self.__dict__.pop("_index", None)

    def _path(self, dataset: str) -> Path:
        building = split_options(self._options)[0]
        name = "_".join(f"{option}-{value}" for option, value in sorted(building.items())) or "default"
        return Path("data/indices", self.track(), "tenfold", _dataset(dataset).short_name(), name)


class TenfoldStreaming(_Entry):
    """An index that takes updates, for the streaming track. Options are those of `LivingIndex.create`."""

    def track(self) -> str:
        """What that project calls it."""
        return "stream"

    def setup(self, dtype: str, max_pts: int, ndims: int) -> None:
        """Make an empty index of vectors of `ndims` numbers of `dtype`; it grows by itself to `max_pts` rows."""
        self._folder = TemporaryFolder()
        self._living = LivingIndex.create(
            self._folder.path / "index", ndims,
            **{"dtype": dtype, "metric": self._metric, "durability": "none", **self._options},
        )  # fmt: skip
        self._index = self._living

    def load_index(self, dataset: str) -> bool:
        """False: every run begins with an empty index."""
        return False

    def insert(self, X: np.ndarray, ids: np.ndarray) -> None:
        """Add rows X (n, dim) with ids (n,)."""
        for start in range(0, len(ids), _STEP_ROWS):  # X may be a map of a file
            self._living.add(X[start : start + _STEP_ROWS], ids[start : start + _STEP_ROWS])

    def replace(self, X: np.ndarray, ids: np.ndarray) -> None:
        """Give the rows with these ids (n,) the vectors X (n, dim)."""
        for start in range(0, len(ids), _STEP_ROWS):
            self._living.update(X[start : start + _STEP_ROWS], ids[start : start + _STEP_ROWS])

    def delete(self, ids: np.ndarray) -> None:
        """Delete the rows with these ids (n,)."""
        self._living.delete(ids)

    def done(self) -> None:
        """Close the index and remove it."""
        if hasattr(self, "_living"):
            self._living.close()
            self._folder.remove()


def _dataset(name: str) -> Any:
    return importlib.import_module("benchmark.datasets").DATASETS[name]()


def _open_dataset(name: str) -> VectorSource:
    dataset = _dataset(name)
    kind = dataset.search_type(), dataset.data_type()
    if kind != ("knn", "dense"):
        raise InputError(f"{name}: is for {kind[0]} search in {kind[1]} vectors; choose one for knn in dense vectors")
    dtype = np.dtype(dataset.dtype).name
    source = open_vectors(dataset.get_dataset_fn(), format=_FORMATS.get(dtype, dtype))
    if source.rows != dataset.nb:
        raise InputError(f"{source.name}: holds {source.rows:,} rows, {name} has {dataset.nb:,}; prepare it again")
    return source

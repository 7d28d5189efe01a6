"""faiss: an index with the methods and the conventions of `faiss.IndexIDMap(faiss.IndexFlat(d))`, on disk.

n rows of a call · k results
"""

import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.adapters.folders import TemporaryFolder
from tenfold.search.living import LivingIndex
from tenfold.search.log import Durability
from tenfold.search.space import Metric

__all__ = ["METRIC_INNER_PRODUCT", "METRIC_L2", "IndexTenfold"]

METRIC_INNER_PRODUCT, METRIC_L2 = 0, 1
"""faiss's numbers for its two main metrics."""

_METRICS: dict[int, Metric] = {METRIC_INNER_PRODUCT: "ip", METRIC_L2: "l2"}
_FARTHEST = np.finfo(np.float32).max  # stands with id -1, as in faiss


class IndexTenfold:
    """A `LivingIndex` for code that was written for faiss.

    Distances are faiss's: squared L2, ascending, or inner products, descending. Other than in faiss, nothing needs
    training, an id is there once, and ids of rows added without go on from the largest ever used.

    Args:
        d: Dimension of the vectors.
        metric: METRIC_L2 or METRIC_INNER_PRODUCT, as numbered by faiss.
        path: The folder; an index that lies there is opened. Default: a temporary one, which goes with this object.
        recall: Wanted recall in (0, 1]; 1.0 searches everything.
        dtype: Of the vectors as they are kept: float32, float16, uint8 or int8.
        durability: When a change is on disk, as for `LivingIndex.open`.

    Attributes:
        d, metric_type: As given.
        is_trained: True.
        recall: As given; may be set at any time.
        living: The `LivingIndex`, for all else: `update`, `compact`, `stats`, ...
    """

    is_trained = True

    def __init__(
        self,
        d: int,
        metric: int = METRIC_L2,
        path: str | Path | None = None,
        *,
        recall: float = 0.95,
        dtype: str | np.dtype = "float32",
        durability: Durability = "batch",
    ) -> None:
        """Make the index, or open it. Raises InputError where it cannot be made, or is one of other vectors."""
        if metric not in _METRICS:
            raise InputError(f"metric is {metric!r}; choose METRIC_L2 or METRIC_INNER_PRODUCT")
        self.d, self.metric_type, self.recall = d, metric, recall
        self._folder = TemporaryFolder() if path is None else None
        place = Path(path) if path is not None else self._folder.path / "index"  # type: ignore[union-attr]
        if not place.is_dir() or not any(place.iterdir()):
            LivingIndex.create(place, d, dtype=dtype, metric=_METRICS[metric]).close()
        living = self.living = LivingIndex.open(place, durability=durability)
        self._close = weakref.finalize(self, living.close)  # faiss's users do not close
        found = living.dim, living.dtype.name, living.metric, living.ids
        wanted = d, np.dtype(dtype).name, _METRICS[metric], "int64"
        if found != wanted:
            self.close()
            raise InputError(
                f"{place}: dimension, dtype, metric and ids of the index there are {', '.join(map(str, found))}, "
                f"not {', '.join(map(str, wanted))}; give those or another path"
            )

    @property
    def ntotal(self) -> int:
        """Rows that are there."""
        return len(self.living)

    def train(self, x: np.ndarray) -> None:
        """Do nothing: segments are trained on their own rows when they are sealed."""

    def add(self, x: np.ndarray) -> None:
        """Add rows x (n, d)."""
        self.living.add(x)

    def add_with_ids(self, x: np.ndarray, ids: np.ndarray) -> None:
        """Add rows x (n, d) with ids (n,), from 0 on. Raises InputError for an id that is there already."""
        self.living.add(x, ids)

    def search(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each of x (n, d).

        Returns D (n, k) float32, the nearest first, and I (n, k) int64; -1 in I where there are fewer than k rows,
        and in D the largest float32, or minus that for inner products.
        """
        distances, ids = self.living.search(x, k, recall=self.recall)
        distances[ids < 0] = _FARTHEST
        return (-distances if self.metric_type == METRIC_INNER_PRODUCT else distances), ids

    def remove_ids(self, ids: np.ndarray) -> int:
        """Delete rows by ids (n,); how many were there. Other rows keep their ids."""
        return self.living.delete(ids)

    def reconstruct(self, key: int) -> np.ndarray:
        """The vector (d,) float32 with the id `key`. Raises InputError where there is none."""
        vector: np.ndarray = self.living.get([key])[0].astype(np.float32)
        return vector

    def reset(self) -> None:
        """Delete all rows; ids begin with 0 again."""
        self.living.clear()

    def close(self) -> None:
        """Bring all changes to disk and let others write; happens by itself when the object goes."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

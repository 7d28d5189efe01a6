"""LangChain: a vector store over an index folder, with the documents beside it.

k documents asked for · dim numbers of an embedding
"""

import math
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.adapters.documents import VERSION_COLUMN, Documents, checked_entry
from tenfold.search.adapters.folders import TemporaryFolder
from tenfold.search.columns import Columns, ColumnType
from tenfold.search.exact import check_count
from tenfold.search.ids import check_names
from tenfold.search.living import LivingIndex
from tenfold.search.space import Metric

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ModuleNotFoundError as error:
    raise InputError(f"the vector store needs {error.name}; pip install 'tenfold[adapters]'") from None

__all__ = ["TenfoldVectorStore"]

DOCUMENTS_FILE = "documents.sqlite"


class TenfoldVectorStore(VectorStore):
    """Documents by the nearness of their embeddings, in a folder; a `LivingIndex` finds them.

    Any number of threads may call any method, one process at a time may write. A document is added, replaced or deleted
    as a whole, whenever the process is killed, and is on the disk when the call returns.

    Args:
        embedding: Turns texts into vectors.
        path: The folder; a store that lies there is opened. Default: a temporary one, which goes with this object.
        metric: "cosine" (the default), "l2" or "ip" (maximum inner product).
        columns: Keys of the metadata by which a search may be filtered, with their types: "int", "float", "category"
            (texts) or "bool". All other metadata are kept, too.
        dim: Dimension of the embeddings; default, for a new store: that of a text that is embedded to find out.
        recall: Wanted recall in (0, 1]; 1.0 searches everything.
        read_only: Leave the folder as it is; `living.refresh` shows what its writer has done since.
        relevance_score_fn: From distances to relevance between 0 and 1; default: the cosine for embeddings of length 1,
            1 - distance / sqrt(2) for "l2", nothing below 0.

    Attributes:
        living: The index, for all else: `compact`, `stats`, ...
        recall: As given; may be set at any time.
    """

    def __init__(
        self,
        embedding: Embeddings,
        path: str | Path | None = None,
        *,
        metric: Metric | None = None,
        columns: Mapping[str, ColumnType] | None = None,
        dim: int | None = None,
        recall: float = 0.95,
        read_only: bool = False,
        relevance_score_fn: Callable[[float], float] | None = None,
    ) -> None:
        """Make it, or open it. Raises InputError where it cannot be made, or is another than what was asked for."""
        self._embedding, self.recall, self._relevance = embedding, recall, relevance_score_fn
        self._folder = TemporaryFolder() if path is None else None
        place = Path(path) if path is not None else self._folder.path / "index"  # type: ignore[union-attr]
        if not read_only and (not place.is_dir() or not any(place.iterdir())):
            length = dim or len(embedding.embed_query("a text of any kind"))
            _create(place, length, metric or "cosine", columns or {})
        self.living = LivingIndex.open(place, read_only=read_only)
        try:
            _check_same(self.living, metric, columns, dim)
            self._documents = Documents(place / DOCUMENTS_FILE, self.living)
        except BaseException:
            self.living.close()
            raise
        self._changing = threading.Lock()
        self._close = weakref.finalize(self, _close, self.living, self._documents)  # LangChain's users do not close

    @property
    def embeddings(self) -> Embeddings:
        """As given."""
        return self._embedding

    def __len__(self) -> int:
        return len(self.living)

    # --- changing -------------------------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts (n,), or replace those whose ids are there.

        Args:
            texts: What is embedded.
            metadatas: Their metadata, n objects of JSON; values of columns must have the columns' types.
            ids: Their ids, n texts; new ones are made for None.
            **kwargs: None.

        Returns:
            Their ids, (n,).

        Raises:
            InputError: Another number of metadata or ids, metadata that JSON does not know, no room on the disk.
        """
        self._check_writable()
        _refuse(kwargs, "add_texts", "metadatas and ids")
        contents = list(texts)
        given = [{}] * len(contents) if metadatas is None else [dict(one) for one in metadatas]
        wanted = [None] * len(contents) if ids is None else list(ids)
        for name, some in (("metadatas", given), ("ids", wanted)):
            if len(some) != len(contents):
                raise InputError(f"there are {len(some):,} {name} for {len(contents):,} texts")
        named = check_names([str(uuid.uuid4()) if one is None else one for one in wanted], unique=False)
        last = list({name: number for number, name in enumerate(named)}.values())  # of an id that comes twice
        entries = [checked_entry(named[number], contents[number], given[number]) for number in last]
        if entries:
            vectors = _as_rows(self._embedding.embed_documents([entry.content for entry in entries]))
            columns = [name for name in self.living.columns if name != VERSION_COLUMN]
            attributes = {name: [given[number].get(name) for number in last] for name in columns}
            rows = [entry.id for entry in entries]
            with self._changing:
                self._documents.put(
                    entries, lambda numbers: self.living.update(vectors, rows, attributes | {VERSION_COLUMN: numbers})
                )
        return named

    def delete(self, ids: Sequence[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by ids, or all of them; ids that are not there are passed over. Returns True."""
        self._check_writable()
        _refuse(kwargs, "delete", "ids")
        with self._changing:
            if ids is None:
                self._documents.clear()
            else:
                self._documents.delete(check_names(ids, unique=False))
        return True

    # --- finding --------------------------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by their ids, in that order; ids that are not there are passed over."""
        names = list(dict.fromkeys(ids))
        held = self.living.contains(names).tolist()
        return list(self._named([name for name, is_held in zip(names, held, strict=True) if is_held]).values())

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k documents nearest to a text.

        Args:
            query: The text.
            k: How many; fewer come where fewer match.
            **kwargs: `filter`: only documents that match are found, such as `{"year": {"$gte": 2020}}`; it is about
                columns. `recall`: as for the class.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """The same with distances, smaller for nearer: 1 - cos, squared L2, or minus the inner product."""
        return self._nearest(self._embedding.embed_query(query), k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """The k documents nearest to an embedding (dim,); otherwise as `similarity_search`."""
        return [document for document, _ in self._nearest(embedding, k, **kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """k of the `fetch_k` documents nearest to a text, that differ among each other (Carbonell and Goldstein 1998).

        Args:
            query: The text.
            k: How many.
            fetch_k: Of how many.
            lambda_mult: From 0, as different as may be, to 1, as near as may be.
            **kwargs: As for `similarity_search`.
        """
        embedding = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(embedding, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """The same for an embedding (dim,)."""
        if not 0 <= lambda_mult <= 1:
            raise InputError(f"lambda_mult is {lambda_mult!r}; it is a number from 0 to 1")
        found = self._nearest(embedding, max(check_count("k", k), check_count("fetch_k", fetch_k)), **kwargs)
        documents = {str(document.id): document for document, _ in found}
        names, vectors = self._vectors(list(documents))
        chosen = _most_diverse(_as_rows([embedding])[0], vectors, k, lambda_mult)
        return [documents[names[number]] for number in chosen]

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with these texts; `kwargs` are `path` and the other arguments of the class."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def close(self) -> None:
        """Let others write; happens by itself when the object goes."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _check_writable(self) -> None:
        if self.living.read_only:
            raise InputError(f"{self.living.path}: was opened read-only; open it anew to change it")

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance or _RELEVANCE[self.living.metric]

    def _nearest(
        self,
        embedding: Sequence[float],
        k: int,
        *,
        filter: Mapping[str, Any] | None = None,
        recall: float | None = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        _refuse(kwargs, "a search", "filter and recall")
        wanted = self.recall if recall is None else recall
        distances, ids = self.living.search(_as_rows([embedding]), k, recall=wanted, filter=filter)
        near = {name: float(far) for name, far in zip(ids[0], distances[0], strict=True) if name is not None}
        return [(document, near[name]) for name, document in self._named(list(near)).items()]

    def _named(self, names: Sequence[str]) -> dict[str, Document]:
        """Documents by id, in the order of the names; rows that were added without one have none."""
        found = self._documents.find(names)
        return {
            name: Document(id=name, page_content=found[name][0], metadata=found[name][1])
            for name in names
            if name in found
        }

    def _vectors(self, names: list[str]) -> tuple[list[str], np.ndarray]:
        """Those that are still there, and their vectors (n, dim)."""
        while True:
            held = self.living.contains(names).tolist()
            names = [name for name, is_held in zip(names, held, strict=True) if is_held]
            try:
                return names, self.living.get(names)
            except InputError:
                if self.living.contains(names).all():
                    raise


def _create(place: Path, dim: int, metric: Metric, columns: Mapping[str, ColumnType]) -> None:
    if VERSION_COLUMN in columns:
        raise InputError(f"a column cannot be called {VERSION_COLUMN}; the store has one of that name itself")
    typed: Columns = {**columns, VERSION_COLUMN: "int"}
    LivingIndex.create(place, dim, metric=metric, ids="string", columns=typed).close()


def _check_same(
    living: LivingIndex, metric: Metric | None, columns: Mapping[str, ColumnType] | None, dim: int | None
) -> None:
    """InputError where an index is no store, or another than was asked for."""
    if living.ids != "string" or living.columns.get(VERSION_COLUMN) != "int":
        raise InputError(f"{living.path}: the index there was not made by TenfoldVectorStore; give another path")
    there = {name: kind for name, kind in living.columns.items() if name != VERSION_COLUMN}
    asked = (metric, living.metric), (None if columns is None else dict(columns), there), (dim, living.dim)
    for wanted, found in asked:
        if wanted is not None and wanted != found:
            raise InputError(f"{living.path}: the store there has {found}, not {wanted}; give that or another path")


def _as_rows(embeddings: Sequence[Sequence[float]]) -> np.ndarray:
    """Embeddings as an array (n, dim) float32."""
    try:
        return np.array(embeddings, np.float32)
    except (TypeError, ValueError):
        raise InputError("the embeddings are no rows of numbers, all of one length; see what makes them") from None


def _refuse(options: Mapping[str, Any], what: str, known: str) -> None:
    if options:
        raise InputError(f"{what} takes {known}, not {', '.join(options)}")


def _close(living: LivingIndex, documents: Documents) -> None:
    try:
        living.close()
    finally:
        documents.close()


def _most_diverse(query: np.ndarray, vectors: np.ndarray, k: int, weight: float) -> list[int]:
    """Rows of `vectors` (n, dim) one after the other: near to the query (dim,), far from those chosen before.

    Each is the one of largest weight * cos(row, query) - (1 - weight) * max over chosen of cos(row, chosen).
    """
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-300)
    near = unit @ query.astype(np.float64) / max(float(np.linalg.norm(query)), 1e-300)
    redundant, chosen, scores = np.full(len(unit), -np.inf), list[int](), near.copy()
    while len(chosen) < min(k, len(unit)):
        best = int(np.argmax(scores))
        chosen.append(best)
        redundant = np.maximum(redundant, unit @ unit[best])
        scores = weight * near - (1 - weight) * redundant
        scores[chosen] = -np.inf
    return chosen


_RELEVANCE: dict[Metric, Callable[[float], float]] = {
    "cosine": lambda distance: min(1.0, max(0.0, 1 - distance)),
    "l2": lambda distance: max(0.0, 1 - math.sqrt(max(0.0, distance) / 2)),
    "ip": lambda distance: min(1.0, max(0.0, -distance)),
}

"""LangChain's vector store: its own standard tests, and that documents and vectors keep step whatever happens."""

import asyncio
import gc
import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import killed_after
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from tenfold.core.errors import InputError
from tenfold.search import LivingIndex, maintaining
from tenfold.search.adapters.documents import Documents
from tenfold.search.adapters.langchain import TenfoldVectorStore

FAKE = DeterministicFakeEmbedding(size=6)


class TestStandard(VectorStoreIntegrationTests):
    """What LangChain asks of every vector store, called directly and by await."""

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[TenfoldVectorStore]:
        with TenfoldVectorStore(self.get_embeddings(), tmp_path / "store") as store:
            yield store


class Numbers(Embeddings):
    """Texts such as "3 1 4" are their own vectors."""

    def embed_query(self, text: str) -> list[float]:
        return [float(number) for number in text.split()]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def test_a_store_is_there_again(tmp_path: Path) -> None:
    """Documents come back with ids and metadata, nested ones too; nobody closes the store, as with LangChain."""
    metadata = {"year": 2020, "tags": ["a", {"b": None}], "title": "Größe \U0001f600"}
    store = TenfoldVectorStore(FAKE, tmp_path / "store", metric="l2", columns={"year": "int"}, recall=1.0)
    [first, second] = store.add_texts(["one", "two\0\n"], [metadata, {}])
    store.living.compact()
    store.add_texts(["three"], ids=["3"])
    del store
    gc.collect()
    with TenfoldVectorStore(FAKE, tmp_path / "store") as again:
        assert again.living.metric == "l2" and len(again) == 3
        wanted = [Document(id=first, page_content="one", metadata=metadata)]
        assert again.get_by_ids([first]) == again.similarity_search("one", k=1) == wanted
        assert texts(again.get_by_ids(["3", "nobody", second, "3"])) == ["three", "two\0\n"]
        with TenfoldVectorStore(FAKE, tmp_path / "store", read_only=True) as reader:
            again.delete(["3"])
            again.add_texts(["more"], ids=["4"])
            reader.living.refresh()
            assert sorted(texts(reader.similarity_search("one", k=9))) == ["more", "one", "two\0\n"]
            with pytest.raises(InputError, match="was opened read-only; open it anew"):
                reader.add_texts(["no"])
        again.delete()
        assert again.similarity_search("one") == [] and len(again) == 0
        assert again.get_by_ids([first, "4"]) == []


def test_a_store_without_a_place_goes_with_its_object() -> None:
    store = TenfoldVectorStore.from_texts(["a", "b"], FAKE, ids=["1", None])
    folder = store.living.path
    assert texts(store.get_by_ids(["1"])) == ["a"]
    del store
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_scores_are_distances_and_relevance_falls_with_them(metric: Any) -> None:
    store = TenfoldVectorStore(Numbers(), metric=metric, dim=2, recall=1.0)
    store.add_texts(["1 0", "0.6 0.8", "0 1", "-1 0"])
    found = store.similarity_search_with_score("1 0", k=4)
    distances = {"cosine": [0, 0.4, 1, 2], "l2": [0, 0.8, 2, 4], "ip": [-1, -0.6, 0, 1]}[metric]
    assert texts([document for document, _ in found]) == ["1 0", "0.6 0.8", "0 1", "-1 0"]
    np.testing.assert_allclose([distance for _, distance in found], distances, atol=1e-6)
    relevant = [score for _, score in store.similarity_search_with_relevance_scores("1 0", k=4)]
    np.testing.assert_allclose(relevant, [1, 1 - np.sqrt(0.4) if metric == "l2" else 0.6, 0, 0], atol=1e-6)
    close = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.3, "k": 3})
    assert texts(close.invoke("1 0")) == ["1 0", "0.6 0.8"]
    other = TenfoldVectorStore(Numbers(), metric=metric, dim=2, relevance_score_fn=lambda distance: 0.5)
    other.add_texts(["1 0"])
    assert other.similarity_search_with_relevance_scores("1 0")[0][1] == 0.5


def test_filters_are_about_columns() -> None:
    columns: Any = {"lang": "category", "year": "int", "paid": "bool"}
    store = TenfoldVectorStore(FAKE, columns=columns, recall=1.0)
    metadatas = [{"lang": "de" if n % 2 else "en", "year": 2000 + n, "n": n} for n in range(50)]
    store.add_texts([f"text {n}" for n in range(50)], [*metadatas[:49], {"n": 49, "paid": True}])
    found = store.similarity_search("text 7", k=50, filter={"lang": "de", "year": {"$gte": 2040}})
    assert sorted(document.metadata["n"] for document in found) == [41, 43, 45, 47]
    assert [one.metadata["n"] for one in store.similarity_search("x", filter={"paid": True})] == [49]
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"year": {"$lt": 2002}}})
    assert sorted(document.metadata["n"] for document in retriever.invoke("text")) == [0, 1]
    diverse = store.max_marginal_relevance_search("text", k=3, filter={"lang": "en"})
    assert len(diverse) == 3 and all(document.metadata["lang"] == "en" for document in diverse)
    with pytest.raises(InputError, match="there is no column 'n'; this index has lang, year, paid"):
        store.similarity_search("x", filter={"n": 3})
    with pytest.raises(InputError, match="column year holds int, '2020' is not a whole number"):
        store.add_texts(["x"], [{"year": "2020"}], ids=["bad"])
    assert store.get_by_ids(["bad"]) == [] and len(store) == 50


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_diverse_documents_are_those_that_langchain_chooses(weight: float) -> None:
    """Its function is the oracle, on the vectors of the 20 nearest."""
    store = TenfoldVectorStore(FAKE, recall=1.0)
    store.add_texts([f"text {number}" for number in range(60)])
    near = store.similarity_search("query", k=20)
    query = np.array(FAKE.embed_query("query"))
    chosen = maximal_marginal_relevance(query, FAKE.embed_documents(texts(near)), weight, 8)
    found = store.max_marginal_relevance_search("query", k=8, fetch_k=20, lambda_mult=weight)
    assert texts(found) == [near[number].page_content for number in chosen]
    again = asyncio.run(store.amax_marginal_relevance_search("query", k=8, fetch_k=20, lambda_mult=weight))
    assert again == found
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 8, "lambda_mult": weight})
    assert retriever.invoke("query") == found


def test_what_cannot_be_is_said_and_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "store"
    with TenfoldVectorStore(Numbers(), place, columns={"year": "int"}, dim=2) as store:
        store.add_texts(["1 2"], ids=["there"])
        bad: list[tuple[dict[str, Any], str]] = [
            ({"texts": ["1 2", "3 4"], "metadatas": [{}]}, "1 metadatas for 2 texts"),
            ({"texts": ["1 2"], "ids": ["a", "b"]}, "2 ids for 1 texts"),
            ({"texts": ["1 2"], "ids": [7]}, "id 7 is no text"),
            ({"texts": ["1 2"], "ids": [""]}, "id '' is no text"),
            ({"texts": ["1 2"], "ids": ["\ud800"]}, "is no text"),
            ({"texts": ["\ud800"]}, "a text is needed"),
            ({"texts": ["1 2"], "metadatas": [{"when": {1, 2}}]}, "cannot be kept as JSON: Object of type set"),
            ({"texts": ["1 2 3"]}, "dimension 2"),
            ({"texts": ["1 2", "1 2 3"]}, "no rows of numbers, all of one length"),
            ({"texts": ["nan 2"]}, "holds NaN or infinity"),
            ({"texts": ["1 2"], "namespace": "x"}, "add_texts takes metadatas and ids, not namespace"),
        ]
        for arguments, complaint in bad:
            with pytest.raises(InputError, match=complaint):
                store.add_texts(**arguments)
        for k in (0, -1, 1.5):
            with pytest.raises(InputError, match="k is"):
                store.similarity_search("1 2", k=k)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="a search takes filter and recall, not flavour"):
            store.similarity_search("1 2", flavour="sweet")
        with pytest.raises(InputError, match="lambda_mult is 2"):
            store.max_marginal_relevance_search("1 2", lambda_mult=2)
        assert store.add_texts([]) == []
        assert store.add_texts(["5 6", "7 8"], ids=["twice", "twice"]) == ["twice", "twice"]
        assert sorted(texts(store.similarity_search("1 2", k=9))) == ["1 2", "7 8"]
        with pytest.raises(InputError, match="writes to"):
            TenfoldVectorStore(Numbers(), place)
    for options, complaint in [
        ({"metric": "ip"}, "the store there has cosine, not ip"),
        ({"columns": {}}, "the store there has {'year': 'int'}, not {}"),
        ({"dim": 3}, "the store there has 2, not 3"),
    ]:
        with pytest.raises(InputError, match=complaint):
            TenfoldVectorStore(Numbers(), place, **options)  # type: ignore[arg-type]
    TenfoldVectorStore(Numbers(), place, columns={"year": "int"}).close()  # the refused ones left it open to others
    LivingIndex.create(tmp_path / "other", 2).close()
    with pytest.raises(InputError, match="was not made by TenfoldVectorStore"):
        TenfoldVectorStore(Numbers(), tmp_path / "other")
    with pytest.raises(InputError, match="a column cannot be called _document"):
        TenfoldVectorStore(Numbers(), tmp_path / "new", dim=2, columns={"_document": "int"})
    (place / "documents.sqlite").write_bytes(b"no table" * 1000)
    with pytest.raises(InputError, match=r"documents\.sqlite: file is not a database; restore it from a copy"):
        TenfoldVectorStore(Numbers(), place)


# --- disasters: a document's text, metadata and vector all say which id and version it is ------------------------


def versions_in(path: Path) -> dict[str, int]:
    """Ids and versions of the documents of a store; each must be whole, and the only one of its id."""
    with TenfoldVectorStore(Numbers(), path, recall=1.0) as store:
        names = store.living.all_ids().tolist()
        found = {str(document.id): document for document in store.similarity_search("0 0", k=10_000)}
        assert sorted(found) == sorted(names) == sorted(str(one.id) for one in store.get_by_ids(names))
        for name, vector in zip(names, store.living.get(names).tolist(), strict=True):
            assert vector == [float(name), found[name].metadata["version"]], name
            assert Numbers().embed_query(found[name].page_content) == vector
        [(kept,)] = store._documents._table.read("SELECT count(*) FROM documents")
        assert kept == len(names), "old versions are gone"
        return {name: document.metadata["version"] for name, document in found.items()}


def change(store: TenfoldVectorStore | None, step: int, model: dict[str, int]) -> dict[str, int]:
    """The step-th change, the same for whoever makes it: what the documents are then."""
    rng = np.random.default_rng(step)
    names = [str(number) for number in np.unique(rng.integers(1, 60, rng.integers(1, 20)))]
    if step % 40 == 39:
        if store is not None:
            store.delete()
        return {}
    if step % 3 == 0:
        if store is not None:
            store.delete(names)
        return {name: version for name, version in model.items() if name not in names}
    if store is not None:
        store.add_texts([f"{name} {step}" for name in names], [{"version": step}] * len(names), ids=names)
    return model | dict.fromkeys(names, step)


def work(path: Path, first: int, say: Callable[[int], object]) -> None:
    maintaining._DELTA_ROWS = 100
    store = TenfoldVectorStore(Numbers(), path)
    for step in range(first, 10**6):
        change(store, step, {})
        say(step)


def test_killed_at_random_documents_and_vectors_keep_step(tmp_path: Path) -> None:
    """What is found is what the acknowledged calls made, or that and the one call that was under way."""
    path, rng, model, step = tmp_path / "store", np.random.default_rng(1), dict[str, int](), 1
    TenfoldVectorStore(Numbers(), path, dim=2, metric="l2").close()
    for _ in range(20):
        reached = killed_after(int(rng.integers(0, 8)), float(rng.uniform(0, 0.1)), step, partial(work, path, step))
        for done in range(step, reached):
            model = change(None, done, model)
        found, one_more = versions_in(path), change(None, reached, model)
        assert found in (model, one_more)
        model, step = found, reached + (found == one_more)
    assert step > 50


@pytest.mark.parametrize("moment", ["before the rows", "behind the rows"])
@pytest.mark.parametrize("deletes", [False, True])
def test_stopped_between_index_and_table(moment: str, deletes: bool, tmp_path: Path) -> None:
    """At either side of the moment that counts, the change is there as a whole or not at all."""
    path = tmp_path / "store"
    with TenfoldVectorStore(Numbers(), path, dim=2, metric="l2") as store:
        store.add_texts(["1 1", "2 1"], [{"version": 1}] * 2, ids=["1", "2"])
    child = os.fork()
    if child == 0:
        target, name = (LivingIndex, "delete" if deletes else "update")
        if moment == "behind the rows":
            target, name = (Documents, "_settle")  # type: ignore[assignment]
        store = TenfoldVectorStore(Numbers(), path)
        setattr(target, name, lambda *arguments: os._exit(7))
        if deletes:
            store.delete(["1", "2"])
        store.add_texts(["2 2", "3 2"], [{"version": 2}] * 2, ids=["2", "3"])
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with TenfoldVectorStore(Numbers(), path, read_only=True, recall=1.0) as reader:  # which can tidy up nothing
        seen = {one.id: one.metadata["version"] for one in reader.get_by_ids(["1", "2", "3"])}
        assert {one.id: one.metadata["version"] for one in reader.similarity_search("0 0", k=9)} == seen
    before, after = {"1": 1, "2": 1}, {} if deletes else {"1": 1, "2": 2, "3": 2}
    assert versions_in(path) == seen == (before if moment == "before the rows" else after)


def test_a_failed_change_leaves_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    with TenfoldVectorStore(Numbers(), path, dim=2, metric="l2") as store:
        store.add_texts(["1 1"], [{"version": 1}], ids=["1"])

        def fail(*_: object) -> None:
            raise InputError("no room")

        monkeypatch.setattr(LivingIndex, "update", fail)
        with pytest.raises(InputError, match="no room"):
            store.add_texts(["1 2", "2 2"], [{"version": 2}] * 2, ids=["1", "2"])
        assert texts(store.get_by_ids(["1", "2"])) == ["1 1"]
    monkeypatch.undo()
    assert versions_in(path) == {"1": 1}


def test_threads_find_whole_documents_while_they_are_replaced(tmp_path: Path) -> None:
    store = TenfoldVectorStore(Numbers(), tmp_path / "store", dim=2, metric="l2", recall=1.0)
    names, wrong = [str(number) for number in range(1, 21)], list[str]()
    begun, stop = threading.Event(), threading.Event()
    store.add_texts([f"{name} 0" for name in names], [{"version": 0}] * 20, ids=names)

    def search() -> None:
        try:
            while not stop.is_set():
                found = store.similarity_search("0 0", k=20)
                if sorted(str(one.id) for one in found) != sorted(names):
                    wrong.append(f"{len(found)} found")
                for one in found:
                    if one.page_content != f"{one.id} {one.metadata['version']}":
                        wrong.append(json.dumps(one.metadata))
                assert store.max_marginal_relevance_search("0 0", k=5)
                begun.set()
        except BaseException as error:
            wrong.append(repr(error))

    searchers = [threading.Thread(target=search) for _ in range(3)]
    for searcher in searchers:
        searcher.start()
    assert begun.wait(600), wrong
    for version in range(1, 40):
        store.add_texts([f"{name} {version}" for name in names], [{"version": version}] * 20, ids=names)
    stop.set()
    for searcher in searchers:
        searcher.join()
    store.close()
    assert wrong == []

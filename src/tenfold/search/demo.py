"""`tenfold demo`: search the documentation of this Python installation by meaning.

Every machine that runs Tenfold has it: the docstrings of the standard library and of the installed
packages, some ten thousand of them. They become vectors, the vectors an index on disk, and plain
questions are answered from it. What was left out of the index then asks, to measure how well and
how fast it answers.
"""

import json as json_format
import shutil
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, progress_bar
from tenfold.core.reports import Table
from tenfold.search.docstrings import Docstring, collect_docstrings, find_sources
from tenfold.search.evaluation import evaluate
from tenfold.search.index import Index
from tenfold.search.memory import resident_bytes
from tenfold.search.texts import TextSpace, count_terms

__all__ = ["run_demo"]

Floats = npt.NDArray[np.float32]

QUESTIONS = (
    "how do I compress data",
    "wait for several threads to finish",
    "solve a system of linear equations",
    "open a page in a web browser",
    "draw a progress bar in the terminal",
)
_HITS = 3
_MOST_DOCSTRINGS = 30_000  # large installations have more, and reading them takes minutes
_FEWEST_DOCSTRINGS = 1_000
_HELD_OUT = 1000
_SEED = 0


@dataclass(frozen=True)
class Hit:
    """One answer to a question; `similarity` is a cosine."""

    name: str
    summary: str
    similarity: float


@dataclass(frozen=True)
class Figures:
    """What the demo measured. Sizes in bytes; 10 results per query, at the default recall setting."""

    rows: int
    dim: int
    vector_bytes: int  # the raw vectors, as float32
    index_bytes: int  # on disk, the vectors included
    memory_bytes: int  # of the parts of the index that searching needs in memory
    resident_growth_bytes: int  # what opening the index and searching it added to this process
    read_seconds: float  # source files to docstrings
    embed_seconds: float  # docstrings to vectors
    build_seconds: float
    queries: int
    recall: float  # recall@10 against brute force in NumPy
    qps: float  # all queries in one batch
    brute_force_qps: float  # the same batch in NumPy, with all vectors in memory
    threads: int
    latency_p50_ms: float  # queries one at a time
    pages_per_query: float
    io_backend: str
    simd: str


@dataclass(frozen=True)
class Library:
    """Docstrings as vectors of length 1: those to be indexed, and those held out to ask with."""

    docstrings: list[Docstring]
    vectors: Floats
    queries: Floats
    space: TextSpace
    read_seconds: float
    embed_seconds: float


def run_demo(json: bool = False) -> None:
    """Build an index of this installation's docstrings in a temporary folder, ask it, measure it, print.

    Args:
        json: Print one JSON object, `{"questions": [{"question", "hits"}], "figures"}`, instead of text.

    Raises:
        InputError: Python's source files are missing here, or there is no room for the index (50 MB).
    """
    with tempfile.TemporaryDirectory(prefix="tenfold-demo-") as folder, progress_bar() as progress:
        library = read_library(progress)
        path = Path(folder, "docstrings.npy")
        np.save(path, library.vectors)
        start = time.perf_counter()
        Index.build(path, path.with_suffix(".index"), metric="cosine", seed=_SEED, progress=progress)
        build_seconds = time.perf_counter() - start
        figures, index = measure(path.with_suffix(".index"), library, build_seconds)
        answers = answer(index, library, QUESTIONS)
        del index  # closes its files, so that the folder can be removed
    if json:
        questions = [{"question": asked, "hits": [asdict(hit) for hit in hits]} for asked, hits in answers.items()]
        print(json_format.dumps({"questions": questions, "figures": asdict(figures)}))
    else:
        print_answers(answers, figures.rows)
        print_figures(figures)


def read_library(progress: Progress) -> Library:
    """Collect the docstrings and turn them into vectors.

    The held-out ones are of private functions and classes, drawn at random: nobody's question is
    answered by them. The vector space is learned without them.
    """
    start = time.perf_counter()
    sources = find_sources()
    docstrings = collect_docstrings(_reported(sources, progress), _MOST_DOCSTRINGS)
    if len(docstrings) < _FEWEST_DOCSTRINGS:
        raise InputError(
            f"the source files of this Python hold {len(docstrings):,} docstrings, and the demo needs "
            f"{_FEWEST_DOCSTRINGS:,}; run it with a Python that comes with its sources (.py files)"
        )
    read_seconds = time.perf_counter() - start

    start = time.perf_counter()
    progress("learning", 0, 2)
    private = [number for number, docstring in enumerate(docstrings) if docstring.is_private]
    held_out = set(np.random.default_rng(_SEED).permutation(private)[:_HELD_OUT].tolist())
    queries = [count_docstring(docstrings[number]) for number in sorted(held_out)]
    kept = [docstring for number, docstring in enumerate(docstrings) if number not in held_out]
    texts = [count_docstring(docstring) for docstring in kept]
    space = TextSpace.fit(texts, seed=_SEED)
    progress("learning", 1, 2)
    vectors, asked = space.embed(texts), space.embed(queries)
    known = np.linalg.norm(vectors, axis=1) > 0  # a text of which no term is known is near nothing
    progress("learning", 2, 2)
    kept = [docstring for docstring, wanted in zip(kept, known, strict=True) if wanted]
    embed_seconds = time.perf_counter() - start
    return Library(kept, vectors[known], asked[np.linalg.norm(asked, axis=1) > 0], space, read_seconds, embed_seconds)


def _reported(sources: Sequence[tuple[str, Path]], progress: Progress) -> Iterator[tuple[str, Path]]:
    for number, source in enumerate(sources, 1):
        yield source
        progress("reading", number, len(sources))


def count_docstring(docstring: Docstring) -> dict[str, float]:
    """Count its terms: own name twice, first line twice, first paragraph and surroundings once.

    Further paragraphs are left out: arguments and examples say little of what something is for.
    """
    parts = docstring.name.split(".")
    own, around = " ".join(parts[-3:]), " ".join(parts[:-3])
    paragraph = docstring.text.partition("\n\n")[0]
    texts = (own, docstring.first_line, around, paragraph, docstring.context)
    return count_terms(*texts, weights=(2, 1, 1, 1, 1))


def answer(index: Index, library: Library, questions: Sequence[str]) -> dict[str, list[Hit]]:
    """Look up the nearest docstrings of each question.

    A short question lies farther from every docstring than docstrings from each other, and so what the index
    has learned about recall from its own rows is too hopeful for it. For a handful of questions there is time
    to look through the codes of all lists; vectors are still read only for the few best candidates.
    """
    vectors = library.space.embed([count_terms(question) for question in questions])
    distances, ids = index.search(vectors, _HITS, recall=0.99, probes=index.lists)
    return {
        question: [
            Hit(library.docstrings[row].name, library.docstrings[row].first_line, round(1 - float(distance), 4))
            for distance, row in zip(distances[number], ids[number], strict=True)
            if row >= 0
        ]
        for number, question in enumerate(questions)
    }


def measure(path: Path, library: Library, build_seconds: float) -> tuple[Figures, Index]:
    """Open the index and ask it what was held out; brute force says what is right.

    Half of the held-out docstrings tell the index what it will be asked: those of private functions are not quite like
    its own rows. The other half is measured.
    """
    before = resident_bytes()
    index = Index.open(path)
    index.search(library.queries)
    growth = resident_bytes() - before
    index.calibrate(library.queries[::2])
    queries = library.queries[1::2]
    start = time.perf_counter()
    true_distances = search_by_brute_force(library.vectors, queries, 10)
    brute_force_seconds = time.perf_counter() - start
    result = evaluate(index, queries, true_distances, 10)
    sizes = index.stats()
    figures = Figures(
        rows=sizes["rows"],
        dim=sizes["dim"],
        vector_bytes=sizes["vector_bytes"],
        index_bytes=sizes["index_bytes"],
        memory_bytes=sizes["memory_bytes"],
        resident_growth_bytes=max(0, growth),
        read_seconds=library.read_seconds,
        embed_seconds=library.embed_seconds,
        build_seconds=build_seconds,
        queries=result.queries,
        recall=result.recall,
        qps=result.qps,
        brute_force_qps=result.queries / brute_force_seconds,
        threads=result.threads,
        latency_p50_ms=result.latency_ms["p50"],
        pages_per_query=result.pages_per_query,
        io_backend=result.io_backend,
        simd=result.simd,
    )
    return figures, index


def search_by_brute_force(vectors: Floats, queries: Floats, k: int) -> Floats:
    """Return the cosine distances of the k nearest vectors (of length 1) of each query, (q, k), ascending."""
    distances = 1 - queries @ vectors.T
    return np.sort(np.partition(distances, k - 1, axis=1)[:, :k], axis=1)


def print_answers(answers: dict[str, list[Hit]], rows: int) -> None:
    """Print each question and its hits, one line each: similarity, name, first line."""
    width = shutil.get_terminal_size((120, 24)).columns
    print(f"Questions to the {rows:,} docstrings of this Python installation, and the nearest {_HITS}:")
    for question, hits in answers.items():
        print(f"\n  {question}?")
        longest = max((len(hit.name) for hit in hits), default=0)
        for hit in hits:
            line = f"    {hit.similarity:.2f}  {hit.name:<{longest}}  "
            print(line + textwrap.shorten(hit.summary, max(width - len(line), 30), placeholder="…"))
    print()


def print_figures(figures: Figures) -> None:
    """Print the table of figures and what they mean."""
    rows = [
        ["vectors", f"{figures.rows:,} x {figures.dim} float32 = {_megabytes(figures.vector_bytes)}"],
        ["docstrings read in", f"{figures.read_seconds:.1f} s"],
        ["turned into vectors in", f"{figures.embed_seconds:.1f} s"],
        ["index built in", f"{figures.build_seconds:.1f} s"],
        ["index on disk", f"{_megabytes(figures.index_bytes)}, the vectors included"],
        ["memory the index needs", f"{_megabytes(figures.memory_bytes)} "
         f"(opening it and searching added {_megabytes(figures.resident_growth_bytes)} to the process)"],
        ["recall@10", f"{figures.recall:.3f} of brute force (asked for: 0.95)"],
        ["queries per second", f"{figures.qps:,.0f} with {figures.threads} threads "
         f"(NumPy, all vectors in memory: {figures.brute_force_qps:,.0f})"],
        ["latency of one query, p50", f"{figures.latency_p50_ms:.2f} ms"],
        ["pages read from disk", f"{figures.pages_per_query:.1f} per query, of 4 KB"],
        ["I/O back end, SIMD", f"{figures.io_backend}, {figures.simd}"],
    ]  # fmt: skip
    share = figures.memory_bytes / figures.vector_bytes
    notes = [
        "The questions above looked through all lists (probes); these figures are of the default setting.",
        f"Queries: {figures.queries} docstrings of private functions, left out of the index and of what it learned; "
        "as many others like them told it how far to look (calibrate).",
        f"So: with {share:.0%} of the vectors' size in memory and the vectors themselves on disk, a search finds "
        f"{figures.recall:.1%} of what comparing with every vector finds.",
    ]
    Table("Measured on the way", ["what", "measured"], rows, notes).print()


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MB"

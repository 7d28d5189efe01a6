"""The demo: docstrings from source files, texts as vectors, and the command on this Python's real documentation."""

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.core.progress import no_progress
from tenfold.search import demo
from tenfold.search.docstrings import Docstring, collect_docstrings, find_sources, first_line
from tenfold.search.texts import Sparse, TextSpace, count_terms, decompose, stem, tokenize

SOURCE = '''"""Reads and writes\nshapes of all kinds."""

class Shape:
    """A closed curve in the plane."""

    def area(self):
        """Return the area that the curve encloses."""
        def inner():
            """What a function defines inside itself is documented too."""

    if True:
        async def _draw(self):
            """Draw the curve on the screen, slowly."""

try:
    import fast
except ImportError:
    def fallback():
        """Do the same without the fast module."""

def short():
    """Short."""

def again():
    """Return the area
       that the curve encloses."""
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "shapes/__init__.py": SOURCE.encode(),
        "shapes/_vendor/curves.py": b'"""Curves that were copied from elsewhere."""',
        "zebra.py": b'"""The last module of them all, in the alphabet."""',
        "broken.py": b'"""A file that is cut in the middle."""\ndef f(:',
        "zeros.py": b'"""A file that holds a zero byte."""\0',
        "odd.py": b'"""A file with an odd escape in its docstring: \\d."""',
        "latin.py": b'# -*- coding: latin-1 -*-\n"""The caf\xe9 around the corner of the street."""',
        "deep.py": b'"""A file that no parser has the patience for."""\nx = ' + b"(" * 5000 + b")" * 5000,
        "tests/test_shapes.py": b'"""Tests of the shapes, which nobody searches for."""',
        "site-packages/other.py": b'"""Another package, which has a root of its own."""',
        "notes.txt": b'"""Not Python source at all, whatever it says."""',
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "missing.py").symlink_to(tmp_path / "nowhere.py")
    return tmp_path


def test_modules_are_found_in_order_without_tests(tree: Path) -> None:
    names = [name for name, _ in find_sources([tree])]
    assert names[-1] == "shapes._vendor.curves"
    assert names[:-1] == sorted(names[:-1])
    assert {"shapes", "zebra", "broken"} < set(names)
    assert not {"tests.test_shapes", "site-packages.other", "notes"} & set(names)


def test_the_same_root_twice_gives_each_module_once(tree: Path) -> None:
    assert find_sources([tree, tree, tree / "shapes"]) == find_sources([tree])


@pytest.mark.filterwarnings("error")
def test_docstrings_are_collected_and_broken_files_passed_over(tree: Path) -> None:
    found = {docstring.name: docstring for docstring in collect_docstrings(find_sources([tree]), 100)}
    assert list(found) == [
        "latin",
        "odd",
        "shapes",
        "shapes.Shape",
        "shapes.Shape.area",
        "shapes.Shape.area.inner",
        "shapes.Shape._draw",
        "shapes.fallback",
        "zebra",
        "shapes._vendor.curves",
    ]
    assert found["latin"].text == "The café around the corner of the street."
    assert found["shapes.Shape.area"].context.split("\n") == ["", "Reads and writes", "A closed curve in the plane."]
    assert [name for name, docstring in found.items() if docstring.is_private] == ["shapes.Shape._draw"]


def test_collecting_stops_at_the_limit(tree: Path) -> None:
    assert [docstring.name for docstring in collect_docstrings(find_sources([tree]), 3)] == ["latin", "odd", "shapes"]


def test_special_methods_are_not_private() -> None:
    assert not Docstring("a.B.__init__", "", "").is_private
    assert Docstring("a.B._c", "", "").is_private


@pytest.mark.parametrize(
    ("text", "line"),
    [("", ""), ("----\n\n Title \n-----", "Title"), ("0\n1\nab", "ab"), ("One line.\nAnother.", "One line.")],
)
def test_first_line(text: str, line: str) -> None:
    assert first_line(text) == line


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("parseHTTPDate", ["par", "http", "dat"]),
        ("http.client.HTTPConnection.get_response", ["http", "client", "http", "connect", "respon"]),
        ("How do I compress a file?", ["compress", "fil"]),
        ("x = 12 * y", []),
        ("", []),
    ],
)
def test_identifiers_and_sentences_become_stems(text: str, terms: list[str]) -> None:
    assert tokenize(text) == terms


@pytest.mark.parametrize(
    "words",
    [
        ["compress", "compresses", "compressed", "compressing", "compression", "compressor"],
        ["parse", "parses", "parser", "parsers", "parsed", "parsing"],
        ["split", "splits", "splitting", "splitter"],
        ["copy", "copies"],
        ["directory", "directories"],
        ["thread", "threads", "threading", "threaded"],
        ["equation", "equations"],
        ["class", "classes"],
    ],
)
def test_forms_of_a_word_share_their_stem(words: list[str]) -> None:
    assert len({stem(word) for word in words}) == 1


@pytest.mark.parametrize(("one", "other"), [("date", "data"), ("string", "strip"), ("sing", "sign"), ("wait", "write")])
def test_different_words_keep_different_stems(one: str, other: str) -> None:
    assert stem(one) != stem(other)


@given(st.text())
def test_any_text_can_be_tokenized(text: str) -> None:
    assert all(len(term) > 1 and term.isascii() for term in tokenize(text))


def test_counts_are_weighted() -> None:
    assert count_terms("a file", "Files, threads", weights=(3, 0.5)) == {"fil": 3.5, stem("thread"): 0.5}


def sparse(dense: np.ndarray) -> Sparse:
    starts = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))])
    return Sparse(starts, np.nonzero(dense)[1], dense[dense != 0], dense.shape[1])


def random_matrix(rows: int, columns: int, rank: int) -> np.ndarray:
    """Mostly zeros, with some empty rows and columns; the first `rank` of its directions are strong."""
    rng = np.random.default_rng(rows)
    strong = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    noise = 0.01 * rng.standard_normal((rows, columns))
    return ((strong + noise) * (rng.random((rows, 1)) < 0.7) * (rng.random(columns) < 0.8)).astype(np.float32)


def test_sparse_products_equal_dense_ones() -> None:
    dense = random_matrix(40, 30, 5) * (np.random.default_rng(1).random((40, 30)) < 0.2).astype(np.float32)
    other = np.random.default_rng(2).standard_normal((30, 7), np.float32)
    np.testing.assert_allclose(sparse(dense) @ other, dense @ other, atol=1e-5)
    np.testing.assert_allclose(
        sparse(dense).transpose() @ other[:1].repeat(40, 0), dense.T @ other[:1].repeat(40, 0), atol=1e-4
    )
    np.testing.assert_array_equal(sparse(dense).transpose().transpose() @ other, sparse(dense) @ other)


@pytest.mark.parametrize(
    ("rows", "columns", "dim"), [(200, 90, 12), (60, 150, 12), (20, 30, 20), (10, 5, 12), (1, 4, 1)]
)
def test_decomposition_equals_the_full_one(rows: int, columns: int, dim: int) -> None:
    dense = random_matrix(rows, columns, 12)
    values, right = decompose(sparse(dense), dim, seed=0)
    expected = np.linalg.svd(dense.astype(np.float64), compute_uv=False)[:dim]
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=3e-3 * expected[0])
    np.testing.assert_allclose(right.T @ right, np.eye(right.shape[1]), atol=1e-4)
    # What the directions keep of the matrix is as much as the best ones can.
    kept = np.linalg.norm(dense @ right)
    assert kept == pytest.approx(np.sqrt((expected**2).sum()), rel=1e-3)


TEXTS = [
    "compress a file with gzip",
    "gzip and bzip are formats of archives",
    "archives hold files and folders",
    "wait until a thread ends",
    "a lock lets a thread wait",
    "a lock is held by its owner",
]


def test_neighbours_share_words_or_company() -> None:
    space = TextSpace.fit([count_terms(text) for text in TEXTS], meaning=2, wording=64)
    vectors = space.embed([count_terms(text) for text in TEXTS])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    nearest = np.argsort(-space.embed([count_terms("gzip files")]) @ vectors.T)[0]
    assert set(nearest[:3]) == {0, 1, 2}
    locks = np.argsort(-space.embed([count_terms("waiting threads")]) @ vectors.T)[0]
    assert set(locks[:3]) == {3, 4, 5}  # text 5 has none of the words, but is about locks too


def test_the_same_seed_gives_the_same_vectors() -> None:
    counts = [count_terms(text) for text in TEXTS]
    first, again, other = (TextSpace.fit(counts, 2, 8, seed).embed(counts) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_words_give_a_zero_vector() -> None:
    space = TextSpace.fit([count_terms(text) for text in TEXTS], 2, 8)
    assert not space.embed([{}, count_terms("xylophone")]).any()


def test_brute_force_is_sorted_and_exact() -> None:
    vectors = np.eye(4, dtype=np.float32)
    distances = demo.search_by_brute_force(vectors, np.array([[0.6, 0.8, 0, 0]], np.float32), 3)
    np.testing.assert_allclose(distances, [[0.2, 0.4, 1]], atol=1e-6)


def test_a_python_without_sources_is_told_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_sources", lambda: find_sources([tree]))
    with pytest.raises(InputError, match="hold 10 docstrings, and the demo needs 1,000"):
        demo.read_library(no_progress)


def needed(name: str) -> set[str]:
    """Distributions that a package needs to be installed with, itself included."""
    names, waiting = set[str](), [name]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in names:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of another system or Python
                wanted = importlib.metadata.requires(name) or []
                names.add(name)
                waiting += [re.split(r"[^\w.-]", text)[0] for text in wanted if "extra ==" not in text]
    return names


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with Tenfold and what it needs, and no other package whose documentation the demo would read."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in needed("tenfold"):
        for file in set(importlib.metadata.files(name) or []):
            if ".." not in file.parts and file.suffix != ".pyc":
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                (packages / file).symlink_to(Path(str(file.locate())).resolve())
    return folder / "bin/python"


@pytest.fixture(scope="module")
def ran(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """`tenfold demo --json`, once, and the folder it was given for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [bare, "-m", "tenfold", "demo", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment), folder


def test_the_command_answers_from_the_real_documentation(
    ran: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    process, folder = ran
    assert (process.returncode, process.stderr) == (0, "")
    assert list(folder.iterdir()) == []  # nothing stays behind
    shown = json.loads(process.stdout)
    assert [entry["question"] for entry in shown["questions"]] == list(demo.QUESTIONS)
    names = {entry["question"]: [hit["name"] for hit in entry["hits"]] for entry in shown["questions"]}
    for part, question in [("compress", 0), ("threading.", 1), ("numpy.linalg", 2), ("webbrowser", 3), ("progress", 4)]:
        assert any(part in name for name in names[demo.QUESTIONS[question]])
    for entry in shown["questions"]:
        similarities = [hit["similarity"] for hit in entry["hits"]]
        assert similarities == sorted(similarities, reverse=True)
        assert all(hit["summary"] for hit in entry["hits"])


def test_the_figures_are_those_of_an_index_that_works(ran: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    figures = json.loads(ran[0].stdout)["figures"]
    assert 1_000 < figures["rows"] <= 30_000
    assert figures["vector_bytes"] == figures["rows"] * figures["dim"] * 4
    assert figures["queries"] == 500
    assert figures["recall"] > 0.9
    assert figures["memory_bytes"] < figures["vector_bytes"] / 4
    assert figures["qps"] > 0
    assert figures["latency_p50_ms"] > 0
    assert figures["io_backend"] in {"uring", "direct", "buffered"}


def test_text_for_people_names_questions_hits_and_figures(
    ran: tuple[subprocess.CompletedProcess[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(ran[0].stdout)
    answers = {entry["question"]: [demo.Hit(**hit) for hit in entry["hits"]] for entry in shown["questions"]}
    figures = demo.Figures(**shown["figures"])
    demo.print_answers(answers, figures.rows)
    demo.print_figures(figures)
    text = capsys.readouterr().out
    for question, hits in answers.items():
        assert f"{question}?" in text
        assert all(hit.name in text for hit in hits)
    for word in ["recall@10", "queries per second", "p50", "pages read", figures.simd, figures.io_backend]:
        assert word in text

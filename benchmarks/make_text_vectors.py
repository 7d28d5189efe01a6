"""Vectors of real English text: passages of the manuals that Debian ships, embedded by latent semantic analysis.

    pip install scikit-learn==1.9.1 faiss-cpu==1.15.1 numpy==2.4.6
    python benchmarks/make_text_vectors.py OUT [--rows 150000] [--queries 4000] [--keep WORK]

Needs Debian's `apt-get` and `dpkg` (after `apt-get update`; nothing is installed), 4 GB of memory and about ten minutes
on two cores. Writes into OUT base.fbin and query.fbin (u32 rows, u32 dims, float32 rows of unit length), gt100.bin
(u32 queries, u32 k, ids u32, distances 1 - cos as f32) and about.json (what they are made of, and how hard they are).

A passage is about 50 words in a row of one page. Words and pieces of words, weighted by TF-IDF, are projected to the
leading singular directions of a sample of the base: no model is downloaded. All passages of a page are either in
the base or queries. The same versions of packages and libraries and the same seed give the same files.
"""

import argparse
import gzip
import hashlib
import html
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer

Floats = NDArray[np.float32]

PACKAGES = (
    *("anarchism", "asymptote-doc", "debian-handbook", "debian-reference-en", "ganeti-doc", "gimp-help-en", "git-doc"),
    *("libreoffice-help-en-us", "linux-doc-6.1", "maxima-doc", "octave-doc", "postgresql-doc-15", "python-django-doc"),
    *("python3.11-doc", "r-doc-html", "shorewall-doc", "sqlite3-doc"),
)
DIMS, NEIGHBOURS = 384, 100
PASSAGE_WORDS, FEWEST_WORDS = 50, 30
FIT_PASSAGES = 60_000

_TRANSLATION = re.compile(r"/(?!en)[a-z]{2}-[A-Z]{2}/|[._](?!en)[a-z]{2}(_[A-Z]{2})?\.html?")
_NO_PROSE = re.compile(r"<!--.*?-->|<(script|style|pre|nav|head|table|footer)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:p|div|section|ul|ol|dl|li|dd|dt|h\d|br|hr|body|blockquote)\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")
_SENTENCE = re.compile(r"(?=.*\b(?:the|of|and|is|are|to)\b)\s*(?:\S+\s+){7}\S", re.DOTALL)


class Passage(NamedTuple):
    """Some 50 words of a page; `page` is a package and the path of a file in it."""

    page: str
    text: str


def main() -> None:
    """Unpack, cut into passages, embed, find the exact answers, write."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        versions = unpack(options.packages, folder)
        passages = list(distinct(passages_of(folder)))
    say(f"{len(passages):,} different passages")
    base_passages, query_passages = split(passages, options.rows, options.queries, options.seed)
    embedded = embed(base_passages, query_passages, options.seed)
    base_passages, base = clean(base_passages, embedded[0])
    query_passages, queries = clean(query_passages, embedded[1])
    distances, ids = exact(base, queries)
    write_vectors(options.out / "base.fbin", base)
    write_vectors(options.out / "query.fbin", queries)
    write_truth(options.out / "gt100.bin", ids, distances)
    about = {
        "name": "passages of Debian's manuals, TF-IDF and truncated SVD",
        "metric": "cosine",
        "rows": len(base),
        "queries": len(queries),
        "dims": DIMS,
        "pages": {"base": pages(base_passages), "queries": pages(query_passages)},
        **hardness(distances),
        "packages": versions,
        "arguments": {name: getattr(options, name) for name in ("rows", "queries", "seed", "packages")},
    }
    (options.out / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    say(json.dumps({name: about[name] for name in ("rows", "queries", "pages", *hardness(distances))}))
    show_neighbours(base_passages, query_passages, ids, distances)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=150_000, help="most base vectors")
    parser.add_argument("--queries", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packages", nargs="+", default=PACKAGES, help="Debian packages with pages in HTML")
    parser.add_argument("--keep", type=Path, metavar="WORK", help="unpack here, and do not download again")
    return parser.parse_args()


def unpack(packages: Sequence[str], folder: Path) -> dict[str, str]:
    """Download and unpack what is missing below `folder`; return the version of each package."""
    (folder / "pages").mkdir(parents=True, exist_ok=True)
    missing = [name for name in packages if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", "-q", *missing], cwd=folder, check=True)
    versions = {}
    for name in packages:
        package = next(folder.glob(f"{name}_*.deb"))
        versions[name] = package.name.split("_")[1].replace("%3a", ":")
        subprocess.run(["dpkg", "-x", package, folder / "pages" / name], check=True)
    return versions


def passages_of(folder: Path) -> Iterator[Passage]:
    """Cut every English page below `folder` into passages, in the order of their paths."""
    for path in sorted((folder / "pages").rglob("*.htm*")):
        page = str(path.relative_to(folder / "pages"))
        if path.is_symlink() or not path.is_file() or _TRANSLATION.search(page):
            continue
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        words = prose(raw.decode("utf-8", "replace")).split()
        for start in range(0, len(words), PASSAGE_WORDS):
            passage = words[start : start + PASSAGE_WORDS]
            if len(passage) >= FEWEST_WORDS:
                yield Passage(page, " ".join(passage))


def prose(page: str) -> str:
    """Return the English paragraphs of an HTML page; what is shorter than eight words is a heading or a link."""
    blocks = (html.unescape(_TAG.sub("", block)) for block in _BLOCK.split(_NO_PROSE.sub(" ", page)))
    return " ".join(block for block in blocks if _SENTENCE.match(block))


def distinct(passages: Iterator[Passage]) -> Iterator[Passage]:
    """Leave out passages whose letters were seen before: pages repeat licences, warnings and whole sections."""
    seen: set[bytes] = set()
    for passage in passages:
        letters = re.sub(r"[^a-z]+", "", passage.text.lower())
        digest = hashlib.blake2b(letters.encode(), digest_size=12).digest()
        if digest not in seen:
            seen.add(digest)
            yield passage


def split(passages: Sequence[Passage], rows: int, queries: int, seed: int) -> tuple[list[Passage], list[Passage]]:
    """Return base and queries, each in random order; a page gives its passages to one of them."""
    shuffled = [passages[number] for number in np.random.default_rng(seed).permutation(len(passages))]
    order = sorted({passage.page for passage in passages}, key=lambda page: hashlib.blake2b(page.encode()).digest())
    asking = set(order[: len(order) // 10])
    asked = [passage for passage in shuffled if passage.page in asking][:queries]
    return [passage for passage in shuffled if passage.page not in asking][:rows], asked


def embed(base: Sequence[Passage], queries: Sequence[Passage], seed: int) -> tuple[Floats, Floats]:
    """Return vectors of unit length; everything is learnt from a sample of the base."""
    words = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=3, dtype=np.float32)
    pieces = TfidfVectorizer(
        sublinear_tf=True, analyzer="char_wb", ngram_range=(4, 4), min_df=10, max_features=60_000, dtype=np.float32
    )
    terms = FeatureUnion([("words", words), ("pieces", pieces)])
    model = make_pipeline(terms, TruncatedSVD(DIMS, n_iter=4, random_state=seed), Normalizer())
    say("learning the projection")
    model.fit([passage.text for passage in base[:FIT_PASSAGES]])
    say("embedding")
    base_vectors, query_vectors = (
        np.ascontiguousarray(model.transform([passage.text for passage in passages]), np.float32)
        for passages in (base, queries)
    )
    return base_vectors, query_vectors


def clean(passages: list[Passage], vectors: Floats) -> tuple[list[Passage], Floats]:
    """Leave out vectors that were seen before or are zero."""
    _, first = np.unique(vectors, axis=0, return_index=True)
    kept = np.sort(first[np.linalg.norm(vectors[first], axis=1) > 0.5])
    return [passages[number] for number in kept], vectors[kept]


def exact(base: Floats, queries: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return 1 - cos and row numbers of the nearest base vectors, by comparing with all."""
    index = faiss.IndexFlatIP(DIMS)
    index.add(base)
    cosines, ids = index.search(queries, NEIGHBOURS)
    return (1 - cosines).astype(np.float32), ids


def hardness(distances: Floats) -> dict[str, float]:
    """Return medians over the queries: local intrinsic dimension (maximum likelihood) and d10/d1, both Euclidean."""
    lengths = np.sqrt(2 * np.maximum(distances.astype(np.float64), 1e-9))
    dimension = -1 / np.log(lengths[:, :-1] / lengths[:, -1:]).mean(axis=1)
    return {
        "local_intrinsic_dimension": round(float(np.median(dimension)), 2),
        "d10_over_d1": round(float(np.median(lengths[:, 9] / lengths[:, 0])), 4),
    }


def write_vectors(path: Path, vectors: Floats) -> None:
    """Write a file as big-ann-benchmarks has them."""
    with path.open("wb") as file:
        np.array(vectors.shape, np.uint32).tofile(file)
        vectors.tofile(file)


def write_truth(path: Path, ids: NDArray[np.int64], distances: Floats) -> None:
    """Write exact answers as big-ann-benchmarks has them."""
    with path.open("wb") as file:
        np.array(ids.shape, np.uint32).tofile(file)
        ids.astype(np.uint32).tofile(file)
        distances.tofile(file)


def pages(passages: Sequence[Passage]) -> int:
    """Return from how many pages the passages come."""
    return len({passage.page for passage in passages})


def show_neighbours(
    base: Sequence[Passage], queries: Sequence[Passage], ids: NDArray[np.int64], distances: Floats
) -> None:
    """Print a few queries with their nearest passages, to be read by a person."""
    for number in range(0, len(queries), max(1, len(queries) // 5)):
        say(f"\n? {queries[number].text[:150]}")
        for row, distance in zip(ids[number, :3], distances[number], strict=False):
            say(f"  {1 - distance:.2f} {base[row].text[:150]}")


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""Texts as vectors of meaning and wording, with NumPy alone.

    space = TextSpace.fit(texts)      # texts: one {term: count} per text
    vectors = space.embed([count_terms("how do I compress a file")])

A matrix A (texts x terms) holds what each word says about each text (TF-IDF). A truncated singular
value decomposition A ~ U S V^T finds the directions along which the texts differ most; words that
occur in the same texts share directions, so that two texts can be near without a word in common
(latent semantic analysis, Deerwester et al. 1990). It forgets rare words, which a random projection
keeps. The cosine of two vectors is the mean of both similarities: of meaning and of wording.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Sparse", "TextSpace", "count_terms", "decompose", "stem", "tokenize"]

Floats = npt.NDArray[np.float32]

# Split at everything but letters, and within them as in `HTTPServer`, `parseDate`, `parse_date`.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SUFFIX = re.compile(r"(?<=[a-z]{3})(?:(?<=[a-z]{4})(?:ing|ion|er|or|ed|e?ly)s?|(?<=[aiou])es|e?s(?<!ss)|e)$")
_STOP_TEXT = """
    a about all also an and any are as at be been but by can could did do does each either else etc for from get
    given gives had has have he her here his how however i if in instead into is it its itself just made make makes
    may me might more most much must my no not of off on one only onto or other our out over own per please same she
    should so some such than that the their them then there these they this those through thus to too under until up
    upon us use used uses using via want was way we were what when where whether which while who whose why will with
    within without would yes yet you your arg args default e eg g kwargs none param parameter parameters return
    returned returns true false self several"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())


def tokenize(text: str) -> list[str]:
    """Return the stems of the words of `text`, without stop words, numbers and single letters."""
    words = (word.lower() for word in _WORD.findall(text))
    return [stem(word) for word in words if len(word) > 1 and word not in _STOP_WORDS]


@functools.lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Cut what English appends to a lower-case word: `compresses`, `compression` -> `compress`.

    Much lighter than Porter's rules; what it cuts need not be a word (`dates` -> `dat`).
    """
    for _ in range(2):  # `parsers` -> `pars` -> `par`
        word = _SUFFIX.sub("", word)
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]  # splitting -> splitt -> split
    return word[:-1] + "i" if word[-1] == "y" and len(word) > 2 else word


def count_terms(*texts: str, weights: Sequence[float] = ()) -> dict[str, float]:
    """Count the terms of several texts together, those of `texts[i]` times `weights[i]` (1 without)."""
    counts: dict[str, float] = {}
    for text, weight in zip(texts, weights or [1.0] * len(texts), strict=True):
        for term in tokenize(text):
            counts[term] = counts.get(term, 0.0) + weight
    return counts


@dataclass(frozen=True)
class Sparse:
    """A sparse matrix by rows: row r has `values[starts[r]:starts[r + 1]]` in `columns[...]`."""

    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: Floats
    width: int

    def __matmul__(self, dense: Floats) -> Floats:
        """Multiply with a dense matrix of `width` rows: one small dense product per row."""
        product = np.zeros((len(self.starts) - 1, dense.shape[1]), np.float32)
        bounds = self.starts.tolist()
        for row, (start, end) in enumerate(itertools.pairwise(bounds)):
            if start < end:
                product[row] = self.values[start:end] @ dense[self.columns[start:end]]
        return product

    def transpose(self) -> "Sparse":
        """Return the transposed matrix, also by rows."""
        rows = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        order = np.argsort(self.columns, kind="stable")
        counts = np.bincount(self.columns, minlength=self.width)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return Sparse(starts, rows[order], self.values[order], len(self.starts) - 1)


def decompose(matrix: Sparse, dim: int, seed: int, rounds: int = 3) -> tuple[Floats, Floats]:
    """Return the largest `dim` singular values, and as columns their right singular vectors.

    Fewer than `dim` where the matrix has fewer rows or columns. Randomised subspace iteration:
    Halko, Martinsson and Tropp 2011, algorithm 4.4, on the side of the terms, which are fewer.

    Args:
        matrix: texts x terms.
        dim: How many to return.
        seed: Of the random directions to start from; the same seed, the same answer.
        rounds: Products with A^T A: more make the smallest values more exact.
    """
    turned = matrix.transpose()
    width = min(dim + 20, matrix.width, turned.width)
    basis = np.random.default_rng(seed).standard_normal((matrix.width, width), np.float32)
    for _ in range(rounds):
        basis = np.linalg.qr(turned @ (matrix @ basis)).Q
    image = matrix @ basis
    squares, turns = np.linalg.eigh((image.T @ image).astype(np.float64))
    values = np.sqrt(np.maximum(squares[::-1], 0))
    return values[:dim].astype(np.float32), basis @ turns[:, ::-1][:, :dim].astype(np.float32)


@dataclass(frozen=True)
class TextSpace:
    """What `fit` learned: a column and a weight for each term, and what each term adds to a vector.

    Attributes:
        columns: The number of each term.
        idf: terms; how much a term says: log((1 + texts) / (1 + texts with it)).
        meaning: terms x meaning dimensions; singular vectors.
        wording: terms x wording dimensions; random.
    """

    columns: Mapping[str, int]
    idf: Floats
    meaning: Floats
    wording: Floats

    @classmethod
    def fit(
        cls, texts: Sequence[Mapping[str, float]], meaning: int = 256, wording: int = 128, seed: int = 0
    ) -> "TextSpace":
        """Learn from texts, each given as the counts of its terms; a term of a single text is ignored.

        Args:
            texts: At least two.
            meaning: Dimensions for meaning; fewer texts or terms than that give fewer.
            wording: Dimensions for wording; the error of the similarity is about 1 / sqrt(wording).
            seed: Of everything random; the same texts and seed, the same vectors.
        """
        found = Counter(term for text in texts for term in text)
        terms = sorted(term for term, count in found.items() if count > 1)
        columns = {term: number for number, term in enumerate(terms)}
        idf = np.array([np.log((1 + len(texts)) / (1 + found[term])) for term in terms], np.float32)
        _, directions = decompose(_weigh(texts, columns, idf), meaning, seed)
        chance = np.random.default_rng([seed, 1]).standard_normal((len(terms), wording), np.float32)
        return cls(columns, idf, directions, chance)

    def embed(self, texts: Iterable[Mapping[str, float]]) -> Floats:
        """Return texts x dimensions: a vector of length 1 for each text, of zeros where no term is known."""
        weights = _weigh(texts, self.columns, self.idf)
        return _to_unit(np.hstack([_to_unit(weights @ self.meaning), _to_unit(weights @ self.wording)]))


def _to_unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _weigh(texts: Iterable[Mapping[str, float]], columns: Mapping[str, int], idf: Floats) -> Sparse:
    """Return the TF-IDF matrix, texts x terms, each row of length 1; counts enter as log(1 + count)."""
    starts, terms, counts = [0], [], []
    for text in texts:
        for term, count in text.items():
            if term in columns:
                terms.append(columns[term])
                counts.append(count)
        starts.append(len(terms))
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    column = np.array(terms, np.int64)
    values = np.log1p(np.array(counts, np.float32)) * idf[column]
    lengths = np.sqrt(np.bincount(rows, values**2, len(starts) - 1))
    values = (values / np.maximum(lengths, 1e-12)[rows]).astype(np.float32)
    return Sparse(np.array(starts, np.int64), column, values, len(columns))

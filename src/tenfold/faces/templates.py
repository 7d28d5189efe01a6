"""Templates: what a gallery keeps of an embedding, and how the nearest among many are found.

    g_dd    standard normal, from SHAKE-256 of a seed that HKDF derives from the key (Box-Muller)
    Q_dd    orthogonal: g = Q R with a positive diagonal of R, which makes Q uniform (Mezzadri 2007)
    rotated template   Q v / |v|                                                     d float32
    code               sign(W v), W_nd the first n rows of several such Q            n bits, kept as +-1 / sqrt(n)

A rotation keeps every cosine. Under two keys the same face gives templates whose cosine is that of chance, about
1 / sqrt(d) in size. A row of W tells two vectors apart with probability angle / pi, so cos(pi h / n) of the h
differing bits estimates their cosine (Goemans and Williamson 1995), with a spread of up to pi / (2 sqrt(n)).

Nothing of the Gaussian hangs on NumPy's generators or on the machine but the last bits of log, cos and QR.

N probes or vectors · d dimension · n numbers of a template · P people · M templates of all people
"""

import fcntl
import hashlib
import math
import operator
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces.vault import check_key, derive

if TYPE_CHECKING:
    from tenfold.search import Index

__all__ = ["EXACT_BELOW", "Finder", "Protection", "Ranked", "check_code_bits", "check_dimension", "rotation"]
__all__ += ["unit_vectors"]

EXACT_BELOW = 50_000
"""Templates from which on an index takes the place of the matrix product."""

_MOST_DIMENSION = 4096
_CODE_BITS = range(256, 513, 64)
_ROUNDING = 1e-5  # products in float32 that differ by less are told apart in float64
_BLOCK = 1 << 23  # products that are held at a time
_MEMORY_FOLDER = Path("/dev/shm")
_FOLDER_NAME = "tenfold-gallery-"
_STALE_SECONDS = 60


# --- protection -----------------------------------------------------------------------------------------------------


def rotation(key: bytes, dimension: int, number: int = 0) -> NDArray[np.float64]:
    """The key's orthogonal matrix Q (d, d) for this dimension; others for further numbers."""
    seed = derive(key, f"rotation/{dimension}/{number}")
    pairs = (dimension * dimension + 1) // 2
    words = np.frombuffer(hashlib.shake_256(seed).digest(16 * pairs), "<u8").reshape(2, pairs)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53  # in (0, 1]
    length, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * math.pi * uniform[1]
    normal = np.concatenate([length * np.cos(angle), length * np.sin(angle)])[: dimension * dimension]
    orthogonal, triangle = np.linalg.qr(normal.reshape(dimension, dimension))
    signed: NDArray[np.float64] = orthogonal * np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return signed


def check_dimension(dimension: object) -> int:
    """A dimension of embeddings as an int; InputError unless it is a whole number from 2 to 4,096."""
    number = _whole(dimension)
    if number is None or not 2 <= number <= _MOST_DIMENSION:
        raise InputError(f"dimension is {dimension!r:.80}; it must be a whole number, 2 to {_MOST_DIMENSION:,}")
    return number


def check_code_bits(code_bits: object) -> int | None:
    """None, or the bits of a code as an int; InputError unless it is 256, 320, 384, 448 or 512."""
    number = _whole(code_bits)
    if code_bits is not None and number not in _CODE_BITS:
        raise InputError(f"code_bits is {code_bits!r:.80}; choose one of {', '.join(map(str, _CODE_BITS))}")
    return number


def _whole(value: object) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def unit_vectors(vectors: ArrayLike, dimension: int) -> NDArray[np.float64]:
    """Embeddings (N, d) scaled to length 1; InputError for another shape, NaN, infinity or a vector of zeros."""
    try:
        array = np.asarray(vectors)
    except ValueError:
        raise InputError("the embeddings are no array: their rows differ in length") from None
    if array.ndim == 1 and len(array) == dimension:
        raise InputError(f"the embeddings have shape {array.shape}; one embedding is a row: v.reshape(1, -1)")
    if array.ndim != 2 or array.shape[1] != dimension:
        raise InputError(
            f"the embeddings have shape {array.shape}, but this gallery's model gives {dimension} numbers each; "
            "embed the pictures with that model, or make a gallery for the other one"
        )
    if array.dtype.kind not in "fiu":
        raise InputError(f"the embeddings hold {array.dtype} values; numbers are needed")
    rows = array.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise InputError(f"embedding {bad[0]} is zero or holds NaN or infinity; leave that picture out")
    units: NDArray[np.float64] = rows / lengths
    return units


@dataclass(frozen=True)
class Protection:
    """How embeddings become templates under a key.

    Attributes:
        key: 32 bytes.
        dimension: Of the embeddings.
        code_bits: None for rotated templates; else 256, 320, 384, 448 or 512: signs only.
    """

    key: bytes = field(repr=False)
    dimension: int
    code_bits: int | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        check_dimension(self.dimension)
        check_code_bits(self.code_bits)

    @cached_property
    def _projection(self) -> NDArray[np.float64]:
        """What vectors are multiplied with: Q (d, d), or W (n, d)."""
        size = self.code_bits or self.dimension
        blocks = [rotation(self.key, self.dimension, number) for number in range(-(-size // self.dimension))]
        stacked: NDArray[np.float64] = np.concatenate(blocks)
        return stacked[:size]

    def templates(self, vectors_Nd: ArrayLike) -> NDArray[np.float32]:
        """Templates (N, n) of length 1 of embeddings; InputError as for `unit_vectors`."""
        projected = unit_vectors(vectors_Nd, self.dimension) @ self._projection.T
        return np.asarray(projected, np.float32) if self.code_bits is None else self._code(projected >= 0)

    def _code(self, bits_Nn: NDArray[np.bool_]) -> NDArray[np.float32]:
        level = np.float32((self.code_bits or 1) ** -0.5)
        return np.where(bits_Nn, level, -level)

    def vectors(self, templates_Nn: NDArray[np.float32]) -> NDArray[np.float64]:
        """The embeddings (N, d) behind rotated templates, which whoever has the key can compute; not so for codes."""
        if self.code_bits is not None:
            raise InputError("codes keep signs only, so the embeddings behind them cannot be computed; embed again")
        return np.asarray(templates_Nn, np.float64) @ self._projection

    def scores(self, products: ArrayLike) -> NDArray[np.float64]:
        """Cosines of embeddings from inner products of their templates: the same, or for codes an estimate."""
        values = np.asarray(products, np.float64)
        if self.code_bits is None:
            return values
        differing = np.rint(self.code_bits * (1 - values) / 2)
        return np.asarray(np.cos(math.pi * differing / self.code_bits))

    @property
    def template_bytes(self) -> int:
        """Bytes that a template takes in a file: 4 d, or n / 8."""
        return 4 * self.dimension if self.code_bits is None else self.code_bits // 8

    def to_bytes(self, templates_Nn: NDArray[np.float32]) -> bytes:
        """Templates as a file keeps them: little-endian float32, or bits."""
        if self.code_bits is None:
            return templates_Nn.astype("<f4").tobytes()
        return np.packbits(templates_Nn > 0, axis=1).tobytes()

    def from_bytes(self, data: bytes) -> NDArray[np.float32]:
        """Templates (N, n) from what `to_bytes` gave; ValueError for anything else."""
        if self.code_bits is not None:
            bits = np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, self.code_bits // 8), axis=1)
            return self._code(bits > 0)
        rows = np.frombuffer(data, "<f4").reshape(-1, self.dimension).astype(np.float32)
        if not np.all(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) < 1e-3):
            raise ValueError("a template is not of length 1")
        return rows


# --- the nearest of many --------------------------------------------------------------------------------------------


class Ranked(NamedTuple):
    """The nearest people to a probe, best first.

    Attributes:
        people: Their numbers, int64 (k,), or fewer where there are fewer people.
        products: For each the largest inner product of the probe with one of its templates, float64 (k,).
    """

    people: NDArray[np.int64]
    products: NDArray[np.float64]


class Finder:
    """Finds the nearest people. Safe from any number of threads.

    Below `exact_below` templates by a matrix product, from there on by an index of `tenfold.search`, which is built in
    a private folder at the first question, read into memory, and removed from disk before that question is answered.
    Either way people are chosen and scored in float64, so that both give the same answer. Ties go to the lower number.
    """

    def __init__(self, people: Sequence[NDArray[np.float32]], numbers: int, exact_below: int = EXACT_BELOW) -> None:
        """`people`: the templates (T, n) of each, T >= 1; `numbers`: n."""
        counts = np.array([len(templates) for templates in people], np.int64)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self._owners = np.repeat(np.arange(len(people)), counts)
        self._rows_Mn = np.concatenate([np.zeros((0, numbers), np.float32), *people])
        self._exact_below = exact_below
        self._index: Index | None = None
        self._building = threading.Lock()

    @property
    def uses_index(self) -> bool:
        """Whether there are too many templates for a matrix product."""
        return len(self._rows_Mn) >= self._exact_below

    def nearest(self, probes_Nn: NDArray[np.float32], k: int, recall: float = 1.0) -> list[Ranked]:
        """The k nearest people of each probe.

        Args:
            probes_Nn: Templates of the probes.
            k: People per probe.
            recall: Share of the nearest templates that an index is to find; 1.0 looks at all of them.
        """
        k = min(k, len(self._starts))
        if k == 0:
            return [Ranked(np.zeros(0, np.int64), np.zeros(0))] * len(probes_Nn)
        candidates = self._by_index(probes_Nn, k, recall) if self.uses_index else self._by_product(probes_Nn, k)
        return [self._rank(probe, people, k) for probe, people in zip(probes_Nn, candidates, strict=True)]

    def _rank(self, probe: NDArray[np.float32], people: NDArray[np.int64], k: int) -> Ranked:
        """The k best of some people, by products in float64 that do not depend on who else is among them."""
        lengths = self._ends[people] - self._starts[people]
        firsts = np.cumsum(lengths) - lengths
        rows = np.arange(lengths.sum()) + np.repeat(self._starts[people] - firsts, lengths)
        products = (self._rows_Mn[rows].astype(np.float64) * probe.astype(np.float64)).sum(axis=1)
        best = np.maximum.reduceat(products, firsts)
        order = np.lexsort((people, -best))[:k]
        return Ranked(people[order], best[order])

    def _by_product(self, probes_Nn: NDArray[np.float32], k: int) -> Iterator[NDArray[np.int64]]:
        step = max(1, _BLOCK // len(self._rows_Mn))
        for first in range(0, len(probes_Nn), step):
            products = probes_Nn[first : first + step] @ self._rows_Mn.T
            best_NP = np.maximum.reduceat(products, self._starts, axis=1)
            for best in best_NP:
                yield np.flatnonzero(best >= _kth_largest(best, k) - _ROUNDING)

    def _by_index(self, probes_Nn: NDArray[np.float32], k: int, recall: float) -> list[NDArray[np.int64]]:
        index, most = self._open_index(), len(self._rows_Mn)
        found = [np.zeros(0, np.int64)] * len(probes_Nn)
        left = np.arange(len(probes_Nn))
        wanted = k * -(-most // len(self._starts)) + 16
        while len(left):
            wanted = min(wanted, most)
            distances, rows = index.search(probes_Nn[left], wanted, recall=recall)
            undecided = []
            for probe, near, named in zip(left, distances, rows, strict=True):
                products, owners = -near[named >= 0], self._owners[named[named >= 0]]
                people, firsts = np.unique(owners, return_index=True)  # the first row of a person is its best
                best = products[firsts]
                limit = _kth_largest(best, k) - _ROUNDING if len(best) >= k else -math.inf
                found[probe] = people[best >= limit]
                if wanted < most and not (len(products) and products[-1] < limit):
                    undecided.append(probe)  # rows that were not returned may belong to one of the k nearest
            left, wanted = np.array(undecided, np.int64), 2 * wanted
        return found

    def _open_index(self) -> "Index":
        from tenfold.search import Index  # noqa: PLC0415 - small galleries need none of it

        with self._building:
            if self._index is None:
                with _private_folder(4 * self._rows_Mn.nbytes) as folder:
                    Index.build(self._rows_Mn, folder / "index", metric="ip")
                    self._index = Index.open(folder / "index", io="memory")
            return self._index


def _kth_largest(values: NDArray[np.float32], k: int) -> float:
    return float(np.partition(values, len(values) - k)[len(values) - k])


@contextmanager
def _private_folder(room: int) -> Iterator[Path]:
    """A folder that only this user can enter, in memory where it has `room` bytes, removed after use.

    What a killed process left is removed by the next one that comes here.
    """
    parent = _MEMORY_FOLDER if _free_bytes(_MEMORY_FOLDER) >= room else Path(tempfile.gettempdir())
    for left in parent.glob(f"{_FOLDER_NAME}*"):
        _remove_if_left(left)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER_NAME, dir=parent))  # mode 0700
    except OSError as error:
        raise InputError(f"{parent}: {error.strerror}; set TMPDIR to a folder for temporary files") from None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.W_OK | os.X_OK) else 0
    except OSError:
        return 0


def _remove_if_left(folder: Path) -> None:
    """Remove a private folder of this user that no living process holds."""
    with suppress(OSError):
        status = folder.lstat()
        if status.st_uid != os.getuid() or time.time() - status.st_mtime < _STALE_SECONDS:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)

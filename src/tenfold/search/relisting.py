"""Lists of a build that takes over those of an index which holds most of its rows: split and merged by LIRE.

Where rows have come and gone, lists that grew too long are split, lists of which hardly any row is left are dissolved,
and only rows that one of these changes may concern look for another list (SPFresh, SOSP 2023, section 3.3).

n rows of the build · L lists of the index before · K lists now · D dimension of search space
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tenfold.search import _native
from tenfold.search.clustering import NEIGHBOURS, Tree, grow_tree, with_graph
from tenfold.search.manifest import read_manifest
from tenfold.search.settings import BuildConfig
from tenfold.search.space import Space
from tenfold.search.storage import as_bytes

if TYPE_CHECKING:
    from tenfold.search.index import Index

__all__ = ["Heritage", "relist"]

_LONGEST = 2.0  # times the mean length that is wanted
_SHORTEST = 0.25
_NO_LIST = 0xFFFFFFFF

Blocks = Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Heritage:
    """An index whose lists and codec a build takes over, and the rows of the build that are in it.

    Attributes:
        index: The index.
        start: Which row of the build is the first of them; the others follow.
        alive: Which rows of the index they are, by position, (rows of the index,) bool.
        radius: Of the longest row of the build, where the metric is "ip"; else 0.
    """

    index: "Index"
    start: int
    alive: np.ndarray
    radius: float

    @cached_property
    def rows(self) -> int:
        """How many they are."""
        return int(np.count_nonzero(self.alive))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Of the index."""
        return read_manifest(self.index.path)

    def untrained(self, rows: int) -> int:
        """How many of the build's rows came after the codec was trained; those that have gone since count too."""
        earlier: int = self.manifest.get("untrained_rows", 0)
        return earlier + rows - self.rows

    def suits(self, config: BuildConfig, rows: int) -> bool:
        """Whether the index was built alike, and most of the rows were there when its codec was trained.

        With metric "ip" search space must also have room for the longest row. And lists must not have become so short
        that there are more than twice as many as a build of its own would make.
        """
        built = {"second_lists": False} | self.manifest  # which indexes of before do not say
        alike = all(built.get(name) == value for name, value in asdict(config).items())
        lists = max(1, rows // config.rows_per_list)
        return (
            alike
            and 2 * self.untrained(rows) < rows
            and self.index.lists <= 2 * lists
            and self.radius <= self.manifest["radius"]
        )

    def fingerprint(self) -> list[Any]:
        """What tells one heritage from another."""
        return [self.index.path.name, self.manifest["files"], self.start, _native.crc32c(as_bytes(self.alive))]

    def former_lists(self, out: np.ndarray, blocks: Blocks, threads: int) -> np.ndarray:
        """The list of the index that each row (n,) is in, or would be in; and their sizes, (L,) int64."""
        index, sizes, row = self.index, np.zeros(self.index.lists, np.int64), self.start
        for number, (first, stop) in enumerate(pairwise(index.list_starts().tolist())):
            sizes[number] = np.count_nonzero(self.alive[first:stop])
            out[row : row + sizes[number]] = number
            row += int(sizes[number])
        at = 0
        for block in blocks():
            which = np.arange(at, at + len(block))
            others = (which < self.start) | (which >= self.start + self.rows)
            if others.any():
                found = index.engine.route(index.space.rows(block[others], threads), 1, threads)[1][:, 0]
                out[which[others]] = found
                sizes += np.bincount(found, minlength=index.lists)
            at += len(block)
        return sizes


@dataclass(frozen=True)
class _Succession:
    """What becomes of the lists before: l is now the lists begin[l] .. end[l].

    Attributes:
        begin: (L,) uint32.
        end: (L,) uint32.
        former: Their centroids, (L, D) float32.
        dissolved: Which are gone, (L,) uint8; begin and end are those of a list nearby.
        centroids: Of the lists now, (K, D) float32.
        fresh: Which of those come of a split, (K,) uint8.
    """

    begin: np.ndarray
    end: np.ndarray
    former: np.ndarray
    dissolved: np.ndarray
    centroids: np.ndarray
    fresh: np.ndarray


def relist(
    heritage: Heritage, blocks: Blocks, own: np.ndarray, length: float, most_rows: int, seed: int, threads: int
) -> Tree:
    """Bring the lists of an index up to date, and find each row's; the tree has no nodes.

    Args:
        heritage: The index.
        blocks: Reads the rows of the build, in order; it is called up to three times.
        own: The list of each row, (n,) uint32, is written here.
        length: Mean rows per list that is wanted.
        most_rows: About so many rows at most are held to split lists, a random share of theirs.
        seed: Of the splits.
        threads: Used.
    """
    space = heritage.index.space
    sizes = heritage.former_lists(own, blocks, threads)
    parts = np.where(sizes > _LONGEST * length, np.round(sizes / length), 1).astype(np.int64)
    share = most_rows / max(most_rows, sizes[parts > 1].sum())
    founded = _split(blocks, own, parts, share, space, seed, threads)
    dissolved = sizes < _SHORTEST * length
    dissolved[sizes.argmax()] = False
    change = _succeed(heritage.index, founded, dissolved)
    none = np.zeros(0, np.uint32)
    tree = with_graph(change.centroids[:0], none, none, none, change.centroids, threads)
    row = 0
    for block in blocks():
        part = slice(row, row + len(block))
        own[part] = _native.relist(
            space.rows(block, threads), np.array(own[part]), change.begin, change.end, change.former, change.dissolved,
            change.centroids, tree.neighbours, change.fresh, threads,
        )  # fmt: skip
        row += len(block)
    return tree


def _succeed(index: "Index", founded: dict[int, np.ndarray], dissolved: np.ndarray) -> _Succession:
    """The lists now: those of before in their order, parts in the place of what was split."""
    former = index.centroids()[0]
    counts = np.where(dissolved, 0, 1)
    for number, some in founded.items():
        counts[number] = len(some)
    end = np.cumsum(counts)
    begin = end - counts
    centroids, fresh = np.empty((end[-1], former.shape[1]), np.float32), np.ones(end[-1], np.uint8)
    kept = np.flatnonzero(counts == 1)
    centroids[begin[kept]], fresh[begin[kept]] = former[kept], 0
    for number, some in founded.items():
        centroids[begin[number] : end[number]] = some
    heirs = _nearest_left(index, counts > 0, np.flatnonzero(dissolved))
    begin[dissolved], end[dissolved] = begin[heirs], end[heirs]
    return _Succession(
        begin.astype(np.uint32), end.astype(np.uint32), former, dissolved.astype(np.uint8), centroids, fresh
    )


def _split(
    blocks: Blocks, own: np.ndarray, parts: np.ndarray, share: float, space: Space, seed: int, threads: int
) -> dict[int, np.ndarray]:
    """Centroids of the parts of every list that is to have several, and can, by a share of its rows."""
    if not (parts > 1).any():
        return {}
    members, rows = _drawn(blocks, own, parts > 1, share, space, seed, threads)
    order = np.argsort(members, kind="stable")
    numbers, firsts = np.unique(members[order], return_index=True)
    founded = {}
    for number, some in zip(numbers.tolist(), np.split(order, firsts)[1:], strict=True):
        centroids = grow_tree(rows[some], int(parts[number]), seed, threads).centroids
        if len(centroids) > 1:
            founded[number] = centroids
    return founded


def _drawn(
    blocks: Blocks, own: np.ndarray, wanted: np.ndarray, share: float, space: Space, seed: int, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """A random share of the rows of the wanted lists (L,) bool: their lists (s,) uint32, and they, (s, D) float32."""
    rng = np.random.default_rng(seed)
    lists, rows, row = [], [], 0
    for block in blocks():
        mine = np.asarray(own[row : row + len(block)])
        chosen = wanted[mine] & (rng.random(len(block)) < share)
        lists.append(mine[chosen])
        rows.append(space.rows(block[chosen], threads))
        row += len(block)
    return np.concatenate(lists), np.concatenate(rows)


def _nearest_left(index: "Index", left: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """For each list of some that are gone, a near one that is left: a row goes on from there."""
    if len(gone) == 0:
        return gone
    near = index.engine.route(np.ascontiguousarray(index.centroids()[0][gone]), min(NEIGHBOURS, index.lists), 1)[1]
    fits = (near != _NO_LIST) & left[np.minimum(near, index.lists - 1)]
    anyone = int(left.argmax())
    return np.where(fits.any(axis=1), near[np.arange(len(gone)), fits.argmax(axis=1)], anyone).astype(np.int64)

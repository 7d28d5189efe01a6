"""Pairs of faces and their scores: which there are, how alike they are, who is in them.

N faces · d dimension · P pairs · K people
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError

__all__ = ["Comparisons", "all_pairs", "compare", "cosine_scores"]

MANY = 1_000_000  # pairs; more say little more about a few thousand people
_BLOCK = 1 << 22  # numbers that one block of a computation holds


class Comparisons(NamedTuple):
    """Scored pairs, as `verification`, `ten_fold`, `by_group` and `calibrate` take them.

    Attributes:
        scores: (P,) float64; greater is more alike.
        same: (P,) bool; whether both faces are of one person.
        people: (P, 2) int64; who is on the two faces, the unit of the intervals.
    """

    scores: NDArray[np.float64]
    same: NDArray[np.bool_]
    people: NDArray[np.int64]


def compare(vectors_Nd: ArrayLike, labels: ArrayLike, limit: int = MANY, seed: int = 0) -> Comparisons:
    """Score the pairs that `all_pairs` picks from labelled faces.

    Args:
        vectors_Nd: (N, d) embeddings, of any length but 0.
        labels: (N,) int64, the person of each face.
        limit: The most pairs.
        seed: Of the sample, where there are more.
    """
    labels = check_labels(labels, len(np.asarray(vectors_Nd)))
    first, second = all_pairs(labels, limit, seed)
    people = np.stack([labels[first], labels[second]], axis=1)
    return Comparisons(cosine_scores(vectors_Nd, first, second), people[:, 0] == people[:, 1], people)


def cosine_scores(vectors_Nd: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Cosines (P,) float64, in -1 to 1, of the faces `first` (P,) with the faces `second` (P,), block by block."""
    units = unit_vectors(vectors_Nd)
    left, right = np.asarray(first, np.int64), np.asarray(second, np.int64)
    if left.shape != right.shape or left.ndim != 1:
        raise InputError(f"pairs of shapes {left.shape} and {right.shape}: give two lists of the same length")
    if left.size and (min(left.min(), right.min()) < 0 or max(left.max(), right.max()) >= len(units)):
        raise InputError(f"a pair names a face that is not among the {len(units)}; count from 0")
    scores = np.empty(len(left), np.float64)
    if 8 * len(left) > len(units) ** 2:  # then one product of matrices is quicker, though it makes pairs nobody wants
        order = np.argsort(left, kind="stable")
        step = max(1, _BLOCK // len(units))
        for first in range(0, len(units), step):
            pairs = order[slice(*np.searchsorted(left[order], (first, first + step)))]
            scores[pairs] = (units[first : first + step] @ units.T)[left[pairs] - first, right[pairs]]
    else:
        step = max(1, _BLOCK // units.shape[1])
        for start in range(0, len(left), step):
            part = slice(start, start + step)
            scores[part] = np.einsum("pd,pd->p", units[left[part]], units[right[part]])
    return np.clip(scores, -1, 1, out=scores)


def all_pairs(labels: ArrayLike, limit: int = MANY, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pair of faces once, or a random sample of `limit` of them.

    The sample keeps all pairs of one person as long as they are at most half of it; error rates are per kind of
    pair, so the mixture does not matter to them.

    Args:
        labels: (N,) int64, the person of each face.
        limit: The most pairs.
        seed: Of the sample.

    Returns:
        Two (P,) int64, the faces of each pair, the lesser number first, in ascending order.
    """
    people = np.unique(check_labels(labels), return_inverse=True)[1].astype(np.int64)
    if limit < 2:
        raise InputError(f"limit is {limit}; at least 2 pairs are needed")
    count = len(people)
    if count * (count - 1) // 2 <= limit:
        first, second = np.triu_indices(count, 1)
        return first.astype(np.int64), second.astype(np.int64)
    random = np.random.default_rng(seed)
    sizes = np.bincount(people)
    genuine = int((sizes * (sizes - 1) // 2).sum())
    impostor = count * (count - 1) // 2 - genuine
    wanted = max(min(genuine, limit // 2), limit - impostor)
    keys = np.concatenate([_genuine(people, wanted, random), _impostor(people, impostor, limit - wanted, random)])
    keys.sort()
    return keys // count, keys % count


def _genuine(people: NDArray[np.int64], wanted: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`wanted` pairs of one person each, as first * N + second, found by their place in a list that is never made."""
    order = np.argsort(people, kind="stable").astype(np.int64)
    sizes = np.bincount(people)
    ends = np.cumsum(sizes * (sizes - 1) // 2)
    places = np.arange(ends[-1]) if wanted == ends[-1] else _distinct(int(ends[-1]), wanted, random)
    person = np.searchsorted(ends, places, side="right")
    within = places - (ends[person] - sizes[person] * (sizes[person] - 1) // 2)
    # The pairs of a person in the order (0, 1), (0, 2), (1, 2), (0, 3), ...: pair (i, j) has place j (j - 1) / 2 + i.
    upper = ((1 + np.sqrt(1 + 8 * within.astype(np.float64))) / 2).astype(np.int64)
    upper -= within < upper * (upper - 1) // 2  # a square root that was rounded up
    upper += within >= upper * (upper + 1) // 2
    start = (np.cumsum(sizes) - sizes)[person]
    first: NDArray[np.int64] = order[start + within - upper * (upper - 1) // 2]
    second: NDArray[np.int64] = order[start + upper]
    return first * len(people) + second


def _impostor(people: NDArray[np.int64], total: int, wanted: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`wanted` of the `total` pairs of different people, as first * N + second."""
    count = len(people)
    keys = np.empty(0, np.int64)
    if total <= 2 * wanted:  # drawing at random would take long to find the last ones
        rows = (row * count + row + 1 + np.flatnonzero(people[row + 1 :] != people[row]) for row in range(count))
        keys = np.concatenate(list(rows))
        return random.choice(keys, wanted, replace=False)
    while len(keys) < wanted:
        first, second = random.integers(count, size=(2, 2 * (wanted - len(keys)) + 16))
        fresh = np.minimum(first, second) * count + np.maximum(first, second)
        keys = np.unique(np.concatenate([keys, fresh[people[first] != people[second]]]))
    return random.choice(keys, wanted, replace=False)


def _distinct(total: int, wanted: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`wanted` different numbers below `total`, ascending."""
    drawn = np.arange(total if total <= 2 * wanted else 0, dtype=np.int64)
    while len(drawn) < wanted:
        drawn = np.unique(np.concatenate([drawn, random.integers(total, size=2 * (wanted - len(drawn)))]))
    chosen: NDArray[np.int64] = random.choice(drawn, wanted, replace=False)
    return np.sort(chosen)


# --- checks that the other measures share ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Checked pairs with people numbered 0 to K - 1; `second` is None where each pair is a unit of its own."""

    scores: NDArray[np.float64]
    same: NDArray[np.bool_]
    first: NDArray[np.int64]
    second: NDArray[np.int64] | None
    people: int


def check_pairs(scores: ArrayLike, same: ArrayLike, people: ArrayLike | None) -> Pairs:
    """Turn what a caller gives into `Pairs`, or say in one line what is wrong with it."""
    values, kinds = check_scores(scores), np.asarray(same)
    if kinds.shape != values.shape or not (kinds.dtype == bool or np.isin(kinds, (0, 1)).all()):
        raise InputError(
            f"same is {kinds.dtype} of shape {kinds.shape}; give {len(values)} truth values, one per score"
        )
    kinds = kinds.astype(bool)
    if people is None:
        return Pairs(values, kinds, np.arange(len(values)), None, len(values))
    both = check_people(people, len(values))
    if wrong := np.flatnonzero((both[:, 0] == both[:, 1]) != kinds)[:1].tolist():
        one, other = both[wrong[0]]
        raise InputError(f"pair {wrong[0]} is of people {one} and {other}, but same says {kinds[wrong[0]]}")
    names, numbers = np.unique(both, return_inverse=True)
    numbers = numbers.reshape(both.shape)
    return Pairs(values, kinds, numbers[:, 0], numbers[:, 1], len(names))


def check_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """(P,) finite float64, at least one."""
    try:
        values = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise InputError("scores are not all numbers; give one per pair") from None
    if values.ndim != 1 or not len(values):
        raise InputError(f"scores have shape {values.shape}; give a list of at least one, one per pair")
    if not np.isfinite(values).all():
        raise InputError(f"score {np.flatnonzero(~np.isfinite(values))[0]} is not finite; leave its pair out")
    return values


def check_people(people: ArrayLike, pairs: int) -> NDArray[np.int64]:
    """(P, 2) int64."""
    both = np.asarray(people)
    if both.shape != (pairs, 2) or both.dtype.kind not in "iu":
        raise InputError(
            f"people are {both.dtype} of shape {both.shape}; give two whole numbers for each of {pairs} pairs"
        )
    return both.astype(np.int64)


def check_labels(labels: ArrayLike, faces: int | None = None) -> NDArray[np.int64]:
    """(N,) int64, none negative; renumbering is left to the caller."""
    values = np.asarray(labels)
    if values.ndim != 1 or values.dtype.kind not in "iu" or (faces is not None and len(values) != faces):
        wanted = "one whole number per face" if faces is None else f"one whole number for each of {faces} faces"
        raise InputError(f"labels are {values.dtype} of shape {values.shape}; give {wanted}")
    if len(values) and values.min() < 0:
        raise InputError(f"label {values.min()} is negative; leave faces without a person out")
    return values.astype(np.int64)


def unit_vectors(vectors_Nd: ArrayLike, name: str = "vectors") -> NDArray[np.floating]:
    """(N, d) of length 1; float32 unless float64 was given."""
    vectors = np.asarray(vectors_Nd)
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind not in "fiu":
        raise InputError(f"{name} are {vectors.dtype} of shape {vectors.shape}; give one row of numbers per face")
    vectors = vectors.astype(np.float64 if vectors.dtype == np.float64 else np.float32, copy=False)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if wrong := np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))[:1].tolist():
        raise InputError(f"{name}: row {wrong[0]} is zero or not finite; leave that face out")
    return np.asarray(vectors / lengths)

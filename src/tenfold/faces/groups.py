"""Error rates by group at one shared threshold: who is refused or taken for somebody else more often than others?

Attributes come from the user's own file and are used for nothing but this audit; nothing here guesses them.

P pairs · K people of a group
"""

import csv
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import Pairs, check_pairs
from tenfold.faces.resampling import REPLICATES, Estimate, error_rate

__all__ = ["GroupRates", "by_group", "read_groups"]

_LONGEST = 1 << 24  # bytes of a file of attributes


@dataclass(frozen=True)
class GroupRates:
    """The errors of a group at the shared threshold.

    Attributes:
        group: Its name; "all" for everybody, pairs across groups included.
        fmr: False match rate: the share of the group's impostor pairs, both people of it, that are accepted.
        fnmr: False non-match rate: the share of its genuine pairs that are refused.
        people: In its pairs.
        impostor: Its impostor pairs.
        genuine: Its genuine pairs.
    """

    group: str
    fmr: Estimate
    fnmr: Estimate
    people: int
    impostor: int
    genuine: int


def by_group(
    scores: ArrayLike,
    same: ArrayLike,
    people: ArrayLike,
    groups: Mapping[int, str],
    threshold: float,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[GroupRates]:
    """FMR and FNMR of everybody, then of each group in alphabetical order, with 95 % intervals over its people.

    Where no error was seen in a group of n people, the intervals still reach as far as `no_error_bound` of n people (of
    n / 2 pairs without a common person for FMR): three people without an error say next to nothing, and it shows.

    Args:
        scores: (P,) finite.
        same: (P,) bool.
        people: (P, 2) integers.
        groups: The group of a person; people without one count under "all" only.
        threshold: Scores of at least this are accepted.
        replicates: Resamples of each group's people.
        seed: Of the resampling.
    """
    if not math.isfinite(threshold):
        raise InputError(f"threshold is {threshold}; give a finite score")
    pairs = check_pairs(scores, same, people)
    both = np.asarray(people, np.int64)
    names, numbers = np.unique(both, return_inverse=True)
    own = np.array([groups.get(int(name), "") for name in names])[numbers].reshape(both.shape)
    if not own.astype(bool).any():
        raise InputError("none of the people in the pairs has a group; are groups keyed by the labels of the pairs?")
    wrong = np.where(pairs.same, pairs.scores < threshold, pairs.scores >= threshold)
    rows = [_rates("all", pairs, wrong, np.ones(len(both), bool), replicates, seed)]
    for group in np.unique(own[own != ""]).tolist():
        rows.append(_rates(group, pairs, wrong, (own == group).all(axis=1), replicates, seed))
    return rows


def _rates(
    group: str, pairs: Pairs, wrong: NDArray[np.bool_], chosen: NDArray[np.bool_], replicates: int, seed: int
) -> GroupRates:
    second = pairs.first if pairs.second is None else pairs.second
    genuine, impostor = chosen & pairs.same, chosen & ~pairs.same
    return GroupRates(
        group=group,
        fmr=error_rate(wrong[impostor], pairs.first[impostor], second[impostor], replicates, seed),
        fnmr=error_rate(wrong[genuine], pairs.first[genuine], second[genuine], replicates, seed),
        people=len(np.unique([pairs.first[chosen], second[chosen]])),
        impostor=int(impostor.sum()),
        genuine=int(genuine.sum()),
    )


def read_groups(path: Path | str, column: str, people: Sequence[str], key: str = "person") -> dict[int, str]:
    """The groups of an audit, from a CSV file with a header and a row per person.

    Args:
        path: UTF-8, comma-separated.
        column: The attribute, as the header calls it; people with an empty cell get no group.
        people: The names by label, as `FaceSet.people`; rows of others are left aside.
        key: The column with the names.

    Returns:
        Group by label, for `by_group`.

    Raises:
        InputError: The file cannot be read, lacks a column, names a person twice, or none of the people.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LONGEST:
            raise InputError(f"{path}: is larger than {_LONGEST >> 20} MB; is it a list of people?")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or [])
            if missing := [name for name in (key, column) if name not in header]:
                raise InputError(
                    f"{path}: has no column {missing[0]!r}, only {', '.join(header)[:200]}; name one of them"
                )
            rows = [(_plain(row[key] or ""), (row[column] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error}); check it") from None
    values: dict[str, str] = {}
    for number, (name, value) in enumerate(rows, 2):
        if values.setdefault(name, value) != value or len(values) != number - 1:
            raise InputError(f"{path}: names {name!r} again in row {number}; one row per person")
    groups = {label: value for label, name in enumerate(people) if (value := values.get(_plain(name)))}
    if not groups:
        raise InputError(
            f"{path}: gives no {column} of any of the {len(people)} people; do its names agree with theirs?"
        )
    return groups


def _plain(name: str) -> str:
    """A name as it is compared: composed (NFC), without blanks at its ends."""
    return unicodedata.normalize("NFC", name).strip()

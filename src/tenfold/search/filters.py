"""Filters: which rows a search may find, said in terms of their columns.

    {"lang": "de"}                                     equal
    {"year": {"$gte": 2020, "$lt": 2024}}              $eq $ne $gt $gte $lt $lte $in $nin $exists
    {"$or": [{"lang": "de"}, {"$not": {"paid": True}}]}  $and $or $not; several entries mean $and

A comparison holds only for rows that have a value; `$not`, `$ne` and `$nin` also for rows that have none. A filter is
read once into a tree of typed terms, which is evaluated on whole columns.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.columns import Column, Columns, check_value

__all__ = ["Filter", "parse_filter"]

_MOST_DEPTH, _MOST_TERMS = 32, 4096
_RANGES = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS = ("$eq", "$ne", *_RANGES, "$in", "$nin", "$exists")

Mask = Callable[[Mapping[str, Column], int], np.ndarray]
"""From the columns of so many rows to those that match, (rows,) bool."""


@dataclass(frozen=True)
class Filter:
    """A filter that fits the columns of its index.

    Attributes:
        text: The same for filters that are written alike.
        mask: Its evaluation.
    """

    text: str
    mask: Mask


def parse_filter(content: Any, columns: Columns) -> Filter:
    """Read a filter; InputError where it is none, names other columns, or compares with values of another type."""
    left = [_MOST_TERMS]
    mask = _parse(content, columns, 0, left)
    return Filter(json.dumps(content, sort_keys=True, default=_exactly), mask)


def _exactly(value: Any) -> Any:
    """A NumPy number as Python's of the same value: as texts, 0.1 of 16 bits and of 32 are alike."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _parse(content: Any, columns: Columns, depth: int, left: list[int]) -> Mask:
    if depth > _MOST_DEPTH:
        raise InputError(f"the filter is nested more than {_MOST_DEPTH} deep; write it flatter")
    if not isinstance(content, Mapping):
        raise InputError(f"a filter is an object such as {{'lang': 'de'}}, not {_short(content)}")
    terms = []
    for name, wanted in content.items():
        _count(left, 1)
        if name in ("$and", "$or"):
            if not isinstance(wanted, list | tuple) or not wanted:
                raise InputError(f"{name} takes a list of filters, not {_short(wanted)}")
            some = [_parse(one, columns, depth + 1, left) for one in wanted]
            terms.append(_all(some) if name == "$and" else _any(some))
        elif name == "$not":
            terms.append(_not(_parse(wanted, columns, depth + 1, left)))
        elif isinstance(name, str) and name.startswith("$"):
            raise InputError(f"there is no {name}; a filter has $and, $or, $not, and names of columns")
        else:
            conditions = wanted if isinstance(wanted, Mapping) else {"$eq": wanted}
            if not conditions:
                raise InputError(f"column {name}: its condition is empty; give one of {', '.join(_OPERATORS)}")
            terms += [_compare(name, operator, value, columns, left) for operator, value in conditions.items()]
    return _all(terms)


def _compare(name: str, operator: str, value: Any, columns: Columns, left: list[int]) -> Mask:
    if operator not in _OPERATORS:
        raise InputError(f"column {name}: there is no {operator}; choose {', '.join(_OPERATORS)}")
    if name not in columns:
        check_value(columns, name, value)  # says which there are
    if operator in _RANGES and columns[name] in ("category", "bool"):
        raise InputError(f"column {name} holds {columns[name]}, which {operator} cannot order; use $eq or $in")
    if operator == "$exists":
        if type(value) is not bool:
            raise InputError(f"column {name}: $exists takes true or false, not {_short(value)}")
        known = _rows(name, lambda column: column.order)
        return known if value else _not(known)
    if operator in ("$in", "$nin"):
        if not isinstance(value, list | tuple | set):
            raise InputError(f"column {name}: {operator} takes a list of values, not {_short(value)}")
        _count(left, len(value))
        values = [check_value(columns, name, one) for one in value]
        among = _rows(name, *(_equal(one) for one in values))
        return among if operator == "$in" else _not(among)
    fixed = _bound(columns, name, value) if operator in _RANGES else check_value(columns, name, value)
    match operator:
        case "$gt" | "$gte":
            return _rows(name, lambda column: column.above(fixed, inclusive=operator == "$gte"))
        case "$lt" | "$lte":
            return _rows(name, lambda column: column.below(fixed, inclusive=operator == "$lte"))
        case "$ne":
            return _not(_rows(name, _equal(fixed)))
    return _rows(name, _equal(fixed))


def _bound(columns: Columns, name: str, value: Any) -> Any:
    """A limit of whole numbers may be a fraction."""
    if columns[name] == "int" and isinstance(value, float):
        return check_value({name: "float"}, name, value)
    return check_value(columns, name, value)


def _equal(value: Any) -> Callable[[Column], np.ndarray]:
    return lambda column: column.equal(value)


def _rows(name: str, *chosen: Callable[[Column], np.ndarray]) -> Mask:
    """The rows that any of some choices of a column gives."""

    def mask(columns: Mapping[str, Column], rows: int) -> np.ndarray:
        found = np.zeros(rows, bool)
        for choose in chosen:
            found[choose(columns[name])] = True
        return found

    return mask


def _all(masks: list[Mask]) -> Mask:
    def mask(columns: Mapping[str, Column], rows: int) -> np.ndarray:
        found = np.ones(rows, bool)
        for one in masks:
            found &= one(columns, rows)
        return found

    return mask


def _any(masks: list[Mask]) -> Mask:
    def mask(columns: Mapping[str, Column], rows: int) -> np.ndarray:
        found = np.zeros(rows, bool)
        for one in masks:
            found |= one(columns, rows)
        return found

    return mask


def _not(negated: Mask) -> Mask:
    return lambda columns, rows: ~negated(columns, rows)


def _count(left: list[int], terms: int) -> None:
    left[0] -= terms
    if left[0] < 0:
        raise InputError(f"the filter has more than {_MOST_TERMS:,} terms; ask for fewer values")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

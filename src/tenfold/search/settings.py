"""The settings of a build: what decides the content of an index besides its vectors, chosen where it was left open."""

import operator
from dataclasses import dataclass, replace
from typing import Any, get_args

from tenfold.core.errors import InputError
from tenfold.search.codec import CodecKind
from tenfold.search.exact import check_count
from tenfold.search.formats.source import VectorSource
from tenfold.search.memory import fitting_code_bytes, parse_size
from tenfold.search.space import Dtype, Metric

__all__ = ["MOST_COPIES", "BuildConfig", "build_arguments", "check_source", "choose_config"]

MOST_COPIES = 8  # of a row in lists, its own included

_MOST_CODE_BYTES = 1 << 14
_LONG_VECTORS = 256  # from this dimension on RaBitQ's codes are the better ones
_MOST_ROWS = 0xFFFFFFFE


@dataclass(frozen=True)
class BuildConfig:
    """What decides the content of an index, apart from the vectors.

    `rows_per_list` sets the number of lists; `replicas` is the most copies of a code in further lists,
    made where a row is at most 1 + `epsilon` times as far from that list's centroid as from its own
    (paper, eq. 2) and SPANN's RNG rule allows it. With `second_lists` every row has one copy instead,
    chosen by SOAR.
    """

    metric: Metric = "l2"
    codec: CodecKind = "pq"
    code_bytes: int = 32
    rows_per_list: int = 128
    replicas: int = MOST_COPIES - 1
    epsilon: float = 0.15
    second_lists: bool = False
    seed: int = 0

    def space_dim(self, source: VectorSource) -> int:
        """D, the dimension of search space."""
        return source.dim + (self.metric == "ip")


def check_source(source: VectorSource) -> None:
    """InputError for vectors that no index takes: their type, or too many."""
    if source.dtype.name not in get_args(Dtype):
        raise InputError(f"{source.name}: holds {source.dtype} values; an index takes {', '.join(get_args(Dtype))}")
    if source.rows > _MOST_ROWS:
        raise InputError(f"{source.name}: has {source.rows:,} rows; one index takes up to {_MOST_ROWS:,}")


def choose_config(
    source: VectorSource,
    budget: int,
    metric: Metric,
    codec: CodecKind | None,
    code_bytes: int | None,
    rows_per_list: int,
    seed: int,
    second_lists: bool = False,
) -> BuildConfig:
    """The settings of a build within `budget` bytes; None leaves a choice to Tenfold.

    Codes get shorter than the default where the index would not fit the budget. Raises InputError for settings out
    of range, and where the budget is too small.
    """
    _check_choices(metric, codec)
    codec = codec or ("rabitq" if source.dim >= _LONG_VECTORS else "pq")
    rows_per_list = check_count("rows_per_list", rows_per_list)
    if code_bytes is None:
        wanted = _default_code_bytes(codec, source.dim)
        fewest = max(1, -(-wanted // (4 if codec == "pq" else 2)))
    else:
        wanted = fewest = check_count("code_bytes", code_bytes, _MOST_CODE_BYTES)
    config = BuildConfig(metric, codec, wanted, rows_per_list, seed=_whole_seed(seed))
    if second_lists:
        config = replace(config, replicas=1, second_lists=True)
    fitting = fitting_code_bytes(
        wanted, fewest, budget, source, config.space_dim(source), rows_per_list, config.second_lists
    )
    if codec == "rabitq" and fitting < wanted:
        fitting = fewest  # one bit for every dimension instead of two, and nothing in between
    return replace(config, code_bytes=fitting)


def build_arguments(
    source: VectorSource,
    memory_budget: str | int,
    metric: Metric,
    codec: CodecKind | None,
    code_bytes: int | None,
    rows_per_list: int,
    seed: int,
    second_lists: bool,
) -> dict[str, Any]:
    """The same as arguments of `Index.build` that JSON can hold, what was left open left open. InputError likewise."""
    budget = parse_size(memory_budget)
    config = choose_config(source, budget, metric, codec, code_bytes, rows_per_list, seed, second_lists)
    return {
        "metric": metric,
        "codec": codec,
        "code_bytes": None if code_bytes is None else config.code_bytes,
        "memory_budget": budget,
        "rows_per_list": config.rows_per_list,
        "second_lists": config.second_lists,
        "seed": config.seed,
    }


def _default_code_bytes(codec: CodecKind, dim: int) -> int:
    quarter = -(-dim // 4)
    return quarter if codec == "rabitq" else min(64, max(16, quarter))


def _whole_seed(seed: object) -> int:
    try:
        whole = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"seed is {seed!r}; it must be a whole number") from None
    if not 0 <= whole < 1 << 64:
        shown = whole if whole.bit_length() < 100 else f"a number of {whole.bit_length():,} bits"
        raise InputError(f"seed is {shown}; it must be from 0 to 2^64 - 1")
    return whole


def _check_choices(metric: object, codec: object) -> None:
    if metric not in get_args(Metric):
        raise InputError(f"metric {metric!r} is not known; choose l2, ip or cosine")
    if codec is not None and codec not in get_args(CodecKind):
        raise InputError(f"codec {codec!r} is not known; choose pq or rabitq")

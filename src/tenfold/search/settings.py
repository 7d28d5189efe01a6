"""The settings of a build: what decides the content of an index besides its vectors, chosen where it was left open."""

import operator
from dataclasses import dataclass, replace

from tenfold.core.errors import InputError
from tenfold.search.codec import CodecKind
from tenfold.search.formats.source import VectorSource
from tenfold.search.memory import fitting_code_bytes
from tenfold.search.space import Metric

__all__ = ["MOST_COPIES", "BuildConfig", "check_source", "choose_config"]

MOST_COPIES = 8  # of a row in lists, its own included

_DTYPES = ("float32", "float16", "uint8", "int8")
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
    if source.dtype.name not in _DTYPES:
        raise InputError(f"{source.name}: holds {source.dtype} values; an index takes {', '.join(_DTYPES)}")
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
    codec = codec or ("rabitq" if source.dim >= _LONG_VECTORS else "pq")
    wanted = code_bytes or _default_code_bytes(codec, source.dim)
    config = BuildConfig(metric, codec, wanted, rows_per_list, seed=_whole_seed(seed))
    if second_lists:
        config = replace(config, replicas=1, second_lists=True)
    _check_config(config)
    fewest = wanted if code_bytes else max(1, -(-wanted // (4 if codec == "pq" else 2)))
    fitting = fitting_code_bytes(
        wanted, fewest, budget, source, config.space_dim(source), rows_per_list, config.second_lists
    )
    if codec == "rabitq" and fitting < wanted:
        fitting = fewest  # one bit for every dimension instead of two, and nothing in between
    return replace(config, code_bytes=fitting)


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


def _check_config(config: BuildConfig) -> None:
    if config.metric not in ("l2", "ip", "cosine"):
        raise InputError(f"metric {config.metric!r} is not known; choose l2, ip or cosine")
    if config.codec not in ("pq", "rabitq"):
        raise InputError(f"codec {config.codec!r} is not known; choose pq or rabitq")
    if not 1 <= config.code_bytes <= 1 << 14:
        raise InputError(f"code_bytes is {config.code_bytes}; it must be 1 to 16,384")
    if config.rows_per_list < 1:
        raise InputError(f"rows_per_list is {config.rows_per_list}; it must be at least 1")

"""Vector search for more vectors than fit in memory (FusionANNS, FAST '25).

Codes, lists and a graph in memory; the vectors themselves on disk, read only to re-rank the few
candidates that may still be among the nearest.
"""

from tenfold.search.client import Client, RemoteIndex
from tenfold.search.data import (
    GroundTruth,
    VectorSource,
    as_source,
    convert,
    open_vectors,
    read_ground_truth,
    write_ground_truth,
)
from tenfold.search.evaluation import Evaluation, evaluate
from tenfold.search.exact import exact_search, recall_at_k
from tenfold.search.index import Index, SearchStats
from tenfold.search.living import LivingIndex
from tenfold.search.planning import IndexPlan, plan_index
from tenfold.search.sharding import ShardedAnswer, ShardedIndex, build_shards

__all__ = [
    "Client",
    "Evaluation",
    "GroundTruth",
    "Index",
    "IndexPlan",
    "LivingIndex",
    "RemoteIndex",
    "SearchStats",
    "ShardedAnswer",
    "ShardedIndex",
    "VectorSource",
    "as_source",
    "build_shards",
    "convert",
    "evaluate",
    "exact_search",
    "open_vectors",
    "plan_index",
    "read_ground_truth",
    "recall_at_k",
    "write_ground_truth",
]

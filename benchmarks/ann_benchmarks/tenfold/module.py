"""Where ann-benchmarks looks for the class."""

from tenfold.search.adapters.ann_benchmarks import Tenfold

__all__ = ["Tenfold"]

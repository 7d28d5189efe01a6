"""The machinery of `benchmarks/search.py`: each library in its own process, all on the same work."""

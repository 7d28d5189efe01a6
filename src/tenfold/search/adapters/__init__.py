"""Tenfold behind interfaces that people use already; each is imported by its own name, none with `tenfold.search`.

| module | for |
|---|---|
| `neighbors` | scikit-learn: a transformer into graphs of nearest neighbours |
| `faiss_like` | code written for faiss |
| `langchain` | LangChain: a vector store, with the documents beside the index (`documents`) |
| `arrow` | Arrow tables, in memory |
| `ann_benchmarks`, `big_ann` | the two benchmarks of those names |
"""

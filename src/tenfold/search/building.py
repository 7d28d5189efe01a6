"""Building an index: six phases over the source, each leaving finished files behind.

    survey   read the source once: check every value, draw the sample
    cluster  k-means tree, navigation graph, axes         -> graph.bin, tree.bin
    train    the codec, on residuals of the sample        -> codebook.bin
    assign   read the source again: nearest list of every row, rows spilled by range of lists
    layout   per range: rows in list order -> vectors.bin; codes of rows and replicas spilled
    pack     per range: codes of each list in blocks of 32 -> codes.bin, lists.bin

Where an index holds most of the rows, one phase takes the place of the first three:

    inherit  its lists, brought up to date, and its codec  -> graph.bin, tree.bin, codebook.bin, own.npy

All of it happens in `INDEX.partial`; a phase that has finished is named in `build.json` there, so a
build that was killed goes on behind it. Only the complete index gets the name INDEX. Memory follows
the budget: whatever grows with the number of rows goes through files in pieces.

n rows of a block · D dimension of search space · M sub-quantisers · L lists
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress
from tenfold.search import _native
from tenfold.search.clustering import Tree, grow_tree
from tenfold.search.codec import (
    BLOCK_ROWS,
    Codec,
    balanced_axes,
    block_bytes,
    open_codec,
    pack_blocks,
    residuals_of,
    train_codec,
)
from tenfold.search.exact import check_lengths
from tenfold.search.formats.source import VectorSource
from tenfold.search.manifest import write_manifest
from tenfold.search.memory import MemoryPlan
from tenfold.search.pages import PageWriter, page_layout
from tenfold.search.relisting import Heritage, relist
from tenfold.search.settings import BuildConfig, check_source
from tenfold.search.space import Space, open_space
from tenfold.search.spilling import (
    Spill,
    entry_record,
    in_list_order,
    read_chunks,
    row_record,
    spilled_sizes,
    whole_blocks,
)
from tenfold.search.storage import (
    FORMAT_VERSION,
    SectionFile,
    SectionWriter,
    as_bytes,
    save_array,
    scratch_array,
)
from tenfold.search.workplace import discard, read_notes, write_notes

__all__ = ["Builder", "fingerprint"]

_NO_LIST = np.uint32(0xFFFFFFFF)
# Section files that a phase leaves for the next ones.
_FOUNDED = {"cluster": ("tree", "graph"), "train": ("codebook",), "inherit": ("tree", "graph", "codebook")}


class Builder:
    """One build, from where an earlier one stopped if there was one."""

    def __init__(
        self,
        source: VectorSource,
        folder: Path,
        config: BuildConfig,
        memory_budget: int,
        threads: int,
        progress: Progress,
        heritage: Heritage | None = None,
    ) -> None:
        check_source(source)
        self.heritage = heritage if heritage is not None and heritage.suits(config, source.rows) else None
        self.source, self.folder, self.config = source, folder, config
        self.threads, self.progress = threads, progress
        self.space_dim = config.space_dim(source)
        self.spill = folder / "spill"
        self._resume(memory_budget)

    def run(self) -> None:
        """Run the phases that are not finished yet; the folder then holds every file but the manifest."""
        founding = (self._survey, self._cluster, self._train) if self.heritage is None else (self._inherit,)
        phases = (*founding, self._assign, self._layout, self._pack)
        for phase in phases:
            name = phase.__name__.strip("_")
            if name in self.state["done"]:
                continue
            self.progress(name, 0, 1)
            phase()
            _native.release_memory()
            self._finish(name)
            self.progress(name, 1, 1)

    def manifest(self) -> dict[str, Any]:
        """What the index must know to be opened, besides its sections."""
        per_page, stride = page_layout(self.source.dim * self.source.dtype.itemsize)
        return {
            "format_version": FORMAT_VERSION,
            "rows": self.source.rows,
            "dim": self.source.dim,
            "dtype": self.source.dtype.name,
            "rows_per_page": per_page,
            "page_bytes": stride,
            "radius": self.state["radius"],
            "untrained_rows": 0 if self.heritage is None else self.heritage.untrained(self.source.rows),
            **asdict(self.config),
        }

    # --- state ----------------------------------------------------------------------------------------------

    def _resume(self, memory_budget: int) -> None:
        """Take over the state of an earlier try at the same index, or begin anew."""
        self.identity: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "source": fingerprint(self.source),
            "memory_budget": memory_budget,
            "config": asdict(self.config),
            "heritage": None if self.heritage is None else self.heritage.fingerprint(),
        }
        self.state = read_notes(self.folder)
        if (
            self.state.get("identity") == self.identity
            and self.state["plan"].keys() == MemoryPlan.__annotations__.keys()
        ):
            self.plan = MemoryPlan(**self.state["plan"])
            done = self.state["done"]
            while done and not self._is_whole(done[-1]):
                done.pop()
            if "layout" not in done:  # beyond it, only the index reads these files, and checks them
                del done[next((at for at, phase in enumerate(done) if not self._has_founded(phase)), len(done)) :]
            write_notes(self.folder, self.state)
        else:
            sizes = self.config.rows_per_list, self.config.code_bytes
            self.plan = MemoryPlan.make(memory_budget, self.source, self.space_dim, *sizes)
            self.state = {"identity": self.identity, "plan": asdict(self.plan), "done": [], "spilled": {}}
            write_notes(self.folder, self.state)  # before anything goes: nobody must go on behind what is gone
            discard(self.folder, keep=("build.json", "lock"))
        self.spill.mkdir(exist_ok=True)

    def _is_whole(self, phase: str) -> bool:
        """Whether what the phase spilled is there in full; a power cut may have taken some of it."""
        left: dict[str, int] = self.state["spilled"].get(phase, {})
        return left == spilled_sizes(self.spill, phase)

    def _has_founded(self, phase: str) -> bool:
        """Whether later phases can rely on the section files that this one wrote: native code follows their numbers."""
        kinds = _FOUNDED.get(phase, ())
        with contextlib.suppress(InputError):
            for kind in kinds:
                file = SectionFile(self.folder / f"{kind}.bin", kind)
                for name in file.names():
                    file.check(name)
            return "tree" not in kinds or _is_sound(self._tree())
        return False

    def _finish(self, phase: str) -> None:
        """Note that a phase is done and how much it spilled."""
        self.state["spilled"][phase] = spilled_sizes(self.spill, phase)
        self.state["done"].append(phase)
        write_notes(self.folder, self.state)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest: the index is complete, but for its name."""
        write_manifest(self.folder, manifest)
        self._finish("manifest")

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds a complete index."""
        return "manifest" in self.state["done"]

    @property
    def space(self) -> Space:
        """The map into search space; known after the lists."""
        return open_space(self.manifest(), SectionFile(self.folder / "tree.bin", "tree"))

    def _blocks(self, phase: str) -> Iterator[np.ndarray]:
        done = 0
        for block in self.source.blocks(self.plan.block_rows):
            yield block
            done += len(block)
            self.progress(phase, done, self.source.rows)

    # --- survey ---------------------------------------------------------------------------------------------

    def _survey(self) -> None:
        """Reads everything once, so that bad rows are found before anything is built on them."""
        rows, wanted = self.source.rows, min(self.plan.sample_rows, self.source.rows)
        rng = np.random.default_rng(self.config.seed)
        sample = np.empty((wanted, self.source.dim), self.source.dtype)
        taken, seen, radius = 0, 0, 0.0
        for block in self._blocks("survey"):
            check_lengths(block, f"{self.source.name}: row", seen)
            # Of the rows left, choose so many here that every set of `wanted` rows is equally likely.
            count = (
                int(rng.hypergeometric(len(block), rows - seen - len(block), wanted - taken)) if taken < wanted else 0
            )
            picks = np.sort(rng.choice(len(block), count, replace=False))
            sample[taken : taken + count] = block[picks]
            taken, seen = taken + count, seen + len(block)
            if self.config.metric == "ip":
                radius = max(radius, float(np.linalg.norm(block.astype(np.float32), axis=1).max(initial=0)))
        self.state["radius"] = radius
        save_array(self.folder / "sample.npy", sample)

    def _sample_rows(self, space: Space, most: int | None = None) -> np.ndarray:
        return space.rows(np.load(self.folder / "sample.npy", mmap_mode="r")[:most], self.threads)

    def _mean(self, space: Space) -> np.ndarray:
        rows = self._sample_rows(space)
        mean = rows.sum(axis=0, dtype=np.float64) / max(1, len(rows))
        return mean.astype(np.float32)  # type: ignore[no-any-return]

    # --- cluster, train -------------------------------------------------------------------------------------

    def _cluster(self) -> None:
        space = open_space(self.manifest(), None)
        center = self._mean(replace(space, rotation_seed=None))  # the origin moves before axes are turned
        rows = self._sample_rows(replace(space, center=center))
        tree = grow_tree(
            rows,
            self.plan.lists,
            self.config.seed,
            self.threads,
            progress=lambda done, total: self.progress("cluster", done, total),
        )
        axes = np.zeros((0, self.space_dim), np.float32)
        if self.config.codec == "pq":
            rows = rows[: self.plan.training_rows]
            rows = residuals_of(rows, tree.assign(rows, self.threads), tree.centroids)
            axes = balanced_axes(rows, self.config.code_bytes)
            tree = tree.turned(axes) if len(axes) else tree
        self._write_lists(tree, center, axes)

    def _write_lists(self, tree: Tree, center: np.ndarray, axes: np.ndarray) -> None:
        with SectionWriter(self.folder / "tree.bin", "tree") as file:
            file.add("center", center)
            file.add("axes", axes)
            for name in ("nodes", "begin", "end", "list", "neighbours"):
                file.add(name, getattr(tree, name))
        with SectionWriter(self.folder / "graph.bin", "graph") as file:
            file.add("centroids", tree.centroids)
            file.add("neighbours", tree.graph)

    def _tree(self) -> Tree:
        tree, graph = SectionFile(self.folder / "tree.bin", "tree"), SectionFile(self.folder / "graph.bin", "graph")
        width = self.space_dim

        def matrix(file: SectionFile, name: str, dtype: str, columns: int | None) -> np.ndarray:
            array = file.array(name, dtype, columns)
            return np.array(array.reshape(len(array), file.section(name).columns))

        return Tree(
            matrix(tree, "nodes", "<f4", width),
            np.array(tree.array("begin", "<u4")),
            np.array(tree.array("end", "<u4")),
            np.array(tree.array("list", "<u4")),
            matrix(graph, "centroids", "<f4", width),
            matrix(tree, "neighbours", "<u4", None),
            matrix(graph, "neighbours", "<u4", None),
        )

    def _inherit(self) -> None:
        """Instead of the three before `assign`: the lists of another index, brought up to date, and its codec."""
        assert self.heritage is not None
        index, rows = self.heritage.index, self.source.rows
        own = scratch_array(self.folder / "own.npy", "<u4", rows)
        tree = relist(
            self.heritage, lambda: self._blocks("inherit"), own, rows / self.plan.lists, self.plan.sample_rows,
            self.config.seed, self.threads,
        )  # fmt: skip
        if isinstance(own, np.memmap):
            own.flush()
        before = SectionFile(index.path / "codebook.bin", "codebook")
        sections = {name: before.array(name, "<f4", None) for name in ("codebook", "center", "axes")}
        self._write_lists(tree, sections["center"], sections["axes"])
        with SectionWriter(self.folder / "codebook.bin", "codebook") as file:
            for name, array in sections.items():
                file.add(name, array)
        self.state["radius"], self.state["codec"] = index.space.radius, self.heritage.manifest["codec_numbers"]

    def _train(self) -> None:
        tree, rows = self._tree(), self._sample_rows(self.space, self.plan.training_rows)
        codec = train_codec(
            self.config.codec,
            rows,
            tree.assign(rows, self.threads),
            tree.centroids,
            self.config.code_bytes,
            self.threads,
        )
        with SectionWriter(self.folder / "codebook.bin", "codebook") as file:
            file.add("codebook", codec.codebook)
            for name in ("center", "axes"):
                file.add(name, SectionFile(self.folder / "tree.bin", "tree").array(name, "<f4", None))
        self.state["codec"] = codec.numbers()

    def codec(self) -> Codec:
        """The trained codec; known after `train`."""
        return open_codec(self.state["codec"], SectionFile(self.folder / "codebook.bin", "codebook"))

    # --- assign ---------------------------------------------------------------------------------------------

    def _record(self) -> np.dtype:
        return row_record(self.source.dim, self.source.dtype)

    def _ranges(self, lists: int) -> np.ndarray:
        """First list of each range; a range's rows fit the memory budget."""
        return np.linspace(0, lists, min(self.plan.ranges, lists) + 1).astype(np.int64)

    def _assign(self) -> None:
        tree, space = self._tree(), self.space
        lists = len(tree.centroids)
        counts = np.zeros(lists, np.int64)
        bounds = self._ranges(lists)
        own = None if self.heritage is None else np.load(self.folder / "own.npy", mmap_mode="r")
        row = 0
        with Spill(self.spill, "rows", len(bounds) - 1) as spill:
            for block in self._blocks("assign"):
                if own is None:
                    found = tree.assign(space.rows(block, self.threads), self.threads)
                else:
                    found = own[row : row + len(block)]
                counts += np.bincount(found, minlength=lists)
                records = np.empty(len(block), self._record())
                records["label"] = self.source.row_numbers(row, row + len(block))
                records["list"] = found
                records["vector"] = block
                spill.write(np.searchsorted(bounds, found, side="right") - 1, records)
                row += len(block)
        save_array(self.spill / "counts.npy", counts)

    # --- layout ---------------------------------------------------------------------------------------------

    def _entry(self) -> np.dtype:
        return entry_record(self.codec().subs(self.space_dim))

    def _layout(self) -> None:
        tree, codec, space = self._tree(), self.codec(), self.space
        bounds, entry = self._ranges(len(tree.centroids)), self._entry()
        ranges = len(bounds) - 1
        position = 0
        with (
            SectionWriter(self.folder / "vectors.bin", "vectors") as file,
            Spill(self.spill, "labels", 1) as labels,
            Spill(self.spill, "entries", ranges) as entries,
        ):
            pages = PageWriter(file, self.source.dim, self.source.dtype)
            for number in range(ranges):
                for part in self._sorted_rows(number):
                    rows = space.rows(part["vector"], self.threads)
                    order = _native.arrange(
                        rows, np.ascontiguousarray(part["list"]), position, pages.per_page, self.threads
                    )
                    part = part[order]
                    pages.write(np.ascontiguousarray(part["vector"]))
                    labels.write(np.zeros(len(part), np.int64), np.ascontiguousarray(part["label"]))
                    found = self._entries(tree, codec, rows[order], part["list"], position, entry)
                    entries.write(np.searchsorted(bounds, found["list"], side="right") - 1, found)
                    position += len(part)
                    self.progress("layout", position, self.source.rows)
            pages.finish()
            file.begin("labels", "<u4")
            for chunk in read_chunks(self.spill / "labels-0", np.dtype("<u4"), self.plan.block_rows):
                file.write(chunk)
            file.end()

    def _sorted_rows(self, number: int) -> Iterator[np.ndarray]:
        """The rows of a range list by list, block by block."""
        for records in in_list_order(self.spill / f"rows-{number}", self._record(), self.plan.range_rows):
            for start in range(0, len(records), self.plan.block_rows):
                yield records[start : start + self.plan.block_rows]

    def _entries(
        self, tree: Tree, codec: Codec, rows: np.ndarray, lists: np.ndarray, position: int, entry: np.dtype
    ) -> np.ndarray:
        """List entries of consecutive rows: one in their own list each, and their replicas."""
        lists = np.ascontiguousarray(lists)
        copies = self._copies(tree, rows, lists)
        source, _ = np.nonzero(copies != _NO_LIST)
        which = np.concatenate([np.arange(len(rows)), source])
        targets = np.concatenate([lists, copies[copies != _NO_LIST]]).astype(np.uint32)
        entries = np.empty(len(which), entry)
        for start in range(0, len(which), self.plan.block_rows):
            part = slice(start, start + self.plan.block_rows)
            encoded = codec.encode(np.ascontiguousarray(rows[which[part]]), targets[part], tree.centroids, self.threads)
            for name, values in zip(("codes", "shift", "scale", "error"), encoded, strict=True):
                entries[name][part] = values
        entries["list"], entries["row"] = targets, position + which
        entries["replica"] = np.arange(len(which)) >= len(rows)
        return entries

    def _copies(self, tree: Tree, rows: np.ndarray, lists: np.ndarray) -> np.ndarray:
        """Further lists of rows, (n, most); padded with 2^32 - 1."""
        if self.config.second_lists:
            return _native.second_lists(rows, lists, tree.centroids, tree.graph, self.threads)[:, None]
        return _native.replicate(
            rows,
            lists,
            tree.centroids,
            tree.neighbours,
            self.config.replicas,
            self.config.epsilon,
            1.0,
            self.threads,
        )

    # --- pack -----------------------------------------------------------------------------------------------

    def _pack(self) -> None:
        counts = np.load(self.spill / "counts.npy")
        entry, copies = self._entry(), np.zeros(len(counts), np.int64)
        ranges = len(self._ranges(len(counts))) - 1
        for number in range(ranges):  # only now that `layout` is known to be finished
            (self.spill / f"rows-{number}").unlink(missing_ok=True)
        with (
            SectionWriter(self.folder / "codes.bin", "codes") as codes,
            SectionWriter(self.folder / "lists.bin", "lists") as lists,
        ):
            codes.begin("blocks", "|u1", block_bytes(2 * entry["codes"].shape[0]))
            lists.begin("replicas", "<u4")
            for number in range(ranges):
                pieces = in_list_order(self.spill / f"entries-{number}", entry, 2 * self.plan.range_rows)
                for entries in whole_blocks(pieces, BLOCK_ROWS):
                    replicas = entries[entries["replica"] == 1]
                    copies += np.bincount(replicas["list"], minlength=len(copies))
                    lists.write(replicas["row"])
                    for blocks in _blocks_of(entries, self.plan.block_rows):
                        codes.write(blocks)
                self.progress("pack", number + 1, ranges)
            codes.end()
            lists.end()
            lists.add("starts", np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64))
            lists.add("replica_offsets", np.concatenate([[0], np.cumsum(copies)]).astype(np.uint64))


def _is_sound(tree: Tree) -> bool:
    """Whether its numbers name nodes and lists that are there, children behind their parents."""
    nodes, lists = len(tree.nodes), len(tree.centroids)
    if not len(tree.begin) == len(tree.end) == len(tree.list) == nodes or len(tree.neighbours) != lists:
        return False
    leaf = tree.begin == tree.end
    inner = (np.arange(nodes) < tree.begin) & (tree.begin < tree.end) & (tree.end <= nodes)
    near = tree.neighbours[tree.neighbours != _NO_LIST]
    return bool(np.where(leaf, tree.list < lists, inner).all() and near.max(initial=0) < max(1, lists))


def fingerprint(source: VectorSource) -> list[Any]:
    """What tells one source from another: size and time of change of its files, or else its content."""
    described: list[Any] = [source.name, source.rows, source.dim, source.dtype.name]
    with contextlib.suppress(OSError, ValueError):
        if files := [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in source.files()]:
            return [*described, *files]
    crc = 0
    for block in source.blocks(1 << 14):
        crc = _native.crc32c(as_bytes(block), crc)
    return [*described, crc]


def _blocks_of(entries: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """The blocks of consecutive lists; every list starts a block of its own."""
    sizes = np.unique(entries["list"], return_counts=True)[1]
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        begin = ends[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + most, side="right")))
        part, some = entries[begin : ends[last - 1]], sizes[first:last]
        padded = -(-some // BLOCK_ROWS) * BLOCK_ROWS
        places = np.arange(len(part)) + np.repeat(np.cumsum(padded) - padded - (np.cumsum(some) - some), some)
        spread = np.zeros(padded.sum(), entries.dtype)
        spread[places] = part
        yield pack_blocks(spread["codes"], spread["shift"], spread["scale"], spread["error"])
        first = last

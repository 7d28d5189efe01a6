"""Damages an index again and again and looks at what comes of it; run as a process, so that a crash is seen.

    python fuzz_index.py MODE FOLDER OTHER COUNT SEED

MODE is "bytes" (checksums notice), "places" (all over headers and manifest, the ends of every section, every
kind of cut; COUNT and SEED are not used) or "contents" (hostile numbers with valid checksums). OTHER is an index of
the same shape over other vectors. Prints each case before it is tried, and `done N` at the end.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from oracles import make_vectors

from tenfold.core.errors import InputError
from tenfold.search import Index, _native
from tenfold.search.manifest import read_manifest, write_manifest
from tenfold.search.storage import SectionFile, SectionWriter
from tenfold.search.verifying import verify_index

KINDS = {
    name: name.removesuffix(".bin") for name in ("vectors.bin", "codes.bin", "lists.bin", "graph.bin", "codebook.bin")
}
FILES = (*KINDS, "manifest.json")
BACKENDS = ["buffered", "direct", "memory"] + ["uring"] * (not _native.probe_io_uring())
LOUD = (b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"NaN")
Case = tuple[str, str, bytes]  # what is done, the file, its new content
Answer = list[np.ndarray]


def ask(folder: Path, io: str) -> Answer:
    """Open and search by default settings, by the paper's rule, through everything, and in the nearest list."""
    index = Index.open(folder, io=io)  # type: ignore[arg-type]
    queries = make_vectors(6, index.dim, index.dtype.name, seed=9)
    answer = []
    for options in ({}, {"rerank": "paper", "score_whole_pages": False}, {"recall": 1.0}, {"probes": 1}):
        answer += index.search(queries, 5, threads=1, **options)  # type: ignore[call-overload]
    answer.append(index.estimates(queries, np.tile(np.arange(index.rows), (6, 1)), 1)[0])
    return answer


def attempt(folder: Path, io: str) -> Answer | InputError:
    """The answer, or the one error that may come instead: one line that names a place."""
    try:
        return ask(folder, io)
    except InputError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return error


def equal(one: Answer, other: Answer) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def check_bytes(folder: Path, name: str, io: str, good: Answer) -> None:
    """`verify` names the file; searching refuses, or never met the damage."""
    lines = verify_index(folder)
    assert any(name in line for line in lines), f"verify says {lines}"
    assert not any("\n" in line for line in lines)
    found = attempt(folder, io)
    assert isinstance(found, InputError) or equal(found, good), "a damaged file gave other results"


def flips(content: bytes, places: Iterator[int] | list[int], rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        yield f"flip at {place}", bytes(changed)


def cuts(content: bytes, lengths: Iterator[int] | list[int]) -> Iterator[tuple[str, bytes]]:
    yield from ((f"cut to {length}", content[:length]) for length in lengths)


def all_places(folder: Path, other: Path) -> Iterator[Case]:
    """Bytes of headers and manifest, both ends of every section and of what fills its page, cuts, swaps."""
    rng = np.random.default_rng(0)
    for name in FILES:
        content = (folder / name).read_bytes()
        size = len(content)
        places, lengths = list(range(0, size, 5)), list(range(0, size, 97))
        if name in KINDS:
            file = SectionFile(folder / name, KINDS[name])
            sections = [file.section(section) for section in file.names()]
            ends = [end for s in sections for end in (s.offset, s.offset + s.nbytes - 1, s.offset + s.nbytes)]
            places = [*range(0, 64 + 64 * len(sections), 2), 1000, 4095, size - 1, *(e for e in ends if e < size)]
            lengths = [0, 1, 63, 64, 4095, 4096, size - 1, *(e for e in ends if e < size)]
        changes = [*flips(content, places, rng), *cuts(content, lengths)]
        changes += [("longer by a byte", content + b"\0"), ("longer by a page", content + bytes(4096))]
        changes += [(f"as {wrong} is", (folder / wrong).read_bytes()) for wrong in FILES if wrong != name]
        yield from ((what, name, changed) for what, changed in changes)
        if name in KINDS and (other / name).read_bytes() != content:
            yield "as in the other index", name, (other / name).read_bytes()


def random_case(folder: Path, rng: np.random.Generator) -> Case:
    """One to four injuries of one file."""
    name = FILES[rng.integers(len(FILES))]
    original = (folder / name).read_bytes()
    content = bytearray(original)
    while bytes(content) == original:
        for _ in range(rng.integers(1, 5)):
            kind, at = rng.integers(7), int(rng.integers(len(content) + 1))
            page = at // 4096 * 4096
            if kind == 0:
                del content[at:]
            elif kind == 1:
                content[at:at] = rng.bytes(int(rng.integers(1, 5000)))
            elif kind == 2:
                del content[at : at + int(rng.integers(1, 5000))]
            elif kind == 3:
                loud = LOUD[rng.integers(len(LOUD))]
                content[at : at + len(loud)] = loud[: max(0, len(content) - at)]
            elif kind == 4:
                content[page : page + 4096] = bytes(len(content[page : page + 4096]))
            elif at < len(content):
                content[at] ^= 1 << int(rng.integers(8))
    return "random injuries", name, bytes(content)


def run_bytes(folder: Path, cases: Iterator[Case]) -> int:
    goods = {io: ask(folder, io) for io in BACKENDS}
    number = 0
    for number, (what, name, changed) in enumerate(cases, start=1):
        print(number, name, what, flush=True)
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(changed)
        io = BACKENDS[number % len(BACKENDS)]
        check_bytes(folder, name, io, goods[io])
        (folder / name).write_bytes(original)
    return number


# --- hostile contents under valid checksums ---------------------------------------------------------------------


def rewrite(folder: Path, name: str, sections: dict[str, np.ndarray]) -> None:
    """Write a section file anew with some sections replaced, and let the manifest agree with it."""
    file = SectionFile(folder / name, KINDS[name])
    arrays = {s: np.array(file.array(s, file.section(s).dtype.str, None)) for s in file.names()} | sections
    with SectionWriter(folder / name, KINDS[name]) as writer:
        for section, array in arrays.items():
            writer.add(section, array)
    change_manifest(folder, lambda manifest: None)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest in place; its own checksum and those of the files hold afterwards."""
    manifest = json.loads((folder / "manifest.json").read_bytes())["manifest"]
    change(manifest)
    if "files" in manifest:
        manifest["files"] = {name: SectionFile(folder / name, kind).checksum for name, kind in KINDS.items()}
    write_manifest(folder, manifest)


def hostile_array(good: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A few or all numbers replaced by ones that hurt; sometimes of another shape or type."""
    array = good.copy()
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        pool = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0, -1], array.dtype)
    else:
        top = np.iinfo(array.dtype).max
        pool = np.array([0, 1, 2, top, top - 1, top // 2, top // 2 + 1, len(flat), len(flat) + 1], np.uint64)
        pool = (pool & np.uint64(top)).astype(array.dtype)
    kind = rng.integers(8)
    if kind == 0:
        return array[: rng.integers(len(array) + 1)]
    if kind == 1:
        return np.concatenate([array, array[-1:]])
    if kind == 2:
        return array[::-1].copy()
    if kind == 3:
        with np.errstate(invalid="ignore"):
            return array.astype(("<f4", "<u4", "<u8", "|u1")[rng.integers(4)])
    count = len(flat) if kind == 4 else min(len(flat), int(rng.integers(1, 6)))
    places = rng.choice(len(flat), count, replace=False) if count else np.zeros(0, np.int64)
    flat[places] = rng.choice(pool, count)
    return array


def hostile_manifest(manifest: dict[str, Any], rng: np.random.Generator) -> None:
    pool = [
        0,
        1,
        -1,
        2**31,
        2**32,
        2**63,
        10**400,
        0.5,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        "",
        "l2",
        None,
        [],
        {},
        True,
    ]
    where = [manifest, manifest.get("codec_numbers"), manifest.get("calibration")][rng.integers(3)]
    where = where if isinstance(where, dict) and where else manifest  # an earlier change may have replaced it
    key = list(where)[rng.integers(len(where))]
    value = pool[rng.integers(len(pool))]
    if key in ("levels", "memory") and rng.random() < 0.8:
        entry: list[Any] = [0.99, 3, 50, -0.5]
        entry[rng.integers(4)] = value
        value = {["10", "0", "-3", "1e3", "9" * 400][rng.integers(5)]: [entry]}
    if rng.random() < 0.1:
        del where[key]
    else:
        where[key] = value


def run_contents(folder: Path, count: int, seed: int) -> int:
    """Any answer is allowed as long as it is well-formed, or InputError."""
    rng = np.random.default_rng(seed)
    backup = folder.with_name("backup")
    shutil.copytree(folder, backup)
    for number in range(count):
        for _ in range(rng.integers(1, 3)):
            name = FILES[rng.integers(len(FILES))]
            if name in KINDS:
                file = SectionFile(folder / name, KINDS[name])
                section = file.names()[rng.integers(len(file.names()))]
                good = np.array(file.array(section, file.section(section).dtype.str, None))
                rewrite(folder, name, {section: hostile_array(good, rng)})
                print(number, name, section, flush=True)
            else:
                change_manifest(folder, lambda manifest: hostile_manifest(manifest, rng))
                print(number, name, flush=True)
        found = attempt(folder, BACKENDS[number % len(BACKENDS)])
        if not isinstance(found, InputError):
            check_shape(found)
        shutil.rmtree(folder)
        shutil.copytree(backup, folder)
    read_manifest(folder)
    return count


def check_shape(answer: Answer) -> None:
    """Sorted distances, and no result without a distance."""
    for distances, ids in zip(answer[:-1:2], answer[1:-1:2], strict=True):
        assert not np.isnan(distances).any()
        assert (distances[:, 1:] >= distances[:, :-1]).all()
        assert ((ids >= -1) & (ids < 1 << 32)).all()


def main(mode: str, folder: Path, other: Path, count: int, seed: int) -> int:
    if mode == "places":
        return run_bytes(folder, all_places(folder, other))
    if mode == "contents":
        return run_contents(folder, count, seed)
    rng = np.random.default_rng(seed)
    return run_bytes(folder, (random_case(folder, rng) for _ in range(count)))


if __name__ == "__main__":
    done = main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    print("done", done)

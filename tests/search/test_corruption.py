"""Damaged files: `verify` names them, searching refuses them with one line, and nothing crashes.

The mutations run in processes of their own (`fuzz_index.py`). TENFOLD_FUZZ=5000 makes 5,000 of each random kind.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_index
import numpy as np
import pytest
from oracles import make_vectors

from tenfold.core.errors import InputError
from tenfold.search import Index, exact_search
from tenfold.search.evaluation import evaluate
from tenfold.search.verifying import verify_index

FUZZ = int(os.environ.get("TENFOLD_FUZZ", "0"))
SHAPES = {"pq": (400, 24, "uint8", "l2", "pq", 30), "rabitq": (150, 40, "float32", "ip", "rabitq", 20)}
MANY_LISTS = (1200, 24, "uint8", "l2", "pq", 20)  # so many that a query is compared with them in bytes first


def fuzz(mode: str, folder: Path, other: Path, count: int, seed: int) -> None:
    """Run `fuzz_index.py`; what it printed last names the case that failed."""
    command = [sys.executable, fuzz_index.__file__, mode, str(folder), str(other), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600 + count, check=False)
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"exit status {done.returncode} after {last}: {done.stderr[-3000:]}"
    assert last[0].startswith("done")


def other_index(shape: tuple[Any, ...], tmp_path: Path) -> Path:
    """An index of the same shape over other vectors."""
    rows, dim, dtype, metric, codec, per_list = shape
    base = make_vectors(rows, dim, dtype, seed=77)
    Index.build(base, tmp_path / "other", metric=metric, codec=codec, rows_per_list=per_list)  # type: ignore[arg-type]
    return tmp_path / "other"


@pytest.mark.parametrize("codec", SHAPES)
def test_damage_anywhere_is_seen(codec: str, index_copy: Callable[..., Path], tmp_path: Path) -> None:
    """All over headers and manifest, the ends of sections, cut, longer, swapped: seen, never a crash."""
    folder = index_copy(*SHAPES[codec])
    fuzz("places", folder, other_index(SHAPES[codec], tmp_path), 0, 0)


@pytest.mark.parametrize("codec", SHAPES)
def test_random_damage_is_seen(codec: str, index_copy: Callable[..., Path]) -> None:
    """Bits flipped, pieces lost, doubled or zeroed anywhere."""
    folder = index_copy(*SHAPES[codec])
    fuzz("bytes", folder, folder, FUZZ or 200, 11)


@pytest.mark.parametrize("shape", [*SHAPES.values(), MANY_LISTS], ids=[*SHAPES, "many lists"])
def test_hostile_contents_never_crash(shape: tuple[Any, ...], index_copy: Callable[..., Path]) -> None:
    """Numbers out of range under valid checksums: refused, or answered with something well-formed."""
    folder = index_copy(*shape)
    fuzz("contents", folder, folder, FUZZ or 200, 12)


def sections(folder: Path, name: str, *wanted: str) -> list[np.ndarray]:
    file = fuzz_index.SectionFile(folder / name, fuzz_index.KINDS[name])
    found = [np.array(file.array(s, file.section(s).dtype.str, None)) for s in wanted]
    return [array.reshape(-1) if array.shape[1] == 1 else array for array in found]


def rows_out_of_range(folder: Path) -> None:
    (replicas,) = sections(folder, "lists.bin", "replicas")
    assert len(replicas)
    fuzz_index.rewrite(folder, "lists.bin", {"replicas": np.full_like(replicas, 400)})


def offsets_backwards(folder: Path) -> None:
    (starts,) = sections(folder, "lists.bin", "starts")
    starts[1], starts[2] = starts[2] + 7, starts[1]
    fuzz_index.rewrite(folder, "lists.bin", {"starts": starts})


def offsets_huge(folder: Path) -> None:
    (starts,) = sections(folder, "lists.bin", "starts")
    starts[1] = 2**64 - 1
    fuzz_index.rewrite(folder, "lists.bin", {"starts": starts})


def list_too_few(folder: Path) -> None:
    centroids, neighbours = sections(folder, "graph.bin", "centroids", "neighbours")
    fuzz_index.rewrite(folder, "graph.bin", {"centroids": centroids[:-1], "neighbours": neighbours[:-1]})


def no_lists(folder: Path) -> None:
    centroids, neighbours = sections(folder, "graph.bin", "centroids", "neighbours")
    fuzz_index.rewrite(folder, "graph.bin", {"centroids": centroids[:0], "neighbours": neighbours[:0]})


def centroid_nan(folder: Path) -> None:
    (centroids,) = sections(folder, "graph.bin", "centroids")
    centroids[1, 3] = np.nan
    fuzz_index.rewrite(folder, "graph.bin", {"centroids": centroids})


def codebook_infinite(folder: Path) -> None:
    (codebook,) = sections(folder, "codebook.bin", "codebook")
    codebook.reshape(-1)[5] = np.inf
    fuzz_index.rewrite(folder, "codebook.bin", {"codebook": codebook})


def codebook_short(folder: Path) -> None:
    (codebook,) = sections(folder, "codebook.bin", "codebook")
    fuzz_index.rewrite(folder, "codebook.bin", {"codebook": codebook[:-1]})


def codes_short(folder: Path) -> None:
    (blocks,) = sections(folder, "codes.bin", "blocks")
    fuzz_index.rewrite(folder, "codes.bin", {"blocks": blocks[:-1]})


def pages_missing(folder: Path) -> None:
    pages, crc = sections(folder, "vectors.bin", "pages", "page_crc")
    fuzz_index.rewrite(folder, "vectors.bin", {"pages": pages[:-1], "page_crc": crc[:-1]})


def checksums_too_many(folder: Path) -> None:
    (crc,) = sections(folder, "vectors.bin", "page_crc")
    fuzz_index.rewrite(folder, "vectors.bin", {"page_crc": np.tile(crc, 1000)})


def pages_too_many(folder: Path) -> None:
    pages, crc = sections(folder, "vectors.bin", "pages", "page_crc")
    fuzz_index.rewrite(folder, "vectors.bin", {"pages": np.tile(pages, (2, 1)), "page_crc": np.tile(crc, 2)})


def sets(*keys: str, value: object) -> Callable[[Path], None]:
    def change(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return lambda folder: fuzz_index.change_manifest(folder, change)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "rows out of range": rows_out_of_range,
    "offsets backwards": offsets_backwards,
    "offsets huge": offsets_huge,
    "a list too few": list_too_few,
    "no lists": no_lists,
    "centroid NaN": centroid_nan,
    "codebook infinite": codebook_infinite,
    "codebook short": codebook_short,
    "codes short": codes_short,
    "pages missing": pages_missing,
    "pages too many": pages_too_many,
    "checksums too many": checksums_too_many,
    "rows huge": sets("rows", value=2**32 - 2),
    "rows negative": sets("rows", value=-1),
    "dim other": sets("dim", value=23),
    "dtype other": sets("dtype", value="float32"),
    "metric unknown": sets("metric", value="hamming"),
    "metric a number": sets("metric", value=3),
    "radius NaN": sets("radius", value=float("nan")),
    "seed text": sets("seed", value="zero"),
    "sub_dim zero": sets("codec_numbers", "sub_dim", value=0),
    "sub_dim wrong": sets("codec_numbers", "sub_dim", value=2),
    "sub_dim half": sets("codec_numbers", "sub_dim", value=0.5),
    "bits nine": sets("codec_numbers", "bits", value=9),
    "scale infinite": sets("codec_numbers", "scale_step", value=float("inf")),
    "calibration empty": sets("calibration", value={}),
    "calibration of k 0": sets("calibration", "levels", value={"0": [[0.99, 1, 1, 0.0]]}),
    "calibration negative": sets("calibration", "levels", value={"10": [[0.99, -5, 10, 0.0]]}),
    "calibration infinite": sets("calibration", "levels", value={"10": [[0.99, float("inf"), 10, 0.0]]}),
    "calibration huge": sets("calibration", "levels", value={"3": [[0.99, 5, 10**400, -0.5]]}),
    "calibration z NaN": sets("calibration", "levels", value={"10": [[0.99, 3, 10, float("nan")]]}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_content_is_refused(what: str, index_copy: Callable[..., Path]) -> None:
    """Checksums hold, but the numbers cannot be true: one line that names a file of the index."""
    folder = index_copy(*SHAPES["pq"])
    HOSTILE[what](folder)
    with pytest.raises(InputError) as caught:
        fuzz_index.ask(folder, "buffered")
    assert "\n" not in str(caught.value)
    assert any(name in str(caught.value) for name in (*fuzz_index.FILES, "index is damaged"))


@pytest.mark.parametrize(("section", "value"), [("axes", 1e38), ("axes", -3e38), ("center", 3e38)])
def test_queries_moved_out_of_range(
    section: str, value: float, index_copy: Callable[..., Path], python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Finite numbers that make the moved queries infinite, or none: no list is near, and nothing is found."""
    folder = index_copy(*MANY_LISTS)
    (moves,) = sections(folder, "codebook.bin", section)
    fuzz_index.rewrite(folder, "codebook.bin", {section: np.full_like(moves, value)})
    code = """
import sys
import numpy as np
from tenfold.search import Index
index = Index.open(sys.argv[1])
print(index.lists > 50, *np.unique(index.search(np.arange(240, dtype=np.uint8).reshape(10, 24), 3, probes=1)[1]))
"""
    done = python(code, folder)
    assert done.stdout.split() == ["True", "-1"], (done.returncode, done.stderr)


@pytest.mark.parametrize("io", ["buffered", "direct", "uring"])
def test_many_damaged_pages_at_once(
    io: str, index_copy: Callable[..., Path], python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Every page damaged, so that several bad ones arrive together: an error, not a hang."""
    folder = index_copy(3000, 24, "uint8", "l2")
    file = fuzz_index.SectionFile(folder / "vectors.bin", "vectors")
    pages = file.section("pages")
    with (folder / "vectors.bin").open("r+b") as opened:
        for page in range(pages.rows):
            opened.seek(pages.offset + page * pages.columns)
            opened.write(b"\xee" * 16)
    code = f"""
import numpy as np
from tenfold.search import Index, exact_search
from tenfold.search.evaluation import evaluate
try:
    index = Index.open({str(folder)!r}, io={io!r})
    for number in range(5):
        try:
            index.search(np.zeros((50, 24), np.uint8), 10, recall=1.0)
        except ValueError as error:
            print(error)
except ValueError as error:
    print("refused" if "refused" in str(error) else error)
"""
    lines = python(code).stdout.splitlines()
    assert lines == ["refused"] or [("vectors.bin" in line and "checksum" in line) for line in lines] == [True] * 5


def test_exact_search_over_a_damaged_index(index_copy: Callable[..., Path]) -> None:
    """What reads the vectors without searching - truth for `evaluate` and `tune` - compares checksums too."""
    folder = index_copy(*SHAPES["pq"])
    index = Index.open(folder)
    with (folder / "vectors.bin").open("r+b") as file:
        file.seek(fuzz_index.SectionFile(folder / "vectors.bin", "vectors").section("pages").offset + 100)
        file.write(b"\x5a\xa5")
    for work in (
        lambda: exact_search(index.stored, make_vectors(5, 24, "uint8"), 3),
        lambda: evaluate(index, make_vectors(5, 24, "uint8")),
        lambda: index.calibrate(make_vectors(5, 24, "uint8")),
        lambda: index.calibrate(),
    ):
        with pytest.raises(InputError, match=r"vectors\.bin.*checksum"):
            work()


def test_verify_of_a_good_index_is_silent(index_cache: Callable[..., Path]) -> None:
    folder = index_cache(*SHAPES["pq"])
    assert verify_index(folder) == []
    assert Index.open(folder).verify() == []


@pytest.mark.parametrize("name", fuzz_index.FILES)
def test_missing_file(name: str, index_copy: Callable[..., Path]) -> None:
    """Named by `verify` and by `open`."""
    folder = index_copy(*SHAPES["pq"])
    (folder / name).unlink()
    assert any(name in line for line in verify_index(folder))
    with pytest.raises(InputError, match=name):
        Index.open(folder)

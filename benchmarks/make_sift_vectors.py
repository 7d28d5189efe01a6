"""SIFT descriptors of real photographs, a million or more, with exact answers.

    pip install opencv-python-headless==5.0.0.93 faiss-cpu==1.15.1 numpy==2.4.6
    python benchmarks/make_sift_vectors.py OUT [--rows 5000000] [--queries 10000] [--grid PIXELS] [--keep WORK]

Needs Debian's `apt-get` and `dpkg` (after `apt-get update`; nothing is installed) and some ten minutes on two cores for
a million rows. With `--grid` the points are not those that SIFT finds but lie on a grid: ten million in as many
minutes, of plain spots as well as of corners. Writes into OUT base.u8bin and query.u8bin (u32 rows, u32 dims, uint8
rows), gt100.bin (u32 queries, u32 k, ids u32, squared distances f32) and about.json.

The photographs are wallpapers and pictures that Debian ships. Those that the queries come from give nothing to the
base. More rows than the photographs hold points are had from turned copies of them. The same versions and seed give the
same files.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import faiss
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PACKAGES = (
    *("desktop-base", "gcompris-qt-data", "gnome-backgrounds", "hugin-data", "kstars-data", "lomiri-wallpapers-16.04"),
    *("lomiri-wallpapers-20.04", "marble-data", "mate-backgrounds", "plasma-workspace-wallpapers", "stellarium-data"),
    *("tuxpaint-stamps-default", "ukui-wallpapers", "xfdesktop4-data"),
)
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
LONGEST_SIDE, SHORTEST_SIDE = 1400, 160
LEAST_CONTRAST = 10  # standard deviation of a picture's grey values, as a thumbnail
LEAST_SQUARES = 40_000  # of a descriptor; a flat spot has less
SAME_PICTURE = 0.97  # correlation of thumbnails
NEIGHBOURS, DIMS = 100, 128
QUERIES_PER_PICTURE = 150
TURNS = (0, 45, 90, 135, 180, 225)  # degrees; multiples of 90 sample a picture's grid alike, the others anew


def main() -> None:
    """Unpack, describe, split, find the exact answers, write."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = distinct(unpack(options.keep or Path(scratch)))
        say(f"{len(pictures)} different pictures")
        order = np.random.default_rng(options.seed).permutation(len(pictures))
        with Pool() as pool:
            asked, used = take_queries(pool, [pictures[number] for number in order], options.queries, options.grid)
            base = take_base(pool, [pictures[number] for number in order[used:]], options.rows, options.grid)
    rng = np.random.default_rng(options.seed)
    base = base[rng.permutation(len(base))[: options.rows]]
    distances, ids = exact(base, asked)
    write(options.out / "base.u8bin", base)
    write(options.out / "query.u8bin", asked)
    write(options.out / "gt100.bin", ids.astype(np.uint32), distances)
    about = {
        "name": "SIFT descriptors of Debian's photographs",
        "metric": "l2",
        "rows": len(base),
        "queries": len(asked),
        "pictures": {"base": len(pictures) - used, "queries": used},
        "arguments": {name: getattr(options, name) for name in ("rows", "queries", "grid", "seed")},
    }
    (options.out / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    say(json.dumps(about))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000, help="most base vectors")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--grid", type=int, metavar="PIXELS", help="describe points that far apart, not those found")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="WORK", help="unpack here, and do not download again")
    return parser.parse_args()


def unpack(folder: Path) -> list[Path]:
    """Download and unpack what is missing below `folder`; return its pictures in an order that names decide."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not (folder / name).exists()]
    if missing:
        subprocess.run(["apt-get", "download", "-q", *missing], cwd=folder, check=True)
    for name in missing:
        package = next(folder.glob(f"{name}_*.deb"))
        subprocess.run(["dpkg", "-x", package, folder / name], check=True)
        package.unlink()
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and not path.is_symlink())
    return sorted(pictures, key=lambda path: hashlib.blake2b(str(path.relative_to(folder)).encode()).digest())


def distinct(paths: Sequence[Path]) -> list[Path]:
    """Leave out what is small, flat, or another size of a picture before it."""
    kept: list[Path] = []
    seen = np.empty((0, 256), np.float32)
    with Pool() as pool:
        for path, thumbnail in zip(paths, pool.imap(thumbnail_of, paths, chunksize=16), strict=True):
            if thumbnail is None or (len(seen) and float((seen @ thumbnail).max()) / 256 > SAME_PICTURE):
                continue
            kept.append(path)
            seen = np.concatenate([seen, thumbnail[None]])
    return kept


def thumbnail_of(path: Path) -> NDArray[np.float32] | None:
    """Return a picture as 16 x 16 grey values of mean 0 and deviation 1."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None or min(grey.shape) < SHORTEST_SIDE:
        return None
    values = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    return (values - values.mean()) / values.std() if values.std() >= LEAST_CONTRAST else None


def take_queries(pool: Pool, pictures: Sequence[Path], wanted: int, grid: int | None) -> tuple[Bytes, int]:
    """Return descriptors, a few of each of the first pictures, and how many pictures it took."""
    found: list[Bytes] = []
    enough = pictures[: 2 + 2 * wanted // QUERIES_PER_PICTURE]
    for rows in pool.imap(partial(describe, turn=0, grid=grid, most=QUERIES_PER_PICTURE), enough):
        found.append(rows)
        if sum(map(len, found)) >= wanted:
            break
    return np.concatenate(found)[:wanted], len(found)


def take_base(pool: Pool, pictures: Sequence[Path], wanted: int, grid: int | None) -> Bytes:
    """Return distinct descriptors of all pictures: of all their points, then of those of turned copies."""
    base = np.empty((0, DIMS), np.uint8)
    for turn in TURNS:
        found: list[Bytes] = [base]
        for number, rows in enumerate(pool.imap(partial(describe, turn=turn, grid=grid), pictures, chunksize=4)):
            found.append(rows)
            if number % 200 == 0:
                say(f"turned by {turn}: {number}/{len(pictures)} pictures, {sum(map(len, found)):,} descriptors")
        base = unique(np.concatenate(found))
        if len(base) >= wanted:
            break
    return base


def describe(path: Path, turn: int, grid: int | None, most: int | None = None) -> Bytes:
    """Return the descriptors of a picture turned by so many degrees, `most` of them drawn at random."""
    cv2.setNumThreads(1)
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    shrink = min(1.0, LONGEST_SIDE / max(grey.shape))
    height, width = (round(side * shrink) for side in grey.shape)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    if turn:
        turning = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
        grey = cv2.warpAffine(grey, turning, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    sift = cv2.SIFT_create(contrastThreshold=0.01, edgeThreshold=15)
    points = sift.detect(grey, None) if grid is None else grid_of(width, height, grid)
    if most is not None and len(points) > most:
        seed = int.from_bytes(hashlib.blake2b(path.name.encode(), digest_size=4).digest())
        points = [points[at] for at in np.random.default_rng(seed).permutation(len(points))[:most]]
    if not points:
        return np.empty((0, DIMS), np.uint8)
    values = np.clip(np.rint(sift.compute(grey, points)[1]), 0, 255).astype(np.uint8)
    return values[(values.astype(np.int32) ** 2).sum(axis=1) > LEAST_SQUARES]


def grid_of(width: int, height: int, step: int) -> list[cv2.KeyPoint]:
    """Return upright points so far apart, none nearer to the edge than its descriptor reaches."""
    size, layer, edge = 6.0, 1 << 8, 16
    return [cv2.KeyPoint(float(x), float(y), size, 0.0, 0.0, layer)
            for y in range(edge, height - edge, step) for x in range(edge, width - edge, step)]  # fmt: skip


def unique(rows: Bytes) -> Bytes:
    """Return each row once, in an order that the rows decide."""
    return np.unique(rows.view(f"V{DIMS}").ravel()).view(np.uint8).reshape(-1, DIMS)


def exact(base: Bytes, queries: Bytes) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return squared distances and row numbers of the nearest base vectors, by comparing with all, part by part."""
    parts: Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]
    parts = (part_of(base, queries, start) for start in range(0, len(base), 1_000_000))
    distances, ids = next(parts)
    for further in parts:
        both = np.concatenate([distances, further[0]], 1), np.concatenate([ids, further[1]], 1)
        nearest = np.lexsort((both[1], both[0]))[:, :NEIGHBOURS]
        distances, ids = (np.take_along_axis(values, nearest, 1) for values in both)
    return distances, ids


def part_of(base: Bytes, queries: Bytes, start: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the nearest within a million rows."""
    index = faiss.IndexFlatL2(DIMS)
    index.add(base[start : start + 1_000_000].astype(np.float32))
    distances, ids = index.search(queries.astype(np.float32), NEIGHBOURS)
    return distances, ids + start


def write(path: Path, *parts: NDArray[np.generic]) -> None:
    """Write arrays of one shape behind it, as big-ann-benchmarks does."""
    with path.open("wb") as file:
        np.array(parts[0].shape, np.uint32).tofile(file)
        for part in parts:
            part.tofile(file)


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

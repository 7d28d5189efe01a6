"""docs/search/file-format.md, followed by a reader of its own: struct and NumPy, nothing of tenfold's but the build."""

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.search import Index

PAGE = 4096
KINDS = ("vectors", "codes", "lists", "graph", "codebook")

# metric, dtype, codec, rows, dim, code_bytes
BUILDS = {
    "bytes": ("l2", "uint8", "pq", 3000, 24, 8),
    "one-dimension": ("l2", "int8", "pq", 700, 1, 4),
    "inner-product": ("ip", "float32", "pq", 2000, 17, 8),
    "cosine": ("cosine", "float16", "pq", 2000, 33, 12),
    "rabitq": ("l2", "float32", "rabitq", 2000, 40, 5),
    "rabitq-two-bits": ("cosine", "float32", "rabitq", 1500, 50, 13),
    "rabitq-inner-product": ("ip", "float16", "rabitq", 1500, 64, 33),
    "page-per-row": ("l2", "float32", "rabitq", 400, 900, 113),
    "rows-beyond-a-page": ("l2", "float32", "rabitq", 401, 1100, 138),
}


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = [_crc_of_byte(value) for value in range(256)]


def read_sections(path: Path, kind: str) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    assert data[:8] == b"TENFOLD\0"
    version, crc = struct.unpack_from("<II", data, 8)
    assert version == 1
    assert crc == crc32c(data[:12] + bytes(4) + data[16:PAGE])
    assert data[16:32] == kind.encode().ljust(16, b"\0")
    size, count = struct.unpack_from("<QI", data, 32)
    assert size == len(data)
    assert count <= 63
    sections, end = {}, PAGE
    for place in range(64, 64 + 64 * count, 64):
        name, dtype = (data[at : at + width].rstrip(b"\0").decode() for at, width in ((place, 16), (place + 16, 8)))
        offset, rows, columns, section_crc = struct.unpack_from("<QQQI", data, place + 24)
        assert dtype in ("<f4", "<u4", "<u8", "<i8", "|u1")
        assert offset == end
        stop = offset + rows * columns * np.dtype(dtype).itemsize
        assert crc32c(data[offset:stop]) == section_crc
        end = -(-stop // PAGE) * PAGE
        assert not any(data[stop:end])
        assert not any(data[place + 52 : place + 64])
        sections[name] = np.frombuffer(data[offset:stop], dtype).reshape(rows, columns)
    assert end == size
    assert not any(data[44:64])
    assert not any(data[64 + 64 * count : PAGE])
    return sections


def split_mix_sign(state: int) -> int:
    """+1 or -1 from SplitMix64, in Python's whole numbers."""
    z = state * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return -1 if (z ^ z >> 31) >> 63 else 1


@dataclass(frozen=True)
class Reader:
    """An index as the page describes it; names as there."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        written = (self.folder / "manifest.json").read_bytes()
        content = json.loads(written)
        assert written == json.dumps(content, indent=1).encode("ascii")
        assert list(content) == ["crc32c", "manifest"]
        text = json.dumps(content["manifest"], sort_keys=True, separators=(",", ":"))
        assert content["crc32c"] == crc32c(text.encode("ascii"))
        manifest: dict[str, Any] = content["manifest"]
        return manifest

    @cached_property
    def sections(self) -> dict[str, dict[str, np.ndarray]]:
        return {kind: read_sections(self.folder / f"{kind}.bin", kind) for kind in KINDS}

    @property
    def centroids(self) -> np.ndarray:
        return self.sections["graph"]["centroids"]

    def vectors(self) -> np.ndarray:
        """(N, d) by position."""
        pages, dtype = self.sections["vectors"]["pages"], np.dtype(self.manifest["dtype"])
        row_bytes = self.manifest["dim"] * dtype.itemsize
        per_page = PAGE // row_bytes if row_bytes <= PAGE else 1
        stride = PAGE if row_bytes <= PAGE else -(-row_bytes // 512) * 512
        assert (per_page, stride) == (self.manifest["rows_per_page"], self.manifest["page_bytes"])
        assert pages.shape == (-(-self.manifest["rows"] // per_page), stride)
        assert self.sections["vectors"]["page_crc"][:, 0].tolist() == [crc32c(page.tobytes()) for page in pages]
        assert not pages[:, per_page * row_bytes :].any()
        rows = np.ascontiguousarray(pages[:, : per_page * row_bytes]).view(dtype).reshape(-1, self.manifest["dim"])
        assert not rows[self.manifest["rows"] :].any()
        return rows[: self.manifest["rows"]]

    def to_space(self, rows: np.ndarray, are_queries: bool) -> np.ndarray:
        values = rows.astype(np.float64)
        squares = (values**2).sum(axis=1, keepdims=True)
        if self.manifest["metric"] == "cosine":
            values /= np.sqrt(np.where(squares > 0, squares, 1))
        if self.manifest["metric"] == "ip":
            last = 0 * squares if are_queries else np.sqrt(np.maximum(self.manifest["radius"] ** 2 - squares, 0))
            values = np.hstack([values, last])
        codebook = self.sections["codebook"]
        values = values - codebook["center"][:, 0]
        if len(codebook["axes"]):
            return values @ codebook["axes"].astype(np.float64)
        return self.rotate(values) if self.manifest["codec"] == "rabitq" else values

    def rotate(self, values: np.ndarray) -> np.ndarray:
        dim = values.shape[1]
        width = 1 << (dim.bit_length() - 1)
        hadamard = np.ones((1, 1))
        while len(hadamard) < width:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]]) / np.sqrt(2)
        for turn in range(4):
            values = values * [split_mix_sign(turn * dim + i + 1 + self.manifest["seed"]) for i in range(dim)]
            values[:, :width] = values[:, :width] @ hadamard
            if width < dim:
                values[:, -width:] = values[:, -width:] @ hadamard
        return values

    def entries(self) -> "Entries":
        """All list entries, list after list."""
        lists = {name: section[:, 0].astype(np.int64) for name, section in self.sections["lists"].items()}
        starts, offsets = lists["starts"], lists["replica_offsets"]
        assert starts[0] == offsets[0] == 0
        assert starts[-1] == self.manifest["rows"]
        blocks, places, owners, positions, first = self.sections["codes"]["blocks"], [], [], [], 0
        for number in range(len(starts) - 1):
            replicas = lists["replicas"][offsets[number] : offsets[number + 1]]
            assert (np.diff(replicas) > 0).all()
            held = np.concatenate([np.arange(starts[number], starts[number + 1]), replicas])
            assert len(np.unique(held)) == len(held)
            positions.append(held)
            owners.append(np.full(len(held), number))
            places.append(32 * first + np.arange(len(held)))
            first += -(-len(held) // 32)
        assert first == len(blocks)
        return self.unpack(blocks, np.concatenate(places), np.concatenate(owners), np.concatenate(positions))

    def unpack(self, blocks: np.ndarray, places: np.ndarray, owners: np.ndarray, positions: np.ndarray) -> "Entries":
        pairs = blocks.shape[1] // 32 - 4
        packed = blocks[:, : 32 * pairs].reshape(-1, pairs, 32).transpose(0, 2, 1).reshape(-1, pairs)
        codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), 2 * pairs)
        rest = np.ascontiguousarray(blocks[:, 32 * pairs :])
        numbers = {
            "shift": np.ascontiguousarray(rest[:, :64]).view("<u2").reshape(-1),
            "scale": rest[:, 64:96].reshape(-1),
            "error": rest[:, 96:].reshape(-1),
        }
        unused = np.ones(len(codes), bool)
        unused[places] = False
        assert not codes[unused].any()
        assert not any(values[unused].any() for values in numbers.values())
        return Entries(owners, positions, codes[places], {name: values[places] for name, values in numbers.items()})

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """(n, M) codes -> (n, D) vectors v."""
        numbers, dim = self.manifest["codec_numbers"], self.centroids.shape[1]
        bits, width = numbers["bits"], numbers["sub_dim"]
        if bits == 0:
            table = self.sections["codebook"]["codebook"].reshape(-1, 16, width)
            assert (len(table), width) == (codes.shape[1], -(-dim // codes.shape[1]))
            parts, subs = table[np.arange(len(table)), codes].astype(np.float64), len(table)
            widths = [(m + 1) * dim // subs - m * dim // subs for m in range(subs)]
            for m, own in enumerate(widths):
                assert not table[m, :, own:].any()
            return np.concatenate([parts[:, m, :own] for m, own in enumerate(widths)], axis=1)
        groups = codes.shape[1] // bits
        assert groups == 2 * -(-dim // 8)
        j = np.arange(dim)
        level = sum((codes[:, a * groups + j // 4] >> (j % 4) & 1).astype(np.int64) << a for a in range(bits))
        return level - (2**bits - 1) / 2


@dataclass(frozen=True)
class Entries:
    """List entries; `numbers` holds shift, scale and error as stored."""

    lists: np.ndarray
    positions: np.ndarray
    codes: np.ndarray
    numbers: dict[str, np.ndarray]

    def number(self, name: str, constants: dict[str, float]) -> np.ndarray:
        return constants[f"{name}_low"] + constants[f"{name}_step"] * self.numbers[name].astype(np.float64)


def clustered(rows: int, dim: int, dtype: str) -> np.ndarray:
    """Overlapping clusters, so that rows near borders have replicas."""
    rng = np.random.default_rng([rows, dim])
    vectors = rng.normal(0, 20, (12, dim))[rng.integers(0, 12, rows)] + rng.normal(0, 12, (rows, dim))
    if dtype == "uint8":
        vectors += 128
    limits = {"uint8": (0, 255), "int8": (-128, 127)}.get(dtype, (-1000, 1000))
    return np.clip(vectors, *limits).astype(dtype)


@pytest.fixture(scope="module", params=list(BUILDS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Reader]:
    metric, dtype, codec, rows, dim, code_bytes = BUILDS[request.param]
    base, folder = clustered(rows, dim, dtype), tmp_path_factory.mktemp("format") / "index"
    options = {"metric": metric, "codec": codec, "code_bytes": code_bytes, "rows_per_list": 64, "seed": 3}
    Index.build(base, folder, **options)  # type: ignore[arg-type]
    return base, Reader(folder)


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_the_folder_holds_the_files_named_and_no_others(built: tuple[np.ndarray, Reader]) -> None:
    _, index = built
    assert {path.name for path in index.folder.iterdir()} == {"manifest.json", *(f"{kind}.bin" for kind in KINDS)}
    assert {kind: set(sections) for kind, sections in index.sections.items()} == {
        "vectors": {"pages", "page_crc", "labels"},
        "codes": {"blocks"},
        "lists": {"starts", "replica_offsets", "replicas"},
        "graph": {"centroids", "neighbours"},
        "codebook": {"codebook", "center", "axes"},
    }


def test_pages_and_labels_give_back_every_vector(built: tuple[np.ndarray, Reader]) -> None:
    base, index = built
    labels = index.sections["vectors"]["labels"][:, 0]
    assert np.array_equal(np.sort(labels), np.arange(len(base)))
    np.testing.assert_array_equal(index.vectors(), base[labels])


def test_the_graph_leads_from_list_to_list(built: tuple[np.ndarray, Reader]) -> None:
    _, index = built
    neighbours = index.sections["graph"]["neighbours"]
    absent = neighbours == 0xFFFFFFFF
    assert neighbours.shape == (len(index.centroids), 32)
    assert (neighbours[~absent] < len(neighbours)).all()
    assert (np.diff(absent.astype(int), axis=1) >= 0).all()


def test_the_estimate_is_as_good_as_the_stored_error_says(built: tuple[np.ndarray, Reader]) -> None:
    """Decode every entry, compute what the page calls shift, scale and error, and the bound on the estimate."""
    base, index = built
    entries, constants = index.entries(), index.manifest["codec_numbers"]
    x = index.to_space(index.vectors(), are_queries=False)[entries.positions]
    c, v = index.centroids[entries.lists].astype(np.float64), index.decode(entries.codes)
    shift, scale = entries.number("shift", constants), entries.number("scale", constants)
    error = np.exp(entries.number("error", constants))
    r = x - c
    whole = np.ones(len(r), bool)
    for name, top in (("shift", 65535), ("scale", 255), ("error", 255)):
        whole &= (entries.numbers[name] > 0) & (entries.numbers[name] < top)
    assert whole.mean() > 0.9
    wanted_shift = 2 * scale * (x * v).sum(axis=1) - (r * r).sum(axis=1)
    slack = 1e-4 * np.abs(wanted_shift).max()
    np.testing.assert_allclose(shift[whole], wanted_shift[whole], rtol=0, atol=constants["shift_step"] + slack)
    true_error = ((r - scale[:, None] * v) ** 2).sum(axis=1)
    rounding = np.exp(0.51 * constants["error_step"])
    assert (true_error <= 1.01 * rounding * error + slack)[whole].all()

    queries = index.to_space(base[:20], are_queries=True)
    for q in queries:
        distances, to_centroid = ((q - x) ** 2).sum(axis=1), ((q - c) ** 2).sum(axis=1)
        estimates = to_centroid + shift + scale * (-2 * v @ q)
        bound = 2 * np.sqrt(distances * error * rounding) + constants["shift_step"] / 2
        assert (np.abs(distances - estimates) <= 1.01 * bound + slack)[whole].all()


def test_there_are_replicas_to_read(tmp_path: Path) -> None:
    Index.build(clustered(2000, 6, "float32"), tmp_path / "index", rows_per_list=64)
    index = Reader(tmp_path / "index")
    replicas = index.sections["lists"]["replicas"]
    assert len(replicas) > 100
    entries = index.entries()
    assert np.bincount(entries.positions).min() == 1
    assert len(entries.positions) == 2000 + len(replicas)

"""Codes: the estimates that the scan makes are those of the formula, exact for the vector itself, and useful."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.search import Index, _native
from tenfold.search.codec import (
    _NO_CODEBOOK,
    BLOCK_ROWS,
    Codec,
    balanced_axes,
    block_bytes,
    pack_blocks,
    train_codec,
)

Kind = Literal["pq", "rabitq"]
KINDS: tuple[Kind, ...] = ("pq", "rabitq")


def decode(codec: Codec, packed: np.ndarray, dim: int) -> np.ndarray:
    """The vectors v that codes stand for, by the definition in NumPy, (n, dim) float64."""
    codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)
    if codec.bits == 0:
        ends = np.arange(codes.shape[1] + 1) * dim // codes.shape[1]
        parts = [codec.codebook[m][codes[:, m], :own] for m, own in enumerate(np.diff(ends))]
        return np.concatenate(parts, axis=1).astype(np.float64)
    groups = codes.shape[1] // codec.bits
    levels = np.zeros((len(codes), 4 * groups))
    for bit in range(codec.bits):
        plane = codes[:, bit * groups : (bit + 1) * groups]
        levels += 2**bit * (plane[:, :, None] >> np.arange(4) & 1).reshape(len(codes), -1)
    return levels[:, :dim] - (2**codec.bits - 1) / 2


def case(kind: Kind, dim: int, code_bytes: int, rows: int = 300) -> tuple[Codec, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([dim, code_bytes])
    vectors = rng.normal(size=(rows, dim)).astype(np.float32)
    centroids = (0.3 * rng.normal(size=(4, dim))).astype(np.float32)
    lists = rng.integers(0, 4, rows).astype(np.uint32)
    return train_codec(kind, vectors, lists, centroids, code_bytes, 1), vectors, lists, centroids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "code_bytes"), [(1, 1), (2, 1), (7, 4), (16, 4), (33, 8), (64, 32), (100, 50)])
def test_stored_numbers_follow_the_formula(kind: Kind, dim: int, code_bytes: int) -> None:
    """shift and error of every row, recomputed from its decoded vector, within the steps they are stored in."""
    codec, vectors, lists, centroids = case(kind, dim, code_bytes)
    packed, shift, scale, error = codec.encode(vectors, lists, centroids, 1)
    assert packed.shape == (300, codec.subs(dim) // 2)
    residual = (vectors - centroids[lists]).astype(np.float64)
    decoded = decode(codec, packed, dim)
    s = codec.scale_low + codec.scale_step * scale.astype(np.float64)
    wanted_shift = 2 * s * (vectors * decoded).sum(1) - (residual**2).sum(1)
    wanted_error = ((residual - s[:, None] * decoded) ** 2).sum(1)
    inside = (shift > 0) & (shift < 65535)
    assert inside.mean() > 0.99
    found_shift = codec.shift_low + codec.shift_step * shift.astype(np.float64)
    np.testing.assert_allclose(found_shift[inside], wanted_shift[inside], atol=0.51 * codec.shift_step + 1e-4)
    found_error = np.exp(codec.error_low + codec.error_step * error.astype(np.float64))
    clear = (error > 0) & (error < 255) & (wanted_error > 1e-4)
    np.testing.assert_allclose(
        np.log(found_error[clear]), np.log(wanted_error[clear]), atol=0.51 * codec.error_step + 0.02
    )


@settings(max_examples=30)
@given(kind=st.sampled_from(KINDS), dim=st.integers(1, 70), code_bytes=st.integers(1, 40), seed=st.integers(0, 99))
def test_encoding_does_not_depend_on_threads(kind: Kind, dim: int, code_bytes: int, seed: int) -> None:
    codec, vectors, lists, centroids = case(kind, dim, code_bytes)
    for one, two in zip(*(codec.encode(vectors, lists, centroids, threads) for threads in (1, 2)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_more_bytes_tell_more(kind: Kind) -> None:
    """The residual that codes leave shrinks with their length."""
    left = []
    for code_bytes in (8, 16, 32):
        codec, vectors, lists, centroids = case(kind, 64, code_bytes)
        *_, error = codec.encode(vectors, lists, centroids, 1)
        left.append(float(np.exp(codec.error_low + codec.error_step * error).mean()))
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.6 * left[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_estimates_are_near_the_distances(kind: Kind, metric: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through a whole index: unbiased within a few per cent, and the error term has the right size."""
    base = np.random.default_rng(0).normal(size=(900, 64)).astype(np.float32)
    path = tmp_path_factory.mktemp("codec") / "index"
    index = Index.build(base, path, metric=metric, codec=kind, code_bytes=32)  # type: ignore[arg-type]
    queries = np.random.default_rng(1).normal(size=(20, 64)).astype(np.float32)
    distances, ids = index.search(queries, 900, recall=1.0)
    places = np.argsort(index.stored.labels())[ids]
    estimates, errors, offset, slope = index.estimates(queries, places, 1)
    exact = offset[:, None] + slope[:, None] * distances
    assert abs(float((estimates / exact).mean()) - 1) < 0.03
    ratio = (exact - estimates) / np.sqrt(estimates * errors) * np.sqrt(64)
    assert 0.5 < float(ratio.std()) < 4


def test_blocks_hold_entries_where_the_scan_looks() -> None:
    """Codes of 32 rows per pair of sub-quantisers, then shifts, scales and errors."""
    rng = np.random.default_rng(0)
    packed, scale, error = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((64, 5), 64, 64))
    shift = rng.integers(0, 65536, 64, dtype=np.uint16)
    blocks = pack_blocks(packed, shift, scale, error)
    assert blocks.shape == (2, block_bytes(10))
    for row in range(64):
        block, slot = blocks[row // BLOCK_ROWS], row % BLOCK_ROWS
        np.testing.assert_array_equal(block[: 5 * 32].reshape(5, 32)[:, slot], packed[row])
        assert block[160 + 2 * slot :][:2].view("<u2")[0] == shift[row]
        assert block[224 + slot] == scale[row]
        assert block[256 + slot] == error[row]
    assert pack_blocks(packed[:0], shift[:0], scale[:0], error[:0]).shape == (0, block_bytes(10))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_training_on_next_to_nothing(rows: int) -> None:
    """No or few sample rows, or all of them equal, still make a codec that encodes."""
    sample = np.full((rows, 6), 2, np.float32)
    lists, centroids = np.zeros(rows, np.uint32), np.full((1, 6), 2, np.float32)
    for kind in KINDS:
        codec = train_codec(kind, sample, lists, centroids, 4, 1)
        packed, *numbers = codec.encode(sample + 1, lists, centroids, 1)
        assert len(packed) == rows
        assert all(np.isfinite(n).all() for n in numbers)
        assert np.isfinite(codec.codebook).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [1e-7, 0.05])
def test_copies_do_not_set_the_scale(kind: Kind, gap: float) -> None:
    """Most rows all but their centroid, or within rounding of it: what the codes say of the others is kept."""
    alone, vectors, lists, centroids = case(kind, 64, 32)
    copies = np.repeat(vectors[:1], 700, axis=0)
    rows, numbers = np.concatenate([vectors, copies]), np.concatenate([lists, np.full(700, 4, np.uint32)])
    centres = np.concatenate([centroids, vectors[:1] * np.float32(1 + gap)])
    codec = train_codec(kind, rows, numbers, centres, 32, 1)

    def left(codec: Codec) -> float:
        *_, error = codec.encode(vectors, lists, centres, 1)
        return float(np.exp(codec.error_low + codec.error_step * error).mean())

    assert left(codec) < 1.3 * left(alone)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_signs_of_tiny_residuals(bits: int) -> None:
    """Where the stretch of the grid is beyond a float, codes still point along the residual."""
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (50, 16))
    plain = _native.encode(signs, np.zeros(50, np.uint32), np.zeros((1, 16), np.float32), bits, _NO_CODEBOOK)
    tiny = _native.encode(1e-39 * signs, np.zeros(50, np.uint32), np.zeros((1, 16), np.float32), bits, _NO_CODEBOOK)
    np.testing.assert_array_equal(tiny[0], plain[0])


def test_product_quantiser_finds_clusters() -> None:
    """Sixteen well-separated points per sub-space are learned exactly."""
    rng = np.random.default_rng(0)
    points = np.round(rng.normal(scale=100, size=(16, 2, 3))).astype(np.float32)
    picks = rng.integers(0, 16, (2000, 2))
    rows = np.concatenate([points[picks[:, 0], 0], points[picks[:, 1], 1]], axis=1)
    codebook = _native.train_pq(rows, 2, 25)
    codes, _ = _native.encode(rows, np.zeros(2000, np.uint32), np.zeros((1, 6), np.float32), 0, codebook)
    decoded = np.concatenate([codebook[0][codes[:, 0]], codebook[1][codes[:, 1]]], axis=1)
    assert float(((decoded - rows) ** 2).sum(1).mean()) < 0.02 * float((rows**2).sum(1).mean())


def test_balanced_axes_leave_less() -> None:
    """Correlated residuals: turned to balanced axes, codes of the same length leave a third of the error or less."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(4000, 32)) * np.geomspace(20, 0.5, 32) @ np.linalg.qr(rng.normal(size=(32, 32)))[0]
    rows = mixed.astype(np.float32)
    lists, centroids = np.zeros(len(rows), np.uint32), np.zeros((1, 32), np.float32)
    axes = balanced_axes(rows, 8)
    np.testing.assert_allclose(axes.T @ axes, np.eye(32), atol=1e-5)

    def left(rows: np.ndarray) -> float:
        codec = train_codec("pq", rows, lists, centroids, 8, 1)
        *_, error = codec.encode(rows, lists, centroids, 1)
        return float(np.exp(codec.error_low + codec.error_step * error).mean())

    assert left(rows @ axes) < left(rows) / 3


@pytest.mark.parametrize(("rows", "dim"), [(0, 8), (7, 8), (100, 1), (100, 2), (2000, 1025)])
def test_no_axes_where_they_cannot_be_found_or_cost_too_much(rows: int, dim: int) -> None:
    assert balanced_axes(np.ones((rows, dim), np.float32), 8).shape == (0, dim)


@pytest.mark.parametrize("dim", [3, 24, 100])
@pytest.mark.parametrize("per_page", [1, 7, 32])
def test_arranging_moves_rows_within_lists_only(dim: int, per_page: int) -> None:
    rng = np.random.default_rng(dim)
    rows, lists = rng.normal(size=(500, dim)).astype(np.float32), np.sort(rng.integers(0, 9, 500)).astype(np.uint32)
    orders = [_native.arrange(rows, lists, 45, per_page, threads) for threads in (1, 2)]
    np.testing.assert_array_equal(*orders)
    np.testing.assert_array_equal(np.sort(orders[0]), np.arange(500))
    np.testing.assert_array_equal(lists[orders[0]], lists)


def test_arranging_brings_near_rows_to_one_page() -> None:
    """Four far clusters of 8 rows in one list, mixed up: each gets a page."""
    rng = np.random.default_rng(0)
    cluster = rng.permutation(np.repeat(np.arange(4), 8))
    rows = (100 * rng.normal(size=(4, 16))[cluster] + rng.normal(size=(32, 16))).astype(np.float32)
    order = _native.arrange(rows, np.zeros(32, np.uint32), 80, 8)
    assert [len(set(page)) for page in cluster[order].reshape(4, 8)] == [1, 1, 1, 1]


@pytest.mark.parametrize("scale", [0.0, 1e-30, 3e17])
def test_arranging_takes_rows_of_any_length(scale: float) -> None:
    rows = (scale * np.random.default_rng(0).normal(size=(200, 10))).astype(np.float32)
    order = _native.arrange(rows, np.zeros(200, np.uint32), 0, 16)
    np.testing.assert_array_equal(np.sort(order), np.arange(200))

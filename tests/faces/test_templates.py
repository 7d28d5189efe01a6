"""Protection keeps what it must and hides what it must; both ways to find the nearest agree with looking at all."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from tenfold.core.errors import InputError
from tenfold.faces import templates
from tenfold.faces.templates import Finder, Protection, rotation, unit_vectors
from tenfold.faces.vault import derive

KEYS = [bytes([number] * 32) for number in range(1, 10)]
KNOWN = bytes(range(32))
DATA = Path(os.environ.get("TENFOLD_DATA", "/nonexistent")) / "faces"


def faces(people: int, each: int, spread: float, dimension: int = 128, seed: int = 0) -> NDArray[np.float64]:
    """Embeddings (people * each, d) that lie around one direction per person."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.standard_normal((people, dimension)), each, axis=0)
    return unit_vectors(centres + spread * rng.standard_normal(centres.shape), dimension)


# --- the rotation ---------------------------------------------------------------------------------------------------


def gram_schmidt(key: bytes, dimension: int, number: int) -> list[list[float]]:
    """The rotation by the description in `templates`, in plain Python: no NumPy, no LAPACK."""
    size, pairs = dimension * dimension, (dimension * dimension + 1) // 2
    data = hashlib.shake_256(derive(key, f"rotation/{dimension}/{number}")).digest(16 * pairs)
    words = [int.from_bytes(data[8 * at : 8 * at + 8], "little") for at in range(2 * pairs)]
    uniform = [((word >> 11) + 1) / 2**53 for word in words]
    length = [math.sqrt(-2 * math.log(value)) for value in uniform[:pairs]]
    angle = [2 * math.pi * value for value in uniform[pairs:]]
    normal = [a * math.cos(b) for a, b in zip(length, angle, strict=True)]
    normal = (normal + [a * math.sin(b) for a, b in zip(length, angle, strict=True)])[:size]
    columns: list[list[float]] = []
    for at in range(dimension):
        column = [normal[row * dimension + at] for row in range(dimension)]
        for _ in range(2):
            for other in columns:
                share = math.fsum(x * y for x, y in zip(column, other, strict=True))
                column = [x - share * y for x, y in zip(column, other, strict=True)]
        norm = math.sqrt(math.fsum(x * x for x in column))
        columns.append([x / norm for x in column])
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize(("dimension", "number"), [(2, 0), (3, 1), (16, 0), (33, 2)])
def test_the_rotation_is_the_one_described_whatever_computes_it(dimension: int, number: int) -> None:
    expected = gram_schmidt(KNOWN, dimension, number)
    assert np.abs(rotation(KNOWN, dimension, number) - expected).max() < 1e-11


def test_the_rotation_is_the_same_on_every_machine_and_in_every_version() -> None:
    """These numbers must never change: galleries on disk depend on them."""
    known = [rotation(KNOWN, 128, number)[[0, 0, 1, -1], [0, 1, 0, -1]] for number in (0, 1)]
    expected = [
        [0.06699654843922098, -0.08520562787972628, 0.05570500189686298, -0.06926327327961297],
        [-0.12943909228518646, -0.09413901255415431, 0.042438261230302844, -0.08149391119829395],
    ]
    assert np.abs(np.array(known) - expected).max() < 1e-11


@pytest.mark.parametrize("dimension", [2, 5, 128, 512])
def test_a_rotation_is_orthogonal_and_its_inverse_its_transpose(dimension: int) -> None:
    q_dd = rotation(KNOWN, dimension)
    assert np.abs(q_dd @ q_dd.T - np.eye(dimension)).max() < 1e-12


def test_rotations_are_uniform_over_keys() -> None:
    """Entries have mean 0, variance 1/d and fourth moment 3/(d(d+2)), as in Haar's measure."""
    entries = np.array([rotation(bytes([a, b] * 16), 4) for a in range(40) for b in range(50)])
    count = len(entries) ** 0.5
    assert np.abs(entries.mean(axis=0)).max() < 4 * 0.5 / count
    assert np.abs((entries**2).mean(axis=0) - 1 / 4).max() < 4 * 0.25 / count
    assert np.abs((entries**4).mean(axis=0) - 3 / 24).max() < 4 * 0.2 / count
    assert abs(np.linalg.det(entries).mean()) < 4 / count  # mirrored as often as not


# --- what it keeps and what it hides --------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [64, 128, 300])
def test_under_one_key_every_cosine_is_kept(dimension: int) -> None:
    vectors = faces(40, 5, 0.7, dimension)
    rotated = Protection(KNOWN, dimension).templates(vectors.astype(np.float32) * 7)
    assert rotated.dtype == np.float32 and rotated.shape == vectors.shape
    assert np.abs(rotated @ rotated.T - vectors @ vectors.T).max() < 2e-6


@pytest.mark.parametrize("code_bits", [None, 256, 512])
def test_across_keys_the_same_face_is_a_stranger(code_bits: int | None) -> None:
    """Mean |cos| below 0.1, and at most twice as many matches as the FAR, at FARs of 1 % and 0.1 %."""
    vectors = faces(100, 4, 0.5)
    owners = np.repeat(np.arange(100), 4)
    different = owners[:, None] != owners
    protections = [Protection(key, 128, code_bits) for key in KEYS]
    rotated = [protection.templates(vectors) for protection in protections]
    scores = protections[0].scores(rotated[0] @ rotated[0].T)
    impostors, genuine = scores[different], scores[~different]
    across = [
        protections[0].scores((one * other).sum(axis=1))
        for at, one in enumerate(rotated)
        for other in rotated[at + 1 :]
    ]
    same_faces = np.concatenate(across)  # the very same picture under two keys
    assert genuine.mean() > 0.7 and np.abs(same_faces).mean() < 0.1
    for far in (0.01, 0.001):
        threshold = np.quantile(impostors, 1 - far)
        assert (same_faces >= threshold).mean() <= 2 * far


def test_whoever_has_the_key_turns_templates_back() -> None:
    """Said in the documentation, and what renewal rests on."""
    vectors = faces(20, 2, 0.5)
    protection = Protection(KNOWN, 128)
    assert np.abs(protection.vectors(protection.templates(vectors)) - vectors).max() < 1e-6
    with pytest.raises(InputError, match="keep signs only"):
        Protection(KNOWN, 128, 256).vectors(Protection(KNOWN, 128, 256).templates(vectors))


@pytest.mark.parametrize(("bits", "least", "most"), [(256, 0.85, 0.93), (512, 0.92, 0.97)])
def test_whoever_has_the_key_gets_near_the_embedding_behind_a_code(bits: int, least: float, most: float) -> None:
    """Codes are no one-way street: signs times directions point roughly where the embedding did."""
    vectors = faces(100, 1, 0.5)
    protection = Protection(KNOWN, 128, bits)
    guessed = unit_vectors(protection.templates(vectors) @ protection._projection, 128)
    assert least < (guessed * vectors).sum(axis=1).mean() < most


@pytest.mark.parametrize(("bits", "dimension"), [(256, 64), (320, 128), (384, 64), (448, 64), (512, 128), (256, 300)])
def test_codes_estimate_the_cosine_without_bias_and_within_the_stated_spread(bits: int, dimension: int) -> None:
    rng = np.random.default_rng(bits + dimension)
    protection = Protection(KNOWN, dimension, bits)
    for cosine in (-0.5, 0.0, 0.3, 0.9):
        one = unit_vectors(rng.standard_normal((300, dimension)), dimension)
        side = rng.standard_normal((300, dimension))
        side = unit_vectors(side - (side * one).sum(axis=1, keepdims=True) * one, dimension)
        other = cosine * one + math.sqrt(1 - cosine**2) * side
        scores = protection.scores((protection.templates(one) * protection.templates(other)).sum(axis=1))
        bound = math.pi / (2 * math.sqrt(bits))
        assert scores.std() < 1.1 * bound
        assert abs(scores.mean() - cosine) < 4 * bound / math.sqrt(300) + 0.01
    ones = protection.templates(one)
    assert protection.scores((ones * ones).sum(axis=1)).tolist() == [1.0] * 300
    assert protection.scores(-(ones * ones).sum(axis=1)).tolist() == [-1.0] * 300


@pytest.mark.parametrize(("code_bits", "size"), [(None, 512), (256, 32), (448, 56), (512, 64)])
def test_templates_come_back_from_a_file_bit_for_bit(code_bits: int | None, size: int) -> None:
    protection = Protection(KNOWN, 128, code_bits)
    rows = protection.templates(faces(7, 1, 0.5))
    data = protection.to_bytes(rows)
    assert len(data) == 7 * size == 7 * protection.template_bytes
    assert np.array_equal(protection.from_bytes(data), rows)


def test_bytes_that_are_no_templates_are_not_read() -> None:
    protection = Protection(KNOWN, 2)
    for values in ([1, 1], [0, 0], [math.nan, 1], [math.inf, 0]):
        with pytest.raises(ValueError, match="not of length 1"):
            protection.from_bytes(np.array(values, "<f4").tobytes())
    with pytest.raises(ValueError, match="reshape"):
        Protection(KNOWN, 2, 256).from_bytes(bytes(33))


@pytest.mark.parametrize(
    ("vectors", "complaint"),
    [
        (np.zeros(4), "one embedding is a row"),
        (np.ones((2, 5)), r"shape \(2, 5\), but this gallery's model gives 4"),
        (np.ones((2, 2, 4)), "shape"),
        ([[1, 2, 3, 4], [1, 2]], "differ in length"),
        ([["a"] * 4], "numbers are needed"),
        (np.ones((1, 4), complex), "numbers are needed"),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], "embedding 1 is zero"),
        ([[math.nan, 0, 0, 1]], "embedding 0 is zero or holds NaN"),
        ([[math.inf, 0, 0, 1]], "infinity"),
    ],
)
def test_embeddings_that_cannot_be_used_are_refused(vectors: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Protection(KNOWN, 4).templates(vectors)  # type: ignore[arg-type]


def test_settings_out_of_range_are_refused_and_the_key_is_not_shown() -> None:
    for dimension in (0, 1, -3, 4097, 2.0, True, None):
        with pytest.raises(InputError, match="dimension is"):
            Protection(KNOWN, dimension)  # type: ignore[arg-type]
    for bits in (0, 128, 250, 1024, "256"):
        with pytest.raises(InputError, match="choose one of 256, 320, 384, 448, 512"):
            Protection(KNOWN, 128, bits)  # type: ignore[arg-type]
    assert repr(KNOWN) not in repr(Protection(KNOWN, 128)) and "key" not in repr(Protection(KNOWN, 128))


@pytest.mark.skipif(not DATA.is_dir(), reason="real faces are not here: set TENFOLD_DATA")
def test_what_codes_cost_in_accuracy_on_real_faces() -> None:
    """ORL at 32 px in 128 principal components of 15 people, AUC on 15 others: a code of 512 bits costs less than one
    of 256, and both less than one point. The figures are in docs/faces/responsible-use.md."""
    pictures = sorted((DATA / "orl").glob("s*/*.png"))
    pixels = np.array([np.asarray(Image.open(one).resize((26, 32), Image.Resampling.BOX)).ravel() for one in pictures])
    owners = np.array([int(one.parent.name[1:]) for one in pictures])
    known = owners <= 15
    vectors = PCA(128, random_state=0).fit(pixels[known] / 255.0).transform(pixels[~known] / 255.0)
    first, second = np.triu_indices(len(vectors), 1)
    same = (owners[~known][:, None] == owners[~known])[first, second]
    aucs = {}
    for code_bits in (None, 256, 512):
        each = []
        for key in KEYS[:3]:
            protection = Protection(key, vectors.shape[1], code_bits)
            rows = protection.templates(vectors)
            each.append(roc_auc_score(same, protection.scores(rows @ rows.T)[first, second]))
        aucs[code_bits] = float(np.mean(each))
    assert aucs[None] > 0.93
    assert aucs[None] - 0.01 < aucs[256] < aucs[512] < aucs[None]


# --- the nearest of many --------------------------------------------------------------------------------------------


def looked_at_all(people: list[NDArray[np.float32]], probe: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """In plain float64: people by their best template, ties to the lower number."""
    best = [max(float(np.dot(row.astype(float), probe.astype(float))) for row in rows) for rows in people]
    return sorted(enumerate(best), key=lambda pair: (-round(pair[1], 12), pair[0]))[:k]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 6), st.integers(0, 1000), st.booleans())
def test_a_matrix_product_finds_whom_looking_at_all_finds(
    counts: list[int], k: int, seed: int, with_doubles: bool
) -> None:
    rng = np.random.default_rng(seed)
    pool = np.float32(unit_vectors(rng.standard_normal((4 if with_doubles else 200, 8)), 8))
    people = [pool[rng.integers(len(pool), size=count)] for count in counts]
    probes = np.float32(unit_vectors(np.concatenate([pool[:2], rng.standard_normal((3, 8))]), 8))
    for probe, ranked in zip(probes, Finder(people, 8).nearest(probes, k), strict=True):
        expected = looked_at_all(people, probe, k)
        assert ranked.people.tolist() == [number for number, _ in expected]
        assert np.abs(ranked.products - [product for _, product in expected]).max(initial=0) < 1e-12


@pytest.mark.parametrize("code_bits", [None, 256])
@pytest.mark.parametrize("doubles", [1, 40])
def test_product_and_index_give_the_very_same_answers(code_bits: int | None, doubles: int) -> None:
    """With the same faces under many names too, where ties must be cut in the same place."""
    protection = Protection(KNOWN, 32, code_bits)
    rows = np.tile(protection.templates(faces(400 // doubles, 3, 0.6, 32)), (doubles, 1))
    rng = np.random.default_rng(1)
    ends = np.cumsum(rng.integers(1, 6, size=len(rows)))
    people = [part for part in np.split(rows, ends[ends < len(rows)]) if len(part)]
    probes = np.concatenate([rows[:20], protection.templates(rng.standard_normal((20, 32)))])
    numbers = rows.shape[1]
    product, index = Finder(people, numbers), Finder(people, numbers, exact_below=len(rows))
    assert (product.uses_index, index.uses_index) == (False, True)
    for k in (1, 5, 10_000):
        for one, other in zip(product.nearest(probes, k), index.nearest(probes, k), strict=True):
            assert one.people.tolist() == other.people.tolist()
            assert one.products.tolist() == other.products.tolist()


def test_nobody_and_one_person_are_found_too() -> None:
    probe = np.float32([[1, 0]])
    assert [len(ranked.people) for ranked in Finder([], 2, 1).nearest(probe, 3)] == [0]
    for exact_below in (1, 2):
        [ranked] = Finder([np.float32([[0.6, 0.8]])], 2, exact_below).nearest(probe, 3)
        assert ranked.people.tolist() == [0] and ranked.products[0] == pytest.approx(0.6)
    assert Finder([probe], 2).nearest(np.zeros((0, 2), np.float32), 1) == []


# --- nothing stays on disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_index_lies_in_a_private_folder_and_only_while_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.setattr(templates, "_MEMORY_FOLDER", memory if in_memory else tmp_path / "missing")
    monkeypatch.setattr(templates.tempfile, "tempdir", str(disk))
    with templates._private_folder(1) as folder:
        assert folder.parent == (memory if in_memory else disk)
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "deep").mkdir()
        with templates._private_folder(1) as other:
            assert other != folder
    with pytest.raises(ZeroDivisionError), templates._private_folder(1):
        raise ZeroDivisionError
    rows = Protection(KNOWN, 8).templates(faces(30, 1, 0.5, 8))
    finder = Finder([rows], 8, exact_below=1)
    finder.nearest(rows[:1], 1)
    assert [*memory.iterdir(), *disk.iterdir()] == []
    assert finder.nearest(rows[3:4], 1)[0].products[0] == pytest.approx(1)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "_MEMORY_FOLDER", tmp_path)
    names = "tenfold-gallery-left", "tenfold-gallery-new", "else"
    for name in names:
        (tmp_path / name / "index").mkdir(parents=True)
    os.utime(tmp_path / names[0], (0, 0))
    os.utime(tmp_path / names[2], (0, 0))
    (tmp_path / "tenfold-gallery-link").symlink_to(tmp_path / "else")
    with templates._private_folder(1) as held:
        os.utime(held, (0, 0))
        with templates._private_folder(1):
            assert held.is_dir()
    assert {entry.name for entry in tmp_path.iterdir()} == {"tenfold-gallery-new", "else", "tenfold-gallery-link"}
    assert (tmp_path / "else/index").is_dir()

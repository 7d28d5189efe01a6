"""InsightFace's `.bin`: pickles by Python 2 and 3 are read, and nothing that a pickle can do besides is done."""

import io
import os
import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import KFold

from tenfold.core.errors import InputError
from tenfold.faces.formats.insightface import insightface_bin
from tenfold.faces.pictures import read_picture


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value, value, value)).save(file, "JPEG")
    return file.getvalue()


PICTURES = [jpeg(20 * number) for number in range(6)]
SAME = [True, False, True]


def written(folder: Path, content: object, protocol: int = 4) -> Path:
    path = folder / "lfw.bin"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def python2(pictures: list[bytes], same: list[bool]) -> bytes:
    """What Python 2's cPickle writes with protocol 2: its strings are bytes, put as BINSTRING or SHORT_BINSTRING."""
    memo = iter(range(1 << 16))

    def put() -> bytes:
        return b"r" + struct.pack("<I", next(memo))

    strings = [
        (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data + put()
        for data in pictures
    ]
    truths = [b"\x88" if value else b"\x89" for value in same]
    lists = [b"]" + put() + b"(" + b"".join(items) + b"e" for items in (strings, truths)]
    return b"\x80\x02" + b"".join(lists) + b"\x86" + put() + b"."


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "content",
    [
        (PICTURES, SAME),
        [PICTURES, SAME],
        ([bytearray(data) for data in PICTURES], SAME),
        ([np.frombuffer(data, np.uint8) for data in PICTURES], SAME),
        ([np.frombuffer(data, np.uint8).copy() for data in PICTURES], tuple(SAME)),
        (PICTURES, np.array(SAME)),
        (PICTURES, [np.bool_(value) for value in SAME]),
        (PICTURES, [int(value) for value in SAME]),
    ],
    ids=["bytes", "list", "bytearray", "views", "arrays", "truth array", "truth scalars", "ints"],
)
def test_all_that_real_files_hold_is_read(content: object, protocol: int, tmp_path: Path) -> None:
    pairs = insightface_bin(written(tmp_path, content, protocol))
    assert pairs.faces.sources == tuple(PICTURES)
    assert pairs.same.tolist() == SAME
    assert pairs.first.tolist() == [0, 2, 4] and pairs.second.tolist() == [1, 3, 5]
    assert (pairs.faces.labels == -1).all()


def test_files_of_python_2_are_read(tmp_path: Path) -> None:
    data = python2([*PICTURES, b"short", b""], [*SAME, False])
    assert pickle.loads(data, encoding="bytes")[0][:6] == PICTURES  # the test's own writer, held to Python's reader
    pairs = insightface_bin(written(tmp_path, data))
    assert pairs.faces.sources == (*PICTURES, b"short", b"")
    assert abs(int(read_picture(pairs.faces.sources[3])[0, 0, 0]) - 60) < 4


@pytest.mark.parametrize("count", [1, 9, 10, 23, 60])
def test_folds_are_those_of_kfold(count: int, tmp_path: Path) -> None:
    """InsightFace's evaluation takes scikit-learn's `KFold(10)` without shuffling."""
    pairs = insightface_bin(written(tmp_path, ([b"x"] * 2 * count, [True] * count)))
    assert len(pairs.folds) == count
    if count >= 10:
        for fold, (_, test) in enumerate(KFold(10).split(np.zeros(count))):
            np.testing.assert_array_equal(np.flatnonzero(pairs.folds == fold), test)


class _Attack:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "attack",
    [
        _Attack(os.system, "touch harmed"),
        _Attack(eval, "open('harmed', 'w')"),
        _Attack(getattr, "", "join"),
        _Attack(bytearray, 1 << 40),
        _Attack(bytes, 1 << 40),
        _Attack(np.zeros, 1 << 40),
        _Attack(np.dtype, "O"),
        np.array([object()], object),
        np.zeros(3, np.float64),
        np.float64(1.0),
        {1: 2},
        {1},
        1.5,
        ValueError("x"),
        Path("x"),
    ],
)
def test_nothing_else_is_read_or_called(
    attack: object, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (attack, ([attack, b"x"], [True]), (PICTURES, [attack, True, True])):
        try:
            data = pickle.dumps(content, protocol)
        except TypeError:
            pytest.skip("cannot be pickled")
        tracemalloc.start()
        with pytest.raises(InputError, match=r"lfw\.bin") as caught:
            insightface_bin(written(tmp_path, data))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "\n" not in str(caught.value)
        assert peak < 10 << 20
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((PICTURES, [True] * 4), "6 pictures for 4 pairs"),
        ((PICTURES, []), "6 pictures for 0 pairs"),
        (([], []), "0 pictures for 0 pairs"),
        ((PICTURES, [True, False, 2]), "answer 2 is no truth value"),
        ((PICTURES, [True, False, None]), "answer 2 is no truth value"),
        ((["text"] * 6, SAME), "picture 0 is no bytes but str"),
        ((PICTURES, SAME, 3), "no pair of pictures and answers"),
        ((3, SAME), "no lists"),
        (b"", "no pickle"),
        (b"PK\x03\x04", "no pickle"),
        (pickle.dumps((PICTURES, SAME))[:-200], "no pickle"),
    ],
)
def test_files_that_are_no_pairs_are_refused(content: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        insightface_bin(written(tmp_path, content))
    assert "lfw.bin" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        insightface_bin(tmp_path / "lfw.bin")


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x80\x04r\xff\xff\xff\xff.",  # memo place 4,294,967,295
        b"\x80\x04]r\xff\xff\xff\xff.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",  # BINBYTES8 of 4 EiB
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x04B\xff\xff\xff\xff.",
        b"\x80\x02T\xff\xff\xff\x7f.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"].",  # FRAME
        b"\x80\x04\x8b\xff\xff\xff\x7f1.",  # LONG4
        b"(" * 100_000 + b".",
        b"\x80\x04" + b"]" * 1000 + b"a" * 999 + b".",  # lists in lists in lists
        b"I" + b"9" * 100_000 + b"\n.",
    ],
)
def test_stated_sizes_are_not_believed(hostile: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, hostile)
    tracemalloc.start()
    with pytest.raises(InputError):
        insightface_bin(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


SEEDS = [
    pickle.dumps((PICTURES[:2], [True]), 4),
    pickle.dumps((PICTURES[:2], np.array([True])), 2),
    pickle.dumps(([np.frombuffer(data, np.uint8) for data in PICTURES[:2]], [np.bool_(True)]), 5),
    python2(PICTURES[:2], [False]),
]


def test_a_text_that_is_made_bytes_of_again_and_again_is_refused(tmp_path: Path) -> None:
    """A megabyte may not become a thousand: each step here is ten bytes that ask for a copy of the whole text."""
    text = b"a" * (1 << 20)
    first = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text + b"q\x01X\x06\0\0\0latin1q\x02\x86R"
    pictures = b"](" + first + b"h\x00h\x01h\x02\x86R" * 1000 + b"e"
    hostile = b"\x80\x02" + pictures + b"](" + b"\x88" * 500 + b"e\x86."
    written(tmp_path, hostile)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"lfw\.bin: makes more bytes than it has.*do not trust"):
            insightface_bin(tmp_path / "lfw.bin")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=400)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    cut=st.floats(0, 1.3),
)
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    """Whatever bytes are changed or missing: pairs of bytes, or `InputError`."""
    data = bytearray(seed)
    for at, value in changes:
        # Half of the changes hit the few bytes that are no picture.
        places = [at for _, _, at in pickletools.genops(seed)] if value % 2 else range(len(data))
        data[places[int(at * (len(places) - 1))]] = value
    try:
        pairs = insightface_bin(written(tmp_path_factory.getbasetemp(), bytes(data[: int(cut * len(data))])))
    except InputError as error:
        assert "lfw.bin: " in str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(source, bytes) for source in pairs.faces.sources)
        assert len(pairs.faces) == 2 * len(pairs)

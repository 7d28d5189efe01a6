"""RecordIO as MXNet writes it: read where it is whole, refused in one line where it is not."""

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.crops import crop_faces
from tenfold.faces.data import read_faces
from tenfold.faces.formats.recordio import record_io
from tenfold.faces.pictures import Span, picture_bytes

MAGIC = struct.pack("<I", 0xCED7230A)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((20, 20)).point(lambda grey: (grey + value) % 256).save(file, "PNG")
    return file.getvalue()


def packed(labels: list[float], picture: bytes, key: int = 0) -> bytes:
    """MXNet's `pack`: one label stands in the header, several behind it."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], key, 0) + picture
    return struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0, key, 0, *labels) + picture


def framed(data: bytes) -> bytes:
    """dmlc-core's writer: a record is split at each magic that lies in it on a multiple of four."""
    places = [at for at in range(0, len(data) - 3, 4) if data[at : at + 4] == MAGIC]
    starts, stops = [0, *(at + 4 for at in places)], [*places, len(data)]
    out = b""
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part = 0 if not places else 1 if number == 0 else 3 if number == len(places) else 2
        out += MAGIC + struct.pack("<I", part << 29 | stop - start) + data[start:stop] + bytes(-(stop - start) % 4)
    return out


def written(folder: Path, records: dict[int, bytes], prop: str | None = "3,20,20") -> Path:
    folder.mkdir(exist_ok=True)
    file, lines = b"", []
    for key, data in records.items():
        lines.append(f"{key}\t{len(file)}\n")
        file += framed(data)
    (folder / "train.rec").write_bytes(file)
    (folder / "train.idx").write_text("".join(lines))
    if prop is not None:
        (folder / "property").write_text(prop)
    return folder


PICTURES = [png(40 * number) for number in range(5)]
LABELS = [0.0, 0.0, 2.0, 1.0, 1.0]
INSIGHTFACE = {
    0: packed([6.0, 9.0], b""),
    **{key: packed([LABELS[key - 1]], PICTURES[key - 1], key) for key in (1, 2, 3)},
    **{key: packed([LABELS[key - 1], 5.5, 7.5], PICTURES[key - 1], key) for key in (4, 5)},
    **{key: packed([1.0, 3.0], b"") for key in (6, 7, 8)},
}


def test_sets_of_insightface_are_read(tmp_path: Path) -> None:
    """Record 0 says where identities lie; pictures have one label or several, of which the first is the person."""
    faces = read_faces(written(tmp_path / "set", INSIGHTFACE))
    assert [picture_bytes(source) for source in faces.sources if not isinstance(source, np.ndarray)] == PICTURES
    assert all(isinstance(source, Span) for source in faces.sources)
    assert faces.people == ("0", "1", "2") and faces.labels.tolist() == [0, 0, 2, 1, 1]
    assert faces.names[0] == "train.rec: record 1"
    assert crop_faces(faces, None, 20).statuses == ("ok",) * 5


def test_sets_without_a_header_are_read_in_the_order_of_their_keys(tmp_path: Path) -> None:
    records = {key: packed([LABELS[key]], PICTURES[key], key) for key in (3, 0, 1, 2, 4)}
    faces = record_io(written(tmp_path / "set", records, None))
    assert [picture_bytes(source) for source in faces.sources] == PICTURES
    assert faces.labels.tolist() == [0, 0, 2, 1, 1]


@settings(max_examples=60)
@given(st.lists(st.sampled_from([MAGIC, b"abcd", b"x", MAGIC[:2], b""]), max_size=9))
def test_records_that_hold_the_magic_are_joined_again(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    picture = b"p" + b"".join(pieces)
    folder = written(tmp_path_factory.getbasetemp() / "split", {1: packed([1.0], picture), 2: packed([0.0], b"next")})
    assert [picture_bytes(source) for source in record_io(folder).sources] == [picture, b"next"]


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        record_io(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    return message


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    for name in ("train.rec", "train.idx"):
        folder = written(tmp_path / name, INSIGHTFACE)
        (folder / name).unlink()
        assert f"{name}: there is no such file" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("", "names no record"),
        ("1\t0\nx\t4\n", "line 2"),
        ("1\t0\n1\t4\n", "line 2: key 1 is there twice"),
        ("1\t-4\n", "line 1"),
        ("1 2 3\n", "line 1"),
        ("1\t4\n", "record 1: no record begins there"),
        ("1\t999999\n", "record 1: no record begins there"),
        ("1\t999999999999999999\n", "record 1: no record begins there"),
        ("0\t0\n1\t40\n", "record 0: says there are 5 pictures, train.idx has 1"),
        ("1\t0\n", "record 1: has no picture"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(index: str, says: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "set", INSIGHTFACE)
    (folder / "train.idx").write_text(index)
    assert says in refusal(folder)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"short", "fewer than its header"),
        (struct.pack("<IfQQ", 1 << 31, 0, 0, 0), "2,147,483,648 labels"),
        (packed([float("nan")], b"picture"), "number nan"),
        (packed([float("inf")], b"picture"), "number inf"),
        (packed([-1.0], b"picture"), "number -1.0"),
        (packed([0.5], b"picture"), "number 0.5"),
        (packed([1e30], b"picture"), "number 1"),
        (packed([1.0], b""), "has no picture"),
    ],
)
def test_records_that_are_no_pictures_are_refused(record: bytes, says: str, tmp_path: Path) -> None:
    assert says in refusal(written(tmp_path / "set", {5: record}))


@pytest.mark.parametrize("end", [float("nan"), float("inf"), -1.0, 1.0, 5.0, 7.0, 1e12])
def test_a_header_that_lies_is_refused(end: float, tmp_path: Path) -> None:
    folder = written(tmp_path / "set", {**INSIGHTFACE, 0: packed([end, 9.0], b"")})
    says = {5.0: "record 5: has a picture, which record 0 denies", 7.0: "record 6: has no picture"}
    assert says.get(end, "record 0: ") in refusal(folder)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "set", {1: packed([0.0], PICTURES[0])})
    data = (folder / "train.rec").read_bytes()
    (folder / "train.rec").write_bytes(data[:-40])
    assert "which train.rec does not; it is cut" in refusal(folder)


def test_parts_in_a_wrong_order_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "set", {1: packed([0.0], b"abcd" + MAGIC + b"efgh" + MAGIC + b"ijkl")})
    data = (folder / "train.rec").read_bytes()
    second = data.index(MAGIC, 4)
    for number, changed in enumerate((data[:second], data[second:], data[:second] + data[:second] + data[second:])):
        (folder / "train.rec").write_bytes(changed)
        assert "record 1" in refusal(folder), number


def test_property_of_another_set_is_refused(tmp_path: Path) -> None:
    assert "says 2 people, train.rec has 3" in refusal(written(tmp_path / "set", INSIGHTFACE, "2,20,20"))
    for text in ("", "3", "three,20,20", "3 20 20"):
        assert "is not people, height and width" in refusal(written(tmp_path / "set", INSIGHTFACE, text))


def test_records_that_lie_in_each_other_are_not_all_kept(tmp_path: Path) -> None:
    """An index of many keys at one split record would hold its bytes many times."""
    folder = written(tmp_path / "set", {1: packed([0.0], (b"abcd" + MAGIC) * 40_000)})
    (folder / "train.idx").write_text("".join(f"{key}\t0\n" for key in range(1, 500)))
    tracemalloc.start()
    assert "records lie in each other" in refusal(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(st.sampled_from(["rec", "idx"]), st.floats(0, 1), st.integers(0, 255)), max_size=4),
    cut=st.floats(0.2, 1.5),
)
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, float, int]], cut: float
) -> None:
    """Small records, so that most changes hit frames and headers: every picture lies in the file, or `InputError`."""
    records = {0: packed([3.0, 3.0], b""), 1: packed([0.0], b"one" + MAGIC), 2: packed([1.0, 2.0], b"a" + MAGIC * 3)}
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        written(tmp_path_factory.getbasetemp() / "whole", records)
        folder.mkdir()
    for suffix in ("rec", "idx"):
        data = bytearray((folder.with_name("whole") / f"train.{suffix}").read_bytes())
        for kind, at, value in changes:
            if kind == suffix:
                data[int(at * (len(data) - 1))] = value
        (folder / f"train.{suffix}").write_bytes(data[: int(cut * len(data))] if suffix == "rec" else data)
    try:
        faces = record_io(folder)
    except InputError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        assert len(faces) and faces.labels.min() >= 0
        assert all(len(picture_bytes(source)) > 0 for source in faces.sources)

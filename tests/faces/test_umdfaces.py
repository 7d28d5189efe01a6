"""UMDFaces: faces in boxes on whole photographs, listed in CSV files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.crops import crop_faces
from tenfold.faces.data import read_faces
from tenfold.faces.formats.umdfaces import umdfaces

HEAD = "ID,FILE,SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,YAW\n"
ROWS = """1,ann_lee/ann_lee_0001.jpg,17,10,20,30.5,40,0.1
2,ann_lee/ann_lee_0001.jpg,4,60,20,30,30,0.1
3,"zoë, b/zoe_0001.jpg",17,0,0,0,10,0.1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ann_lee/ann_lee_0001.jpg", "zoë, b/zoe_0001.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(rng.integers(0, 255, (100, 100, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def table(folder: Path, text: str | bytes, name: str = "batch1.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_are_faces_with_boxes(root: Path) -> None:
    faces = read_faces(table(root, HEAD + ROWS))
    assert faces.people == ("17", "4") and faces.labels.tolist() == [0, 1, 0]
    assert faces.boxes is not None and faces.boxes[0].tolist() == [10, 20, 30.5, 40]
    assert faces.names[2] == "zoë, b/zoe_0001.jpg"
    made = crop_faces(faces, None, 32)
    assert made.statuses == ("ok", "ok", "too small")
    assert "box" in made.messages[2] and "no area" in made.messages[2]
    assert not np.array_equal(made.crops_NSSC[0], made.crops_NSSC[1])


def test_several_tables_are_one_set(root: Path) -> None:
    tables = [table(root, HEAD + ROWS), table(root, "\ufeff" + (HEAD + ROWS).replace("\n", "\r\n"), "batch2.csv")]
    faces = umdfaces(tables)
    assert len(faces) == 6 and faces.labels.tolist() == [0, 1, 0] * 2
    elsewhere = root / "tables"
    elsewhere.mkdir()
    assert umdfaces([table(elsewhere, HEAD + ROWS)], root).sources == faces.sources[:3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column FILE, SUBJECT_ID"),
        (HEAD, "no rows"),
        (HEAD.replace("FACE_X,", "") + ROWS, "no column FACE_X;"),
        (HEAD + "1,../../etc/passwd,17,1,1,9,9,0\n", "line 2: '../../etc/passwd' is no path below"),
        (HEAD + "1,/etc/passwd,17,1,1,9,9,0\n", "line 2: '/etc/passwd' is no path below"),
        (HEAD + "1,,17,1,1,9,9,0\n", "line 2: '' is no path below"),
        (HEAD + "1,a.jpg,,1,1,9,9,0\n", "line 2: SUBJECT_ID is empty"),
        (HEAD + "1,a.jpg,17,one,1,9,9,0\n", "line 2: FACE_X is 'one'"),
        (HEAD + "1,a.jpg,17,1,nan,9,9,0\n", "line 2: FACE_Y is 'nan'"),
        (HEAD + "1,a.jpg,17,1,1,1e99,9,0\n", "line 2: FACE_WIDTH is '1e99'"),
        (HEAD + "1,a.jpg,17,1,1\n", "line 2: ends early"),
        (HEAD + '1,"a.jpg,17,1,1,9,9,0\n', "is no CSV"),
        ((HEAD + ROWS).encode("latin1"), "not UTF-8"),
    ],
)
def test_tables_that_are_none_are_refused(text: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        umdfaces([table(tmp_path, text)])
    assert "batch1.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_no_table_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="no table"):
        umdfaces([])


@settings(max_examples=100)
@given(st.integers(0, len((HEAD + ROWS).encode()) - 1), st.integers(1, 255), st.integers(1, 300))
def test_damaged_tables_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int, cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = bytearray((HEAD + ROWS).encode())
    data[at] ^= flip
    try:
        faces = umdfaces([table(folder, bytes(data[:cut]))])
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert faces.boxes is not None and np.isfinite(faces.boxes).all()
        assert all(isinstance(path, Path) and ".." not in path.relative_to(folder).parts for path in faces.sources)

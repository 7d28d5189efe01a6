"""Hostile files of an index that takes updates, checksums right: refused in one line; a reader keeps what it had."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import fuzz_index
import numpy as np
import pytest
from oracles import make_vectors
from test_living import expect

from tenfold.core.errors import InputError
from tenfold.search import LivingIndex
from tenfold.search.log import ADD, DELETE, Log
from tenfold.search.storage import SectionFile

ROWS = make_vectors(60, 4, "float32")

pytestmark = pytest.mark.usefixtures("uncalibrated")


def added(ids: list[int], rows: np.ndarray, values: bytes = b"") -> bytes:
    return struct.pack("<I", len(ids)) + np.array(ids, "<i8").tobytes() + rows.tobytes() + values


HOSTILE = {
    "no count": (1, ADD, b"\1\0\0"),
    "vectors cut": (1, ADD, added([5], ROWS[:0])),
    "count huge": (1, ADD, b"\xff" * 100),
    "an id twice": (1, ADD, added([5, 5], ROWS[:2])),
    "id negative": (1, ADD, added([-1], ROWS[:1])),
    "NaN": (1, ADD, added([5], ROWS[:1] * np.float32(np.nan))),
    "vectors too long": (1, ADD, added([5], np.full((1, 4), 1e38, np.float32))),
    "attributes cut": (1, ADD, added([5], ROWS[:1], b'{"year": [1')),
    "attributes no text": (1, ADD, added([5], ROWS[:1], b"\xff")),
    "attributes deep": (1, ADD, added([5], ROWS[:1], b"[" * 100_000)),
    "attributes a list": (1, ADD, added([5], ROWS[:1], b"[1]")),
    "another column": (1, ADD, added([5], ROWS[:1], b'{"month": [1]}')),
    "column long": (1, ADD, added([5], ROWS[:1], b'{"year": [1, 2]}')),
    "column of texts": (1, ADD, added([5], ROWS[:1], b'{"year": ["1"]}')),
    "value no number": (1, ADD, added([5], ROWS[:1], b'{"share": [NaN]}')),
    "value huge": (1, ADD, added([5], ROWS[:1], b'{"share": [1' + b"0" * 400 + b"]}")),
    "half an id": (1, DELETE, bytes(9)),
    "deleted twice": (1, DELETE, bytes(16)),
    "another operation": (1, 7, added([5], ROWS[:1])),
    "the last number": ((1 << 64) - 1, ADD, added([5], ROWS[:1])),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_record_that_is_no_change_is_refused(case: str, tmp_path: Path) -> None:
    """By whoever opens the index, and by a reader who has it open, which goes on with what came before."""
    path = tmp_path / "index"
    with LivingIndex.create(path, 4, columns={"year": "int", "share": "float"}) as index:
        index.add(ROWS[:3], attributes={"year": [1, 2, 3]})
    reader = LivingIndex.open(path, read_only=True)
    [place] = path.glob("log-*")
    log = Log(place, "always")
    log.append(2, ADD, added([3], ROWS[3:4]))
    log.append(*HOSTILE[case])
    log.close()
    complaint = r"log-\d+: the record at byte [\d,]+ is no change of this index"
    for call in (reader.refresh, lambda: LivingIndex.open(path, read_only=True), lambda: LivingIndex.open(path)):
        with pytest.raises(InputError, match=complaint) as caught:
            call()
        assert "\n" not in str(caught.value)
    expect(reader, dict(enumerate(ROWS[:4])), ROWS[:2])
    assert reader.attributes([0, 3]) == {"year": [1, None], "share": [None, None]}


def test_a_reader_whose_refresh_fails_keeps_what_it_had(tmp_path: Path) -> None:
    """Also where it had begun to open other segments; once the damage is mended it follows again."""
    with LivingIndex.create(tmp_path / "index", 4) as index:
        index.add(ROWS[:20])
        reader = LivingIndex.open(tmp_path / "index", read_only=True)
        index.compact()
        index.delete([0])
        start = index._stack.writer().synced
        index.add(ROWS[20:40])
        index.add(ROWS[40:])
        log = index._stack.writer().path
        whole = log.read_bytes()
        log.write_bytes(whole[: start + 30] + bytes([whole[start + 30] ^ 1]) + whole[start + 31 :])
        with pytest.raises(InputError, match=f"the record at byte {start:,} is damaged"):
            reader.refresh()
        expect(reader, dict(enumerate(ROWS[:20])), ROWS[:3])
        log.write_bytes(whole)
        reader.refresh()
        expect(reader, {number: row for number, row in enumerate(ROWS) if number}, ROWS[:3])


@pytest.mark.parametrize("living", [True, False])
def test_labels_of_rows_that_are_not_there_are_refused(
    living: bool, tmp_path: Path, index_copy: Callable[..., Path]
) -> None:
    """When a segment is opened, and when a built index becomes one."""
    path = folder = index_copy(700, 33, "uint8", "l2")
    if living:
        with LivingIndex.open(path) as index:
            [segment] = index.stats()["segments"]
        folder = path / segment["folder"]
    labels = np.array(SectionFile(folder / "vectors.bin", "vectors").array("labels", "<u4"))
    labels[17] = 700
    fuzz_index.rewrite(folder, "vectors.bin", {"labels": labels})
    with pytest.raises(InputError, match=r"vectors\.bin: names rows that are not there"):
        LivingIndex.open(path)


ENDING = """
import sys, threading
import numpy as np
from tenfold.search import LivingIndex, _native, maintaining, stack

begun, data, open_part = threading.Event(), np.zeros(1 << 22, np.uint8), stack.Stack.open_part

def open_slowly(self, part):
    begun.set()
    for _ in range(500):
        _native.crc32c(data)
    return open_part(self, part)

maintaining._DELTA_ROWS, stack.Stack.open_part = 100, open_slowly
index = LivingIndex.create(sys.argv[1], 8, dtype="uint8")
index.add(np.arange(800, dtype=np.uint8).reshape(100, 8))
begun.wait()
"""


def test_python_may_end_while_a_segment_is_opened(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """An index that was not closed: nothing is lost, and the process ends well."""
    done = python(ENDING, tmp_path / "index")
    assert done.returncode == 0, done.stderr
    assert len(LivingIndex.open(tmp_path / "index")) == 100

"""The write-ahead log: what was written comes back, and of a log that a crash or a fault touched only what is whole."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.search import log as log_module
from tenfold.search.log import ADD, DELETE, Durability, Log, Record, read_log

PAYLOADS = [b"", b"a", bytes(range(256)) * 3, b"\0" * 40, b"last"]


def write(path: Path, durability: Durability = "always", payloads: list[bytes] = PAYLOADS) -> list[Record]:
    log = Log(path, durability)
    records = [Record(number, ADD if number % 2 else DELETE, payload) for number, payload in enumerate(payloads, 1)]
    for record in records:
        log.append(*record)
    log.close()
    return records


def ends(path: Path, records: list[Record]) -> list[int]:
    """Where each record ends in the file."""
    sizes = [25 + len(record.payload) for record in records]
    assert path.stat().st_size == 16 + sum(sizes)
    return (16 + np.cumsum(sizes)).tolist()


@pytest.mark.parametrize("durability", ["always", "batch", "none"])
def test_records_come_back(tmp_path: Path, durability: Durability) -> None:
    records = write(tmp_path / "log", durability)
    assert list(read_log(tmp_path / "log")) == records


def test_a_reopened_log_goes_on(tmp_path: Path) -> None:
    records = write(tmp_path / "log")
    log = Log(tmp_path / "log", "always")
    log.append(6, ADD, b"more")
    log.close()
    assert list(read_log(tmp_path / "log")) == [*records, Record(6, ADD, b"more")]


def test_cut_anywhere_the_whole_records_before_the_cut_remain(tmp_path: Path) -> None:
    """As after a crash in the middle of a write; and what is written next stands behind them."""
    path = tmp_path / "log"
    records = write(path)
    whole, stops = path.read_bytes(), ends(path, records)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = records[: sum(stop <= size for stop in stops)]
        assert list(read_log(path)) == kept, size
        if size % 7 == 0:
            log = Log(path, "always")
            log.append(9, DELETE, b"next")
            log.close()
            assert list(read_log(path)) == [*kept, Record(9, DELETE, b"next")], size


@settings(max_examples=200)
@given(place=st.integers(16, 16 + 5 * 25 + sum(map(len, PAYLOADS)) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_synced_records_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    """Every record but the last was on disk when a later one was written, so a broken one is damage, not a torn end."""
    path = tmp_path_factory.mktemp("log") / "log"
    records = write(path)
    stops = ends(path, records)
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    hit = sum(stop <= place for stop in stops)
    if hit == len(records) - 1:
        assert list(read_log(path)) == records[:-1]
        return
    with pytest.raises(InputError, match=rf"log: the record at byte {[16, *stops][hit]:,} is damaged"):
        list(read_log(path))
    with pytest.raises(InputError, match="is damaged"):
        Log(path, "always")


@settings(max_examples=100)
@given(lost=st.sets(st.integers(0, 4), min_size=1))
def test_unsynced_records_may_reach_the_disk_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, lost: set[int]
) -> None:
    """A power cut leaves zeros where some were; those before the first hole count, and nothing is called damage."""
    path = tmp_path_factory.mktemp("log") / "log"
    records = write(path, "none")
    stops = ends(path, records)
    left = bytearray(path.read_bytes())
    for number in lost:
        start = [16, *stops][number]
        left[start : stops[number]] = bytes(stops[number] - start)
    path.write_bytes(left)
    assert list(read_log(path)) == records[: min(lost)]


def was_synced(rest: bytes, broken: int) -> bool:
    """The slow twin: each record for itself."""
    for start in range(len(rest) - 24):
        length, crc, _, synced, operation = struct.unpack_from("<IIQQB", rest, start)
        body = rest[start + 8 : start + 25 + length]
        whole = len(body) == 17 + length and log_module._crc(body) == crc
        if whole and operation in (ADD, DELETE) and broken < synced <= broken + start:
            return True
    return False


@st.composite
def remains(draw: st.DrawFn) -> tuple[bytes, int]:
    """What may lie behind a broken record that begins at a byte: junk, zeros, and records that say this and that."""
    rest, broken = b"", draw(st.integers(16, 1 << 40))
    for _ in range(draw(st.integers(0, 5))):
        junk = draw(st.binary(max_size=40) | st.integers(0, 40).map(bytes))
        synced = broken + draw(st.integers(-3, 3) | st.integers(0, len(rest) + 60))
        body = struct.pack("<QQB", 5, synced, draw(st.integers(0, 3))) + draw(st.binary(max_size=40))
        record = struct.pack("<II", len(body) - 17 + draw(st.sampled_from([0, 0, 0, 1])), log_module._crc(body)) + body
        rest += junk + record[: draw(st.sampled_from([len(record), len(record), 30]))]
    return rest, broken


@settings(max_examples=300)
@given(left=remains(), chunk=st.sampled_from([1, 7, 1 << 20]))
def test_what_was_on_the_disk_is_found_at_once(left: tuple[bytes, int], chunk: int) -> None:
    before, log_module._CHUNK = log_module._CHUNK, chunk
    try:
        assert log_module._was_synced(*left) == was_synced(*left)
    finally:
        log_module._CHUNK = before


def test_a_damaged_log_is_opened_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like thousands of records, each to the end of the file, is summed up once, not once for each."""
    path, records = tmp_path / "log", 4096
    heads = (struct.pack("<IIQQB7x", 32 * (records - 1 - at), 0, 5, 17, ADD) for at in range(records))
    path.write_bytes(struct.pack("<8sI4x", b"TENFLOG\0", 1) + b"".join(heads))
    real, summed = log_module._native.crc32c, []

    def count(data: np.ndarray, start: int = 0) -> int:
        summed.append(len(data))
        return int(real(data, start))

    monkeypatch.setattr(log_module._native, "crc32c", count)
    assert list(read_log(path)) == []
    assert sum(summed) < 3 * path.stat().st_size


def test_a_write_that_fails_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path / "log", "always")
    log.append(1, ADD, b"first")
    real, calls = os.pwrite, []

    def refuse(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:10], offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="No space left"):
        log.append(2, ADD, b"second")
    monkeypatch.undo()
    log.append(3, ADD, b"third")
    log.close()
    assert list(read_log(tmp_path / "log")) == [Record(1, ADD, b"first"), Record(3, ADD, b"third")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"something else entirely", "is no log of a Tenfold index"), (b"TENFLOG\0\x02\0\0\0\0\0\0\0", "upgrade Tenfold")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        list(read_log(tmp_path / "log"))

"""Section files: what is written is read back, is written whole or not at all, and says when it was changed."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.storage import SectionFile, SectionWriter, replace_file

ARRAYS = {
    "floats": np.arange(3000, dtype=np.float32).reshape(60, 50),
    "words": np.arange(1024, dtype=np.uint32),  # fills a page exactly
    "none": np.zeros(0, np.uint64),
    "bytes": np.arange(255, dtype=np.uint8),
    "longs": np.array([-(2**63), 2**63 - 1], np.int64),
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with SectionWriter(tmp_path / "a.bin", "sample") as file:
        for name, array in ARRAYS.items():
            file.add(name, array)
    return tmp_path / "a.bin"


def crc32c(data: bytes) -> int:
    """Bit by bit, as the standard says (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@given(st.binary(max_size=200), st.integers(0, 200))
def test_checksum_is_crc32c(data: bytes, cut: int) -> None:
    """Against the definition, at once and in two pieces."""
    array = np.frombuffer(data, np.uint8)
    assert _native.crc32c(array) == crc32c(data)
    assert _native.crc32c(array[cut:], _native.crc32c(array[:cut])) == crc32c(data)


def test_known_checksum() -> None:
    assert _native.crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283


def test_what_was_written_is_read(written: Path) -> None:
    file = SectionFile(written, "sample")
    assert file.names() == list(ARRAYS)
    for name, array in ARRAYS.items():
        found = file.array(name, array.dtype.str, None).reshape(array.shape)
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable or found.size == 0
        assert file.section(name).offset % 4096 == 0
        assert b"".join(file.chunks(name, 100)) == array.tobytes()
        file.check(name)
    assert written.stat().st_size % 4096 == 0


def test_rows_in_pieces_are_one_section(tmp_path: Path, written: Path) -> None:
    """The same bytes as when written at once."""
    with SectionWriter(tmp_path / "b.bin", "sample") as file:
        for name, array in ARRAYS.items():
            file.begin(name, array.dtype.str, array[0].size if array.ndim > 1 else 1)
            for part in np.array_split(array, 7):
                file.write(part)
            file.end()
    assert (tmp_path / "b.bin").read_bytes() == written.read_bytes()


def test_wrong_requests(written: Path) -> None:
    """Another kind, dtype, number of columns or name: refused, with the file's name."""
    file = SectionFile(written, "sample")
    for work in (
        lambda: SectionFile(written, "graph"),
        lambda: SectionFile(written.with_name("none.bin"), "sample"),
        lambda: file.array("floats", "<u4", 50),
        lambda: file.array("floats", "<f4", 49),
        lambda: file.array("absent", "<f4"),
    ):
        with pytest.raises(InputError, match=r"\.bin"):
            work()


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999999), value=st.integers(1, 255))
def test_every_changed_byte_is_seen(place: float, value: int, written: Path) -> None:
    """In the header, in a section, or among the zeros that fill a page."""
    content = bytearray(written.read_bytes())
    content[int(place * len(content))] ^= value
    changed = written.with_name("changed.bin")
    changed.write_bytes(content)
    with pytest.raises(InputError, match=r"changed\.bin"):  # noqa: PT012 - opening or checking, either may notice
        file = SectionFile(changed, "sample")
        for name in file.names():
            file.check(name)


@pytest.mark.parametrize("count", [64, 1000, 2**32 - 1])
def test_impossible_number_of_sections(count: int, written: Path) -> None:
    """More than a header has room for, under a checksum that holds."""
    content = bytearray(written.read_bytes())
    content[40:44] = count.to_bytes(4, "little")
    content[12:16] = bytes(4)
    content[12:16] = _native.crc32c(np.frombuffer(content[:4096], np.uint8)).to_bytes(4, "little")
    written.write_bytes(content)
    with pytest.raises(InputError, match="sections"):
        SectionFile(written, "sample")


def test_interrupted_writer_leaves_the_old_file(written: Path) -> None:
    before = written.read_bytes()
    for writer in (SectionWriter(written, "sample"), replace_file(written)):
        with contextlib.suppress(KeyboardInterrupt), writer as file:
            if isinstance(file, SectionWriter):
                file.add("words", np.zeros(9, np.uint32))
            raise KeyboardInterrupt
        assert written.read_bytes() == before


def test_page_checksums() -> None:
    """One per page, whatever the number of threads."""
    data = np.random.default_rng(0).integers(0, 256, 512 * 300, dtype=np.uint8)
    expected = [_native.crc32c(page) for page in data.reshape(-1, 512)]
    for threads in (1, 2):
        assert _native.page_checksums(data, 512, threads).tolist() == expected
    with pytest.raises(InputError):
        _native.page_checksums(data[:-1], 512)

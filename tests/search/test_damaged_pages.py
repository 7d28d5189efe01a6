"""Pages of vectors that changed on disk: one clear line, also when many arrive damaged at once."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import InputError
from tenfold.search import Index


@pytest.mark.parametrize("io", ["auto", "direct", "buffered"])
def test_search_ends_with_an_error_when_most_pages_are_damaged(tmp_path: Path, io: str) -> None:
    """Once the first damaged page had ended a search, the reads behind it were waited for for ever."""
    rows = np.random.default_rng(0).integers(0, 256, (5000, 64), dtype=np.uint8)
    Index.build(rows, tmp_path / "index")
    shutil.copytree(tmp_path / "index", tmp_path / "damaged")
    vectors = tmp_path / "damaged" / "vectors.bin"
    content = bytearray(vectors.read_bytes())
    for page in range(2, 78):
        content[4096 * page] ^= 1
    vectors.write_bytes(content)
    try:
        index = Index.open(tmp_path / "damaged", io=io)
    except InputError as refused:
        pytest.skip(str(refused))
    for _ in range(3):
        with pytest.raises(InputError, match=r"vectors\.bin: page \d+ does not match its checksum"):
            index.search(rows[:200])
    assert any("vectors.bin" in line for line in index.verify())


def test_vectors_in_memory_are_checked_when_opened(tmp_path: Path) -> None:
    """io="memory" reads every page at once: a damaged one is found before the first search."""
    rows = np.random.default_rng(0).integers(0, 256, (500, 64), dtype=np.uint8)
    Index.build(rows, tmp_path / "index")
    vectors = tmp_path / "index" / "vectors.bin"
    content = bytearray(vectors.read_bytes())
    content[4096 * 3 + 17] ^= 1
    vectors.write_bytes(content)
    with pytest.raises(InputError, match=r"vectors\.bin: page 2 does not match its checksum"):
        Index.open(tmp_path / "index", io="memory")

"""Documents come back as they were written, whatever the container; what is broken is refused with its place."""

import gzip
import json
import re
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tenfold.attention.data import list_files, read_texts
from tenfold.core.errors import InputError

TEXTS = ["one\nline", "zwei – ß\u2028", "三 𝔘", " \t\n", "last\\"]
FULL = [text for text in TEXTS if text.strip()]


def json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"meta": 1, "text": text}).encode() + b"\n" for text in texts)


def write(path: Path, texts: list[str] = TEXTS) -> Path:
    lines = json_lines(texts)
    if path.name.endswith(".gz"):
        lines = gzip.compress(lines)
    if path.name.endswith(".zst"):
        zstandard = pytest.importorskip("zstandard")
        half = lines.index(b"\n") - 3  # two frames, cut amid a line
        lines = b"".join(zstandard.ZstdCompressor().compress(part) for part in (lines[:half], lines[half:]))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=2)
    else:
        path.write_bytes(lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_container_gives_its_texts_and_passes_over_blank_ones(tmp_path: Path, name: str) -> None:
    assert list(read_texts([write(tmp_path / name)])) == FULL


def test_byte_order_mark_and_line_ends_of_a_real_novel(attention_data: Path) -> None:
    raw = (attention_data / "war_and_peace.txt").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf") and b"\r\n" in raw, "the file that this test is about"
    (text,) = read_texts([attention_data / "war_and_peace.txt"])
    assert text.encode() == raw[3:].replace(b"\r\n", b"\n")
    assert "\r" not in text and not text.startswith("\ufeff")


def test_folders_are_read_through_all_levels_by_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/y.md", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index.txt").write_bytes(b"\xff")
    write(tmp_path / "d.jsonl", ["row 1", "row 2"])
    told: list[tuple[str, int, int]] = []
    texts = list(read_texts([tmp_path], progress=lambda *state: told.append(state)))
    assert texts == ["a/y.md", "a/z.txt", "b.txt", "c.txt", "row 1", "row 2"]
    assert told == [("read", number, 6) for number in range(1, 7)]
    assert list(read_texts([tmp_path / "c.txt", tmp_path / "a"], pattern="*.txt")) == ["c.txt", "a/z.txt"]


def test_python_s_library_is_a_corpus() -> None:
    """Some of its test files are in other encodings on purpose."""
    folder = Path(sysconfig.get_path("stdlib")) / "json"
    texts = list(read_texts([folder], pattern="*.py"))
    assert len(texts) == len([file for file in list_files([folder], pattern="*.py") if file.stat().st_size])
    assert any("class JSONDecoder" in text for text in texts)


def test_files_of_a_folder_that_are_not_utf8_can_be_passed_over_but_a_named_one_never(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("good")
    (tmp_path / "b.py").write_bytes("# Grüße".encode("latin-1"))
    assert list(read_texts([tmp_path], undecodable="skip")) == ["good"]
    for path, skip in ((tmp_path, "refuse"), (tmp_path / "b.py", "skip")):
        with pytest.raises(InputError, match=r"b\.py: is not UTF-8: byte 4 is 0xfc"):
            list(read_texts([path], undecodable=skip))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \r\n", "is blank"),
        ("a.txt", b"", "is blank"),
        ("a.txt", b"\xef\xbb\xbfab\xffc", "byte 5 is 0xff"),
        ("a.txt", b"ab\xc3", "byte 2 is 0xc3"),
        ("a.jsonl", b'{"text": "a"}\n\n{"content": "b", "id": 3}\n', "line 3: .* is not there, only content, id"),
        ("a.jsonl", b'{"text": 7}\n', "line 1: field 'text' is no text"),
        ("a.jsonl", b'{"text": null}', "line 1: field 'text' is no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: is not JSON"),
        ("a.jsonl", b'["text"]', "line 1: is JSON, but no object"),
        ("a.jsonl", b"[" * 100_000, "line 1: is not JSON"),
        ("a.jsonl", b'{"text": "a\xff"}', "line 1: is not UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}', "half a surrogate pair"),
        ("a.jsonl.gz", b'{"text": "a"}', "no gzip file"),
        ("a.jsonl.gz", gzip.compress(json_lines(TEXTS * 99))[:-9], "is cut"),
        ("a.jsonl.gz", gzip.compress(json_lines(TEXTS * 99))[:60], "is cut"),
        ("a.parquet", b"PAR1 no", "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_texts([tmp_path / name]))
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_zstandard_that_is_cut_or_damaged_is_refused(tmp_path: Path) -> None:
    """Its own reader ends a cut frame without a word."""
    whole = write(tmp_path / "a.jsonl.zst", TEXTS * 50).read_bytes()
    for size in (5, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.jsonl.zst").write_bytes(whole[:size])
        with pytest.raises(InputError, match="is cut"):
            list(read_texts([tmp_path / "a.jsonl.zst"]))
    (tmp_path / "a.jsonl.zst").write_bytes(b"no zstandard")
    with pytest.raises(InputError, match="damaged or no zstandard"):
        list(read_texts([tmp_path / "a.jsonl.zst"]))


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        list(read_texts([tmp_path / "none.txt"]))
    with pytest.raises(InputError, match=r"no file in this folder is called \*\.py"):
        list(read_texts([tmp_path], pattern="*.py"))


@pytest.mark.parametrize("pattern", ["a**b", "/x"])
def test_a_pattern_that_is_none(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=rf"pattern '{re.escape(pattern)}': .*; give one of names"):
        list_files([tmp_path], pattern=pattern)


def test_parquet_without_the_field(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 1: field 'text' is not there, only body"):
        list(read_texts([tmp_path / "a.parquet"]))
    assert list(read_texts([tmp_path / "a.parquet"], field="body")) == ["a"]

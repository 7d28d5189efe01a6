"""Documents on disk: texts, folders of them, and columns of texts in JSON lines and Parquet; plain or compressed.

    for document in read_texts(["war_and_peace.txt", "slimpajama/", "wikitext.parquet"]):
        ...

What a file is, its name says: `.jsonl`, `.jsonl.gz`, `.jsonl.zst` and `.parquet` hold a document per row, every other
file is one document in UTF-8. Files are read as they are needed, JSON lines line by line, Parquet batch by batch.
"""

import gzip
import importlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["Undecodable", "list_files", "read_rows", "read_text", "read_texts"]

Undecodable = Literal["refuse", "skip"]
"""What happens to files of a folder that are not UTF-8."""

_ROWS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_BATCH = 256  # rows of Parquet decoded at a time
_PIECE = 1 << 20
_Row = TypeVar("_Row")


def read_texts(
    paths: Iterable[str | Path],
    *,
    pattern: str = "*",
    field: str = "text",
    undecodable: Undecodable = "refuse",
    progress: Progress = no_progress,
) -> Iterator[str]:
    """Yield the documents of files and folders, in the order given and by name within a folder.

    A byte order mark is dropped and line ends become `\\n`. A blank file is refused, but passed over in a folder; blank
    rows are passed over.

    Args:
        paths: Files and folders; folders are searched through all their levels, but for what begins with a dot.
        pattern: Which files of a folder are read, for instance `*.py`.
        field: The column of JSON lines and Parquet that holds the text.
        undecodable: Whether a file of a folder that is not UTF-8 is an error.
        progress: Called with "read", the files read and all files.

    Raises:
        InputError: A path does not exist, a folder has no such file, a file is blank, cut, not UTF-8, or without the
            field.
    """
    files = [(file, Path(path).is_dir()) for path in paths for file in list_files([path], pattern=pattern)]
    for number, (file, in_folder) in enumerate(files, 1):
        if file.name.endswith(_ROWS):
            yield from read_rows(file, lambda row, where: _text_field(row, field, where))
        else:
            yield from _whole_file(file, in_folder=in_folder, skip=in_folder and undecodable == "skip")
        progress("read", number, len(files))


def _whole_file(path: Path, *, in_folder: bool, skip: bool) -> Iterator[str]:
    try:
        text = read_text(path)
    except UnicodeInputError:
        if skip:
            return
        raise
    if text.strip():
        yield text
    elif not in_folder:
        raise InputError(f"{path}: is blank; give a file with text")


class UnicodeInputError(InputError):
    """A file is not UTF-8."""


def list_files(paths: Iterable[str | Path], *, pattern: str = "*") -> list[Path]:
    """The files that `read_texts` reads. Raises InputError where a path leads to none."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            try:
                found = sorted(file for file in path.rglob(pattern) if file.is_file() and not _is_hidden(file, path))
            except (ValueError, NotImplementedError) as error:  # ** beside other characters; an absolute path
                raise InputError(f"pattern {pattern!r}: {error}; give one of names, such as '*.py'") from None
            if not found:
                raise InputError(f"{path}: no file in this folder is called {pattern}; give another pattern")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: there is no such file or folder")
    return files


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def read_text(path: str | Path) -> str:
    """A file in UTF-8 as one text, without byte order mark, lines ended by `\\n`; InputError if it cannot be read."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        at = error.start + len(data) - len(error.object)  # the mark was cut off before
        raise UnicodeInputError(
            f"{path}: is not UTF-8: byte {at:,} is 0x{byte:02x}; convert it, for instance with iconv"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_rows(path: str | Path, convert: Callable[[dict[str, Any], str], _Row | None]) -> Iterator[_Row]:
    """Yield the rows of a file of JSON lines or Parquet, each as `convert` makes it.

    Args:
        path: `.jsonl`, `.jsonl.gz`, `.jsonl.zst` or `.parquet`.
        convert: Called with a row and with where it is, for messages; what it turns to None is left out.

    Raises:
        InputError: The file cannot be read or decoded.
    """
    path = Path(path)
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    for where, row in rows:
        converted = convert(row, where)
        if converted is not None:
            yield converted


def _text_field(row: dict[str, Any], field: str, where: str) -> str | None:
    text = row.get(field)
    if not isinstance(text, str):
        has = "is no text" if field in row else f"is not there, only {', '.join(row) or 'nothing'}"
        raise InputError(f"{where}: field {field!r} {has}; name the field that holds the text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: field {field!r} holds half a surrogate pair, which is no character") from None
    return text if text.strip() else None


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}: line {number:,}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: is not UTF-8: byte {error.start:,} of the line") from None
        except (json.JSONDecodeError, RecursionError) as error:
            if not line.strip():
                continue
            raise InputError(f"{where}: is not JSON ({error}); a line is one object") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: is JSON, but no object; a line is one object with named fields")
        yield where, row


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if path.name.endswith(".zst"):
                yield from _zstandard_lines(path, file)
            elif path.name.endswith(".gz"):
                yield from gzip.GzipFile(fileobj=file)
            else:
                yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: is cut or no gzip file ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _zstandard_lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Lines of one or more frames; zstandard's own reader is silent about a frame that was cut."""
    zstandard = _optional(path, "zstandard")
    stream, rest = None, b""
    try:
        while piece := file.read(_PIECE):
            while piece:
                if stream is None or stream.eof:
                    stream = zstandard.ZstdDecompressor().decompressobj()
                *lines, rest = (rest + stream.decompress(piece)).split(b"\n")
                yield from lines
                piece = stream.unused_data if stream.eof else b""
    except zstandard.ZstdError as error:
        raise InputError(f"{path}: is damaged or no zstandard file ({error})") from None
    if stream is not None and not stream.eof:
        raise InputError(f"{path}: is cut: its last zstandard frame has no end")
    if rest:
        yield rest


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet, arrow = _optional(path, "pyarrow.parquet"), _optional(path, "pyarrow")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number:,}", row
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as Parquet ({reason})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: a text after row {number:,} is not UTF-8") from None


def _optional(path: Path, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise InputError(f"{path}: reading it needs {name}; pip install {name}") from None

"""Lists that come with pictures, as lines of text."""

from pathlib import Path

from tenfold.core.errors import InputError
from tenfold.faces.pictures import printable

__all__ = ["read_lines"]

_MAX_BYTES = 1 << 30


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their ends and without byte order mark; InputError if it cannot be read."""
    name = printable(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{name}: has {path.stat().st_size:,} bytes, too many for a list; is it the right file?")
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file; it comes with the set, and belongs there") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); check the path and its permissions") from None
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: is not UTF-8 at byte {error.start:,}; convert it, for instance with iconv") from None
    return lines[:-1] if lines[-1] == "" else lines

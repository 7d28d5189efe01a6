"""Keys, and files that nobody reads or changes without one: AES-256-GCM, replaced whole, one writer at a time.

    magic "TENVAULT" · u32 version · u32 bytes of header · 16 bytes key id · 12 bytes nonce     little-endian
    header: JSON, readable without the key
    ciphertext of the contents, with its 16 byte tag

Everything before the ciphertext is authenticated along with it. The key that encrypts, the key id and the seed of a
rotation are derived from the user's 32 bytes by HKDF-SHA256 (RFC 5869), each for itself: the id tells a wrong key from
a damaged file and gives nothing of the key away. A nonce is 96 random bits, fresh in every write; NIST SP 800-38D
allows 2^32 of them under one key.
"""

import contextlib
import fcntl
import json
import os
import secrets
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file

__all__ = ["KEY_BYTES", "KEY_VARIABLE", "Opened", "check_key", "derive", "locked", "new_key", "open_vault"]
__all__ += ["read_header", "read_key", "read_mark", "write_vault"]

KEY_BYTES = 32
KEY_VARIABLE = "TENFOLD_GALLERY_KEY"

_MAGIC, _VERSION = b"TENVAULT", 1
_PREFIX = struct.Struct("<8sII16s12s")
_TAG_BYTES = 16
_MOST_HEADER = 1 << 16
_MOST_CONTENTS = (1 << 31) - (1 << 20)  # one AES-GCM message of the library holds less than 2^31 bytes
_DEFAULT_PATIENCE = 10.0  # seconds


# --- keys -----------------------------------------------------------------------------------------------------------


def new_key(path: Path | str) -> bytes:
    """Make a key of 32 random bytes and write it to a new file that only its owner can read.

    The file is one line of 64 hexadecimal digits, which is also what the environment variable takes.

    Raises:
        InputError: The file exists, or cannot be written.
    """
    key = secrets.token_bytes(KEY_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(key.hex().encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise InputError(f"{path} exists; a key is never written over: choose another name") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {_reason(error)}; choose another place for the key") from None
    return key


def read_key(path: Path | str | None = None) -> bytes:
    """The key in a file, or without a path that in the environment variable TENFOLD_GALLERY_KEY.

    A file holds 32 bytes as they are, or 64 hexadecimal digits; the variable holds the digits.

    Raises:
        InputError: No key there, of a wrong length, or in a file that others than its owner can read.
    """
    if path is None:
        text = os.environ.get(KEY_VARIABLE)
        if text is None:
            raise InputError(f"no key: name a file with one, or set {KEY_VARIABLE} to its 64 hexadecimal digits")
        return _decode(os.fsencode(text), KEY_VARIABLE)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is no file; a key is a file of {KEY_BYTES} bytes")
            if status.st_mode & 0o077:
                raise InputError(
                    f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}); "
                    f"run: chmod 600 {path} - and make a new key if others may have read this one"
                )
            return _decode(file.read(2 * KEY_BYTES + 3), str(path))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {_reason(error)}; name a file with a key, or make one") from None


def _decode(text: bytes, place: str) -> bytes:
    if len(text) == KEY_BYTES and place != KEY_VARIABLE:
        return text
    digits = text.strip()
    if len(digits) == 2 * KEY_BYTES:
        with contextlib.suppress(ValueError):
            return bytes.fromhex(digits.decode("ascii"))
    raise InputError(
        f"{place} holds no key: it must be {KEY_BYTES} bytes, as 64 hexadecimal digits"
        f"{'' if place == KEY_VARIABLE else ' or as they are'}; this is {len(text) or 'nothing'}"
        f"{' or more' if len(text) > 2 * KEY_BYTES + 2 else ''}{' bytes long' if text else ''}"
    )


def check_key(key: bytes) -> bytes:
    """The key, where it is 32 bytes; InputError otherwise."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        what = f"{len(key)} bytes" if isinstance(key, bytes) else f"of type {type(key).__name__}"
        raise InputError(f"the key is {what}; it must be {KEY_BYTES} bytes: read_key and new_key give one")
    return key


def derive(key: bytes, purpose: str, length: int = KEY_BYTES) -> bytes:
    """`length` bytes that belong to this key and purpose alone (HKDF-SHA256 without salt)."""
    return HKDF(SHA256(), length, salt=None, info=f"tenfold.faces/{purpose}".encode()).derive(check_key(key))


# --- the file -------------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """What a vault holds.

    Attributes:
        header: The authenticated header.
        contents: The decrypted contents.
        mark: Differs after every write: see `read_mark`.
    """

    header: dict[str, Any]
    contents: bytes
    mark: bytes


def write_vault(path: Path, key: bytes, header: Mapping[str, Any], contents: bytes) -> bytes:
    """Encrypt `contents` and let it take the place of the file `path`, mode 0600; the new mark.

    A kill at any moment leaves the older file or the new one. Hold `locked` around reading and writing.

    Raises:
        InputError: Too large, or the system refuses to write.
    """
    if len(contents) > _MOST_CONTENTS:
        raise InputError(f"{path} would hold {len(contents):,} bytes; {_MOST_CONTENTS:,} is the most: split it")
    text = json.dumps(header).encode()
    if len(text) > _MOST_HEADER:
        raise InputError(f"{path}: the header would take {len(text):,} bytes; {_MOST_HEADER:,} is the most")
    nonce = secrets.token_bytes(12)
    prefix = _PREFIX.pack(_MAGIC, _VERSION, len(text), derive(key, "key id", 16), nonce)
    sealed = AESGCM(derive(key, "encryption")).encrypt(nonce, contents, prefix + text)
    path = Path(os.path.realpath(path))
    try:
        with replace_file(path) as partial:
            partial.unlink(missing_ok=True)  # what a kill left, or somebody else's link
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:
                for part in (prefix, text, sealed):
                    file.write(part)
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}; nothing was changed") from None
    return prefix


def open_vault(path: Path, key: bytes) -> Opened:
    """Read and decrypt a file. It takes about three times the file's size in memory for the moment.

    Raises:
        InputError: No such file, none of this kind, of a newer version, another key, or damaged anywhere.
    """
    check_key(key)
    prefix, text, sealed = _read(path, whole=True)
    _, _, _, key_id, nonce = _PREFIX.unpack(prefix)
    if not secrets.compare_digest(key_id, derive(key, "key id", 16)):
        raise InputError(f"{path} was written under another key; give that one (or the file's first bytes are damaged)")
    try:
        contents = AESGCM(derive(key, "encryption")).decrypt(nonce, sealed, prefix + text)
    except InvalidTag:
        raise InputError(f"{path} is damaged or was changed by somebody without the key; restore a copy") from None
    return Opened(_header(path, text), contents, prefix)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file, without the key and so not authenticated: believe it once the file was opened.

    Raises:
        InputError: No such file, none of this kind, of a newer version, or no header in it.
    """
    return _header(path, _read(path, whole=False)[1])


def read_mark(path: Path) -> bytes:
    """The first 44 bytes of a file, its nonce among them: others than before where it was written since."""
    return _read(path, whole=False)[0]


def _read(path: Path, *, whole: bool) -> tuple[bytes, bytes, bytes]:
    """Prefix, header text and ciphertext (empty unless `whole`). No size is believed before it was compared."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is no file; a gallery is one")
            prefix = file.read(_PREFIX.size)
            size = _check_prefix(path, prefix, status.st_size)
            text = file.read(size)
            sealed = file.read(status.st_size - _PREFIX.size - size) if whole else b""
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {_reason(error)}") from None
    return prefix, text, sealed


def _check_prefix(path: Path, prefix: bytes, file_size: int) -> int:
    """The size of the header that follows; InputError where the file cannot be one of ours."""
    if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
        raise InputError(f"{path} is no gallery: it does not begin with {_MAGIC.decode()}, or is cut")
    _, version, size, _, _ = _PREFIX.unpack(prefix)
    if version != _VERSION:
        raise InputError(f"{path} says it has version {version}; this software reads version {_VERSION}: update it")
    contents = file_size - _PREFIX.size - size - _TAG_BYTES
    if size > _MOST_HEADER or not 0 <= contents <= _MOST_CONTENTS:
        raise InputError(f"{path} is damaged: its sizes do not fit together; restore a copy")
    return int(size)


def _header(path: Path, text: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        header = json.loads(text)
        if isinstance(header, dict):
            return header
    raise InputError(f"{path} is damaged: its header is no JSON object; restore a copy")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# --- one writer -----------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, patience: float = _DEFAULT_PATIENCE) -> Iterator[None]:
    """Keep other writers of `path` out, in this process and in others, by a lock file beside it that stays.

    Args:
        path: The file to be written.
        patience: Seconds to wait for another writer.

    Raises:
        InputError: Another writer holds it for longer, or the lock file cannot be made.
    """
    path = Path(os.path.realpath(path))
    place = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot lock it for writing ({_reason(error)}); choose another place") from None
    try:
        deadline = time.monotonic() + patience
        while not _try_lock(descriptor, path):
            if time.monotonic() > deadline:
                raise InputError(f"{path} is being written by somebody else for over {patience:g} s; try again later")
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(f"{path}: its file system has no locks ({_reason(error)}); move it to one that has") from None
    return True

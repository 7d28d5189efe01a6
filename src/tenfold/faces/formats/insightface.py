"""InsightFace's `.bin` files of pairs to be verified, such as `lfw.bin`, `agedb_30.bin` and `cfp_fp.bin`.

They are pickles of (list of encoded pictures, list of bool). A pickle can run any code, and a damaged one makes
Python's reader allocate what it states. So it is read by the small machine at the end of this file: it knows the steps
that make lists of bytes and truth values, and NumPy's arrays of them, and calls nothing that the file names.
"""

import pickletools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.faces.facesets import UNLABELLED, FaceSet
from tenfold.faces.formats.pairs import Pairs
from tenfold.faces.pictures import printable

__all__ = ["insightface_bin"]

_FOLDS = 10
_MAX_BYTES = 4 << 30
_TRUTH = {"b1", "?", "bool"}
_BYTES = {"u1", "i1", "uint8", "int8"}


def insightface_bin(path: Path | str) -> Pairs:
    """The pairs of a `.bin` file, written by Python 2 or 3.

    Pictures 2i and 2i + 1 are pair i. The ten folds are runs of pairs of almost equal length, as in InsightFace's own
    evaluation. Who is on the pictures is not in the file: labels are -1.

    Raises:
        InputError: It cannot be read, holds anything but bytes and truth values, or their numbers do not fit.
    """
    path = Path(path)
    name = printable(path)
    pictures, same = _content(_loaded(path, name), name)
    if not same or len(pictures) != 2 * len(same):
        raise InputError(f"{name}: has {len(pictures):,} pictures for {len(same):,} pairs; it is cut, copy it again")
    folds = np.concatenate([np.full(len(run), at) for at, run in enumerate(np.array_split(same, _FOLDS))])
    faces = FaceSet(
        tuple(pictures),
        tuple(f"{path.name}: picture {number:,}" for number in range(len(pictures))),
        np.full(len(pictures), UNLABELLED, np.int64),
        (),
    )
    places = np.arange(len(pictures))
    return Pairs(faces, places[::2], places[1::2], np.array(same, bool), folds.astype(np.int64))


def _loaded(path: Path, name: str) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{name}: has {path.stat().st_size:,} bytes, too many for a list of pairs; is it a .bin?")
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); check the path and its permissions") from None
    try:
        return _unpickled(data)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle raises KeyError, IndexError, struct.error, EOFError and more
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name}: is no pickle of pictures, or damaged ({reason}); copy it again") from None


def _content(loaded: Any, name: str) -> tuple[list[bytes], list[bool]]:
    if not isinstance(loaded, list | tuple) or len(loaded) != 2:
        raise InputError(f"{name}: holds no pair of pictures and answers; is it a .bin for verification?")
    pictures, same = (item.values() if isinstance(item, _Array) else item for item in loaded)
    if not isinstance(pictures, Sequence) or not isinstance(same, Sequence):
        raise InputError(f"{name}: holds no lists of pictures and of answers; is it a .bin for verification?")
    return [_picture(item, name, at) for at, item in enumerate(pictures)], [
        _truth(item, name, at) for at, item in enumerate(same)
    ]


def _picture(item: Any, name: str, at: int) -> bytes:
    if isinstance(item, _Array) and item.kind in _BYTES:
        return item.data
    if isinstance(item, bytes):
        return item
    raise InputError(f"{name}: picture {at:,} is no bytes but {type(item).__name__}; is it a .bin for verification?")


def _truth(item: Any, name: str, at: int) -> bool:
    if isinstance(item, int) and item in (0, 1):
        return bool(item)
    raise InputError(f"{name}: answer {at:,} is no truth value but {type(item).__name__}; is it a .bin?")


class _Dtype:
    """What numpy.dtype is made with."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else str(name)


class _Array:
    """An array of bytes or truth values of one dimension, as bytes."""

    def __init__(self) -> None:
        self.kind, self.data = "", b""

    def fill(self, data: Any, dtype: Any, shape: Any) -> "_Array":
        """Take the array's bytes; InputError where they are of another kind or number than stated."""
        if not isinstance(dtype, _Dtype) or dtype.name not in _TRUTH | _BYTES:
            raise InputError(f"has an array of {getattr(dtype, 'name', '')[:20]!r}; a .bin has bytes and truth values")
        if not isinstance(data, bytes) or shape != (len(data),):
            raise InputError("has an array whose bytes are not as many as its shape says; it is damaged, copy it again")
        self.kind, self.data = dtype.name, data
        return self

    def values(self) -> list[int]:
        """The array's values, 0 to 255."""
        return list(self.data)


def _bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    """Bytes as pickles of protocols 0 to 2 make them: of text, whose characters are the bytes."""
    if isinstance(data, str) and encoding in ("latin1", "latin-1", b"latin1", b"latin-1"):
        return data.encode("latin1")
    if isinstance(data, bytes):
        return data
    raise InputError(f"makes bytes out of {type(data).__name__}; a .bin has pictures and truth values only")


def _scalar(dtype: Any, data: Any) -> int:
    return _Array().fill(data, dtype, (1,)).values()[0]


# What stands for the names in a pickle.
_NAMES: dict[str, Callable[..., Any]] = {
    "_codecs encode": _bytes,
    "numpy dtype": _Dtype,
    "numpy ndarray": _Array,
    **{f"{module} {name}": _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    **{f"numpy.{core}.multiarray _reconstruct": lambda *_: _Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _scalar for core in ("core", "_core")},
    **{
        f"numpy.{core}.numeric _frombuffer": lambda data, dtype, shape, *_: _Array().fill(data, dtype, shape)
        for core in ("core", "_core")
    },
}

_MARK = object()
_Stack = list[Any]


def _to_mark(stack: _Stack) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _tuple_of(stack: _Stack, count: int) -> None:
    stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]


def _append(stack: _Stack, items: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise InputError("appends to what is no list; it is damaged, copy it again")
    stack[-1].extend(items)


def _named(stack: _Stack, name: str) -> None:
    if name not in _NAMES:
        raise InputError(f"names {name.replace(' ', '.')[:80]!r}, which a .bin has no use for; do not trust this file")
    stack.append(_NAMES[name])


def _reduce(stack: _Stack) -> None:
    arguments, function = stack.pop(), stack.pop()
    if not isinstance(arguments, tuple) or not any(function is known for known in _NAMES.values()):
        raise InputError("calls what is no function; it is damaged, copy it again")
    stack.append(function(*arguments))


def _build(stack: _Stack) -> None:
    state = stack.pop()
    if isinstance(stack[-1], _Array):
        _, shape, dtype, _, data = state
        stack[-1].fill(_bytes(data), dtype, shape)
    elif not isinstance(stack[-1], _Dtype):  # whose state is the order of bytes in a value
        raise InputError("sets the state of what is no array; it is damaged, copy it again")


def _made_by(step: str, stack: _Stack) -> int:
    """How many bytes a step has made."""
    if step not in ("REDUCE", "BUILD"):
        return 0
    made = stack[-1].data if isinstance(stack[-1], _Array) else stack[-1]
    return len(made) if isinstance(made, bytes) else 0


_VALUES: dict[str, Callable[[Any], Any]] = {
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: _MARK,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "BYTEARRAY8": bytes,
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), lambda value: value),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda value: value.encode("latin1")),  # Python 2's bytes
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), lambda value: value),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"), lambda value: value),
}
_STEPS: dict[str, Callable[[_Stack, Any], None]] = {
    "LIST": lambda stack, _: stack.append(_to_mark(stack)),
    "TUPLE": lambda stack, _: stack.append(tuple(_to_mark(stack))),
    "TUPLE1": lambda stack, _: _tuple_of(stack, 1),
    "TUPLE2": lambda stack, _: _tuple_of(stack, 2),
    "TUPLE3": lambda stack, _: _tuple_of(stack, 3),
    "APPEND": lambda stack, _: _append(stack, [stack.pop()]),
    "APPENDS": lambda stack, _: _append(stack, _to_mark(stack)),
    "GLOBAL": lambda stack, name: _named(stack, name),
    "STACK_GLOBAL": lambda stack, _: _named(stack, " ".join(reversed([stack.pop(), stack.pop()]))),
    "REDUCE": lambda stack, _: _reduce(stack),
    "BUILD": lambda stack, _: _build(stack),
    "PROTO": lambda stack, _: None,
    "FRAME": lambda stack, _: None,
}
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")


def _unpickled(data: bytes) -> Any:
    """What a pickle of protocols 1 to 5 holds; InputError, or whatever a broken one raises, where it holds more."""
    stack: _Stack = []
    memo: dict[Any, Any] = {}
    made = 0  # bytes: a text that is remembered can be turned into bytes again and again
    for opcode, argument, at in pickletools.genops(data):
        if opcode.name in _VALUES:
            stack.append(_VALUES[opcode.name](argument))
        elif opcode.name in _STEPS:
            _STEPS[opcode.name](stack, argument)
            made += _made_by(opcode.name, stack)
            if made > 2 * len(data):  # of an array's text come bytes, and of these the array
                raise InputError(f"makes more bytes than it has, at byte {at:,}; do not trust this file")
        elif opcode.name in _PUTS:
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
        elif opcode.name in _GETS:
            stack.append(memo[argument])
        elif opcode.name != "STOP":
            raise InputError(f"does {opcode.name} at byte {at:,}, which a .bin has no use for; do not trust this file")
    return stack.pop()

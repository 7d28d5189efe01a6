"""Pictures as arrays: whatever is in a file becomes RGB bytes, or one line that says why not.

H height · W width · C = 3 channels
"""

import io
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Source", "Span", "picture_bytes", "printable", "read_picture", "source_name"]

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF")
_MAX_PIXELS = 80_000_000  # 240 MB as RGB; Pillow itself warns from 89 million on
_MAX_BYTES = 256 << 20
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes inside a file, such as one record of a RecordIO file: `size` bytes from byte `start` on."""

    path: Path
    start: int
    size: int


Source = Path | str | bytes | Span | NDArray[Any]


def read_picture(source: Source, name: str = "") -> NDArray[np.uint8]:
    """A picture as RGB uint8 (H, W, 3), turned upright where its EXIF data say how the camera was held.

    Grey becomes RGB, CMYK is converted, 16 bits become 8, and what is transparent is shown on white. Of several
    frames the first is read.

    Args:
        source: A path, the bytes of a file, a span of a file, or an array: uint8 or uint16 (H, W), (H, W, 1), (H, W, 3)
            RGB or (H, W, 4) RGBA, or floats of the same shapes from 0 to 1.
        name: What messages call it; by default the path.

    Raises:
        InputError: It cannot be read or decoded, has more than 80 million pixels, or is no such array.
    """
    name = name or source_name(source)
    if isinstance(source, Path | str | bytes | Span):
        return _decoded(picture_bytes(source, name), name)
    return _from_array(source, name)


def picture_bytes(source: Path | str | bytes | Span, name: str = "") -> bytes:
    """The bytes of a picture's file, not decoded; InputError where they cannot be read or are more than 256 MB."""
    if isinstance(source, bytes):
        return source
    name = name or source_name(source)
    path, start, size = (source.path, source.start, source.size) if isinstance(source, Span) else (source, 0, -1)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size if size < 0 else size
            if size > _MAX_BYTES:
                raise InputError(f"{name}: has {size:,} bytes, too many for a picture; shrink it or leave it out")
            file.seek(start)
            data = file.read(size)
    except InputError:  # a ValueError too
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder, not a picture; name a file in it") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); check its permissions and its disk") from None
    except ValueError:
        raise InputError(f"{name!r}: is not a possible path (it has a null character); correct it") from None
    if len(data) < size:
        raise InputError(f"{name}: ends {size - len(data):,} bytes early; it is cut: copy the file again")
    return data


def source_name(source: Source) -> str:
    """What messages call a picture of which only the source is known."""
    if isinstance(source, bytes):
        return f"a picture of {len(source):,} bytes"
    if isinstance(source, Span):
        return f"{printable(source.path)}: bytes from {source.start:,} on"
    return printable(source) if isinstance(source, Path | str) else "the array"


def printable(path: Path | str) -> str:
    """A path for messages and lists: bytes that are no text are shown as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _decoded(data: bytes, name: str) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - the room's import stays light

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, which is checked here, and of odd metadata
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
                if width * height > _MAX_PIXELS:
                    raise InputError(
                        f"{name}: is {width} x {height}, more than {_MAX_PIXELS:,} pixels; shrink it or leave it out"
                    )
                image.load()
                return np.array(_upright(_as_rgb(image), image))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{name}: has more than {_MAX_PIXELS:,} pixels; shrink it or leave it out") from None
    except UnidentifiedImageError:
        what = "is empty" if not data else f"is no picture in a known format ({', '.join(_FORMATS)})"
        raise InputError(f"{name}: {what}; convert it or leave it out") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError and more on broken bytes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name}: cannot be decoded ({reason}); it is cut or damaged: copy it again or leave it out"
        ) from None


def _as_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image  # noqa: PLC0415

    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N", "F"):
        deep = np.asarray(image).astype(np.float64)
        return Image.fromarray(_eight_bits(deep)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(deep: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Grey of more than 8 bits as 8; floats of at most 1 count as 0 to 1, of at most 255 as 0 to 255."""
    highest = float(np.nan_to_num(deep).max(initial=0.0))
    whole = 1.0 if highest <= 1.0 else 255.0 if highest <= 255.0 else 65535.0
    return np.clip(np.nan_to_num(deep) * (255.0 / whole) + 0.5, 0, 255).astype(np.uint8)


def _upright(image: "Image.Image", original: "Image.Image") -> "Image.Image":
    from PIL import Image  # noqa: PLC0415

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    orientation = None
    with suppress(Exception):  # damaged EXIF data spoil no picture
        orientation = original.getexif().get(_ORIENTATION)
    return image.transpose(turns[orientation]) if orientation in turns else image


def _from_array(source: Any, name: str) -> NDArray[np.uint8]:
    array = np.asarray(source)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise InputError(
            f"{name}: has shape {np.shape(source)}; a picture is (H, W), or (H, W, C) with 1, 3 or 4 channels"
        )
    if array.size == 0:
        raise InputError(f"{name}: has shape {np.shape(source)}, no pixel; check how it was cut out")
    if array.size > 4 * _MAX_PIXELS:
        raise InputError(f"{name}: has more than {_MAX_PIXELS:,} pixels; shrink it or leave it out")
    values = _array_bytes(array, name)
    if values.shape[2] == 4:
        alpha = values[:, :, 3:].astype(np.uint16)
        values = ((values[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _array_bytes(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name}: has values of type {array.dtype}; give uint8, uint16, or floats from 0 to 1")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name}: has values that are NaN or infinite; find where they come from, or leave it out")
    if low < 0.0 or high > 1.0:
        raise InputError(f"{name}: has floats from {low:.4g} to {high:.4g}; floats of a picture go from 0 to 1")
    return (array * 255.0 + 0.5).astype(np.uint8)

"""Whatever is in a file becomes RGB bytes, or one line that names the file and says what to do."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.pictures import Span, picture_bytes, read_picture

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene() -> Image.Image:
    """No turn of it is another one of its turns."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = RED
    pixels[:20, 30:] = (0, 255, 0)
    pixels[20:, :30] = (0, 0, 255)
    return Image.fromarray(pixels)


def refusal(source: object, name: str = "") -> str:
    with pytest.raises(InputError) as caught:
        read_picture(source, name)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene().transpose(undo[orientation]) if orientation in undo else scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = read_picture(encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(turned, np.asarray(scene()))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_modes_of_png_become_rgb(mode: str) -> None:
    picture = read_picture(encoded(Image.new("RGB", (5, 4), "white").convert(mode)))
    assert picture.shape == (4, 5, 3) and picture.dtype == np.uint8
    assert (picture == 255).all()


def test_what_is_transparent_is_shown_on_white() -> None:
    glass = Image.new("RGBA", (2, 1), (*RED, 255))
    glass.putpixel((0, 0), (0, 0, 0, 0))
    np.testing.assert_array_equal(read_picture(encoded(glass)), [[WHITE, RED]])
    np.testing.assert_array_equal(read_picture(np.asarray(glass)), [[WHITE, RED]])


def test_sixteen_bits_become_eight() -> None:
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    np.testing.assert_array_equal(read_picture(encoded(Image.fromarray(deep)))[0, :, 0], [0, 100, 255])
    np.testing.assert_array_equal(read_picture(deep)[0, :, 0], [0, 100, 255])
    colours = np.stack([deep, deep * 0, deep * 0], axis=2)
    written = cv2.imencode(".png", colours[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(read_picture(written)[0, :, 0], [0, 100, 255])


def test_cmyk_jpeg_keeps_its_colours() -> None:
    picture = read_picture(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(picture.astype(int) - RED).max() < 12


def test_floats_from_zero_to_one_are_read() -> None:
    picture = read_picture(np.array([[0.0, 0.5, 1.0]]))
    np.testing.assert_array_equal(picture[0, :, 1], [0, 128, 255])


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), np.inf, np.float32), "infinite"),
        (np.full((4, 4, 3), 128.0), "from 0 to 1"),
        (np.zeros((3, 112, 112), np.uint8), "(H, W, C)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "(H, W, C)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixel"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.array([["a"]]), "uint8"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array: np.ndarray, says: str) -> None:
    assert says in refusal(array, "row 3")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    jpeg = encoded(scene(), "JPEG")
    broken = {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "cut or damaged"),
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"hello, this is a page\n" * 9, "no picture in a known format"),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format"),
    }
    for name, (data, says) in broken.items():
        (tmp_path / name).write_bytes(data)
        assert says in refusal(tmp_path / name)
        assert name in refusal(tmp_path / name)
    assert "no such file" in refusal(tmp_path / "missing.jpg")
    assert "folder" in refusal(tmp_path)
    assert "null" in refusal("a\0b.jpg")


def test_a_picture_that_states_a_huge_size_is_refused_before_it_is_unpacked() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (9_000, 12_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
        assert "more than 80,000,000 pixels" in refusal(bomb, "bomb.png")


def test_a_span_is_a_picture_inside_a_file(tmp_path: Path) -> None:
    data = encoded(scene())
    path = tmp_path / "pack"
    path.write_bytes(b"before" + data + b"after")
    np.testing.assert_array_equal(read_picture(Span(path, 6, len(data))), np.asarray(scene()))
    assert picture_bytes(Span(path, 0, 6)) == b"before"
    assert "ends 5 bytes early" in refusal(Span(path, 6 + len(data), 10))
    assert "too many for a picture" in refusal(Span(path, 6, 1 << 40), "pack: record 1")


@settings(max_examples=150)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"]),
    at=st.floats(0, 1),
    flip=st.integers(1, 255),
    cut=st.floats(0.3, 1.2),
)
def test_damaged_pictures_are_read_or_refused(kind: str, at: float, flip: int, cut: float) -> None:
    """Flipped bytes and early ends give an array of three channels or `InputError`; no other exception leaves."""
    data = bytearray(encoded(scene(), kind))
    data[min(int(at * len(data)), len(data) - 1)] ^= flip
    try:
        picture = read_picture(bytes(data[: int(cut * len(data))]), "damaged")
    except InputError as error:
        assert str(error).startswith("damaged: ") and "\n" not in str(error)
    else:
        assert picture.dtype == np.uint8 and picture.shape[2:] == (3,)

"""Codecs: a vector of list c as 4-bit codes of its residual, and the three numbers beside them.

Both codecs estimate |q - x|^2 by |q - c|^2 + shift + scale * t, where t = -2 <q, v> is summed from the
query's table over the codes of v, the decoded residual r = x - c. With shift = 2 s <c + r, v> - |r|^2
the estimate is |q - x|^2 + 2 <q - x, r - s v>: exact for q = x, whatever the scale s is rounded to. With
s = |r|^2 / <r, v> it is also unbiased for q = c (RaBitQ's estimator, arXiv 2405.12497, used here for
product quantisation too). The third number is |r - s v|^2, which scales the error.

n rows · D dimension of search space · M sub-quantisers, each of 4 bits
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.storage import REPAIR, SectionFile

__all__ = ["Codec", "CodecKind", "are_turned", "balanced_axes", "block_bytes", "open_codec", "pack_blocks",
           "residuals_of", "train_codec"]  # fmt: skip

CodecKind = Literal["pq", "rabitq"]

BLOCK_ROWS = 32
_PQ_ITERATIONS = 12
_PIECE = 4096
_MOST_TURNED = 1024  # dimensions; beyond, a product with a D x D matrix costs too much per query
_NO_CODEBOOK = np.zeros((2, 16, 1), np.float32)


@dataclass(frozen=True)
class Codec:
    """A trained codec; shift, scale and error are stored as u16, u8 and u8 (error on a log scale)."""

    bits: int  # rabitq: bits per dimension; 0 means pq
    codebook: np.ndarray  # pq: (M, 16, ceil(D / M)) float32
    shift_low: float
    shift_step: float
    scale_low: float
    scale_step: float
    error_low: float
    error_step: float

    def numbers(self) -> dict[str, Any]:
        """What the manifest keeps of it; the codebook has a file."""
        numbers = asdict(self)
        return numbers | {"sub_dim": numbers.pop("codebook").shape[2]}

    def subs(self, dim: int) -> int:
        """M, the number of 4-bit codes per vector."""
        return -(-dim // 8) * 2 * self.bits if self.bits else len(self.codebook)

    def encode(
        self, rows: np.ndarray, lists: np.ndarray, centroids: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows (n, D) of the given lists -> packed codes (n, M / 2) uint8, shift u16, scale u8, error u8."""
        codes, terms = _native.encode(rows, lists, centroids, self.bits, self.codebook, threads)
        scale_code = _quantise(_scales(terms), self.scale_low, self.scale_step, 255)
        shift, error = _shift_and_error(terms, self.scale_low + self.scale_step * scale_code)
        packed = codes[:, 0::2] | codes[:, 1::2] << 4
        return (
            packed,
            _quantise(shift, self.shift_low, self.shift_step, 65535).astype(np.uint16),
            scale_code.astype(np.uint8),
            _quantise(np.log(error), self.error_low, self.error_step, 255).astype(np.uint8),
        )


def open_codec(numbers: dict[str, Any], file: SectionFile) -> Codec:
    """The codec of an index, its codebook a memory map; InputError where that does not fit the numbers."""
    width, flat = numbers["sub_dim"], file.array("codebook", "<f4", None).reshape(-1)
    if flat.size % (16 * width):
        raise InputError(f"{file.path}: its size does not fit the manifest; {REPAIR}")
    numbers = {name: value for name, value in numbers.items() if name != "sub_dim"}
    return Codec(codebook=flat.reshape(-1, 16, width), **numbers)


def residuals_of(rows: np.ndarray, lists: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """rows - centroids[lists], in place and in pieces: rows (n, D) are many when a codec is trained."""
    for start in range(0, len(rows), _PIECE):
        part = slice(start, start + _PIECE)
        rows[part] -= centroids[lists[part]]
    return rows


def are_turned(dim: int, rows: int) -> bool:
    """Whether product quantisation of `rows` training rows gets axes of its own."""
    return 2 < dim <= _MOST_TURNED and rows >= dim


def balanced_axes(residuals: np.ndarray, code_bytes: int) -> np.ndarray:
    """Axes (D, D) for product quantisation of residuals (n, D): rows @ axes is to be quantised.

    Principal axes, dealt out so that the product of the variances is about the same in every
    sub-quantiser (eigenvalue allocation; Ge et al., Optimized Product Quantization, CVPR 2013,
    section 3.2). None, (0, D), where turning gains nothing or costs too much.
    """
    dim = residuals.shape[1]
    if not are_turned(dim, len(residuals)):
        return np.zeros((0, dim), np.float32)
    variances, axes = np.linalg.eigh(residuals.T @ residuals)
    logs = np.log(np.maximum(variances, 1e-6 * variances[-1] + 1e-30))
    ends = np.arange(_subs(code_bytes, dim) + 1) * dim // _subs(code_bytes, dim)
    room, product = np.diff(ends), np.zeros(len(ends) - 1)
    order = np.empty(dim, np.int64)
    for axis in range(dim - 1, -1, -1):  # the largest variance first
        sub = int(np.where(room > 0, product, np.inf).argmin())
        order[ends[sub + 1] - room[sub]] = axis
        room[sub] -= 1
        product[sub] += logs[axis] - logs[0]
    return np.ascontiguousarray(axes[:, order])


def train_codec(
    kind: CodecKind,
    rows: np.ndarray,
    lists: np.ndarray,
    centroids: np.ndarray,
    code_bytes: int,
    threads: int,
) -> Codec:
    """Fit a codec of about `code_bytes` bytes per vector on sample rows (n, D) of the given lists."""
    dim = rows.shape[1]
    if kind == "pq":
        # Every eighth row is kept out: a codebook fits the rows that made it better than those to come.
        made = np.arange(len(rows)) % 8 < 7
        residuals = residuals_of(rows[made], lists[made], centroids)
        bits, codebook = 0, _native.train_pq(residuals, _subs(code_bytes, dim), _PQ_ITERATIONS, threads)
    else:
        bits, codebook = min(4, max(1, round(8 * code_bytes / dim))), _NO_CODEBOOK
    if len(rows) == 0:
        return Codec(bits, codebook, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    _, terms = _native.encode(rows, lists, centroids, bits, codebook, threads)
    scales = _scales(terms)
    # A scale far beyond the others' belongs to a code that says little; it may be cut, the others not rounded more.
    scale_step = max(min(float(scales.max()), 4 * _usual_scale(scales, terms)), 1e-30) / 255
    shift, error = _shift_and_error(terms, scales)
    # Rows beyond the sample may lie further out: 16 bits leave room for twice the range.
    room = 0.5 * (float(shift.max()) - float(shift.min()))
    shift_low, shift_high = float(shift.min()) - room, float(shift.max()) + room
    error_low, error_high = float(np.log(error.min())), float(np.log(error.max()))
    return Codec(
        bits,
        codebook,
        shift_low,
        (shift_high - shift_low) / 65535,
        0.0,
        scale_step,
        error_low,
        (error_high - error_low) / 255,
    )


def block_bytes(subs: int) -> int:
    """Bytes of one block of 32 entries: codes, then u16 shifts, u8 scales, u8 errors."""
    return BLOCK_ROWS * (subs // 2 + 4)


def pack_blocks(packed: np.ndarray, shift: np.ndarray, scale: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Entries, 32 to a block in order, -> (blocks, block_bytes) uint8 as the scan reads them."""
    blocks = len(packed) // BLOCK_ROWS
    pairs = packed.shape[1]
    codes = packed.reshape(blocks, BLOCK_ROWS, pairs).transpose(0, 2, 1).reshape(blocks, BLOCK_ROWS * pairs)
    numbers = [
        shift.astype("<u2").reshape(blocks, BLOCK_ROWS).view(np.uint8),
        scale.reshape(blocks, BLOCK_ROWS),
        error.reshape(blocks, BLOCK_ROWS),
    ]
    return np.concatenate([codes, *numbers], axis=1)


def _subs(code_bytes: int, dim: int) -> int:
    """How many sub-quantisers `pq` has: an even number, about one a dimension at most."""
    return min(2 * code_bytes, dim + dim % 2)


def _scales(terms: np.ndarray) -> np.ndarray:
    """s = |r|^2 / <r, v>, and 0 where the code says nothing about the residual."""
    residual_norm, residual_code = terms[:, 0], terms[:, 1]
    useful = residual_code > 1e-3 * np.sqrt(residual_norm) * np.sqrt(terms[:, 2])
    return np.where(useful, residual_norm / np.where(useful, residual_code, 1), 0)


def _usual_scale(scales: np.ndarray, terms: np.ndarray) -> float:
    """The median, but not less than half of what it is where rows count by the lengths of their residuals.

    Copies of a row are all but their centroid, and where most rows are copies, the median is a scale of theirs.
    """
    order = np.argsort(scales)
    lengths = np.cumsum(np.sqrt(terms[order, 0], dtype=np.float64))
    by_length = scales[order[np.searchsorted(lengths, lengths[-1] / 2)]]
    return max(float(np.median(scales)), float(by_length) / 2)


def _shift_and_error(terms: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    residual_norm, residual_code, code_norm, centroid_code = terms.T.astype(np.float64)
    shift = 2 * scale * (centroid_code + residual_code) - residual_norm
    error = residual_norm - 2 * scale * residual_code + scale**2 * code_norm
    return shift, np.maximum(error, 1e-6 * residual_norm + 1e-12)


def _quantise(values: np.ndarray, low: float, step: float, top: int) -> np.ndarray:
    with np.errstate(over="ignore"):  # the step between values that are all but equal
        return np.clip(np.rint((values - low) / (step or 1)), 0, top)

"""Codecs: a vector of list c as 4-bit codes of its residual, and the three numbers beside them.

Both codecs estimate |q - x|^2 by |q - c|^2 + shift + scale * t, where t = -2 <q, v> is summed from the
query's table over the codes of v, the decoded residual r = x - c. With scale s = |r|^2 / <r, v> and
shift = |r|^2 + 2 s <c, v> the estimate is exact for q = x, and its error is -2 <q - x, r - s v>
(RaBitQ's estimator, arXiv 2405.12497, used here for product quantisation too). The third number is
|r - s v|^2, which scales that error.

n rows · D dimension of search space · M sub-quantisers, each of 4 bits
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tenfold.search import _native

__all__ = ["Codec", "CodecKind", "block_bytes", "pack_blocks", "train_codec"]

CodecKind = Literal["pq", "rabitq"]

BLOCK_ROWS = 32
_PQ_ITERATIONS = 12
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
        subs = min(2 * code_bytes, dim + dim % 2)
        bits, codebook = 0, _native.train_pq(rows - centroids[lists], subs, _PQ_ITERATIONS, threads)
    else:
        bits, codebook = min(4, max(1, round(8 * code_bytes / dim))), _NO_CODEBOOK
    if len(rows) == 0:
        return Codec(bits, codebook, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    _, terms = _native.encode(rows, lists, centroids, bits, codebook, threads)
    scales = _scales(terms)
    scale_step = max(float(np.quantile(scales, 0.9995)), 1e-30) / 255
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


def _scales(terms: np.ndarray) -> np.ndarray:
    """s = |r|^2 / <r, v>, and 0 where the code says nothing about the residual."""
    residual_norm, residual_code = terms[:, 0], terms[:, 1]
    useful = residual_code > 1e-3 * np.sqrt(residual_norm) * np.sqrt(terms[:, 2])
    return np.where(useful, residual_norm / np.where(useful, residual_code, 1), 0)


def _shift_and_error(terms: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    residual_norm, residual_code, code_norm, centroid_code = terms.T.astype(np.float64)
    shift = residual_norm + 2 * scale * centroid_code
    error = residual_norm - 2 * scale * residual_code + scale**2 * code_norm
    return shift, np.maximum(error, 1e-6 * residual_norm + 1e-12)


def _quantise(values: np.ndarray, low: float, step: float, top: int) -> np.ndarray:
    return np.clip(np.rint((values - low) / (step or 1)), 0, top)

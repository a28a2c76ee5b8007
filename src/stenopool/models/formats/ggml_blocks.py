"""Blocks of 32 weights of a row that share a scale, as ggml keeps them (`Q8_0` and `Q5_0`).

Source of the layouts: `ggml-quants.c` of ggml.
"""

from __future__ import annotations

import numpy as np

from stenopool.models.weights import Tensor

BLOCK = 32  # weights that share a scale

EIGHT_BITS = np.dtype([("scale", "<f2"), ("weights", "i1", (BLOCK,))])
FIVE_BITS = np.dtype([("scale", "<f2"), ("high", "<u4"), ("low", "u1", (BLOCK // 2,))])
_HALF = 16  # what five bits are shifted by
# What the largest of a block becomes; beyond -16 and 15 it is cut off, for the sake of the others.
_PEAKS = (-16, 15, 16, -17, 17, -18)


def eight_bits(matrix: Tensor) -> bytes:
    """A matrix as blocks of a float16 scale and 32 whole numbers (`Q8_0`).

    Args:
        matrix: (rows, columns) of floating point; the columns are a multiple of 32.
    """
    blocks = matrix.astype(np.float32).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    divisor = np.where(scale == 0, 1, scale)
    packed = np.empty(len(blocks), EIGHT_BITS)
    packed["scale"] = scale[:, 0]
    packed["weights"] = np.rint(blocks / divisor)
    return packed.tobytes()


def five_bits(matrix: Tensor) -> bytes:
    """A matrix as blocks of a float16 scale and 32 numbers from -16 to 15 (`Q5_0`).

    Of some scales each block has the one that leaves the smallest squares of errors, so a matrix
    that was such blocks before stays as it is. The fifth bits stand together.

    Args:
        matrix: (rows, columns) of floating point; the columns are a multiple of 32.
    """
    blocks = matrix.astype(np.float32).reshape(-1, BLOCK)
    at = np.abs(blocks).argmax(axis=1)
    largest = np.take_along_axis(blocks, at[:, None], axis=1)
    scale, whole = _five_bits(blocks, largest / _PEAKS[0])
    least = _squares(blocks, scale, whole)
    for peak in _PEAKS[1:]:
        other, others = _five_bits(blocks, largest / peak)
        squares = _squares(blocks, other, others)
        better = squares < least
        scale[better], whole[better] = other[better], others[better]
        least = np.minimum(least, squares)
    # Without a -16 there are two ways to say the same.
    turned = (scale[:, 0] < 0) & (whole.min(axis=1) > 0)
    scale[turned], whole[turned] = -scale[turned], 2 * _HALF - whole[turned]
    packed = np.empty(len(blocks), FIVE_BITS)
    packed["scale"] = scale[:, 0]
    packed["high"] = ((whole >> 4) << np.arange(BLOCK, dtype=np.uint32)).sum(axis=1, dtype="u4")
    packed["low"] = (whole[:, : BLOCK // 2] & 15) | ((whole[:, BLOCK // 2 :] & 15) << 4)
    return packed.tobytes()


def _five_bits(blocks: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Scales as they are kept, and whole numbers from 0 to 31."""
    kept = scale.astype(np.float16).astype(np.float32)
    divisor = np.where(kept == 0, 1, kept)
    whole = np.clip(np.floor(blocks / divisor + (_HALF + 0.5)), 0, 2 * _HALF - 1)
    return kept, whole.astype(np.uint32)


def _squares(blocks: Tensor, scale: Tensor, whole: Tensor) -> Tensor:
    errors = (whole.astype(np.float32) - _HALF) * scale - blocks
    found: Tensor = np.square(errors).sum(axis=1)
    return found


def from_eight_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The matrix of `EIGHT_BITS` blocks, float32."""
    found: Tensor = packed["scale"].astype(np.float32)[:, None] * packed["weights"]
    return found.reshape(shape)


def from_five_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The matrix of `FIVE_BITS` blocks, float32."""
    low = np.concatenate([packed["low"] & 15, packed["low"] >> 4], axis=1).astype(np.int8)
    high = (packed["high"][:, None] >> np.arange(BLOCK, dtype=np.uint32)) & 1
    whole = low + (high.astype(np.int8) << 4) - _HALF
    found: Tensor = packed["scale"].astype(np.float32)[:, None] * whole
    return found.reshape(shape)

"""GGUF's quantised blocks: what each type's bytes stand for, and tensors that are dequantised row by row.

A row is a run of blocks; a block holds 32 or 256 weights and their scales. q is a small integer, d and m are fp16:

    Q4_0  Q5_0  Q8_0  w = d q          q in -8..7, -16..15, -128..127; 32 weights
    Q4_1  Q5_1        w = d q + m      q in 0..15, 0..31; 32 weights
    Q4_K  Q5_K        w = d s q - m t  q in 0..15, 0..31; s, t in 0..63 for every 32 of 256 weights
    Q6_K              w = d s q        q in -32..31; s int8 for every 16 of 256 weights

Products are rounded to fp32 one by one, from the left. Source: the block structures of ggml (ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Array = np.ndarray
_AT_ONCE = 1 << 18  # weights dequantised in one piece: its scratch stays in the cache (measured: 2**16 to 2**20 alike)


class BlockType(NamedTuple):
    """Weights and bytes of a block; where its fp16 scales lie; blocks uint8 [n, bytes] -> float32 [n, weights]."""

    weights: int
    nbytes: int
    scales: tuple[int, ...]
    values: Callable[[Array], Array]


@dataclass(frozen=True)
class QuantisedTensor:
    """A matrix [O, I] as quantised blocks, dequantised as it is read; nothing is held beside the mapped `raw` bytes
    [O, bytes of a row].

    Row o is stored as row `row_order[o]`, column i as column `column_order[i]`, where these are given. `float32`,
    `first_not_finite` and `release` are those of `ingot.store.Tensor`.
    """

    raw: Array
    dtype: str
    shape: tuple[int, ...]
    pages: Callable[[int, int], None] = field(repr=False, compare=False)
    row_order: Array | None = field(default=None, repr=False)
    column_order: Array | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """As stored."""
        return self.raw.nbytes

    def float32(self, rows: slice | Array | None = None) -> Array:
        """The values of `rows` (a slice or indices; all, unless told) as a new float32 array."""
        index = np.arange(self.shape[0])
        index = index if rows is None else index[rows]
        stored = index if self.row_order is None else self.row_order[index]
        values = np.empty((len(index), self.shape[1]), np.float32)
        step = max(1, _AT_ONCE // self.shape[1])
        for first in range(0, len(index), step):
            part = dequantise(self.raw[stored[first : first + step]], self.dtype)
            values[first : first + step] = part if self.column_order is None else part[:, self.column_order]
        return values

    def first_not_finite(self) -> int | None:
        """The flat index of a NaN or infinity, or None when every value is finite.

        fp16 scales times the largest integers stay far inside fp32, so values are finite where the scales are.
        """
        block = BLOCKS[self.dtype]
        for first in range(0, self.shape[0], step := max(1, _AT_ONCE // self.shape[1])):
            blocks = self.raw[first : first + step].reshape(-1, block.nbytes)
            if all(np.isfinite(_half(blocks, at)).all() for at in block.scales):
                self.release(first, min(first + step, self.shape[0]))
                continue
            for row in range(self.shape[0]):  # of the order in which it is read
                bad = np.flatnonzero(~np.isfinite(self.float32(slice(row, row + 1))))
                if bad.size:
                    return row * self.shape[1] + int(bad[0])
        return None

    def release(self, begin: int = 0, end: int | None = None) -> None:
        """Give the memory of stored rows `begin:end` back to the system."""
        row = self.raw.shape[1]
        self.pages(begin * row, (self.shape[0] if end is None else end) * row)


def dequantise(raw_OB: Array, dtype: str) -> Array:
    """float32 [O, I] of the rows' bytes, uint8 [O, bytes of a row]; `dtype` is one of BLOCKS."""
    block = BLOCKS[dtype]
    with np.errstate(invalid="ignore"):  # an infinite scale times 0: whoever reads a weight checks that it is finite
        values = block.values(np.ascontiguousarray(raw_OB).reshape(-1, block.nbytes))
    return values.reshape(len(raw_OB), -1)


def _half(blocks: Array, at: int) -> Array:
    """The fp16 at byte `at` of each block, as float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _halves(packed: Array) -> Array:
    """The 32 low and high halves of 16 bytes: the low ones are the first 16 weights'."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifths(packed: Array) -> Array:
    """The 32 bits of 4 bytes, each worth 16."""
    return np.unpackbits(packed, axis=1, bitorder="little") << 4


def _q4_0(blocks: Array) -> Array:
    q = _halves(blocks[:, 2:]).view(np.int8)
    q -= 8
    return q * _half(blocks, 0)


def _q4_1(blocks: Array) -> Array:
    return _halves(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2)


def _q5_0(blocks: Array) -> Array:
    q = (_halves(blocks[:, 6:]) | _fifths(blocks[:, 2:6])).view(np.int8)
    q -= 16
    return q * _half(blocks, 0)


def _q5_1(blocks: Array) -> Array:
    return (_halves(blocks[:, 8:]) | _fifths(blocks[:, 4:8])) * _half(blocks, 0) + _half(blocks, 2)


def _q8_0(blocks: Array) -> Array:
    return blocks[:, 2:].view(np.int8) * _half(blocks, 0)


def _q4_k(blocks: Array) -> Array:
    q = blocks[:, 16:].reshape(-1, 4, 1, 32)
    return _scaled(blocks, q >> _SHIFT & 15)


def _q5_k(blocks: Array) -> Array:
    q = blocks[:, 48:].reshape(-1, 4, 1, 32)
    fifth = blocks[:, 16:48].reshape(-1, 1, 1, 32) >> np.arange(8, dtype=np.uint8).reshape(1, 4, 2, 1) & 1
    return _scaled(blocks, (q >> _SHIFT & 15) | fifth << 4)


_SHIFT = np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)  # 32 low halves, then the same bytes' 32 high halves


def _scaled(blocks: Array, q: Array) -> Array:
    """d s q - m t, for q of 8 groups of 32."""
    s, t = _six_bits(blocks[:, 4:16])
    values = q.reshape(-1, 8, 32) * (_half(blocks, 0) * s)[:, :, None]
    values -= (_half(blocks, 2) * t)[:, :, None]
    return values.reshape(len(blocks), 256)


def _six_bits(packed: Array) -> tuple[Array, Array]:
    """uint8 [n, 8] s and t of 12 bytes: those of groups 0 to 3 are the low six bits of bytes 0 to 3 and 4 to 7, whose
    upper two go above the halves of bytes 8 to 11 for groups 4 to 7."""
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    s = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=1)
    t = np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=1)
    return s, t


def _q6_k(blocks: Array) -> Array:
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> _SHIFT & 15  # of each 128 weights: 64 low halves, 64 high ones
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8).reshape(1, 1, 4, 1) & 3
    q = (low.reshape(-1, 256) | high.reshape(-1, 256) << 4).view(np.int8)
    q -= 32
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return (q.reshape(-1, 16, 16) * scale[:, :, None]).reshape(len(blocks), 256)


BLOCKS: dict[str, BlockType] = {
    "Q4_0": BlockType(32, 18, (0,), _q4_0),
    "Q4_1": BlockType(32, 20, (0, 2), _q4_1),
    "Q5_0": BlockType(32, 22, (0,), _q5_0),
    "Q5_1": BlockType(32, 24, (0, 2), _q5_1),
    "Q8_0": BlockType(32, 34, (0,), _q8_0),
    "Q4_K": BlockType(256, 144, (0, 2), _q4_k),
    "Q5_K": BlockType(256, 176, (0, 2), _q5_k),
    "Q6_K": BlockType(256, 210, (208,), _q6_k),
}

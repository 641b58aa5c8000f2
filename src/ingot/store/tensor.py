"""A stored tensor: the bytes of a weight file under the file's own dtype name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# safetensors dtype name -> the numpy dtype that holds one element. numpy has no bfloat16 and no float8: their arrays
# are bit patterns. The order is the format's own; `safetensors` lays tensors out by it, widest first (see save.py).
STORAGE: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(np.uint8),
    "F8_E4M3": np.dtype(np.uint8),
    "F8_E8M0": np.dtype(np.uint8),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}

FLOATING = ("F32", "BF16", "F16")  # what a weight of the model may be stored in

# With the sign bit shifted out, every NaN and infinity is at or above its format's infinity: an integer maximum
# finds them.
_INFINITY = {"F32": 0x7F800000 << 1, "F16": 0x7C00 << 1, "BF16": 0x7F80 << 1}
_CHECKED_AT_ONCE = 1 << 18  # elements; the scratch copy stays in the cache
_KEPT = 16 << 20  # bytes; a smaller tensor's pages are not worth giving back and fetching again (taste)


@dataclass(frozen=True)
class Tensor:
    """`array` as stored and its safetensors `dtype` name; a BF16 array holds uint16 bit patterns.

    Arrays that come from a file are read-only views of the mapped file: nothing was copied, and `release` gives back
    the memory that touching them took.
    """

    array: np.ndarray
    dtype: str
    pages: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False)  # see `release`

    def __post_init__(self) -> None:
        storage = STORAGE.get(self.dtype)
        if storage is None:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(STORAGE)}")
        if self.array.dtype != storage:
            raise ValueError(f"a {self.dtype} tensor is held as {storage.name}, not as {self.array.dtype.name}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def release(self, begin: int = 0, end: int | None = None) -> None:
        """Give the memory of rows `begin:end` (all, unless told) back to the system; reading them again is allowed.

        Whoever packs a large tensor calls it block by block, and never holds two copies of the whole. It does nothing
        for an array that is not a mapped file.
        """
        if self.pages is not None and self.array.ndim and self.array.size:
            row = self.nbytes // self.shape[0]
            self.pages(begin * row, (self.shape[0] if end is None else end) * row)

    def float32(self, rows: slice | np.ndarray | None = None) -> np.ndarray:
        """The values, or those of `rows` (a slice or indices), as a new, writable float32 array; exact for all three
        floating dtypes."""
        stored = self.array if rows is None else self.array[rows]
        if self.dtype == "BF16":
            bits = stored.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        if self.dtype in FLOATING:
            return stored.astype(np.float32)
        raise ValueError(f"a {self.dtype} tensor cannot be read as float32; only {', '.join(FLOATING)} can")

    def first_not_finite(self) -> int | None:
        """The flat index of the first NaN or infinity, or None when every value is finite (integers always are).

        The pages of a large mapped tensor are given back as the search goes: it leaves memory as it found it.
        """
        if self.dtype not in FLOATING:
            return None
        bits = np.ascontiguousarray(self.array).reshape(-1).view(f"<u{self.array.itemsize}")
        limit = bits.dtype.type(_INFINITY[self.dtype])
        scratch = np.empty(min(_CHECKED_AT_ONCE, bits.size), bits.dtype)
        for begin in range(0, bits.size, _CHECKED_AT_ONCE):
            part = bits[begin : begin + _CHECKED_AT_ONCE]
            magnitude = np.left_shift(part, 1, out=scratch[: part.size])
            if magnitude.max() >= limit:
                return begin + int(np.argmax(magnitude >= limit))
            if self.pages is not None and bits.nbytes > _KEPT:
                self.pages(begin * bits.itemsize, (begin + part.size) * bits.itemsize)
        return None


def tensor_of(values: np.ndarray, dtype: str) -> Tensor:
    """float32 `values` rounded to the nearest (ties to even) in `dtype`: F32, BF16 or F16."""
    values = np.ascontiguousarray(values, np.float32).reshape(np.shape(values))
    if dtype == "F32":
        return Tensor(values, dtype)
    if dtype == "F16":
        return Tensor(values.astype(np.float16), dtype)
    if dtype != "BF16":
        raise ValueError(f"dtype {dtype!r} cannot hold weights; allowed are {', '.join(FLOATING)}")
    bits = values.view(np.uint32)
    rounded = bits + (((bits >> 16) & 1) + 0x7FFF).astype(np.uint32)
    # A NaN's mantissa may carry into its sign; keep the top half and make it quiet instead.
    half = np.where(np.isnan(values), (bits >> 16) | 0x40, rounded >> 16)
    return Tensor(half.astype(np.uint16), dtype)


def byte_length(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that `shape` elements of `dtype` take."""
    return math.prod(shape) * STORAGE[dtype].itemsize

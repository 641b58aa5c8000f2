"""Reading GGUF: a strict check of the header, then views of the mapped file.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: "GGUF"; version; how many
tensors; how many metadata entries; the entries (key, type, value); the tensors (name, sizes from the fastest axis on,
type, offset); filler up to a multiple of `general.alignment`; the data. Every count, length and offset is held against
the file's size before anything is made of it.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from ingot.spec.text_file import shown
from ingot.store.blocks import BLOCKS
from ingot.store.mapped import MappedFile, TensorInfo, map_whole, open_regular, refuse_stand_ins
from ingot.store.tensor import FLOATING, STORAGE

MAGIC = b"GGUF"
READABLE = (*FLOATING, *BLOCKS)
# The numbers of the tensor types, which are the format's own; only the readable ones have more than a name here.
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
# Limits far above any file of a model (248,320 tokens, under 1,000 tensors), far below what takes memory or time.
COUNT_LIMIT = 1 << 16  # metadata entries; tensors
ELEMENTS_LIMIT = 1 << 24  # of all arrays
STRING_LIMIT = 1 << 24  # bytes
NAME_LIMIT = 1 << 10  # bytes of a key or a tensor's name; the format allows 65,535 and 64
_RANK_LIMIT = 4  # the format's own
_BYTES_LIMIT = 1 << 62
_LENGTH = struct.Struct("<Q")


class Strings(Sequence[str]):
    """The texts of an array, read from the file when they are asked for: a vocabulary has 248,320."""

    def __init__(self, where: str, data: mmap.mmap, starts: np.ndarray) -> None:
        self._where, self._data, self._starts = where, data, starts  # starts: of the lengths, and the end

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[str]:
        begin = int(self._starts[0])
        blob, starts = self._data[begin : int(self._starts[-1])], (self._starts - begin).tolist()
        for index, (start, end) in enumerate(pairwise(starts)):
            yield self._text(blob[start + 8 : end], index)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._text(self._data[int(self._starts[index]) + 8 : int(self._starts[index + 1])], index)

    def _text(self, raw: bytes, index: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return _text(raw, f"{self._where}[{index}]")


class GGUFFile(MappedFile):
    """An open GGUF file: metadata, names, sizes and, on demand, the bytes of tensors.

    Raises FileNotFoundError when there is no such file, and ValueError, naming the file and the key or tensor, for
    everything that is wrong inside it, and for a file whose `general.architecture` is not `architecture` (None: any,
    as the later parts of a split file have none). The file must not be changed in place while it is open.
    """

    def __init__(self, path: str | os.PathLike[str], architecture: str | None) -> None:
        path = Path(path)
        with open_regular(path, "GGUF") as file:
            about = os.fstat(file.fileno())
            _refuse_others(path, file.read(8))
            mapped = map_whole(path, file)
        reader = _Header(path, mapped)
        self.metadata, tensors = reader.metadata()
        _check_architecture(path, self.metadata, architecture)
        entries = reader.tensors(tensors, self.metadata.get("general.alignment", 32))
        self.header_bytes = reader.at
        super().__init__(path, mapped, about, memoryview(mapped)[: reader.at], entries)

    def values(self, name: str) -> np.ndarray:
        """A tensor of a floating type in its shape, or the rows of a quantised one as bytes: a read-only view."""
        info = self._entries[name]
        if info.dtype in FLOATING:
            return np.ndarray(info.shape, STORAGE[info.dtype], self._map, info.begin)
        block = BLOCKS[info.dtype]
        rows = info.shape[-1] // block.weights * block.nbytes
        return np.ndarray((*info.shape[:-1], rows), np.uint8, self._map, info.begin)

    def pages(self, name: str) -> Any:
        """What gives the memory of bytes begin:end of a tensor back."""
        return partial(self._release, self._entries[name].begin)


def is_gguf(path: Path) -> bool:
    """Whether a file is one by its name or its first bytes."""
    if path.suffix == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == MAGIC


class _Header:
    """Reads the header from front to back; `at` is how far."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self._data, self._size = path, data, len(data)
        self.at, self._elements = 8, 0

    def metadata(self) -> tuple[dict[str, Any], int]:
        """The metadata, and how many tensors there are."""
        tensors, entries = self._count("tensors"), self._count("metadata entries")
        found: dict[str, Any] = {}
        for number in range(entries):
            key = self._name(f"key {number} of {entries}")
            if key in found:
                raise ValueError(f"{self.path}: the metadata have the key {shown(key)} twice")
            found[key] = self._value(f"metadata {shown(key)}", self._number("<I", f"the type of {shown(key)}"))
        return found, tensors

    def tensors(self, count: int, alignment: Any) -> dict[str, TensorInfo]:
        """The tensors by name in the order of their bytes; checks that each lies inside the file, alone."""
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1) or alignment % 8:
            raise ValueError(
                f"{self.path}: general.alignment is {shown(alignment)}; a power of two from 8 on is needed"
            )
        raw: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for number in range(count):
            name = self._name(f"the name of tensor {number} of {count}")
            if name in raw:
                raise ValueError(f"{self.path}: there are two tensors named {shown(name)}")
            raw[name] = self._tensor(f"{self.path}: tensor {shown(name)}", alignment)
        base = -(-self.at // alignment) * alignment
        places = {name: TensorInfo(t, shape, base + at, base + at + size) for name, (t, shape, at, size) in raw.items()}
        ordered = dict(sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)))
        self._check_places(ordered)
        return ordered

    def _tensor(self, where: str, alignment: int) -> tuple[str, tuple[int, ...], int, int]:
        """Type, shape, offset and bytes."""
        rank = self._number("<I", f"{where}: its dimensions")
        if not 1 <= rank <= _RANK_LIMIT:
            raise ValueError(f"{where} has {rank} dimensions; 1 to {_RANK_LIMIT} are allowed")
        shape = tuple(self._number("<Q", f"{where}: its shape") for _ in range(rank))[::-1]
        kind, offset = self._number("<I", f"{where}: its type"), self._number("<Q", f"{where}: its offset")
        dtype = TYPES.get(kind, f"of the unknown type {kind}")
        if dtype not in READABLE:
            raise ValueError(f"{where} is {dtype}; {', '.join(READABLE)} are read")
        if offset % alignment:
            raise ValueError(f"{where} has offset {offset}, which is not a multiple of the alignment, {alignment}")
        return dtype, shape, offset, _byte_length(where, dtype, shape)

    def _check_places(self, entries: dict[str, TensorInfo]) -> None:
        end, before = 0, ""
        for name, info in entries.items():
            where = f"{self.path}: tensor {shown(name)}"
            if info.end > self._size:
                behind = info.end - self._size
                raise ValueError(
                    f"{where} ends {behind} bytes behind the end of the file: it is truncated\nhint: get the file again"
                )
            if info.begin < end:
                raise ValueError(f"{where} overlaps tensor {shown(before)} by {end - info.begin} bytes")
            end, before = info.end, name

    def _count(self, what: str) -> int:
        count = self._number("<Q", f"the number of {what}")
        if count > COUNT_LIMIT:
            raise ValueError(f"{self.path}: claims {count} {what}; at most {COUNT_LIMIT} are read")
        return count

    def _name(self, what: str) -> str:
        return self._string(what, NAME_LIMIT)

    def _string(self, what: str, limit: int = STRING_LIMIT) -> str:
        length = self._number("<Q", what)
        if length > limit:
            raise ValueError(f"{self.path}: {what} has {length} bytes; at most {limit} are read")
        begin = self._take(length, what)
        return _text(self._data[begin : self.at], f"{self.path}: {what}")

    def _number(self, code: str, what: str) -> Any:
        begin = self._take(struct.calcsize(code), what)
        return struct.unpack_from(code, self._data, begin)[0]

    def _take(self, count: int, what: str) -> int:
        """Step over `count` bytes, and return where they begin."""
        begin = self.at
        if count > self._size - begin:
            raise ValueError(f"{self.path}: is truncated in {what}, at byte {begin} of {self._size}")
        self.at += count
        return begin

    def _value(self, what: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(what)
        if kind == _ARRAY:
            return self._array(what)
        if kind not in _SCALARS:
            raise ValueError(f"{self.path}: {what} has the type {kind}, which the format does not have")
        value = self._number(_SCALARS[kind], what)
        if kind != _BOOL:
            return value
        if value > 1:
            raise ValueError(f"{self.path}: {what} is a bool of value {value}; 0 and 1 exist")
        return bool(value)

    def _array(self, what: str) -> Strings | array[Any]:
        kind, count = self._number("<I", what), self._number("<Q", what)
        self._elements += count
        if self._elements > ELEMENTS_LIMIT:
            raise ValueError(f"{self.path}: with {what} the arrays have {self._elements} elements; at most "
                             f"{ELEMENTS_LIMIT} are read")  # fmt: skip
        if kind == _STRING:
            return self._strings(what, count)
        if kind not in _SCALARS:
            inside = "of arrays, which is not read" if kind == _ARRAY else f"of type {kind}, which does not exist"
            raise ValueError(f"{self.path}: {what} is an array {inside}")
        dtype = np.dtype(np.bool_ if kind == _BOOL else _SCALARS[kind])
        begin = self._take(count * dtype.itemsize, what)
        stored = np.frombuffer(self._data, np.uint8 if kind == _BOOL else dtype, count, begin)
        if kind == _BOOL and count and stored.max() > 1:
            raise ValueError(f"{self.path}: {what} holds a bool of value {stored.max()}; 0 and 1 exist")
        # not as numpy's, which answer `== "text"` and `if` with an array or an error
        return array(dtype.newbyteorder("=").char.replace("?", "b"), stored.astype(dtype.newbyteorder("=")).tobytes())

    def _strings(self, what: str, count: int) -> Strings:
        if 8 * count > self._size - self.at:
            raise ValueError(f"{self.path}: is truncated in {what}, which claims {count} texts")
        lengths, at, read, data = [], self.at, _LENGTH.unpack_from, self._data
        with suppress(struct.error, OverflowError):  # a length that leads out of the file; a vocabulary takes 0.1 s
            for _ in range(count):
                (length,) = read(data, at)
                lengths.append(length)
                at += 8 + length
        if len(lengths) < count or at > self._size:
            raise ValueError(f"{self.path}: is truncated in {what}, behind {max(0, len(lengths) - 1)} of {count} texts")
        starts = self.at + np.cumsum([0, *(8 + length for length in lengths)], dtype=np.int64)
        self.at = at
        return Strings(f"{self.path}: {what}", data, starts)


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 (byte {error.start}): the file is damaged") from None


def _byte_length(where: str, dtype: str, shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
        if n == 0 or size > _BYTES_LIMIT:
            raise ValueError(f"{where} has shape {list(shape)}; sizes are positive, and no file is larger than 2**62")
    if dtype in FLOATING:
        return size * STORAGE[dtype].itemsize
    block = BLOCKS[dtype]
    if shape[-1] % block.weights:
        raise ValueError(f"{where} has rows of {shape[-1]} weights; {dtype} comes in blocks of {block.weights}")
    return size // block.weights * block.nbytes


def _refuse_others(path: Path, start: bytes) -> None:
    """Files that are not GGUF, or of a version or byte order that is not read."""
    refuse_stand_ins(path, start)
    if not start.startswith(MAGIC):
        what = "is empty" if not start else "is not a GGUF file: it does not begin with 'GGUF'"
        raise ValueError(f"{path}: {what}")
    if len(start) < 8:
        raise ValueError(f"{path}: is truncated: it has {len(start)} bytes")
    version = int.from_bytes(start[4:], "little")
    if version and version & 0xFFFF == 0:
        raise ValueError(f"{path}: is a big-endian GGUF file; little-endian ones are read")
    if version not in (2, 3):
        raise ValueError(f"{path}: is GGUF version {version}; versions 2 and 3 are read")


def _check_architecture(path: Path, metadata: dict[str, Any], wanted: str | None) -> None:
    found = metadata.get("general.architecture")
    if wanted in (None, found):
        return
    if found == "clip":
        raise ValueError(
            f"{path}: is the vision tower of a model (mmproj), not the model\n"
            "hint: give the model's own file, and this one as mmproj (--mmproj)"
        )
    if wanted == "clip":
        raise ValueError(f"{path}: architecture is {shown(found)}; the mmproj file of a vision tower has 'clip'")
    raise ValueError(
        f"{path}: architecture is {shown(found)}; Ingot reads {wanted!r}, the dense Qwen3.5 models\n"
        "hint: get the GGUF file of a Qwen3.5 model of 0.8B to 27B, or `ingot pull Qwen/Qwen3.5-0.8B`"
    )

"""Reading safetensors: a strict header check, then views of the mapped file.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian header length N; N bytes of JSON,
{"name": {"dtype", "shape", "data_offsets": [begin, end)}, ..., "__metadata__": {str: str}}; then the data, which the
offsets cover completely, once, from 0 to its end. Everything that a file can get wrong is found when it is opened.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ingot.spec.text_file import parse_json, shown
from ingot.store.mapped import MappedFile, TensorInfo, map_whole, open_regular, refuse_stand_ins
from ingot.store.tensor import STORAGE, Tensor, byte_length

# Bytes. The format allows ten times as many; JSON made to be hostile takes 25 times its size in memory, and the largest
# model of the family has 200 kB.
HEADER_LIMIT = 10_000_000
NAME_LIMIT = 256  # characters of a tensor's name (taste): errors show names
_RANK_LIMIT = 32  # numpy 1.26 allows no more
_BYTES_LIMIT = 1 << 62  # the product of a shape's non-zero sizes: no sum of offsets can leave int64


class SafetensorsFile(MappedFile):
    """An open safetensors file: names, sizes and, on demand, memory-mapped tensors.

    Raises FileNotFoundError when there is no such file, and ValueError, naming the file and the tensor, for
    everything that is wrong inside it. The file must not be changed in place while it is open: replace it
    (write a new one and rename it) instead.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        with open_regular(path, "safetensors") as file:
            about = os.fstat(file.fileno())
            self.nbytes = about.st_size
            header = _read_header(path, file, self.nbytes)
            entries, self.metadata = _parse_header(path, header, self.nbytes - 8 - len(header))
            super().__init__(path, map_whole(path, file), about, header, entries)

    def tensor(self, name: str) -> Tensor:
        """One tensor as a read-only view of the file (a copy only when its bytes are not aligned)."""
        info = self.info(name)
        storage = STORAGE[info.dtype]
        flat = np.frombuffer(self._map, storage, (info.end - info.begin) // storage.itemsize, info.begin)
        if not flat.flags.aligned:
            flat = flat.copy()
            flat.flags.writeable = False
        return Tensor(flat.reshape(info.shape), info.dtype, partial(self._release, info.begin))

    def prefetch(self) -> None:
        """Have the system read the whole file ahead, in huge pages where it can; returns at once."""
        for advice in ("MADV_HUGEPAGE", "MADV_WILLNEED"):
            if hasattr(mmap, advice):
                with suppress(OSError):  # it is advice
                    self._map.madvise(getattr(mmap, advice))

    def release(self, name: str) -> None:
        """Give the tensor's pages back to the system; views stay valid and read the file again when touched."""
        info = self.info(name)
        self._release(info.begin, 0, info.end - info.begin)


def _read_header(path: Path, file: Any, size: int) -> bytes:
    start = file.read(8)
    _refuse_other_formats(path, start)
    if size < 8:
        what = "is empty" if size == 0 else f"is truncated: it has {size} bytes and the header length alone takes 8"
        raise ValueError(f"{path}: {what}")
    length = int.from_bytes(start, "little")
    if length > HEADER_LIMIT:
        raise ValueError(
            f"{path}: claims a header of {length} bytes, over the limit of {HEADER_LIMIT}; is it a safetensors file?"
        )
    if length > size - 8:
        raise ValueError(f"{path}: is truncated inside its header: {length} bytes announced, {size - 8} present")
    return file.read(length)


def _refuse_other_formats(path: Path, start: bytes) -> None:
    """Name the files that people most often have in a safetensors file's place."""
    refuse_stand_ins(path, start)
    if start.startswith(b"GGUF"):
        raise ValueError(f"{path}: is a GGUF file, not safetensors")
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise ValueError(f"{path}: is a PyTorch pickle, which can run code when read; only safetensors is read")


def _parse_header(path: Path, raw: bytes, data_bytes: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    if not raw.startswith(b"{"):
        raise ValueError(f"{path}: the header does not begin with '{{'; is it a safetensors file?")
    try:
        header = parse_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the header is not valid JSON: it is not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise ValueError(f"{path}: the header {error}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: __metadata__ must map strings to strings")
    base = 8 + len(raw)
    entries = {name: _entry(path, name, entry, base) for name, entry in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_coverage(path, ordered, base, data_bytes)
    return ordered, metadata


def _entry(path: Path, name: str, entry: Any, base: int) -> TensorInfo:
    where = f"{path}: tensor {shown(name)}"
    if len(name) > NAME_LIMIT:
        raise ValueError(f"{where} has a name of {len(name)} characters; {NAME_LIMIT} are the most")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        found = sorted(entry) if isinstance(entry, dict) else entry
        raise ValueError(f"{where} must have dtype, shape and data_offsets, and has {shown(found)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE:
        raise ValueError(f"{where} has dtype {shown(dtype)}, which is not one of {', '.join(STORAGE)}")
    _check_shape(where, shape)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1] or offsets[1] > _BYTES_LIMIT:
        raise ValueError(f"{where} has data_offsets {shown(offsets)}, not [begin, end] with 0 <= begin <= end")
    needed, given = byte_length(dtype, tuple(shape)), offsets[1] - offsets[0]
    if needed != given:
        raise ValueError(f"{where}: shape {shape} of {dtype} takes {needed} bytes, but data_offsets give it {given}")
    return TensorInfo(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _counts(value: Any) -> bool:
    # type() and not isinstance(): true and false are ints to Python.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_shape(where: str, shape: Any) -> None:
    if not _counts(shape):
        raise ValueError(f"{where} has shape {shown(shape)}, which is not a list of non-negative integers")
    if len(shape) > _RANK_LIMIT:
        raise ValueError(f"{where} has {len(shape)} dimensions; at most {_RANK_LIMIT} are allowed")
    size = 8
    for item in shape:
        size *= max(item, 1)
        if size > _BYTES_LIMIT:
            raise ValueError(f"{where} has shape {shown(shape)}, which is larger than any file")


def _check_coverage(path: Path, entries: dict[str, TensorInfo], base: int, data_bytes: int) -> None:
    """The tensors must follow one another from the first byte of data to the last."""
    at, before = base, ""
    for name, info in entries.items():
        where = f"{path}: tensor {shown(name)}"
        if info.begin < at:
            raise ValueError(f"{where} overlaps tensor {shown(before)} by {at - info.begin} bytes")
        if info.begin > at:
            raise ValueError(
                f"{where} begins {info.begin - at} bytes behind the end of the one before it; gaps are not allowed"
            )
        if info.end > base + data_bytes:
            missing = info.end - base - data_bytes
            raise ValueError(
                f"{where} ends {missing} bytes behind the end of the file: it is truncated\nhint: get the file again"
            )
        at, before = info.end, name
    if at < base + data_bytes:
        raise ValueError(f"{path}: has {base + data_bytes - at} bytes that belong to no tensor behind its last one")

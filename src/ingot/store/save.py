"""Writing safetensors, one tensor at a time, byte for byte as the `safetensors` package lays it out.

A file appears under its name only when it is whole: it is written beside it, synced and renamed, so a full disk or a
crash leaves whatever was there before.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from ingot.store.tensor import STORAGE, Tensor, byte_length

_WIDEST_FIRST = {name: -place for place, name in enumerate(STORAGE)}


class SafetensorsWriter:
    """Writes tensors whose dtypes and shapes are known beforehand; `write` takes them in any order.

        with SafetensorsWriter(path, {"w": ("BF16", (3, 5))}) as file:
            file.write("w", tensor)

    The file exists under `path` after the block ends without an exception. Raises ValueError for a tensor that was
    not announced, comes twice, differs from its announcement or never comes; OSError, naming the file, when the disk
    is full or the directory cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._layout = dict(layout)
        self._header, self._begin = header_bytes(self._layout, metadata)
        self._pending = set(self._layout)
        self._file: BinaryIO | None = None
        # Not tempfile: its files can be read by their owner alone. In the same directory, so that the rename is atomic.
        self._partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")

    def __enter__(self) -> SafetensorsWriter:
        try:
            self._file = self._partial.open("xb")
            self._file.write(self._header)
        except OSError as error:
            self._discard()
            raise _explained(error, self.path) from None
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor into its place."""
        if name not in self._pending:
            state = "was written before" if name in self._layout else "was not announced"
            raise ValueError(f"{self.path}: tensor {name!r} {state}")
        dtype, shape = self._layout[name]
        if (tensor.dtype, tensor.shape) != (dtype, tuple(shape)):
            given = f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(f"{self.path}: tensor {name!r} is {given}, but {dtype} {list(shape)} was announced")
        assert self._file is not None, "write() belongs inside the with block"
        try:
            self._file.seek(self._begin[name])
            self._file.write(np.ascontiguousarray(tensor.array).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise _explained(error, self.path) from None
        self._pending.discard(name)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as error:
            raise _explained(error, self.path) from None
        finally:
            self._discard()

    def _finish(self) -> None:
        assert self._file is not None
        if self._pending:
            raise ValueError(f"{self.path}: tensor {min(self._pending)!r} was announced but not written")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.path)
        _sync_directory(self.path.parent)

    def _discard(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # closing flushes, and a full disk refuses that too
                self._file.close()
            with suppress(OSError):  # after success it is not there; after an error, that error is the one to tell
                self._partial.unlink()


def save_safetensors(
    path: str | os.PathLike[str], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to one file, atomically; SafetensorsWriter takes them one by one instead."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if name in named:
            raise ValueError(f"{path}: tensor {name!r} is given twice")
        named[name] = tensor
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in named.items()}
    with SafetensorsWriter(path, layout, metadata) as file:
        for name in sorted(named, key=lambda name: _place(name, layout)):
            file.write(name, named[name])


def _place(name: str, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[int, str]:
    """Sort key of the `safetensors` package: widest dtype first, so that every tensor is aligned; then by name."""
    return _WIDEST_FIRST[layout[name][0]], name


def header_bytes(
    layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None
) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and where each tensor begins."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    begin, at = {}, 0
    for name, (dtype, _) in layout.items():
        if name == "__metadata__":
            raise ValueError("a tensor cannot be named '__metadata__'; the format keeps that name for itself")
        if dtype not in STORAGE:
            raise ValueError(f"tensor {name!r} has dtype {dtype!r}, which is not one of {', '.join(STORAGE)}")
    for name in sorted(layout, key=lambda name: _place(name, layout)):
        dtype, shape = layout[name]
        begin[name], end = at, at + byte_length(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    base = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: base + offset for name, offset in begin.items()}


def _explained(error: OSError, path: Path) -> OSError:
    if error.errno == errno.ENOSPC:
        return OSError(error.errno, f"{path}: the disk is full; nothing was changed")
    return OSError(error.errno, f"{path}: cannot be written: {error.strerror}; nothing was changed")


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":  # without it the rename itself may be lost in a crash
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Files of packed weights: a cache, so that the next start maps what this one packed.

A cache file is a safetensors file whose tensors begin on cache lines, so that they are used where they are mapped. Its
metadata say what it was made from (`source`), the checksum of all of it, and when it was sealed: the file's own
modification time is set to that moment. Whoever writes to the file later breaks the seal, and an unbroken seal is all
that a start has to look at. Failures of the medium below the file system are left to `verify`.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import zlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ingot.store.safetensors import SafetensorsFile
from ingot.store.tensor import byte_length

LINE = 64  # bytes; hardware: a vector load from a cache line touches one
ABANDONED_S = 60  # taste: a partial file this old and held by nobody was left by a process that was killed
_ROOM = 512  # bytes of header kept for each tensor; its name, dtype, shape and offsets take about 200
_DTYPES = {"float32": "F32", "uint16": "BF16", "uint8": "U8"}
_PARTIAL = ".partial"
Entries = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape, in the order of the bytes
_FILLER = "_"  # begins the names of the bytes between tensors, which the format wants named


class PackedWriter:
    """Writes arrays one after another to a file whose name appears when it is whole and synced, or not at all.

        with PackedWriter(path, source, len(table)) as file:
            file.write("w", array)

    Several processes may write the same `path`: the last one's file stays, each is whole. Raises OSError when the disk
    is full or the directory cannot be written; nothing is left then, nor after an interrupt.
    """

    def __init__(self, path: Path, source: str, tensors: int) -> None:
        self.path, self.source = path, source
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
        self._entries: Entries = {}
        self._begin = -(-_ROOM * (2 * tensors + 2) // 4096) * 4096  # a filler may follow each tensor
        self._at, self._checksum = 0, 0

    def __enter__(self) -> PackedWriter:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_abandoned(self.path.parent)
        self._file = os.fdopen(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
        _hold(self._file.fileno())
        self._file.seek(self._begin)
        return self

    def write(self, name: str, array: np.ndarray) -> None:
        """Append one array, float32, uint16 (bf16) or uint8, under its name."""
        assert name not in self._entries, f"{name} is written twice"
        self._append(name, _DTYPES[array.dtype.name], array.shape, np.ascontiguousarray(array))
        if gap := -self._at % LINE:
            self._append(f"{_FILLER}{len(self._entries)}", "U8", (gap,), np.zeros(gap, np.uint8))

    def _append(self, name: str, dtype: str, shape: tuple[int, ...], array: np.ndarray) -> None:
        left = array.reshape(-1).view(np.uint8).data
        self._checksum = zlib.crc32(left, self._checksum)
        while left:  # one write takes at most 2 GiB
            left = left[self._file.write(left) :]
        self._entries[name] = (dtype, shape)
        self._at += array.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):  # after success it is not there; after an error, that error is the one to tell
                self._partial.unlink()

    def _finish(self) -> None:
        sealed = int(time.time()) // 2 * 2  # the coarsest file system counts in two seconds
        checksum = _checksum_of(self._entries, self.source, sealed, self._checksum)
        header: dict[str, Any] = {"__metadata__": {"source": self.source, "sealed": str(sealed), "checksum": checksum}}
        at = 0
        for name, (dtype, shape) in self._entries.items():
            end = at + byte_length(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(header, separators=(",", ":")).encode()
        room = self._begin - 8
        assert len(text) <= room, "the header has outgrown its room"
        self._file.seek(0)
        self._file.write(room.to_bytes(8, "little") + text.ljust(room))
        os.fsync(self._file.fileno())
        self._file.close()
        os.utime(self._partial, (sealed, sealed))
        self._partial.replace(self.path)


class PackedFile:
    """An open cache file, whose arrays are read-only views of the map; ValueError for a damaged header."""

    def __init__(self, path: Path) -> None:
        self._file = SafetensorsFile(path)
        self.path, self.nbytes = path, self._file.nbytes
        metadata = self._file.metadata
        self.source, self._sealed = metadata.get("source", ""), int(metadata.get("sealed", "0"))
        self._checksum = metadata.get("checksum", "")

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def array(self, name: str) -> np.ndarray:
        """One array, on a cache line."""
        return self._file.tensor(name).array

    def is_sealed(self) -> bool:
        """Whether nobody has written to the file since it was made."""
        return self.path.stat().st_mtime_ns == self._sealed * 10**9

    def verify(self) -> bool:
        """Whether every byte is as it was written; reads them all, and gives the memory back as it goes."""
        checksum, entries = 0, {}
        for name in self._file.names:
            checksum = zlib.crc32(self.array(name).reshape(-1).view(np.uint8).data, checksum)
            self._file.release(name)
            entries[name] = (self._file.info(name).dtype, self._file.info(name).shape)
        return self._checksum == _checksum_of(entries, self.source, self._sealed, checksum)

    def seal(self) -> None:
        """Say that the file is as it was written."""
        os.utime(self.path, (self._sealed, self._sealed))

    def prefetch(self) -> None:
        """Ask the system to read the file ahead, in huge pages where it can."""
        self._file.prefetch()


def find(path: Path, source: str) -> PackedFile | None:
    """The cache file under `path`; None when there is none, when it was made from something else, or is damaged."""
    with suppress(OSError, ValueError):
        file = PackedFile(path)
        if file.source != source:
            return None
        if file.is_sealed():
            return file
        if file.verify():  # a copy, or a backup that came back
            with suppress(OSError):
                file.seal()
            return file
    return None


def remove_abandoned(directory: Path) -> None:
    """Remove partial files whose writers are gone."""
    for path in directory.glob(f".*{_PARTIAL}"):
        with suppress(OSError):  # Windows does not remove what is open; elsewhere the writer holds a lock
            if time.time() - path.stat().st_mtime > ABANDONED_S and not _is_held(path):
                path.unlink()


def _hold(handle: int) -> None:
    """Keep others from taking a long write for an abandoned one."""
    with suppress(ImportError, OSError):  # Windows; file systems without locks
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_held(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _checksum_of(entries: Entries, source: str, sealed: int, data: int) -> str:
    """The checksum of the whole file: of the bytes that its header tells, after those of its data."""
    header = json.dumps([list(entries.items()), source, sealed])
    return f"{zlib.crc32(header.encode(), data):08x}"

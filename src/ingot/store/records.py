"""Files of records: appended, never changed, each with checksums of its own; what a killed writer left half is cut.

    file    magic 16 | identity 32 | zeros | CRC-32 of all that            64 bytes
    record  header 64 | meta | payload | zeros up to the next multiple of 64

A record's header has the lengths, a kind, two names of 16 bytes (`key`, and the `group` it is found under), the
payload's CRC-32, and the CRC-32 of header and meta. The first record of a file, of kind 0, says in its meta whose the
file is, for people. Little-endian. Nothing is synced: after a power cut the checksums
tell what had reached the disk.

Records are read with `pread` and not through a map: a sector that cannot be read, or a file that somebody cut, is then
an OSError and not the death of the process (SIGBUS).
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

Buffer = bytes | bytearray | memoryview | np.ndarray
MAGIC = b"ingot records 1\n"
# A pipe in a file's place would be waited for, a link would lead elsewhere; Windows would change line ends.
_PLAIN = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
ALIGN = 64  # bytes; where records begin, so that they are found again behind damage
LEAST_BYTES = 64  # of a file
ABOUT = 0  # the kind of a file's first record
LARGEST_META = 1 << 16  # bytes; a snapshot's takes 2,100
_FILE = struct.Struct("<16s32s12xI")
_MARK = b"\xf1record\n"
_RECORD = struct.Struct("<8sIIQ16s16sI")  # mark, kind, bytes of meta and of payload, key, group, checksum
_CHECK = struct.Struct("<I")
_HEAD = _RECORD.size + _CHECK.size
_LOOK = 4096  # bytes read at once: a header with its meta
_STEP = 1 << 20  # bytes searched at once for the next record behind damage
_SEGMENTS = 512  # buffers of one system call; POSIX allows 1,024 nearly everywhere


class Record(NamedTuple):
    """One record: what it is called, and where its payload of `nbytes` lies in `path`."""

    path: Path
    at: int
    nbytes: int
    kind: int
    key: bytes
    group: bytes
    meta: bytes
    checksum: int


class Scan:
    """What a file holds: `records`, the `end` of the last whole one, and how many places before it are `damaged`."""

    def __init__(self, path: Path, handle: int) -> None:
        self.records: list[Record] = []
        self.damaged, self.end = 0, _FILE.size
        for record, begin, end in _records(path, handle, os.fstat(handle).st_size):
            self.damaged += begin > self.end
            self.records.append(record)
            self.end = end


class RecordWriter:
    """Appends to one file, which nobody else appends to while it is held (`flock`, where the system has it)."""

    def __init__(self, path: Path, handle: int, end: int) -> None:
        self.path, self.end, self._handle = path, end, handle

    @classmethod
    def create(cls, path: Path, identity: bytes, about: str = "") -> RecordWriter:
        """A new file, which says what it is `about`; OSError where there is one, or no place."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o600)
        try:
            hold(handle)
            _write(handle, [_file_header(identity)])
            made = cls(path, handle, _FILE.size)
            made.append(ABOUT, identity[:16], bytes(16), about.encode(), [])
        except BaseException:
            os.close(handle)
            with suppress(OSError):
                path.unlink()
            raise
        return made

    @classmethod
    def resume(cls, path: Path, identity: bytes) -> RecordWriter | None:
        """The file, cut behind its last whole record; None if another process writes to it, or it is not ours."""
        handle = open_records(path, identity, os.O_RDWR)
        if handle is None:
            return None
        with suppress(OSError):
            if hold(handle) and os.fstat(handle).st_nlink:
                end = Scan(path, handle).end
                os.ftruncate(handle, end)
                os.lseek(handle, end, os.SEEK_SET)
                return cls(path, handle, end)
        os.close(handle)
        return None

    @property
    def is_there(self) -> bool:
        """Whether the file still has a name."""
        with suppress(OSError):
            return os.fstat(self._handle).st_nlink > 0
        return False

    def append(self, kind: int, key: bytes, group: bytes, meta: bytes, payload: Sequence[Buffer]) -> Record:
        """Write one record; after an OSError the file is as it was before."""
        views = [as_bytes(part) for part in payload]
        nbytes = sum(view.nbytes for view in views)
        checksum = payload_checksum(key, views)
        head = _RECORD.pack(_MARK, kind, len(meta), nbytes, key, group, checksum) + meta
        head = head[: _RECORD.size] + _CHECK.pack(zlib.crc32(head)) + meta
        try:
            _write(self._handle, [head, *views, bytes(-(len(head) + nbytes) % ALIGN)])
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._handle, self.end)
                os.lseek(self._handle, self.end, os.SEEK_SET)
            raise
        at = self.end + len(head)
        self.end += record_bytes(len(meta), nbytes)
        return Record(self.path, at, nbytes, kind, key, group, meta, checksum)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


def about(path: Path) -> str:
    """What a file says that it is about; ValueError if it is no file of records."""
    handle = os.open(path, os.O_RDONLY | _PLAIN)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode) or _read_at(handle, len(MAGIC), 0) != MAGIC:
            raise ValueError(f"{path}: is no file of records")
        first = _record_at(path, handle, _FILE.size, os.fstat(handle).st_size)
    finally:
        os.close(handle)
    return first.meta.decode(errors="replace") if first and first.kind == ABOUT else ""


def verify(path: Path) -> bool:
    """Whether every byte of every record is as it was written; reads them all. A torn end is no damage."""
    handle = os.open(path, os.O_RDONLY | _PLAIN)
    try:
        scan = Scan(path, handle)
        head = _read_at(handle, _FILE.size, 0)
        right = not scan.damaged and head == _file_header(head[len(MAGIC) : len(MAGIC) + 32])
        return right and all(read_payload(handle, each, [bytearray(each.nbytes)]) for each in scan.records)
    finally:
        os.close(handle)


def as_bytes(part: Buffer) -> memoryview:
    """A contiguous buffer's own bytes, writable if it is."""
    return (part.data if isinstance(part, np.ndarray) else memoryview(part)).cast("B")


def record_bytes(meta: int, payload: int) -> int:
    """Bytes that a record takes in its file."""
    return -(-(_HEAD + meta + payload) // ALIGN) * ALIGN


def payload_checksum(key: bytes, payload: Sequence[memoryview]) -> int:
    """CRC-32 of a payload in parts; the key goes in first, so that one record's bytes are not another's."""
    checksum = zlib.crc32(key)
    for part in payload:
        checksum = zlib.crc32(part, checksum)
    return checksum


def open_records(path: Path, identity: bytes, flags: int = os.O_RDONLY) -> int | None:
    """A handle on a file of records of that identity, made by this user; None for anything else in its place.

    OSError when it cannot be opened.
    """
    handle = os.open(path, flags | _PLAIN)
    try:
        about = os.fstat(handle)
        own = not hasattr(os, "geteuid") or about.st_uid == os.geteuid()
        if stat.S_ISREG(about.st_mode) and own and _read_at(handle, _FILE.size, 0) == _file_header(identity):
            return handle
    except OSError:
        os.close(handle)
        raise
    os.close(handle)
    return None


def read_payload(handle: int, record: Record, buffers: Sequence[Buffer]) -> bool:
    """Fill the buffers with a record's payload; False if they are not what was written, whatever they then hold.
    OSError from the medium."""
    views = [view for view in (as_bytes(part) for part in buffers) if view.nbytes]
    if sum(view.nbytes for view in views) != record.nbytes:
        return False
    at = record.at
    for first in range(0, len(views), _SEGMENTS):
        left = views[first : first + _SEGMENTS]
        while left:
            count = _read_into(handle, left, at)
            if not count:
                return False
            left, at = _after(left, count), at + count
    return payload_checksum(record.key, views) == record.checksum


def hold(handle: int) -> bool | None:
    """Whether nobody else writes to the file, or may until it is closed; None where the system cannot tell."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; file systems without locks
        return None
    return True


def _file_header(identity: bytes) -> bytes:
    head = _FILE.pack(MAGIC, identity, 0)[: -_CHECK.size]
    return head + _CHECK.pack(zlib.crc32(head))


def _records(path: Path, handle: int, size: int) -> Iterator[tuple[Record, int, int]]:
    """(record, its begin, its end) of all whole ones. Behind damage the next that is whole goes on."""
    at = _FILE.size
    while at < size:
        record = _record_at(path, handle, at, size)
        if record is None:
            at = _next_mark(handle, at + ALIGN, size)
            continue
        end = at + record_bytes(len(record.meta), record.nbytes)
        yield record, at, end
        at = end


def _record_at(path: Path, handle: int, at: int, size: int) -> Record | None:
    data = _read_at(handle, _LOOK, at)
    if len(data) < _HEAD or data[: len(_MARK)] != _MARK:
        return None
    _, kind, meta, nbytes, key, group, checksum = _RECORD.unpack_from(data)
    if meta > LARGEST_META or at + record_bytes(meta, nbytes) > size:
        return None
    if _HEAD + meta > len(data):
        data = _read_at(handle, _HEAD + meta, at)
    text = data[_HEAD : _HEAD + meta]
    if _CHECK.unpack_from(data, _RECORD.size)[0] != zlib.crc32(text, zlib.crc32(data[: _RECORD.size])):
        return None
    return Record(path, at + _HEAD + meta, nbytes, kind, key, group, text, checksum)


def _next_mark(handle: int, at: int, size: int) -> int:
    """Where the next record may begin, `size` if nowhere."""
    while at < size:
        data = _read_at(handle, _STEP, at)
        if not data:
            return size
        found = data.find(_MARK)
        while found >= 0:
            if found % ALIGN == 0:
                return at + found
            found = data.find(_MARK, found + 1)
        at += _STEP
    return size


def _read_at(handle: int, count: int, at: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, count, at)
    os.lseek(handle, at, os.SEEK_SET)
    return os.read(handle, count)


def _read_into(handle: int, views: Sequence[memoryview], at: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(handle, views, at)
    data = _read_at(handle, min(views[0].nbytes, _STEP), at)
    views[0][: len(data)] = data
    return len(data)


def _write(handle: int, parts: Sequence[Buffer]) -> None:
    """All the parts, behind what the file holds."""
    left = [view for view in (as_bytes(part) for part in parts) if view.nbytes]
    while left:
        some = left[:_SEGMENTS]
        count = os.writev(handle, some) if hasattr(os, "writev") else os.write(handle, some[0])
        left = _after(left, count)


def _after(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of the views behind the first `count` bytes."""
    left = list(views)
    while left and count >= left[0].nbytes:
        count -= left.pop(0).nbytes
    if count:
        left[0] = left[0][count:]
    return left

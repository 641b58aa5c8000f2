"""A store of records in a folder: written behind by a thread, found again after a restart, kept under a size.

    <directory>/<name>/<number>-<random>.records

`directory` may hold the folders of several identities, and any number of processes may use it: each appends to files of
its own, and all count for one size. What is lost, full, damaged or somebody else's is a miss, never an error.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ingot.store.records import (
    ABOUT,
    LEAST_BYTES,
    Buffer,
    Record,
    RecordWriter,
    Scan,
    as_bytes,
    hold,
    open_records,
    read_payload,
    record_bytes,
)

SIZE = 8 << 30  # bytes on disk at most, unless told; taste
SHARE = 10  # and a tenth of what is free; taste
FILE_BYTES = 128 << 20  # of one file; what is removed at once. Taste: 1 / 64 of SIZE
LEAST_FILE_BYTES = 1 << 20
QUEUE_BYTES = 64 << 20  # that wait to be written; taste: a state of 9B, and a tenth of a second of a laptop's disk
REST_S = 60.0  # after an error nothing is written for so long; taste
TOUCH_S = 60.0  # how exactly a file's last use is known after a restart; taste
SUFFIX = ".records"
_LARGEST_HEAD = 8192  # bytes that a file has before its first record; a path is in it


@dataclass
class Counts:
    """What a journal did since it was opened. `dropped`: not written, because the queue was full, the disk refused or
    the record is larger than a file may be. `damaged`: places of files, or payloads, that were not what was written."""

    written: int = 0
    written_bytes: int = 0
    read: int = 0
    read_bytes: int = 0
    dropped: int = 0
    damaged: int = 0
    errors: int = 0


class _Waiting(NamedTuple):
    kind: int
    key: bytes
    group: bytes
    meta: bytes
    payload: tuple[Buffer, ...]
    nbytes: int


class Journal:
    """The records of one `identity` (32 bytes) in the folder `name` of `directory`.

    `append` never waits for the disk; the payload's buffers must not change afterwards. `size`: bytes that all folders
    of `directory` may take, None: `SIZE`, or a tenth of the free space if that is less. `tell` gets one sentence, once,
    when the disk cannot be used; `about` is written into each file, for `ingot cache`.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        identity: bytes,
        size: int | None = None,
        tell: Callable[[str], None] = lambda _: None,
        queue_bytes: int = QUEUE_BYTES,
        about: str = "",
    ) -> None:
        assert len(identity) == 32
        self.directory, self.folder, self.identity, self.size = directory, directory / name, identity, size
        self.counts = Counts()
        self._tell, self._told, self._queue_bytes, self._about = tell, False, queue_bytes, about
        self._index: dict[bytes, Record] = {}
        self._groups: dict[bytes, dict[bytes, Record]] = {}
        self._file_bytes = max(LEAST_FILE_BYTES, min(FILE_BYTES, (SIZE if size is None else size) // 8))
        self._held = 0  # bytes of the payloads in the index
        self._queue, self._queued, self._pending = deque[_Waiting](), 0, set[bytes]()
        self._changed = threading.Condition()
        self._closing, self._busy, self._scanned, self._clear = False, True, False, False
        self._writer: RecordWriter | None = None
        self._rest_until = 0.0
        self._touched: dict[Path, float] = {}
        self._open: tuple[Path, int] | None = None
        self._thread = threading.Thread(target=self._run, name="ingot-journal", daemon=True)
        self._thread.start()

    # for the thread that owns the state

    def __contains__(self, key: bytes) -> bool:
        """Whether the record is there, or waits to be written; a use of its file."""
        with self._changed:
            record = self._index.get(key)
            waits = key in self._pending
        if record is not None:
            self._touch(record.path)
        return waits or record is not None

    def find(self, key: bytes) -> Record | None:
        """The record of that name, if it is on disk."""
        with self._changed:
            return self._index.get(key)

    def group(self, group: bytes) -> list[Record]:
        """The records on disk that were appended under this group, the oldest first."""
        with self._changed:
            return list(self._groups.get(group, {}).values())

    @property
    def held(self) -> tuple[int, int]:
        """Records that can be found, and the bytes of their payloads."""
        return len(self._index), self._held

    def clear(self) -> None:
        """Forget all records, and have their files removed: what is in them cannot be trusted."""
        with self._changed:
            self._reset()
            self._clear = True
            self._changed.notify_all()

    @property
    def works(self) -> bool:
        """Whether anything is written now; not for a while after an error."""
        return not (self._closing or self._resting())

    def takes(self, nbytes: int) -> bool:
        """Whether a payload of so many bytes would be queued now."""
        return not self._queued or self._queued + nbytes <= self._queue_bytes

    def append(
        self, kind: int, key: bytes, payload: Sequence[Buffer], group: bytes = bytes(16), meta: bytes = b""
    ) -> bool:
        """Have a record written soon; False if it was dropped. A name that is known is not written again."""
        nbytes = sum(as_bytes(part).nbytes for part in payload)
        with self._changed:
            if key in self._index or key in self._pending:
                return True
            if not (self.works and self.takes(nbytes)):
                self.counts.dropped += 1
                return False
            self._queue.append(_Waiting(kind, key, group, meta, tuple(payload), nbytes))
            self._pending.add(key)
            self._queued += nbytes
            self._changed.notify_all()
        return True

    def read(self, record: Record, buffers: Sequence[Buffer]) -> bool:
        """Fill the buffers with the record's payload. False if it is not what was written, or gone; it is forgotten
        then, and the buffers may hold anything."""
        try:
            handle = self._handle(record.path)
            right = handle is not None and read_payload(handle, record, buffers)
            self.counts.damaged += not right
        except OSError as error:
            right = False
            if not isinstance(error, FileNotFoundError):
                self._failed("read", error)
        if not right:
            self._forget(record)
            return False
        self.counts.read += 1
        self.counts.read_bytes += record.nbytes
        self._touch(record.path)
        return True

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all files are known and nothing waits to be written; False if it took longer than `timeout`
        seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._busy or self._queue or self._clear) or not self._thread.is_alive(), timeout
            )

    def wait_scanned(self, timeout: float) -> bool:
        """Wait until the files that were there are known."""
        with self._changed:
            return self._changed.wait_for(lambda: self._scanned, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for `timeout` seconds at most, and let go of the files."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    # the same thread, inside

    def _handle(self, path: Path) -> int | None:
        """The file, open for reading: the last one stays open, since records are read in the order of writing."""
        if self._open is not None and self._open[0] != path:
            os.close(self._open[1])
            self._open = None
        if self._open is None:
            handle = open_records(path, self.identity)
            if handle is None:
                return None
            self._open = path, handle
        return self._open[1]

    def _touch(self, path: Path) -> None:
        """Note a use of a file where a later process finds it: in its modification time."""
        now = time.monotonic()
        if now - self._touched.get(path, -TOUCH_S) >= TOUCH_S:
            self._touched[path] = now
            with suppress(OSError):
                os.utime(path)

    def _forget(self, record: Record) -> None:
        with self._changed:
            if self._index.get(record.key) is record:
                self._remove(record)

    # either thread

    def _failed(self, what: str, error: OSError) -> None:
        """Count an error of the system, and say the first."""
        self.counts.errors += 1
        self._say(f"the prefix cache on disk cannot be {what}: {error.strerror or error} ({self.folder})")

    def _say(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._tell(sentence)

    def _resting(self) -> bool:
        return time.monotonic() < self._rest_until

    def _remove(self, record: Record) -> None:
        del self._index[record.key]
        self._held -= record.nbytes
        members = self._groups.get(record.group)
        if members is not None:
            members.pop(record.key, None)
            if not members:
                del self._groups[record.group]

    # the thread that writes

    def _run(self) -> None:
        try:
            self._scan()
        except OSError as error:
            self._failed("read", error)
        with self._changed:
            self._scanned = True
            self._changed.notify_all()
        while (item := self._next()) is not None:
            self._write(item)
        if self._writer is not None:
            self._writer.close()
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _next(self) -> _Waiting | None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._queue) or self._closing or self._clear)
                self._busy = bool(self._queue) or self._clear
                if not self._clear:
                    return self._queue[0] if self._queue else None
                self._reset()  # what was being written is in the index meanwhile
                self._queue.clear()
                self._pending.clear()
                self._queued, self._clear = 0, False
            self._remove_files()

    def _reset(self) -> None:
        self._index.clear()
        self._groups.clear()
        self._held = 0

    def _remove_files(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for path in self.folder.glob(f"*{SUFFIX}"):
            remove(path)

    def _write(self, item: _Waiting) -> None:
        record = None
        try:
            if not self._resting():
                record = self._writer_for(item).append(item.kind, item.key, item.group, item.meta, item.payload)
        except OSError as error:
            self._failed("written", error)
            self._rest_until = time.monotonic() + REST_S
        except _TooLargeError:
            self._say(f"the prefix cache on disk has no room for {item.nbytes:,} bytes ({self.folder})")
        with self._changed:
            self._queue.popleft()
            self._queued -= item.nbytes
            self._pending.discard(item.key)
            self._count(record)
            self._changed.notify_all()

    def _count(self, record: Record | None) -> None:
        if record is None:
            self.counts.dropped += 1
            return
        self._add(record)
        self.counts.written += 1
        self.counts.written_bytes += record_bytes(len(record.meta), record.nbytes)

    def _add(self, record: Record) -> None:
        known = self._index.get(record.key)
        if known is not None:
            self._remove(known)
        self._index[record.key] = record
        self._held += record.nbytes
        if any(record.group):
            self._groups.setdefault(record.group, {})[record.key] = record

    def _writer_for(self, item: _Waiting) -> RecordWriter:
        """A file with room for the record, under the size."""
        nbytes = record_bytes(len(item.meta), item.nbytes)
        writer = self._writer
        if writer is not None and not writer.is_there:  # somebody removed it
            self._drop(writer.path)
        if writer is not None and (not writer.is_there or writer.end + nbytes > self._file_bytes):
            writer.close()
            self._writer = writer = None
        if writer is None:
            self._make_room(nbytes + _LARGEST_HEAD)
            prepare(self.directory)
            prepare(self.folder)
            name = f"{time.time_ns() // 10**6:013d}-{secrets.token_hex(4)}{SUFFIX}"
            self._writer = writer = RecordWriter.create(self.folder / name, self.identity, self._about)
        return writer

    def _limit(self, held: int) -> int:
        if self.size is not None:
            return self.size
        place = next(place for place in (self.directory, *self.directory.parents) if place.is_dir())
        return min(SIZE, (shutil.disk_usage(place).free + held) // SHARE)

    def _make_room(self, nbytes: int) -> None:
        """Decide how large the next file may be, at least so many bytes, and remove those that were not used for the
        longest time until there is room for it."""
        files = survey(self.directory)
        held = sum(file.nbytes for file in files)
        limit = self._limit(held)
        self._file_bytes = max(LEAST_FILE_BYTES, min(FILE_BYTES, limit // 8))
        wanted = max(self._file_bytes, nbytes)
        if wanted > limit:
            raise _TooLargeError
        for file in files:
            if held + wanted <= limit:
                return
            if remove(file.path):
                held -= file.nbytes
                self._drop(file.path)
        if held + wanted > limit:  # the others' files
            raise _TooLargeError

    def _drop(self, path: Path) -> None:
        """Forget what a file held."""
        with self._changed:
            for record in [record for record in self._index.values() if record.path == path]:
                self._remove(record)

    def _scan(self) -> None:
        """Learn what the folder holds, the oldest file first; go on with the last one if nobody else does."""
        for folder in (self.directory, self.folder):
            if folder.is_symlink() or folder.exists():
                check_private(folder)
        files = sorted(self.folder.glob(f"*{SUFFIX}"))
        for path in files:
            try:
                self._scan_file(path)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    self.counts.errors += 1
        for path in reversed(files):
            with suppress(OSError):
                if path.stat().st_size < self._file_bytes // 2:
                    self._writer = RecordWriter.resume(path, self.identity)
            if self._writer is not None:
                return

    def _scan_file(self, path: Path) -> None:
        handle = open_records(path, self.identity)
        if handle is None:
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) and about.st_size < LEAST_BYTES:
                remove(path)  # its writer was killed before it had begun
            else:
                self.counts.damaged += 1
            return
        try:
            scan = Scan(path, handle)
        finally:
            os.close(handle)
        with self._changed:
            self.counts.damaged += scan.damaged
            for record in scan.records:
                if record.kind != ABOUT:
                    self._add(record)


class _TooLargeError(Exception):
    """The record does not fit under the size."""


class File(NamedTuple):
    """A file of records, of whatever identity: when it was last used, and its bytes."""

    used_ns: int
    path: Path
    nbytes: int


def survey(directory: Path) -> list[File]:
    """The files of all folders, those first that were not used for the longest time."""
    found = []
    for path in directory.glob(f"*/*{SUFFIX}"):
        with suppress(OSError):
            about = path.lstat()
            found.append(File(about.st_mtime_ns, path, about.st_size))
    return sorted(found)


def remove(path: Path) -> bool:
    """Remove a file that no process writes to, and its folder if that is empty then; whether it is gone."""
    with suppress(OSError):
        if path.is_symlink():
            path.unlink()
            return True
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            if not hold(handle) and _has_locks():
                return False
            path.unlink()
        finally:
            os.close(handle)
        with suppress(OSError):
            path.parent.rmdir()
    return not os.path.lexists(path)


def _has_locks() -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    return hasattr(fcntl, "flock")


def prepare(folder: Path) -> None:
    """Make the folder, for this user only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder)


def check_private(folder: Path) -> None:
    """OSError if the folder is a link or another user's; others lose their access to it."""
    about = folder.lstat()
    own = not hasattr(os, "geteuid") or about.st_uid == os.geteuid()
    if not folder.is_dir() or folder.is_symlink() or not own:
        raise OSError(None, "it is no folder of this user")
    if about.st_mode & 0o077:
        folder.chmod(0o700)

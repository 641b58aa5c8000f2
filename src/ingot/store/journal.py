"""A store of records in a folder: written behind by a thread, found again after a restart, kept under a size.

Any number of processes may use a folder: each appends to files of its own, and finds what the others had when it was
opened. What is lost, full, damaged or somebody else's is a miss, never an error.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ingot.store.record_folder import NoRoomError, RecordFolder
from ingot.store.record_index import RecordIndex
from ingot.store.records import (
    ABOUT,
    Buffer,
    Record,
    as_bytes,
    open_records,
    read_payload,
    record_bytes,
)

QUEUE_BYTES = 64 << 20  # that wait to be written; taste: a state of 9B, and a tenth of a second of a laptop's disk
REST_S = 60.0  # after an error nothing is written for so long; taste
TOUCH_S = 60.0  # how exactly a file's last use is known after a restart; taste


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

    Any thread may use it. `append` never waits for the disk; the payload's buffers must not change afterwards. `size`
    and `about` are as `RecordFolder` has them; `tell` gets one sentence, once, when the disk cannot be used.
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
        self.directory, self.folder, self.identity = directory, directory / name, identity
        self._files = RecordFolder(directory, name, identity, size, about, self._drop)
        self.counts = Counts()
        self._tell, self._told, self._queue_bytes = tell, False, queue_bytes
        self._index = RecordIndex()
        self._queue, self._queued, self._pending = deque[_Waiting](), 0, set[bytes]()
        self._changed = threading.Condition()  # guards all of the above; held for moments only
        self._closing, self._busy, self._scanned, self._clear = False, True, False, False
        self._rest_until = 0.0
        self._touched: dict[Path, float] = {}
        self._reading = threading.Lock()  # guards the file that is open, while it is read
        self._open: tuple[Path, int] | None = None
        self._thread = threading.Thread(target=self._run, name="ingot-journal", daemon=True)
        self._thread.start()

    # for all threads

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
            return self._index.group(group)

    @property
    def held(self) -> tuple[int, int]:
        """Records that can be found, and the bytes of their payloads."""
        return len(self._index), self._index.nbytes

    def clear(self) -> None:
        """Forget all records, and have their files removed: what is in them cannot be trusted."""
        with self._changed:
            self._index.clear()
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
        self,
        kind: int,
        key: bytes,
        payload: Sequence[Buffer],
        group: bytes = bytes(16),
        meta: bytes = b"",
        replace: bool = False,
    ) -> bool:
        """Have a record written soon; False if it was dropped. A name that is known is not written again, unless the
        new record is to `replace` the one that has it."""
        nbytes = sum(as_bytes(part).nbytes for part in payload)
        with self._changed:
            if not replace and (key in self._index or key in self._pending):
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
            with self._reading:
                handle = self._handle(record.path)
                right = handle is not None and read_payload(handle, record, buffers)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._failed("read", error)
            self._forget(record)
            return False
        with self._changed:
            self.counts.damaged += not right
            self.counts.read += right
            self.counts.read_bytes += record.nbytes if right else 0
        if right:
            self._touch(record.path)
        else:
            self._forget(record)
        return right

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
        with self._reading:
            self._let_go()

    # the same, inside

    def _handle(self, path: Path) -> int | None:
        """The file, open for reading: the last one stays open, since records are read in the order of writing. None
        if it is another's, or all is closed."""
        if self._open is not None and self._open[0] != path:
            self._let_go()
        if self._open is None and not self._closing:
            handle = open_records(path, self.identity)
            if handle is None:
                return None
            self._open = path, handle
        return None if self._open is None else self._open[1]

    def _let_go(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _touch(self, path: Path) -> None:
        """Note a use of a file where a later process finds it: in its modification time."""
        now = time.monotonic()
        with self._changed:
            if now - self._touched.get(path, -TOUCH_S) < TOUCH_S:
                return
            self._touched[path] = now
        with suppress(OSError):
            os.utime(path)

    def _forget(self, record: Record) -> None:
        with self._changed:
            if self._index.get(record.key) is record:
                self._index.remove(record)

    def _failed(self, what: str, error: OSError) -> None:
        """Count an error of the system, and say the first."""
        with self._changed:
            self.counts.errors += 1
        self._say(f"the prefix cache on disk cannot be {what}: {error.strerror or error} ({self.folder})")

    def _say(self, sentence: str) -> None:
        with self._changed:
            told, self._told = self._told, True
        if not told:
            self._tell(sentence)

    def _resting(self) -> bool:
        return time.monotonic() < self._rest_until

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
        self._files.close()
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
                self._index.clear()  # what was being written is in the index meanwhile
                self._queue.clear()
                self._pending.clear()
                self._queued, self._clear = 0, False
            self._files.clear()

    def _write(self, item: _Waiting) -> None:
        record = None
        try:
            if not self._resting():
                writer = self._files.writer(record_bytes(len(item.meta), item.nbytes))
                record = writer.append(item.kind, item.key, item.group, item.meta, item.payload)
        except OSError as error:
            self._failed("written", error)
            self._rest_until = time.monotonic() + REST_S
        except NoRoomError:
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
        self._index.add(record)
        self.counts.written += 1
        self.counts.written_bytes += record_bytes(len(record.meta), record.nbytes)

    def _drop(self, path: Path) -> None:
        """Forget what a file held."""
        with self._changed:
            for record in [record for record in self._index if record.path == path]:
                self._index.remove(record)

    def _scan(self) -> None:
        """Learn what the folder holds, the oldest file first."""
        for path in self._files.files():
            try:
                scan = self._files.scan(path)
            except FileNotFoundError:
                continue
            except OSError:
                with self._changed:
                    self.counts.errors += 1
                continue
            with self._changed:
                self.counts.damaged += 1 if scan is None else scan.damaged
                for record in scan.records if scan else ():
                    if record.kind != ABOUT:
                        self._index.add(record)
        self._files.resume()

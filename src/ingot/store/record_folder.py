"""A folder with files of records, and the folders beside it, which count for one size; all of them this user's alone.

<directory>/<name>/<milliseconds>-<random>.records
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ingot.store.records import LEAST_BYTES, RecordWriter, Scan, hold, open_records

SIZE = 8 << 30  # bytes on disk at most, unless told; taste
SHARE = 10  # and a tenth of what is free; taste
FILE_BYTES = 128 << 20  # of one file; what is removed at once. Taste: 1 / 64 of SIZE
LEAST_FILE_BYTES = 1 << 20
SUFFIX = ".records"
_LARGEST_HEAD = 8192  # bytes that a file has before its first record; a path is in it


class NoRoomError(Exception):
    """A record does not fit under the size."""


class RecordFolder:
    """The folder `name` of `directory`, with records of one `identity`; new files say what they are `about`. `size`:
    bytes that all folders of `directory` may take, None: `SIZE`, or a tenth of the free space if that is less. `gone`
    is told the path of each file that is no more."""

    def __init__(
        self, directory: Path, name: str, identity: bytes, size: int | None, about: str, gone: Callable[[Path], None]
    ) -> None:
        assert len(identity) == 32
        self.directory, self.path, self.identity, self.size = directory, directory / name, identity, size
        self._about, self._gone = about, gone
        self._file_bytes = max(LEAST_FILE_BYTES, min(FILE_BYTES, (SIZE if size is None else size) // 8))
        self._writer: RecordWriter | None = None

    def files(self) -> list[Path]:
        """The oldest first. OSError where a folder is another's."""
        for folder in (self.directory, self.path):
            if os.path.lexists(folder):
                check_private(folder)
        return sorted(self.path.glob(f"*{SUFFIX}"))

    def scan(self, path: Path) -> Scan | None:
        """What a file holds; None if it is not ours. One whose writer was killed before it had begun is removed."""
        handle = open_records(path, self.identity)
        if handle is None:
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) and about.st_size < LEAST_BYTES:
                remove(path)
                raise FileNotFoundError(path)
            return None
        try:
            return Scan(path, handle)
        finally:
            os.close(handle)

    def resume(self) -> None:
        """Go on with the last file that is half empty and that nobody writes to."""
        for path in reversed(self.files()):
            with suppress(OSError):
                if path.stat().st_size < self._file_bytes // 2:
                    self._writer = RecordWriter.resume(path, self.identity)
            if self._writer is not None:
                return

    def writer(self, nbytes: int) -> RecordWriter:
        """A file with room for a record of so many bytes. OSError, or NoRoomError."""
        writer = self._writer
        if writer is not None and not writer.is_there:  # somebody removed it
            self._gone(writer.path)
            self.close()
        elif writer is not None and writer.end + nbytes > self._file_bytes:
            self.close()
        if self._writer is None:
            self._make_room(nbytes + _LARGEST_HEAD)
            prepare(self.directory)
            prepare(self.path)
            name = f"{time.time_ns() // 10**6:013d}-{secrets.token_hex(4)}{SUFFIX}"
            self._writer = RecordWriter.create(self.path / name, self.identity, self._about)
        return self._writer

    def clear(self) -> None:
        """Remove all files but those that other processes write to."""
        self.close()
        for path in self.path.glob(f"*{SUFFIX}"):
            remove(path)

    def close(self) -> None:
        """Let go of the file that is written to."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _make_room(self, nbytes: int) -> None:
        """Decide how large the next file may be, at least so many bytes, and remove those that were not used for the
        longest time until there is room for it."""
        files = survey(self.directory)
        held = sum(file.nbytes for file in files)
        limit = self._limit(held)
        self._file_bytes = max(LEAST_FILE_BYTES, min(FILE_BYTES, limit // 8))
        wanted = max(self._file_bytes, nbytes)
        for file in files if wanted <= limit else ():
            if held + wanted > limit and remove(file.path):
                held -= file.nbytes
                self._gone(file.path)
        if held + wanted > limit:
            raise NoRoomError

    def _limit(self, held: int) -> int:
        if self.size is not None:
            return self.size
        place = next(place for place in (self.directory, *self.directory.parents) if place.is_dir())
        return min(SIZE, (shutil.disk_usage(place).free + held) // SHARE)


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
            if hold(handle) is False:
                return False
            path.unlink()
        finally:
            os.close(handle)
        with suppress(OSError):
            path.parent.rmdir()
    return not os.path.lexists(path)


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

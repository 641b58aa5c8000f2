"""Files of tensors that are mapped into memory: opening them, where tensors lie, and giving their pages back."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `begin` and `end` are byte offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class MappedFile:
    """An open file whose header is read: what tells it from others, and where its tensors lie."""

    def __init__(
        self, path: Path, mapped: mmap.mmap, about: os.stat_result, header: Any, entries: dict[str, TensorInfo]
    ) -> None:
        self.path, self._map, self._entries = path, mapped, entries
        # What tells that a file is another one, without reading it. A program can restore the time of the last write
        # after changing a file (`cp -p`, rsync), hardly that of the last change.
        digest = hashlib.sha256(header).hexdigest()
        self.identity = (path.name, about.st_size, about.st_mtime_ns, about.st_ctime_ns, digest)

    @property
    def names(self) -> tuple[str, ...]:
        """All tensor names, in the order of their bytes."""
        return tuple(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def info(self, name: str) -> TensorInfo:
        """dtype, shape (slowest axis first) and place of one tensor."""
        if name not in self._entries:
            raise ValueError(f"{self.path}: there is no tensor {name!r} in this file")
        return self._entries[name]

    def _release(self, at: int, begin: int, end: int) -> None:
        """Bytes begin:end behind `at`, with the whole of the pages they touch."""
        give_back(self._map, at + begin, at + end)


def open_regular(path: Path, kind: str) -> Any:
    """`path` opened for reading; FileNotFoundError or ValueError when it is not a regular file. `kind` is what was
    expected there."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        dangling = " (a link to nowhere)" if path.is_symlink() else ""
        raise FileNotFoundError(f"{path}: there is no such file{dangling}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path}: is a directory, not a {kind} file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: is not a regular file, so it cannot be memory-mapped")
    try:
        return path.open("rb")
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened: {error.strerror}") from None


def map_whole(path: Path, file: Any) -> mmap.mmap:
    """An open file in memory, to be read."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, OverflowError) as error:  # a limit on the process's memory; a file larger than addresses reach
        raise ValueError(f"{path}: cannot be memory-mapped: {error}") from None


def give_back(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Give the pages of bytes begin:end back to the system, whole pages; reading them again is allowed."""
    if not hasattr(mmap, "MADV_DONTNEED") or begin >= end:  # Windows has no such call
        return
    first = begin - begin % mmap.PAGESIZE
    with suppress(OSError):  # it is advice: a file system that refuses it costs memory, not correctness
        mapped.madvise(mmap.MADV_DONTNEED, first, end - first)


def refuse_stand_ins(path: Path, start: bytes) -> None:
    """Raise ValueError when the first bytes are those of what a failed download leaves in a weight file's place."""
    if start.startswith(b"version "):
        raise ValueError(f"{path}: is a Git LFS pointer, not the weights\nhint: run `git lfs pull` in that repository")
    if start.lstrip()[:2].lower() in (b"<!", b"<h"):
        raise ValueError(f"{path}: is a web page, not the weights: the download went wrong")

"""Files that are mapped into memory: opening them, and giving their pages back."""

from __future__ import annotations

import mmap
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any


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

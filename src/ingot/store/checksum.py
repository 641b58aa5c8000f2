"""Checksums of files: those that the Hugging Face hub gives, and whether the files of its cache still have them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, int], None]
_READ_AT_ONCE = 1 << 22  # bytes
_KINDS = {64: "sha256", 40: "git"}  # hexadecimal digits of a digest


class Sum:
    """Adds up what several files tell."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


def digest_of(path: Path, kind: str, told: Callable[[int], None] | None = None) -> str:
    """The hexadecimal "sha256" of a file, or the object id ("git") that git gives it: a SHA-1 behind a header."""
    found = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while part := file.read(_READ_AT_ONCE):
            found.update(part)
            if told is not None:
                told(len(part))
    return found.hexdigest()


def known_digest(path: Path) -> tuple[str, str] | None:
    """("sha256" | "git", digest) that the hub gives a file of its cache; None for any other file.

    The cache names the bytes by their digest, and what leads to them is a link; where the system has no links, the
    cache does not tell.
    """
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]*", blob.name):
        kind = _KINDS.get(len(blob.name))
        return (kind, blob.name) if kind else None
    return None


def damaged(directory: Path, progress: Progress | None = None) -> tuple[list[str], list[str]]:
    """Of the files in a directory of the hub's cache those that are damaged, and those of which it keeps no digest."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    tell = Sum(progress, sum(path.stat().st_size for path in files))
    wrong, unknown = [], []
    for path in files:
        name, expected = path.relative_to(directory).as_posix(), known_digest(path)
        if expected is None:
            unknown.append(name)
        elif digest_of(path, expected[0], tell) != expected[1]:
            wrong.append(name)
    return wrong, unknown

"""A row of the table of broken and hostile inputs, and how one is tried."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 10.0  # of processor time: what a template has by its own limit; most rows take milliseconds
MEMORY = 1536 << 20  # bytes beyond what the process has: a template may make 1 GiB
# What follows these is a library's own, and changes with its version.
_LIBRARY_WORDS = (
    *("is not valid JSON: ", "is not valid JSON (", "cannot be read as a tokenizer: ", "do not fit together: "),
    *("is damaged or cut short: ", "is not a valid chat template (", " failed: ", "is not valid base64: "),
    *("cannot be memory-mapped: ", "uses a value that these messages do not have: ", "was stopped: access to "),
    "invalid choice: ",
)


@dataclass(frozen=True)
class Row:
    """`name` says what is wrong with the input; `attempt(place)` makes it in an empty directory and reads it."""

    section: str
    name: str
    attempt: Callable[[Path], Any]


def sentence(row: Row, place: Path) -> str:
    """The error that a row ends in, `place` written as DIR; asserts that it came soon and took little memory."""
    began = time.thread_time()
    try:
        with limited_memory():
            row.attempt(place)
    except (ValueError, FileNotFoundError) as error:
        said, kind = str(error).replace(str(place), "DIR"), type(error)
    else:
        raise AssertionError("no error")
    ours = kind.__module__.startswith("ingot.")  # a library's own kind of ValueError is not
    assert ours or kind in (ValueError, FileNotFoundError), f"{kind.__name__} is not documented"
    assert time.thread_time() - began < SECONDS
    return said


def settled(text: str) -> str:
    """A sentence without the words of libraries."""
    for words in _LIBRARY_WORDS:
        head, found, _ = text.partition(words)
        if found:
            return f"{head}{words.rstrip()} …"
    return text


@contextmanager
def limited_memory() -> Iterator[None]:
    """At most MEMORY more bytes of addresses than now; a platform without such limits does without."""
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

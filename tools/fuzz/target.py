"""What a fuzz target is, and what counts as a finding in one execution of it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ingot

CORPUS, WORDS = Path(__file__).with_name("corpus"), Path(__file__).with_name("words")
SENTENCE_LIMIT = 600  # characters of an error's first line, a path of a temporary file included (taste)
_SECTION = re.compile(rb"^(?=@[\w.]+\n)", re.MULTILINE)
_PACKAGE = str(Path(ingot.__file__).parent)


def sections(data: bytes) -> dict[str, bytes]:
    """The parts of an input that has several: each begins with a line `@name`."""
    cut = [part.partition(b"\n") for part in split_sections(data) if part.startswith(b"@")]
    return {name[1:].decode("utf-8", "replace"): text.removesuffix(b"\n") for name, _, text in cut}


def split_sections(data: bytes) -> list[bytes]:
    return [part for part in _SECTION.split(data) if part]


def join_sections(parts: Sequence[bytes]) -> bytes:
    return b"".join(part if part.endswith(b"\n") or len(parts) == 1 else part + b"\n" for part in parts)


@dataclass(frozen=True)
class Target:
    """One reader. `run(data)` reads an input, raises what the reader raises, and AssertionError for a broken promise.

    `split` and `join` take an input apart for mutation and put it together so that it is worth reading.
    """

    name: str
    run: Callable[[bytes], None]
    split: Callable[[bytes], list[bytes]] = split_sections
    join: Callable[[Sequence[bytes]], bytes] = join_sections
    seconds: float = 5.0  # for one input; more is a hang
    memory: int = 512 << 20  # bytes beyond what the process has at its start
    length: int = 1 << 14  # of an input: what is wrong shows in small ones, and they are fast
    refuses: bool = True  # whether ValueError and FileNotFoundError are answers

    def corpus(self) -> list[bytes]:
        """The inputs to begin with."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]

    def tokens(self) -> list[bytes]:
        """Words of the format; \\xNN in their file is a byte."""
        lines = (WORDS / f"{self.name}.txt").read_bytes().splitlines()
        return [re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), line) for line in lines]


@dataclass(frozen=True)
class Finding:
    """`signature` is the same for inputs that fail in the same place."""

    signature: str
    sentence: str
    data: bytes


def execute(target: Target, data: bytes) -> Finding | None:
    """Runs one input in this process; None when the reader did what it promises."""
    try:
        target.run(data)
    except KeyboardInterrupt:
        raise
    except (ValueError, FileNotFoundError) as error:
        ours = type(error).__module__.startswith("ingot.")  # a library's own kind of ValueError is not documented
        if target.refuses and (ours or type(error) in (ValueError, FileNotFoundError)):
            wrong = what_is_wrong_with(str(error))
            return Finding(f"sentence at {_place(error)}", f"{wrong}: {error!s:.300}", data) if wrong else None
        return _raised(error, data)
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return _raised(error, data)
    return None


def what_is_wrong_with(message: str) -> str:
    """The rule of errors that `message` breaks: one sentence of printable text, then perhaps a hint; "" for none."""
    first, *rest = message.split("\n")
    if not first.strip():
        return "the error is empty"
    if len(first) > SENTENCE_LIMIT:
        return f"the error has {len(first)} characters"
    if len(rest) > 1 or not all(line.startswith("hint: ") for line in rest):
        return "the error has more lines than a sentence and a hint"
    return "" if all(line.isprintable() for line in [first, *rest]) else "the error has control characters"


def _raised(error: BaseException, data: bytes) -> Finding:
    kind = type(error).__name__
    return Finding(f"{kind} at {_place(error)}", f"{kind}: {error!s:.300}", data)


def _place(error: BaseException) -> str:
    """The last line of Ingot's that the error went through, else the last line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)] or list(frames)[-1:]
    return f"{Path(ours[-1].filename).name}-{ours[-1].lineno}" if ours else "nowhere"

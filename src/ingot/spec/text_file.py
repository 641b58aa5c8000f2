"""Texts and JSON from files of unknown origin: what kind of file it is, its size and its form are checked first."""

from __future__ import annotations

import json
import os
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

TEXT_BYTES = 64 << 20  # taste: four times the largest that is known, a tokenizer.json of 248,000 tokens
JSON_BYTES = 16 << 20  # taste: the same for vocab.json; hostile JSON takes 25 times its size in memory
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 80
_SHOWN.maxlist = _SHOWN.maxtuple = _SHOWN.maxdict = 8


def read_text(path: Path, limit: int = TEXT_BYTES) -> str:
    """The UTF-8 text of a file, line ends as they are; ValueError naming the file when it cannot be read.

    Only regular files of at most `limit` bytes are opened: reading a pipe waits for ever, a device has no end.
    """
    check_file(path, limit)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); it may be damaged or truncated.") from error
    if text.startswith("\ufeff"):
        raise ValueError(f"{path} begins with a byte order mark\nhint: save it as UTF-8 without one")
    return text


def check_file(path: Path, limit: int) -> None:
    """ValueError unless `path` is a regular file of at most `limit` bytes."""
    try:
        about = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"{path} is not a regular file.")
    if about.st_size > limit:
        raise ValueError(f"{path} has {about.st_size} bytes; {limit} are the most for such a file.")


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """The JSON value in a file; ValueError naming the file for all that `read_text` and `parse_json` refuse."""
    text = read_text(path, limit)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def read_json_object(path: Path, limit: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file; ValueError naming the file when it is not one."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}; it must be an object.")
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text. Python also takes repeated keys (the last wins) and NaN; here they are ValueErrors."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("is not valid JSON: it nests too deeply") from None
    except ValueError as error:
        reason = "an integer has too many digits" if "integer string" in str(error) else error
        raise ValueError(f"is not valid JSON: {reason}") from None


def shown(value: Any) -> str:
    """`value` as an error shows it: on one line, short, whatever it is."""
    try:
        text = _SHOWN.repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(text: str, limit: int = 300) -> str:
    """Words from outside (a library's, a template's) as part of a sentence: printable, on one line, short."""
    words = " ".join(text[: 4 * limit].split()).rstrip(".")
    plain = "".join(character if character.isprintable() else "\ufffd" for character in words)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


class _RefusedError(Exception):
    """A ValueError inside a hook would be taken for one of the decoder's."""


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _RefusedError(f"has the key {shown(key)} twice")
        result[key] = value
    return result


def _no_number(constant: str) -> NoReturn:
    raise _RefusedError(f"holds {constant}, which is no JSON number")

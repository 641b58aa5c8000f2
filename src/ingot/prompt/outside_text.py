"""Reading texts from outside: files of a checkpoint, and strings that must be valid Unicode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, line ends as they are; ValueError naming the file when it cannot be read."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); it may be damaged or truncated.") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError naming the file when it is not one."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it may be damaged or truncated.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}; it must be an object.")
    return value


def check_unicode(text: str, what: str) -> None:
    """ValueError naming `what` when `text` has a lone surrogate (half of a UTF-16 pair), which no UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"{what} has the lone surrogate U+{code:04X} at character {error.start}; text must be valid Unicode."
        ) from None

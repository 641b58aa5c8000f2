"""Reading texts from outside: files of a checkpoint, and strings that must be valid Unicode."""

from __future__ import annotations

from ingot.spec.text_file import read_json_object, read_text

__all__ = ["check_unicode", "read_json_object", "read_text"]


def check_unicode(text: str, what: str) -> None:
    """ValueError naming `what` when `text` has a lone surrogate (half of a UTF-16 pair), which no UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"{what} has the lone surrogate U+{code:04X} at character {error.start}; text must be valid Unicode."
        ) from None

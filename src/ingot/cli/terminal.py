"""A stream and what it can show: a terminal gets colours and no control characters, a file gets the exact text."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from typing import TextIO

# A model must not move the cursor, set the title, write the clipboard or turn text around. Control characters become
# visible: C0 as their pictures (U+2400 + code), DEL, C1 and bidirectional overrides as U+FFFD. "\r" is a C0 too: alone
# it would overwrite the line.
_CONTROLS: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    **dict.fromkeys([0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
    **dict.fromkeys([0x2028, 0x2029], "\n"),
}
DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
CLEAR_LINE, CLEAR_BELOW = "\r\x1b[K", "\r\x1b[J"


def harmless(text: str) -> str:
    """`text` with every character that controls a terminal made visible; newlines and tabs stay. Piecewise == whole."""
    return text.translate(_CONTROLS)


def width(character: str) -> int:
    """Columns of a character, counted high when terminals disagree: a row may be too short, never too long."""
    if unicodedata.combining(character) or character == "\u200d":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Terminal:
    """An output stream. `tty`: a person reads it; `ansi`: the cursor can be moved; `colour`: text may be dimmed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.tty = stream.isatty()
        self.ansi = self.tty and _understands_ansi()
        self.colour = self.ansi and not os.environ.get("NO_COLOR")

    def write(self, text: str) -> None:
        """Show `text` at once; on a terminal its control characters are made visible."""
        self.command(harmless(text) if self.tty else text)

    def dim(self, text: str) -> None:
        """Show `text` in grey where there are colours."""
        self.command(self.dimmed(text))

    def dimmed(self, text: str) -> str:
        """`text`, harmless, in grey where there are colours."""
        if not self.colour:
            return harmless(text) if self.tty else text
        # every line by itself: a pager or a scrolled screen never shows an open style
        lines = harmless(text).split("\n")
        return "\n".join(f"{DIM}{line}{PLAIN}" if line else "" for line in lines)

    def command(self, text: str) -> None:
        """Write our own text with its escape sequences."""
        self.stream.write(text)
        self.stream.flush()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            found = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            found = shutil.get_terminal_size()
        return found.columns or 80, found.lines or 24


def _understands_ansi() -> bool:
    if sys.platform == "win32":  # the old console does not; Windows Terminal and Unix-like shells say who they are
        return any(name in os.environ for name in ("WT_SESSION", "ANSICON", "TERM"))
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")

"""A terminal screen for tests: understands what the command line itself writes, and nothing else."""

from __future__ import annotations

import io
import re

_SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")


class SmallScreen(io.StringIO):
    """Give it to Terminal as the stream. `lines` is what a person sees; it fails on sequences it does not know."""

    def __init__(self, columns: int = 40) -> None:
        super().__init__()
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """The rows without trailing blanks, without empty rows at the end."""
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip("\n").split("\n")

    def write(self, text: str) -> int:
        position = 0
        while position < len(text):
            found = _SEQUENCE.match(text, position)
            if found:
                self._command(found[2], found[1])
                position = found.end()
            else:
                self._put(text[position])
                position += 1
        return len(text)

    def _command(self, letter: str, numbers: str) -> None:
        if letter == "A":
            assert self.row >= int(numbers), "the cursor would leave the screen"
            self.row -= int(numbers)
        elif letter in "JK":
            assert numbers == ""
            del self.rows[self.row][self.column :]
            if letter == "J":
                del self.rows[self.row + 1 :]
        else:
            assert letter == "m", f"unknown sequence {letter!r}"

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
        else:
            assert character.isprintable(), f"control character {character!r}"
            if self.column == self.columns:
                self._down()
            row = self.rows[self.row]
            row += [" "] * (self.column + 1 - len(row))
            row[self.column] = character
            self.column += 1

    def _down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append([])

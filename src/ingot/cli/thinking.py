"""Reasoning on a terminal: a few grey lines that move while the model thinks, folded to one when it is done."""

from __future__ import annotations

from ingot.cli.terminal import CLEAR_BELOW, Terminal, harmless, width

ROWS = 6  # taste: enough to follow, and the answer starts where the eye is
MARGIN = "│ "
SPARE = 3  # columns left free: "^C" is echoed there, and terminals disagree about the width of some characters


class ThinkingView:
    """Shows reasoning on `terminal`. Folding needs a terminal that moves its cursor; elsewhere text streams."""

    def __init__(self, terminal: Terminal, fold: bool = True, show: bool = True) -> None:
        self.terminal, self.show = terminal, show
        self.fold = fold and terminal.ansi
        self._rows: list[str] = []  # finished rows, the last ROWS of them
        self._tail = ""  # the paragraph that grows
        self._painted: list[str] = []
        self._columns = 0
        self._streamed = False

    def feed(self, text: str) -> None:
        """More reasoning."""
        if not self.show:
            return
        if not self.fold:
            self._stream(text)
            return
        columns = self.terminal.size[0]
        if self._painted and columns != self._columns:  # resized: where the rows are now is anyone's guess
            self.terminal.command("\n")
            self._painted = []
        self._columns = columns
        room = max(columns - len(MARGIN) - SPARE, 8)
        *whole, self._tail = (self._tail + harmless(text).replace("\t", "    ")).split("\n")
        for paragraph in whole:
            self._rows += wrap(paragraph, room)
        self._rows = self._rows[-ROWS:]
        self._paint([*self._rows, *(wrap(self._tail, room) if self._tail else [])][-self._height :])

    def done(self, summary: str) -> None:
        """The reasoning is over: one line is left of it, or all of it with a line below."""
        self.erase()
        if self._streamed:
            self.terminal.command("\n")
            self._streamed = False
        if self.terminal.tty:
            self.terminal.dim(summary + "\n")

    def erase(self) -> None:
        """Remove the moving rows."""
        self.terminal.command(self._back())
        self._painted, self._rows, self._tail = [], [], ""

    @property
    def _height(self) -> int:
        return max(1, min(ROWS, self.terminal.size[1] - 2))

    def _stream(self, text: str) -> None:
        text = text if self._streamed else text.lstrip("\n")
        if text:
            self._streamed = True
            self.terminal.dim(text)

    def _paint(self, rows: list[str]) -> None:
        old = self._painted
        grows = old and rows[: len(old) - 1] == old[:-1] and rows[len(old) - 1].startswith(old[-1])
        if grows:  # the usual case: only write what is new
            new = [rows[len(old) - 1][len(old[-1]) :]]
            self.terminal.command(self.terminal.dimmed(new[0]) + self._lines(rows[len(old) :], first="\n"))
        else:
            self.terminal.command(self._back() + self._lines(rows, first=""))
        self._painted = rows

    def _lines(self, rows: list[str], first: str) -> str:
        return "".join((first if i == 0 else "\n") + self.terminal.dimmed(MARGIN + row) for i, row in enumerate(rows))

    def _back(self) -> str:
        """To the first painted row, everything from there on cleared."""
        if not self._painted:
            return ""
        up = len(self._painted) - 1
        return (f"\x1b[{up}A" if up else "") + CLEAR_BELOW


def wrap(text: str, room: int) -> list[str]:
    """Rows of at most `room` columns, broken after spaces where there are any. Without text one empty row.

    A longer text has the same rows but for the last: the view may extend what it has painted.
    """
    rows, row, used, blank = [], "", 0, -1
    for character in text:
        while row and used + width(character) > room:
            kept, rest = (row[: blank + 1], row[blank + 1 :]) if blank >= 0 else (row, "")
            rows.append(kept)
            row, used, blank = rest, sum(map(width, rest)), -1
        if character == " ":
            blank = len(row)
        row += character
        used += width(character)
    return [*rows, row]

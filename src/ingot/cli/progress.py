"""A line on stderr while something takes long, gone without a trace afterwards; nothing where no terminal is."""

from __future__ import annotations

import threading
import time

from ingot.cli.terminal import CLEAR_LINE, Terminal

PATIENCE_S = 0.6  # taste: what is faster needs no comment
EVERY_S = 0.25


class Progress:
    """`with Progress(terminal, "loading x") as line:` shows text, percentage (`line.at(done, total)`) and seconds."""

    def __init__(self, terminal: Terminal, text: str) -> None:
        self.terminal, self.text = terminal, text
        self._share: float | None = None
        self._of = ""
        self._over = threading.Event()
        self._shown = False
        self._thread = threading.Thread(target=self._paint, daemon=True)

    def at(self, done: int, total: int) -> None:
        """How much is done."""
        self._share = done / total if total else None

    def at_bytes(self, done: int, total: int) -> None:
        """How much is done; the whole is shown in GB."""
        self._of = f" of {total / 1e9:.1f} GB"
        self.at(done, total)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        if self.terminal.ansi:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the line away; may be called twice."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._shown:
            self.terminal.command(CLEAR_LINE)
            self._shown = False

    def _paint(self) -> None:
        wait = PATIENCE_S
        while not self._over.wait(wait):
            wait, self._shown = EVERY_S, True
            share = "" if self._share is None else f" {self._share:.0%}{self._of}"
            line = f"{self.text}{share} · {time.monotonic() - self._start:.0f} s"
            self.terminal.command(CLEAR_LINE + self.terminal.dimmed(line[: self.terminal.size[0] - 1]))

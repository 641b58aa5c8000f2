"""Whether the server still comes round: a thread that looks each second, and tells where everyone stands if not."""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import UnsupportedOperation
from typing import Any

log = logging.getLogger("ingot.serve")
TICK_S = 1.0


class Stillness:
    """Seconds for which a value has not changed. Time in which this process was stopped, or the machine asleep, is not
    counted."""

    def __init__(self) -> None:
        self.seconds, self._value, self._looked = 0.0, None, time.monotonic()

    def look(self, value: Any, tick: float = TICK_S) -> float:
        """Note the value as it is now, at least once a `tick`."""
        now = time.monotonic()
        changed = value != self._value
        self.seconds = 0.0 if changed else self.seconds + min(now - self._looked, 2 * tick)
        self._value, self._looked = value, now
        return self.seconds


class Watchdog:
    """`signs` are values, each with the sentence about it if it does not change for `limit` seconds (0: for ever);
    `stuck` is called with that sentence, after the stacks of all threads are in the log: once, until it has changed
    again."""

    def __init__(
        self,
        signs: Mapping[str, Callable[[], Any]],
        limit: float,
        stuck: Callable[[str], None],
    ) -> None:
        self._signs, self._limit, self._stuck = signs, limit, stuck
        self._still = {sentence: Stillness() for sentence in signs}
        self._over = threading.Event()

    def start(self) -> None:
        """Watch, in a thread of its own."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()

    def _run(self) -> None:
        told = None
        while not self._over.wait(min(TICK_S, self._limit / 4 or TICK_S)):
            longest = {sentence: self._still[sentence].look(sign()) for sentence, sign in self._signs.items()}
            late = next((sentence for sentence, seconds in longest.items() if seconds > self._limit > 0), None)
            if late is not None and late != told:
                log.critical("%s for %.0f seconds; all threads:", late, longest[late])
                write_stacks()
                self._stuck(f"{late} for {longest[late]:.0f} seconds")
            told = late


def write_stacks() -> None:
    """Where every thread stands, to stderr: names of files and functions, nothing that a client said."""
    with suppress(UnsupportedOperation, AttributeError, ValueError):  # a stderr that is no file
        faulthandler.dump_traceback(sys.stderr, all_threads=True)

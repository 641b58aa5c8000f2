"""What is told about a request: its metrics, and one line of the log, in which there is nothing that a client said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from ingot.serve.body import GoneError
from ingot.serve.engine_thread import EngineThread
from ingot.serve.errors import ApiError
from ingot.serve.metrics import Metrics
from ingot.serve.tickets import Began, Ended, Piece, Ticket

log = logging.getLogger("ingot.serve")


class Story:
    """Of one request. `over` is called at its end, `answered` before if it was answered."""

    def __init__(self, metrics: Metrics, path: str) -> None:
        self.metrics, self.path = metrics, path
        self.over: Callable[[], None] = lambda: None
        self.answered: Callable[[], None] = lambda: None
        self.completions: Sequence[Any] = ()
        self.n = 1
        self.pixels = 0
        self._tickets: Sequence[Ticket] = ()
        self._engine: EngineThread | None = None
        self._began, self._last, self._status = time.monotonic(), 0.0, 200
        self._waits = True

    def of(self, completions: Sequence[Any], n: int, tickets: Sequence[Ticket], engine: EngineThread) -> None:
        """What is being made, n of each prompt, and where it is cancelled if the request ends first."""
        self.completions, self.n, self._tickets, self._engine = completions, n, tickets, engine

    def saw(self, event: Any) -> None:
        """An event of the engine."""
        now = time.monotonic()
        if isinstance(event, Began) and self._waits:
            self._waits = False
            self.metrics.seconds("queue_seconds", now - self._began)
        if isinstance(event, Piece | Ended):
            name = "inter_token_seconds" if self._last else "time_to_first_token_seconds"
            if isinstance(event, Piece) or not self._last:
                self.metrics.seconds(name, now - (self._last or self._began))
                self._last = now

    def failed(self, error: ApiError) -> None:
        """It ended with an error."""
        self._status = error.status
        if error.status in (429, 503):
            self.metrics.count("rejections_total", reason=error.code)

    def broke(self, error: BaseException) -> None:
        """An exception ended it: a refusal, a client that has gone or reads no more, or a fault of ours."""
        if isinstance(error, GoneError | OSError | asyncio.CancelledError):  # TimeoutError is an OSError
            self._status = 499  # nginx's number for it: nobody receives a status
            self.metrics.count("disconnects_total")
        else:
            self.failed(error if isinstance(error, ApiError) else ApiError(500, ""))

    def end(self) -> None:
        """It is over, however; what still runs for it is ended."""
        if self._engine is not None and self._status != 200:
            for ticket in self._tickets:
                self._engine.cancel(ticket)
        usages = [made.usage for made in self.completions]
        read = sum(usage.prompt_tokens for usage in usages[:: self.n])
        cached = sum(usage.cached_tokens for usage in usages[:: self.n])
        written = sum(usage.completion_tokens for usage in usages)
        seconds = time.monotonic() - self._began
        self.metrics.count("requests_total", endpoint=self.path, status=self._status)
        if written:  # else its prompt may never have been read
            self.metrics.count("prompt_tokens_total", read)
            self.metrics.count("cached_tokens_total", cached)
            self.metrics.count("computed_tokens_total", read - cached)
            self.metrics.count("completion_tokens_total", written)
            self.metrics.seconds("request_seconds", seconds)
        log.info(
            "POST %s %d prompt=%d cached=%d completion=%d ms=%.0f",
            self.path,
            self._status,
            read,
            cached,
            written,
            1000 * seconds,
        )
        if self._status == 200 and self.completions:
            self.answered()
        self.over()

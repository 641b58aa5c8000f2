"""uvicorn's HTTP/1.1 connection with an end for those that send nothing, or a request's head byte by byte."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ingot.serve.limits import most


class Protocol(H11Protocol):
    """uvicorn ends a connection that is idle after an answer; this one also before the first request, and while a head
    is on its way. One connection too many is closed at once."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > most("sockets"):
            transport.abort()
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Bytes have come, or the next of several requests has its turn."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answer is out; the next request's head may come."""
        self._wait_for_head()
        super().on_response_complete()

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(most("head time"), self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

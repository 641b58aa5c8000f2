"""Who is next: tickets in the order in which they came, moved by their priorities."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Any

# Seconds of waiting that a step of `priority` counts as: whoever waits catches up with every later one, so that nobody
# starves, however many of a better priority come (taste).
STEP_S = 10.0


class Waiting:
    """Tickets by `came + STEP_S * priority`, as `Request.priority` has it: lower goes first, equals as they came."""

    def __init__(self) -> None:
        self._tickets: list[Any] = []

    def add(self, ticket: Any, came: float) -> None:
        """Queue a ticket that came at a time in seconds."""
        ticket.due = came + STEP_S * ticket.job.request.priority
        insort(self._tickets, ticket, key=lambda one: one.due)

    def remove(self, ticket: Any) -> None:
        """Take a ticket out, if it is in."""
        self._tickets = [one for one in self._tickets if one is not ticket]

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self._tickets))  # which may change meanwhile

    def __contains__(self, ticket: Any) -> bool:
        return any(one is ticket for one in self._tickets)

    def __len__(self) -> int:
        return len(self._tickets)

"""Snapshots that wait before they are written to disk: what comes soon after may stand for them.

An agent's turn leaves one for each call of a tool, and a template that drops the reasoning of earlier turns abandons
all of them but the first when the user speaks again. A state is as many bytes as the keys and values of some 1,600
tokens, its `worth`, and what is appended is not taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ingot.engine.prefix_tree import Snapshot
from ingot.engine.sequence import Sequence

PATIENCE_S = 30.0  # a call of a tool is back by then, and a finished turn read ahead; a crash costs no more (taste)


@dataclass(eq=False)
class _Wait:
    """Since when, how many tokens it saves beyond the snapshot before it, and who goes on from it now."""

    since: float
    tokens: int
    sequence: Sequence | None

    @property
    def runs(self) -> bool:
        return self.sequence is not None and self.sequence.slot >= 0


class Patience:
    """Of the snapshots of a cache with this `clock`; a state has the bytes of `worth` tokens."""

    def __init__(self, clock: Callable[[], float], worth: float) -> None:
        self.clock, self.worth = clock, worth
        self._waits: dict[Snapshot, _Wait] = {}

    def __contains__(self, snapshot: Snapshot) -> bool:
        return snapshot in self._waits

    @property
    def due_s(self) -> float | None:
        """Seconds until one has waited long enough; None: none waits."""
        if not self._waits:
            return None
        return max(0.0, min(wait.since for wait in self._waits.values()) + PATIENCE_S - self.clock())

    def add(self, snapshot: Snapshot, tokens: int, sequence: Sequence | None) -> None:
        """One that saves so many `tokens` beyond the one before it; `sequence` goes on from it."""
        self._waits[snapshot] = _Wait(self.clock(), tokens, sequence)

    def replace(self, later: Snapshot, came_from: Snapshot | None) -> bool:
        """Drop those for which a `later` one stands: which it extends, if they save little, and which its conversation
        has left. Whether there were any. It was computed by one that `came_from` another."""
        turn = above(came_from, lambda one: one.kind == "turn") if came_from else None
        gone = [one for one, wait in self._waits.items() if one is not later and self._stands(later, one, wait, turn)]
        for one in gone:
            del self._waits[one]
        return bool(gone)

    def ripe(self) -> list[Snapshot]:
        """Take those that have waited long enough. One that saves little waits until the answer after it is there: the
        next one is likely to stand for it."""
        now = self.clock()
        for wait in self._waits.values():
            if wait.runs and wait.tokens < self.worth:
                wait.since = now
        found = [one for one, wait in self._waits.items() if wait.since + PATIENCE_S <= now]
        for one in found:
            del self._waits[one]
        return found

    def leave(self, snapshot: Snapshot) -> bool:
        """Take one that waits no more, if it does; whether it saves what a state is worth."""
        wait = self._waits.pop(snapshot, None)
        return wait is not None and wait.tokens >= self.worth

    def drain(self) -> list[Snapshot]:
        """Take all of them."""
        found = list(self._waits)
        self._waits.clear()
        return found

    def _stands(self, later: Snapshot, one: Snapshot, wait: _Wait, turn: Snapshot | None) -> bool:
        if extends(later, one):
            return wait.tokens < self.worth
        return turn is not None and extends(one, turn) and not wait.runs


def extends(snapshot: Snapshot, other: Snapshot) -> bool:
    """Whether a snapshot's tokens begin with those of another; its own do."""
    node, rest = snapshot.node, snapshot.tail
    while node.depth > other.node.depth and node.parent is not None:
        node, rest = node.parent, node.keys
    return node.digest == other.node.digest and np.array_equal(rest[: len(other.tail)], other.tail)


def above(snapshot: Snapshot, wanted: Callable[[Snapshot], bool]) -> Snapshot | None:
    """Of the snapshots in memory that a snapshot extends, itself included, the last one that is wanted."""
    if wanted(snapshot):
        return snapshot
    node, rest = snapshot.node, snapshot.tail
    while True:
        found = node.begun(rest)
        while found is not None and not wanted(found):
            found = node.begun(found.tail[:-1]) if len(found.tail) else None
        if found is not None or node.parent is None:
            return found
        node, rest = node.parent, node.keys

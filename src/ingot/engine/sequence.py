"""What one sequence remembers: its slot of the recurrent pools, its pages of keys and values, its length and rope
delta.

A recurrent state cannot be truncated, only copied: hence verbs, not indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.model import new_pools
from ingot.ops import PAGE, Segments
from ingot.spec import Config


@dataclass
class Sequence:
    """A running sequence. `rope_delta` is what its positions lag behind its length (pictures take fewer positions than
    tokens)."""

    slot: int
    length: int = 0
    rope_delta: int = 0
    pages: list[int] = field(default_factory=list)


class StatePool:
    """Owner of the pools: hands out slots and pages, grows when asked to, and copies states. One thread at a time."""

    def __init__(self, ops: Any, config: Config) -> None:
        self.ops, self.config = ops, config
        self.pools = new_pools(ops, config, slots=1, pages=0)
        self._free_slots, self._free_pages = [0], list[int]()

    def open(self) -> Sequence:
        """A new empty sequence."""
        if not self._free_slots:
            self._grow(slots=2 * self.pools.slots, pages=self.pools.pages)
        return Sequence(self._free_slots.pop())

    def close(self, sequence: Sequence) -> None:
        """Give back the sequence's slot and pages; it must not be used again."""
        self._free_slots.append(sequence.slot)
        self._free_pages.extend(reversed(sequence.pages))
        sequence.pages, sequence.slot = [], -1

    def fork(self, sequence: Sequence) -> Sequence:
        """An independent copy that continues from the same tokens."""
        twin = self.open()
        twin.length, twin.rope_delta = sequence.length, sequence.rope_delta
        self.reserve(twin, sequence.length)
        slots, pages = [(sequence.slot, twin.slot)], list(zip(sequence.pages, twin.pages, strict=False))
        for i, pool in enumerate(self.pools.layers):
            for array in pool:
                for source, target in slots if i in self.pools.linear else pages:
                    self.ops.copy_row(array, source, target)
        return twin

    def reserve(self, sequence: Sequence, tokens: int) -> None:
        """Pages for a total of `tokens` tokens."""
        wanted = -(-tokens // PAGE) - len(sequence.pages)
        if wanted > len(self._free_pages):
            # by half: the copy is rare, and no more than a third of the pool stands empty
            total = self.pools.pages - len(self._free_pages) + wanted
            self._grow(self.pools.slots, max(total, self.pools.pages + self.pools.pages // 2))
        sequence.pages += [self._free_pages.pop() for _ in range(wanted)]

    def segments(self, sequence: Sequence, position_3T: np.ndarray | None, tokens: int) -> Segments:
        """The pass that appends `tokens` tokens to the sequence, at the given positions or, for text, at the next
        ones."""
        self.reserve(sequence, sequence.length + tokens)
        if position_3T is None:
            first = sequence.length + sequence.rope_delta
            position_3T = np.tile(np.arange(first, first + tokens, dtype=np.int32), (3, 1))
        return Segments(
            offset=np.array([0, tokens], np.int32),
            start=np.array([sequence.length], np.int32),
            position=np.ascontiguousarray(position_3T, np.int32),
            slot=np.array([sequence.slot], np.int32),
            pages=np.array([sequence.pages], np.int32),
        )

    def _grow(self, slots: int, pages: int) -> None:
        """More rows for every pool that needs them, one layer at a time, so that only one is ever there twice."""
        pools = self.pools
        for i in range(len(pools.layers)):
            first, second = pools.layers[i]
            rows = slots if i in pools.linear else pages
            if rows > (pools.slots if i in pools.linear else pools.pages):
                first = self.ops.grow(first, rows)
                pools.layers[i] = first, second  # the old array is given back before the next is made
                pools.layers[i] = first, self.ops.grow(second, rows)
            del first, second
        self._free_slots += range(slots - 1, pools.slots - 1, -1)
        self._free_pages += range(pages - 1, pools.pages - 1, -1)
        pools.slots, pools.pages = slots, pages

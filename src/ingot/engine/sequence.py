"""What one sequence remembers: its slot of the recurrent pools, its pages of keys and values, its length and rope
delta.

A recurrent state cannot be truncated, only copied: hence verbs, not indices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.model import new_pools
from ingot.ops import PAGE, Segments
from ingot.spec import Config
from ingot.spec.cost import kv_bytes, state_bytes

# Left free when a request is admitted: the activations of a pass, and what other processes take meanwhile (taste).
MARGIN = 128 * 2**20


@dataclass
class Sequence:
    """A running sequence. `rope_delta` is what its positions lag behind its length (pictures take fewer positions than
    tokens)."""

    slot: int
    length: int = 0
    rope_delta: int = 0
    pages: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))


class StatePool:
    """Owner of the pools: hands out slots and pages, grows when asked to, and copies states. One thread at a time.

    `available` says how many bytes of memory are left (None: nobody knows). Memory is taken when a page is written for
    the first time: pages that were handed out and not written yet are promised.
    """

    def __init__(
        self, ops: Any, config: Config, kv: str = "f32", available: Callable[[], int | None] = lambda: None
    ) -> None:
        self.ops, self.config, self.kv, self.available = ops, config, kv, available
        self.pools = new_pools(ops, config, slots=1, pages=0, kv=kv)
        self._free_slots, self._free_pages = [0], list[int]()
        self._written, self._promised = set[int](), 0

    @property
    def tokens_held(self) -> int:
        """Tokens that open sequences have pages for."""
        return PAGE * (self.pools.pages - len(self._free_pages))

    def check(self, tokens: int, sequences: int = 1) -> None:
        """ValueError if so many other sequences, of that many tokens each, would not fit in memory."""
        needed, room = self._asked(tokens, sequences)
        if room is None or needed <= room:
            return
        smaller = {"f32": "kv='bf16' (half) or kv='q8' (a quarter)", "bf16": "kv='q8' (half)"}.get(self.kv)
        hint = " or ".join(filter(None, (smaller, "a shorter prompt or a smaller max_tokens")))
        answers = f"{sequences} answers of " if sequences > 1 else ""
        raise ValueError(
            f"{answers}{tokens:,} tokens, prompt and max_tokens, need {needed / 2**20:,.0f} MiB for keys and values as "
            f"{self.kv}; {room / 2**20:,.0f} MiB are free\nhint: {hint}"
        )

    def fits(self, tokens: int, sequences: int = 1) -> bool:
        """Whether so many other sequences, of that many tokens each, fit in memory."""
        needed, room = self._asked(tokens, sequences)
        return room is None or needed <= room

    def _asked(self, tokens: int, sequences: int) -> tuple[int, int | None]:
        """Bytes that sequences would take, and those that may be taken."""
        left = self.available()
        if left is None:
            return 0, None
        page, pages = PAGE * kv_bytes(self.config, self.kv), sequences * -(-tokens // PAGE)
        reused = sum(p in self._written for p in self._free_pages[-pages:])
        needed = (pages - reused) * page + max(0, sequences - len(self._free_slots)) * state_bytes(self.config)
        if pages > len(self._free_pages):  # growing has one array twice
            needed += len(self._written) * page // (2 * (len(self.pools.layers) - len(self.pools.linear)) or 1)
        return needed, max(0, left - MARGIN - self._promised * page)

    def open(self) -> Sequence:
        """A new empty sequence."""
        if not self._free_slots:
            self._grow(slots=2 * self.pools.slots, pages=self.pools.pages)
        return Sequence(self._free_slots.pop())

    def close(self, sequence: Sequence) -> None:
        """Give back the sequence's slot and pages; it must not be used again."""
        self._free_slots.append(sequence.slot)
        pages = sequence.pages.tolist()
        self._promised -= sum(page not in self._written for page in pages)
        self._free_pages.extend(reversed(pages))
        sequence.pages, sequence.slot = sequence.pages[:0], -1

    def fork(self, sequence: Sequence) -> Sequence:
        """An independent copy that continues from the same tokens."""
        twin = self.open()
        self.copy(sequence, twin)
        return twin

    def copy(self, sequence: Sequence, twin: Sequence) -> None:
        """Give an empty sequence what another one remembers."""
        twin.length, twin.rope_delta = sequence.length, sequence.rope_delta
        self.reserve(twin, sequence.length)
        slots, pages = [(sequence.slot, twin.slot)], list(zip(sequence.pages, twin.pages, strict=False))
        pages = pages[: -(-sequence.length // PAGE)]  # the others hold nothing yet
        self._write(twin, 0, sequence.length)
        for i, pool in enumerate(self.pools.layers):
            for array in pool:
                for source, target in slots if i in self.pools.linear else pages:
                    self.ops.copy_row(array, source, target)

    def reserve(self, sequence: Sequence, tokens: int) -> None:
        """Pages for a total of `tokens` tokens."""
        wanted = -(-tokens // PAGE) - len(sequence.pages)
        if wanted > len(self._free_pages):
            # by half: the copy is rare, and no more than a third of the pool stands empty
            total = self.pools.pages - len(self._free_pages) + wanted
            self._grow(self.pools.slots, max(total, self.pools.pages + self.pools.pages // 2))
        if wanted > 0:
            pages = [self._free_pages.pop() for _ in range(wanted)]
            self._promised += sum(page not in self._written for page in pages)
            sequence.pages = np.append(sequence.pages, np.array(pages, np.int32))

    def _write(self, sequence: Sequence, begin: int, end: int) -> None:
        """Notes that tokens begin .. end of a sequence get their memory."""
        for page in sequence.pages[begin // PAGE : -(-end // PAGE)].tolist():
            if page not in self._written:
                self._written.add(page)
                self._promised -= 1

    def segments(self, sequence: Sequence, position_3T: np.ndarray | None, tokens: int) -> Segments:
        """The pass that appends `tokens` tokens to the sequence, at the given positions or, for text, at the next
        ones."""
        self.reserve(sequence, sequence.length + tokens)
        self._write(sequence, sequence.length, sequence.length + tokens)
        if position_3T is None:
            first = sequence.length + sequence.rope_delta
            position_3T = np.tile(np.arange(first, first + tokens, dtype=np.int32), (3, 1))
        return Segments(
            offset=np.array([0, tokens], np.int32),
            start=np.array([sequence.length], np.int32),
            position=np.ascontiguousarray(position_3T, np.int32),
            slot=np.array([sequence.slot], np.int32),
            pages=sequence.pages[None],
        )

    def _grow(self, slots: int, pages: int) -> None:
        """More rows for every pool that needs them, one array at a time, so that only one is ever there twice."""
        pools, written = self.pools, max(self._written, default=-1) + 1
        for i in range(len(pools.layers)):
            first, second = pools.layers[i]
            linear = i in pools.linear
            rows, kept = (slots, pools.slots) if linear else (pages, written)
            if rows > (pools.slots if linear else pools.pages):
                first = self.ops.grow(first, rows, kept)
                pools.layers[i] = first, second  # the old array is given back before the next is made
                pools.layers[i] = first, self.ops.grow(second, rows, kept)
            del first, second
        self._free_slots += range(slots - 1, pools.slots - 1, -1)
        self._free_pages[:0] = range(pages - 1, pools.pages - 1, -1)  # written ones are taken first
        pools.slots, pools.pages = slots, pages

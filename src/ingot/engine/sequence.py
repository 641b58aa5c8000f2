"""What one sequence remembers: its slot of the recurrent pools, its pages of keys and values, its length and rope
delta.

A recurrent state cannot be truncated, only copied: hence verbs, not indices. Full pages never change, so sequences and
the prefix cache share them; the page that is being filled has one writer.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.engine.keys import Keys
from ingot.engine.rows import Rows
from ingot.engine.speculate import MOST_DRAFTS
from ingot.model import add_windows, new_pools, settle
from ingot.ops import PAGE, Segments
from ingot.spec import Config
from ingot.spec.cost import kv_bytes, state_bytes

# Left free when a request is admitted: the activations of a pass, and what other processes take meanwhile (taste).
MARGIN = 128 * 2**20


@dataclass(eq=False)
class Sequence:
    """A running sequence. `rope_delta` is what its positions lag behind its length (pictures take fewer positions than
    tokens), `promised` the pages that it may still take, `keys` what its tokens are (None: nobody may share them), and
    `node` how far the prefix cache knows it. Of the drafts in its `window` (-1: it has none) the last `accepted` tokens
    are still to be written to its state."""

    slot: int
    length: int = 0
    rope_delta: int = 0
    pages: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    promised: int = 0
    keys: Keys | None = None
    node: Any = None
    window: int = -1
    accepted: int = 0


class StatePool:
    """Owner of the pools: hands out slots and pages, grows when asked to, and copies states. One thread at a time.

    `available` says how many bytes of memory are left (None: nobody knows). Memory is taken when a row is handed out
    for the first time. `most_pages` and `most_slots` bound how far the pools grow; at the bound, and where memory ends,
    `reclaim` makes the prefix cache forget something (False: it has nothing).
    """

    def __init__(
        self, ops: Any, config: Config, kv: str = "f32", available: Callable[[], int | None] = lambda: None
    ) -> None:
        self.ops, self.config, self.kv, self.available = ops, config, kv, available
        self.pools = new_pools(ops, config, slots=1, pages=0, kv=kv)
        self.page_bytes, self.state_bytes = PAGE * kv_bytes(config, kv), state_bytes(config)
        self.window_bytes = 0  # of the drafts of a sequence, where there will be any
        self.most_pages: int | None = None
        self.most_slots: int | None = None
        self.reclaim: Callable[[], bool] = lambda: False
        self.snapshots = 0  # slots that the prefix cache has
        self.idle = 0  # pages that the prefix cache has alone
        self._slots, self._pages, self._windows = Rows(1), Rows(0), Rows(0)
        self._promised = 0
        self._users = np.zeros(0, np.int32)  # [pages]: sequences that read a page
        self._kept = np.zeros(0, np.int32)  # [pages]: nodes and snapshots of the prefix cache that have it

    @property
    def tokens_held(self) -> int:
        """Tokens that open sequences have pages for, or may still take."""
        return PAGE * (self._pages.taken - self.idle + self._promised)

    def check(self, tokens: int, sequences: int = 1) -> None:
        """ValueError if so many other sequences, of that many tokens each, would not fit in memory, or never in the
        pools."""
        pages, room = sequences * pages_of(tokens), self._room()
        fits = room is None or self._needed(pages, sequences) <= room
        if fits and (self.most_pages is None or pages <= self.most_pages):
            return
        if fits:
            room = (self.most_pages or 0) * self.page_bytes
        smaller = {"f32": "kv='bf16' (half) or kv='q8' (a quarter)", "bf16": "kv='q8' (half)"}.get(self.kv)
        hint = " or ".join(filter(None, (smaller, "a shorter prompt or a smaller max_tokens")))
        answers = f"{sequences} answers of " if sequences > 1 else ""
        raise ValueError(
            f"{answers}{tokens:,} tokens, prompt and max_tokens, need {self._needed(pages, sequences) / 2**20:,.0f} "
            f"MiB for keys and values as {self.kv}; {(room or 0) / 2**20:,.0f} MiB are free\nhint: {hint}"
        )

    def fits(self, tokens: int, sequences: int = 1) -> bool:
        """Whether so many other sequences, of that many tokens each, fit in memory."""
        return self.has_room(sequences * pages_of(tokens), sequences)

    def has_room(self, pages: int, slots: int, pinned: int = 0) -> bool:
        """Whether so many pages and slots can be taken beside those that are promised, when `pinned` pages of the
        prefix cache come into use."""
        spare = self.idle - pinned
        bound = self.most_pages
        if bound is not None and self._pages.taken - spare + self._promised + pages > bound:
            return False
        needed = self._needed(pages, slots, pinned)
        if not needed:  # what is left is not read, which can take a millisecond
            return True
        room = self._room()
        return room is None or needed <= room

    def _room(self) -> int | None:
        left = self.available()
        return None if left is None else max(0, left - MARGIN)

    def _needed(self, pages: int, slots: int, pinned: int = 0) -> int:
        """Bytes that the system must give for them, and for what is promised."""
        wanted = self._promised + pages
        fresh = max(0, wanted - self._pages.free - self.idle + pinned)
        needed = fresh * self.page_bytes + max(0, slots - self._slots.free - self.snapshots) * self.state_bytes
        needed += max(0, slots - self._windows.free) * self.window_bytes
        if self.most_pages is None and wanted > self._pages.left + self.idle:  # growing has one array twice
            needed += self._pages.used * self.page_bytes // (2 * (len(self.pools.layers) - len(self.pools.linear)) or 1)
        return needed

    def prepare(self, slots: int, pages: int) -> None:
        """Make the pools so large and let them grow no more: what grows later stops everyone while it is copied. The
        system gives memory as rows are taken."""
        self._grow(max(slots, self.pools.slots), max(pages, self.pools.pages))
        self.most_slots, self.most_pages = self.pools.slots, self.pools.pages

    def widen(self, slots: int) -> None:
        """Have room for so many slots."""
        if self.most_slots is None and slots > self.pools.slots:
            self._grow(slots, self.pools.pages)

    def open(self) -> Sequence:
        """A new empty sequence."""
        return Sequence(self.take_slot())

    def close(self, sequence: Sequence) -> None:
        """Give back the sequence's slot and pages; it must not be used again."""
        self._promised -= sequence.promised
        for page in sequence.pages.tolist():
            self.release(page)
        if sequence.slot >= 0:
            self.give_slot(sequence.slot)
        self._close_window(sequence)
        sequence.pages, sequence.slot, sequence.promised, sequence.node = sequence.pages[:0], -1, 0, None

    def fork(self, sequence: Sequence) -> Sequence:
        """A sequence that continues from the same tokens: it shares the full pages, and has its own state."""
        twin = self.open()
        self.settle(sequence)
        self.copy_slot(sequence.slot, twin.slot)
        self.share(twin, sequence.pages[: pages_of(sequence.length)].tolist(), sequence.length)
        twin.rope_delta, twin.node = sequence.rope_delta, sequence.node
        twin.keys = None if sequence.keys is None else sequence.keys.copy()
        return twin

    def share(self, sequence: Sequence, pages: Several[int], length: int) -> None:
        """Give an empty sequence `length` tokens: full pages are shared, the one that is being filled is copied."""
        for page in pages:
            self.use(page)
        mine = list(pages)
        if length % PAGE:
            mine[-1] = self.take_page()
            self.copy_page(pages[-1], mine[-1])
            self.release(pages[-1])
        sequence.pages, sequence.length = np.array(mine, np.int32), length

    def add_page(self, sequence: Sequence) -> int:
        """One more page for a sequence, of those it was promised: its number, whatever is in it."""
        page = self.take_page()
        sequence.pages = np.append(sequence.pages, np.int32(page))
        kept = max(0, sequence.promised - 1)
        self._promised += kept - sequence.promised
        sequence.promised = kept
        return page

    def reserve(self, sequence: Sequence, tokens: int) -> None:
        """Promise the sequence pages for a total of `tokens` tokens, and make the pools large enough."""
        wanted = max(0, pages_of(tokens) - len(sequence.pages))
        self._promised += wanted - sequence.promised
        sequence.promised = wanted
        if self.most_pages is not None:
            return
        while self._promised > self._pages.left and not self.has_room(0, 0, self.idle) and self.reclaim():
            pass  # memory ends: what the prefix cache has is taken instead
        missing = self._promised - self._pages.left
        if missing > 0:
            # by half: the copy is rare, and no more than a third of the pool stands empty
            self._grow(self.pools.slots, max(self.pools.pages + missing, self.pools.pages + self.pools.pages // 2))

    def segments(self, sequence: Sequence, position_3T: np.ndarray | None, tokens: int, tried: int = 0) -> Segments:
        """The pass that appends `tokens` tokens to the sequence, at the given positions or, for text, at the next
        ones. The last `tried` of them are not certain: `accept` says how many were right."""
        for _ in range(pages_of(sequence.length + tokens) - len(sequence.pages)):
            self.add_page(sequence)
        if position_3T is None:
            first = sequence.length + sequence.rope_delta
            position_3T = np.tile(np.arange(first, first + tokens, dtype=np.int32), (3, 1))
        return Segments(
            offset=np.array([0, tokens], np.int32),
            start=np.array([sequence.length], np.int32),
            position=np.ascontiguousarray(position_3T, np.int32),
            slot=np.array([sequence.slot], np.int32),
            pages=sequence.pages[None],
            **self._drafts(sequence, tokens - tried, tried),
        )

    def _drafts(self, sequence: Sequence, certain: int, tried: int) -> dict[str, Any]:
        """The drafts of a pass, as `Segments` has them."""
        if tried and sequence.window < 0:
            if not self._windows.left:
                windows = max(1, 2 * self._windows.count)
                add_windows(self.ops, self.config, self.pools, windows, MOST_DRAFTS)
                self._windows.count = windows
            sequence.window = self._windows.take()
        if sequence.window < 0:
            return {}
        drafts = {"window": sequence.window, "accepted": sequence.accepted, "commit": certain}
        return {name: np.array([value], np.int32) for name, value in drafts.items()}

    def took(self, sequence: Sequence, certain: int) -> None:
        """A pass has written so many tokens to the sequence's state, and before them the drafts that were accepted."""
        sequence.length, sequence.accepted = sequence.length + certain, 0

    def accept(self, sequence: Sequence) -> None:
        """The next draft of the last pass was right: it belongs to the sequence, and the next pass writes it to the
        state."""
        sequence.length, sequence.accepted = sequence.length + 1, sequence.accepted + 1

    def settle(self, sequence: Sequence) -> None:
        """Write what was accepted to the sequence's state now: before the state is copied or handed on."""
        if sequence.accepted:
            settle(self.ops, self.config, self.pools, sequence.slot, sequence.window, sequence.accepted)
        sequence.accepted = 0

    def _close_window(self, sequence: Sequence) -> None:
        if sequence.window >= 0:
            self._windows.give(sequence.window)
        sequence.window, sequence.accepted = -1, 0

    # rows, for sequences and for the prefix cache

    def take_slot(self) -> int:
        """A slot, whatever is in it."""
        while not self._slots.left:
            if self.most_slots is None or self.pools.slots < self.most_slots:
                self._grow(2 * self.pools.slots, self.pools.pages)
            elif not self.reclaim():
                raise ValueError(f"all {self.pools.slots} states are taken")
        return self._slots.take()

    def give_slot(self, slot: int) -> None:
        """A slot is free again."""
        self._slots.give(slot)

    def take_page(self) -> int:
        """A page with one user, whatever is in it."""
        while not self._pages.left:
            if self.most_pages is None or self.pools.pages < self.most_pages:
                self._grow(self.pools.slots, self.pools.pages + max(1, self.pools.pages // 2))
            elif not self.reclaim():
                raise ValueError(f"all {self.pools.pages} pages are taken")
        page = self._pages.take()
        self._users[page] = 1
        return page

    def use(self, page: int) -> None:
        """One more sequence reads the page."""
        self.idle -= bool(self._kept[page] and not self._users[page])
        self._users[page] += 1

    def release(self, page: int) -> None:
        """One sequence less reads the page."""
        self._users[page] -= 1
        if self._users[page]:
            return
        if self._kept[page]:
            self.idle += 1
        else:
            self._pages.give(page)

    def keep(self, page: int) -> None:
        """The prefix cache has a page that a sequence uses, once more."""
        self._kept[page] += 1

    def forget(self, page: int) -> None:
        """The prefix cache has it once less."""
        self._kept[page] -= 1
        if not self._kept[page] and not self._users[page]:
            self.idle -= 1
            self._pages.give(page)

    def users(self, page: int) -> int:
        """Sequences that read the page."""
        return int(self._users[page])

    def is_spare(self, page: int) -> bool:
        """Whether a page would be free if the prefix cache had it once less."""
        return not self._users[page] and self._kept[page] == 1

    def copy_slot(self, source: int, target: int) -> None:
        """A recurrent state, to another slot."""
        for i in self.pools.linear:
            for array in self.pools.layers[i]:
                self.ops.copy_row(array, source, target)

    def copy_page(self, source: int, target: int) -> None:
        """Keys and values, to another page."""
        for array in self.page_arrays():
            self.ops.copy_row(array, source, target)

    def page_arrays(self) -> list[Any]:
        """The pools of keys and of values, layer by layer: a row is a page."""
        return [array for i, pool in enumerate(self.pools.layers) if i not in self.pools.linear for array in pool]

    def slot_arrays(self) -> list[Any]:
        """The pools of recurrent states, layer by layer: a row is a slot."""
        return [array for i in self.pools.linear for array in self.pools.layers[i]]

    def _grow(self, slots: int, pages: int) -> None:
        """More rows for every pool that needs them, one array at a time, so that only one is ever there twice."""
        pools = self.pools
        for i in range(len(pools.layers)):
            first, second = pools.layers[i]
            linear = i in pools.linear
            rows, kept = (slots, self._slots.used) if linear else (pages, self._pages.used)
            if rows > (pools.slots if linear else pools.pages):
                first = self.ops.grow(first, rows, kept)
                pools.layers[i] = first, second  # the old array is given back before the next is made
                pools.layers[i] = first, self.ops.grow(second, rows, kept)
            del first, second
        pools.slots, pools.pages = self._slots.count, self._pages.count = slots, pages
        self._users = np.concatenate([self._users, np.zeros(pages - len(self._users), np.int32)])
        self._kept = np.concatenate([self._kept, np.zeros(pages - len(self._kept), np.int32)])


def pages_of(tokens: int) -> int:
    """Pages that so many tokens fill, the last one perhaps in part."""
    return -(-tokens // PAGE)

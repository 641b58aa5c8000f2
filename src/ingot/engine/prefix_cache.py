"""What was computed once is not computed again: a tree of pages of keys and values, with exact snapshots of the
recurrent state hung in it.

A node is a page of 64 tokens after those of its parent; where two prompts differ, it has two children. Keys and values
alone continue nothing: one goes on from a snapshot, which is a recurrent state *and* the pages before it, the last
perhaps in part, and there is one verb for that, `restore`. A sequence that goes on shares full pages and copies the
last one, so branching destroys nothing. Who goes on from a snapshot has, on the native op set, the bits of who has
read everything.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ingot.engine.keys import chained, origin
from ingot.engine.prefix_tree import Node, Snapshot
from ingot.engine.sequence import Sequence, StatePool
from ingot.ops import PAGE

log = logging.getLogger("ingot")

# How much likelier than a place in the middle of a document others go on from one (taste, after what chats and agents
# do: all conversations of an app share the system's turn, and most turns are followed by another).
PRIORS = {"system": 8.0, "breakpoint": 6.0, "junction": 4.0, "turn": 3.0, "media": 3.0, "end": 2.0, "middle": 1.0}
HALF_LIFE_S = 1800.0  # a conversation that rests for half an hour is half as likely to go on (taste)
LEAST_TOKENS = 16  # between two snapshots: reading fewer again costs less than keeping a state (taste)
MOST_SNAPSHOTS = 1024  # more would be for models whose states are small, which read again as fast (taste)
CANDIDATES = 64  # to go are looked at, any of them: 1 ms (taste)
SHOWN = 16  # ids that a divergence shows


@dataclass(frozen=True)
class Match:
    """What the cache knows of a prompt: its first `matched` tokens, and the deepest snapshot from which it can go on;
    `expected` are ids that the cache knows after those. `restored` tokens are in the sequence already, `disk` of them
    from disk."""

    matched: int = 0
    snapshot: Snapshot | None = None
    expected: tuple[int, ...] = ()
    restored: int = 0
    disk: int = 0

    @property
    def cached(self) -> int:
        """Tokens that need not be read."""
        return self.restored or (self.snapshot.position if self.snapshot else 0)


class PrefixCache:
    """The tree over the pages of `states`; `budget` bytes at most are for what no running sequence uses (0: nothing is
    kept). Sequences with different salts share nothing."""

    def __init__(self, states: StatePool, budget: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.states, self.budget, self.clock = states, budget, clock
        self.evictions, self.compared, self.mismatches = 0, 0, 0
        self.changes = 0  # with each of which `match` may find something else
        self.disk: Any = None  # the second tier, `engine/disk.py: Disk`
        self._roots: WeakValueDictionary[str, Node] = WeakValueDictionary()  # alive while a page or a sequence needs it
        self._snapshots: dict[Snapshot, None] = {}
        self._dice = random.Random(0)
        states.reclaim = self.evict

    @property
    def enabled(self) -> bool:
        """Whether it has room for a snapshot."""
        return self.budget >= self.states.state_bytes

    @property
    def bytes(self) -> int:
        """What it takes: snapshots, and pages that nobody else uses."""
        return len(self._snapshots) * self.states.state_bytes + self.states.idle * self.states.page_bytes

    @property
    def snapshots(self) -> list[Snapshot]:
        """All of them, oldest first."""
        return list(self._snapshots)

    def nodes(self) -> Iterator[Node]:
        """All pages, parents first."""
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            stack += node.children.values()
            if node.parent is not None:
                yield node

    def match(self, keys: np.ndarray, salt: str = "") -> Match:
        """What it knows of a prompt with these keys [T,8]; the last token is always read, for its logits."""
        node = self._roots.get(salt)
        if node is None:
            return Match()
        while child := node.children.get(chained(node.digest, keys[node.depth : node.depth + PAGE])):
            node = child
        overlap, known = node.closest(keys[node.depth :])
        # a picture's tokens have no ids
        expected = tuple(int(row[0]) for row in known[:SHOWN] if not row[4:].any())
        return Match(node.depth + overlap, _deepest(node, keys[:-1]), expected)

    def restore(self, sequence: Sequence, snapshot: Snapshot) -> None:
        """Give an empty sequence what the snapshot remembers: state and pages at once."""
        self.states.copy_slot(snapshot.slot, sequence.slot)
        snapshot.used, snapshot.hits = self.clock(), snapshot.hits + 1
        sequence.node = snapshot.node
        self.states.share(sequence, snapshot.pages, snapshot.position)
        for child in tuple(snapshot.node.children.values()):
            self.prune(child)  # its page was being copied when what it led to was forgotten

    def root(self, salt: str) -> Node:
        """Where the prompts with a salt begin."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Node(None, origin(salt), b"", -1, 0)
        return root

    def begin(self, sequence: Sequence, salt: str) -> None:
        """An empty sequence whose pages the cache shall know."""
        sequence.node = self.root(salt)

    def extend(self, sequence: Sequence) -> None:
        """Put the full pages of a running sequence into the tree. Where the tree has the same tokens already, the
        sequence goes on with the tree's page."""
        if sequence.keys is None or sequence.node is None:
            return
        node: Node = sequence.node
        for at in range(node.depth, sequence.length // PAGE * PAGE, PAGE):
            keys = sequence.keys[at : at + PAGE]
            digest = chained(node.digest, keys)
            child = node.children.get(digest)
            if child is None:
                page = int(sequence.pages[at // PAGE])
                child = Node(node, digest, keys.tobytes(), page, at + PAGE)
                node.grow(child)
                self.states.keep(page)
                self.changes += 1
            else:
                self._swap(sequence, at // PAGE, child.page)
            node = child
        sequence.node = node

    def snapshot(self, sequence: Sequence, kind: str) -> Snapshot | None:
        """Keep a copy of a running sequence's state; None where there is no room for it."""
        return self._hang(sequence, kind, copied=True)

    def donate(self, sequence: Sequence, kind: str) -> Snapshot | None:
        """Keep the state of a sequence that has ended: its slot becomes the snapshot's. The sequence is closed."""
        found = self._hang(sequence, kind, copied=False)
        node = sequence.node
        self.states.close(sequence)
        self.prune(node)
        self.trim()
        return found

    def leave(self, sequence: Sequence) -> None:
        """Close a sequence, and forget pages of it that lead to no snapshot."""
        node = sequence.node
        self.states.close(sequence)
        self.prune(node)
        self.trim()

    def evict(self) -> bool:
        """Forget the snapshot that is worth least, with the pages that led only there; False: there is none. Of many,
        it is the one of `CANDIDATES`."""
        if not self._snapshots:
            return False
        now, candidates = self.clock(), self.snapshots
        if len(candidates) > CANDIDATES:
            candidates = self._dice.sample(candidates, CANDIDATES)
        least = min(candidates, key=lambda snapshot: self._worth(snapshot, now))
        if self.disk is not None:
            self.disk.leaves(least)
        self.drop(least)
        self.evictions += 1
        return True

    def compare(self, sequence: Sequence, snapshot: Snapshot) -> None:
        """Hold a snapshot, and the full pages before it, against a sequence that has read the same tokens itself. A
        difference means memory or code that cannot be trusted: it is counted, and everything is forgotten."""
        if snapshot not in self._snapshots:
            return
        self.compared += 1
        states = self.states
        pages = zip(sequence.pages.tolist(), (node.page for node in snapshot.node.path()), strict=False)
        rows = [(array, sequence.slot, snapshot.slot) for array in states.slot_arrays()]
        rows += [(array, mine, kept) for mine, kept in pages for array in states.page_arrays()]
        if not all(states.ops.same_row(*row) for row in rows):
            self.mismatches += 1
            log.error("a snapshot of %d tokens differs from what they give when read again", snapshot.position)
            self.clear()
            if self.disk is not None:
                self.disk.clear()

    def trim(self) -> None:
        """Evict until the budget is kept."""
        while self.bytes > self.budget and self.evict():
            pass

    def drop(self, snapshot: Snapshot) -> None:
        """Forget a snapshot, and the pages that lead to nothing else."""
        del self._snapshots[snapshot]
        snapshot.node.unhang(snapshot)
        self.states.give_slot(snapshot.slot)
        self.states.snapshots -= 1
        self.changes += 1
        if len(snapshot.tail):
            self.states.forget(snapshot.page)
        self.prune(snapshot.node)

    def clear(self) -> None:
        """Forget everything that no running sequence uses."""
        for snapshot in self.snapshots:
            self.drop(snapshot)

    def prune(self, node: Node | None) -> None:
        """Forget a page, and those above it, that lead to no snapshot and that no sequence uses."""
        while node is not None and not (node.children or node.tails):
            parent = node.parent
            if parent is None or self.states.users(node.page):
                return
            parent.lose(node)
            self.changes += 1
            self.states.forget(node.page)
            node = parent

    def _hang(self, sequence: Sequence, kind: str, copied: bool) -> Snapshot | None:
        if sequence.keys is None or sequence.node is None or not sequence.length or not self.enabled:
            return None
        self.extend(sequence)
        node, tail = sequence.node, sequence.keys[sequence.node.depth : sequence.length].tobytes()
        there = node.tails.get(tail)
        if there is not None:  # the same tokens, the same state
            there.used, there.kind = self.clock(), max(there.kind, kind, key=PRIORS.__getitem__)
            return there
        self.states.settle(sequence)
        slot = self._slot() if copied else sequence.slot
        if slot is None:
            return None
        if copied:
            self.states.copy_slot(sequence.slot, slot)
        else:
            sequence.slot = -1
        page = int(sequence.pages[node.depth // PAGE]) if len(tail) else -1
        if len(tail):
            self.states.keep(page)
        snapshot = Snapshot(node, tail, page, slot, kind, self.clock())
        node.hang(snapshot)
        self._snapshots[snapshot] = None
        self.states.snapshots += 1
        self.changes += 1
        return snapshot

    def _slot(self) -> int | None:
        """A slot for one more snapshot, within the budget."""
        while self.bytes + self.states.state_bytes > self.budget or len(self._snapshots) >= MOST_SNAPSHOTS:
            if not self.evict():
                return None
        if not self._snapshots:  # growing bit by bit would copy them again and again; memory is taken as they come
            self.states.widen(min(self.budget // self.states.state_bytes, MOST_SNAPSHOTS))
        return self.states.take_slot()

    def _swap(self, sequence: Sequence, place: int, page: int) -> None:
        mine = int(sequence.pages[place])
        if mine != page:
            self.states.use(page)
            sequence.pages[place] = page
            self.states.release(mine)
            self.trim()  # a snapshot may have it alone now

    def _worth(self, snapshot: Snapshot, now: float) -> float:
        """Tokens that it saves x the chance that somebody goes on from it / the bytes that come free without it."""
        tokens, pages = self._alone(snapshot)
        chance = PRIORS[snapshot.kind] * 2.0 ** (min(snapshot.hits, 8) - (now - snapshot.used) / HALF_LIFE_S)
        return tokens * chance / (self.states.state_bytes + pages * self.states.page_bytes)

    def _alone(self, snapshot: Snapshot) -> tuple[int, int]:
        """Tokens since the snapshot before it, and pages that only it keeps."""
        node, states = snapshot.node, self.states
        pages = int(len(snapshot.tail) > 0 and states.is_spare(snapshot.page))
        before = node.begun(snapshot.tail[:-1]) if len(snapshot.tail) else None
        if before is not None:
            return snapshot.position - before.position, pages
        alone = len(node.tails) == 1 and not node.children
        while node.parent is not None:
            pages += alone and states.is_spare(node.page)
            keys, node = node.keys, node.parent
            before = node.begun(keys)
            if before is not None:
                return snapshot.position - before.position, pages
            alone = alone and not node.tails and len(node.children) == 1
        return snapshot.position, pages


def _deepest(node: Node, keys: np.ndarray) -> Snapshot | None:
    """The last snapshot before or at the end of these keys, which go through a node."""
    above: Node | None = node
    while above is not None:
        found = above.begun(keys[above.depth :]) if above.depth <= len(keys) else None
        if found is not None:
            return found
        above = above.parent
    return None

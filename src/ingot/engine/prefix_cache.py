"""What was computed once is not computed again: a tree of pages of keys and values, with exact snapshots of the
recurrent state hung in it.

A node is a page of up to 64 tokens after those of its parent; where two prompts differ, it has two children. Keys and
values alone continue nothing: one goes on from a snapshot, which is a recurrent state *and* the pages before it, and
there is one verb for that, `restore`. A sequence that goes on shares full pages and copies the last one, so branching
destroys nothing. Who goes on from a snapshot has, on the native op set, the bits of who has read everything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np

from ingot.engine.keys import COLUMNS, chained, origin
from ingot.engine.sequence import Sequence, StatePool
from ingot.ops import PAGE

log = logging.getLogger("ingot")

# How much likelier than a place in the middle of a document others go on from one (taste, after what chats and agents
# do: all conversations of an app share the system's turn, and most turns are followed by another).
PRIORS = {"system": 8.0, "breakpoint": 6.0, "junction": 4.0, "turn": 3.0, "media": 3.0, "end": 2.0, "middle": 1.0}
HALF_LIFE_S = 1800.0  # a conversation that rests for half an hour is half as likely to go on (taste)
LEAST_TOKENS = 16  # between two snapshots: reading fewer again costs less than keeping a state (taste)
MOST_SNAPSHOTS = 1024  # choosing which one goes looks at all of them: 5 ms (taste)
SHOWN = 16  # ids that a divergence shows


@dataclass(eq=False, slots=True)
class Snapshot:
    """The recurrent state after `offset` tokens of a node's page, in a slot of the pools."""

    node: Node
    offset: int
    slot: int
    kind: str
    used: float
    hits: int = 0

    @property
    def position(self) -> int:
        """Tokens before it."""
        return self.node.depth + self.offset


@dataclass(eq=False)
class Node:
    """`keys` [n,8] of a page's tokens, `depth` tokens before them; `digest` of all tokens up to its last. Only full
    pages have children."""

    parent: Node | None
    digest: bytes
    keys: np.ndarray
    page: int
    depth: int
    children: dict[bytes, Node] = field(default_factory=dict)
    snapshots: dict[int, Snapshot] = field(default_factory=dict)  # by offset

    def above(self) -> Iterator[Node]:
        """The node and its ancestors, without the root."""
        node: Node | None = self
        while node is not None and node.parent is not None:
            yield node
            node = node.parent


@dataclass(frozen=True)
class Match:
    """What the cache knows of a prompt: its first `matched` tokens, and the deepest snapshot from which it can go on;
    `expected` are ids that the cache knows after those."""

    matched: int = 0
    snapshot: Snapshot | None = None
    expected: tuple[int, ...] = ()

    @property
    def cached(self) -> int:
        """Tokens that need not be read."""
        return self.snapshot.position if self.snapshot else 0


class PrefixCache:
    """The tree over the pages of `states`; `budget` bytes at most are for what no running sequence uses (0: nothing is
    kept). Sequences with different salts share nothing."""

    def __init__(self, states: StatePool, budget: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.states, self.budget, self.clock = states, budget, clock
        self.evictions, self.compared, self.mismatches = 0, 0, 0
        self._roots: WeakValueDictionary[str, Node] = WeakValueDictionary()  # alive while a page or a sequence needs it
        self._snapshots: dict[Snapshot, None] = {}
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
        while child := node.children.get(chained(node.digest, keys[node.depth + len(node.keys) :][:PAGE])):
            if len(child.keys) < PAGE:
                break
            node = child
        matched = node.depth + len(node.keys)
        best, overlap = _closest(node, keys[matched : matched + PAGE])
        found = _deepest(node, best, overlap, len(keys) - 1)
        return Match(matched + overlap, found, _expected(node, best, overlap))

    def restore(self, sequence: Sequence, snapshot: Snapshot) -> None:
        """Give an empty sequence what the snapshot remembers: state and pages at once."""
        path = [*snapshot.node.above()][::-1]
        self.states.copy_slot(snapshot.slot, sequence.slot)
        snapshot.used, snapshot.hits = self.clock(), snapshot.hits + 1
        sequence.node = path[-1] if snapshot.offset == PAGE else path[-1].parent
        self.states.share(sequence, [node.page for node in path], snapshot.position)
        self.prune(path[-1])  # taking a page may have cost the snapshot itself

    def begin(self, sequence: Sequence, salt: str) -> None:
        """An empty sequence whose pages the cache shall know."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Node(None, origin(salt), np.zeros((0, COLUMNS), np.int32), -1, 0)
        sequence.node = root

    def extend(self, sequence: Sequence) -> None:
        """Put the full pages of a running sequence into the tree. Where the tree has the same tokens already, the
        sequence goes on with the tree's page."""
        if sequence.keys is None or sequence.node is None:
            return
        node: Node = sequence.node
        first = node.depth + len(node.keys)
        for at in range(first, sequence.length // PAGE * PAGE, PAGE):
            keys = sequence.keys[at : at + PAGE]
            child = node.children.get(chained(node.digest, keys))
            if child is None:
                child = self._grown(node, keys, int(sequence.pages[at // PAGE]))
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
        """Forget the snapshot that is worth least, with the pages that led only there; False: there is none."""
        if not self._snapshots:
            return False
        now = self.clock()
        self.drop(min(self._snapshots, key=lambda snapshot: self._worth(snapshot, now)))
        self.evictions += 1
        return True

    def compare(self, sequence: Sequence, snapshot: Snapshot) -> None:
        """Hold a snapshot, and the full pages before it, against a sequence that has read the same tokens itself. A
        difference means memory or code that cannot be trusted: it is counted, and everything is forgotten."""
        if snapshot not in self._snapshots:
            return
        self.compared += 1
        states, path = self.states, [*snapshot.node.above()][::-1][: snapshot.position // PAGE]
        pages = zip(sequence.pages.tolist(), (node.page for node in path), strict=False)
        rows = [(array, sequence.slot, snapshot.slot) for array in states.slot_arrays()]
        rows += [(array, mine, kept) for mine, kept in pages for array in states.page_arrays()]
        if not all(states.ops.same_row(*row) for row in rows):
            self.mismatches += 1
            log.error("a snapshot of %d tokens differs from what they give when read again", snapshot.position)
            self.clear()

    def trim(self) -> None:
        """Evict until the budget is kept."""
        while self.bytes > self.budget and self.evict():
            pass

    def drop(self, snapshot: Snapshot) -> None:
        """Forget a snapshot."""
        del self._snapshots[snapshot], snapshot.node.snapshots[snapshot.offset]
        self.states.give_slot(snapshot.slot)
        self.states.snapshots -= 1
        self.prune(snapshot.node)

    def clear(self) -> None:
        """Forget everything that no running sequence uses."""
        for snapshot in self.snapshots:
            self.drop(snapshot)

    def prune(self, node: Node | None) -> None:
        """Forget a page, and those above it, that lead to no snapshot and that no sequence uses."""
        while node is not None and not (node.children or node.snapshots):
            parent = node.parent
            if parent is None or self.states.users(node.page):
                return
            del parent.children[node.digest]
            self.states.forget(node.page)
            node = parent

    def _hang(self, sequence: Sequence, kind: str, copied: bool) -> Snapshot | None:
        if sequence.keys is None or sequence.node is None or not sequence.length or not self.enabled:
            return None
        self.extend(sequence)
        slot = self._slot(sequence) if copied else sequence.slot
        if slot is None:
            return None
        node, offset = self._place(sequence)
        there = node.snapshots.get(offset)
        if there is not None:  # the same tokens, the same state
            there.used, there.kind = self.clock(), max(there.kind, kind, key=PRIORS.__getitem__)
            if copied:
                self.states.give_slot(slot)
            return there
        if copied:
            self.states.copy_slot(sequence.slot, slot)
        else:
            sequence.slot = -1
        snapshot = node.snapshots[offset] = Snapshot(node, offset, slot, kind, self.clock())
        self._snapshots[snapshot] = None
        self.states.snapshots += 1
        return snapshot

    def _slot(self, sequence: Sequence) -> int | None:
        """A slot for one more snapshot, within the budget."""
        while self.bytes + self.states.state_bytes > self.budget or len(self._snapshots) >= MOST_SNAPSHOTS:
            if not self.evict():
                return None
        if not self._snapshots:  # growing bit by bit would copy them again and again; memory is taken as they come
            self.states.widen(min(self.budget // self.states.state_bytes, MOST_SNAPSHOTS))
        return self.states.take_slot()

    def _place(self, sequence: Sequence) -> tuple[Node, int]:
        """The node that has the sequence's last token, made if need be, and the tokens of its page up to there."""
        node: Node = sequence.node
        assert sequence.keys is not None
        first = node.depth + len(node.keys)
        keys = sequence.keys[first : sequence.length]
        if not len(keys):
            return node, len(node.keys)
        best, overlap = _closest(node, keys)
        if best is None or overlap < len(keys):
            best = self._grown(node, keys, int(sequence.pages[first // PAGE]))
        return best, len(keys)

    def _grown(self, parent: Node, keys: np.ndarray, page: int) -> Node:
        """A new node; what others began of the same page goes over to it."""
        node = Node(parent, chained(parent.digest, keys), keys.copy(), page, parent.depth + len(parent.keys))
        self.states.keep(page)
        for begun in [child for child in parent.children.values() if _begins(keys, child.keys)]:
            del parent.children[begun.digest]
            for snapshot in begun.snapshots.values():
                snapshot.node = node
            node.snapshots |= begun.snapshots
            if begun.page != page:
                self.states.forget(begun.page)
        parent.children[node.digest] = node
        return node

    def _swap(self, sequence: Sequence, place: int, page: int) -> None:
        mine = int(sequence.pages[place])
        if mine != page:
            self.states.use(page)
            sequence.pages[place] = page
            self.states.release(mine)

    def _worth(self, snapshot: Snapshot, now: float) -> float:
        """Tokens that it saves x the chance that somebody goes on from it / the bytes that come free without it."""
        tokens, pages = self._alone(snapshot)
        chance = PRIORS[snapshot.kind] * 2.0 ** (min(snapshot.hits, 8) - (now - snapshot.used) / HALF_LIFE_S)
        return tokens * chance / (self.states.state_bytes + pages * self.states.page_bytes)

    def _alone(self, snapshot: Snapshot) -> tuple[int, int]:
        """Tokens since the snapshot before it, and pages that only it keeps."""
        node, pages = snapshot.node, 0
        alone = len(node.snapshots) == 1 and not node.children
        before = [offset for offset in node.snapshots if offset < snapshot.offset]
        if before:
            return snapshot.offset - max(before), 0
        for each in node.above():
            if each is not node:
                if each.snapshots:
                    return snapshot.position - each.depth - max(each.snapshots), pages
                alone = alone and len(each.children) == 1
            pages += alone and not self.states.users(each.page)
        return snapshot.position, pages


def _begins(keys: np.ndarray, begun: np.ndarray) -> bool:
    return len(begun) < len(keys) and bool((keys[: len(begun)] == begun).all())


def _closest(node: Node, keys: np.ndarray) -> tuple[Node | None, int]:
    """The child that has the most of the first keys, and how many."""
    best, overlap = None, 0
    for child in node.children.values():
        count = min(len(child.keys), len(keys))
        if count <= overlap or child.keys[overlap, 0] != keys[overlap, 0]:
            continue
        differs = (child.keys[:count] != keys[:count]).any(axis=1)
        same = int(differs.argmax()) if differs.any() else count
        if same > overlap:
            best, overlap = child, same
    return best, overlap


def _deepest(node: Node, best: Node | None, overlap: int, most: int) -> Snapshot | None:
    """The last snapshot of a path that has at most `most` tokens before it."""
    for each, known in [(best, overlap), *((above, PAGE) for above in node.above())]:
        offsets = (
            [offset for offset in each.snapshots if offset <= known and each.depth + offset <= most] if each else []
        )
        if each is not None and offsets:
            return each.snapshots[max(offsets)]
    return None


def _expected(node: Node, best: Node | None, overlap: int) -> tuple[int, ...]:
    """Ids that the tree knows after `overlap` tokens of the page below a node; a picture's tokens are none."""
    if best is None or overlap == len(best.keys):
        best, overlap = next(iter((best or node).children.values()), None), 0
    if best is None:
        return ()
    rows = best.keys[overlap : overlap + SHOWN]
    return tuple(int(row[0]) for row in rows if not row[4:].any())

"""The prefix cache's second tier: pages and snapshots as records of a journal, which survive a restart.

What is on disk is a copy: memory may forget it at any time. A page's record is named by the digest of all tokens up to
its last, so one that is missing ends the path, and what lies behind it is not found. A snapshot's record is listed
under the digest of the full pages before it, named by its own tokens, and holds the page that it ends in.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import deque
from collections.abc import Generator, Iterator
from collections.abc import Sequence as Several
from typing import Any, NamedTuple, Protocol

import numpy as np

from ingot.engine.keys import chained
from ingot.engine.patience import Patience, above
from ingot.engine.prefix_cache import LEAST_TOKENS, PRIORS, PrefixCache
from ingot.engine.prefix_tree import Node, Snapshot
from ingot.engine.sequence import Sequence
from ingot.ops import PAGE

log = logging.getLogger("ingot")

SLICE_BYTES = 32 << 20  # copied between two passes; measured: 7 to 22 ms
LEAST = 128  # tokens; a state is 20 to 50 MB of disk, and to read fewer again takes a second (taste)
PAGE_RECORD, SNAPSHOT_RECORD, ANSWER_RECORD = 1, 2, 3  # the last: `engine/answer_records.py`
# The turn's is the one that the next turn goes on from; what is kept in the middle of a document costs as much disk and
# saves less.
KINDS = frozenset({"system", "breakpoint", "junction", "turn", "media"})
_META = struct.Struct("<I")  # tokens before a snapshot; its kind follows


class Journal(Protocol):
    """What is asked of a journal (`store/journal.py`)."""

    @property
    def works(self) -> bool: ...
    def takes(self, nbytes: int) -> bool: ...
    def __contains__(self, key: bytes) -> bool: ...
    def find(self, key: bytes) -> Any: ...
    def group(self, group: bytes) -> Several[Any]: ...
    def read(self, record: Any, buffers: Several[np.ndarray]) -> bool: ...
    def append(
        self,
        kind: int,
        key: bytes,
        payload: Several[np.ndarray],
        group: bytes = ...,
        meta: bytes = ...,
        replace: bool = ...,
    ) -> bool: ...
    def flush(self, timeout: float | None = None) -> bool: ...
    def clear(self) -> None: ...


class Restored(NamedTuple):
    """What a sequence was given: the kind of the snapshot, and how many of its tokens were read from disk."""

    kind: str
    tokens: int


class _Found(NamedTuple):
    """A snapshot on disk after `position` tokens: the full pages before it are in memory first, then on disk."""

    position: int
    kind: str
    nodes: list[Node]
    pages: list[Any]
    snapshot: Any


class _Record(NamedTuple):
    """What a journal is to append; the rows still belong to the pools."""

    kind: int
    key: bytes
    rows: list[np.ndarray]
    group: bytes = bytes(16)
    meta: bytes = b""


class Disk:
    """Writes what `cache` has to `journal`, a little at a time, and gives it back; snapshots of fewer than `least`
    tokens are not worth it. One thread owns it, with the cache."""

    def __init__(self, cache: PrefixCache, journal: Journal, least: int = LEAST) -> None:
        self.cache, self.states, self.journal, self.least = cache, cache.states, journal, least
        self.hits, self.tokens, self.lost = 0, 0, 0
        self._patience = Patience(cache.clock, PAGE * self.states.state_bytes / self.states.page_bytes)
        self._behind = deque[Snapshot]()
        self._missing: Iterator[_Record] | None = None  # of the first that is behind
        self._next: _Record | None = None  # of those

    @property
    def behind(self) -> bool:
        """Whether `write` has something to do."""
        return bool(self._behind) or self._patience.due_s == 0

    @property
    def due_s(self) -> float | None:
        """Seconds until `write` has something to do; None: nothing waits."""
        return 0.0 if self._behind else self._patience.due_s

    def note(
        self,
        snapshot: Snapshot | None,
        came_from: Snapshot | None = None,
        sequence: Sequence | None = None,
        ahead: bool = False,
    ) -> None:
        """Have a snapshot written, and the pages before it that are not on disk yet: a turn's after a while, if none
        stands for it until then. The prompt `came_from` another, and `sequence` goes on. One that was read `ahead` is
        written if it stands for another, or saves as many tokens as a state is worth."""
        if snapshot is None or not snapshot.kept or snapshot.position < self.least or snapshot in self._behind:
            return
        stands, waited = self._patience.replace(snapshot, came_from), snapshot in self._patience
        saved = self._saved(snapshot)
        little = saved < self._patience.worth
        if ahead and little and not (stands or waited):
            return
        if snapshot.kind == "turn" or (snapshot.kind == "end" and little):
            self._patience.add(snapshot, saved, sequence)
        else:
            self._patience.leave(snapshot)
            self._behind.append(snapshot)

    def leaves(self, snapshot: Snapshot) -> None:
        """Memory is needed for something else than a snapshot: if it waits to be written and saves what a state is
        worth, do it now, as far as the journal has room."""
        if self._patience.leave(snapshot):
            self._behind.append(snapshot)
        if snapshot not in self._behind:
            return
        if self._behind[0] is not snapshot:
            self._behind.remove(snapshot)
            self._behind.appendleft(snapshot)
            self._missing = self._next = None
        while self._behind and self._behind[0] is snapshot and self._hand() is not None:
            pass

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._behind += self._patience.drain()
        self._give_up(len(self._behind))
        self.journal.clear()

    def write(self, most: int = SLICE_BYTES) -> None:
        """Hand about `most` bytes of what is behind to the journal, as far as that has room. Never waits."""
        self._behind += self._patience.ripe()
        if not self.journal.works:
            self._give_up(len(self._behind))
        while self._behind and most > 0:
            handed = self._hand()
            if handed is None:
                return
            most -= handed

    def finish(self, timeout: float) -> None:
        """Write all that is noted; what the disk does not take within `timeout` seconds is left."""
        end = time.monotonic() + timeout
        self._behind += self._patience.drain()
        self.write()
        while self._behind and self.journal.flush(end - time.monotonic()) and time.monotonic() < end:
            self.write()

    def known(self, root: Node, keys: np.ndarray, beyond: int) -> int:
        """How many tokens `restore` would give a prompt that begins at a root; 0: none."""
        found = self._find(root, keys, beyond + LEAST_TOKENS)
        return found.position if found else 0

    def restore(
        self, sequence: Sequence, keys: np.ndarray, beyond: int, tokens: int
    ) -> Generator[int, None, Restored | None]:
        """Give an empty sequence the deepest state that the disk has of a prompt with these keys, if that saves more
        than `beyond` tokens: a record at each step, which says how many it will be. The sequence is promised room for
        so many `tokens`, and must have no keys until this ends. None, and it is empty again: there is none, or it
        cannot be read."""
        found = self._find(sequence.node, keys, beyond + LEAST_TOKENS)
        if found is None:
            return None
        root = sequence.node
        self.states.share(sequence, [node.page for node in found.nodes], PAGE * len(found.nodes))
        sequence.node = found.nodes[-1] if found.nodes else root
        self.states.reserve(sequence, tokens)
        if not (yield from self._read(sequence, found)):
            self._empty(sequence, root)
            return None
        sequence.length = found.position
        restored = Restored(found.kind, found.position - PAGE * len(found.nodes))
        self.hits, self.tokens = self.hits + 1, self.tokens + restored.tokens
        return restored

    def _saved(self, snapshot: Snapshot) -> int:
        """Tokens since the snapshot before it that is on disk, or is noted."""
        before = above(snapshot, lambda one: one is not snapshot and self._has(one))
        begin, node, rest = before.position if before else 0, snapshot.node, snapshot.tail
        while node.depth + PAGE > begin:
            found = self._deepest(node.digest, rest, node.depth, begin + 1, snapshot.position)
            if found is not None or node.parent is None:
                begin = found[0] if found else begin
                break
            node, rest = node.parent, node.keys
        return snapshot.position - begin

    def _has(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot is on disk, or is noted."""
        noted = snapshot in self._behind or snapshot in self._patience
        return noted or chained(snapshot.node.digest, snapshot.tail) in self.journal

    def _hand(self) -> int | None:
        """Hand the next record of what is behind to the journal: its bytes, 0 if there is none of the first snapshot;
        None: the journal has no room."""
        record = self._record()
        if record is None:
            return 0
        nbytes = sum(row.nbytes for row in record.rows)
        if not self.journal.takes(nbytes):
            return None
        rows = [row.copy() for row in record.rows]
        if not self.journal.append(record.kind, record.key, rows, record.group, record.meta):
            self._give_up()
        self._next = None
        return nbytes

    def _record(self) -> _Record | None:
        """The next one to be written; None: the first snapshot that was behind is no more."""
        snapshot = self._behind[0]
        if not snapshot.kept:  # memory was needed
            self._give_up()
            return None
        self._missing = self._missing or self._records(snapshot)
        self._next = self._next or next(self._missing, None)
        if self._next is None:
            self._behind.popleft()
            self._missing = None
        return self._next

    def _give_up(self, count: int = 1) -> None:
        """Leave the first of those that are behind."""
        for _ in range(count):
            self._behind.popleft()
            self.lost += 1
        self._missing = self._next = None

    def _records(self, snapshot: Snapshot) -> Iterator[_Record]:
        """What is not on disk yet of a snapshot: pages, then the state."""
        for node in snapshot.node.path():
            if node.digest not in self.journal:
                yield _Record(PAGE_RECORD, node.digest, self._rows(node.page, None))
        group = snapshot.node.digest
        key = chained(group, snapshot.tail)
        if key not in self.journal:
            meta = _META.pack(snapshot.position) + snapshot.kind.encode()
            rows = self._rows(snapshot.page if len(snapshot.tail) else None, snapshot.slot)
            yield _Record(SNAPSHOT_RECORD, key, rows, group, meta)

    def _rows(self, page: int | None, slot: int | None) -> list[np.ndarray]:
        """The rows of the pools that hold a page, a state, or both, in the order of the layers."""
        rows = [] if page is None else [array[page] for array in self.states.page_arrays()]
        return rows if slot is None else rows + [array[slot] for array in self.states.slot_arrays()]

    def _find(self, root: Node, keys: np.ndarray, least: int) -> _Found | None:
        digests, nodes, pages = [root.digest], list[Node](), list[Any]()
        node: Node | None = root
        for at in range(0, len(keys) - PAGE, PAGE):
            digest = chained(digests[-1], keys[at : at + PAGE])
            node = node.children.get(digest) if node else None
            record = None if node else self.journal.find(digest)
            if node is not None:
                nodes.append(node)
            elif record is not None:
                pages.append(record)
            else:
                break
            digests.append(digest)
        for count in range(len(digests) - 1, -1, -1):
            if PAGE * (count + 1) <= least:
                return None
            best = self._deepest(
                digests[count], keys[PAGE * count : PAGE * (count + 1)], PAGE * count, least, len(keys)
            )
            if best is not None:
                position, kind, record = best
                return _Found(position, kind, nodes[:count], pages[: max(0, count - len(nodes))], record)
        return None

    def _deepest(
        self, group: bytes, rest: np.ndarray, begin: int, least: int, length: int
    ) -> tuple[int, str, Any] | None:
        """Of the snapshots behind a full page the one that has most of the next tokens: its position, kind, record."""
        best = None
        for record in self.journal.group(group):
            if record.kind != SNAPSHOT_RECORD or len(record.meta) < _META.size:
                continue
            position = _META.unpack_from(record.meta)[0]
            offset = position - begin
            if not (0 <= offset < PAGE and least <= position < length) or (best and position <= best[0]):
                continue
            if record.key == chained(group, rest[:offset]):
                kind = record.meta[_META.size :].decode("ascii", "replace")
                best = position, kind if kind in PRIORS else "end", record
        return best

    def _read(self, sequence: Sequence, found: _Found) -> Generator[int, None, bool]:
        """Fill new pages, and the sequence's slot; False where a record is not what was written."""
        try:
            for record in found.pages:
                yield found.position
                if not self.journal.read(record, self._rows(self.states.add_page(sequence), None)):
                    return False
            yield found.position
            page = self.states.add_page(sequence) if found.position % PAGE else None
            return self.journal.read(found.snapshot, self._rows(page, sequence.slot))
        except Exception:
            log.exception("a state could not be read from disk, and is computed again")
            return False

    def _empty(self, sequence: Sequence, root: Node) -> None:
        """Take back what a sequence was given, and pages that lead nowhere since memory was needed for it."""
        for page in sequence.pages.tolist():
            self.states.release(page)
        node, sequence.node = sequence.node, root
        sequence.pages, sequence.length = sequence.pages[:0], 0
        self.cache.prune(node)

"""The tree of the prefix cache: pages, and the snapshots that hang behind them.

A page may have a thousand neighbours that begin alike (everybody's first words after one system prompt), so what a
node knows is kept in order of its bytes: who shares most with a prompt, and who begins it, stand beside its place.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field

import numpy as np

from ingot.engine.keys import COLUMNS, alike
from ingot.ops import PAGE

_ROW = 4 * COLUMNS  # bytes of a token's keys


@dataclass(eq=False)
class Node:
    """A full page: the bytes of its tokens' keys, `depth` tokens up to its last, and their `digest`."""

    parent: Node | None
    digest: bytes
    data: bytes
    page: int
    depth: int
    children: dict[bytes, Node] = field(default_factory=dict)  # by digest
    tails: dict[bytes, Snapshot] = field(default_factory=dict)  # by the bytes of their tails
    _known: list[bytes] = field(default_factory=list)  # of the children and the tails, in order

    @property
    def keys(self) -> np.ndarray:
        """Of its tokens, int32 [64,8]."""
        return _rows(self.data)

    def path(self) -> list[Node]:
        """The nodes from the first page to this one."""
        above: list[Node] = []
        node = self
        while node.parent is not None:
            above.append(node)
            node = node.parent
        return above[::-1]

    def grow(self, child: Node) -> None:
        """A page after this one."""
        self.children[child.digest] = child
        insort(self._known, child.data)

    def lose(self, child: Node) -> None:
        """Without that page."""
        del self.children[child.digest]
        self._forget(child.data)

    def hang(self, snapshot: Snapshot) -> None:
        """A snapshot behind this page."""
        self.tails[snapshot.data] = snapshot
        insort(self._known, snapshot.data)

    def unhang(self, snapshot: Snapshot) -> None:
        """Without that snapshot."""
        del self.tails[snapshot.data]
        self._forget(snapshot.data)

    def begun(self, keys: np.ndarray) -> Snapshot | None:
        """Of the snapshots behind this page the deepest from which a prompt with the next keys [n,8] can go on."""
        rest = keys[: PAGE - 1].tobytes()
        while self.tails and (at := bisect_right(self._known, rest)):
            nearest = self._known[at - 1]  # all that begin `rest` begin it too, or what it shares with `rest`
            if rest.startswith(nearest):
                return self.tails[nearest]
            rest = rest[: _ROW * _shared(nearest, rest)]
        return None

    def closest(self, keys: np.ndarray) -> tuple[int, np.ndarray]:
        """How many of the next keys [n,8] of a prompt are known here, and the keys that are known behind those."""
        data = keys[:PAGE].tobytes()
        at = bisect_left(self._known, data)
        beside = self._known[max(0, at - 1) : at + 1]
        overlap, known = max(((_shared(data, one), one) for one in beside), default=(0, b""))
        return overlap, _rows(known)[overlap:]

    def _forget(self, data: bytes) -> None:
        del self._known[bisect_left(self._known, data)]


@dataclass(eq=False)
class Snapshot:
    """The recurrent state, in a `slot` of the pools, after a node's tokens and those of its tail, less than 64, whose
    keys and values begin the page `page` (-1: no tail)."""

    node: Node
    data: bytes
    page: int
    slot: int
    kind: str
    used: float
    hits: int = 0

    @property
    def tail(self) -> np.ndarray:
        """The keys of the tokens behind the node, int32 [n,8]."""
        return _rows(self.data)

    @property
    def position(self) -> int:
        """Tokens before it."""
        return self.node.depth + len(self.tail)

    @property
    def kept(self) -> bool:
        """Whether it still hangs in the tree."""
        return self.node.tails.get(self.data) is self

    @property
    def pages(self) -> list[int]:
        """The pages of its tokens."""
        return [*(node.page for node in self.node.path()), *([self.page] if len(self.tail) else [])]


def _shared(one: bytes, other: bytes) -> int:
    """Tokens that two of them begin with."""
    return alike(_rows(one), _rows(other))


def _rows(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.int32).reshape(-1, COLUMNS)

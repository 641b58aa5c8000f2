"""From a request to a run: what the prefix cache has of its prompt, whether there is room for the rest, and where
snapshots will be kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ingot.engine.disk import Restored
from ingot.engine.keys import Keys, keys_of
from ingot.engine.prefix_cache import LEAST_TOKENS, Match
from ingot.engine.prefix_tree import Snapshot
from ingot.engine.request import Mark, Request, Reuse
from ingot.engine.run import Run
from ingot.engine.sampler import Sampler
from ingot.engine.sequence import Sequence, pages_of
from ingot.ops import PAGE

if TYPE_CHECKING:
    from ingot.engine.engine import Engine

# Seconds of reading that a long document may cost again, and the bounds of the tokens between its snapshots: a state is
# 1,600 tokens of bf16 keys and values (taste).
AGAIN_S, NEAREST, FARTHEST = 3.0, 512, 8192
# Tokens known beyond the deepest snapshot that make their end a junction: others will part there, too (taste).
JUNCTION = 64


@dataclass(eq=False)
class Waiting:
    """A request that has not begun, and those of its answers, the first of which had the number `first`, that are
    still wanted. `match` is what the prefix cache had when it had `seen` so many changes. It is held until `reader` has
    read as many tokens as they have in common, or begins for itself (`engine/held.py`)."""

    request: Request
    ids: np.ndarray
    keys: np.ndarray
    first: int = 0
    answers: list[int] = field(default_factory=list)
    canary: Snapshot | None = None  # what shall be computed again, and be equal
    match: Match = field(default_factory=Match)
    seen: int = -1
    reader: Run | None = None
    parts: int = 0  # the tokens of its prompt up to where it was last held


class Opening:
    """Begins the runs of an engine's scheduler."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.states, self.cache = engine, engine.states, engine.cache

    def checked(self, request: Request) -> Waiting:
        """A request that can run; ValueError."""
        ids = self.engine.checked(request)
        return Waiting(request, ids, keys_of(ids, request.position, request.visuals))

    def match(self, waiting: Waiting) -> Match:
        """What the prefix cache's memory has of a prompt."""
        request = waiting.request
        if not (request.cache and self.cache.enabled):
            return Match()
        if waiting.seen != self.cache.changes:
            waiting.match, waiting.seen = self.cache.match(waiting.keys, request.salt), self.cache.changes
        return waiting.match

    def known(self, waiting: Waiting) -> int:
        """How many of a prompt's first tokens memory or the disk would give now."""
        request, found = waiting.request, self.match(waiting).cached
        if self.cache.disk is None or not (request.cache and self.cache.enabled):
            return found
        return max(found, self.cache.disk.known(self.cache.root(request.salt), waiting.keys, found))

    def tokens(self, request: Request, ids: np.ndarray) -> int:
        """Tokens of the prompt and the longest answer."""
        return min(len(ids) + request.max_tokens, self.engine.context)

    def fits(self, waiting: Waiting, match: Match, count: int, held: Iterable[Waiting] = ()) -> bool:
        """Whether so many answers have room beside those that run, and those that are held and keep theirs."""
        shared = match.cached // PAGE
        pages, slots = self._pages(waiting, shared, count), count
        for other in held:
            pages += self._pages(other, other.parts // PAGE, len(other.answers))
            slots += len(other.answers)
        # as if it shared nothing that runs: the snapshot may have to go for its slot, and then it reads everything
        return self.states.has_room(pages, slots, pinned=shared)

    def _pages(self, waiting: Waiting, shared: int, count: int) -> int:
        """Pages that so many answers need, of which they share the first."""
        total = pages_of(self.tokens(waiting.request, waiting.ids))
        return total - shared + (count - 1) * (total - len(waiting.ids) // PAGE)

    def sampler(self, request: Request, ids: np.ndarray, seed: int) -> Sampler:
        """Who chooses the tokens of one answer."""
        return Sampler(
            request.sampling,
            ids,
            self.engine.vocabulary,
            seed,
            self.engine.ops.choose,
            request.stop_ids,
            request.min_tokens,
            request.banned_ids,
            request.breaks,
        )

    def opened(self, waiting: Waiting, samplers: Several[tuple[int, Sampler]], seconds: float) -> Run:
        """A run for these answers, which goes on from what the prefix cache has of its prompt; without answers it
        only reads. What the disk has comes to it as it is advanced: here, and then until it is not `opening`."""
        request, ids = waiting.request, waiting.ids
        answer, sampler = samplers[0] if samplers else (-1, None)
        twins = list(samplers[1:])
        total = self.tokens(request, ids) if sampler else len(ids)
        run = Run(answer, request, self.states.open(), sampler, ids, total - len(ids), twins)
        more = len(twins) * (pages_of(total) - len(ids) // PAGE)  # that the others will need
        run.opening = self._open(run, waiting, total + more * PAGE)
        self.advance(run, seconds)
        return run

    def advance(self, run: Run, seconds: float) -> None:
        """Give a run that is `opening` more, for about so many seconds. After an error its sequence is closed."""
        end = time.perf_counter() + seconds
        try:
            for _ in run.opening or ():
                if time.perf_counter() >= end:
                    return
        except BaseException:
            self.cache.leave(run.sequence)
            raise
        run.opening = None

    def _open(self, run: Run, waiting: Waiting, tokens: int) -> Iterator[None]:
        """Give a run what there is of its prompt, and promise it room for so many tokens; all at once, but for what the
        disk has."""
        request, sequence, match, restored = waiting.request, run.sequence, self.match(waiting), None
        if request.cache and self.cache.enabled:
            self.cache.begin(sequence, request.salt)
            if self.cache.disk is not None:
                restored = yield from self.cache.disk.restore(sequence, waiting.keys, match.cached, tokens)
            sequence.keys = Keys(waiting.keys)
            if restored is not None:
                match = self._kept(sequence, restored, match)
            else:
                match = self.match(waiting)  # an attempt that failed may have cost what it was
                if match.snapshot is not None:
                    self.cache.restore(sequence, match.snapshot)
            run.marks = self._marks(request, len(waiting.ids), match)
        self.states.reserve(sequence, tokens)
        run.pending, run.came_from = waiting.ids[match.cached :], match.snapshot
        run.reuse = Reuse(match.cached, match.matched, match.disk, match.expected)

    def _kept(self, sequence: Sequence, restored: Restored, match: Match) -> Match:
        """Keep in memory what a sequence was given by the disk."""
        length = sequence.length
        snapshot = self.cache.snapshot(sequence, restored.kind)
        return Match(max(match.matched, length), snapshot, match.expected, length, restored.tokens)

    def _marks(self, request: Request, length: int, match: Match) -> deque[Mark]:
        """Where snapshots of a prompt are kept: where it says so, where it parts from what is known, and here and there
        in a long one."""
        wanted = {mark.position: mark for mark in request.marks}
        matched = min(match.matched, length - 1)
        if matched - match.cached >= JUNCTION:
            wanted.setdefault(matched, Mark(matched, "junction"))
        each = self._interval()
        for position in range((match.cached // each + 1) * each, length - NEAREST, each):
            wanted.setdefault(position, Mark(position, "middle"))
        marks, last = deque[Mark](), match.cached
        for position in sorted(wanted):
            if position <= length and position - last >= (LEAST_TOKENS if wanted[position].kind != "turn" else 1):
                marks.append(wanted[position])
                last = position
        return marks

    def _interval(self) -> int:
        """Tokens between the snapshots of a long document: a power of two, so that they fall on the same tokens when
        it is read again."""
        tokens = int(AGAIN_S / self.engine.pace.token_s) if self.engine.pace.token_s else FARTHEST
        return int(min(FARTHEST, max(NEAREST, 1 << tokens.bit_length() - 1)))

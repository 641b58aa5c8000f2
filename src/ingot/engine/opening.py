"""From a request to a run: what the prefix cache has of its prompt, whether there is room for the rest, and where
snapshots will be kept."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ingot.engine.disk import Restored
from ingot.engine.keys import Keys, keys_of
from ingot.engine.prefix_cache import LEAST_TOKENS, Match
from ingot.engine.prefix_tree import Snapshot
from ingot.engine.request import Mark, Request, Reuse
from ingot.engine.run import Run
from ingot.engine.sampler import Sampler, answer_seed
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
    read as many tokens as they have in common, or begins for itself (`engine/held.py`). It is `coming` while what the
    disk has of it is read, which is its tokens `until` there."""

    request: Request
    ids: np.ndarray
    keys: np.ndarray
    first: int = 0
    answers: list[int] = field(default_factory=list)
    canary: Snapshot | None = None  # what shall be computed again, and be equal
    match: Match = field(default_factory=Match)
    seen: int = -1
    reader: Run | Waiting | None = None
    parts: int = 0  # the tokens of its prompt up to where it was last held
    coming: Generator[int, None, Run] | None = None
    until: int = 0


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
            slots += len(other.answers)
            if other.coming is None:
                pages += self._pages(other, other.parts // PAGE, len(other.answers))
            else:  # it has a slot, and has or is promised its pages
                slots -= 1
        # as if it shared nothing that runs: the snapshot may have to go for its slot, and then it reads everything
        return self.states.has_room(pages, slots, pinned=shared)

    def _pages(self, waiting: Waiting, shared: int, count: int) -> int:
        """Pages that so many answers need, of which they share the first."""
        total = pages_of(self.tokens(waiting.request, waiting.ids))
        return total - shared + (count - 1) * (total - len(waiting.ids) // PAGE)

    def advance(self, waiting: Waiting, end: float) -> Run | None:
        """The run of a request, which goes on from what the prefix cache has of its prompt; without answers it only
        reads. None: at `end` (`time.perf_counter`) what the disk has was not all there; ask again, or `drop` it."""
        waiting.coming = waiting.coming or self._opened(waiting)
        try:
            while True:
                waiting.until = next(waiting.coming)
                if time.perf_counter() >= end:
                    return None
        except StopIteration as ended:
            run: Run = ended.value
        except BaseException:
            self.drop(waiting)
            raise
        waiting.coming = None
        return run

    def drop(self, waiting: Waiting) -> None:
        """Give back what a request was given so far."""
        coming, waiting.coming = waiting.coming, None
        if coming is not None:
            coming.close()

    def _opened(self, waiting: Waiting) -> Generator[int, None, Run]:
        """What `advance` returns; a record of the disk comes at each step."""
        request, ids, sequence = waiting.request, waiting.ids, self.states.open()
        match, restored, marks = self.match(waiting), None, deque[Mark]()
        try:
            if request.cache and self.cache.enabled:
                self.cache.begin(sequence, request.salt)
                if self.cache.disk is not None:
                    room = self._room(waiting)
                    restored = yield from self.cache.disk.restore(sequence, waiting.keys, match.cached, room)
                sequence.keys = Keys(waiting.keys)
                if restored is not None:
                    match = self._kept(sequence, restored, match)
                else:
                    match = self.match(waiting)  # an attempt that failed may have cost what it was
                    if match.snapshot is not None:
                        self.cache.restore(sequence, match.snapshot)
                marks = self._marks(request, len(ids), match)
            self.states.reserve(sequence, self._room(waiting))
            samplers = self._samplers(waiting)
        except BaseException:  # and where it is dropped
            self.cache.leave(sequence)
            raise
        (answer, sampler), twins = samplers[0] if samplers else (-1, None), samplers[1:]
        left = self.tokens(request, ids) - len(ids) if samplers else 0
        reuse = Reuse(match.cached, match.matched, match.disk, match.expected)
        return Run(answer, request, sequence, sampler, ids[match.cached :], left, twins, marks, reuse, match.snapshot)

    def _room(self, waiting: Waiting) -> int:
        """Tokens that the sequence of a request has room for: of its prompt and all its answers."""
        return PAGE * self._pages(waiting, 0, len(waiting.answers)) if waiting.answers else len(waiting.ids)

    def _samplers(self, waiting: Waiting) -> list[tuple[int, Sampler]]:
        """The answers, and who chooses the tokens of each."""
        seed = waiting.request.sampling.seed
        seed = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed)
        seeds = {answer: answer_seed(seed, answer - waiting.first) for answer in waiting.answers}
        return [(answer, self._sampler(waiting.request, waiting.ids, its)) for answer, its in seeds.items()]

    def _sampler(self, request: Request, ids: np.ndarray, seed: int) -> Sampler:
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

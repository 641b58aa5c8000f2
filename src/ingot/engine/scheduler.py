"""Requests that run together: every step is one ragged pass, in which each running answer has its next tokens.

Whoever ends makes place for the next one that waits. Who runs beside whom, and what of a prompt the prefix cache had,
changes time and memory, not one bit of an answer (native op set). One thread owns a scheduler and its states.
"""

from __future__ import annotations

import os
import random
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.engine.disk import KINDS
from ingot.engine.keys import Keys, keys_of
from ingot.engine.logprobs import logprobs
from ingot.engine.prefix_cache import LEAST_TOKENS as APART
from ingot.engine.prefix_cache import Match, Snapshot
from ingot.engine.request import Mark, Request, Reuse, Token
from ingot.engine.sampler import Sampler, answer_seed
from ingot.engine.sequence import Sequence, pages_of
from ingot.engine.speculate import Drafter, worthwhile
from ingot.ops import PAGE

if TYPE_CHECKING:
    from ingot.engine.engine import Engine

# Tokens a pass takes at most: it bounds the workspace, and a Ctrl-C waits no longer than one pass (taste; on
# 0.8B the activations of 256 tokens are 33 MB: `ingot.spec.cost.memory`).
STEP_TOKENS = 256
# The fewest tokens of prompts in a pass: fewer use the matrices' bytes badly (taste; one tile of AMX).
LEAST_TOKENS = 16
# Rows of a pass with drafts at most: each has its logits, 1 MB (taste).
DRAFT_ROWS = 64
# Seconds of reading that a long document may cost again, and the bounds of the tokens between its snapshots: a state is
# 1,600 tokens of bf16 keys and values (taste).
AGAIN_S, NEAREST, FARTHEST = 3.0, 512, 8192
# Tokens known beyond the deepest snapshot that make their end a junction: others will part there, too (taste).
JUNCTION = 64
FINISH_S = 5.0  # that a slow disk may take at the end (taste)
SLOW_DISK_S = 0.01  # that nobody waits who comes while a disk is too slow for what is handed to it
IDLE = 8  # prompts that wait to be read in idle time; the oldest is dropped (taste)


@dataclass(frozen=True)
class Part:
    """The next tokens of one sequence in a pass; `position` None: text's. The last `tried` of them are not certain."""

    sequence: Sequence
    ids: np.ndarray
    position: np.ndarray | None = None
    visuals: Any = ()
    tried: int = 0


@dataclass(eq=False)
class _Run:
    """An answer in the making: the ids its sequence has not taken yet, and the tokens it may still have. `twins` are
    answers to the same prompt, which wait to continue from its state. At `marks` of its prompt snapshots are kept.
    What it `said` so far foretells `drafts`, which are tried in the next pass."""

    answer: int
    request: Request
    sequence: Sequence
    sampler: Sampler | None
    pending: np.ndarray
    left: int
    marks: deque[Mark] = field(default_factory=deque)
    reuse: Reuse | None = None
    twins: list[tuple[int, Sampler]] = field(default_factory=list)
    decodes: bool = False
    said: list[int] = field(default_factory=list)
    drafter: Drafter | None = None
    drafts: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Waiting:
    """A request that has not begun, and those of its answers, the first of which had the number `first`, that are
    still wanted."""

    request: Request
    ids: np.ndarray
    keys: np.ndarray
    first: int = 0
    answers: list[int] = field(default_factory=list)
    canary: Snapshot | None = None  # what shall be computed again, and be equal


class Scheduler:
    """`width` answers run at most, fewer where memory holds no more; those to one prompt begin together.

    Prompts that are read at the same time share each pass evenly: a short one does not wait for the end of a long one.
    `slice_s`: about how many seconds a pass may take that reads while answers go on; None: as long as it takes.
    `canary`: of how many of the prompts that go on from a snapshot it is computed again in idle time and compared.
    """

    def __init__(self, engine: Engine, width: int, slice_s: float | None = None, canary: float = 0.0) -> None:
        self.engine, self.states, self.width, self.slice_s = engine, engine.states, width, slice_s
        self.canary = canary
        self.cache = engine.cache
        self._token_s = 0.0  # what a token of a prompt took last time
        self._waiting: list[_Waiting] = []
        self._idle = deque[_Waiting]()
        self._idler: tuple[_Waiting, _Run] | None = None  # what is read while nobody waits
        self._runs: list[_Run] = []
        self._answers = 0

    @property
    def unfinished(self) -> bool:
        """Whether a step would bring tokens nearer."""
        return bool(self._runs or self._waiting)

    @property
    def has_idle_work(self) -> bool:
        """Whether `idle_step` has something to do."""
        return bool(self._idle or self._idler or (self.cache.disk and self.cache.disk.behind))

    @property
    def running(self) -> int:
        """Answers that have begun and not ended."""
        return sum(1 + len(run.twins) for run in self._runs)

    def add(self, request: Request) -> range:
        """The numbers of the request's answers. It is checked here, and takes memory when it begins."""
        waiting = self._checked(request)
        self.states.check(self._tokens(request, waiting.ids), request.n)
        answers = range(self._answers, self._answers + request.n)
        self._answers += request.n
        waiting.first, waiting.answers = answers[0], list(answers)
        place = bisect_right(self._waiting, request.priority, key=lambda other: other.request.priority)
        self._waiting.insert(place, waiting)
        return answers

    def add_idle(self, request: Request) -> None:
        """Read a prompt for the prefix cache in `idle_step`s. Of many, the oldest is dropped."""
        if self.cache.enabled:
            self._idle.append(self._checked(request))
            while len(self._idle) > IDLE:
                self._idle.popleft()

    def has_room(self, request: Request) -> bool:
        """Whether there is memory for all answers to a request now, after what the prefix cache has of it. What is
        being read idly gives its own back."""
        waiting = self._checked(request)
        if self._idler is not None:
            self._pause()
        return self._fits(waiting, self._match(waiting), request.n)

    def step(self) -> list[Token]:
        """One pass: the next token of every answer whose prompt is read. None of them, while prompts are."""
        if self._idler is not None and self.unfinished:
            self._pause()
        if self.cache.disk is not None:
            self.cache.disk.write()  # not behind the pass: its tokens are waited for
        self._admit()
        self._try()
        parts = list(self._parts())
        if not parts:
            return []
        ends = np.cumsum([len(part.ids) for _, part in parts])
        # a pass ends a prompt, or goes on with an answer, for those whose ids are all taken by it
        ready = [
            (run, np.arange(end - 1 - part.tried, end))
            for (run, part), end in zip(parts, ends, strict=True)
            if len(part.ids) - part.tried == len(run.pending)
        ]
        rows = self._forward(parts, np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in ready)]))
        counts = np.cumsum([len(rows) for _, rows in ready])[:-1]
        return [
            token
            for (run, _), some in zip(ready, np.split(rows, counts), strict=False)
            for token in (self._verified(run, some) if run.decodes else self._began(run, some[0]))
        ]

    def idle_step(self) -> None:
        """One pass over a prompt of `add_idle`, or of a canary. What it has read is not lost when requests come: it is
        a snapshot."""
        disk = self.cache.disk
        if disk is not None and disk.behind:
            disk.write()
            if disk.behind and not (self._idle or self._idler):
                time.sleep(SLOW_DISK_S)
        self._idler = self._idler or self._next_idle()
        if self._idler is None:
            return
        waiting, run = self._idler
        count = self._until_mark(run, min(len(run.pending), self._sliced(STEP_TOKENS)))
        try:
            self._forward([(run, self._part(run, count))], np.zeros(0, np.int64))
        except BaseException:
            self._idler = None
            self.cache.leave(run.sequence)
            raise
        if not len(run.pending):
            self._idler = None
            if waiting.canary is not None:
                self.cache.compare(run.sequence, waiting.canary)
            self.cache.donate(run.sequence, "turn")

    def cancel(self, answer: int) -> None:
        """End an answer before its time; one that has ended already is left alone."""
        for waiting in self._waiting:
            if answer in waiting.answers:
                waiting.answers.remove(answer)
        self._waiting = [waiting for waiting in self._waiting if waiting.answers]
        for run in self._runs[:]:
            run.twins = [twin for twin in run.twins if twin[0] != answer]
            if run.answer == answer and run.twins:  # it reads for others: one of them takes its place
                run.answer, run.sampler = run.twins.pop(0)
            elif run.answer == answer:
                self._end(run)

    def close(self) -> None:
        """End everything; slots and pages go back, or to the prefix cache."""
        self._waiting.clear()
        self._idle.clear()
        if self._idler is not None:
            self._pause()
        for run in self._runs[:]:
            self._end(run)
        if self.cache.disk is not None:
            self.cache.disk.finish(FINISH_S)

    def _checked(self, request: Request) -> _Waiting:
        ids = self.engine.checked(request)
        return _Waiting(request, ids, keys_of(ids, request.position, request.visuals))

    def _match(self, waiting: _Waiting) -> Match:
        request = waiting.request
        return self.cache.match(waiting.keys, request.salt) if request.cache and self.cache.enabled else Match()

    def _fits(self, waiting: _Waiting, match: Match, count: int) -> bool:
        """Whether so many answers have room beside those that run."""
        total, length = self._tokens(waiting.request, waiting.ids), len(waiting.ids)
        shared = match.cached // PAGE
        pages = pages_of(total) - shared + (count - 1) * (pages_of(total) - length // PAGE)
        return self.states.has_room(pages, count, pinned=shared)

    def _admit(self) -> None:
        """Begin those that wait, by priority and in order, while there is place."""
        while self._waiting:
            first = self._waiting[0]
            count = len(first.answers)
            if self._runs and self.running + count > self.width:
                return
            match = self._match(first)
            if not self._fits(first, match, count):
                if self._runs:
                    return
                self.states.check(self._tokens(first.request, first.ids), count)
            self._waiting.pop(0)
            self._begin(first)

    def _begin(self, waiting: _Waiting) -> None:
        request, ids = waiting.request, waiting.ids
        seed = request.sampling.seed
        seed = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed)
        samplers = [(i, self._sampler(request, ids, answer_seed(seed, i - waiting.first))) for i in waiting.answers]
        (answer, sampler), *twins = samplers
        run = self._opened(waiting, answer, sampler)
        run.twins = twins
        if twins:  # what they will need is promised, too
            total, length = self._tokens(request, ids), len(ids)
            more = len(twins) * (pages_of(total) - length // PAGE)
            self.states.reserve(run.sequence, total + more * PAGE)
        self._runs.append(run)

    def _opened(self, waiting: _Waiting, answer: int, sampler: Sampler | None) -> _Run:
        """A run that goes on from what the prefix cache has of its prompt."""
        request, ids = waiting.request, waiting.ids
        tokens = self._tokens(request, ids) if sampler else len(ids)
        sequence, match = self.states.open(), self._match(waiting)
        try:
            if request.cache and self.cache.enabled:
                sequence.keys = Keys(waiting.keys)
                self.cache.begin(sequence, request.salt)
                match = self._from_disk(sequence, waiting, match)
            if match.snapshot is not None:
                if not match.restored:
                    self.cache.restore(sequence, match.snapshot)
                self._watch(waiting, match)
            self.states.reserve(sequence, tokens)
        except BaseException:
            self.cache.leave(sequence)
            raise
        marks = self._marks(request, len(ids), match) if sequence.keys else deque[Mark]()
        reuse = Reuse(match.cached, match.matched, match.disk, match.expected)
        return _Run(answer, request, sequence, sampler, ids[match.cached :], tokens - len(ids), marks, reuse)

    def _from_disk(self, sequence: Sequence, waiting: _Waiting, match: Match) -> Match:
        """Give an empty sequence what the disk has of its prompt, if that is more than memory has."""
        if self.cache.disk is None:
            return match
        restored = self.cache.disk.restore(sequence, waiting.keys, match.cached)
        if restored is None:
            known = match.snapshot
            # an attempt that failed may have cost it
            return match if known is None or known in known.node.snapshots else self._match(waiting)
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
            if position <= length and position - last >= (APART if wanted[position].kind != "turn" else 1):
                marks.append(wanted[position])
                last = position
        return marks

    def _interval(self) -> int:
        """Tokens between the snapshots of a long document: a power of two, so that they fall on the same tokens when
        it is read again."""
        tokens = int(AGAIN_S / self._token_s) if self._token_s else FARTHEST
        return int(min(FARTHEST, max(NEAREST, 1 << tokens.bit_length() - 1)))

    def _next_idle(self) -> tuple[_Waiting, _Run] | None:
        """The next prompt of `add_idle` that is not read already, and for which there is room."""
        while self._idle:
            waiting = self._idle.popleft()
            match = self._match(waiting)
            if len(waiting.ids) - match.cached > 1 and self._fits(waiting, match, 1):
                return waiting, self._opened(waiting, -1, None)
        return None

    def _pause(self) -> None:
        """The idle prompt goes back to those that wait; what it has read stays in the prefix cache."""
        assert self._idler is not None
        (waiting, run), self._idler = self._idler, None
        self._idle.appendleft(waiting)
        self.cache.donate(run.sequence, "end")

    def _watch(self, waiting: _Waiting, match: Match) -> None:
        """Now and then, have computed again what was taken from the cache."""
        request, length = waiting.request, match.cached
        if match.snapshot is None or random.random() >= self.canary:
            return
        position = None if request.position is None else request.position[:, :length]
        again = replace(request, ids=waiting.ids[:length], position=position, cache=False)
        self._idle.append(_Waiting(again, waiting.ids[:length], waiting.keys[:length], canary=match.snapshot))

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

    def _forward(self, parts: list[tuple[_Run, Part]], rows: np.ndarray) -> np.ndarray:
        """A pass; what it computed goes to the prefix cache. A sequence that was in a pass that failed is nobody's."""
        began = time.perf_counter()
        try:
            found = self.engine.forward([part for _, part in parts], rows)
        except BaseException:
            for run, _ in parts:
                run.sequence.keys = None
            raise
        read = sum(len(part.ids) for run, part in parts if not run.decodes)
        if read >= LEAST_TOKENS:
            self._token_s = (time.perf_counter() - began) / read
        if not read:
            self.engine.pace.see(sum(len(part.ids) for _, part in parts), time.perf_counter() - began)
        for run, part in parts:
            run.pending = run.pending[len(part.ids) - part.tried :]
            self.cache.extend(run.sequence)
            while run.marks and run.marks[0].position <= run.sequence.length:
                mark = run.marks.popleft()
                kept = self.cache.snapshot(run.sequence, mark.kind)
                if run.answer >= 0 and mark.kind in KINDS:
                    self._to_disk(kept)
        return found

    def _try(self) -> None:
        """Choose the drafts of the next pass. None in one that reads prompts: its rows are taken."""
        for run in self._runs:
            run.drafts = []
        mode = self.engine.speculate
        if mode == "off" or not all(run.decodes for run in self._runs):
            return
        for run in self._runs:
            if run.drafter is None:
                run.drafter = Drafter([*run.request.ids, *run.said])
        drafters, most = [run.drafter for run in self._runs if run.drafter], DRAFT_ROWS // max(1, len(self._runs)) - 1
        chances = [each.chances(min(run.left - 1, most)) for run, each in zip(self._runs, drafters, strict=True)]
        counts = worthwhile(chances, self.engine.pace) if mode == "auto" else [*map(len, chances)]
        for run, drafter, count in zip(self._runs, drafters, counts, strict=True):
            run.drafts = drafter.lookup.draft(count)

    def _parts(self) -> Iterator[tuple[_Run, Part]]:
        """The next pass: a token of each answer, and as much of the prompts as it has room for."""
        shares = self._shares()
        for run in self._runs:
            count = len(run.pending) if run.decodes else self._until_mark(run, shares.get(run.answer, 0))
            if count:
                yield run, self._part(run, count)

    def _part(self, run: _Run, count: int) -> Part:
        if run.decodes:
            ids = np.concatenate([run.pending, np.array(run.drafts, np.int32)])
            return Part(run.sequence, ids, tried=len(run.drafts))
        begin, position = run.sequence.length, run.request.position
        at = None if position is None else position[:, begin : begin + count]
        return Part(run.sequence, run.pending[:count], at, run.request.visuals)

    def _until_mark(self, run: _Run, count: int) -> int:
        """A state can be kept where a pass ends."""
        return min(count, run.marks[0].position - run.sequence.length) if run.marks else count

    def _shares(self) -> dict[int, int]:
        """Tokens that each prompt may read in the next pass: those of the first priority share it equally, and what a
        short one leaves goes to the others; of those that are alike the oldest has the odd token."""
        room = self._room()
        shares: dict[int, int] = {}
        reading = [run for run in self._runs if not run.decodes]
        for priority in sorted({run.request.priority for run in reading}):
            alike = sorted((r for r in reading if r.request.priority == priority), key=lambda run: len(run.pending))
            for left, run in zip(range(len(alike), 0, -1), alike, strict=True):
                shares[run.answer] = min(len(run.pending), -(-room // left))
                room -= shares[run.answer]
        return shares

    def _room(self) -> int:
        """Tokens of prompts that the next pass may take."""
        decoding = sum(run.decodes for run in self._runs)
        room = max(1, STEP_TOKENS - decoding)
        return self._sliced(room) if decoding else room

    def _sliced(self, room: int) -> int:
        """So many tokens, or what can be read in a slice of time."""
        if self.slice_s is None or not self._token_s:
            return room
        return min(room, max(LEAST_TOKENS, int(self.slice_s / self._token_s)))

    def _began(self, run: _Run, row: np.ndarray) -> list[Token]:
        """The first token of a run and of its twins: their prompt is read."""
        reuse = run.reuse
        return [replace(self._chosen(each, row), reuse=reuse) for each in self._continue_all(run)]

    def _verified(self, run: _Run, rows: np.ndarray) -> Iterator[Token]:
        """The next tokens of an answer: one, and one more for each draft that is what was chosen."""
        for i, row in enumerate(rows):
            token = self._chosen(run, row)
            yield token
            if token.last or i == len(run.drafts) or token.id != run.drafts[i]:
                return
            self.states.accept(run.sequence)

    def _chosen(self, run: _Run, row: np.ndarray) -> Token:
        """The next token of an answer."""
        assert run.sampler is not None
        token = run.sampler.sample(row)
        run.left -= 1
        last = token in run.request.stop_ids or run.left == 0
        told = self._logprobs(run.request, row, token)
        run.pending = np.array([token], np.int32)
        run.said.append(token)
        if run.sequence.keys is not None:
            run.sequence.keys.append(token, run.sequence.length + run.sequence.rope_delta)
        if run.drafter is not None:
            run.drafter.remember(token)
        if last:
            self._end(run)
        return Token(run.answer, token, last, *told)

    def _continue_all(self, run: _Run) -> list[_Run]:
        """The prompt is read: its answers go on, each with a state of its own."""
        position = run.request.position
        if position is not None:
            run.sequence.rope_delta = int(position.max()) + 1 - run.sequence.length
        run.decodes = True
        self.states.reserve(run.sequence, run.sequence.length + run.left)
        place = self._runs.index(run) + 1
        for answer, sampler in run.twins:
            twin = _Run(
                answer, run.request, self.states.fork(run.sequence), sampler, run.pending, run.left, decodes=True
            )
            self.states.reserve(twin.sequence, twin.sequence.length + twin.left)
            self._runs.insert(place, twin)
            place += 1
        group, run.twins = [run, *self._runs[place - len(run.twins) : place]], []
        return group

    def _logprobs(self, request: Request, row: np.ndarray, token: int) -> tuple[Any, Any]:
        if request.logprobs is None:
            return None, ()
        return logprobs(self.engine.ops.rank, row[: self.engine.vocabulary], token, request.logprobs)

    def _end(self, run: _Run) -> None:
        """An answer has ended, and may be gone on with."""
        self._runs.remove(run)
        kept = self.cache.donate(run.sequence, "end")
        if not any(mark.kind == "turn" for mark in run.request.marks):
            self._to_disk(kept)

    def _to_disk(self, snapshot: Snapshot | None) -> None:
        if self.cache.disk is not None:
            self.cache.disk.note(snapshot)

    def _tokens(self, request: Request, ids: np.ndarray) -> int:
        return min(len(ids) + request.max_tokens, self.engine.context)

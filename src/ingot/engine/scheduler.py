"""Requests that run together: every step is one ragged pass, in which each running answer has its next tokens.

Whoever ends makes place for the next one that waits. Who runs beside whom, and what of a prompt the prefix cache had,
changes time and memory, not one bit of an answer (native op set). One thread owns a scheduler and its states.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.engine.disk import KINDS
from ingot.engine.held import is_held
from ingot.engine.idle import IdleReader
from ingot.engine.logprobs import logprobs
from ingot.engine.opening import Opening, Waiting
from ingot.engine.prefix_tree import Snapshot
from ingot.engine.request import Request, Token
from ingot.engine.run import Part, Run
from ingot.engine.speculate import Drafter, worthwhile

if TYPE_CHECKING:
    from ingot.engine.engine import Engine

# Tokens a pass takes at most: it bounds the workspace, and a Ctrl-C waits no longer than one pass (taste; on
# 0.8B the activations of 256 tokens are 33 MB: `ingot.spec.cost.memory`).
STEP_TOKENS = 256
# The fewest tokens of prompts in a pass: fewer use the matrices' bytes badly (taste; one tile of AMX).
LEAST_TOKENS = 16
# Rows of a pass with drafts at most: each has its logits, 1 MB (taste).
DRAFT_ROWS = 64
FINISH_S = 5.0  # that a slow disk may take at the end (taste)
SLOW_DISK_S = 0.01  # that nobody waits who comes while a disk is too slow for what is handed to it


class Scheduler:
    """`width` answers run at most, fewer where memory holds no more; those to one prompt begin together.

    Prompts that are read at the same time share each pass evenly: a short one does not wait for the end of a long one.
    `slice_s`: about how many seconds a step may take that reads while answers go on, from disk too; None: as long as
    it takes.
    `canary`: of how many of the prompts that go on from a snapshot it is computed again in idle time and compared.
    """

    def __init__(self, engine: Engine, width: int, slice_s: float | None = None, canary: float = 0.0) -> None:
        self.engine, self.states, self.width, self.slice_s = engine, engine.states, width, slice_s
        self.cache = engine.cache
        self._opening = Opening(engine)
        self._waiting: list[Waiting] = []
        self._idle = IdleReader(self._opening, self._forward, canary)
        self._runs: list[Run] = []
        self._answers = 0
        self.pass_began: float | None = None  # when the last step's pass did; None: it made none
        self.pass_read = 0  # tokens of prompts in it
        self._end_s = math.inf  # when the step is to end

    @property
    def unfinished(self) -> bool:
        """Whether a step would bring tokens nearer."""
        return bool(self._runs or self._waiting)

    @property
    def has_idle_work(self) -> bool:
        """Whether `idle_step` has something to do."""
        return self._idle.has_work or bool(self.cache.disk and self.cache.disk.behind)

    @property
    def rests_s(self) -> float | None:
        """Seconds until there is idle work if nothing comes; None: there will be none."""
        return self.cache.disk.due_s if self.cache.disk else None

    @property
    def running(self) -> int:
        """Answers that have begun and not ended."""
        return sum(1 + len(run.twins) for run in self._runs)

    @property
    def held(self) -> list[Waiting]:
        """Those that keep a place, and wait because what their prompts begin with is being read, or comes from disk."""
        return [waiting for waiting in self._waiting if waiting.reader is not None or waiting.coming is not None]

    @property
    def unharmed(self) -> set[int]:
        """Behind a step that failed, the answers that go on: those that have not begun; all, if it made no pass."""
        runs = self._runs if self.pass_began is None else []
        began = {answer for run in runs for answer in (run.answer, *(twin for twin, _ in run.twins))}
        return began | {answer for waiting in self._waiting for answer in waiting.answers}

    def checked(self, request: Request) -> Waiting:
        """A request in the form in which it waits, which remembers what was found out about it; ValueError."""
        return self._opening.checked(request)

    def add(self, request: Request | Waiting) -> range:
        """The numbers of the request's answers. It is checked here, and takes memory when it begins."""
        waiting = request if isinstance(request, Waiting) else self.checked(request)
        request = waiting.request
        self.states.check(self._opening.tokens(request, waiting.ids), request.n)
        answers = range(self._answers, self._answers + request.n)
        self._answers += request.n
        waiting.first, waiting.answers = answers[0], list(answers)
        place = bisect_right(self._waiting, request.priority, key=lambda other: other.request.priority)
        self._waiting.insert(place, waiting)
        return answers

    def add_idle(self, request: Request) -> None:
        """Read a prompt for the prefix cache in `idle_step`s. Of many, the oldest is dropped."""
        if self.cache.enabled:
            self._idle.add(self.checked(request))

    def has_room(self, waiting: Waiting) -> bool:
        """Whether there is memory for all answers to a request now, after what the prefix cache has of it. What is
        being read idly gives its own back."""
        self._idle.pause()
        return self._opening.fits(waiting, self._opening.match(waiting), waiting.request.n, self.held)

    def known(self, waiting: Waiting) -> int:
        """How many of a request's first tokens the prefix cache would give now, if the disk gives what it has."""
        return self._opening.known(waiting)

    def step(self) -> list[Token]:
        """One pass: the next token of every answer whose prompt is read. None of them, while prompts are."""
        self._begin_slice()
        if self.unfinished:
            self._idle.pause()
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
        self._begin_slice()
        disk = self.cache.disk
        if disk is not None and disk.behind:
            disk.write()
            if disk.behind and not self._idle.has_work:
                time.sleep(SLOW_DISK_S)
        self._idle.step(lambda: self._sliced(STEP_TOKENS), self._end_s)

    def cancel(self, answer: int) -> None:
        """End an answer before its time; one that has ended already is left alone."""
        for waiting in self._waiting[:]:
            if answer in waiting.answers:
                waiting.answers.remove(answer)
                if not waiting.answers:
                    self._waiting.remove(waiting)
                    self._opening.drop(waiting)
        for run in self._runs[:]:
            run.twins = [twin for twin in run.twins if twin[0] != answer]
            if run.answer == answer and run.twins:  # it reads for others: one of them takes its place
                run.answer, run.sampler = run.twins.pop(0)
            elif run.answer == answer:
                self._end(run)

    def close(self) -> None:
        """End everything; slots and pages go back, or to the prefix cache."""
        for waiting in self._waiting:
            self._opening.drop(waiting)
        self._waiting.clear()
        self._idle.close()
        for run in self._runs[:]:
            self._end(run)
        if self.cache.disk is not None:
            self.cache.disk.finish(FINISH_S)

    def _begin_slice(self) -> None:
        self.pass_began = None
        self._end_s = math.inf if self.slice_s is None else time.perf_counter() + self.slice_s

    def _admit(self) -> None:
        """Begin those that wait, by priority and in order, while there is place. Who is held, or coming from disk,
        keeps a place, so that those who came later do not take it."""
        coming, held = [waiting for waiting in self._waiting if waiting.coming is not None], list[Waiting]()
        for waiting in coming[:]:
            if self._begin(waiting):
                coming.remove(waiting)
            if time.perf_counter() >= self._end_s:
                break
        for waiting in [waiting for waiting in self._waiting if waiting.coming is None]:
            count, places = len(waiting.answers), coming + held
            others = self.running + sum(len(other.answers) for other in places)
            if others and others + count > self.width:
                return
            if is_held(self._opening, waiting, self._runs, coming):
                held.append(waiting)
                continue
            fits = self._opening.fits(waiting, self._opening.match(waiting), count, places)
            if others and not fits:
                return
            if not self._begin(waiting, fits):
                coming.append(waiting)

    def _begin(self, waiting: Waiting, fits: bool = True) -> bool:
        """Whether a request runs now; else it is coming from disk. After an error it waits no more."""
        try:
            if not fits:  # say why
                self.states.check(self._opening.tokens(waiting.request, waiting.ids), len(waiting.answers))
            half = (self.slice_s or 0.0) / 2  # is for prompts that are being read
            run = self._opening.advance(waiting, self._end_s - (0 if all(run.decodes for run in self._runs) else half))
        except BaseException:
            self._waiting.remove(waiting)
            raise
        if run is None:
            return False
        self._waiting.remove(waiting)
        self._runs.append(run)
        self._idle.watch(run)
        return True

    def _forward(self, parts: list[tuple[Run, Part]], rows: np.ndarray) -> np.ndarray:
        """A pass; what it computed goes to the prefix cache. A sequence that was in a pass that failed is nobody's."""
        self.pass_began = began = time.perf_counter()
        try:
            found = self.engine.forward([part for _, part in parts], rows)
        except BaseException:
            for run, _ in parts:
                run.sequence.keys = None
            raise
        seconds, self.pass_read = time.perf_counter() - began, sum(len(p.ids) for run, p in parts if not run.decodes)
        if self.pass_read >= LEAST_TOKENS:
            self.engine.pace.token_s = seconds / self.pass_read
        if not self.pass_read:
            self.engine.pace.see(sum(len(part.ids) for _, part in parts), seconds)
        for run, part in parts:
            run.pending = run.pending[len(part.ids) - part.tried :]
            self.cache.extend(run.sequence)
            while run.marks and run.marks[0].position <= run.sequence.length:
                mark = run.marks.popleft()
                kept = self.cache.snapshot(run.sequence, mark.kind)
                if run.answer >= 0 and mark.kind in KINDS:
                    self._to_disk(kept, run)
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

    def _parts(self) -> Iterator[tuple[Run, Part]]:
        """The next pass: a token of each answer, and as much of the prompts as it has room for."""
        shares = self._shares()
        for run in self._runs:
            count = len(run.pending) if run.decodes else run.until_mark(shares.get(run.answer, 0))
            if count:
                yield run, run.part(count)

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
        if self.slice_s is None or not self.engine.pace.token_s:
            return room
        left_s = max(0.0, self._end_s - time.perf_counter())
        return min(room, max(LEAST_TOKENS, int(left_s / self.engine.pace.token_s)))

    def _began(self, run: Run, row: np.ndarray) -> list[Token]:
        """The first token of a run and of its twins: their prompt is read."""
        reuse = run.reuse
        return [replace(self._chosen(each, row), reuse=reuse) for each in self._continue_all(run)]

    def _verified(self, run: Run, rows: np.ndarray) -> Iterator[Token]:
        """The next tokens of an answer: one, and one more for each draft that is what was chosen."""
        self.engine.tried += len(run.drafts)
        for i, row in enumerate(rows):
            token = self._chosen(run, row)
            yield token
            if token.last or i == len(run.drafts) or token.id != run.drafts[i]:
                return
            self.engine.accepted += 1
            self.states.accept(run.sequence)

    def _chosen(self, run: Run, row: np.ndarray) -> Token:
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

    def _continue_all(self, run: Run) -> list[Run]:
        """The prompt is read: its answers go on, each with a state of its own."""
        position = run.request.position
        if position is not None:
            run.sequence.rope_delta = int(position.max()) + 1 - run.sequence.length
        run.decodes = True
        self.states.reserve(run.sequence, run.sequence.length + run.left)
        place = self._runs.index(run) + 1
        for answer, sampler in run.twins:
            twin = Run(
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

    def _end(self, run: Run) -> None:
        """An answer has ended, and may be gone on with."""
        self._runs.remove(run)
        kept = self.cache.donate(run.sequence, "end")
        if not any(mark.kind == "turn" for mark in run.request.marks):
            self._to_disk(kept, run)

    def _to_disk(self, snapshot: Snapshot | None, run: Run) -> None:
        if self.cache.disk is not None:
            self.cache.disk.note(snapshot, run.came_from, run.sequence)

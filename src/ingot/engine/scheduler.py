"""Requests that run together: every step is one ragged pass, in which each running answer has its next tokens.

Whoever ends makes place for the next one that waits. Who runs beside whom changes time and memory, not one bit of an
answer (native op set). One thread owns a scheduler and its states.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.engine.logprobs import logprobs
from ingot.engine.request import Request, Token
from ingot.engine.sampler import Sampler, answer_seed
from ingot.engine.sequence import Sequence

if TYPE_CHECKING:
    from ingot.engine.engine import Engine

# Tokens a pass takes at most: it bounds the workspace, and a Ctrl-C waits no longer than one pass (taste; on
# 0.8B the activations of 256 tokens are 33 MB: `ingot.spec.cost.memory`).
STEP_TOKENS = 256
# The fewest tokens of prompts in a pass: fewer use the matrices' bytes badly (taste; one tile of AMX).
LEAST_TOKENS = 16


@dataclass(frozen=True)
class Part:
    """The next tokens of one sequence in a pass; `position` None: text's."""

    sequence: Sequence
    ids: np.ndarray
    position: np.ndarray | None = None
    visuals: Any = ()


@dataclass(eq=False)
class _Run:
    """An answer in the making: the ids its sequence has not taken yet, and the tokens it may still have. `twins` are
    answers to the same prompt, which wait to continue from copies of its state."""

    answer: int
    request: Request
    sequence: Sequence
    sampler: Sampler
    pending: np.ndarray
    left: int
    twins: list[_Run] = field(default_factory=list)
    decodes: bool = False


@dataclass(eq=False)
class _Waiting:
    """A request that has not begun, and those of its answers, the first of which had the number `first`, that are
    still wanted."""

    request: Request
    ids: np.ndarray
    first: int
    answers: list[int]


class Scheduler:
    """`width` answers run at most, fewer where memory holds no more; those to one prompt begin together.

    Prompts that are read at the same time share each pass evenly: a short one does not wait for the end of a long one.
    `slice_s`: about how many seconds a pass may take that reads while answers go on; None: as long as it takes.
    """

    def __init__(self, engine: Engine, width: int, slice_s: float | None = None) -> None:
        self.engine, self.states, self.width, self.slice_s = engine, engine.states, width, slice_s
        self._token_s = 0.0  # what a token of a prompt took last time
        self._waiting = deque[_Waiting]()
        self._runs: list[_Run] = []
        self._answers = 0

    @property
    def unfinished(self) -> bool:
        """Whether a step would bring tokens nearer."""
        return bool(self._runs or self._waiting)

    @property
    def running(self) -> int:
        """Answers that have begun and not ended."""
        return sum(1 + len(run.twins) for run in self._runs)

    def add(self, request: Request) -> range:
        """The numbers of the request's answers. It is checked here, and takes memory when it begins."""
        ids = self.engine.checked(request)
        self.states.check(self._tokens(request, ids), request.n)
        answers = range(self._answers, self._answers + request.n)
        self._answers += request.n
        self._waiting.append(_Waiting(request, ids, answers[0], list(answers)))
        return answers

    def step(self) -> list[Token]:
        """One pass: the next token of every answer whose prompt is read. None of them, while prompts are."""
        self._admit()
        parts = list(self._parts())
        if not parts:
            return []
        last = np.cumsum([len(part.ids) for _, part in parts]) - 1
        # a pass ends a prompt, or goes on with an answer, for those whose ids are all taken by it
        ready = [len(part.ids) == len(run.pending) for run, part in parts]
        began = time.perf_counter()
        rows = self.engine.forward([part for _, part in parts], last[ready])
        read = sum(len(part.ids) for run, part in parts if not run.decodes)
        if read >= LEAST_TOKENS:
            self._token_s = (time.perf_counter() - began) / read
        for run, part in parts:
            run.pending = run.pending[len(part.ids) :]
        runs = [run for (run, _), is_ready in zip(parts, ready, strict=True) if is_ready]
        return [token for run, row in zip(runs, rows, strict=True) for token in self._chosen(run, row)]

    def cancel(self, answer: int) -> None:
        """End an answer before its time; one that has ended already is left alone."""
        for waiting in self._waiting:
            if answer in waiting.answers:
                waiting.answers.remove(answer)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.answers)
        for run in self._runs[:]:
            for twin in [twin for twin in run.twins if twin.answer == answer]:
                run.twins.remove(twin)
                self.states.close(twin.sequence)
            if run.answer == answer and run.twins:  # it reads for others: one of them takes its place
                twin = run.twins.pop(0)
                run.answer, run.sampler = twin.answer, twin.sampler
                self.states.close(twin.sequence)
            elif run.answer == answer:
                self._end(run)

    def close(self) -> None:
        """End everything; slots and pages go back."""
        self._waiting.clear()
        for run in self._runs[:]:
            self._end(run)

    def _admit(self) -> None:
        """Open sequences, with all their pages, for those that wait, in order, while there is place."""
        while self._waiting:
            first = self._waiting[0]
            tokens, count = self._tokens(first.request, first.ids), len(first.answers)
            if self._runs and (self.running + count > self.width or not self.states.fits(tokens, count)):
                return
            self.states.check(tokens, count)
            self._waiting.popleft()
            self._begin(first, tokens)

    def _begin(self, waiting: _Waiting, tokens: int) -> None:
        request, ids = waiting.request, waiting.ids
        seed = request.sampling.seed
        seed = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed)
        for answer in waiting.answers:
            sampler = self._sampler(request, ids, answer_seed(seed, answer - waiting.first))
            run = _Run(answer, request, self.states.open(), sampler, ids, tokens - len(ids))
            (self._runs[-1].twins if answer != waiting.answers[0] else self._runs).append(run)
            # all pages at once: growing would copy them again and again, and memory is taken as they are written
            self.states.reserve(run.sequence, tokens)

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

    def _parts(self) -> Iterator[tuple[_Run, Part]]:
        """The next pass: a token of each answer, and as much of the prompts as it has room for."""
        shares = self._shares()
        for run in self._runs:
            if run.decodes:
                yield run, Part(run.sequence, run.pending)
            elif count := shares[run.answer]:
                begin = run.sequence.length
                position = run.request.position
                at = None if position is None else position[:, begin : begin + count]
                yield run, Part(run.sequence, run.pending[:count], at, run.request.visuals)

    def _shares(self) -> dict[int, int]:
        """Tokens that each prompt may read in the next pass: equal shares, and what a short one leaves to the others;
        of those that are alike the oldest has the odd token."""
        room = self._room()
        reading = sorted((run for run in self._runs if not run.decodes), key=lambda run: len(run.pending))
        shares = {}
        for left, run in zip(range(len(reading), 0, -1), reading, strict=True):
            shares[run.answer] = min(len(run.pending), -(-room // left))
            room -= shares[run.answer]
        return shares

    def _room(self) -> int:
        """Tokens of prompts that the next pass may take."""
        decoding = sum(run.decodes for run in self._runs)
        room = max(1, STEP_TOKENS - decoding)
        if self.slice_s is None or not decoding or not self._token_s:
            return room
        return min(room, max(LEAST_TOKENS, int(self.slice_s / self._token_s)))

    def _chosen(self, run: _Run, row: np.ndarray) -> Iterator[Token]:
        """The next token of a run and, at the end of their prompt, of its twins."""
        group = [run, *run.twins]
        if not run.decodes:
            self._continue_all(run)
        for each in group:
            token = each.sampler.sample(row)
            each.left -= 1
            last = token in each.request.stop_ids or each.left == 0
            told = self._logprobs(each.request, row, token)
            each.pending = np.array([token], np.int32)
            if last:
                self._end(each)
            yield Token(each.answer, token, last, *told)

    def _continue_all(self, run: _Run) -> None:
        """The prompt is read: its answers go on, each with a state of its own."""
        position = run.request.position
        if position is not None:
            run.sequence.rope_delta = int(position.max()) + 1 - run.sequence.length
        for twin in run.twins:
            self.states.copy(run.sequence, twin.sequence)
        place = self._runs.index(run) + 1
        self._runs[place:place] = run.twins
        for each in (run, *run.twins):
            each.decodes = True
        run.twins = []

    def _logprobs(self, request: Request, row: np.ndarray, token: int) -> tuple[Any, ...]:
        if request.logprobs is None:
            return ()
        return logprobs(self.engine.ops.rank, row[: self.engine.vocabulary], token, request.logprobs)

    def _end(self, run: _Run) -> None:
        self._runs.remove(run)
        for each in (run, *run.twins):
            self.states.close(each.sequence)

    def _tokens(self, request: Request, ids: np.ndarray) -> int:
        return min(len(ids) + request.max_tokens, self.engine.context)

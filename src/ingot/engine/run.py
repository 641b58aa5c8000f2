"""What a scheduler has in hand: answers in the making, and their parts of a pass."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.engine.prefix_cache import LEAST_TOKENS
from ingot.engine.prefix_tree import Snapshot
from ingot.engine.request import Mark, Request, Reuse
from ingot.engine.sampler import Sampler
from ingot.engine.sequence import Sequence
from ingot.engine.speculate import Drafter


@dataclass(frozen=True)
class Part:
    """The next tokens of one sequence in a pass; `position` None: text's. The last `tried` of them are not certain."""

    sequence: Sequence
    ids: np.ndarray
    position: np.ndarray | None = None
    visuals: Any = ()
    tried: int = 0


@dataclass(eq=False)
class Run:
    """An answer in the making: the ids its sequence has not taken yet, and the tokens it may still have. `twins` are
    answers to the same prompt, which wait to continue from its state. It `came_from` a snapshot, and at `marks` of its
    prompt others are kept. What it `said` so far foretells `drafts`, which are tried in the next pass."""

    answer: int
    request: Request
    sequence: Sequence
    sampler: Sampler | None
    pending: np.ndarray
    left: int
    twins: list[tuple[int, Sampler]] = field(default_factory=list)
    marks: deque[Mark] = field(default_factory=deque)
    reuse: Reuse | None = None
    came_from: Snapshot | None = None
    decodes: bool = False
    said: list[int] = field(default_factory=list)
    drafter: Drafter | None = None
    drafts: list[int] = field(default_factory=list)

    def until_mark(self, count: int) -> int:
        """So many of the tokens that it has not taken, or those up to the next mark: a state can be kept where a pass
        ends."""
        count = min(count, len(self.pending))
        return min(count, self.marks[0].position - self.sequence.length) if self.marks else count

    def keep_at(self, position: int) -> int:
        """Keep a snapshot after so many tokens of the prompt, which are not read yet, or a few less where one will be
        kept anyway: after how many."""
        for mark in self.marks:
            if position - LEAST_TOKENS < mark.position <= position:
                return mark.position
        self.marks.insert(sum(mark.position < position for mark in self.marks), Mark(position, "junction"))
        return position

    def part(self, count: int) -> Part:
        """Its next tokens: what was chosen last and the drafts, or `count` of its prompt."""
        if self.decodes:
            ids = np.concatenate([self.pending, np.array(self.drafts, np.int32)])
            return Part(self.sequence, ids, tried=len(self.drafts))
        begin, position = self.sequence.length, self.request.position
        at = None if position is None else position[:, begin : begin + count]
        return Part(self.sequence, self.pending[:count], at, self.request.visuals)

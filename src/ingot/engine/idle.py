"""What is done while nobody waits: prompts are read for the prefix cache, and some of what it gave is read again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ingot.engine.opening import Opening, Waiting
from ingot.engine.prefix_tree import Snapshot
from ingot.engine.run import Part, Run

MOST = 8  # prompts that wait to be read; the oldest is dropped (taste)


class IdleReader:
    """Reads with `forward`, a scheduler's pass. `canary`: of how many of the prompts that go on from a snapshot it is
    computed again and compared."""

    def __init__(
        self, opening: Opening, forward: Callable[[list[tuple[Run, Part]], np.ndarray], Any], canary: float
    ) -> None:
        self._opening, self._forward, self._canary = opening, forward, canary
        self._cache = opening.cache
        self._prompts = deque[Waiting]()
        self._now: tuple[Waiting, Run] | None = None

    @property
    def has_work(self) -> bool:
        """Whether a prompt waits or is being read."""
        return bool(self._prompts or self._now)

    @property
    def run(self) -> Run | None:
        """What is being read; it has memory."""
        return self._now and self._now[1]

    def add(self, waiting: Waiting) -> None:
        """Read a prompt. Of many, the oldest is dropped."""
        self._prompts.append(waiting)
        while len(self._prompts) > MOST:
            self._opening.drop(self._prompts.popleft())

    def watch(self, run: Run) -> None:
        """Now and then, have computed again what a run was given by the cache."""
        if run.came_from is None or random.random() >= self._canary:
            return
        assert run.sequence.keys is not None
        request, length = run.request, run.sequence.length
        ids, keys = np.array(request.ids[:length], np.int32), run.sequence.keys[:length]
        position = None if request.position is None else request.position[:, :length]
        again = replace(request, ids=ids, position=position, cache=False)
        self.add(Waiting(again, ids, keys, canary=run.came_from))

    def step(self, most: Callable[[], int], end: float) -> None:
        """What the disk has of a prompt, up to the time `end`, and one pass over `most()` of its tokens."""
        self._now = self._now or self._next(end)
        if self._now is None:
            return
        waiting, run = self._now
        try:
            self._forward([(run, run.part(run.until_mark(most())))], np.zeros(0, np.int64))
        except BaseException:
            self._now = None
            self._cache.leave(run.sequence)
            raise
        if not len(run.pending):
            self._now = None
            if waiting.canary is not None:
                self._cache.compare(run.sequence, waiting.canary)
            self._to_disk(self._cache.donate(run.sequence, "turn"), run)

    def pause(self) -> Snapshot | None:
        """Give back the memory of the prompt that is being read, if one is. It goes back to those that wait; what it
        has read stays in the prefix cache, as the snapshot that is returned. One of which not all has come from disk
        is left: who asks for it has it read from there."""
        if self._prompts and self._prompts[0].coming is not None:
            self._opening.drop(self._prompts.popleft())
        if self._now is None:
            return None
        (waiting, run), self._now = self._now, None
        self._prompts.appendleft(waiting)
        return self._cache.donate(run.sequence, "end")

    def close(self) -> None:
        """Forget everything; after a restart the next turn goes on from what was read of it."""
        run, kept = self.run, self.pause()
        if run is not None:
            self._to_disk(kept, run)
        self._prompts.clear()

    def _to_disk(self, kept: Snapshot | None, run: Run) -> None:
        if self._cache.disk is not None:
            self._cache.disk.note(kept, run.came_from, ahead=True)

    def _next(self, end: float) -> tuple[Waiting, Run] | None:
        """The next prompt that is not read already, and for which there is room; None also if it has not all come from
        disk at the time `end`."""
        while self._prompts:
            waiting = self._prompts.popleft()
            match = self._opening.match(waiting)
            if waiting.coming or (len(waiting.ids) - match.cached > 1 and self._opening.fits(waiting, match, 1)):
                run = self._opening.advance(waiting, end)
                if run is not None:
                    return waiting, run
                self._prompts.appendleft(waiting)
                return None
        return None

"""The schedules of the prefix cache with a disk below it, in random order: restarts, damage, files that vanish, and a
disk that takes nothing. Answers are those of an engine that has seen nothing."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.engine.disk import Disk
from ingot.engine.patience import PATIENCE_S
from ingot.engine.scheduler import Scheduler
from ingot.store.journal import Journal
from ingot.store.record_folder import survey
from tests.engine import test_prefix_cache as ram
from tests.engine.accounts import check_accounts

LENGTHS = [20, 64, 100, 101, 128, 191, 193, 330, 600]
MARKS = [1, 17, 64, 80, 128, 190, 256, 299]


class Processes(ram.Schedules):
    """One process after another, each with what is on disk."""

    def __init__(self, place: Path, seed: int) -> None:
        super().__init__()
        self.place, self.draw, self.seen, self.now = place, random.Random(seed), Counter[str](), 0.0
        self.start()

    def start(self) -> None:
        drafts = self.draw.choice(["off", "lookup"])
        snapshots, width = self.draw.choice([1, 2, 5, 40]), self.draw.randint(1, 4)
        self.engine = ram.engine(self.draw.randint(1, 2), snapshots, speculate=drafts)
        self.engine.cache.clock = lambda: self.now
        pages = self.draw.choice([None, None, 13, 20, 30])
        if pages is not None:  # as a server does
            self.engine.states.prepare(max(width, 3) + snapshots, pages)
            self.engine.cache.budget += pages * self.engine.states.page_bytes
        self.journal = Journal(self.place, "one", bytes(32), size=1 << 30)
        assert self.journal.flush(100)
        self.read, self.journal.read = self.journal.read, self.read_somehow  # type: ignore[method-assign]
        self.engine.cache.disk = Disk(self.engine.cache, self.journal, least=0)
        slice_s = self.draw.choice([None, 0.0, 0.0])  # 0: a record at each step
        self.scheduler = Scheduler(self.engine, width, slice_s, canary=0.2)
        self.asked, self.told, self.said = {}, defaultdict(list), [np.zeros(0, np.int64)]

    def read_somehow(self, record: Any, rows: list[np.ndarray]) -> bool:
        """A reading that fails when it has overwritten all, or meanwhile memory is needed."""
        what = self.draw.choices(["read", "wrong", "error", "evict", "clear"], [90, 4, 2, 6, 1])[0]
        self.seen[what] += 1
        if what == "evict":
            self.engine.cache.evict()
        if what == "clear":
            self.engine.cache.clear()
        if what in ("wrong", "error"):
            for row in rows:
                row[...] = 7
        if what == "error":
            raise RuntimeError
        return what != "wrong" and self.read(record, rows)

    def restart(self) -> None:
        for number in self.asked:
            self.check(number, whole=False)
        self.scheduler.close()
        check_accounts(self.engine)
        assert self.journal.flush(100)
        assert self.engine.cache.mismatches == 0
        self.seen += Counter(hits=self.engine.cache.disk.hits, damaged=self.journal.counts.damaged, restarts=1)
        self.journal.close()
        self.start()

    def damage(self) -> None:
        for file in survey(self.place):
            data = bytearray(file.path.read_bytes())
            for at in self.draw.sample(range(len(data)), 20):
                data[at] ^= 1 << self.draw.randrange(8)
            file.path.write_bytes(data)

    def remove(self) -> None:
        for file in survey(self.place):
            file.path.unlink()

    def later(self) -> None:
        self.now += self.draw.choice([1.0, 10.0, PATIENCE_S, 4000.0])

    def kill(self) -> None:
        """Without a word: what waits is lost."""
        self.engine.cache.disk.finish = lambda timeout: None
        self.restart()

    def stall(self) -> None:
        self.journal._queue_bytes = self.draw.choice([1, 1 << 20])

    def ask_something(self) -> None:
        draw = self.draw
        length, marks = draw.choice(LENGTHS), draw.sample(MARKS, draw.randint(0, 3))
        how = {"priority": draw.randint(0, 2), "salt": draw.choice(["", "", "", "other"])}
        tokens, n = draw.choice([1, 5, 70]), draw.choice([1, 1, 1, 3])
        self.ask(draw.randint(0, 2), length, draw.randint(0, 50), marks, tokens, n, draw.choice([0, 0, 0, 1]), **how)

    def act(self) -> None:
        draw = self.draw
        actions = {
            self.ask_something: 10,
            lambda: self.step(1): 20,
            lambda: self.step(draw.randint(2, 30)): 15,
            lambda: self.ask_idly(draw.choice([90, 150, 400])): 1,
            lambda: self.step_idly(3): 2,
            lambda: self.cancel(draw.randint(0, 20)): 2,
            lambda: self.forget(draw.randint(1, 3)): 2,
            self.forget_all: 1,
            self.fail: 1,
            self.restart: 3,
            self.kill: 1,
            self.later: 4,
            self.damage: 0.7,
            self.remove: 0.3,
            self.stall: 1,
        }
        waiting = [*self.scheduler._waiting, *self.scheduler._idle._prompts]
        self.seen["coming"] += any(each.coming is not None for each in waiting)
        draw.choices(list(actions), list(actions.values()))[0]()
        check_accounts(self.engine, self.scheduler)


def run(place: Path, seed: int, actions: int) -> Counter[str]:
    processes = Processes(place, seed)
    for _ in range(actions):
        processes.act()
    processes.step(400)
    processes.restart()
    processes.journal.close()
    return processes.seen


def test_answers_are_those_of_an_engine_that_has_seen_nothing(tmp_path: Path) -> None:
    seen = run(tmp_path, 17, 400)
    assert min(seen[it] for it in ("hits", "damaged", "restarts", "coming")) > 2, f"{seen}: nothing is shown by this"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_for_longer(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed + 10, 500)

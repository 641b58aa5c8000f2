"""Cached == uncached, to the bit, whatever is shared, kept, forgotten and cut off in between."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ingot.engine import Engine, Mark, Request, SamplingParams
from ingot.engine.scheduler import Scheduler
from ingot.engine.sequence import pages_of
from ingot.model import build
from ingot.spec.cost import state_bytes
from tests.engine.accounts import check_accounts, poison
from tests.model.small import small_config, weights

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

CONFIG = small_config()
VOCABULARY = CONFIG.text.vocab_size
STATE = state_bytes(CONFIG)
OPS = {threads: native.OpSet(threads=threads) for threads in (1, 2)}
ROOTS = {threads: build(CONFIG, ops, weights(), "q8") for threads, ops in OPS.items()}
STREAM = np.random.default_rng(1).integers(0, VOCABULARY, 700)
# Three that part in the middle of a page, and at its end.
STREAMS = [STREAM, np.r_[STREAM[:100], STREAM[::-1]], np.r_[STREAM[:192], STREAM[50:]]]


def engine(threads: int = 2, states: int = 20, **changes: Any) -> Engine:
    made = Engine(ROOTS[threads], OPS[threads], CONFIG, kv="bf16", cache_bytes=states * STATE, **changes)
    poison(made)
    return made


SAMPLING = SamplingParams(temperature=1.0, seed=3)
LOOPING = replace(SAMPLING, logit_bias={7: 9.0, 50: 8.0})  # what is said was said before: drafts are right and wrong


def asked(ids: Any, **changes: Any) -> Request:
    settings = {"sampling": SAMPLING, "max_tokens": 4, "logprobs": 2}
    return Request(np.asarray(ids), **{**settings, **changes})


def answers(scheduler: Scheduler) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = defaultdict(list)
    while scheduler.unfinished:
        for token in scheduler.step():
            found[token.answer].append(token)
    return found


def told(tokens: list[Any]) -> list[Any]:
    return [(token.id, token.logprob, token.top) for token in tokens]


def one(made: Engine, request: Request) -> list[Any]:
    scheduler = Scheduler(made, 4)
    scheduler.add(request)
    (tokens,) = answers(scheduler).values()
    check_accounts(made)
    return tokens


COLD: dict[Any, list[Any]] = {}


def cold(request: Request, index: int = 0) -> list[Any]:
    """What the request gets from an engine that has seen nothing."""
    sampling = replace(request.sampling, seed=request.sampling.seed + index)
    position = None if request.position is None else request.position.tobytes()
    key = (bytes(request.ids), position, sampling.seed, len(sampling.logit_bias), request.max_tokens)
    if key not in COLD:
        COLD[key] = told(one(engine(states=0), replace(request, n=1, sampling=sampling)))
    return COLD[key]


class Schedules(RuleBasedStateMachine):
    """Requests that share prefixes come, branch, are cancelled, and their states are forgotten, in any order."""

    held: ClassVar[set[Any]] = set()  # who waited for another's prompt

    @initialize(
        threads=st.sampled_from([1, 2]),
        states=st.sampled_from([1, 2, 5, 40]),
        width=st.integers(1, 4),
        pages=st.sampled_from([None, 13, 20]),
        speculate=st.sampled_from(["off", "lookup", "auto"]),
    )
    def begin(self, threads: int, states: int, width: int, pages: int | None, speculate: str) -> None:
        self.engine = engine(threads, states, speculate=speculate)
        if pages is not None:
            self.engine.states.prepare(max(width, 3) + states, pages)
            self.engine.cache.budget += pages * self.engine.states.page_bytes
        self.scheduler = Scheduler(self.engine, width)
        self.asked: dict[int, tuple[Request, int]] = {}
        self.told: dict[int, list[Any]] = defaultdict(list)
        self.said = [np.zeros(0, np.int64)]  # answers, for those who go on from them

    @rule(
        stream=st.integers(0, 2),
        length=st.sampled_from([1, 20, 64, 99, 100, 101, 128, 191, 192, 193, 330, 600]),
        said=st.integers(0, 50),
        marks=st.lists(st.sampled_from([1, 17, 64, 80, 128, 190, 256, 299]), max_size=3),
        tokens=st.sampled_from([1, 5, 70]),
        n=st.sampled_from([1, 1, 1, 3]),
        shift=st.sampled_from([0, 0, 0, 1]),
        priority=st.integers(0, 2),
        salt=st.sampled_from(["", "", "other"]),
        sampling=st.sampled_from([SAMPLING, LOOPING]),
    )
    def ask(self, stream: int, length: int, said: int, marks: Any, tokens: int, n: int, shift: int, **how: Any) -> None:
        ids = np.r_[STREAMS[stream][:length], self.said[said % len(self.said)]]
        position = np.tile(np.arange(len(ids), dtype=np.int32), (3, 1))
        position[:, len(ids) // 2 :] -= min(shift, len(ids) // 2)  # as after pictures
        places = tuple(Mark(place, "turn") for place in marks if place <= len(ids))
        self.add(asked(ids, position=position, max_tokens=tokens, n=n, marks=places, **how))

    @rule(
        stream=st.integers(0, 2),
        shared=st.sampled_from([65, 80, 128, 200, 290]),
        tails=st.lists(st.integers(0, 5), min_size=2, max_size=4),
        n=st.sampled_from([1, 1, 2]),
        priorities=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    )
    def ask_alike(self, stream: int, shared: int, tails: list[int], n: int, priorities: list[int]) -> None:
        """Some come at once that begin alike, and of those some share more."""
        for tail, priority in zip(tails, priorities, strict=False):
            ids = np.r_[STREAMS[stream][:shared], STREAM[500 : 500 + 75 * (tail % 3)], STREAM[: 20 * tail + 1]]
            self.add(asked(ids, n=n, priority=priority))

    def add(self, request: Request) -> None:
        if pages_of(len(request.ids) + request.max_tokens) * request.n <= (self.engine.states.most_pages or 100):
            for index, number in enumerate(self.scheduler.add(request)):
                self.asked[number] = request, index

    @rule(length=st.sampled_from([90, 150, 400]))
    def ask_idly(self, length: int) -> None:
        self.scheduler.add_idle(asked(STREAMS[1][:length]))

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            tokens = self.scheduler.step()
            Schedules.held |= {(id(self), waiting.first) for waiting in self.scheduler.held}
            for token in tokens:
                self.told[token.answer].append((token.id, token.logprob, token.top))
                if token.last:
                    self.check(token.answer, whole=True)

    @rule(steps=st.integers(1, 3))
    def step_idly(self, steps: int) -> None:
        for _ in range(steps):
            if not self.scheduler.unfinished:
                self.scheduler.idle_step()

    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        if self.asked:
            self.scheduler.cancel(which % len(self.asked))

    @rule(times=st.integers(1, 3))
    def forget(self, times: int) -> None:
        for _ in range(times):
            self.engine.cache.evict()

    @rule()
    def forget_all(self) -> None:
        self.engine.cache.clear()

    @rule()
    def fail(self) -> None:
        """A pass breaks off in the middle; those who were in it are ended, as the server does."""
        root = self.engine.root

        def broken(*args: Any, **named: Any) -> Any:
            self.engine.root = root
            root(*args, **named)
            raise RuntimeError("in the middle")

        self.engine.root = broken
        try:
            self.scheduler.step()
        except RuntimeError:
            unharmed = self.scheduler.unharmed
            for number in self.asked:
                if number not in unharmed:
                    self.scheduler.cancel(number)
        self.engine.root = root

    def check(self, number: int, whole: bool) -> None:
        request, index = self.asked[number]
        got, want = self.told[number], cold(request, index)
        assert got == (want if whole else want[: len(got)])
        self.said.append(np.array([token for token, _, _ in got]))

    @invariant()
    def accounts(self) -> None:
        if hasattr(self, "engine"):
            check_accounts(self.engine, self.scheduler)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(100):
            self.step(60 if self.scheduler.unfinished else 0)
        assert not self.scheduler.unfinished  # nobody waits for ever
        for number in self.asked:
            self.check(number, whole=False)
        self.scheduler.close()
        check_accounts(self.engine)
        self.engine.cache.clear()
        check_accounts(self.engine)
        states = self.engine.states
        assert states._slots.taken == states._pages.taken == states._windows.taken == 0


def test_schedules() -> None:
    run_state_machine_as_test(Schedules, settings=settings(max_examples=50, stateful_step_count=20))
    assert len(Schedules.held) > 10


def test_a_page_that_only_a_snapshot_has_counts_at_once() -> None:
    """Two read the same at the same time: the second one's page gives way to the first one's when it is full."""
    made = engine(states=2)
    scheduler = Scheduler(made, 2)
    for position in (80, 97):
        scheduler.add(asked(STREAM[:200], marks=(Mark(position, "turn"),)))
    while scheduler.unfinished:
        scheduler.step()
        check_accounts(made, scheduler)


def test_a_prompt_that_waits_is_looked_up_once(monkeypatch):
    """However often one asks for room; and again when the cache has changed."""
    made = engine()
    one(made, asked(STREAM[:100], marks=(Mark(80, "turn"),)))
    scheduler, looked, match = Scheduler(made, 1), [], made.cache.match
    monkeypatch.setattr(made.cache, "match", lambda *args: looked.append(1) or match(*args))
    waiting = scheduler.checked(asked(STREAM[:200]))
    assert [scheduler.has_room(waiting) for _ in range(3)] == [True] * 3
    assert scheduler.known(waiting) == 80
    assert len(looked) == 1
    made.cache.clear()
    assert scheduler.known(waiting) == 0
    scheduler.add(waiting)
    assert told(next(iter(answers(scheduler).values()))) == cold(waiting.request)
    assert len(looked) == 2


def test_what_is_read_idly_is_in_nobodys_way():
    """A request for which there is room only without it has room."""
    made = engine(states=8)
    made.states.prepare(1 + 8, pages_of(700) + 1)
    scheduler = Scheduler(made, 1)
    scheduler.add_idle(asked(STREAM))
    scheduler.idle_step()
    request = asked(STREAMS[2][:600])
    assert made.states.tokens_held > 0
    assert scheduler.has_room(scheduler.checked(request))
    scheduler.add(request)
    assert told(next(iter(answers(scheduler).values()))) == cold(request)
    check_accounts(made)


def test_a_page_that_is_copied_while_what_it_led_to_is_forgotten():
    """The last page of a snapshot may be a node's, too: it leads nowhere when all behind it went to make room."""
    made = engine(1, 5)
    made.states.prepare(3 + 5, 13)
    made.cache.budget += 13 * made.states.page_bytes
    scheduler = Scheduler(made, 1)
    for shared, tails in ((200, [0, 1]), (290, [5, 3, 0])):
        for tail in tails:
            scheduler.add(asked(np.r_[STREAM[:shared], STREAM[500 : 500 + 75 * (tail % 3)], STREAM[: 20 * tail + 1]]))
        while scheduler.unfinished:
            scheduler.step()
            check_accounts(made, scheduler)

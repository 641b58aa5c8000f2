"""Prompts that begin alike and come together are read once, and nobody waits for one that reads no more."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from ingot.engine import Mark
from ingot.engine.prefix_cache import LEAST_TOKENS
from ingot.engine.scheduler import STEP_TOKENS, Scheduler
from tests.engine.accounts import check_accounts, held
from tests.engine.test_prefix_cache import STREAM, VOCABULARY, asked, cold, engine, told

SHARED = 2 * STEP_TOKENS + 88


def prompt(seed, own, shared=SHARED):
    """A prompt of its own behind the first tokens that all have."""
    return np.r_[STREAM[:shared], np.random.default_rng(seed).integers(0, VOCABULARY, own)]


class Watched:
    """A scheduler, what it told, and how many tokens of prompts it computed."""

    def __init__(self, made, width):
        self.engine, self.scheduler = made, Scheduler(made, width)
        self.asked, self.found, self.computed, self.cached = {}, defaultdict(list), 0, {}
        self.begins, self.steps, forward = {}, 0, made.forward

        def counted(parts, rows=None):
            reading = [run for run in self.scheduler._runs if not run.decodes]
            sequences = [run.sequence for run in reading]
            self.computed += sum(len(part.ids) for part in parts if part.sequence in sequences)
            for run in self.scheduler._runs:
                self.begins.setdefault(run.answer, self.steps)
            return forward(parts, rows)

        made.forward = counted

    def add(self, *requests):
        for request in requests:
            for index, answer in enumerate(self.scheduler.add(request)):
                self.asked[answer] = request, index

    def step(self):
        self.steps += 1
        for token in self.scheduler.step():
            self.found[token.answer].append(token)
            if token.reuse:
                self.cached[token.answer] = token.reuse.cached
        check_accounts(self.engine, self.scheduler)

    def drain(self, *without):
        """Until all have ended, each with what it gets alone."""
        while self.scheduler.unfinished:
            self.step()
            assert self.steps < 500
        assert held(self.scheduler) == set()
        for answer, (request, index) in self.asked.items():
            if answer not in without:
                assert told(self.found[answer]) == cold(request, index)


def four(**changes):
    return [asked(prompt(i, 20 + 9 * i), **changes) for i in range(4)]


@pytest.mark.parametrize("n", [1, 2])
def test_four_that_begin_alike_are_read_once(n):
    watched = Watched(engine(), 8)
    watched.add(*four(n=n))
    watched.step()
    assert watched.scheduler.running == n
    assert len(held(watched.scheduler)) == 3 * n
    watched.drain()
    assert watched.computed == SHARED + sum(20 + 9 * i for i in range(4))
    assert list(watched.cached.values()) == [0] * n + [SHARED] * 3 * n
    assert [watched.begins[n * i] for i in range(4)] == [1, 4, 4, 4]


def test_the_same_prompt_four_times_is_read_once():
    """But for the last token, from which each has its logits."""
    watched = Watched(engine(), 4)
    watched.add(*[asked(STREAM[:SHARED])] * 4)
    watched.drain()
    assert watched.computed == SHARED + 3


def test_a_place_where_a_snapshot_is_kept_anyway_will_do():
    """A pass is not cut for the few tokens between."""
    near = SHARED - LEAST_TOKENS + 1
    watched = Watched(engine(), 4)
    watched.add(asked(prompt(0, 30), marks=(Mark(near, "turn"),)), asked(prompt(1, 40)))
    watched.drain()
    assert watched.cached == {0: 0, 1: near}


def test_one_that_comes_later_is_held_if_the_place_is_ahead():
    for steps, cached in ((2, SHARED), (3, 0)):
        watched = Watched(engine(), 4)
        first, second = four()[:2]
        watched.add(first)
        for _ in range(steps):
            watched.step()
        watched.add(second)
        watched.drain()
        assert watched.cached[1] == cached


def test_a_chain_is_read_once():
    """The second parts from the first late; the third parts from it early, and later from the second."""
    early, late = 300, SHARED
    a = prompt(0, 50, late)
    b = np.r_[a[:late], STREAM[100:250]]
    c = np.r_[a[:early], STREAM[::-1][:350]]
    d = np.r_[c[:-60], STREAM[:40]]
    watched = Watched(engine(), 4)
    watched.add(asked(a), asked(b), asked(c), asked(d))
    watched.drain()
    assert watched.cached == {0: 0, 1: late, 2: early, 3: len(c) - 60}
    assert watched.computed == len(a) + 150 + 350 + 40


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_who_is_held_goes_on_when_the_reader_is_cancelled(steps):
    """What was read is not read again."""
    watched = Watched(engine(), 4)
    watched.add(*four())
    for _ in range(steps):
        watched.step()
    watched.scheduler.cancel(0)
    watched.drain(0)
    assert watched.computed <= SHARED + sum(20 + 9 * i for i in range(4))


def test_who_is_held_goes_on_when_a_pass_fails():
    watched = Watched(engine(), 4)
    watched.add(*four())
    watched.step()
    root = watched.engine.root

    def broken(*args, **named):
        watched.engine.root = root
        raise RuntimeError("in the middle")

    watched.engine.root = broken
    with pytest.raises(RuntimeError):
        watched.step()
    assert held(watched.scheduler) == {1, 2, 3}
    watched.scheduler.cancel(0)
    watched.drain(0)


@pytest.mark.parametrize("forgets", [1, 2, 3])
def test_a_snapshot_that_is_lost_before_it_is_used(forgets):
    """Those who were held read for themselves, or are held by one another."""
    watched = Watched(engine(), 4)
    watched.add(*four())
    while watched.scheduler.unfinished:
        watched.step()
        if watched.steps <= 3 * forgets:
            watched.engine.cache.clear()
    watched.drain()
    assert watched.steps < 30


def test_others_begin_meanwhile_but_not_in_the_place_of_one_that_is_held():
    other = asked(np.random.default_rng(7).integers(0, VOCABULARY, 90))
    for width, begins in ((3, 1), (2, None)):
        watched = Watched(engine(), width)
        watched.add(*four()[:2], other)
        watched.step()
        assert watched.begins.get(2) == begins
        watched.drain()
        assert watched.begins[1] == 4  # as soon as the first has read what they share
        assert watched.begins[2] == begins or watched.begins[2] > watched.begins[1]


def test_room_is_kept_for_one_that_is_held():
    """Neither another that waits nor a server's next ticket is told that it is free."""
    made = engine(states=4)
    made.states.prepare(4 + 4, 12 + 3)
    watched = Watched(made, 4)
    watched.add(*four()[:2])
    watched.step()
    assert held(watched.scheduler) == {1}
    small, large = (asked(np.arange(length) % VOCABULARY, max_tokens=1) for length in (250, 260))
    assert watched.scheduler.has_room(watched.scheduler.checked(small))
    assert not watched.scheduler.has_room(watched.scheduler.checked(large))
    watched.add(large)
    watched.drain()
    assert 4 < watched.begins[1] <= watched.begins[2]


@pytest.mark.parametrize(
    ("first", "second", "made"),
    [
        ({"salt": "mine"}, {}, {}),
        ({"cache": False}, {}, {}),
        ({}, {"cache": False}, {}),
        ({"priority": 1}, {"priority": 0}, {}),
        ({}, {}, {"states": 0}),
    ],
)
def test_who_shares_nothing_or_should_be_faster_is_not_held(first, second, made):
    watched = Watched(engine(**made), 4)
    watched.add(asked(prompt(0, 20), **first))
    watched.step()
    watched.add(asked(prompt(1, 30), **second))
    watched.step()
    assert watched.scheduler.running == 2
    watched.drain()


def test_few_tokens_are_not_waited_for():
    for shared, running in ((63, 2), (64, 1)):
        watched = Watched(engine(), 4)
        watched.add(asked(prompt(0, 300, shared)), asked(prompt(1, 300, shared)))
        watched.step()
        assert (watched.scheduler.running, len(held(watched.scheduler))) == (running, 2 - running)
        watched.drain()

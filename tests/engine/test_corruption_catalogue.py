"""How other engines' caches for hybrid models went wrong in silence, each as a test of ours.

Every case asks as a user would and compares bits with an engine that has seen nothing; what is given back is poisoned.
Random orders of all of it are in `test_prefix_cache.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from ingot.engine import Engine, Mark, SamplingParams
from ingot.engine.scheduler import Scheduler
from ingot.ops import PAGE
from tests.engine.accounts import check_accounts, poison
from tests.engine.test_prefix_cache import (
    CONFIG,
    OPS,
    ROOTS,
    STREAM,
    VOCABULARY,
    answers,
    asked,
    cold,
    engine,
    one,
    told,
)


def continued(made, ids, marks=(), **changes):
    """The request's tokens, which are those of a cold engine, and how many of its prompt came from the cache."""
    request = asked(ids, marks=tuple(Mark(place, "turn") for place in marks), **changes)
    tokens = one(made, request)
    assert told(tokens) == cold(request)
    return tokens, tokens[0].reuse.cached


@pytest.mark.parametrize("place", [1, 63, 64, 65, 128, 150, 199])
def test_a_hit_that_skips_tokens_has_their_state(place):
    """MAX #6681: the prefix hit skipped tokens, and the recurrent state was not restored."""
    made = engine()
    continued(made, STREAM[:200], [place])
    assert continued(made, np.r_[STREAM[:place], STREAM[300:350]])[1] == (place if place > 1 else 1)


def test_state_and_pages_come_from_one_verb():
    """LMCache #2845, #4247: keys and values were there, the state was missing. A snapshot has both, and a sequence that
    was given one has both."""
    made = engine()
    continued(made, STREAM[:200], [150])
    states, cache = made.states, made.cache
    (snapshot,) = [found for found in cache.snapshots if found.position == 150]
    sequence = states.open()
    cache.restore(sequence, snapshot)
    assert sequence.length == 150
    assert len(sequence.pages) == 3
    assert all(states.ops.same_row(array, sequence.slot, snapshot.slot) for array in states.slot_arrays())
    for mine, kept in zip(sequence.pages, snapshot.pages, strict=True):
        assert all(states.ops.same_row(array, int(mine), kept) for array in states.page_arrays())
    cache.leave(sequence)
    check_accounts(made)


def test_pages_without_a_state_are_no_hit():
    """LMCache #2863: what no snapshot covers is read again, however many of its pages are known."""
    made = engine()
    continued(made, STREAM[:300])
    tokens, cached = continued(made, np.r_[STREAM[:290], STREAM[100:120]])
    assert cached == 0
    assert tokens[0].reuse.matched == 290
    assert continued(made, np.r_[STREAM[:290], STREAM[130:150]])[1] == 290  # the junction was kept


def test_forgotten_and_read_again():
    """SGLang #39830: what came back from another tier was fluent and wrong."""
    made = engine()
    for _ in range(3):
        continued(made, STREAM[:200], [150])
        continued(made, np.r_[STREAM[:150], STREAM[:30]], [170])
        made.cache.evict()
        made.cache.evict()
    made.cache.clear()
    assert continued(made, STREAM[:200])[1] == 0


def test_a_state_that_was_given_to_the_cache_is_nobody_elses():
    """FreeToken #287: the slot of a snapshot was still used by a request in flight, and a tenth came out wrong under
    load."""
    made = engine(states=3)
    scheduler = Scheduler(made, 4)
    requests = [
        asked(np.r_[STREAM[: 100 + i % 3], [i]], max_tokens=3 + i % 7, sampling=SamplingParams(temperature=1.0, seed=i))
        for i in range(24)
    ]
    for request in requests:
        scheduler.add(request)
    got = answers(scheduler)
    for number, request in enumerate(requests):
        assert told(got[number]) == cold(request)
    check_accounts(made, scheduler)


def test_a_snapshot_is_of_its_position():
    """lucebox #216: the restored snapshot had the previous completion in it."""
    made = engine()
    first, _ = continued(made, STREAM[:150], [140], max_tokens=20)
    assert {found.position for found in made.cache.snapshots} == {140, 150 + 19}
    answer = [token.id for token in first]
    assert continued(made, np.r_[STREAM[:150], answer[:5], STREAM[:9]])[1] == 140
    assert continued(made, np.r_[STREAM[:150], answer, STREAM[:9]])[1] == 150 + 19


@pytest.mark.parametrize("kv", ["f32", "bf16", "q8"])
def test_copies_are_whole(kv):
    """llama.cpp #21681: a copy counted bytes as elements. Every array of a page and of a state is filled, copied and
    compared, and its neighbours stay as they were."""
    states = Engine(ROOTS[2], OPS[2], CONFIG, kv=kv).states
    states._grow(3, 3)
    generator = np.random.default_rng(0)
    for array in (*states.slot_arrays(), *states.page_arrays()):
        array[:] = generator.integers(0, 255, array.shape)
    before = [array.copy() for array in (*states.slot_arrays(), *states.page_arrays())]
    states.copy_slot(0, 2)
    states.copy_page(0, 2)
    for array, old in zip((*states.slot_arrays(), *states.page_arrays()), before, strict=True):
        assert (array[2] == old[0]).all()
        assert (array[:2] == old[:2]).all()


def test_a_thousand_snapshots_leave_nothing_behind():
    """A llama.cpp fork, #17: each checkpoint leaked a cell, and after 350 requests it aborted."""
    made = engine(states=6)
    generator = np.random.default_rng(5)
    scheduler = Scheduler(made, 2)
    for i in range(400):
        length = int(generator.integers(2, 3 * PAGE))
        marks = tuple(Mark(int(place), "turn") for place in generator.integers(1, length + 1, 2))
        scheduler.add(asked(np.r_[STREAM[:length], [i % VOCABULARY]], marks=marks, max_tokens=2))
        scheduler.step()
    answers(scheduler)
    check_accounts(made, scheduler)
    made.cache.clear()
    assert made.states._pages.taken == made.states._slots.taken == 0
    assert made.states.pools.pages <= 40


def test_a_second_request_in_the_middle_of_a_first():
    """omlx #3222: a request that began while another was generating corrupted what both had."""
    made = engine()
    scheduler = Scheduler(made, 4)
    first = asked(STREAM[:150], max_tokens=60, marks=(Mark(100, "turn"), Mark(150, "turn")))
    second = asked(np.r_[STREAM[:150], STREAM[20:60]], max_tokens=60)
    third = asked(np.r_[STREAM[:100], STREAM[20:60]], max_tokens=60)
    got = {}
    for request in (first, second, third):
        scheduler.add(request)
        for _ in range(9):
            for token in scheduler.step():
                got.setdefault(token.answer, []).append(token)
            check_accounts(made, scheduler)
    for number, tokens in answers(scheduler).items():
        got[number] += tokens
    assert [told(got[number]) for number in range(3)] == [cold(first), cold(second), cold(third)]
    assert got[1][0].reuse.cached == 150
    assert got[2][0].reuse.cached == 100


def test_a_canary_finds_a_state_that_changed(caplog):
    """What nobody would notice otherwise: a flipped bit in a snapshot is found, counted, and everything forgotten."""
    made = engine()
    scheduler = Scheduler(made, 1, canary=1.0)

    def go_on():
        scheduler.add(asked(np.r_[STREAM[:150], STREAM[:20]]))
        answers(scheduler)
        while scheduler.has_idle_work:
            scheduler.idle_step()
        return made.cache.compared, made.cache.mismatches

    continued(made, STREAM[:200], [150])
    assert go_on() == (1, 0)
    assert made.cache.snapshots
    (snapshot,) = [found for found in made.cache.snapshots if found.position == 150]
    made.states.slot_arrays()[1][snapshot.slot].flat[7] += 1
    assert go_on() == (2, 1)
    assert not made.cache.snapshots
    assert "150 tokens" in caplog.text
    check_accounts(made, scheduler)


def test_a_picture_is_not_another_picture():
    """vLLM's CVE-2025-46722: placeholders are alike for all pictures, and prompts were taken for one another."""
    from ingot.engine import Visual
    from ingot.engine.keys import keys_of

    ids = np.full(10, 7, np.int32)

    def keys(digest, grid=(1, 2, 2), rows=(3, 4, 5)):
        return keys_of(ids, None, [Visual(np.array(rows), grid, lambda *_: None, digest)])

    base = keys("a")
    assert (base == keys("a")).all()
    assert (base[[0, 1, 2, 6, 7, 8, 9]] == keys_of(ids, None)[[0, 1, 2, 6, 7, 8, 9]]).all()
    for other in (keys("b"), keys("a", (1, 4, 1)), keys("a", rows=(4, 5, 6)), keys_of(ids, None)):
        assert (base != other).any(axis=1)[3:].any()


def test_positions_are_part_of_what_a_token_is():
    made = engine()
    ids, position = STREAM[:150], np.tile(np.arange(150, dtype=np.int32), (3, 1))
    continued(made, ids, [100])
    shifted = position.copy()
    shifted[1, 90:] += 1
    assert continued(made, ids, position=shifted)[1] == 0
    assert continued(made, ids, position=position)[1] == 100


def test_poison_is_found():
    """The tests' own tool: who reads what was given back gets no number."""
    made = engine()
    poison(made)
    sequence = made.states.open()
    slot = sequence.slot
    made.states.close(sequence)
    assert np.isnan(made.states.slot_arrays()[0][slot]).all()


def test_another_salt_shares_nothing():
    made = engine()
    continued(made, STREAM[:200], [150], salt="one")
    tokens, cached = continued(made, STREAM[:200], [150], salt="two")
    assert (cached, tokens[0].reuse.matched, tokens[0].reuse.expected) == (0, 0, ())
    assert continued(made, STREAM[:200], salt="one")[1] == 150


def test_what_the_other_answers_will_need_is_promised_before_they_begin():
    """Else a second request takes the pages on which the first one's answers count."""
    made = engine(states=4)
    made.states.prepare(9, 9)
    scheduler = Scheduler(made, 8)
    first, second = asked(STREAM[:120], n=3, max_tokens=60), asked(STREAM[200:300], max_tokens=100)
    scheduler.add(first)
    scheduler.add(second)
    for _ in range(2):
        scheduler.step()
        check_accounts(made, scheduler)
    assert scheduler.running == 3  # 3 answers of 3 pages, one shared: two pages are left, and the second needs four
    got = answers(scheduler)
    assert told(got[3]) == cold(second)

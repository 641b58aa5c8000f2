"""Answers that run together are those that each has alone, to the bit, whoever begins and ends beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.engine import Engine, Request, SamplingParams
from ingot.engine.scheduler import LEAST_TOKENS, STEP_TOKENS, Scheduler
from ingot.engine.sequence import MARGIN
from ingot.model import build
from ingot.ops import PAGE
from ingot.spec.cost import kv_bytes, state_bytes
from ingot.spec.formats import FORMATS
from tests.model.small import small_config, weights

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

CONFIG = small_config()
OPS = native.OpSet(threads=2)
ROOT = build(CONFIG, OPS, weights(), "q8")
VOCABULARY = CONFIG.text.vocab_size


def engine(**settings):
    return Engine(ROOT, OPS, CONFIG, kv="bf16", **settings)


def drain(scheduler, cancelled=()):
    """Every answer's ids and logprobs; the answers in `cancelled` are ended after their third token."""
    found = {}
    while scheduler.unfinished:
        for token in scheduler.step():
            found.setdefault(token.answer, []).append((token.id, token.logprob, token.top))
            if token.answer in cancelled and len(found[token.answer]) == 3:
                scheduler.cancel(token.answer)
    return found


def alone(request, index=0):
    seed = request.sampling.seed + index
    scheduler = Scheduler(engine(), 1)
    scheduler.add(replace(request, n=1, sampling=replace(request.sampling, seed=seed)))
    return drain(scheduler)[0]


def is_free(states):
    return states._slots.taken == 0 and states._pages.taken == 0 and states.tokens_held == 0


@st.composite
def requests(draw):
    length = draw(st.sampled_from([1, 2, 17, PAGE, PAGE + 1, 150, STEP_TOKENS + 9]))
    ids = np.random.default_rng(draw(st.integers(0, 99))).integers(0, VOCABULARY, length)
    sampling = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1.0])),
        seed=draw(st.integers(0, 9)),
        presence_penalty=draw(st.sampled_from([0.0, 1.5])),
        dry_multiplier=draw(st.sampled_from([0.0, 0.8])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 2])),
    )
    position = np.tile(np.arange(length, dtype=np.int32), (3, 1)) // draw(st.sampled_from([1, 2]))  # as after pictures
    return Request(
        ids,
        position,
        sampling,
        max_tokens=draw(st.integers(1, 12)),
        stop_ids=frozenset(range(5)),
        n=draw(st.sampled_from([1, 1, 2, 3])),
        logprobs=draw(st.sampled_from([None, 0, 2])),
    )


@settings(max_examples=25)
@given(st.lists(requests(), min_size=1, max_size=5), st.integers(1, 5), st.sets(st.integers(0, 6)))
def test_any_company_gives_each_what_it_has_alone(asked, width, cancelled):
    together = engine()
    scheduler = Scheduler(together, width)
    numbers = [scheduler.add(request) for request in asked]
    got = drain(scheduler, cancelled)
    for request, answers in zip(asked, numbers, strict=True):
        for index, answer in enumerate(answers):
            want = alone(request, index)
            assert got[answer] == (want[:3] if answer in cancelled else want)
    assert is_free(together.states)


def request(length=9, **changes):
    ids = np.random.default_rng(length).integers(0, VOCABULARY, length)
    return Request(ids, sampling=SamplingParams(temperature=1.0, seed=length), **changes)


def test_as_one_ends_the_next_begins():
    scheduler = Scheduler(engine(), 2)
    for tokens in (2, 6, 3):
        scheduler.add(request(max_tokens=tokens))
    running = [sorted(token.answer for token in scheduler.step()) for _ in range(6)]
    assert running == [[0, 1], [0, 1], [1, 2], [1, 2], [1, 2], [1]]
    assert not scheduler.unfinished


def test_a_long_prompt_is_read_beside_running_answers():
    scheduler = Scheduler(engine(), 2)
    scheduler.add(request(max_tokens=9))
    scheduler.add(request(STEP_TOKENS, max_tokens=2))
    assert [[token.answer for token in scheduler.step()] for _ in range(3)] == [[0], [0, 1], [0, 1]]


def test_a_prompt_is_read_once_for_all_its_answers(monkeypatch):
    together = engine()
    taken, forward = [], together.forward

    def counted(parts, rows=None):
        taken.append(sum(len(part.ids) for part in parts))
        return forward(parts, rows)

    monkeypatch.setattr(together, "forward", counted)
    scheduler = Scheduler(together, 1)
    scheduler.add(request(40, n=4, max_tokens=3))
    drain(scheduler)
    assert taken == [40, 4, 4]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_pass_that_only_reads(fmt):
    """A slice in the middle of a prompt wants no logits; in no format does that change what comes."""
    one = Engine(build(CONFIG, OPS, weights(), fmt), OPS, CONFIG)
    asked = request(2 * STEP_TOKENS + 3, max_tokens=4)
    scheduler = Scheduler(one, 1)
    scheduler.add(asked)
    assert [len(scheduler.step()) for _ in range(4)] == [0, 0, 1, 1]
    scheduler.close()
    assert scheduler.step() == []
    (token, *_) = one.generate(replace(asked, sampling=SamplingParams(temperature=0)))
    assert token == int(np.argmax(one.logits(asked.ids)[-1]))


def test_memory_bounds_how_many_run():
    """What waits runs when pages come back; what would not fit alone is refused at once."""
    page = PAGE * kv_bytes(CONFIG, "bf16")

    def left():
        states = small.states
        return MARGIN + page * (4 - states._pages.used) + state_bytes(CONFIG) * (2 - states._slots.used)

    small = engine()
    small.states.available = left
    scheduler = Scheduler(small, 4)
    for length in (60, 61, 62, 63):
        scheduler.add(request(length, max_tokens=9))
    with pytest.raises(ValueError, match="9,000 tokens, prompt and max_tokens"):
        scheduler.add(request(8000, max_tokens=1000))
    most = 0
    while scheduler.unfinished:
        most = max(most, len({token.answer for token in scheduler.step()}))
    assert most == 2
    assert is_free(small.states)


@pytest.mark.parametrize("at", range(4))
def test_close_at_any_time_frees_everything(at):
    together = engine()
    scheduler = Scheduler(together, 3)
    scheduler.add(request(STEP_TOKENS + 5, n=2))
    scheduler.add(request(30, n=3))
    for _ in range(at):
        scheduler.step()
    scheduler.close()
    assert not scheduler.unfinished
    assert is_free(together.states)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_answer_that_reads_for_others_can_be_cancelled(steps):
    """Before it begins, while its prompt is read, and later."""
    asked = request(STEP_TOKENS + 40, n=3, max_tokens=6)
    together = engine()
    scheduler = Scheduler(together, 3)
    scheduler.add(asked)
    for _ in range(steps):
        scheduler.step()
    scheduler.cancel(0)
    scheduler.cancel(0)
    got = drain(scheduler)
    assert {answer: ids[-1] for answer, ids in got.items()} == {i: alone(asked, i)[-1] for i in (1, 2)}
    assert is_free(together.states)


def test_logprobs_are_the_log_softmax_of_the_models_own_logits():
    asked = request(30, max_tokens=5, logprobs=20)
    scheduler = Scheduler(engine(), 1)
    scheduler.add(asked)
    (told,) = drain(scheduler).values()
    ids = np.concatenate([asked.ids, [token for token, _, _ in told]])
    rows = engine().logits(ids)[29:-1].astype(np.float64)
    want = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    for row, (token, logprob, top) in zip(want, told, strict=True):
        assert logprob == pytest.approx(row[token], abs=1e-7)
        assert [i for i, _ in top] == np.argsort(-row, kind="stable")[:20].tolist()
        assert [value for _, value in top] == pytest.approx(np.sort(row)[:-21:-1].tolist(), abs=1e-7)


def taken_by(scheduler, monkeypatch):
    """The tokens of each part of the passes to come."""
    taken, forward = [], scheduler.engine.forward

    def counted(parts, rows=None):
        taken.append([len(part.ids) for part in parts])
        return forward(parts, rows)

    monkeypatch.setattr(scheduler.engine, "forward", counted)
    return taken


def test_prompts_that_are_read_share_a_pass(monkeypatch):
    scheduler = Scheduler(engine(), 4)
    taken = taken_by(scheduler, monkeypatch)
    for length in (700, 10, 300):
        scheduler.add(request(length, max_tokens=2))
    drain(scheduler)
    rest = STEP_TOKENS - 10
    assert taken[0] == [rest // 2, 10, rest // 2]
    assert taken[1] == [(STEP_TOKENS - 1) // 2, 1, (STEP_TOKENS - 1) - (STEP_TOKENS - 1) // 2]
    assert sum(map(sum, taken)) == 700 + 10 + 300 + 3


@pytest.mark.parametrize(("slice_s", "most"), [(None, STEP_TOKENS - 1), (0.0, LEAST_TOKENS), (1e9, STEP_TOKENS - 1)])
def test_a_slice_beside_running_answers_is_bounded_in_time(monkeypatch, slice_s, most):
    """The first pass, in which nobody waits for a token, takes all it can; how it is cut changes no bit."""
    scheduler = Scheduler(engine(), 2, slice_s)
    taken = taken_by(scheduler, monkeypatch)
    first, second = request(30, max_tokens=60), request(2 * STEP_TOKENS + 40, max_tokens=3)
    scheduler.add(first)
    scheduler.step()
    scheduler.add(second)
    got = drain(scheduler)
    assert max(parts[-1] for parts in taken[1:]) == most
    assert got[1] == alone(second)

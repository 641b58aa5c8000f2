"""An answer with drafts is the answer without, to the bit, whatever is tried and however it ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.engine import Engine, Request, SamplingParams
from ingot.engine.scheduler import Part, Scheduler
from ingot.engine.speculate import MOST_DRAFTS, Drafter
from ingot.model import build
from tests.model.small import small_config, weights

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

CONFIG = small_config()
VOCABULARY = CONFIG.text.vocab_size
OPS = {threads: native.OpSet(threads=threads) for threads in (1, 2)}
ROOT = {threads: build(CONFIG, ops, weights(), "q8") for threads, ops in OPS.items()}
MIB = 2**20


def engine(speculate="lookup", threads=2, **changes):
    return Engine(ROOT[threads], OPS[threads], CONFIG, speculate=speculate, **changes)


def drain(scheduler):
    found, passes = {}, 0
    while scheduler.unfinished:
        passes += 1
        for token in scheduler.step():
            found.setdefault(token.answer, []).append((token.id, token.logprob, token.top, token.last))
    return found, passes


def is_free(states):
    return states._slots.taken == states._windows.taken == 0 and states.tokens_held == 0


class Foretold:
    """Drafts that are right as often as wanted: what the answer will be is known, and spoiled now and then."""

    def __init__(self, monkeypatch, answers, right):
        self.answers, self.right = answers, right
        monkeypatch.setattr("ingot.engine.scheduler.Drafter", self)

    def __call__(self, ids):
        drafter = Drafter(ids)
        said = next(a for a in self.answers if drafter.lookup._ids[-1] == a[0])
        place = [1]

        def draft(count):
            return [t if i != self.right else (t + 1) % VOCABULARY for i, t in enumerate(said[place[0] :][:count])]

        def remember(token):
            place[0] += 1

        drafter.lookup.draft, drafter.remember = draft, remember
        drafter.chances = lambda most: [1.0] * max(0, min(most, MOST_DRAFTS, len(said) - place[0]))
        return drafter


# an answer that repeats itself: few ids, and little heat
PROMPT = np.random.default_rng(3).integers(0, VOCABULARY, 40)
LOOPS = dict.fromkeys((3, 14, 15, 92), 8.0)
SAMPLINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "logit_bias": LOOPS},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "logit_bias": LOOPS},
    {"temperature": 1.0, "logit_bias": LOOPS, "repetition_penalty": 1.05, "presence_penalty": 0.3},
    {"temperature": 1.0, "logit_bias": LOOPS, "frequency_penalty": 0.2, "dry_multiplier": 0.4, "dry_allowed_length": 3},
    {"temperature": 1.0, "logit_bias": LOOPS, "no_repeat_ngram_size": 6},
]


@st.composite
def requests(draw):
    length = draw(st.sampled_from([1, 3, 40, 63, 64, 65, 150]))
    part = PROMPT[: draw(st.integers(1, 12))]
    return Request(
        np.resize(part, length),
        sampling=SamplingParams(**draw(st.sampled_from(SAMPLINGS)), seed=draw(st.integers(0, 9))),
        max_tokens=draw(st.integers(1, 60)),
        stop_ids=frozenset(draw(st.sampled_from([(), (92,), (3, 15)]))),
        min_tokens=draw(st.sampled_from([0, 0, 5])),
        banned_ids=frozenset(draw(st.sampled_from([(), (14,)]))),
        logprobs=draw(st.sampled_from([None, 2])),
        n=draw(st.integers(1, 3)),
    )


@given(st.lists(requests(), min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([1, 2]))
@settings(max_examples=40)
def test_output_with_drafts_is_output_without(asked, width, threads):
    found = []
    for speculate in ("off", "lookup", "auto"):
        scheduler = Scheduler(engine(speculate, threads, cache_bytes=8 * MIB), width)
        for request in asked:
            scheduler.add(request)
        found.append(drain(scheduler)[0])
        scheduler.cache.clear()
        assert is_free(scheduler.states)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("ending", ["max_tokens", "stop"])
@pytest.mark.parametrize("right", [0, 1, 2, 7, 14, 15])
def test_every_count_of_accepted_drafts(monkeypatch, right, ending):
    """All rejected to all accepted; the answer ends at each place of a window."""
    plain = Request(PROMPT, max_tokens=70, sampling=SamplingParams(seed=5))
    said = [token for token, *_ in drain(scheduler_of("off", plain))[0][0]]
    for end in range(30, 50):
        if ending == "max_tokens":
            request = replace(plain, max_tokens=end)
        else:
            request = replace(plain, stop_ids=frozenset(said[end : end + 1]))
        want, _ = drain(scheduler_of("off", request))
        Foretold(monkeypatch, [said], right)
        scheduler = scheduler_of("lookup", request, cache_bytes=8 * MIB)
        got, passes = drain(scheduler)
        assert got == want
        length = len(got[0])
        assert passes <= 2 + -(-length // (right + 1)) + MOST_DRAFTS * (right == 15) // 8, "drafts were not accepted"
        kept = scheduler.cache.snapshots
        assert [snapshot.position for snapshot in kept] == [len(PROMPT) + length - 1]


def scheduler_of(speculate, request, **changes):
    scheduler = Scheduler(engine(speculate, **changes), 4)
    scheduler.add(request)
    return scheduler


@pytest.mark.parametrize("after", range(2, 12))
def test_what_is_kept_after_a_window_goes_on_exactly(monkeypatch, after):
    """Cancelled in the middle, the state that goes to the prefix cache has what was accepted and no more."""
    plain = Request(PROMPT, max_tokens=90, sampling=SamplingParams(seed=5))
    said = [token for token, *_ in drain(scheduler_of("off", plain))[0][0]]
    Foretold(monkeypatch, [said], right=after % 6)
    drafting = engine("lookup", cache_bytes=8 * MIB)
    scheduler = Scheduler(drafting, 1)
    scheduler.add(plain)
    told = [token.id for _ in range(after) for token in scheduler.step()]
    assert told == said[: len(told)]
    assert len(told) > after - 1 or after % 6 == 0
    scheduler.cancel(0)
    assert drafting.states._windows.taken == 0
    (snapshot,) = drafting.cache.snapshots
    assert snapshot.position == len(PROMPT) + len(told) - 1
    again = np.concatenate([PROMPT, told, [7, 8, 9]])
    longer = Request(again, max_tokens=20, logprobs=3, sampling=SamplingParams(seed=6))
    monkeypatch.undo()
    scheduler.add(longer)
    tokens = [token for _ in range(40) if scheduler.unfinished for token in scheduler.step()]
    assert tokens[0].reuse.cached == snapshot.position
    want, _ = drain(scheduler_of("off", longer))
    assert [(t.id, t.logprob, t.top, t.last) for t in tokens] == want[0]


def test_a_fork_after_a_window_goes_on_exactly():
    drafting = engine()
    states = drafting.states
    ids = np.concatenate([PROMPT, PROMPT[::-1], PROMPT]).astype(np.int32)
    sequence = states.open()
    drafting.forward([Part(sequence, ids[:50])])
    drafting.forward([Part(sequence, ids[50:60], tried=6)])
    for _ in range(4):
        states.accept(sequence)
    twin = states.fork(sequence)
    rows = [drafting.forward([Part(each, ids[58:70])]) for each in (sequence, twin)]
    want = drafting.logits(ids[:70])[58:]
    assert np.array_equal(rows[0], want)
    assert np.array_equal(rows[1], want)


def test_no_more_is_tried_than_the_answer_may_have(monkeypatch):
    """Rows for nothing, and pages that nobody promised."""
    plain = Request(PROMPT, max_tokens=90, sampling=SamplingParams(seed=5))
    said = [token for token, *_ in drain(scheduler_of("off", plain))[0][0]]
    Foretold(monkeypatch, [said], right=99)
    scheduler = scheduler_of("lookup", replace(plain, max_tokens=20))
    taken, forward = [], scheduler.engine.forward
    monkeypatch.setattr(
        scheduler.engine, "forward", lambda parts, rows: taken.append(len(parts[0].ids)) or forward(parts, rows)
    )
    drain(scheduler)
    assert taken == [40, 16, 3]


def test_drafts_save_passes_where_the_text_repeats():
    request = Request(
        np.tile(PROMPT[:9], 5), max_tokens=60, sampling=SamplingParams(temperature=0, logit_bias={3: 100})
    )
    (_, with_drafts), (_, without) = (drain(scheduler_of(mode, request)) for mode in ("lookup", "off"))
    assert without == 60
    assert with_drafts < 15


def test_drafts_are_counted(monkeypatch):
    plain = Request(PROMPT, max_tokens=50, sampling=SamplingParams(seed=5))
    said = [token for token, *_ in drain(scheduler_of("off", plain))[0][0]]
    Foretold(monkeypatch, [said], right=3)
    scheduler = scheduler_of("lookup", plain)
    drain(scheduler)  # the first token, then twelve passes of three that are right and one more, and the last
    assert scheduler.engine.accepted == 3 * 12
    assert scheduler.engine.tried >= 4 * 12

"""Repetition control against its definitions, written out slowly; incremental state against a fresh start."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingot.engine.penalties import HUGE, Dry, Forbidden, NoRepeatNgram, common_suffixes, power

VOCABULARY = 4
IDS = st.lists(st.integers(0, VOCABULARY), max_size=40)  # the highest cannot be chosen, as a prompt's may


def zeros():
    return np.zeros(VOCABULARY, np.float32)


def after(edit, answer):
    for token in answer:
        edit.remember(token)
    scores = zeros()
    edit.apply(scores)
    return scores.tolist()


def dry_by_definition(multiplier, base, allowed, breaker, ids):
    longest = {}
    for at in range(1, len(ids)):
        length = 0
        while length < at and ids[at - 1 - length] == ids[-1 - length] != breaker:
            length += 1
        if length >= allowed:
            longest[ids[at]] = max(length, longest.get(ids[at], 0))
    scores = zeros()
    for token, length in longest.items():
        if token < VOCABULARY:
            scores[token] -= multiplier * math.prod([base] * (length - allowed))
    return scores.tolist()


@given(IDS, IDS, st.integers(1, 3), st.sampled_from([1.0, 1.5, 2.0]))
def test_dry_is_its_definition(prompt, answer, allowed, base):
    answer = [token for token in answer if token < VOCABULARY]
    edit = Dry(0.5, base, allowed, lambda token: token == 3, np.array(prompt, int))
    assert after(edit, answer) == dry_by_definition(0.5, base, allowed, 3, prompt + answer)


@given(IDS, IDS, st.integers(1, 4))
def test_no_ngram_comes_twice(prompt, answer, size):
    answer = [token for token in answer if token < VOCABULARY]
    ids = prompt + answer
    tail = ids[len(ids) - size + 1 :] if size > 1 else []
    said = {ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == tail}
    want = [-math.inf if token in said else 0 for token in range(VOCABULARY)]
    assert after(NoRepeatNgram(size, np.array(prompt, int)), answer) == want


@given(st.lists(st.integers(0, 2), max_size=60))
def test_common_suffixes(ids):
    def length(at):
        return next((n for n in range(at) if ids[at - 1 - n] != ids[-1 - n]), at)

    assert common_suffixes(ids).tolist() == [length(at) for at in range(len(ids))]


def test_a_long_prompt_of_one_token_takes_no_time():
    edit = Dry(1.0, 1.75, 2, lambda token: False, np.zeros(100_000, int))
    assert after(edit, [0])[0] <= -HUGE


def test_powers_are_products_and_end():
    assert [power(1.75, n) for n in range(4)] == [1.0, 1.75, 1.75**2, 1.75 * 1.75 * 1.75]
    assert power(1.0, 10**12) == 1.0
    assert HUGE < power(1.1, 10**12) < 2 * HUGE


def test_what_is_forbidden_for_a_while_is_allowed_then():
    edit = Forbidden([0], [1, VOCABULARY], 2)
    assert after(edit, []) == [-math.inf, -math.inf, 0, 0]
    assert after(edit, [3]) == [-math.inf, -math.inf, 0, 0]
    assert after(edit, [3]) == [-math.inf, 0, 0, 0]

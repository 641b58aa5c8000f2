"""Sampling: each parameter does what its name says, choices replay, and the arithmetic is the same on every machine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ingot.engine.sampler import Sampler, SamplingParams, uniform
from ingot.ops.choice import choose

LOGITS = np.array([1.0, 3.0, 2.5, -1.0, 3.0, 0.5], np.float32)  # ids 1 and 4 tie for the first place
NONE = np.array([], np.int64)


def sampler(prompt=NONE, seed=1, vocabulary=6, **params):
    return Sampler(SamplingParams(**params), np.asarray(prompt), vocabulary, seed, choose)


def draws(count=4000, prompt=NONE, **params):
    """How often each id comes first over many seeds."""
    params = SamplingParams(**params)
    first = [Sampler(params, np.asarray(prompt), 6, seed, choose).sample(LOGITS) for seed in range(count)]
    return np.bincount(first, minlength=6) / count


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def test_greedy_takes_the_lower_of_equal_ids():
    assert sampler(temperature=0).sample(LOGITS) == 1
    assert sampler(top_k=1).sample(LOGITS) == 1


def test_frequencies_are_the_softmax_at_the_temperature():
    for temperature in (0.5, 1.0, 3.0):
        want = softmax(LOGITS / temperature)
        assert np.abs(draws(temperature=temperature) - want).max() < 0.03


def test_top_k_keeps_the_best_and_among_equals_the_lower_ids():
    assert set(np.flatnonzero(draws(200, top_k=3))) == {1, 2, 4}
    logits = np.array([2.0, 2.0, 2.0, 2.0, 2.0, 1.0], np.float32)
    chosen = {sampler(seed=s, top_k=2).sample(logits) for s in range(100)}
    assert chosen == {0, 1}


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    p = softmax(LOGITS)
    assert set(np.flatnonzero(draws(300, top_p=float(p[1]) * 0.99))) == {1}
    assert set(np.flatnonzero(draws(300, top_p=float(p[1] + p[4] * 0.5)))) == {1, 4}
    assert set(np.flatnonzero(draws(600, top_p=float(p[1] + p[4] + p[2] * 0.5)))) == {1, 2, 4}


def test_min_p_is_relative_to_the_best():
    assert set(np.flatnonzero(draws(600, min_p=math.exp(-0.6)))) == {1, 2, 4}
    assert set(np.flatnonzero(draws(600, min_p=math.exp(-0.4)))) == {1, 4}


def test_presence_and_frequency_penalties_count_the_answer_only():
    logits = np.array([2.0, 1.0], np.float32)
    s = sampler(prompt=[0, 0, 0], vocabulary=2, temperature=0, presence_penalty=1.5)
    assert [s.sample(logits) for _ in range(3)] == [0, 1, 0]  # 2.0 | 0.5 < 1.0 | 0.5 > -0.5
    s = sampler(prompt=[0], vocabulary=2, temperature=0, frequency_penalty=0.4)
    assert [s.sample(logits) for _ in range(5)] == [0, 0, 0, 1, 0]  # 2 1.6 1.2 | 0.8 < 1 | 0.8 > 0.6


def test_repetition_penalty_counts_the_prompt_too_and_is_a_factor():
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    assert sampler(prompt=[0], vocabulary=3, temperature=0, repetition_penalty=1.5).sample(logits) == 1
    negative = np.array([-1.0, -1.2], np.float32)  # a factor above 1 must push a negative score down
    assert sampler(prompt=[0], vocabulary=2, temperature=0, repetition_penalty=1.5).sample(negative) == 1


def test_penalties_count_the_same_however_often_an_id_came():
    logits = np.linspace(0, 1, 50, dtype=np.float32)
    s = sampler(prompt=[49, 49, 60], vocabulary=50, temperature=0, repetition_penalty=1.1, frequency_penalty=0.05)
    assert [s.sample(logits) for _ in range(6)] == [48, 47, 46, 45, 49, 44]
    assert logits[49] == 1  # the caller's row is not written


def test_padding_rows_are_never_chosen():
    logits = np.array([0.0, 1.0, 9.0], np.float32)
    assert sampler(vocabulary=2, temperature=0).sample(logits) == 1


def test_seed_and_index_decide():
    one, two = sampler(seed=5), sampler(seed=5)
    choices = [one.sample(LOGITS) for _ in range(50)]
    assert choices == [two.sample(LOGITS) for _ in range(50)]
    assert choices != [sampler(seed=6).sample(LOGITS) for _ in range(50)]
    assert len({uniform(5, i) for i in range(1000)}) == 1000


def test_uniform_is_flat_and_stays_below_one():
    values = np.array([uniform(seed, index) for seed in range(100) for index in range(100)])
    assert values.min() >= 0
    assert values.max() < 1
    assert np.abs(np.histogram(values, 10, (0, 1))[0] / len(values) - 0.1).max() < 0.012
    assert uniform(0, 0) == uniform(2**64, 0)  # seeds are 64-bit


def test_nan_is_an_error_not_a_token():
    with pytest.raises(ValueError, match="logits hold NaN"):
        sampler().sample(np.array([0.0, np.nan, 1, 2, 3, 4], np.float32))


BAD = [
    ("temperature", -0.1, "from 0 (greedy) to 100"),
    ("temperature", float("nan"), "from 0 (greedy) to 100"),
    ("temperature", float("inf"), "from 0 (greedy) to 100"),
    ("temperature", "0.7", "from 0 (greedy) to 100"),
    ("temperature", True, "from 0 (greedy) to 100"),
    ("top_k", -1, "0 (all) or a positive count"),
    ("top_k", 2.5, "0 (all) or a positive count"),
    ("top_p", 0, "above 0 and at most 1"),
    ("top_p", 1.01, "above 0 and at most 1"),
    ("min_p", -0.01, "from 0 to 1"),
    ("min_p", 2, "from 0 to 1"),
    ("presence_penalty", 2.1, "from -2 to 2"),
    ("frequency_penalty", -3, "from -2 to 2"),
    ("repetition_penalty", 0, "above 0 and at most 100"),
    ("repetition_penalty", None, "above 0 and at most 100"),
    ("seed", 2**64, "a 64-bit integer"),
    ("seed", 1.0, "a 64-bit integer"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_bad_parameter_is_named_with_its_value_and_rule(name, value, rule):
    with pytest.raises(ValueError) as error:
        SamplingParams(**{name: value})
    assert str(error.value).startswith(f"{name} is {value!r}")
    assert rule in str(error.value)

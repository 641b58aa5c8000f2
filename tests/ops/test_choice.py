"""`choose`: the definition against plain probabilities, and the kernels against the definition, id for id."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ingot.ops.choice import UNIT, choose, exp, rank, weights

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

SETTINGS = [  # temperature, top_k, top_p, min_p
    (0.0, 0, 1.0, 0.0),
    (1.0, 1, 1.0, 0.0),
    (0.7, 20, 0.95, 0.0),
    (1.0, 20, 1.0, 0.0),
    (1.0, 7, 1.0, 0.1),
    (1.3, 300, 0.9, 0.01),
    (1.0, 0, 1.0, 0.0),
    (0.6, 0, 0.95, 0.0),
    (3.0, 0, 0.9, 0.0),
    (100.0, 0, 0.999, 0.0),
    (1.0, 0, 1.0, 0.05),
    (2.0, 0, 0.8, 0.02),
    (1e-3, 0, 0.5, 0.0),
    (5e-324, 0, 1.0, 0.0),
    (1.0, 0, 1e-300, 1.0),
]


def rows(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    x = 3 * rng.standard_normal(size, np.float32)
    masked = np.where(rng.random(size) < 0.9, np.float32(-np.inf), x)
    masked[size // 2] = 1
    infinite = x.copy()
    infinite[rng.integers(0, size, 3)] = np.inf
    return {
        "normal": x,
        "ties": np.round(x),
        "equal": np.full(size, 2.5, np.float32),
        "ascending": np.sort(x),
        "zeros of both signs": np.where(x > 0, np.float32(0.0), np.float32(-0.0)),
        "masked": masked,
        "all masked": np.full(size, -np.inf, np.float32),
        "infinite": infinite,
        "far apart": x * np.float32(1e30),
    }


@pytest.mark.parametrize("isa", native.available_isas())
@pytest.mark.parametrize("size", [1, 2, 63, 65, 4096, 4113, 30011])
def test_kernels_choose_what_the_definition_chooses(isa: str, size: int) -> None:
    rng = np.random.default_rng(size)
    ops = [native.OpSet(threads=threads, isa=isa) for threads in (1, 3)]
    for name, scores in rows(rng, size).items():
        for setting in SETTINGS:
            for u in (0.0, *rng.random(3), 1 - 2.0**-53):
                want = choose(scores, *setting, u)
                assert [o.choose(scores, *setting, u) for o in ops] == [want, want], (name, setting, u)


def test_the_official_vocabulary() -> None:
    rng, ops = np.random.default_rng(0), native.OpSet()
    scores = 2.5 * rng.standard_normal(248_320, np.float32)
    for setting in SETTINGS:
        for u in rng.random(4):
            assert ops.choose(scores, *setting, u) == choose(scores, *setting, u), setting


@pytest.mark.parametrize("at", [0, 15, 63, 4095, 4112])
def test_nan_anywhere_is_seen(at: int) -> None:
    scores = np.random.default_rng(0).standard_normal(4113, np.float32)
    scores[at] = np.nan
    for one in (choose, native.OpSet(threads=2).choose):
        assert one(scores, 0.0, 0, 1.0, 0.0, 0.5) is None
        assert one(scores, 0.8, 20, 0.95, 0.0, 0.5) is None


def test_a_masked_score_is_never_drawn() -> None:
    scores = np.array([-np.inf, 0.0, -np.inf, 1.0, -np.inf], np.float32)
    for u in np.linspace(0, 1, 50, endpoint=False):
        assert choose(scores, 1.0, 4, 1.0, 0.0, u) in (1, 3)


def test_weights_are_the_softmax() -> None:
    scores = 3 * np.random.default_rng(1).standard_normal(5000, np.float32)
    for temperature in (0.3, 1.0, 4.0):
        want = np.exp((scores.astype(np.float64) - scores.max()) / temperature)
        assert np.abs(weights(scores, temperature) / UNIT - want).max() <= 0.6 / UNIT


def test_exp_is_within_two_units_in_the_last_place() -> None:
    x = np.concatenate([-np.logspace(-12, 2.8, 3000), [0.0, -699.9]])
    want = np.array([math.exp(v) for v in x])
    assert (np.abs(exp(x) - want) / want).max() < 5e-16


def test_wrong_scores_are_refused() -> None:
    ops: Any = native.OpSet(threads=1)
    with pytest.raises(TypeError, match="choose: scores is float64"):
        ops.choose(np.zeros(5), 1.0, 0, 1.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="choose: scores is empty"):
        ops.choose(np.zeros(0, np.float32), 1.0, 0, 1.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="choose: scores is not C-contiguous"):
        ops.choose(np.zeros(10, np.float32)[::2], 1.0, 0, 1.0, 0.0, 0.5)


@pytest.mark.parametrize("isa", native.available_isas())
@pytest.mark.parametrize("size", [1, 2, 63, 65, 4113, 30011])
def test_kernels_rank_as_the_definition_ranks(isa: str, size: int) -> None:
    rng = np.random.default_rng(size)
    ops = [native.OpSet(threads=threads, isa=isa) for threads in (1, 3)]
    for name, scores in rows(rng, size).items():
        for k in {1, min(20, size), min(500, size), min(size, 4113)}:
            want = rank(scores, k)
            assert want is not None
            for one in ops:
                total, ids = one.rank(scores, k)
                assert (total, ids.tolist()) == (want[0], want[1].tolist()), (name, k)


def test_rank_is_best_first_and_sums_the_softmax() -> None:
    scores = np.array([1.0, 3.0, 2.5, -1.0, 3.0, 0.5], np.float32)
    found = rank(scores, 4)
    assert found is not None
    assert found[1].tolist() == [1, 4, 2, 0]
    assert found[0] / UNIT == pytest.approx(np.exp(scores.astype(np.float64) - 3).sum(), abs=1e-11)
    for one in (rank, native.OpSet(threads=2).rank):
        assert one(np.array([0, np.nan], np.float32), 1) is None


def test_wrong_ranks_are_refused() -> None:
    ops: Any = native.OpSet(threads=1)
    for k in (0, 6):
        with pytest.raises(ValueError, match="rank: ids must have 1 to Z places"):
            ops.rank(np.zeros(5, np.float32), k)
    with pytest.raises(TypeError, match="rank: scores is float64"):
        ops.rank(np.zeros(5), 1)

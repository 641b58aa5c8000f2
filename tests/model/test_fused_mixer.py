"""The native `delta_mixer` gives the bits of the default body, in its output and in the pools it updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.model import build, new_pools
from ingot.model.gated_delta_net import delta_mixer
from tests.model.small import small_config, weights
from tests.ops import native_cases as cases

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

SHAPES = [  # key heads, value heads, key dim, value dim, conv width
    (2, 6, 14, 20, 4),
    (3, 3, 16, 32, 4),
    (1, 2, 128, 112, 4),
    (2, 4, 19, 53, 3),
    (5, 5, 1, 17, 1),
]
RUNS = [  # lengths, starts, slots
    ([1], [7], [1]),
    ([5, 130, 1, 0], [0, 70, 3, 9], [2, 0, 4, 1]),
    ([64, 65], [0, 64], [3, -1]),
    ([2, 1, 1], [0, 1, 2], [0, 1, 2]),
]


def layer(ops: Any, shape: tuple[int, ...]) -> Any:
    names = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    config = small_config(**dict(zip((*names, "linear_conv_kernel_dim"), shape, strict=True)))
    pools = new_pools(ops, config, slots=5, pages=0)
    return build(config, ops, weights(), "f32").model.layers[0].linear_attn, pools.layers[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", native.available_isas())
def test_override_equals_default(isa: str, shape: tuple[int, ...]) -> None:
    rng, ops = np.random.default_rng(0), native.OpSet(threads=2, isa=isa)
    w, (tail, state) = layer(ops, shape)
    for runs in RUNS:
        seg = cases.ragged(*runs)
        x_TD = cases.draw(rng, seg.tokens, 36)
        tail[:], state[:] = cases.draw(rng, *tail.shape), cases.draw(rng, *state.shape)
        first, second = (tail.copy(), state.copy()), (tail.copy(), state.copy())
        want = delta_mixer.__wrapped__(ops, w, x_TD, seg, first)
        got = ops.delta_mixer(w, x_TD, seg, second)
        assert cases.same_bits([got, *second], [want, *first]), runs
        want, got = delta_mixer.__wrapped__(ops, w, x_TD, seg), ops.delta_mixer(w, x_TD, seg)
        assert cases.same_bits([got], [want]), runs


@pytest.mark.parametrize("isa", native.available_isas())
def test_nothing_is_read_that_was_not_written(isa: str) -> None:
    """A fresh run ignores its slot, scratch and the strangers' slots keep their NaN."""
    rng, ops = np.random.default_rng(1), native.OpSet(threads=3, isa=isa)
    w, (tail, state) = layer(ops, (2, 6, 14, 20, 4))
    tail[:], state[:] = np.nan, np.nan
    y = ops.delta_mixer(w, cases.draw(rng, 70, 36), cases.ragged([70], [0], [1]), (tail, state))
    assert np.isfinite(y).all()
    assert np.isfinite(tail[1]).all()
    assert np.isfinite(state[1]).all()
    assert np.isnan(np.delete(tail, 1, axis=0)).all()
    assert np.isnan(np.delete(state, 1, axis=0)).all()


def test_wrong_arguments_are_named() -> None:
    ops = native.OpSet(threads=1)
    w, (tail, state) = layer(ops, (2, 6, 14, 20, 4))
    seg, x_TD = cases.ragged([3], [0], [1]), np.ones((3, 36), np.float32)
    with pytest.raises(ValueError, match=r"delta_mixer: slot\[0\] is 1, expected -1 or a row of the pool"):
        ops.delta_mixer(w, x_TD, seg, (tail[:1].copy(), state[:1].copy()))
    with pytest.raises(ValueError, match=r"delta_mixer: state is \(4, 6, 2, 14, 16\), expected .*\(5, 6, 2, 14, 16\)"):
        ops.delta_mixer(w, x_TD, seg, (tail, state[:4].copy()))
    with pytest.raises(ValueError, match=r"delta_mixer: offset\[1\] is 3, expected T = 2"):
        ops.delta_mixer(w, x_TD[:2], seg, (tail, state))

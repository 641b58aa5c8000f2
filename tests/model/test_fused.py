"""What the native op set fuses gives the bits of the default body, in its output and in the pools it updates."""

from __future__ import annotations

from dataclasses import replace
from inspect import isfunction
from typing import Any

import numpy as np
import pytest

from ingot.model import attention, build, decoder, gated_delta_net, new_pools
from ingot.model.composite import Unfused
from ingot.model.decoder import delta_layer, full_layer
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


def mixer(ops: Any, shape: tuple[int, ...]) -> Any:
    names = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    config = small_config(**dict(zip((*names, "linear_conv_kernel_dim"), shape, strict=True)))
    pools = new_pools(ops, config, slots=5, pages=0)
    return build(config, ops, weights(), "f32").model.layers[0].linear_attn, pools.layers[0]


def test_unfused_has_no_composite() -> None:
    parts = {name: part for module in (decoder, gated_delta_net, attention) for name, part in vars(module).items()}
    composites = {name for name, part in parts.items() if isfunction(part) and hasattr(part, "__wrapped__")}
    assert composites == {name for name, part in vars(Unfused).items() if part is None}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", native.available_isas())
def test_mixer_equals_its_body(isa: str, shape: tuple[int, ...]) -> None:
    rng, ops = np.random.default_rng(0), native.OpSet(threads=2, isa=isa)
    w, (tail, state) = mixer(ops, shape)
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
    w, (tail, state) = mixer(ops, (2, 6, 14, 20, 4))
    tail[:], state[:] = np.nan, np.nan
    y = ops.delta_mixer(w, cases.draw(rng, 70, 36), cases.ragged([70], [0], [1]), (tail, state))
    assert np.isfinite(y).all()
    assert np.isfinite(tail[1]).all()
    assert np.isfinite(state[1]).all()
    assert np.isnan(np.delete(tail, 1, axis=0)).all()
    assert np.isnan(np.delete(state, 1, axis=0)).all()


def test_wrong_arguments_are_named() -> None:
    ops = native.OpSet(threads=1)
    w, (tail, state) = mixer(ops, (2, 6, 14, 20, 4))
    seg, x_TD = cases.ragged([3], [0], [1]), np.ones((3, 36), np.float32)
    with pytest.raises(ValueError, match=r"delta_mixer: slot\[0\] is 1, expected -1 or a row of the pool"):
        ops.delta_mixer(w, x_TD, seg, (tail[:1].copy(), state[:1].copy()))
    with pytest.raises(ValueError, match=r"delta_mixer: state is \(4, 6, 2, 14, 16\), expected .*\(5, 6, 2, 14, 16\)"):
        ops.delta_mixer(w, x_TD, seg, (tail, state[:4].copy()))
    with pytest.raises(ValueError, match=r"delta_mixer: offset\[1\] is 3, expected T = 2"):
        ops.delta_mixer(w, x_TD[:2], seg, (tail, state))


KV_RUNS = [  # offsets' lengths, starts, pages of each
    ([1], [70], [[3, 1]]),
    ([5, 130, 1], [0, 63, 3], [[0, 0, 0, 0], [4, 1, 2, 5], [6, 0, 0, 0]]),
    ([300], [0], [[5, 3, 1, 0, 2]]),
]


def layers(ops: Any, fmt: str, kv: str) -> tuple[Any, Any, Any, Any]:
    """A linear and a full layer, each with its pool full of numbers."""
    config = small_config()
    root, pools = build(config, ops, weights(), fmt), new_pools(ops, config, slots=5, pages=7, kv=kv)
    linear, full = root.model.layers[0], root.model.layers[3]
    return linear, pools.layers[0], full, pools.layers[3]


def copies(pool: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return tuple(array.copy() for array in pool)


def paged(lengths: list[int], starts: list[int], pages: list[list[int]]) -> Any:
    seg = cases.ragged(lengths, starts, list(range(len(lengths))))
    return replace(seg, pages=np.array(pages, np.int32))


@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8", "q4"])
@pytest.mark.parametrize("isa", native.available_isas())
def test_linear_layer_equals_its_body(isa: str, fmt: str) -> None:
    rng, ops = np.random.default_rng(2), native.OpSet(threads=2, isa=isa)
    w, (tail, state), _, _ = layers(ops, fmt, "f32")
    tail[:], state[:] = cases.draw(rng, *tail.shape), cases.draw(rng, *state.shape)
    for runs in RUNS:
        seg = cases.ragged(*runs)
        x_TD = cases.draw(rng, seg.tokens, 36)
        first, second = copies((tail, state)), copies((tail, state))
        want = delta_layer.__wrapped__(ops, w, x_TD, seg, None, first)
        assert cases.same_bits([ops.delta_layer(w, x_TD, seg, None, second), *second], [want, *first]), runs
        assert cases.same_bits([w(ops, x_TD, seg, None)], [delta_layer.__wrapped__(ops, w, x_TD, seg, None)]), runs


@pytest.mark.parametrize("kv", ["f32", "bf16", "q8"])
@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8", "q4"])
@pytest.mark.parametrize("isa", native.available_isas())
def test_full_layer_equals_its_body(isa: str, fmt: str, kv: str) -> None:
    rng, ops = np.random.default_rng(3), native.OpSet(threads=2, isa=isa)
    _, _, w, pool = layers(ops, fmt, kv)
    for runs in KV_RUNS:
        seg = paged(*runs)
        x_TD, rotary = cases.draw(rng, seg.tokens, 36), tuple(cases.draw(rng, 2, seg.tokens, 6))
        first, second = copies(pool), copies(pool)
        want = full_layer.__wrapped__(ops, w, x_TD, seg, rotary, first)
        assert cases.same_bits([ops.full_layer(w, x_TD, seg, rotary, second), *second], [want, *first]), runs
        assert cases.same_bits([w(ops, x_TD, seg, rotary)], [full_layer.__wrapped__(ops, w, x_TD, seg, rotary)]), runs


def test_a_leaf_of_another_kind_runs_the_body_and_a_new_matrix_is_seen() -> None:
    rng, ops = np.random.default_rng(4), native.OpSet(threads=2)
    w, _, full, _ = layers(ops, "q8", "f32")
    seg, x_TD = cases.ragged([7], [0], [0]), cases.draw(rng, 7, 36)
    rotary = tuple(cases.draw(rng, 2, 7, 6))
    for node, name, fused in ((w.mlp, "up_proj", w), (w.linear_attn, "out_proj", w), (full.self_attn, "q_proj", full)):
        before, leaf = fused(ops, x_TD, seg, rotary), getattr(node, name)
        setattr(node, name, lambda x, leaf=leaf: 2 * leaf(x))
        assert not cases.same_bits([fused(ops, x_TD, seg, rotary)], [before])
        setattr(node, name, native.Packed(ops, np.zeros_like(leaf.data), leaf.shape, leaf.fmt))
        assert not cases.same_bits([fused(ops, x_TD, seg, rotary)], [before])
        setattr(node, name, leaf)
        assert cases.same_bits([fused(ops, x_TD, seg, rotary)], [before])


def test_wrong_layer_arguments_are_named() -> None:
    ops = native.OpSet(threads=1)
    w, (tail, state), full, pool = layers(ops, "f32", "f32")
    seg, x_TD = cases.ragged([3], [0], [1]), np.ones((3, 36), np.float32)
    rotary = np.ones((3, 6), np.float32), np.ones((3, 6), np.float32)
    with pytest.raises(ValueError, match=r"delta_layer: x is \(3, 35\), expected \(T, D\) = \(\?, 36\)"):
        ops.delta_layer(w, np.ones((3, 35), np.float32), seg, None)
    with pytest.raises(TypeError, match=r"delta_layer: x is float64"):
        ops.delta_layer(w, x_TD.astype(np.float64), seg, None)
    with pytest.raises(ValueError, match=r"delta_layer: slot\[0\] is 1, expected -1 or a row of the pool"):
        ops.delta_layer(w, x_TD, seg, None, (tail[:1].copy(), state[:1].copy()))
    with pytest.raises(ValueError, match=r"full_layer: offset\[1\] is 3, expected T = 2"):
        ops.full_layer(full, x_TD[:2], paged([3], [0], [[0]]), (rotary[0][:2], rotary[1][:2]), pool)
    with pytest.raises(ValueError, match=r"full_layer: cos is \(2, 6\), expected"):
        ops.full_layer(full, x_TD, paged([3], [0], [[0]]), (rotary[0][:2], rotary[1]), pool)
    with pytest.raises(ValueError, match=r"full_layer: pages\[0, 0\] is 9, expected"):
        ops.full_layer(full, x_TD, paged([3], [0], [[9]]), rotary, pool)
    matrices = [leaf.native for leaf in (w.linear_attn.in_proj_qkv, w.mlp.up_proj)]
    with pytest.raises(ValueError, match=r"DeltaLayer: "):
        native._native.DeltaLayer(matrices, [np.ones(36, np.float32)] * 2, 1e-6, True, w.linear_attn.prepared)

"""Native kernels against the definitions, per instruction set."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ingot.ops import reference
from ingot.spec.formats import FORMATS
from tests.ops import native_cases as cases
from tests.tolerance import KV_OF_SCALE, NATIVE_OP_OF_SCALE

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

ISAS = native.available_isas()


@pytest.fixture(params=ISAS)
def ops(request: Any, monkeypatch: Any) -> Any:
    """An op set whose outputs are NaN until they are written."""
    poisoned = SimpleNamespace(**vars(np))
    poisoned.empty = lambda shape, dtype: np.full(shape, np.nan if dtype == np.float32 else 255, dtype)
    monkeypatch.setattr(native, "np", poisoned)
    return native.OpSet(threads=2, isa=request.param)


def assert_close(got: tuple[np.ndarray, ...], want: tuple[np.ndarray, ...]) -> None:
    assert len(got) == len(want)
    for i, (x, y) in enumerate(zip(got, want, strict=True)):
        assert x.shape == y.shape
        assert x.dtype == np.float32
        error = np.abs(x - y).max() / np.abs(y).max()
        assert error <= NATIVE_OP_OF_SCALE, f"output {i}: {error:.1e} of its scale"


ROUNDED = ("attention_bf16", "attention_q8")  # queries and probabilities are bf16 too


@pytest.mark.parametrize("name", [name for name in cases.CASES if name not in ROUNDED])
def test_equals_reference(ops: Any, name: str) -> None:
    for seed in range(3):
        assert_close(cases.run(name, ops, seed), cases.run(name, reference, seed))


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("dim", [1, 16, 23, 33, 96])
def test_rounded_attention_is_near_the_reference(ops: Any, name: str, heads: int, dim: int) -> None:
    """Both read the same stored keys and values; the native op set also rounds q and the probabilities."""
    got, want = (cases.run(name, o, heads=heads, dim=dim)[0] for o in (ops, reference))
    assert got.dtype == np.float32
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= KV_OF_SCALE, f"{error:.1e} of its scale"


@pytest.mark.parametrize("heads", [2, 4, 6])  # one, two and three query or value heads for each of two
def test_grouped_heads(ops: Any, heads: int) -> None:
    for name in ("delta", "attention"):
        assert_close(cases.run(name, ops, heads=heads), cases.run(name, reference, heads=heads))


@pytest.mark.parametrize("dim", [1, 16, 17, 48, 257])
def test_head_dims(ops: Any, dim: int) -> None:
    assert_close(cases.run("attention", ops, dim=dim), cases.run("attention", reference, dim=dim))


@pytest.mark.parametrize("inputs", [1, 2, 31, 1030])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 12, 13, 31])
def test_matrix_shapes(ops: Any, rows: int, inputs: int) -> None:
    sizes = {"rows": rows, "inputs": inputs}
    assert_close(cases.run("linears", ops, **sizes), cases.run("linears", reference, **sizes))


def test_many_rows() -> None:
    """More rows than a matmul tile holds, and K interrupted in between."""
    ops = native.OpSet(threads=2)
    sizes = {"rows": 500, "inputs": 1100}
    assert_close(cases.run("linears", ops, **sizes), cases.run("linears", reference, **sizes))


def test_every_conv_width(ops: Any) -> None:
    rng = np.random.default_rng(1)
    for width in range(1, 17):
        u, w = cases.draw(rng, cases.RUNS.tokens, 21), cases.draw(rng, 21, width)
        tail = cases.draw(rng, 5, width - 1, 21)
        other = tail.copy()
        got = ops.causal_conv1d(u, w, cases.RUNS, tail)
        assert_close((got,), (reference.causal_conv1d(u, w, cases.RUNS, other),))
        np.testing.assert_array_equal(tail[[0, 2, 4]], other[[0, 2, 4]])


def test_fresh_run_ignores_its_slot(ops: Any) -> None:
    """start == 0 means zero state, even when the slot holds a dead sequence's NaN."""
    rng, seg = np.random.default_rng(2), cases.ragged([5], [0], [1])
    tail, state = np.full((2, 3, 21), np.nan, np.float32), ops.delta_state(2, 6, 19, 53)
    state[:] = np.nan
    assert np.isfinite(ops.causal_conv1d(cases.draw(rng, 5, 21), cases.draw(rng, 21, 4), seg, tail)).all()
    assert np.isfinite(ops.gated_delta_rule(*cases.delta_inputs(rng, 5), seg, state)).all()
    assert np.isfinite(tail[1]).all()
    assert np.isfinite(state[1]).all()
    assert np.isnan(tail[0]).all()
    assert np.isnan(state[0]).all()


@pytest.mark.parametrize("fmt", FORMATS)
def test_nan_spreads_and_stays_in_its_row(ops: Any, fmt: str) -> None:
    rng = np.random.default_rng(3)
    x = cases.draw(rng, 9, 67)
    x[4, 66], x[6, 0] = np.nan, np.inf
    (y,) = ops.linears(x, ops.matrix(cases.weights(rng, 40, 67), fmt))
    assert np.isnan(y[4]).all()
    assert not np.isfinite(y[6]).any()
    assert np.isfinite(np.delete(y, [4, 6], axis=0)).all()
    for out in (ops.rms_norm(x, x[0], 1e-6, True), ops.l2_norm(x, 1.0)):
        assert np.isnan(out[4]).all()
        assert np.isfinite(out[:4]).all()
    assert np.isnan(ops.silu_mul(x, np.ones_like(x))[4, 66])
    assert ops.silu_mul(x, np.ones_like(x))[6, 0] == np.inf


def test_nan_never_reaches_an_earlier_token(ops: Any) -> None:
    rng, seg = np.random.default_rng(4), cases.ragged([130], [0], [-1])
    q, k, v = cases.draw(rng, 130, 6, 23), cases.draw(rng, 130, 2, 23), cases.draw(rng, 130, 2, 23)
    v[70, 1, 5] = np.nan
    o = ops.attention(q, k, v, seg)
    assert np.isfinite(o[:70]).all()
    assert np.isnan(o[70:, 3:, 5]).all()
    k[50, 0, 0] = np.nan
    assert np.isnan(ops.attention(q, k, v, seg)[50:, :3]).all()


def test_zero_tokens(ops: Any) -> None:
    rng, seg = np.random.default_rng(5), cases.ragged([], [], [])
    assert ops.linears(np.empty((0, 37), np.float32), ops.matrix(cases.weights(rng, 5, 37), "f32"))[0].shape == (0, 5)
    assert ops.causal_conv1d(np.empty((0, 21), np.float32), cases.draw(rng, 21, 4), seg).shape == (0, 21)
    assert ops.gated_delta_rule(*cases.delta_inputs(rng, 0), seg).shape == (0, 6, 53)
    assert ops.attention(cases.draw(rng, 0, 6, 23), cases.draw(rng, 0, 2, 23), cases.draw(rng, 0, 2, 23), seg).size == 0


def test_a_leaf_that_is_not_packed_is_called() -> None:
    rng, ops = np.random.default_rng(7), native.OpSet(threads=1)
    x, leaf = cases.draw(rng, 3, 37), ops.matrix(cases.weights(rng, 5, 37), "f32")
    first, second, third = ops.linears(x, leaf, lambda x: x + 1, leaf)
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(second, x + 1)
    np.testing.assert_array_equal(first, leaf(x))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_threads_survive_a_fork() -> None:
    ops = native.OpSet(threads=3)
    want = cases.run("linears", ops, rows=40)
    child = os.fork()
    if child == 0:
        os._exit(0 if cases.same_bits(cases.run("linears", ops, rows=40), want) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cases.same_bits(cases.run("linears", ops, rows=40), want)

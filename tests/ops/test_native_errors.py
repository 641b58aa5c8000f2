"""What the native op set refuses, and that it says which argument and which rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.ops import native_cases as cases

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

OPS = native.OpSet(threads=2)
SEG = cases.ragged([5, 3], [0, 70], [1, 0], np.array([[3, 9], [0, 2]]))


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def leaf(outputs: int = 5, inputs: int = 7) -> Any:
    return OPS.matrix(cases.tensor_of(floats(outputs, inputs), "F32"), "f32")


def delta(**change: Any) -> Any:
    given = {
        "q": floats(8, 2, 19),
        "k": floats(8, 2, 19),
        "v": floats(8, 6, 53),
        "log_decay": floats(8, 6),
        "beta": floats(8, 6),
        "seg": SEG,
        "state": OPS.delta_state(2, 6, 19, 53),
    }
    return OPS.gated_delta_rule(*(given | change).values())


def attention(**change: Any) -> Any:
    given = {
        "q": floats(8, 6, 23),
        "k": floats(8, 2, 23),
        "v": floats(8, 2, 23),
        "seg": SEG,
        "kv": OPS.kv_pool(4, 2, 23),
    }
    return OPS.attention(*(given | change).values())


def runs(**change: Any) -> Any:
    given = {"offset": SEG.offset, "start": SEG.start, "slot": SEG.slot, "pages": SEG.pages}
    arrays = {k: np.array(v, np.int32) for k, v in (given | change).items()}
    return SimpleNamespace(**arrays, causal=True, window=None, accepted=None, commit=None)


VALUE_ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "wrong inner size": (lambda: OPS.linears(floats(3, 8), leaf()), "linears: x is (3, 8), expected (T, I) = (?, 7)"),
    "strided x": (lambda: OPS.linears(floats(3, 14)[:, ::2], leaf()), "linears: x is not C-contiguous"),
    "strided last axis": (
        lambda: OPS.l2_norm(floats(3, 14)[:, ::2], 1.0),
        "l2_norm: x is not contiguous in its last axis",
    ),
    "id too large": (
        lambda: OPS.embed(leaf(), np.array([0, 5], np.int32)),
        "embed: ids[1] is 5, expected a row of the table: 0 to 4",
    ),
    "id negative": (lambda: OPS.embed(leaf(), np.array([-1], np.int32)), "embed: ids[0] is -1"),
    "id that would wrap": (
        lambda: OPS.embed(leaf(), np.array([2**32])),
        "embed: ids[0] is 4294967296, expected a row of the table: 0 to 4",
    ),
    "norm weight": (
        lambda: OPS.rms_norm(floats(3, 7), floats(8), 1e-6, True),
        "rms_norm: w is (8,), expected (D,) = (7,)",
    ),
    "pair of shapes": (
        lambda: OPS.silu_mul(floats(3, 7), floats(3, 8)),
        "silu_mul: up is (3, 8), expected (T, D) = (3, 7)",
    ),
    "axis": (
        lambda: OPS.rotary(np.zeros((3, 2), np.int32), floats(2), np.array([0, 3], np.int32)),
        "rotary: axis[1] is 3, expected a row of position: 0 to 2",
    ),
    "too many pairs": (
        lambda: OPS.rope(floats(2, 6, 23), floats(2, 2, 23), (floats(2, 12), floats(2, 12))),
        "rope: cos has N = 12 pairs; a head of E = 23 dims has room for 11",
    ),
    "conv width": (
        lambda: OPS.causal_conv1d(floats(8, 7), floats(7, 17), SEG),
        "causal_conv1d: w has W = 17 taps, expected 1 to 16",
    ),
    "tail": (
        lambda: OPS.causal_conv1d(floats(8, 7), floats(7, 4), SEG, floats(2, 4, 7)),
        "causal_conv1d: tail is (2, 4, 7), expected (slots, W-1, C) = (?, 3, 7)",
    ),
    "state": (
        lambda: delta(state=floats(2, 6, 4, 16, 19)),
        "gated_delta_rule: state is (2, 6, 4, 16, 19), expected (slots, H, V/16, K, 16) = (?, 6, 4, 19, 16)",
    ),
    "beta": (lambda: delta(beta=floats(8, 5)), "gated_delta_rule: beta is (8, 5), expected (T, H) = (8, 6)"),
    "heads": (
        lambda: delta(v=floats(8, 5, 53)),
        "gated_delta_rule: H = 5 heads are not a multiple of G = 2",
    ),
    "slot": (
        lambda: delta(seg=runs(slot=[1, 2])),
        "gated_delta_rule: slot[1] is 2, expected -1 or a row of the pool: -1 to 1",
    ),
    "slot twice": (lambda: delta(seg=runs(slot=[1, 1])), "gated_delta_rule: slot holds 1 twice"),
    "offset start": (lambda: delta(seg=runs(offset=[1, 5, 8])), "gated_delta_rule: offset[0] is 1, expected 0"),
    "offset descends": (
        lambda: delta(seg=runs(offset=[0, 9, 8])),
        "gated_delta_rule: offset[2] is 8, expected at least 9",
    ),
    "offset end": (lambda: delta(seg=runs(offset=[0, 5, 7])), "gated_delta_rule: offset[2] is 7, expected T = 8"),
    "offset length": (
        lambda: delta(seg=runs(offset=[0, 8])),
        "gated_delta_rule: offset is (2,), expected (S+1,) = (3,)",
    ),
    "start": (lambda: attention(seg=runs(start=[0, -1])), "attention: start[1] is -1, expected a number of tokens"),
    "page": (
        lambda: attention(seg=runs(pages=[[3, 9], [0, 4]])),
        "attention: pages[1, 1] is 4, expected a page of the pool: 0 to 3",
    ),
    "page negative": (lambda: attention(seg=runs(pages=[[-1, 9], [0, 2]])), "attention: pages[0, 0] is -1"),
    "pages missing": (
        lambda: attention(seg=runs(pages=[[3], [0]])),
        "attention: pages has 1 columns; run 1 of 73 tokens needs 2",
    ),
    "pool": (
        lambda: attention(kv=OPS.kv_pool(4, 2, 24)),
        "attention: kv[0] is (4, 2, 24, 64), expected (pages, G, E, 64) = (?, 2, 23, 64)",
    ),
    "bf16 pool": (
        lambda: attention(kv=OPS.kv_pool(4, 2, 48, "bf16")),
        "attention: kv[0] is (4, 2, 4, 32, 16, 2), expected (pages, G, 4, pairs, 16, 2) = (?, 2, 4, 16, 16, 2)",
    ),
    "q8 pool": (
        lambda: attention(kv=(OPS.kv_pool(4, 2, 23, "q8")[0], OPS.kv_pool(4, 2, 48, "q8")[1])),
        "attention: kv[1] is (4, 2, 2, 2176), expected (pages, G, groups, 2176) = (4, 2, 1, 2176)",
    ),
    "kv format": (lambda: OPS.kv_pool(4, 2, 23, "fp8"), "kv is 'fp8'; 'f32' or 'bf16' or 'q8' is allowed"),
    "fmt": (lambda: OPS.matrix(cases.tensor_of(floats(2, 3), "F32"), "q5"), "fmt is 'q5'; the native op set packs"),
    "matrix of one dimension": (lambda: OPS.matrix(cases.tensor_of(floats(7), "F32"), "f32"), "has shape (7,)"),
    "isa": (lambda: native.OpSet(isa="sse9"), 'isa is "sse9"; this machine runs'),
    "threads": (lambda: native.OpSet(threads=0), "threads is 0; allowed are 1 to 64"),
}

TYPE_ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "float64": (lambda: OPS.linears(np.ones((3, 7)), leaf()), "linears: x is float64, expected float32"),
    "float64 state": (
        lambda: delta(state=np.zeros((2, 6, 4, 19, 16))),
        "gated_delta_rule: state is float64, expected float32",
    ),
    "pools of two formats": (
        lambda: attention(kv=(OPS.kv_pool(4, 2, 23, "q8")[0], OPS.kv_pool(4, 2, 23)[1])),
        "attention: kv[1] is float32, expected uint8",
    ),
    "int64 slots": (
        lambda: delta(seg=SimpleNamespace(**(vars(runs()) | {"slot": np.array([1, 0])}))),
        "gated_delta_rule: slot is int64, expected int32",
    ),
    "float ids": (lambda: OPS.embed(leaf(), floats(2)), "embed: ids is float32, expected integers"),
    "a list": (lambda: OPS.rms_norm([[1.0] * 7], floats(7), 1e-6, True), "shape"),
}


@pytest.mark.parametrize("name", VALUE_ERRORS)
def test_value_error(name: str) -> None:
    call, message = VALUE_ERRORS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("name", TYPE_ERRORS)
def test_type_error(name: str) -> None:
    call, message = TYPE_ERRORS[name]
    with pytest.raises((TypeError, AttributeError), match=re.escape(message)):
        call()


def test_a_read_only_state_is_refused() -> None:
    state = OPS.delta_state(2, 6, 19, 53)
    state.flags.writeable = False
    with pytest.raises(TypeError):
        delta(state=state)


def test_a_refused_call_changes_nothing() -> None:
    state = OPS.delta_state(2, 6, 19, 53)
    with pytest.raises(ValueError):
        delta(state=state, seg=runs(slot=[1, 2]))
    assert not state.any()


def test_the_valid_calls_these_start_from() -> None:
    assert delta().shape == (8, 6, 53)
    assert attention().shape == (8, 6, 23)
    assert delta(seg=runs()).shape == (8, 6, 53)

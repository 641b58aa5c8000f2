"""The known mistakes, each as a computation: what an operation gives, from Ingot's own inputs, if the mistake is made.

T tokens · H heads (query or value), G key or KV heads, r = H / G · E, K, V head dims · N = half the rotary dims.
"Tiled" heads: value head j * G + g where Hugging Face has g * r + j, the order of GGUF files.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ingot.ops import Segments, reference
from ingot.spec import TextConfig
from tools.compare_layers.case import Case, Trap, regroup
from tools.compare_layers.vision_traps import VISION_TRAPS

Array = np.ndarray


def traps_of(case: Case) -> tuple[Trap, ...]:
    """The mistakes that could have made this tensor."""
    key = case.name.rpartition(".")[2] if case.call.op == "linears" else case.call.op
    return (VISION_TRAPS if case.visual else TRAPS).get(key, ())


def _value_heads(text: TextConfig) -> tuple[int, int]:
    return text.linear_num_key_heads, text.linear_num_value_heads // text.linear_num_key_heads


def _from_tiled(x: Array, text: TextConfig, dim: int) -> Array:
    groups, repeat = _value_heads(text)
    return regroup(x, repeat, groups, dim)


def _to_tiled(x: Array, text: TextConfig, dim: int) -> Array:
    groups, repeat = _value_heads(text)
    return regroup(x, groups, repeat, dim)


def _after_keys(reorder: Callable[[Array, TextConfig, int], Array]) -> Callable[[Array, TextConfig], Array]:
    """The v part of q | k | v columns reordered."""

    def run(x: Array, text: TextConfig) -> Array:
        keys = 2 * text.linear_num_key_heads * text.linear_key_head_dim
        return np.concatenate([x[:, :keys], reorder(x[:, keys:], text, text.linear_value_head_dim)], axis=1)

    return run


_v_from_tiled, _v_to_tiled = _after_keys(_from_tiled), _after_keys(_to_tiled)


def _swap_qk(c: Case) -> Array:
    keys = c.text.linear_num_key_heads * c.text.linear_key_head_dim
    return np.concatenate([c.y[:, keys : 2 * keys], c.y[:, :keys], c.y[:, 2 * keys :]], axis=1)


def _split_key_heads(c: Case) -> Array:
    """Columns [G, (K, K, rV)] as q | k | v."""
    groups, repeat = _value_heads(c.text)
    key, value = c.text.linear_key_head_dim, repeat * c.text.linear_value_head_dim
    parts = np.split(c.y.reshape(len(c.y), groups, 2 * key + value), [key, 2 * key], axis=2)
    return np.concatenate([part.reshape(len(c.y), -1) for part in parts], axis=1)


def _q_gate(c: Case) -> Array:
    return c.y.reshape(len(c.y), c.text.num_attention_heads, 2, c.text.head_dim)


def _half_order(count: int) -> Array:
    """Where dims 0, 2, 4, ..., 1, 3, 5, ... of 2N interleaved rotary dims stand."""
    return np.concatenate([np.arange(0, count, 2), np.arange(1, count, 2)])


def _unpair(x: Array, rotary: int, inverse: bool) -> Array:
    """The first `rotary` of the last axis from interleaved pairs to halves, or back."""
    order = _half_order(rotary)
    order = np.argsort(order) if inverse else order
    return np.concatenate([x[..., order], x[..., rotary:]], axis=-1)


def _q_pairs(inverse: bool) -> Callable[[Case], Array]:
    def run(c: Case) -> Array:
        y = _q_gate(c)
        return np.stack([_unpair(y[:, :, 0], c.text.rotary_dim, inverse), y[:, :, 1]], axis=2)

    return run


def _k_pairs(inverse: bool) -> Callable[[Case], Array]:
    return lambda c: _unpair(c.y.reshape(len(c.y), -1, c.text.head_dim), c.text.rotary_dim, inverse)


def _conv_without_silu(c: Case) -> Array:
    (u,), w, length = c.call.inputs, c.call.fixed[0], len(c.y)
    padded = np.concatenate([np.zeros((w.shape[1] - 1, u.shape[1]), np.float32), u])
    return np.asarray(sum(w[:, j] * padded[j : j + length] for j in range(w.shape[1])))


def _silu(x: Array) -> Array:
    return x * reference.sigmoid(x)


def _gates(c: Case, A_log: Array | None = None, dt_bias: Array | None = None) -> Array:
    own_A, own_bias = c.call.fixed
    return c.definition(fixed=(own_A if A_log is None else A_log, own_bias if dt_bias is None else dt_bias))


def _decay_without_exp(c: Case) -> Array | None:
    a, (A, bias) = c.call.inputs[0], c.call.fixed
    return A * reference.softplus(a + bias) if c.call.result == 0 else None


def _decay_without_softplus(c: Case) -> Array | None:
    a, (A_log, bias) = c.call.inputs[0], c.call.fixed
    return -np.exp(A_log) * (a + bias) if c.call.result == 0 else None


def _tiled_vector(x: Array, c: Case) -> Array:
    return _from_tiled(x[None], c.text, 1)[0]


def _tiled_keys(c: Case) -> Array:
    q, k, v = c.call.inputs[:3]
    repeat = v.shape[1] // q.shape[1]
    return c.definition(np.tile(q, (1, repeat, 1)), np.tile(k, (1, repeat, 1)))


def _tiled_kv(c: Case) -> Array:
    q, k, v = c.call.inputs
    repeat = q.shape[1] // k.shape[1]
    return c.definition(q, np.tile(k, (1, repeat, 1)), np.tile(v, (1, repeat, 1)))


def _forgetful(c: Case) -> Array | None:
    if len(c.run.passes) < 2:
        return None
    return c.definition(lengths=np.diff([*c.run.passes, len(c.y)]).tolist())


def _see_all(c: Case) -> Array:
    q, k, v = c.call.inputs
    return reference.attention(q, k, v, Segments.of_lengths([len(q)], causal=False))


def _mean_norm(c: Case) -> Array:
    (x,), scale = c.call.inputs, c.call.fixed[0]
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def _rope_pairs(c: Case) -> Array:
    rotary = 2 * c.call.fixed[0][0].shape[1]
    q, k = (_unpair(x, rotary, inverse=False) for x in c.call.inputs)
    return _unpair(c.definition(q, k), rotary, inverse=True)


def _rope_whole_head(c: Case) -> Array:
    cos, sin = c.call.fixed[0]
    rest = c.text.head_dim // 2 - cos.shape[1]
    wide = (np.pad(cos, ((0, 0), (0, rest)), constant_values=1), np.pad(sin, ((0, 0), (0, rest))))
    return c.definition(fixed=(wide,))


def _angles(c: Case, first: int = 0, period: int | None = None, theta: float | None = None) -> Array:
    """cos or sin with positions from `first`, frequencies theta ** (-2n / period)."""
    inv_freq, axis = c.call.fixed[1:3]
    if period or theta:
        base = theta or c.text.rope_parameters.rope_theta
        inv_freq = (base ** (-2 * np.arange(len(inv_freq)) / (period or 2 * len(inv_freq)))).astype(np.float32)
    return reference.rotary(c.call.fixed[0] + first, inv_freq, axis)[c.call.result]


def _gate_first(c: Case) -> Array:
    (o, z), (w, eps) = c.call.inputs, c.call.fixed
    return reference.rms_norm(o * _silu(z), w, eps, one_plus=False)


def _tied_head(c: Case) -> Array:
    assert c.run.checkpoint is not None
    return c.call.inputs[0] @ c.matrix(f"{c.run.checkpoint.config.prefix}embed_tokens").T


def _gated_norm(add: float) -> Callable[[Case], Array]:
    return lambda c: c.definition(fixed=(c.call.fixed[0] + np.float32(add), c.call.fixed[1]))


def _gate_sigmoid(c: Case) -> Array:
    (o, z), (w, eps) = c.call.inputs, c.call.fixed
    return reference.rms_norm(o, w, eps, one_plus=False) * reference.sigmoid(z)


def _unscaled(c: Case) -> Array:
    return c.definition(c.call.inputs[0] * np.float32(c.text.head_dim**0.5))


def _norm(add: float) -> Callable[[Case], Array]:
    """x / rms(x) * (w + add)."""

    def run(c: Case) -> Array:
        w, eps, _ = c.call.fixed
        return reference.rms_norm(c.call.inputs[0], w + np.float32(add), eps, one_plus=False)

    return run


_ONCE_MORE = "its state is lost between two passes"
_TILED = "value heads are read as tiled (GGUF's order), not grouped by key head"
_GROUPED = "value heads are put into tiled order (GGUF's)"

TRAPS: dict[str, tuple[Trap, ...]] = {
    "rms_norm": (
        Trap("the norm multiplies by w, not 1 + w: the weights hold the 1 already", _norm(0)),
        Trap("the norm multiplies by 2 + w: the weights have lost a 1, or it is added twice", _norm(2)),
    ),
    "gated_rms_norm": (
        Trap("this norm multiplies by 1 + w: it alone has plain w", _gated_norm(1)),
        Trap("this norm multiplies by w - 1: the weights got a 1 that only the other norms take", _gated_norm(-1)),
        Trap("the gate comes before the norm", _gate_first),
        Trap("the gate is sigmoid, not silu", _gate_sigmoid),
        Trap(_TILED, lambda c: _from_tiled(c.y.reshape(len(c.y), -1), c.text, c.text.linear_value_head_dim)),
    ),
    "q_proj": (
        Trap("each head's gate rows come before its query rows", lambda c: _q_gate(c)[:, :, ::-1]),
        Trap("the rows are read as all queries, then all gates, not head by head",
             lambda c: regroup(c.y, 2, c.text.num_attention_heads, c.text.head_dim)),
        Trap("the rows are put in the order all queries, then all gates, not head by head",
             lambda c: regroup(c.y, c.text.num_attention_heads, 2, c.text.head_dim)),
        Trap("rotary dims are read as pairs (2i, 2i + 1), not halves (i, i + N)", _q_pairs(inverse=False)),
        Trap("rotary dims are put into pairs (2i, 2i + 1), not halves (i, i + N)", _q_pairs(inverse=True)),
    ),
    "k_proj": (
        Trap("rotary dims are read as pairs (2i, 2i + 1), not halves (i, i + N)", _k_pairs(inverse=False)),
        Trap("rotary dims are put into pairs (2i, 2i + 1), not halves (i, i + N)", _k_pairs(inverse=True)),
        Trap("k_proj and v_proj are exchanged", lambda c: c.sibling("v_proj")),
    ),
    "in_proj_qkv": (
        Trap(_TILED, lambda c: _v_from_tiled(c.y, c.text)),
        Trap(_GROUPED, lambda c: _v_to_tiled(c.y, c.text)),
        Trap("q and k rows are exchanged", _swap_qk),
        Trap("the rows are read key head by key head (q, k, v of each: Qwen3-Next), not q | k | v", _split_key_heads),
    ),
    "in_proj_z": (
        Trap(_TILED, lambda c: _from_tiled(c.y, c.text, c.text.linear_value_head_dim)),
        Trap(_GROUPED, lambda c: _to_tiled(c.y, c.text, c.text.linear_value_head_dim)),
    ),
    "in_proj_b": (
        Trap("in_proj_a and in_proj_b are exchanged", lambda c: c.sibling("in_proj_a")),
        Trap(_TILED, lambda c: _from_tiled(c.y, c.text, 1)),
        Trap(_GROUPED, lambda c: _to_tiled(c.y, c.text, 1)),
    ),
    "in_proj_a": (
        Trap(_TILED, lambda c: _from_tiled(c.y, c.text, 1)),
        Trap(_GROUPED, lambda c: _to_tiled(c.y, c.text, 1)),
    ),
    "out_proj": (
        Trap(_TILED.replace("value heads", "its columns"),
             lambda c: c.definition(_to_tiled(c.call.inputs[0], c.text, c.text.linear_value_head_dim))),
        Trap(_GROUPED.replace("value heads", "its columns"),
             lambda c: c.definition(_from_tiled(c.call.inputs[0], c.text, c.text.linear_value_head_dim))),
    ),
    "gate_proj": (Trap("gate_proj and up_proj are exchanged", lambda c: c.sibling("up_proj")),),
    "lm_head": (
        Trap("the head is the embedding table (tied)", _tied_head),
    ),
    "causal_conv1d": (
        Trap("the taps are reversed: the last one belongs to the current token",
             lambda c: c.definition(fixed=(c.call.fixed[0][:, ::-1],))),
        Trap("SiLU is left out", _conv_without_silu),
        Trap(_TILED, lambda c: c.definition(fixed=(_v_from_tiled(c.call.fixed[0].T, c.text).T,))),
        Trap(_ONCE_MORE, _forgetful),
    ),
    "l2_norm": (
        Trap("the mean of squares is taken, not the sum", _mean_norm),
        Trap("q is not scaled by K ** -0.5", lambda c: c.definition(fixed=(1.0,))),
    ),
    "delta_gates": (
        Trap("A_log holds -exp(A_log) already, as in GGUF files", _decay_without_exp),
        Trap("softplus is left out", _decay_without_softplus),
        Trap("dt_bias is left out", lambda c: _gates(c, dt_bias=np.zeros_like(c.call.fixed[1]))),
        Trap("A_log is read as tiled (GGUF's order), not grouped by key head",
             lambda c: _gates(c, A_log=_tiled_vector(c.call.fixed[0], c))),
        Trap("dt_bias is read as tiled (GGUF's order), not grouped by key head",
             lambda c: _gates(c, dt_bias=_tiled_vector(c.call.fixed[1], c))),
    ),
    "gated_delta_rule": (
        Trap("value head h reads key head h % G, not h // (H // G)", _tiled_keys),
        Trap(_ONCE_MORE, _forgetful),
        Trap("the state never decays", lambda c: c.definition(*c.call.inputs[:3], np.zeros_like(c.call.inputs[3]))),
        Trap("beta is left out", lambda c: c.definition(*c.call.inputs[:4], np.ones_like(c.call.inputs[4]))),
    ),
    "rotary": (
        Trap("positions begin at 1", lambda c: _angles(c, first=1)),
        Trap("frequencies run over the whole head, not its rotary dims", lambda c: _angles(c, period=c.text.head_dim)),
        Trap("rope_theta is 10,000", lambda c: _angles(c, theta=1e4)),
        Trap("rope_theta is 10,000,000", lambda c: _angles(c, theta=1e7)),
    ),
    "rope": (
        Trap("dims rotate in pairs (2i, 2i + 1), not halves (i, i + N)", _rope_pairs),
        Trap("the whole head is halved (i, i + E / 2), not its rotary dims (i, i + N)", _rope_whole_head),
        Trap("nothing is rotated", lambda c: c.call.inputs[c.call.result]),
    ),
    "attention": (
        Trap("query head h reads KV head h % G, not h // (H // G)", _tiled_kv),
        Trap(_ONCE_MORE, _forgetful),
        Trap("tokens see the ones after them", _see_all),
        Trap("scores are not scaled by E ** -0.5", _unscaled),
    ),
    "sigmoid_mul": (Trap("the gate is silu, not sigmoid", lambda c: c.call.inputs[0] * _silu(c.call.inputs[1])),),
    "silu_mul": (Trap("gate and up are exchanged", lambda c: reference.silu_mul(*c.call.inputs[::-1])),),
}  # fmt: skip

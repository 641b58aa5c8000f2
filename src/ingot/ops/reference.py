"""The definition of every operation, in plain numpy and fp32: hold it beside the paper.

T tokens · D hidden · F intermediate · Z vocabulary · attention H query heads, G KV heads, E head dim, N = half the
rotary dims · delta net H value heads, G key heads, K key dim, V value dim, C conv channels, W conv width · S runs of
`Segments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ingot.ops.choice import choose as choose  # the definitions have a file of their own
from ingot.ops.choice import rank as rank
from ingot.ops.segments import PAGE, Segments

Array = np.ndarray

KV_FORMATS = ("f32", "bf16", "q8")
GROUP = 32  # elements of a key or value that share a scale in q8


class Stored(Protocol):
    """A tensor as a file stores it (`ingot.store.Tensor`)."""

    def float32(self) -> Array: ...


class Node:
    """A named place in the weights tree; called, it runs its graph function: node(ops, ...) == forward(ops, node,
    ...)."""

    def __init__(self, forward: Callable[..., Any] | None = None, config: Any = None) -> None:
        self.forward, self.config = forward, config

    def __call__(self, ops: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.forward is not None
        return self.forward(ops, self, *args, **kwargs)


class Matrix:
    """A weight [O, I], and perhaps a `bias` [O]: called, it maps x_TI to x @ weight.T + bias."""

    bias: Array | None = None

    def __init__(self, weight_OI: Array) -> None:
        self.weight, self.shape = weight_OI, weight_OI.shape

    def __call__(self, x_TI: Array) -> Array:
        y_TO = x_TI @ self.weight.T
        return y_TO if self.bias is None else y_TO + self.bias


def matrix(tensor: Stored, fmt: str = "f32") -> Matrix:
    """A matrix leaf; the reference computes in fp32 whatever the stored format, so `fmt` must be "f32"."""
    if fmt != "f32":
        raise ValueError(f"fmt is {fmt!r}; the reference op set holds its weights as 'f32'")
    weight = tensor.float32()
    return Matrix(weight.reshape(len(weight), -1))


def embedding(tensor: Stored, fmt: str = "f32", tied: bool = False) -> Matrix:
    """The embedding leaf [Z, D]; a tied one is called as the head too."""
    return matrix(tensor, fmt)


def vector(tensor: Stored) -> Array:
    """A small fp32 parameter (norm, bias, decay, convolution) in its stored shape."""
    return tensor.float32()


def items(nodes: list[Any]) -> list[Any]:
    """The tree's container for numbered children."""
    return nodes


def segments(seg: Segments) -> Segments:
    """The pass's runs in the form this op set reads."""
    return seg


def embed(table: Matrix, ids_T: Array) -> Array:
    """Rows of the table: x_TD."""
    return table.weight[ids_T]


def linears(x_TI: Array, *leaves: Callable[[Array], Array]) -> tuple[Array, ...]:
    """The matmul primitive: each leaf applied to the same x_TI."""
    return tuple(leaf(x_TI) for leaf in leaves)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)


def softplus(x: Array) -> Array:
    """log(1 + e^x), linear above 20 as in torch."""
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20)))).astype(np.float32)


def rms_norm(x: Array, w: Array, eps: float, one_plus: bool) -> Array:
    """x / sqrt(mean(x^2) + eps) * (1 + w, or w) over the last axis."""
    scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps))
    return x * scale * (1 + w if one_plus else w)


def layer_norm(x: Array, w: Array, b: Array, eps: float) -> Array:
    """(x - mean(x)) / sqrt(var(x) + eps) * w + b over the last axis."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + np.float32(eps)) * w + b


def gelu(x: Array, tanh: bool) -> Array:
    """x times the normal distribution's function at x; with `tanh` its approximation
    x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    if tanh:
        return x * sigmoid(np.float32(2 * math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x))
    return (x * (0.5 + 0.5 * _erf(x.astype(np.float64) / math.sqrt(2)))).astype(np.float32)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def gated_rms_norm(o_THV: Array, z_THV: Array, w_V: Array, eps: float) -> Array:
    """rms_norm(o) * w * silu(z): norm first, then gate; the weight is plain w and shared by the heads."""
    return rms_norm(o_THV, w_V, eps, one_plus=False) * (z_THV * sigmoid(z_THV))


def silu_mul(gate_TF: Array, up_TF: Array) -> Array:
    """silu(gate) * up."""
    return gate_TF * sigmoid(gate_TF) * up_TF


def sigmoid_mul(o: Array, gate: Array) -> Array:
    """o * sigmoid(gate)."""
    return o * sigmoid(gate)


def rotary(position_3T: Array, inv_freq_N: Array, axis_N: Array, scale: float = 1.0) -> tuple[Array, Array]:
    """cos_TN, sin_TN of the rotary angles; frequency n follows the position on axis_N[n].

    The angle is a product rounded to fp32, as in every implementation the weights have met: at position 200,000 an
    exact product would differ by 0.01 radian.
    """
    angle_TN = position_3T[axis_N].T.astype(np.float32) * inv_freq_N
    angle = angle_TN.astype(np.float64)
    return (np.cos(angle) * scale).astype(np.float32), (np.sin(angle) * scale).astype(np.float32)


def rope(q_THE: Array, k_TGE: Array, rotary: tuple[Array, Array]) -> tuple[Array, Array]:
    """q and k with their first 2N dims rotated, dim i paired with dim i + N; the others pass through."""
    return _rotate(q_THE, *rotary), _rotate(k_TGE, *rotary)


def _rotate(x_THE: Array, cos_TN: Array, sin_TN: Array) -> Array:
    n = cos_TN.shape[1]
    cos, sin = cos_TN[:, None], sin_TN[:, None]
    a, b = x_THE[..., :n], x_THE[..., n : 2 * n]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x_THE[..., 2 * n :]], axis=-1)


def causal_conv1d(
    u_TC: Array, w_CW: Array, seg: Segments, tail: Array | None = None, drafts: Array | None = None
) -> Array:
    """silu(sum_j w[:, j] * u[t - (W-1) + j]): a depthwise convolution over the sequence's own past, then SiLU.

    `tail` [slots, W-1, C] holds the last rows of u before a run and is updated in place; without it the past is zeros.
    The same zero past begins every sequence, so packed sequences cannot leak into one another. `drafts` [windows, L, R]
    begin with the rows of u that the tail has not taken (`delta_drafts`).
    """
    (channels, width), out = w_CW.shape, np.empty_like(u_TC)
    for s in range(len(seg.start)):
        begin, taken, commit, end = _span(seg, s)
        kept = _row(tail, seg, s)
        past = np.zeros((width - 1, channels), np.float32) if kept is None or seg.start[s] == 0 else kept
        waiting = None if drafts is None or seg.window is None else drafts[seg.window[s]]
        if taken:
            past = np.concatenate([past, waiting[:taken, :channels]])  # type: ignore[index]
        u = np.concatenate([past, u_TC[begin:end]])
        first = len(past) - (width - 1)
        total = sum((w_CW[:, j] * u[first + j :][: end - begin] for j in range(width)), np.zeros_like(u_TC[begin:end]))
        out[begin:end] = total * sigmoid(total)
        if kept is not None:
            kept[:] = u[first + commit - begin :][: width - 1]
        if waiting is not None:
            waiting[: end - commit, :channels] = u_TC[commit:end]
    return out


def _span(seg: Segments, s: int) -> tuple[int, int, int, int]:
    """Of run s: its first token, the drafts that its state takes before, the first token that it does not take, the
    end."""
    begin, end = int(seg.offset[s]), int(seg.offset[s + 1])
    if seg.accepted is None or seg.commit is None:
        return begin, 0, end, end
    return begin, int(seg.accepted[s]), begin + int(seg.commit[s]), end


def _row(pool: Array | None, seg: Segments, s: int) -> Array | None:
    """What run s goes on from and leaves, a row of the pool; None where there is none, or nothing to add to it."""
    begin, taken, _, end = _span(seg, s)
    return None if pool is None or seg.slot[s] < 0 or (begin == end and not taken) else pool[seg.slot[s]]


def l2_norm(x: Array, scale: float, eps: float = 1e-6) -> Array:
    """x / sqrt(sum(x^2) + eps) * scale over the last axis: the sum, not the mean."""
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + np.float32(eps)) * np.float32(scale)


def delta_gates(a_TH: Array, b_TH: Array, A_log_H: Array, dt_bias_H: Array) -> tuple[Array, Array]:
    """log_decay_TH = -e^A_log softplus(a + dt_bias) and beta_TH = sigmoid(b).

    The decay stays a logarithm: the chunked form of the rule sums it, and e^-200 would be lost.
    """
    return -np.exp(A_log_H) * softplus(a_TH + dt_bias_H), sigmoid(b_TH)


def gated_delta_rule_step(
    q_HK: Array, k_HK: Array, v_HV: Array, decay_H: Array, beta_H: Array, state_HVK: Array
) -> Array:
    """One token of the gated delta rule; updates the state in place and returns the read-out o_HV.

        S <- decay S                        forget
        S <- S + beta (v - S k) k^T         correct what the memory predicts for k
        o  = S q                            read

    q and k arrive L2-normalised and repeated to the H value heads; q carries K ** -0.5. All fp32: a bf16 state costs
    1-2 % of o on heads that decay slowly. Source: Gated Delta Networks (arXiv 2412.06464), eq. 10.
    """
    state_HVK *= decay_H[:, None, None]
    delta_HV = beta_H[:, None] * (v_HV - np.einsum("hvk,hk->hv", state_HVK, k_HK))
    state_HVK += delta_HV[:, :, None] * k_HK[:, None, :]
    return np.einsum("hvk,hk->hv", state_HVK, q_HK)


def gated_delta_rule(
    q_TGK: Array,
    k_TGK: Array,
    v_THV: Array,
    log_decay_TH: Array,
    beta_TH: Array,
    seg: Segments,
    state: Array | None = None,
    drafts: Array | None = None,
) -> Array:
    """o_THV, token by token; value head h reads key head h // (H // G). `state` [slots, H, V, K] is updated in place;
    `drafts` [windows, L, R] end with the k, v, decay and beta that it has not taken (`delta_drafts`)."""
    decay_TH, out = np.exp(log_decay_TH), np.empty_like(v_THV)
    for s in range(len(seg.start)):
        begin, taken, commit, end = _span(seg, s)
        S_HVK = np.zeros((*v_THV.shape[1:], k_TGK.shape[2]), np.float32)
        kept = _row(state, seg, s)
        if kept is not None and seg.start[s] > 0:
            S_HVK[:] = kept
        waiting = None if drafts is None or seg.window is None else drafts[seg.window[s]]
        for row_R in waiting[:taken] if taken else ():  # type: ignore[index]
            k_GK, v_HV, decay_H, beta_H = _update(row_R, k_TGK.shape[1:], v_THV.shape[1:])
            _step(k_GK, k_GK, v_HV, decay_H, beta_H, S_HVK)
        for t in range(begin, end + 1):
            if t == commit and kept is not None:
                kept[:] = S_HVK
            if t < end:
                out[t] = _step(q_TGK[t], k_TGK[t], v_THV[t], decay_TH[t], beta_TH[t], S_HVK)
        if commit < end and waiting is not None:
            parts = [x[commit:end].reshape(end - commit, -1) for x in (k_TGK, v_THV, decay_TH, beta_TH)]
            update_NR = np.concatenate(parts, axis=1)
            waiting[: end - commit, -update_NR.shape[1] :] = update_NR
    return out


def _step(q_GK: Array, k_GK: Array, v_HV: Array, decay_H: Array, beta_H: Array, state_HVK: Array) -> Array:
    repeat = len(v_HV) // len(k_GK)
    q_HK, k_HK = np.repeat(q_GK, repeat, axis=0), np.repeat(k_GK, repeat, axis=0)
    return gated_delta_rule_step(q_HK, k_HK, v_HV, decay_H, beta_H, state_HVK)


def _update(row_R: Array, key_shape: tuple[int, ...], value_shape: tuple[int, ...]) -> tuple[Array, ...]:
    """k_GK, v_HV, decay_H and beta_H, with which a row of drafts ends."""
    shapes = key_shape, value_shape, value_shape[:1], value_shape[:1]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(row_R[-int(ends[-1]) :], ends[:-1])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


def attention(q_THE: Array, k_TGE: Array, v_TGE: Array, seg: Segments, kv: tuple[Array, Array] | None = None) -> Array:
    """o_THE = softmax(q k^T / sqrt(E)) v over the sequence's keys up to each token's own; query head h reads KV head h
    // (H // G).

    `kv` is a pair of page pools (`kv_pool`): the run's k and v are stored first, then everything is read as stored.
    """
    out = np.empty_like(q_THE)
    for s in range(len(seg.start)):
        rows = slice(seg.offset[s], seg.offset[s + 1])
        start, k_SGE, v_SGE = 0, k_TGE[rows], v_TGE[rows]
        if kv is not None:
            start = int(seg.start[s])
            total = start + len(k_SGE)
            k_SGE, v_SGE = (
                _store_and_read(p, x, seg.pages[s], start, total) for p, x in zip(kv, (k_SGE, v_SGE), strict=True)
            )
        out[rows] = _attend(q_THE[rows], k_SGE, v_SGE, start, seg.causal)
    return out


def _store_and_read(pool: Array, x_TGE: Array, pages_P: Array, start: int, total: int) -> Array:
    at = np.arange(start, total)
    pool[pages_P[at // PAGE], at % PAGE] = _encode_kv(x_TGE, pool.dtype)
    at = np.arange(total)
    return _decode_kv(pool[pages_P[at // PAGE], at % PAGE], x_TGE.shape[-1])


def _encode_kv(x: Array, dtype: np.dtype) -> Array:
    """Keys or values [..., E] as a pool of that dtype stores them."""
    if dtype == np.float32:
        return x
    if dtype == np.uint16:
        return (_bf16(x).view(np.uint32) >> 16).astype(np.uint16)
    count = -(-x.shape[-1] // GROUP)
    groups = np.zeros((*x.shape[:-1], count * GROUP), np.float32)
    groups[..., : x.shape[-1]] = x
    groups = groups.reshape(*x.shape[:-1], count, GROUP)
    scale = _bf16(np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127))
    whole = np.rint(groups / np.where(scale == 0, np.float32(1), scale)) * (scale != 0)
    stored = (scale.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    return np.concatenate([stored, whole.astype(np.int8).view(np.uint8)], axis=-1)


def _decode_kv(stored: Array, size: int) -> Array:
    """float32 [..., size] of what `_encode_kv` gave; q8 becomes bf16 on the way."""
    if stored.dtype == np.float32:
        return stored
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    scale = _decode_kv(np.ascontiguousarray(stored[..., :2]).view("<u2"), 1)
    x = _bf16(np.ascontiguousarray(stored[..., 2:]).view(np.int8) * scale)
    return x.reshape(*stored.shape[:-2], GROUP * stored.shape[-2])[..., :size]


def _bf16(x: Array) -> Array:
    """The nearest bf16 of finite x, ties to even, as float32; zero below 2^-56, where AMX and others would part."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    return np.where(np.abs(x) < np.float32(2.0**-56), np.float32(0), nearest)


def _attend(q_THE: Array, k_SGE: Array, v_SGE: Array, start: int, causal: bool) -> Array:
    tokens, dim, repeat = q_THE.shape[0], q_THE.shape[2], q_THE.shape[1] // k_SGE.shape[1]
    k_SHE, v_SHE = np.repeat(k_SGE, repeat, axis=1), np.repeat(v_SGE, repeat, axis=1)
    score_HTS = np.einsum("the,she->hts", q_THE, k_SHE) * np.float32(dim**-0.5)
    if causal:
        future = np.arange(len(k_SGE))[None] > start + np.arange(tokens)[:, None]
        score_HTS = np.where(future, np.float32(-np.inf), score_HTS)
    score_HTS = np.exp(score_HTS - score_HTS.max(axis=-1, keepdims=True))
    weight_HTS = score_HTS / score_HTS.sum(axis=-1, keepdims=True)
    return np.einsum("hts,she->the", weight_HTS, v_SHE)


def conv_tail(slots: int, width: int, channels: int) -> Array:
    """Zeros for the convolution's past: [slots, W-1, C]."""
    return np.zeros((slots, width - 1, channels), np.float32)


def delta_state(slots: int, heads: int, key_dim: int, value_dim: int) -> Array:
    """Zeros for the delta rule's memory: [slots, H, V, K]."""
    return np.zeros((slots, heads, value_dim, key_dim), np.float32)


def delta_drafts(windows: int, length: int, channels: int, keys: int, heads: int, value_dim: int) -> Array:
    """Zeros for `length` tokens of a sequence that its tail and state have not taken, each a row of u [C], k [`keys`],
    v [H, V], decay [H] and beta [H]: all that an update needs."""
    return np.zeros((windows, length, channels + keys + heads * (value_dim + 2)), np.float32)


def kv_pool(pages: int, kv_heads: int, head_dim: int, fmt: str = "f32") -> tuple[Array, Array]:
    """Zeros for the pages of K and of V: a pair of [pages, PAGE, G, E], whose dtype says the format.

    f32   float32
    bf16  uint16, the upper half of the nearest float32
    q8    uint8 [pages, PAGE, G, E/32, 34]: for 32 elements a bf16 scale (max|x| / 127) and 32 int8 (x / scale rounded)
    """
    check_kv_format(fmt)
    shape: tuple[int, ...] = (pages, PAGE, kv_heads, head_dim)
    if fmt == "q8":
        shape = (pages, PAGE, kv_heads, -(-head_dim // GROUP), GROUP + 2)
    dtype = {"f32": np.float32, "bf16": np.uint16, "q8": np.uint8}[fmt]
    return np.zeros(shape, dtype), np.zeros(shape, dtype)


def check_kv_format(fmt: str) -> None:
    """ValueError for what is no format of keys and values."""
    if fmt not in KV_FORMATS:
        raise ValueError(f"kv is {fmt!r}; {' or '.join(map(repr, KV_FORMATS))} is allowed")


def grow(pool: Array, rows: int, kept: int) -> Array:
    """A pool of `rows` rows: the first `kept` of this one, then zeros that take no memory until written."""
    larger = np.zeros((rows, *pool.shape[1:]), pool.dtype)
    larger[:kept] = pool[:kept]
    return larger


def copy_row(pool: Array, source: int, target: int) -> None:
    """Row `target` of a pool becomes row `source`: one slot's state, or one page."""
    pool[target] = pool[source]


def same_row(pool: Array, first: int, second: int) -> bool:
    """Whether two rows of a pool have the same bits."""
    return pool[first].tobytes() == pool[second].tobytes()


def split(x: Array, parts: int) -> tuple[Array, ...]:
    """The last axis in equal parts, each contiguous."""
    return tuple(map(np.ascontiguousarray, np.split(x, parts, axis=-1)))


def resample_grid(table_GD: Array, index_4N: Array, weight_4N: Array) -> Array:
    """x_ND, for each of N the weighted sum of four rows of the table, in order."""
    total = table_GD[index_4N[0]] * weight_4N[0][:, None]
    for index, weight in zip(index_4N[1:], weight_4N[1:], strict=True):
        total = total + table_GD[index] * weight[:, None]
    return total


def scatter_rows(x_TD: Array, rows_R: Array, values_RD: Array) -> Array:
    """x with some rows replaced."""
    y_TD = x_TD.copy()
    y_TD[rows_R] = values_RD
    return y_TD


def concat(*parts: Array) -> Array:
    """The parts side by side on the last axis."""
    return np.concatenate(parts, axis=-1)


def concat_rows(parts: Sequence[Array]) -> Array:
    """The parts one below the other."""
    return np.concatenate(parts)


def take(x_TD: Array, rows_R: Array) -> Array:
    """Some rows of x_TD."""
    return x_TD[rows_R]


def host(x: Array) -> Array:
    """The array as numpy fp32 on the host."""
    return x

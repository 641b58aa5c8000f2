"""Inputs for the native kernels: one function an op, drawn from a seed; results are in the reference's layout.

No two dimensions are equal, and none is a multiple of the 16 lanes, the 64 keys of a page or a register tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ingot.ops.segments import PAGE, Segments
from ingot.store.tensor import Tensor, tensor_of

Array = np.ndarray


def draw(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32)


def ragged(lengths: Iterable[int], starts: Iterable[int], slots: Iterable[int], pages: Array | None = None) -> Segments:
    offset = np.concatenate([[0], np.cumsum(list(lengths))]).astype(np.int32)
    start, slot = np.array(list(starts), np.int32), np.array(list(slots), np.int32)
    table = np.zeros((len(start), 0), np.int32) if pages is None else pages.astype(np.int32)
    return Segments(offset, start, np.zeros((3, offset[-1]), np.int32), slot, table)


def is_native(ops: Any) -> bool:
    return hasattr(ops, "isa")


def state_of(ops: Any, state_SHVK: Array) -> Array:
    """A delta state in the op set's layout."""
    slots, heads, value_dim, key_dim = state_SHVK.shape
    pool = ops.delta_state(slots, heads, key_dim, value_dim)
    if not is_native(ops):
        pool[:] = state_SHVK
        return pool
    padded = np.zeros((slots, heads, pool.shape[2] * 16, key_dim), np.float32)
    padded[:, :, :value_dim] = state_SHVK
    pool[:] = padded.reshape(slots, heads, -1, 16, key_dim).swapaxes(3, 4)
    return pool


def plain_state(ops: Any, pool: Array, value_dim: int) -> Array:
    if not is_native(ops):
        return pool
    slots, heads, strips, key_dim, lanes = pool.shape
    return pool.swapaxes(3, 4).reshape(slots, heads, strips * lanes, key_dim)[:, :, :value_dim]


def pages_of(ops: Any, k_PSGE: Array, v_PSGE: Array) -> tuple[Array, Array]:
    """A pair of page pools in the op set's layout."""
    keys, values = ops.kv_pool(len(k_PSGE), *k_PSGE.shape[2:])
    keys[:] = k_PSGE.transpose(0, 2, 3, 1) if is_native(ops) else k_PSGE
    values[:] = v_PSGE.transpose(0, 2, 1, 3) if is_native(ops) else v_PSGE
    return keys, values


def plain_pages(ops: Any, kv: tuple[Array, Array]) -> tuple[Array, Array]:
    if not is_native(ops):
        return kv
    return kv[0].transpose(0, 3, 1, 2), kv[1].transpose(0, 2, 1, 3)


def weights(rng: np.random.Generator, outputs: int, inputs: int) -> Tensor:
    """bf16 values, which every format holds exactly."""
    return tensor_of(draw(rng, outputs, inputs), "BF16")


def embed(ops: Any, rng: np.random.Generator) -> tuple[Array, ...]:
    return (ops.embed(ops.embedding(weights(rng, 53, 37)), np.array([52, 0, 17, 16, 15], np.int32)),)


def linears(
    ops: Any, rng: np.random.Generator, rows: int = 29, inputs: int = 67, fmt: str = "f32"
) -> tuple[Array, ...]:
    x_TI, stored = draw(rng, rows, inputs), [weights(rng, outputs, inputs) for outputs in (149, 5, 48)]
    return ops.linears(x_TI, *[ops.matrix(w, fmt if is_native(ops) else "f32") for w in stored])


def norms(ops: Any, rng: np.random.Generator) -> tuple[Array, ...]:
    wide = draw(rng, 7, 3, 2, 45)
    x, z, w = wide[:, :, 0], draw(rng, 7, 3, 45), draw(rng, 45)
    rows = draw(rng, 9, 91)
    return (
        ops.rms_norm(x, w, 1e-6, True),
        ops.rms_norm(rows[:, :45], w, 1e-3, False),
        ops.gated_rms_norm(z, x, w, 1e-6),
        ops.layer_norm(x, w, draw(rng, 45), 1e-6),
        ops.layer_norm(rows + 10, draw(rng, 91), draw(rng, 91), 1e-6),
        ops.l2_norm(rows[:, 3:48].reshape(9, 5, 9), 0.3),
    )


def gates(ops: Any, rng: np.random.Generator) -> tuple[Array, ...]:
    a, b = 20 * draw(rng, 11, 39), 20 * draw(rng, 11, 39)
    wide = 20 * draw(rng, 11, 3, 2, 13)
    return (
        ops.silu_mul(a, b),
        ops.gelu(a, True),
        ops.gelu(a / 4, False),
        ops.gelu(b, False),
        ops.sigmoid_mul(b.reshape(11, 3, 13), wide[:, :, 1]),
        *ops.delta_gates(a, b, draw(rng, 39), draw(rng, 39)),
    )


def rope(ops: Any, rng: np.random.Generator) -> tuple[Array, ...]:
    position = rng.integers(0, 262144, (3, 7)).astype(np.int32)
    inv_freq = (0.3 ** np.arange(19)).astype(np.float32)
    turns = ops.rotary(position, inv_freq, (np.arange(19) % 3).astype(np.int32), 1.25)
    return *turns, *ops.rope(draw(rng, 7, 6, 43), draw(rng, 7, 2, 43), turns)


# four runs: fresh, continued, one token, empty; slots and pages permuted, with strangers' data in the gaps
RUNS = ragged(
    [5, 130, 1, 0], [0, 70, 3, 9], [2, 0, 4, 1], np.array([[3, 0, 0, 0], [1, 6, 4, 2], [5, 0, 0, 0], [0] * 4])
)


def conv(ops: Any, rng: np.random.Generator, seg: Segments = RUNS) -> tuple[Array, ...]:
    tail = draw(rng, 5, 3, 147)
    return ops.causal_conv1d(draw(rng, seg.tokens, 147), draw(rng, 147, 4), seg, tail), tail


def delta_inputs(rng: np.random.Generator, tokens: int, heads: int = 6) -> list[Array]:
    """q, k (normalised), v, log_decay, beta; v is a slice, as in the graph."""
    q, k = draw(rng, tokens, 2, 19), draw(rng, tokens, 2, 19)
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True).astype(np.float32) for x in (q, k))
    v = draw(rng, tokens, heads * 53 + 4)[:, 4:].reshape(tokens, heads, 53)
    return [q, k, v, -rng.random((tokens, heads), np.float32), rng.random((tokens, heads), np.float32)]


def delta(ops: Any, rng: np.random.Generator, seg: Segments = RUNS, heads: int = 6) -> tuple[Array, ...]:
    state = state_of(ops, draw(rng, 5, heads, 53, 19))
    o = ops.gated_delta_rule(*delta_inputs(rng, seg.tokens, heads), seg, state)
    return o, plain_state(ops, state, 53)


def attention(
    ops: Any, rng: np.random.Generator, seg: Segments = RUNS, heads: int = 6, dim: int = 23
) -> tuple[Array, ...]:
    kv = pages_of(ops, draw(rng, 8, PAGE, 2, dim), draw(rng, 8, PAGE, 2, dim))
    q, k, v = 2 * draw(rng, seg.tokens, heads, dim), draw(rng, seg.tokens, 2, dim), draw(rng, seg.tokens, 2, dim)
    return ops.attention(q, k, v, seg, kv), *plain_pages(ops, kv)


def filled_pages(ops: Any, rng: np.random.Generator, pages: int, dim: int, fmt: str) -> tuple[Array, Array]:
    """A pair of page pools of two heads whose every key and value was stored by a pass."""
    kv, tokens = ops.kv_pool(pages, 2, dim, fmt), pages * PAGE
    k, v = draw(rng, tokens, 2, dim), draw(rng, tokens, 2, dim)
    ops.attention(draw(rng, tokens, 2, dim), k, v, ragged([tokens], [0], [0], np.arange(pages)[None]), kv)
    return kv


def attention_of(
    fmt: str, ops: Any, rng: np.random.Generator, seg: Segments = RUNS, heads: int = 6, dim: int = 23
) -> tuple[Array, ...]:
    kv = filled_pages(ops, rng, 8, dim, fmt)
    q, k, v = 2 * draw(rng, seg.tokens, heads, dim), draw(rng, seg.tokens, 2, dim), draw(rng, seg.tokens, 2, dim)
    o = ops.attention(q, k, v, seg, kv)
    return o, *(kv if is_native(ops) else ())


def attention_bf16(ops: Any, rng: np.random.Generator, **changes: Any) -> tuple[Array, ...]:
    return attention_of("bf16", ops, rng, **changes)


def attention_q8(ops: Any, rng: np.random.Generator, **changes: Any) -> tuple[Array, ...]:
    return attention_of("q8", ops, rng, **changes)


def stateless(ops: Any, rng: np.random.Generator) -> tuple[Array, ...]:
    seg = replace(Segments.of_lengths([5, 130, 1, 64]), start=np.array([0, 7, 0, 2], np.int32))
    q, k, v = draw(rng, 200, 6, 35), draw(rng, 200, 2, 35), draw(rng, 200, 2, 35)
    return (
        ops.causal_conv1d(draw(rng, 200, 147), draw(rng, 147, 4), seg),
        ops.gated_delta_rule(*delta_inputs(rng, 200), seg),
        ops.attention(q, k, v, seg),
        ops.attention(q, k, v, replace(seg, causal=False)),
    )


def tried(rng: np.random.Generator, length: int, slots: int = 5, windows: int = 4) -> Segments:
    """Some runs, each with or without a slot, a window, a past; drafts to take, to leave, both or none; often all that
    there is room for, or one. Counts that only longer runs have are among them: over a page, over a block."""

    def some(most: int) -> int:
        return int(min(most, rng.choice([0, 1, most, rng.integers(most + 1)])))

    count = int(rng.integers(1, 5))
    slot, window = (rng.permutation(rows)[:count].astype(np.int32) for rows in (slots, windows))
    slot[rng.random(count) < 0.2], window[rng.random(count) < 0.2] = -1, -1
    room = np.where((slot < 0) | (window < 0), 0, length)
    accepted, uncertain = (np.array([some(n) for n in room], np.int32) for _ in range(2))
    start = (accepted + [some(90) for _ in room]) * (rng.random(count) < 0.8)
    commit = np.array([some(70) for _ in room], np.int32)
    seg = ragged(commit + uncertain, start, slot)
    return replace(seg, window=window, accepted=np.minimum(accepted, start).astype(np.int32), commit=commit)


CASES: dict[str, Callable[..., tuple[Array, ...]]] = {
    f.__name__: f
    for f in (embed, linears, norms, gates, rope, conv, delta, attention, attention_bf16, attention_q8, stateless)
}


def run(name: str, ops: Any, seed: int = 0, **settings: Any) -> tuple[Array, ...]:
    return CASES[name](ops, np.random.default_rng(seed), **settings)


def same_bits(a: Iterable[Array], b: Iterable[Array]) -> bool:
    return all(
        x.shape == y.shape and np.array_equal(x.view(np.int32), y.view(np.int32)) for x, y in zip(a, b, strict=True)
    )

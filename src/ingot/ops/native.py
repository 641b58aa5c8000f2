"""The operations on compiled kernels: fp32 between operations, packed weights, the same bits on every CPU.

`OpSet` has the functions of `ops.reference`, over a thread pool and one instruction set. Arrays are numpy float32;
inputs must be C-contiguous, but for those the graph takes as slices (norms, gates and the delta rule's v), whose last
axis must be.
Legend as in `ops.reference`; a vector has 16 lanes, so a packed matrix is panels of 16 outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import ingot._native as _native
from ingot.ops import reference
from ingot.ops.processors import default_threads
from ingot.ops.segments import PAGE, Segments
from ingot.spec.formats import FORMATS, packed_bytes

Array = np.ndarray

LANES = 16  # hardware: floats in one AVX-512 register; every instruction set computes in vectors of this length
CACHE_LINE = 64
Q8_BYTES = reference.GROUP + 2  # of a group in q8: int8 and a bf16 scale
MAX_THREADS = 64  # taste: more never helped a model of this size, and a container may report hundreds of CPUs
TABLE_ROWS = 16  # of a mapped embedding that are in memory at once
STORED = {"F32": "f32", "BF16": "bf16"}  # what is packed as it lies; else it is widened to fp32,
WIDENED = 1 << 22  # so many weights at a time: 16 MB beside the packed ones (taste)
DELTA_MATRICES = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")  # of a mixer, in its kernel's order
FULL_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj")
PACK_VERSION = 2  # of what `matrix` makes of a tensor; raise it with any change, or cache files keep the old layout


def available_isas() -> list[str]:
    """Instruction sets this machine runs, best first; the last is always "scalar"."""
    return list(_native.available_isas())


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """np.empty that begins on a cache line: an aligned load or store of a vector never touches two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return _aligned(np.empty(size + CACHE_LINE, np.uint8), size).view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Zeros that begin on a cache line; pages are not touched before they are used."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return _aligned(np.zeros(size + CACHE_LINE, np.uint8), size).view(dtype).reshape(shape)


def _aligned(raw: Array, size: int) -> Array:
    first = -raw.ctypes.data % CACHE_LINE
    return raw[first : first + size]


class Packed:
    """A matrix leaf [O, I] in panels of 16 outputs: uint8 [O/16, panel bytes], laid out by its format.

    Called, it maps x_TI to x @ weight.T: f32 in f32; bf16 with x rounded to bf16; q8 and q4 with x rounded to int8 in
    groups of 32. A 4-bit group is a scale and 32 entries of one codebook. A `bias` [O] is added afterwards.
    """

    def __init__(self, ops: OpSet, data: Array, shape: tuple[int, int], fmt: str) -> None:
        self.data, self.shape, self.fmt = data, shape, fmt
        self.bias: Array | None = None
        self.native = _native.Matrix(data, fmt, *shape)
        self._ops = ops

    def __call__(self, x_TI: Array) -> Array:
        return self._ops.linears(x_TI, self)[0]


class Embedding:
    """The embedding leaf: its rows are read as stored (mapped from the file, not copied); called, it is the tied head,
    packed."""

    def __init__(self, stored: Any, head: Packed | None) -> None:
        self.stored, self.head, self.shape = stored, head, stored.shape
        self.native = None if head is None else head.native

    def rows(self, ids_T: Array) -> Array:
        """float32 rows of the table. What reading them mapped is given back: the system may map 2 MB for a row."""
        rows_TD = np.empty((len(ids_T), self.shape[1]), np.float32)
        for first in range(0, len(ids_T), TABLE_ROWS):
            some = slice(first, first + TABLE_ROWS)
            rows_TD[some] = self.stored.float32(ids_T[some])
            self.stored.release()
        return rows_TD

    def __call__(self, x_TI: Array) -> Array:
        if self.head is None:
            raise TypeError("this embedding is not the head too: the model does not tie them")
        return self.head(x_TI)


class Node(reference.Node):
    """A named place in the weights tree, with room for what an operation prepared from its leaves."""

    prepared: Any = None


class OpSet:
    """The native op set. `threads` None: one a core that this process may use (`ops.processors`); `isa` None: the best
    of `available_isas()`; `own_kv`: the format of keys and values that a pass without pools keeps for itself."""

    Node = Node
    PACK_VERSION = PACK_VERSION

    def __init__(self, threads: int | None = None, isa: str | None = None, own_kv: str = "f32") -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads is {threads}; allowed are 1 to {MAX_THREADS}, or None for all the process has")
        self._context = _native.Context(threads or min(default_threads(), MAX_THREADS), isa or "")
        self.own_kv = own_kv
        self.isa: str = self._context.isa
        self.threads: int = self._context.threads

    def read_memory(self, data: Array) -> int:
        """The sum of the 64-bit words of uint8 data: what the pool can read and do nothing else."""
        return int(self._context.read_memory(data))

    # leaves and pools

    def matrix(self, tensor: Any, fmt: str = "f32") -> Packed:
        """A stored tensor [O, I] as a packed leaf in `fmt` ("f32", "bf16", "q8" or "q4"), rounded to nearest. Reads it
        once, in order."""
        if fmt not in FORMATS:
            raise ValueError(f"fmt is {fmt!r}; the native op set packs {', '.join(map(repr, FORMATS))}")
        if len(tensor.shape) < 2:
            raise ValueError(f"a matrix has two dimensions or more; this tensor has shape {tensor.shape}")
        stored, outputs = STORED.get(tensor.dtype), tensor.shape[0]
        inputs = math.prod(tensor.shape[1:])
        data = aligned_empty((-(-outputs // LANES), packed_bytes((LANES, inputs), fmt)), np.uint8)
        step = outputs if stored else max(1, WIDENED // inputs // LANES) * LANES
        for first in range(0, outputs, step):
            source = tensor.array if stored else tensor.float32(slice(first, first + step))
            source = np.ascontiguousarray(source.reshape(len(source), -1))
            self._context.pack(source, stored or "f32", data[first // LANES :][: -(-len(source) // LANES)], fmt)
        return Packed(self, data, (outputs, inputs), fmt)

    def packed(self, data: Array, shape: tuple[int, int], fmt: str) -> Packed:
        """The leaf [O, I] that `matrix` gave, from its `data`; nothing is copied."""
        return Packed(self, data, shape, fmt)

    def embedding(self, tensor: Any, fmt: str = "f32", tied: bool = False) -> Embedding:
        """The stored table [Z, D] as an embedding leaf; a tied one is the head too, packed in `fmt`."""
        return Embedding(tensor, self.matrix(tensor, fmt) if tied else None)

    def packed_embedding(self, tensor: Any, data: Array | None, fmt: str) -> Embedding:
        """The leaf that `embedding` gave, from the stored table and the tied head's `data`."""
        return Embedding(tensor, None if data is None else self.packed(data, tensor.shape, fmt))

    def delta_state(self, slots: int, heads: int, key_dim: int, value_dim: int) -> Array:
        """Zeros for the delta rule's memory: [slots, H, V/16, K, 16]."""
        return aligned_zeros((slots, heads, -(-value_dim // LANES), key_dim, LANES))

    def kv_pool(self, pages: int, kv_heads: int, head_dim: int, fmt: str = "f32") -> tuple[Array, Array]:
        """Zeros for the pages of K and of V; `attention` knows the format by the dtype. F is E padded to 32s.

        f32   float32 [pages, G, E, 64]         and [pages, G, 64, E]
        bf16  uint16  [pages, G, 4, F/2, 16, 2] and [pages, G, F/16, 32, 16, 2]: packed matrices [64, E] and [E, 64]
        q8    uint8   [pages, G, 4, F/32, 544]  and [pages, G, F/32, 2176]: the same with scales, `kernels/kv_pages.h`
        """
        reference.check_kv_format(fmt)
        groups = -(-head_dim // reference.GROUP)
        dtype, key, value = {
            "f32": (np.float32, (head_dim, PAGE), (PAGE, head_dim)),
            "bf16": (np.uint16, (4, 16 * groups, LANES, 2), (2 * groups, PAGE // 2, LANES, 2)),
            "q8": (np.uint8, (4, groups, 16 * Q8_BYTES), (groups, PAGE * Q8_BYTES)),
        }[fmt]
        return aligned_zeros((pages, kv_heads, *key), dtype), aligned_zeros((pages, kv_heads, *value), dtype)

    def grow(self, pool: Array, rows: int, kept: int) -> Array:
        """A pool of `rows` rows: the first `kept` of this one, then zeros that take no memory until written."""
        larger = aligned_zeros((rows, *pool.shape[1:]), pool.dtype)
        larger[:kept] = pool[:kept]
        return larger

    # what needs no kernel is the definition itself

    vector = staticmethod(reference.vector)
    items = staticmethod(reference.items)
    segments = staticmethod(reference.segments)
    conv_tail = staticmethod(reference.conv_tail)
    delta_drafts = staticmethod(reference.delta_drafts)
    copy_row = staticmethod(reference.copy_row)
    same_row = staticmethod(reference.same_row)
    concat = staticmethod(reference.concat)
    concat_rows = staticmethod(reference.concat_rows)
    split = staticmethod(reference.split)
    resample_grid = staticmethod(reference.resample_grid)
    scatter_rows = staticmethod(reference.scatter_rows)
    take = staticmethod(reference.take)
    host = staticmethod(reference.host)

    # the operations; definitions in ops.reference

    def embed(self, table: Embedding, ids_T: Array) -> Array:
        """Rows of the table: x_TD. ValueError for an id outside it."""
        ids = np.asarray(ids_T)
        if not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(f"embed: ids is {ids.dtype}, expected integers")
        bad = np.flatnonzero((ids < 0) | (ids >= table.shape[0]))
        if bad.size:
            i, rows = bad[0], table.shape[0]
            raise ValueError(f"embed: ids[{i}] is {ids[i]}, expected a row of the table: 0 to {rows - 1}")
        return table.rows(ids)

    def linears(self, x_TI: Array, *leaves: Callable[[Array], Array]) -> tuple[Array, ...]:
        """y = x @ weight.T for each leaf, packed ones in one parallel region; another leaf is called."""
        packed = [leaf for leaf in leaves if getattr(leaf, "native", None) is not None]
        y = [np.empty((len(x_TI), leaf.shape[0]), np.float32) for leaf in packed]  # type: ignore[attr-defined]
        if packed:
            self._context.linears(x_TI, [leaf.native for leaf in packed], y)  # type: ignore[attr-defined]
            for leaf, y_TO in zip(packed, y, strict=True):
                if getattr(leaf, "bias", None) is not None:
                    y_TO += leaf.bias  # type: ignore[attr-defined]
        if len(packed) == len(leaves):
            return tuple(y)
        done = iter(y)
        return tuple(next(done) if getattr(leaf, "native", None) is not None else leaf(x_TI) for leaf in leaves)

    def rms_norm(self, x: Array, w: Array, eps: float, one_plus: bool) -> Array:
        """x / sqrt(mean(x^2) + eps) * (1 + w, or w) over the last axis."""
        y = np.empty(x.shape, np.float32)
        self._context.rms_norm(x, w, eps, one_plus, y)
        return y

    def layer_norm(self, x: Array, w: Array, b: Array, eps: float) -> Array:
        """(x - mean(x)) / sqrt(var(x) + eps) * w + b over the last axis."""
        y = np.empty(x.shape, np.float32)
        self._context.layer_norm(x, w, b, eps, y)
        return y

    def gelu(self, x: Array, tanh: bool) -> Array:
        """x times the normal distribution's function at x, or its approximation by tanh."""
        y = np.empty(x.shape, np.float32)
        (self._context.gelu_tanh if tanh else self._context.gelu)(x, y)
        return y

    def gated_rms_norm(self, o_THV: Array, z_THV: Array, w_V: Array, eps: float) -> Array:
        """rms_norm(o) * w * silu(z)."""
        y = np.empty(o_THV.shape, np.float32)
        self._context.gated_rms_norm(o_THV, z_THV, w_V, eps, y)
        return y

    def l2_norm(self, x: Array, scale: float, eps: float = 1e-6) -> Array:
        """x / sqrt(sum(x^2) + eps) * scale over the last axis."""
        y = np.empty(x.shape, np.float32)
        self._context.l2_norm(x, scale, eps, y)
        return y

    def silu_mul(self, gate_TF: Array, up_TF: Array) -> Array:
        """silu(gate) * up."""
        y = np.empty(gate_TF.shape, np.float32)
        self._context.silu_mul(gate_TF, up_TF, y)
        return y

    def sigmoid_mul(self, o: Array, gate: Array) -> Array:
        """o * sigmoid(gate)."""
        y = np.empty(o.shape, np.float32)
        self._context.sigmoid_mul(o, gate, y)
        return y

    def rotary(self, position_3T: Array, inv_freq_N: Array, axis_N: Array, scale: float = 1.0) -> tuple[Array, Array]:
        """cos_TN, sin_TN of float32(position on the frequency's axis * inv_freq)."""
        shape = (position_3T.shape[1], len(inv_freq_N))
        cos, sin = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._context.rotary(position_3T, inv_freq_N, axis_N, scale, cos, sin)
        return cos, sin

    def rope(self, q_THE: Array, k_TGE: Array, rotary: tuple[Array, Array]) -> tuple[Array, Array]:
        """q and k with their first 2N dims rotated, dim i paired with dim i + N."""
        q, k = np.empty(q_THE.shape, np.float32), np.empty(k_TGE.shape, np.float32)
        self._context.rope(q_THE, k_TGE, *rotary, q, k)
        return q, k

    def causal_conv1d(
        self, u_TC: Array, w_CW: Array, seg: Segments, tail: Array | None = None, drafts: Array | None = None
    ) -> Array:
        """silu of the depthwise convolution over each run's own past; `tail` and `drafts` are updated in place."""
        c_TC, more = np.empty(u_TC.shape, np.float32), (drafts, seg.window, seg.accepted, seg.commit)
        self._context.causal_conv1d(u_TC, w_CW, seg.offset, seg.start, seg.slot, tail, c_TC, *more)
        return c_TC

    def delta_gates(self, a_TH: Array, b_TH: Array, A_log_H: Array, dt_bias_H: Array) -> tuple[Array, Array]:
        """log_decay_TH = -e^A_log softplus(a + dt_bias) and beta_TH = sigmoid(b)."""
        log_decay, beta = np.empty(a_TH.shape, np.float32), np.empty(b_TH.shape, np.float32)
        self._context.delta_gates(a_TH, b_TH, A_log_H, dt_bias_H, log_decay, beta)
        return log_decay, beta

    def gated_delta_rule(
        self,
        q_TGK: Array,
        k_TGK: Array,
        v_THV: Array,
        log_decay_TH: Array,
        beta_TH: Array,
        seg: Segments,
        state: Array | None = None,
        drafts: Array | None = None,
    ) -> Array:
        """o_THV of the gated delta rule, token by token; `state` and `drafts` are updated in place."""
        o_THV, more = np.empty(v_THV.shape, np.float32), (drafts, seg.window, seg.accepted, seg.commit)
        runs = (seg.offset, seg.start, seg.slot)
        self._context.gated_delta_rule(q_TGK, k_TGK, v_THV, log_decay_TH, beta_TH, *runs, state, o_THV, *more)
        return o_THV

    def delta_layer(
        self, w: Any, x_TD: Array, seg: Segments, rotary: Any, pool: tuple[Array, ...] | None = None
    ) -> Any:
        """A linear-attention layer in one call; NotImplemented where a matrix is not packed, but a leaf of another
        kind."""
        fused = self._layer(w, w.linear_attn, DELTA_MATRICES, _delta_layer)
        if fused is None:
            return NotImplemented
        y_TD, (tail, state, *drafts) = np.empty(x_TD.shape, np.float32), pool or (None, None)
        more = (*(drafts or (None,)), seg.window, seg.accepted, seg.commit)
        self._context.delta_layer(fused, x_TD, seg.offset, seg.start, seg.slot, tail, state, y_TD, *more)
        return y_TD

    def full_layer(
        self,
        w: Any,
        x_TD: Array,
        seg: Segments,
        rotary: tuple[Array, Array],
        kv: tuple[Array, Array] | None = None,
    ) -> Any:
        """A full-attention layer in one call; NotImplemented as in `delta_layer`."""
        fused = self._layer(w, w.self_attn, FULL_MATRICES, _full_layer)
        if fused is None:
            return NotImplemented
        y_TD = np.empty(x_TD.shape, np.float32)
        start, pages = seg.start, seg.pages
        if kv is None:
            text = w.config.text
            kv, start, pages = self._own_pages(seg, text.num_key_value_heads, text.head_dim)
        self._context.full_layer(fused, x_TD, *rotary, seg.offset, start, pages, seg.causal, *kv, y_TD)
        return y_TD

    def _layer(self, w: Any, mixer: Any, names: tuple[str, ...], make: Callable[..., Any]) -> Any:
        """The layer as the kernels hold it, or None; made anew when a leaf was replaced."""
        mlp = w.mlp
        leaves = (*[getattr(mixer, name) for name in names], mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        if w.prepared is None or w.prepared[0] != leaves:
            packed = all(isinstance(leaf, Packed) for leaf in leaves)
            w.prepared = leaves, make(w, [leaf.native for leaf in leaves]) if packed else None
        return w.prepared[1]

    def delta_mixer(self, w: Any, x_TD: Array, seg: Segments, pool: tuple[Array, ...] | None = None) -> Array:
        """y_TD of one Gated DeltaNet layer: all between its matrices in one sweep; `pool` is updated in place."""
        small = _delta_weights(w)
        u_TC, z, b_TH, a_TH = self.linears(x_TD, w.in_proj_qkv, w.in_proj_z, w.in_proj_b, w.in_proj_a)
        y, (tail, state, *drafts) = np.empty(z.shape, np.float32), pool or (None, None)
        runs, more = (seg.offset, seg.start, seg.slot), (*(drafts or (None,)), seg.window, seg.accepted, seg.commit)
        self._context.delta_mixer(small, u_TC, z, b_TH, a_TH, *runs, tail, state, y, *more)
        return self.linears(y, w.out_proj)[0]

    def swiglu(self, w: Any, x_TD: Array) -> Array:
        """y_TD = (silu(x W_gate) * x W_up) W_down, the product rounded for W_down as it is made."""
        gate_TF, up_TF = self.linears(x_TD, w.gate_proj, w.up_proj)
        down = w.down_proj
        if not isinstance(down, Packed) or down.fmt == "f32":
            return self.linears(self.silu_mul(gate_TF, up_TF), down)[0]
        y_TD = np.empty((len(x_TD), down.shape[0]), np.float32)
        self._context.linears(up_TF, [down.native], [y_TD], gate_TF)
        return y_TD

    def attention(
        self, q_THE: Array, k_TGE: Array, v_TGE: Array, seg: Segments, kv: tuple[Array, Array] | None = None
    ) -> Array:
        """softmax(q k^T / sqrt(E)) v; k and v go to their pages first and are read as stored."""
        o_THE = np.empty(q_THE.shape, np.float32)
        start, pages = seg.start, seg.pages
        if kv is None:
            kv, start, pages = self._own_pages(seg, *k_TGE.shape[1:])
        self._context.attention(q_THE, k_TGE, v_TGE, seg.offset, start, pages, seg.causal, *kv, o_THE)
        return o_THE

    def choose(
        self, scores_Z: Array, temperature: float, top_k: int, top_p: float, min_p: float, u: float
    ) -> int | None:
        """The id drawn from softmax(scores / temperature) after top_k, top_p and min_p; None when a score is NaN."""
        token: int | None = self._context.choose(scores_Z, temperature, top_k, top_p, min_p, u)
        return token

    def rank(self, scores_Z: Array, k: int) -> tuple[int, Array] | None:
        """The sum of all scores' weights, and the ids of the k best, best first; None when a score is NaN."""
        ids = np.empty(k, np.int32)
        total: int | None = self._context.rank(scores_Z, ids)
        return None if total is None else (total, ids)

    def _own_pages(self, seg: Segments, kv_heads: int, head_dim: int) -> tuple[tuple[Array, Array], Array, Array]:
        """Pages for one pass: every run begins at its own page 0 and sees its own keys only."""
        counts = -(-np.diff(seg.offset) // PAGE)
        first = np.cumsum(counts) - counts
        pages = (first[:, None] + np.arange(counts.max(initial=0))[None]).astype(np.int32)
        kv = self.kv_pool(int(counts.sum()), kv_heads, head_dim, self.own_kv)
        return kv, np.zeros_like(seg.start), pages


def _delta_layer(w: Any, matrices: list[Any]) -> Any:
    norms = w.input_layernorm, w.post_attention_layernorm
    return _native.DeltaLayer(matrices, *_norms(*norms), _delta_weights(w.linear_attn))


def _full_layer(w: Any, matrices: list[Any]) -> Any:
    norms = w.input_layernorm, w.post_attention_layernorm, w.self_attn.q_norm, w.self_attn.k_norm
    return _native.FullLayer(matrices, *_norms(*norms), w.config.text.head_dim)


def _norms(*leaves: Any) -> tuple[list[Array], float, bool]:
    """Their weights, and what they have in common."""
    one_plus = leaves[0].one_plus
    assert all(leaf.one_plus == one_plus for leaf in leaves)
    return [leaf.weight for leaf in leaves], leaves[0].config.text.rms_norm_eps, one_plus


def _delta_weights(w: Any) -> Any:
    """The small leaves of a linear-attention layer as its kernel reads them: taps [heads, dim/16, W, 16]."""
    if w.prepared is not None:
        return w.prepared
    text, w_CW = w.config.text, w.conv1d.weight[:, 0]
    key_dim, value_dim = text.linear_key_head_dim, text.linear_value_head_dim
    keys = (len(w_CW) - len(w.A_log) * value_dim) // 2

    def taps(rows: Array, dim: int) -> Array:
        padded = np.zeros((len(rows) // dim, -(-dim // LANES) * LANES, rows.shape[1]), np.float32)
        padded[:, :dim] = rows.reshape(-1, dim, rows.shape[1])
        return np.ascontiguousarray(padded.reshape(len(padded), -1, LANES, rows.shape[1]).swapaxes(2, 3))

    parts = taps(w_CW[:keys], key_dim), taps(w_CW[keys : 2 * keys], key_dim), taps(w_CW[2 * keys :], value_dim)
    small = w.A_log, w.dt_bias, w.norm.weight
    w.prepared = _native.DeltaWeights(*parts, *small, key_dim, key_dim**-0.5, text.rms_norm_eps)
    return w.prepared

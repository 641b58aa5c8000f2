"""The op set over torch tensors: differentiable, for training and for GPUs. Same functions as `reference`, which
defines them.

The gated delta rule is in its chunk-parallel form (Gated DeltaNet, sec. 3.3): tokens of every run are gathered into
chunks of `chunk` tokens, everything inside a chunk is batched matmuls, and only the hop from chunk to chunk is
sequential. Runs never share a chunk, so packed documents cannot leak into one another.

T tokens · S runs · N chunks of B tokens · H value heads, G key or KV heads, K key dim, V value dim, E head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ingot.ops.choice import choose, rank
from ingot.ops.segments import PAGE, Segments

# Logits alive at once in the loss: 2**24 fp32 values are 64 MiB (taste).
LOGITS_AT_ONCE = 2**24
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
STORED = ("F32", "BF16", "F16")  # what torch has a dtype for; else tensors are read as fp32


class Node(nn.Module):
    """A named place in the weights tree whose forward is its graph function."""

    def __init__(self, graph: Callable[..., Any] | None = None, config: Any = None) -> None:
        super().__init__()
        self.graph, self.config = graph, config

    def forward(self, ops: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.graph is not None
        return self.graph(ops, self, *args, **kwargs)


class Matrix(nn.Module):
    """A weight [O, I], stored as [O, ...], and perhaps a bias: called, it maps x_TI to x @ weight.T + bias."""

    bias: nn.Parameter | None

    def __init__(self, weight_OI: Tensor, trainable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_OI, requires_grad=trainable)
        self.register_parameter("bias", None)

    def forward(self, x_TI: Tensor) -> Tensor:
        weight = self.weight.flatten(1)
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return F.linear(torch.as_tensor(x_TI, dtype=weight.dtype, device=weight.device), weight, bias)


@dataclass(frozen=True)
class TorchSegments:
    """`Segments` with the gather tables that the batched ops need, as tensors on the model's device."""

    host: Segments
    position: Tensor  # long [3,T]
    run: Tensor  # long [T]      the run of each token
    chunk: Tensor  # long [N,B]    token of each place; T where a chunk has none
    unchunk: Tensor  # long [T]     place of each token in the flat [N*B]
    active: tuple[
        int, ...
    ]  # runs that still have a chunk at each step; chunks are ordered step by step, longest run first
    order: tuple[int, ...]  # run of each row of the first step
    padded: Tensor  # long [S,L]    token of each place of the runs side by side; T where a run has ended
    unpad: Tensor  # long [T]


class OpSet:
    """The operations over torch tensors on `device`; `trainable` says whether leaves collect gradients.

    `chunk` is the most tokens a chunk of the delta rule holds (short runs take less): 64 suits the official key dim of
    128, a small model wants about half its key dim.
    """

    Node = Node

    def __init__(self, device: str = "cpu", trainable: bool = False, chunk: int = 64) -> None:
        self.device, self.trainable, self.chunk = torch.device(device), trainable, chunk

    # -- leaves and allocation

    def matrix(self, tensor: Any, fmt: str = "f32") -> Matrix:
        if fmt not in DTYPES:
            raise ValueError(f"fmt is {fmt!r}; the torch op set holds its weights as {' or '.join(map(repr, DTYPES))}")
        return Matrix(self._load(tensor, DTYPES[fmt]), self.trainable)

    def embedding(self, tensor: Any, fmt: str = "f32", tied: bool = False) -> Matrix:
        """One matrix, which is the head too where the model ties them."""
        return self.matrix(tensor, fmt)

    def vector(self, tensor: Any) -> nn.Parameter:
        """A small parameter; fp32 whatever the matrices are: bf16 gates and norms cost quality and save nothing."""
        return nn.Parameter(self._load(tensor, torch.float32), requires_grad=self.trainable)

    def _load(self, tensor: Any, dtype: torch.dtype) -> Tensor:
        if not isinstance(tensor, Tensor):
            # copies: a memory map must not become a parameter
            bits = torch.tensor(tensor.array if tensor.dtype in STORED else tensor.float32())
            tensor = bits.view(torch.bfloat16) if tensor.dtype == "BF16" else bits
        return tensor.to(self.device, dtype)

    def items(self, nodes: list[Any]) -> nn.ModuleList:
        return nn.ModuleList(nodes)

    def conv_tail(self, slots: int, width: int, channels: int) -> Tensor:
        return torch.zeros(slots, width - 1, channels, device=self.device)

    def delta_state(self, slots: int, heads: int, key_dim: int, value_dim: int) -> Tensor:
        """[slots, H, K, V]: K first, as the chunked products want it."""
        return torch.zeros(slots, heads, key_dim, value_dim, device=self.device)

    def kv_pool(self, pages: int, kv_heads: int, head_dim: int, fmt: str = "f32") -> tuple[Tensor, Tensor]:
        if fmt != "f32":
            raise ValueError(f"kv is {fmt!r}; the torch op set keeps keys and values as 'f32'")
        shape = (pages, PAGE, kv_heads, head_dim)
        return self._zeros(shape), self._zeros(shape)

    def delta_drafts(self, *sizes: int) -> Tensor:
        raise ValueError("the torch op set keeps no drafts; use the native op set to speculate")

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        """Zeros that take no memory on the host before they are written, as numpy has them."""
        return torch.from_numpy(np.zeros(shape, np.float32)).to(self.device)

    def grow(self, pool: Tensor, rows: int, kept: int) -> Tensor:
        larger = self._zeros((rows, *pool.shape[1:]))
        larger[:kept] = pool[:kept]
        return larger

    def copy_row(self, pool: Tensor, source: int, target: int) -> None:
        pool[target] = pool[source]

    def same_row(self, pool: Tensor, first: int, second: int) -> bool:
        return bool((pool[first] == pool[second]).all())

    def segments(self, seg: Segments) -> TorchSegments:
        if isinstance(seg, TorchSegments):
            return seg
        if seg.window is not None:
            raise ValueError("the pass has drafts; the torch op set keeps none")
        tables = _tables(seg, self.chunk)
        tensors = {
            k: torch.from_numpy(v).long().to(self.device) if isinstance(v, np.ndarray) else v for k, v in tables.items()
        }
        return TorchSegments(host=seg, **tensors)

    def host(self, x: Tensor) -> np.ndarray:
        return x.detach().float().cpu().numpy()

    choose = staticmethod(choose)  # over host arrays: one row a token
    rank = staticmethod(rank)

    # -- the small ops

    def embed(self, table: Matrix, ids_T: Any) -> Tensor:
        return F.embedding(torch.as_tensor(ids_T, device=self.device).long(), table.weight)

    def take(self, x_TD: Tensor, rows_R: Any) -> Tensor:
        return x_TD[torch.as_tensor(rows_R, device=self.device).long()]

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.chunk(parts, dim=-1)

    def resample_grid(self, table_GD: Tensor, index_4N: Any, weight_4N: Any) -> Tensor:
        index, weight = (torch.as_tensor(a, device=self.device) for a in (index_4N, weight_4N))
        return (table_GD[index] * weight[..., None]).sum(0)

    def scatter_rows(self, x_TD: Tensor, rows_R: Any, values_RD: Any) -> Tensor:
        rows = torch.as_tensor(rows_R, device=self.device).long()
        return x_TD.index_copy(0, rows, torch.as_tensor(values_RD, dtype=x_TD.dtype, device=self.device))

    def concat_rows(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(parts))

    def concat(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=-1)

    def linears(self, x_TI: Tensor, *leaves: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return tuple(leaf(x_TI) for leaf in leaves)

    def rms_norm(self, x: Tensor, w: Tensor, eps: float, one_plus: bool) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (wide * scale * (1 + w if one_plus else w)).to(x.dtype)

    def layer_norm(self, x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], w, b, eps).to(x.dtype)

    def gelu(self, x: Tensor, tanh: bool) -> Tensor:
        return F.gelu(x, approximate="tanh" if tanh else "none")

    def gated_rms_norm(self, o_THV: Tensor, z_THV: Tensor, w_V: Tensor, eps: float) -> Tensor:
        return (self.rms_norm(o_THV.float(), w_V, eps, False) * F.silu(z_THV.float())).to(z_THV.dtype)

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up

    def sigmoid_mul(self, o: Tensor, gate: Tensor) -> Tensor:
        return o * torch.sigmoid(gate)

    def l2_norm(self, x: Tensor, scale: float, eps: float = 1e-6) -> Tensor:
        wide = x.float()
        return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps) * scale

    def delta_gates(self, a_TH: Tensor, b_TH: Tensor, A_log_H: Tensor, dt_bias_H: Tensor) -> tuple[Tensor, Tensor]:
        return -A_log_H.float().exp() * F.softplus(a_TH.float() + dt_bias_H), torch.sigmoid(b_TH.float())

    def rotary(self, position_3T: Tensor, inv_freq_N: Any, axis_N: Any, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        inv_freq = torch.as_tensor(inv_freq_N, device=self.device)
        angle_TN = position_3T[torch.as_tensor(axis_N, device=self.device).long()].T.float() * inv_freq
        return angle_TN.cos() * scale, angle_TN.sin() * scale

    def rope(self, q_THE: Tensor, k_TGE: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return _rotate(q_THE, *rotary), _rotate(k_TGE, *rotary)

    def causal_conv1d(self, u_TC: Tensor, w_CW: Tensor, seg: TorchSegments, tail: Tensor | None = None) -> Tensor:
        width, wide = w_CW.shape[1], u_TC.float()
        # the runs with W-1 rows of zeros before each: no product needs a mask, and no run sees its neighbour
        place = torch.arange(len(wide), device=wide.device) + (seg.run + 1) * (width - 1)
        spaced = wide.new_zeros(len(wide) + len(seg.host.start) * (width - 1), wide.shape[1]).index_copy(0, place, wide)
        length = len(spaced) - (width - 1)
        total = spaced[:length] * w_CW[:, 0]
        for j in range(1, width):
            total = torch.addcmul(total, spaced[j : j + length], w_CW[:, j])
        total = total.index_select(0, place - (width - 1))
        if tail is not None:
            total = total + _conv_from_tail(w_CW, seg.host, tail, wide)
            _store_tail(wide, seg.host, tail)
        return F.silu(total).to(u_TC.dtype)

    # -- the two mixers' cores

    def gated_delta_rule(
        self,
        q_TGK: Tensor,
        k_TGK: Tensor,
        v_THV: Tensor,
        log_decay_TH: Tensor,
        beta_TH: Tensor,
        seg: TorchSegments,
        state: Tensor | None = None,
    ) -> Tensor:
        repeat = v_THV.shape[1] // q_TGK.shape[1]
        q, k = (x.float().repeat_interleave(repeat, dim=1) for x in (q_TGK, k_TGK))
        q, k, v, g, beta = (
            _Move.apply(x, seg.chunk, seg.unchunk) for x in (q, k, v_THV.float(), log_decay_TH, beta_TH)
        )
        first = None if state is None else _read_states(state, seg)
        o_NBHV, last = _chunked_delta_rule(q, k, v, g, beta, seg.active, first)
        if state is not None:
            state[torch.as_tensor(seg.host.slot[list(seg.order)]).long().to(state.device)] = last
        return _Move.apply(o_NBHV.flatten(0, 1), seg.unchunk, seg.chunk).to(v_THV.dtype)

    def attention(
        self, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, seg: TorchSegments, kv: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        if kv is not None:
            return _paged_attention(q_THE, k_TGE, v_TGE, seg.host, kv)
        q, k, v = (_Move.apply(x, seg.padded, seg.unpad).transpose(1, 2) for x in (q_THE, k_TGE, v_TGE))
        mask = None if seg.host.causal else (seg.padded < len(q_THE))[:, None, None]
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=seg.host.causal, enable_gqa=True)
        return _Move.apply(o.transpose(1, 2).flatten(0, 1), seg.unpad, seg.padded)

    def cross_entropy(
        self, x_TD: Tensor, head: Callable[[Tensor], Tensor], target_T: Tensor, weight_T: Tensor
    ) -> Tensor:
        """sum_t weight[t] * -log softmax(x[t] head)[target[t]], in row chunks whose logits are recomputed in the
        backward."""
        rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])  # type: ignore[attr-defined]

        def part(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            return (F.cross_entropy(head(x).float(), target, reduction="none") * weight).sum()

        if len(x_TD) <= rows:
            return part(x_TD, target_T, weight_T)
        parts = zip(x_TD.split(rows), target_T.split(rows), weight_T.split(rows), strict=True)
        return torch.stack([checkpoint(part, *p, use_reentrant=False) for p in parts]).sum()


def _tables(seg: Segments, chunk: int) -> dict[str, Any]:
    """The gather tables of `TorchSegments` as numpy arrays."""
    lengths = np.diff(seg.offset)
    tokens, longest = seg.tokens, int(lengths.max(initial=0))
    size = min(chunk, 1 << max(longest - 1, 0).bit_length())
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    counts = -(-lengths // size)
    active = [int((counts > n).sum()) for n in range(counts.max(initial=0))]
    places = [
        _places(int(seg.offset[s]) + n * size, int(seg.offset[s + 1]), size, tokens)
        for n, count in enumerate(active)
        for s in order[:count]
    ]
    padded = [_places(int(seg.offset[s]), int(seg.offset[s + 1]), longest, tokens) for s in range(len(lengths))]
    return {
        "position": seg.position,
        "run": np.repeat(np.arange(len(lengths)), lengths),
        "active": tuple(active),
        "order": tuple(int(s) for s in order),
        "chunk": np.array(places),
        "unchunk": _inverse(places, tokens),
        "padded": np.array(padded),
        "unpad": _inverse(padded, tokens),
    }


def _places(start: int, stop: int, size: int, none: int) -> np.ndarray:
    at = np.arange(start, start + size)
    return np.where(at < stop, at, none)


def _inverse(places: list[np.ndarray], tokens: int) -> np.ndarray:
    flat = np.concatenate(places) if places else np.zeros(0, int)
    back = np.zeros(tokens + 1, np.int64)
    back[flat] = np.arange(len(flat))
    return back[:tokens]


class _Move(torch.autograd.Function):
    """Rows of x moved to `there` (index len(x): a row of zeros). `back` undoes it, so the gradient is a gather too: the
    scatter that autograd would use costs five times as much on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return _rows(x, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _rows(grad.flatten(0, there.dim() - 1), back).flatten(0, back.dim() - 1), None, None


def _rows(x: Tensor, places: Tensor) -> Tensor:
    if places.dim() > 1:  # only these tables have empty places
        x = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
    return x.index_select(0, places.flatten()).unflatten(0, places.shape)


def _rotate(x_THE: Tensor, cos_TN: Tensor, sin_TN: Tensor) -> Tensor:
    n = cos_TN.shape[1]
    cos, sin = cos_TN[:, None], sin_TN[:, None]
    a, b = x_THE[..., :n].float(), x_THE[..., n : 2 * n].float()
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x_THE.dtype)
    return torch.cat([turned, x_THE[..., 2 * n :]], dim=-1)


def _chunked_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, active: tuple[int, ...], first: Tensor | None
) -> tuple[Tensor, Tensor]:
    """o_NBHV and the last state of each run (rows in the order of the first step), from [N,B,H,...] chunks; state is
    [S,H,K,V].

    With G the running sum of g inside a chunk and L_ij = exp(G_i - G_j) for i >= j, the B corrections of a chunk solve
    a unit triangular system, which splits into a part that needs no state (U) and one that multiplies it (W):
        (I + tril(beta k k^T L, -1)) [U | W] = beta [v | e^G k]
        delta = U - W S;     o = e^G q S + (q k^T L) delta;     S <- e^G_B S + (e^(G_B - G) k)^T delta
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [N,H,B,.]
    G, beta = g.transpose(1, 2).cumsum(-1), beta.transpose(1, 2)[..., None]  # [N,H,B], [N,H,B,1]
    size = G.shape[-1]
    lower = torch.ones(size, size, dtype=torch.bool, device=G.device).tril()
    L = (
        (G[..., :, None] - G[..., None, :]).masked_fill(~lower, -torch.inf).exp()
    )  # masked first: e^(positive) overflows
    system = (beta * (k @ k.transpose(-1, -2)) * L).tril(-1)
    right = beta * torch.cat([v, G.exp()[..., None] * k], dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    U, W = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    inside = (q @ k.transpose(-1, -2)) * L
    q_in, k_out = q * G.exp()[..., None], k * (G[..., -1:] - G).exp()[..., None]
    keep = G[..., -1].exp()[..., None, None]
    S = q.new_zeros(active[0], q.shape[1], k.shape[-1], v.shape[-1]) if first is None else first
    outs, ended, at = [], [], 0
    for n, count in enumerate(active):
        here = slice(at, at + count)
        delta = U[here] - W[here] @ S
        outs.append(q_in[here] @ S + inside[here] @ delta)
        S = keep[here] * S + k_out[here].transpose(-1, -2) @ delta
        going = active[n + 1] if n + 1 < len(active) else 0
        ended.append(S[going:])
        S, at = S[:going], at + count
    return torch.cat(outs).transpose(1, 2), torch.cat(ended[::-1])


def _read_states(state: Tensor, seg: TorchSegments) -> Tensor:
    order = list(seg.order)
    first = state[torch.as_tensor(seg.host.slot[order]).long().to(state.device)]
    first[torch.as_tensor(seg.host.start[order] == 0).to(state.device)] = 0
    return first


def _conv_from_tail(w_CW: Tensor, seg: Segments, tail: Tensor, u_TC: Tensor) -> Tensor:
    """What the rows before each run add to its first W-1 outputs."""
    width, extra = w_CW.shape[1], torch.zeros_like(u_TC)
    for s in np.flatnonzero(seg.start):
        begin, past = int(seg.offset[s]), tail[int(seg.slot[s])]
        for t in range(min(width - 1, int(seg.offset[s + 1]) - begin)):
            extra[begin + t] = (past[t:] * w_CW[:, : width - 1 - t].T).sum(0)
    return extra


def _store_tail(u_TC: Tensor, seg: Segments, tail: Tensor) -> None:
    kept = tail.shape[1]
    for s in range(len(seg.start)):
        slot, run = int(seg.slot[s]), u_TC[int(seg.offset[s]) : int(seg.offset[s + 1])]
        past = tail[slot] if seg.start[s] > 0 else torch.zeros_like(tail[slot])
        tail[slot] = torch.cat([past, run])[len(run) : len(run) + kept]


def _paged_attention(q: Tensor, k: Tensor, v: Tensor, seg: Segments, kv: tuple[Tensor, Tensor]) -> Tensor:
    out = torch.empty_like(q)
    for s in range(len(seg.start)):
        start, rows = int(seg.start[s]), slice(int(seg.offset[s]), int(seg.offset[s + 1]))
        total = start + rows.stop - rows.start
        at = np.arange(total)
        page, row = (torch.as_tensor(x).long().to(q.device) for x in (seg.pages[s][at // PAGE], at % PAGE))
        for pool, fresh in zip(kv, (k, v), strict=True):
            pool[page[start:], row[start:]] = fresh[rows].to(pool.dtype)
        keys, values = (pool[page, row].transpose(0, 1).to(q.dtype) for pool in kv)
        seen = (
            torch.arange(total, device=q.device)[None] <= start + torch.arange(total - start, device=q.device)[:, None]
        )
        mask = seen if seg.causal else None
        o = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None], keys[None], values[None], mask, enable_gqa=True
        )
        out[rows] = o[0].transpose(0, 1)
    return out

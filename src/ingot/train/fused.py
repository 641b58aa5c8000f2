"""The torch op set with gradients written by hand where autograd's are slow on a CPU: same values, about twice the
speed.

A small model on a CPU is bound by passes over memory, not by products, and autograd makes one pass for every
elementary step. Each function below keeps what its gradient needs and takes few passes; the tests hold values and
gradients against `OpSet`.

T tokens · N chunks of B tokens · H value heads, G key heads, K key dim, V value dim · C conv channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

from ingot.ops.autograd import OpSet, TorchSegments
from ingot.ops.segments import Segments

# Longest run taken in one chunk. Its matrices grow with the square, but the parent's way from chunk to chunk costs more
# until about here (measured at 4 heads of 32 x 40).
ONE_CHUNK = 128


class FusedOpSet(OpSet):
    """`OpSet` for fp32 training on a CPU, without state."""

    def segments(self, seg: Segments | TorchSegments) -> TorchSegments:
        """As the parent, with one chunk a run where the longest run allows it, no longer than that run needs."""
        if isinstance(seg, TorchSegments):
            return seg
        longest = int(np.diff(seg.offset).max(initial=1))
        return OpSet(chunk=-(-longest // 8) * 8 if longest <= ONE_CHUNK else 64).segments(seg)

    def rms_norm(self, x: Tensor, w: Tensor, eps: float, one_plus: bool) -> Tensor:
        return _RmsNorm.apply(x, 1 + w if one_plus else w, eps)

    def l2_norm(self, x: Tensor, scale: float, eps: float = 1e-6) -> Tensor:
        return _L2Norm.apply(x, scale, eps)

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        return _SiluMul.apply(gate, up)

    def gated_rms_norm(self, o_THV: Tensor, z_THV: Tensor, w_V: Tensor, eps: float) -> Tensor:
        return _SiluMul.apply(z_THV, _RmsNorm.apply(o_THV, w_V, eps))

    def causal_conv1d(self, u_TC: Tensor, w_CW: Tensor, seg: TorchSegments, tail: Tensor | None = None) -> Tensor:
        if tail is not None:
            return super().causal_conv1d(u_TC, w_CW, seg, tail)
        return _Conv.apply(u_TC, w_CW, seg)

    def gated_delta_rule(
        self, q_TGK: Tensor, k_TGK: Tensor, v_THV: Tensor, log_decay_TH: Tensor, beta_TH: Tensor,
        seg: TorchSegments, state: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As the parent, but runs that fit one chunk begin and end in it: no state to carry, and half the products
        go.
        """
        if state is not None or len(seg.active) > 1:
            return super().gated_delta_rule(q_TGK, k_TGK, v_THV, log_decay_TH, beta_TH, seg, state)
        return _OneChunkDelta.apply(q_TGK, k_TGK, v_THV, log_decay_TH, beta_TH, seg.chunk, seg.unchunk)

    def cross_entropy(
        self, x_TD: Tensor, head: Callable[[Tensor], Tensor], target_T: Tensor, weight_T: Tensor
    ) -> Tensor:
        """As the parent; tokens of weight 0 (most of a prompt) never reach the head."""
        (rows,) = weight_T.nonzero(as_tuple=True)
        return super().cross_entropy(x_TD[rows], head, target_T[rows], weight_T[rows])


class _RmsNorm(torch.autograd.Function):
    """y = n * w with n = x * r, r = (mean(x^2) + eps)^-1/2;  dx = r * (dy*w - n * mean(dy*w*n)),  dw = sum dy*n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, w, scale)
        return (x * scale).mul_(w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, w, scale = ctx.saved_tensors
        n = x * scale
        product = grad * n
        mean = (product @ w).unsqueeze(-1).div_(x.shape[-1])
        dx = (grad * w).sub_(n.mul_(mean)).mul_(scale)
        return dx, product.flatten(0, -2).sum(0), None


class _L2Norm(torch.autograd.Function):
    """y = x * r with r = scale * (sum(x^2) + eps)^-1/2;  dx = r * (dy - y * sum(dy*y) / scale^2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, eps: float) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().add_(eps).rsqrt_().mul_(scale)
        y = x * r
        ctx.save_for_backward(y, r)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        y, r = ctx.saved_tensors
        along = (grad * y).sum(-1, keepdim=True).div_(ctx.scale**2)
        return torch.addcmul(grad, y, along, value=-1).mul_(r), None, None


class _SiluMul(torch.autograd.Function):
    """y = silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        active = F.silu(gate)
        ctx.save_for_backward(gate, up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up, active = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), active * grad


class _Conv(torch.autograd.Function):
    """silu of the depthwise convolution, over the runs with W-1 rows of zeros before each so that none sees its
    neighbour.
    """

    @staticmethod
    def forward(ctx: Any, u_TC: Tensor, w_CW: Tensor, seg: TorchSegments) -> Tensor:
        w_WC = w_CW.t().contiguous()  # a strided row of w would keep the products from vectorising: 5 times slower
        past = len(w_WC) - 1
        place = torch.arange(len(u_TC)) + (seg.run + 1) * past
        token = place.new_full((len(u_TC) + len(seg.host.start) * past,), len(u_TC))
        token[place] = torch.arange(len(u_TC))
        spaced = _rows(u_TC, token)
        length = len(spaced) - past
        total = spaced[:length] * w_WC[0]
        for j in range(1, past + 1):
            total.addcmul_(spaced[j : j + length], w_WC[j])
        ctx.save_for_backward(spaced, total, w_WC, place, token)
        return F.silu(total.index_select(0, place - past))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        spaced, total, w_WC, place, token = ctx.saved_tensors
        past, length = len(w_WC) - 1, len(total)
        dtotal = torch.ops.aten.silu_backward(_rows(grad, token[past:]), total)
        dspaced = torch.zeros_like(spaced)
        for j in range(past + 1):
            dspaced[j : j + length].addcmul_(dtotal, w_WC[j])
        dw = torch.stack([(spaced[j : j + length] * dtotal).sum(0) for j in range(past + 1)], dim=1)
        return dspaced.index_select(0, place), dw, None


class _OneChunkDelta(torch.autograd.Function):
    """The gated delta rule of runs that fit one chunk of B tokens and start from zero.

        L_ij = exp(G_i - G_j), i >= j, G = cumsum(log decay)       A = tril(beta k k^T L, -1)
        (I + A) U = beta v            P = q k^T L                  o = P U
    Gradient: X = (I + A)^-T P^T do;  dv = beta X;  dA = -tril(X U^T, -1);  dP = do U^T;  the rest are products of
    these with L.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_TGK: Tensor,
        k_TGK: Tensor,
        v_THV: Tensor,
        g_TH: Tensor,
        beta_TH: Tensor,
        chunk: Tensor,
        unchunk: Tensor,
    ) -> Tensor:
        q, k, v = (_heads_first(_rows(x, chunk)) for x in (q_TGK, k_TGK, v_THV))  # [N,G,B,K], [N,G,B,K], [N,H,B,V]
        G, beta = (_heads_first(_rows(x, chunk)) for x in (g_TH, beta_TH))  # [N,H,B]
        G, beta = G.cumsum(-1), beta[..., None]
        repeat = v.shape[1] // q.shape[1]
        L = _decays(G)
        kk, qk = (_repeat(x @ k.transpose(-1, -2), repeat) for x in (k, q))
        decayed = kk.mul_(L)
        A = (decayed * beta).tril_(-1)
        U = torch.linalg.solve_triangular(A, beta * v, upper=False, unitriangular=True)
        P = qk * L
        ctx.save_for_backward(q, k, v, beta, L, decayed, A, P, U, chunk, unchunk)
        return _scatter(P @ U, unchunk)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, L, decayed, A, P, U, chunk, unchunk = ctx.saved_tensors
        do = _heads_first(_rows(grad, chunk))
        X = torch.linalg.solve_triangular(A.transpose(-1, -2), P.transpose(-1, -2) @ do, upper=True, unitriangular=True)
        dA = (X @ U.transpose(-1, -2)).neg_().tril_(-1)
        dP = do @ U.transpose(-1, -2)
        along = dA * decayed
        dbeta = (X * v).sum(-1) + along.sum(-1)
        along.mul_(beta).addcmul_(dP, P)  # d log L = dA A + dP P
        dG = along.sum(-1) - along.sum(-2)
        dqk = _fold(dP.mul_(L), q.shape[1])
        dkk = _fold(dA.mul_(beta).mul_(L), q.shape[1])
        dq = dqk @ k
        dk = dqk.transpose(-1, -2) @ q + (dkk + dkk.transpose(-1, -2)) @ k
        dg = dG.flip(-1).cumsum(-1).flip(-1)
        return (*(_scatter(x, unchunk) for x in (dq, dk, X.mul_(beta), dg, dbeta)), None, None)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x at the places; the place len(x) is a row of zeros."""
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])]).index_select(0, places.flatten()).unflatten(0, places.shape)


def _scatter(x_NHB: Tensor, places_T: Tensor) -> Tensor:
    """[N,H,B,...] back to [T,H,...]."""
    return x_NHB.transpose(1, 2).flatten(0, 1).index_select(0, places_T)


def _heads_first(x_NBH: Tensor) -> Tensor:
    return x_NBH.transpose(1, 2).contiguous()


def _decays(G_NHB: Tensor) -> Tensor:
    """L [N,H,B,B]; clamped before the exponential, which would overflow above the diagonal."""
    return (G_NHB[..., :, None] - G_NHB[..., None, :]).clamp_max_(0).exp_().tril_()


def _repeat(x_NGBB: Tensor, repeat: int) -> Tensor:
    """One copy of each key head's matrix for each of its value heads."""
    return x_NGBB if repeat == 1 else x_NGBB.repeat_interleave(repeat, dim=1)


def _fold(x_NHBB: Tensor, groups: int) -> Tensor:
    """The transpose of `_repeat`: sum over the value heads of a key head."""
    return x_NHBB if x_NHBB.shape[1] == groups else x_NHBB.unflatten(1, (groups, -1)).sum(2)

"""The full-attention mixer: grouped heads, q and k normalised, a quarter of each head rotated, the output gated.

T tokens · D hidden · H query heads, G KV heads, E head dim · N = half the rotary dims.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np

from ingot.model.composite import composite, norm
from ingot.model.yarn import stretched
from ingot.spec import TextConfig


@composite
def attention_mixer(ops: Any, w: Any, x_TD: Any, seg: Any, rotary: Any, kv: Any = None) -> Any:
    """y_TD of one gated attention layer; `kv` is the layer's pair of page pools, or None to see the pass's own keys
    only.

    q, gate = x W_q (per head: E query rows, then E gate rows)       k, v = x W_k, x W_v
    o = attention(rope(norm(q)), rope(norm(k)), v) * sigmoid(gate)
    y = o W_o
    """
    dim, tokens = w.config.text.head_dim, x_TD.shape[0]
    q, k, v = ops.linears(x_TD, w.q_proj, w.k_proj, w.v_proj)
    q_TH2E = q.reshape(tokens, -1, 2, dim)
    q_THE = norm(ops, w.q_norm, q_TH2E[:, :, 0])
    k_TGE = norm(ops, w.k_norm, k.reshape(tokens, -1, dim))
    q_THE, k_TGE = ops.rope(q_THE, k_TGE, rotary)
    o_THE = ops.attention(q_THE, k_TGE, v.reshape(tokens, -1, dim), seg, kv)
    gated = ops.sigmoid_mul(o_THE, q_TH2E[:, :, 1])
    return ops.linears(gated.reshape(tokens, -1), w.o_proj)[0]


@lru_cache(maxsize=16)
def rope_frequencies(text: TextConfig) -> tuple[np.ndarray, np.ndarray, float]:
    """inv_freq_N = 1 / theta^(n / N), axis_N: the axis (0 T, 1 H, 2 W) whose position the frequency multiplies, and the
    factor of cos and sin: what `ops.rotary` takes beside the positions. With YaRN, as `ingot.model.yarn` changes them.

    Axes interleave as T H W T H W ... until H and W have had their `mrope_section` shares.
    """
    rope, count = text.rope_parameters, text.rotary_dim // 2
    axis = np.zeros(count, np.int32)
    for a in (1, 2):
        axis[a : 3 * rope.mrope_section[a] : 3] = a
    if rope.rope_type == "yarn":
        inv_freq, scale = stretched(inverse_powers(rope.rope_theta, count), powers(rope.rope_theta, count), rope)
        return inv_freq, axis, scale
    return inverse_powers(rope.rope_theta, count), axis, 1.0


def inverse_powers(theta: float, count: int) -> np.ndarray:
    """float32 1 / theta^(n / count), n = 0 .. count - 1.

    Exponent, power and reciprocal are each rounded to fp32, as in the code that trained the weights: an exact frequency
    is off by an angle of 0.006 at position 200,000.
    """
    return np.float32(1) / powers(theta, count)


def powers(theta: float, count: int) -> np.ndarray:
    """float32 theta^(n / count), taken in decimal arithmetic, so that every platform's libm gives the same bits."""
    exponent = np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(2 * count)
    with localcontext() as context:
        context.prec = 40
        base = Decimal(theta)
        return np.array([float(base ** Decimal(float(e))) for e in exponent], np.float32)

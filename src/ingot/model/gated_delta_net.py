"""The linear-attention mixer: a short convolution feeding the gated delta rule, whose state is all it remembers.

T tokens · D hidden · H value heads, G key heads, K key dim, V value dim · C = 2GK + HV conv channels.
"""

from __future__ import annotations

from typing import Any

from ingot.model.composite import composite


@composite
def delta_mixer(ops: Any, w: Any, x_TD: Any, seg: Any, pool: Any = None) -> Any:
    """y_TD of one Gated DeltaNet layer; `pool` is (conv tail, delta state), perhaps with drafts, updated in place, or
    None for zeros.

        q, k, v = silu(conv(x W_qkv))       z, b, a = x W_z, x W_b, x W_a
        o = delta_rule(q/|q| K^-1/2, k/|k|, v, decay(a), sigmoid(b))
        y = (norm(o) * silu(z)) W_out

    Head counts come from the arrays, so a tensor-parallel shard runs the same lines. Source: Gated Delta Networks, fig.
    1.
    """
    text = w.config.text
    key_dim, value_dim = text.linear_key_head_dim, text.linear_value_head_dim
    tail, state, *drafts = pool or (None, None)
    u_TC, z, b_TH, a_TH = ops.linears(x_TD, w.in_proj_qkv, w.in_proj_z, w.in_proj_b, w.in_proj_a)
    c_TC = ops.causal_conv1d(u_TC, w.conv1d.weight[:, 0], seg, tail, *drafts)
    tokens, heads = a_TH.shape
    keys = (c_TC.shape[1] - heads * value_dim) // 2
    q_TGK = ops.l2_norm(c_TC[:, :keys].reshape(tokens, -1, key_dim), key_dim**-0.5)
    k_TGK = ops.l2_norm(c_TC[:, keys : 2 * keys].reshape(tokens, -1, key_dim), 1.0)
    v_THV = c_TC[:, 2 * keys :].reshape(tokens, heads, value_dim)
    log_decay_TH, beta_TH = ops.delta_gates(a_TH, b_TH, w.A_log, w.dt_bias)
    o_THV = ops.gated_delta_rule(q_TGK, k_TGK, v_THV, log_decay_TH, beta_TH, seg, state, *drafts)
    gated = ops.gated_rms_norm(o_THV, z.reshape(tokens, heads, value_dim), w.norm.weight, text.rms_norm_eps)
    return ops.linears(gated.reshape(tokens, heads * value_dim), w.out_proj)[0]

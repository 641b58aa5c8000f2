"""The MTP head against an fp64 formula written from the specification alone: transformers has none to compare with."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.model import build
from ingot.model.attention import rope_frequencies
from ingot.model.decoder import decoder_node, head, trunk
from ingot.ops import Segments, reference
from ingot.spec import weights_table
from tests.model.small import small_config, weights
from tests.tolerance import MTP_OF_SCALE

CONFIG = small_config()
TEXT = CONFIG.text
W = {name: weights()(w).array.astype(np.float64) for name, w in weights_table(CONFIG).items()}


def norm(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + TEXT.rms_norm_eps) * (1 + w)


def silu(x):
    return x / (1 + np.exp(-x))


def rotate(x, position):
    """Rotate-half over the first rotary dims, from the definition, for a text position."""
    r = TEXT.rotary_dim
    angle = position * TEXT.rope_parameters.rope_theta ** (-2 * np.arange(r // 2) / r)
    a, b = x[: r // 2], x[r // 2 : r]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle), x[r:]])


def mtp_logits_by_hand(hidden, next_ids):
    """One token at a time, one head at a time: no code shared with the graph."""
    p, e, heads, groups = "mtp.layers.0.", TEXT.head_dim, TEXT.num_attention_heads, TEXT.num_key_value_heads
    keys, values, out = [], [], []
    for i, (h, token) in enumerate(zip(hidden, next_ids, strict=True)):
        both = np.concatenate([norm(W["model.embed_tokens.weight"][token], W["mtp.pre_fc_norm_embedding.weight"]),
                               norm(h, W["mtp.pre_fc_norm_hidden.weight"])])  # fmt: skip
        u = W["mtp.fc.weight"] @ both
        x = norm(u, W[p + "input_layernorm.weight"])
        q_gate = (W[p + "self_attn.q_proj.weight"] @ x).reshape(heads, 2 * e)
        k = (W[p + "self_attn.k_proj.weight"] @ x).reshape(groups, e)
        keys.append([rotate(norm(head, W[p + "self_attn.k_norm.weight"]), i) for head in k])
        values.append((W[p + "self_attn.v_proj.weight"] @ x).reshape(groups, e))
        mixed = []
        for n in range(heads):
            q, g = rotate(norm(q_gate[n, :e], W[p + "self_attn.q_norm.weight"]), i), n // (heads // groups)
            score = np.array([q @ past[g] for past in keys]) / np.sqrt(e)
            weight = np.exp(score - score.max())
            read = sum(w * past[g] for w, past in zip(weight / weight.sum(), values, strict=True))
            mixed.append(read / (1 + np.exp(-q_gate[n, e:])))
        u = u + W[p + "self_attn.o_proj.weight"] @ np.concatenate(mixed)
        x = norm(u, W[p + "post_attention_layernorm.weight"])
        gate, up = W[p + "mlp.gate_proj.weight"] @ x, W[p + "mlp.up_proj.weight"] @ x
        u = u + W[p + "mlp.down_proj.weight"] @ (silu(gate) * up)
        out.append(W["lm_head.weight"] @ norm(u, W["mtp.norm.weight"]))
    return np.array(out)


def op_sets():
    yield "reference", reference
    torch_ops = pytest.importorskip("ingot.ops.autograd")
    yield "torch", torch_ops.OpSet()
    native = pytest.importorskip("ingot.ops.native")
    yield "native", native.OpSet(threads=2)


@pytest.mark.parametrize(("name", "ops"), list(op_sets()), ids=lambda v: v if isinstance(v, str) else "")
def test_head_equals_fp64_formula(name, ops):
    root = build(CONFIG, ops, weights(), components=("text", "mtp"))
    ids = np.random.default_rng(3).integers(0, TEXT.vocab_size, 91)
    current, following = ids[:-1], ids[1:]
    seg = ops.segments(Segments.of_lengths([len(current)]))
    rotary = ops.rotary(seg.position, *rope_frequencies(TEXT))
    hidden = trunk(ops, root, current, seg, rotary)
    drafted = root.mtp(ops, decoder_node(root).embed_tokens, hidden, following, seg, rotary)
    got = ops.host(ops.linears(drafted, head(root))[0])
    want = mtp_logits_by_hand(ops.host(hidden).astype(np.float64), following)
    assert np.abs(got - want).max() <= MTP_OF_SCALE * np.abs(want).max()

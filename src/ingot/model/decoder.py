"""The decoder: embed, layers, norm, head. One ragged forward for prefill, decode, mixed batches and packed training.

T tokens of all runs end to end · D hidden · F intermediate · Z vocabulary · R rows whose logits are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingot.model.attention import rope_frequencies
from ingot.model.composite import composite, norm
from ingot.model.pools import Pools


@dataclass(frozen=True)
class Targets:
    """What training asks of each token: its next id (and the one after, for the MTP head) and how much each counts.

    Ids must be legal everywhere; a weight of 0 silences a token. Arrays of the op set, all [T].
    """

    next_T: Any
    weight_T: Any
    after_T: Any = None
    after_weight_T: Any = None


def causal_lm(
    ops: Any,
    w: Any,
    ids_T: Any,
    seg: Any,
    pools: Pools | None = None,
    rows: Any = None,
    targets: Targets | None = None,
    features: tuple[Any, Any] | None = None,
) -> Any:
    """logits_RZ of the given rows (all when None); with `targets`, the pair of summed losses (trunk, MTP head or 0)
    instead.

    `pools` None means zero state in, nothing kept: training and scoring. `features` (tokens, features_MD of the vision
    tower) take the place of these tokens' embeddings. The loss is computed in here because a sharded
    head is whole only inside the root's call.
    """
    seg = ops.segments(seg)
    rotary = ops.rotary(seg.position, *rope_frequencies(w.config.text))
    hidden_TD = trunk(ops, w, ids_T, seg, rotary, pools, features)
    if targets is not None:
        return _losses(ops, w, hidden_TD, seg, rotary, targets)
    wanted = hidden_TD if rows is None else ops.take(hidden_TD, rows)
    return ops.linears(wanted, head(w))[0]


def trunk(
    ops: Any,
    w: Any,
    ids_T: Any,
    seg: Any,
    rotary: Any,
    pools: Pools | None = None,
    features: tuple[Any, Any] | None = None,
) -> Any:
    """hidden_TD after the final norm: what the head and the MTP head read."""
    language_model = decoder_node(w)
    x_TD = ops.embed(language_model.embed_tokens, ids_T)
    if features is not None:
        x_TD = ops.scatter_rows(x_TD, *features)
    for i, layer in enumerate(language_model.layers):
        x_TD = layer(ops, x_TD, seg, rotary, pools.layer(i) if pools else None)
    return norm(ops, language_model.norm, x_TD)


@composite
def delta_layer(ops: Any, w: Any, x_TD: Any, seg: Any, rotary: Any, pool: Any = None) -> Any:
    """A linear-attention layer: x + mixer(norm(x)), then + mlp(norm(x))."""
    x_TD = x_TD + w.linear_attn(ops, norm(ops, w.input_layernorm, x_TD), seg, pool)
    return x_TD + w.mlp(ops, norm(ops, w.post_attention_layernorm, x_TD))


@composite
def full_layer(ops: Any, w: Any, x_TD: Any, seg: Any, rotary: Any, pool: Any = None) -> Any:
    """A full-attention layer: x + mixer(norm(x)), then + mlp(norm(x))."""
    x_TD = x_TD + w.self_attn(ops, norm(ops, w.input_layernorm, x_TD), seg, rotary, pool)
    return x_TD + w.mlp(ops, norm(ops, w.post_attention_layernorm, x_TD))


@composite
def swiglu(ops: Any, w: Any, x_TD: Any) -> Any:
    """y_TD = (silu(x W_gate) * x W_up) W_down."""
    gate_TF, up_TF = ops.linears(x_TD, w.gate_proj, w.up_proj)
    return ops.linears(ops.silu_mul(gate_TF, up_TF), w.down_proj)[0]


def decoder_node(w: Any) -> Any:
    """The node that holds embed_tokens, layers and norm: `model`, or `model.language_model` beside a vision tower."""
    return w.model if w.config.text_only else w.model.language_model


def head(w: Any) -> Any:
    """The output matrix [Z, D]: the embedding itself when the model ties them."""
    return decoder_node(w).embed_tokens if w.config.tie_word_embeddings else w.lm_head


def _losses(ops: Any, w: Any, hidden_TD: Any, seg: Any, rotary: Any, targets: Targets) -> tuple[Any, Any]:
    loss = ops.cross_entropy(hidden_TD, head(w), targets.next_T, targets.weight_T)
    if targets.after_T is None:
        return loss, 0.0
    table = decoder_node(w).embed_tokens
    drafted_TD = w.mtp(ops, table, hidden_TD, targets.next_T, seg, rotary)
    return loss, ops.cross_entropy(drafted_TD, head(w), targets.after_T, targets.after_weight_T)

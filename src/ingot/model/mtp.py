"""The multi-token-prediction head: one attention layer that, from the trunk's output and the next token, guesses the
one after."""

from __future__ import annotations

from typing import Any

from ingot.model.composite import norm


def mtp(ops: Any, w: Any, table: Any, hidden_TD: Any, next_ids_T: Any, seg: Any, rotary: Any, kv: Any = None) -> Any:
    """y_TD whose logits (by the trunk's head) predict x[i+2] from the trunk's hidden[i] and the token x[i+1].

        u = [norm(E[x[i+1]]) | norm(hidden[i])] W_fc          embedding first
        y = norm(layer(u))

    `hidden` is taken AFTER the trunk's final norm: the residual before it drafts fluently and is accepted less. To
    draft further, feed y and the drafted token again.
    """
    embedding = norm(ops, w.pre_fc_norm_embedding, ops.embed(table, next_ids_T))
    hidden = norm(ops, w.pre_fc_norm_hidden, hidden_TD)
    (u_TD,) = ops.linears(ops.concat(embedding, hidden), w.fc)
    return norm(ops, w.norm, w.layers[0](ops, u_TD, seg, rotary, kv))

"""The tree of weights: Hugging Face's names as attribute paths, each node a callable that runs its part of the graph.

`tree.model.layers[3].mlp.gate_proj` is a matrix leaf that is called, never indexed: it may be packed, sharded or
adapted. Under torch the nodes are `nn.Module`s, so that `state_dict()` is the checkpoint and hooks, adapters and
compile find what they expect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ingot.model.attention import attention_mixer
from ingot.model.decoder import causal_lm, delta_layer, full_layer, swiglu
from ingot.model.gated_delta_net import delta_mixer
from ingot.model.mtp import mtp
from ingot.model.vision import merger, vision_attention, vision_block, vision_mlp, vision_tower
from ingot.spec import Config, Weight, weights_table
from ingot.spec.formats import MATRIX_ROLES, held_as

GRAPH: dict[str, Callable[..., Any]] = {
    "linear_attn": delta_mixer,
    "self_attn": attention_mixer,
    "mlp": swiglu,
    "mtp": mtp,
    "visual": vision_tower,
    "attn": vision_attention,
    "merger": merger,
}


def build(
    config: Config, ops: Any, read: Callable[[Weight], Any], fmt: str = "f32", components: Collection[str] = ("text",)
) -> Any:
    """The root node of the model, whose call is `causal_lm`.

    `read` gives the stored tensor of a row of the weights table; the op set turns it into its own leaf, matrices in
    format `fmt`. `components` chooses among "text", "mtp" and "vision".
    """
    nested: dict[str, Any] = {}
    for weight in weights_table(config).values():
        if weight.component in components:
            *path, last = weight.name.split(".")
            place = nested
            for part in path:
                place = place.setdefault(part, {})
            place[last] = weight
    return _node(config, ops, read, fmt, "", nested)


def _node(
    config: Config, ops: Any, read: Callable[[Weight], Any], fmt: str, name: str, children: dict[str, Any]
) -> Any:
    if "0" in children:  # numbered children: a list, in order
        return ops.items([_node(config, ops, read, fmt, n, children[n]) for n in sorted(children, key=int)])
    weight = children.get("weight")
    if isinstance(weight, Weight) and weight.role == "embedding" and weight.component != "vision":
        return ops.embedding(read(weight), fmt, config.tie_word_embeddings)
    if isinstance(weight, Weight) and weight.role in MATRIX_ROLES and weight.role != "embedding":
        leaf = ops.matrix(read(weight), held_as(weight.role, fmt, weight.component))
        if "bias" in children:
            leaf.bias = ops.vector(read(children["bias"]))
        return leaf
    node = ops.Node(_graph_function(name, children), config)
    for child, value in children.items():
        if isinstance(value, Weight):
            setattr(node, child, ops.vector(read(value)))
            node.one_plus = value.role == "norm1p"
        else:
            setattr(node, child, _node(config, ops, read, fmt, child, value))
    return node


def _graph_function(name: str, children: dict[str, Any]) -> Callable[..., Any] | None:
    if name == "":
        return causal_lm
    if "attn" in children:
        return vision_block
    if "linear_fc1" in children and name == "mlp":
        return vision_mlp
    if "mlp" in children:
        return full_layer if "self_attn" in children else delta_layer
    return GRAPH.get(name)

"""The arrays that remember: one pool for each layer, with a row for each sequence slot or attention page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.ops.segments import Segments
from ingot.spec import Config
from ingot.spec.config import FULL


@dataclass
class Pools:
    """What the layers of one model remember of up to `slots` sequences, in the op set's own layout.

    `layers[i]` is (conv tail, delta state) for a linear layer, with a third array where drafts may wait (`add_drafts`),
    and (k pages, v pages) for a full one; `mtp` the head's pages.
    """

    layers: list[tuple[Any, ...]]
    mtp: tuple[Any, Any] | None
    linear: tuple[int, ...]
    slots: int
    pages: int


def new_pools(ops: Any, config: Config, slots: int, pages: int, mtp: bool = False, kv: str = "f32") -> Pools:
    """Zeroed pools for `slots` sequences and `pages` pages of keys and values in the format `kv`."""
    text = config.text

    def pool(kind: str) -> tuple[Any, Any]:
        if kind == FULL:
            k, v = ops.kv_pool(pages, text.num_key_value_heads, text.head_dim, kv)
            return k, v
        tail = ops.conv_tail(slots, text.linear_conv_kernel_dim, text.conv_dim)
        heads, key_dim = text.linear_num_value_heads, text.linear_key_head_dim
        return tail, ops.delta_state(slots, heads, key_dim, text.linear_value_head_dim)

    linear = tuple(i for i, kind in enumerate(text.layer_types) if kind != FULL)
    return Pools([pool(kind) for kind in text.layer_types], pool(FULL) if mtp else None, linear, slots, pages)


def add_drafts(ops: Any, config: Config, pools: Pools, length: int) -> None:
    """Gives every slot room for `length` tokens that are tried and not certain."""
    text = config.text
    keys, heads = text.linear_num_key_heads * text.linear_key_head_dim, text.linear_num_value_heads
    for i in pools.linear:
        drafts = ops.delta_drafts(pools.slots, length, text.conv_dim, keys, heads, text.linear_value_head_dim)
        pools.layers[i] = (*pools.layers[i][:2], drafts)


def settle(ops: Any, config: Config, pools: Pools, slot: int, accepted: int) -> None:
    """Tail and state of a slot take its first `accepted` drafts, without a pass: what must be done before they are
    copied."""
    text, none = config.text, np.zeros(1, np.int32)
    heads, key_dim, value_dim = text.linear_num_value_heads, text.linear_key_head_dim, text.linear_value_head_dim
    one, many = np.array([accepted], np.int32), np.zeros((3, 0), np.int32)
    slots, pages = np.array([slot], np.int32), np.zeros((1, 0), np.int32)
    seg = ops.segments(Segments(np.zeros(2, np.int32), one, many, slots, pages, accepted=one, commit=none))

    def empty(*shape: int) -> np.ndarray:
        return np.empty((0, *shape), np.float32)

    k_TGK, gate_TH = empty(text.linear_num_key_heads, key_dim), empty(heads)
    for i in pools.linear:
        tail, state, drafts = pools.layers[i]
        taps_CW = np.zeros((text.conv_dim, text.linear_conv_kernel_dim), np.float32)
        ops.causal_conv1d(empty(text.conv_dim), taps_CW, seg, tail, drafts)
        ops.gated_delta_rule(k_TGK, k_TGK, empty(heads, value_dim), gate_TH, gate_TH, seg, state, drafts)

"""The arrays that remember: one pool for each layer, with a row for each sequence slot or attention page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.ops.segments import Segments
from ingot.spec import Config
from ingot.spec.config import FULL


@dataclass
class Pools:
    """What the layers of one model remember of up to `slots` sequences, in the op set's own layout.

    `layers[i]` is (conv tail, delta state) for a linear layer and (k pages, v pages) for a full one; `mtp` the head's
    pages. `drafts[i]`: windows in which tokens wait that are tried and not certain (`add_windows`).
    """

    layers: list[tuple[Any, Any]]
    mtp: tuple[Any, Any] | None
    linear: tuple[int, ...]
    slots: int
    pages: int
    windows: int = 0
    drafts: dict[int, Any] = field(default_factory=dict)

    def layer(self, i: int) -> tuple[Any, ...]:
        """What layer i updates in place."""
        return (*self.layers[i], self.drafts[i]) if i in self.drafts else self.layers[i]


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


def add_windows(ops: Any, config: Config, pools: Pools, windows: int, length: int) -> None:
    """Makes room for `windows` sequences that try up to `length` tokens at a time; there was less or none."""
    text = config.text
    keys, heads = text.linear_num_key_heads * text.linear_key_head_dim, text.linear_num_value_heads
    for i in pools.linear:
        if i in pools.drafts:
            pools.drafts[i] = ops.grow(pools.drafts[i], windows, pools.windows)
        else:
            sizes = windows, length, text.conv_dim, keys, heads, text.linear_value_head_dim
            pools.drafts[i] = ops.delta_drafts(*sizes)
    pools.windows = windows


def settle(ops: Any, config: Config, pools: Pools, slot: int, window: int, accepted: int) -> None:
    """Tail and state of a slot take the first `accepted` drafts of a window, without a pass: what must be done before
    they are copied."""
    text = config.text
    heads, key_dim, value_dim = text.linear_num_value_heads, text.linear_key_head_dim, text.linear_value_head_dim
    none, row, place, count = (np.array([n], np.int32) for n in (0, slot, window, accepted))
    nowhere, pages = np.zeros((3, 0), np.int32), np.zeros((1, 0), np.int32)
    seg = Segments(np.zeros(2, np.int32), count, nowhere, row, pages, window=place, accepted=count, commit=none)

    def empty(*shape: int) -> np.ndarray:
        return np.empty((0, *shape), np.float32)

    taps_CW = np.zeros((text.conv_dim, text.linear_conv_kernel_dim), np.float32)
    k_TGK, gate_TH = empty(text.linear_num_key_heads, key_dim), empty(heads)
    for i in pools.linear:
        tail, state, drafts = pools.layer(i)
        ops.causal_conv1d(empty(text.conv_dim), taps_CW, seg, tail, drafts)
        ops.gated_delta_rule(k_TGK, k_TGK, empty(heads, value_dim), gate_TH, gate_TH, seg, state, drafts)

"""The arrays that remember: one pool for each layer, with a row for each sequence slot or attention page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingot.spec import Config
from ingot.spec.config import FULL


@dataclass
class Pools:
    """What the layers of one model remember of up to `slots` sequences, in the op set's own layout.

    `layers[i]` is (conv tail, delta state) for a linear layer and (k pages, v pages) for a full one; `mtp` the head's
    pages.
    """

    layers: list[tuple[Any, Any]]
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

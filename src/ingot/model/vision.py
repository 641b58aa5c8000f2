"""The vision tower: patches to features that stand for placeholder tokens. Frames never see each other.

N patches of all frames, in blocks of merge x merge · D tower width · H heads, E head dim · M = N / merge^2 features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.model.attention import inverse_powers
from ingot.ops import Segments
from ingot.spec import VisionConfig
from ingot.spec.cost import TOWER_ROWS

EPS = 1e-6  # of the tower's norms
ROPE_THETA = 10_000.0
# Pairs of patches, times heads, that attention takes in one operation: some 50 ms on two cores of an AMX Xeon,
# so that what waits for the end of an operation waits no longer (measured: python -m bench.served_stalls --picture).
PAIRS = 1 << 26


@dataclass(frozen=True)
class Frames:
    """Where the patches of some frames lie: built once a pass on the host.

    `index_4N` and `weight_4N` are the four cells of the learned grid of positions around each patch, and their shares.
    """

    seg: Segments
    index_4N: np.ndarray
    weight_4N: np.ndarray

    @staticmethod
    def of(grids: Sequence[tuple[int, int]], vision: VisionConfig) -> Frames:
        """Frames of the given rows and columns of patches, one after the other."""
        side = int(vision.num_position_embeddings**0.5)
        places = [_patch_places(*grid, vision.spatial_merge_size) for grid in grids]
        position = np.concatenate([np.stack([np.zeros_like(row), row, column]) for row, column in places], axis=1)
        seg = Segments.of_lengths([rows * columns for rows, columns in grids], position.astype(np.int32), causal=False)
        cells = [_grid_cells(*grid, side, *place) for grid, place in zip(grids, places, strict=True)]
        index, weight = (np.concatenate(part, axis=1) for part in zip(*cells, strict=True))
        return Frames(seg, index, weight)


def vision_tower(ops: Any, w: Any, patches_NI: Any, frames: Frames) -> Any:
    """features_MD of the patches of whole frames."""
    seg = ops.segments(frames.seg)
    rotary = ops.rotary(seg.position, *vision_frequencies(w.config.vision))
    (x_ND,) = by_rows(ops, lambda rows: ops.linears(rows, w.patch_embed.proj), patches_NI)
    x_ND = x_ND + ops.resample_grid(w.pos_embed.weight, frames.index_4N, frames.weight_4N)
    for block in w.blocks:
        x_ND = block(ops, x_ND, seg, rotary)
    return w.merger(ops, x_ND)


def vision_block(ops: Any, w: Any, x_ND: Any, seg: Any, rotary: Any) -> Any:
    """x + attn(norm(x)), then + mlp(norm(x))."""
    x_ND = x_ND + w.attn(ops, layer_norm(ops, w.norm1, x_ND), seg, rotary)
    return x_ND + w.mlp(ops, layer_norm(ops, w.norm2, x_ND))


def vision_attention(ops: Any, w: Any, x_ND: Any, seg: Any, rotary: Any) -> Any:
    """Every patch sees its whole frame; the first half of a head turns with the row, the second with the column. Heads
    see nothing of each other: where the patches are many, some heads go through attention at a time."""
    tokens, heads = x_ND.shape[0], w.config.vision.num_heads
    dim, groups = w.config.vision.hidden_size // heads, head_groups(tokens, heads)

    def turned(x: Any, *rotary: Any) -> tuple[Any, ...]:
        (qkv,) = ops.linears(x, w.qkv)
        q, k, v = (part.reshape(len(x), -1, dim) for part in ops.split(qkv, 3))
        return tuple(some for part in (*ops.rope(q, k, rotary), v) for some in _cut(ops, part, groups))

    qkv_NHE = by_rows(ops, turned, x_ND, *rotary)
    outs = [ops.attention(*qkv_NHE[group::groups], seg).reshape(tokens, -1) for group in range(groups)]
    o_ND = outs[0] if groups == 1 else ops.concat(*outs)
    return by_rows(ops, lambda o: ops.linears(o, w.proj), o_ND)[0]


def head_groups(patches: int, heads: int) -> int:
    """In how many equal groups the heads go through attention."""
    return next(n for n in range(1, heads + 1) if heads % n == 0 and (n == heads or patches**2 * heads <= n * PAIRS))


def _cut(ops: Any, x_NHE: Any, groups: int) -> Any:
    """The heads in so many parts."""
    if groups == 1:
        return (x_NHE,)
    rows, _, dim = x_NHE.shape
    return (part.reshape(rows, -1, dim) for part in ops.split(x_NHE.reshape(rows, -1), groups))


def vision_mlp(ops: Any, w: Any, x_ND: Any) -> Any:
    """gelu(x W_1 + b_1) W_2 + b_2, gelu by tanh."""

    def both(x: Any) -> tuple[Any]:
        return ops.linears(ops.gelu(ops.linears(x, w.linear_fc1)[0], True), w.linear_fc2)

    return by_rows(ops, both, x_ND)[0]


def merger(ops: Any, w: Any, x_ND: Any) -> Any:
    """A block's normalised patches side by side, through two matrices: features_MD. Its gelu is the exact one."""
    size = w.config.vision.spatial_merge_size**2

    def merged(x: Any) -> tuple[Any]:
        blocks = layer_norm(ops, w.norm, x).reshape(len(x) // size, -1)
        return ops.linears(ops.gelu(ops.linears(blocks, w.linear_fc1)[0], False), w.linear_fc2)

    return by_rows(ops, merged, x_ND, whole=size)[0]


def by_rows(ops: Any, part: Callable[..., tuple[Any, ...]], *arrays: Any, whole: int = 1) -> tuple[Any, ...]:
    """The results of `part`, which sees every row (or `whole` rows) alone, over slices of rows: less memory, and on the
    native op set the same bits."""
    rows = TOWER_ROWS // whole * whole
    slices = [part(*(array[at : at + rows] for array in arrays)) for at in range(0, arrays[0].shape[0], rows)]
    if len(slices) == 1:
        return slices[0]
    columns = [list(column) for column in zip(*slices, strict=True)]
    del slices
    return tuple(ops.concat_rows(columns.pop(0)) for _ in range(len(columns)))  # each freed before the next is made


def layer_norm(ops: Any, leaf: Any, x: Any) -> Any:
    """LayerNorm by a norm leaf with a bias."""
    return ops.layer_norm(x, leaf.weight, leaf.bias, EPS)


def vision_frequencies(vision: VisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """inv_freq and axis of a head's pairs: as many frequencies for the row (axis 1) as for the column (2)."""
    count = vision.hidden_size // vision.num_heads // 4
    return np.tile(inverse_powers(ROPE_THETA, count), 2), np.repeat(np.array([1, 2], np.int32), count)


def _patch_places(rows: int, columns: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every patch: blocks row by row, and in them patches row by row."""
    place = np.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge).swapaxes(1, 2).reshape(-1)
    return place // columns, place % columns


def _grid_cells(
    rows: int, columns: int, side: int, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The learned side x side grid stretched over the patches, corners on corners: four cells of it for each patch."""

    def along(count: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        exact = np.linspace(0, side - 1, count, dtype=np.float32)[at]
        low = exact.astype(np.int64)
        return low, np.minimum(low + 1, side - 1), exact - low.astype(np.float32)

    top, bottom, down = along(rows, row)
    left, right, over = along(columns, column)
    one = np.float32(1)
    index = np.stack([top * side + left, top * side + right, bottom * side + left, bottom * side + right])
    weight = np.stack([(one - down) * (one - over), (one - down) * over, down * (one - over), down * over])
    return index, weight

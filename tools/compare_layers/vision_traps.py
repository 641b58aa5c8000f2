"""The known mistakes of vision towers, as in `traps`."""

from __future__ import annotations

import numpy as np

from ingot.ops import Segments, reference
from tools.compare_layers.case import Case, Trap, regroup
from tools.compare_layers.recording import VISUAL

Array = np.ndarray


def _without_bias(c: Case) -> Array:
    return c.y - c.bias()


def _pixels_last(c: Case) -> Array:
    """The patch's columns [channels, frames, pixels] read as [frames, pixels, channels]."""
    return c.definition(regroup(c.call.inputs[0], c.vision.in_channels, -1))


def _heads_of_three(c: Case) -> Array:
    """q | k | v read as q, k, v of each head."""
    heads = c.vision.num_heads
    return regroup(c.y, heads, 3, c.vision.hidden_size // heads)


def _raster(x: Array, c: Case) -> Array:
    """Patches in blocks put in the order of rows and columns."""
    _, row, column = c.run.calls[f"{VISUAL}rotary_pos_emb.cos"].fixed[0]
    return x[np.lexsort((column, row))]


def _turned_grid(c: Case) -> Array:
    table, index, weight = c.call.fixed
    side = round(len(table) ** 0.5)
    return c.definition(fixed=(table, index % side * side + index // side, weight))


def _see_before(c: Case) -> Array:
    q, k, v = c.call.inputs
    return reference.attention(q, k, v, Segments.of_lengths([len(q)]))


VISION_TRAPS: dict[str, tuple[Trap, ...]] = {
    "layer_norm": (
        Trap("the bias is left out", lambda c: c.y - c.call.fixed[1]),
        Trap("the mean is not taken away", lambda c: reference.rms_norm(c.call.inputs[0], c.call.fixed[0], 1e-6, False)
             + c.call.fixed[1]),
    ),
    "gelu": (
        Trap("the other GELU is taken (the blocks have the tanh one, the merger the exact one)",
             lambda c: c.definition(fixed=(not c.call.fixed[0],))),
    ),
    "proj": (
        Trap("the bias is left out", _without_bias),
        Trap("a pixel's channels stand together, not a channel's pixels", _pixels_last),
    ),
    "qkv": (
        Trap("the bias is left out", _without_bias),
        Trap("the rows are read head by head (q, k, v of each), not q | k | v", _heads_of_three),
    ),
    "linear_fc1": (Trap("the bias is left out", _without_bias),),
    "linear_fc2": (Trap("the bias is left out", _without_bias),),
    "resample_grid": (
        Trap("the grid's rows and columns are exchanged", _turned_grid),
        Trap("patches are taken row by row, not block by block", lambda c: _raster(c.y, c)),
    ),
    "rotary": (
        Trap("rows and columns are exchanged", lambda c: c.definition(fixed=(c.call.fixed[0][[0, 2, 1]],
                                                                            *c.call.fixed[1:]))),
        Trap("patches are taken row by row, not block by block", lambda c: _raster(c.y, c)),
    ),
    "rope": (Trap("nothing is rotated", lambda c: c.call.inputs[c.call.result]),),
    "attention": (
        Trap("patches see only the ones before them",
             _see_before),
        Trap("scores are not scaled by E ** -0.5",
             lambda c: c.definition(c.call.inputs[0] * np.float32(c.call.inputs[0].shape[-1] ** 0.5))),
    ),
}  # fmt: skip

"""Rounding a matrix to q4 column by column, where each column's error is made up for by the columns that follow.

    minimise |(W - Q) X|^2,  H = X X^T over the calibration tokens            GPTQ, Frantar et al. 2022, algorithm 1

Scales are chosen as the kernels choose them (native/kernels/quantise.h), over the columns as corrected so far and with
each column weighted by how much its input is used.
"""

from __future__ import annotations

import numpy as np

from ingot.spec.formats import PANEL

GROUP = 32  # columns that share a scale
CODEBOOK = np.array([-127, -98, -76, -59, -45, -31, -19, -8, 2, 12, 22, 34, 47, 62, 80, 104], np.float32)
_BETWEEN = (CODEBOOK[1:] + CODEBOOK[:-1]) / 2
_ENDS = (-140, -127, -115, -103, 103, 115, 127, 140)  # where the largest magnitude may fall
_ROWS = 16_384  # rows at a time: bounds the copies of a head of 248,320 rows
DAMPING = 0.01  # of the mean diagonal, as in the paper


def round_q4(w_OI: np.ndarray, h_II: np.ndarray | None = None) -> np.ndarray:
    """Packed q4 panels, uint8 [O/16, bytes], of a float32 matrix; h_II: the inputs' second moments, or None for plain
    rounding to nearest."""
    outputs, inputs = w_OI.shape
    factor, weight = _factor(h_II, inputs)
    parts = [_rounded(w_OI[i : i + _ROWS], factor, weight) for i in range(0, outputs, _ROWS)]
    codes, scales = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return pack_q4(codes, scales)


def _factor(h_II: np.ndarray | None, inputs: int) -> tuple[np.ndarray | None, np.ndarray]:
    """The upper Cholesky factor of H's inverse, and each column's share of H's diagonal; padded to whole groups."""
    padded = -(-inputs // GROUP) * GROUP
    if h_II is None:
        return None, np.ones(padded)
    h = np.zeros((padded, padded))
    h[:inputs, :inputs] = h_II
    mean = max(float(np.trace(h)) / inputs, 1e-30)
    weight = np.maximum(np.diag(h) / mean, 1e-6)
    h[np.diag_indices(padded)] += DAMPING * mean
    return np.linalg.cholesky(np.linalg.inv(h)).T.copy(), weight


def _rounded(w_OI: np.ndarray, factor: np.ndarray | None, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 codes [O, I] and float32 scales [O, I/32] of some rows; I padded."""
    w = np.pad(w_OI.astype(np.float32), ((0, 0), (0, len(weight) - w_OI.shape[1])))
    codes = np.empty(w.shape, np.uint8)
    scales = np.empty((len(w), len(weight) // GROUP), np.float32)
    for g in range(scales.shape[1]):
        here = slice(g * GROUP, (g + 1) * GROUP)
        scale = scales[:, g] = best_scale(w[:, here], weight[here])
        if factor is None:
            codes[:, here] = nearest(w[:, here], scale[:, None])
            continue
        errors = np.empty((len(w), GROUP), np.float32)
        for i, j in enumerate(range(here.start, here.stop)):
            codes[:, j] = nearest(w[:, j], scale)
            errors[:, i] = (w[:, j] - CODEBOOK[codes[:, j]] * scale) / factor[j, j]
            w[:, j + 1 : here.stop] -= np.outer(errors[:, i], factor[j, j + 1 : here.stop]).astype(np.float32)
        w[:, here.stop :] -= errors @ factor[here, here.stop :].astype(np.float32)
    return codes, scales


def nearest(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The index of the codebook's entry nearest to w / scale; a tie goes to the lower entry."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(scale != 0, w / scale, np.float32(0))
    return np.searchsorted(_BETWEEN, ratio).astype(np.uint8)


def best_scale(w_OG: np.ndarray, weight_G: np.ndarray) -> np.ndarray:
    """The bf16 scale of each row's group that leaves the least weighted squared error among sixteen."""
    largest = np.abs(w_OG).max(1)
    unit = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1)))).astype(np.float32)  # squares stay in range
    x = w_OG / unit[:, None]
    best, least = np.zeros(len(x), np.float32), np.full(len(x), np.inf)
    for end in _ENDS:
        scale = to_bf16(np.abs(x).max(1) / np.float32(end))
        for _ in range(2):  # a scale, then the one that fits its codes best
            v = CODEBOOK[nearest(x, scale[:, None])]
            error = (weight_G * (v * scale[:, None] - x) ** 2).sum(1)
            better = error < least
            best[better], least[better] = scale[better], error[better]
            square = (weight_G * v * v).sum(1)
            scale = to_bf16(((weight_G * v * x).sum(1) / square).astype(np.float32))
    return to_bf16(best * unit) + np.float32(0)  # no minus zero


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 values rounded to the nearest bf16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def pack_q4(codes_OI: np.ndarray, scales_OG: np.ndarray) -> np.ndarray:
    """Codes and bf16 scales in the kernels' layout (native/table.h): uint8 [O/16, bytes]."""
    outputs, inputs = codes_OI.shape
    panels, blocks = -(-outputs // PANEL), -(-inputs // (2 * GROUP))
    codes = np.full((panels * PANEL, blocks * 2 * GROUP), nearest(np.zeros(1), np.ones(1)))
    codes[:outputs, :inputs] = codes_OI
    scales = np.zeros((panels * PANEL, blocks * 2), np.float32)
    scales[:outputs, : scales_OG.shape[1]] = scales_OG
    # [panel, lane, block, half, row, 4] -> [panel, block, half, row, lane, 4]; row j + 4 goes to the high nibbles
    rows = codes.reshape(panels, PANEL, blocks, 2, 8, 4).transpose(0, 2, 3, 4, 1, 5)
    nibbles = (rows[:, :, :, :4] | rows[:, :, :, 4:] << 4).reshape(panels, blocks, -1)
    halves = (scales.view(np.uint32) >> 16).astype("<u2").reshape(panels, PANEL, blocks, 2).transpose(0, 2, 3, 1)
    heads = np.ascontiguousarray(halves).reshape(panels, blocks, 2 * PANEL).view(np.uint8)
    return np.ascontiguousarray(np.concatenate([heads, nibbles], axis=2).reshape(panels, -1))

"""How likely the model found a token: log softmax of its own logits, before anything that steers the choice."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np

from ingot.ops.choice import UNIT

Rank = Callable[[np.ndarray, int], tuple[int, np.ndarray] | None]  # ops.rank


def logprobs(rank: Rank, logits_Z: np.ndarray, token: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The token's log probability, and the `top` likeliest ids with theirs, best first.

    The same float64 on every machine: the sum is one of whole numbers, its logarithm is decimal arithmetic. ValueError
    when a logit is NaN.
    """
    found = rank(logits_Z, max(1, min(top, len(logits_Z))))
    if found is None:
        raise ValueError("the logits hold NaN: the weights are damaged or overflow")
    total, ids = found
    normaliser = float((Decimal(total) / Decimal(UNIT)).ln())
    best = float(logits_Z[ids[0]])

    def of(i: int) -> float:
        return float(logits_Z[i]) - best - normaliser

    return of(token), tuple((int(i), of(int(i))) for i in ids[:top])

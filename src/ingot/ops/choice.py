"""The definitions of `choose` and `rank`, in numpy: one of many scores, drawn by its probability, and the best of them.

Weights are whole numbers, so their sums are exact in any order: a kernel may sum in parallel and need not sort.
"""

from __future__ import annotations

import math

import numpy as np

# A weight is a probability over the best score's, in units of 2^-42: 2^21 scores still sum inside 63 bits, and what is
# below half a unit, 1e-13 of the best, is never drawn (with 248,320 scores less than 3e-8 of all draws).
UNIT = 2.0**42


def choose(scores_Z: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float, u: float) -> int | None:
    """The id drawn by `u` in [0, 1) from softmax(scores / temperature) after top_k, top_p and min_p; None when a score
    is NaN.

    temperature 0 and top_k 1 take the best, the lower id among equals. top_k 0 keeps all, otherwise the k best (at the
    edge the lower ids); top_p the smallest set of the best that reaches it; min_p those of at least so much of the
    best's probability. The draw goes through the kept ids in ascending order, or best first where top_p or min_p
    sorted them.
    """
    if np.isnan(scores_Z).any():
        return None
    if temperature == 0 or top_k == 1:
        return int(np.argmax(scores_Z))  # the first of equals
    ids = _best(scores_Z, top_k) if 0 < top_k < len(scores_Z) else np.arange(len(scores_Z))
    if top_p < 1 or min_p > 0:
        ids = ids[np.argsort(-scores_Z[ids], kind="stable")]
    weight = weights(scores_Z[ids], temperature)
    upto = weight.cumsum()
    kept = weight >= math.ceil(min_p * UNIT)
    if top_p < 1:  # a token stays while those before it fall short
        kept &= upto - weight < math.ceil(top_p * float(upto[-1]))
    ids, upto = ids[kept], upto[kept]
    return int(ids[np.searchsorted(upto, int(u * float(upto[-1])), side="right")])


def rank(scores_Z: np.ndarray, k: int) -> tuple[int, np.ndarray] | None:
    """The sum of all scores' weights at temperature 1, and the ids of the k best, best first (of equals the lower
    first); None when a score is NaN. k is 1 to Z.

    log softmax of score i is scores[i] - best - ln(sum / UNIT).
    """
    if np.isnan(scores_Z).any():
        return None
    ids = _best(scores_Z, k)
    return int(weights(scores_Z, 1.0).sum()), ids[np.argsort(-scores_Z[ids], kind="stable")].astype(np.int32)


def weights(scores: np.ndarray, temperature: float) -> np.ndarray:
    """e^((score - best) / temperature) in whole units, int64."""
    rate, best = min(1 / temperature, 2.0**1000), scores.max()
    with np.errstate(invalid="ignore", over="ignore"):  # infinities: equal ones are equally good
        below = np.where(scores == best, 0.0, (scores.astype(np.float64) - np.float64(best)) * rate)
    return np.rint(exp(below) * UNIT).astype(np.int64)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The ids of the k best scores in ascending order; among equals at the edge the lower ids."""
    edge = np.partition(scores, len(scores) - k)[len(scores) - k]
    better, equal = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
    return np.sort(np.concatenate([better, equal[: k - len(better)]]))


# Taylor coefficients 1/n!, exact in the precision needed: on |r| <= ln2/2 the 14 terms leave 1e-17.
_TAYLOR = [1 / math.factorial(n) for n in range(14)]
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # ln 2 in two parts, n * high is exact


def exp(x: np.ndarray) -> np.ndarray:
    """e^x of float64 values <= 0 in IEEE operations only, so that every machine gives the same bits (numpy's exp does
    not)."""
    x = np.maximum(x, -700.0)
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    y = np.zeros_like(r)
    for c in reversed(_TAYLOR):
        y = y * r + c
    return np.ldexp(y, n.astype(np.int32))

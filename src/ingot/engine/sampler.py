"""Choosing the next token. A choice is a function of the logits, the parameters, the sequence's ids, the seed and the
index of the token in the answer: it can be replayed anywhere.

No libm and no order-dependent sum is used: `exp` is written out in IEEE operations, sums run left to right, ties go to
the lower id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

MASK64 = 2**64 - 1


@dataclass(frozen=True)
class SamplingParams:
    """How to choose: temperature 0 is greedy. Penalties come first, then temperature, top_k, top_p, min_p, as in
    Hugging Face.

    presence and frequency penalties count the answer's own tokens (OpenAI), repetition_penalty the prompt's too (HF).
    Raises ValueError naming the parameter, its value and its range.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None  # None: drawn for each request

    def __post_init__(self) -> None:
        for item in fields(self):
            whole = item.name in ("top_k", "seed")
            value = getattr(self, item.name)
            if not (item.name == "seed" and value is None):
                _check(item.name, value, whole, *RANGES[item.name])


_ABOVE_0 = math.nextafter(0, 1)  # the smallest positive number
RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0, 100, "from 0 (greedy) to 100"),
    "top_k": (0, 2**31, "0 (all) or a positive count"),
    "top_p": (_ABOVE_0, 1, "above 0 and at most 1"),
    "min_p": (0, 1, "from 0 to 1"),
    "presence_penalty": (-2, 2, "from -2 to 2"),
    "frequency_penalty": (-2, 2, "from -2 to 2"),
    "repetition_penalty": (_ABOVE_0, 100, "above 0 and at most 100"),
    "seed": (-(2**63), MASK64, "a 64-bit integer"),
}


def _check(name: str, value: Any, whole: bool, low: float, high: float, rule: str) -> None:
    number = isinstance(value, int | np.integer) if whole else isinstance(value, int | float | np.number)
    if not number or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be {'an integer, ' if whole else ''}{rule}")


def uniform(seed: int, index: int) -> float:
    """A float in [0, 1) that is a function of (seed, index) alone (splitmix64's finaliser over both)."""
    x = _mix((seed & MASK64) + 0x9E3779B97F4A7C15)
    return (_mix(x ^ _mix(index + 0x632BE59BD9B4E019)) >> 11) * 2.0**-53


def _mix(x: int) -> int:
    x &= MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


class Sampler:
    """The sampler of one request; `prompt_ids` counts for repetition_penalty, `vocabulary` ids may be chosen (the rows
    beyond the tokenizer are padding)."""

    def __init__(self, params: SamplingParams, prompt_ids: np.ndarray, vocabulary: int, seed: int) -> None:
        self.params, self.seed = params, seed
        self._seen = np.zeros(vocabulary, bool)
        self._seen[prompt_ids[prompt_ids < vocabulary]] = True
        self._count = np.zeros(vocabulary, np.int32)
        self._index = 0

    def sample(self, logits_Z: np.ndarray) -> int:
        """The next token's id; ValueError when the logits hold NaN (damaged weights), rather than a silent token 0."""
        scores = self._penalised(logits_Z[: len(self._count)].astype(np.float64))
        if np.isnan(scores).any():
            raise ValueError(
                "the logits hold NaN: the weights are damaged or overflow\nhint: run with weights='f32' to find out"
            )
        token = self._choose(scores)
        self._seen[token] = True
        self._count[token] += 1
        self._index += 1
        return token

    def _penalised(self, scores: np.ndarray) -> np.ndarray:
        p = self.params
        if p.repetition_penalty != 1:
            seen = scores[self._seen]
            scores[self._seen] = np.where(seen > 0, seen / p.repetition_penalty, seen * p.repetition_penalty)
        if p.presence_penalty or p.frequency_penalty:
            scores -= p.presence_penalty * (self._count > 0) + p.frequency_penalty * self._count
        return scores

    def _choose(self, scores: np.ndarray) -> int:
        p = self.params
        if p.temperature == 0 or p.top_k == 1:
            return int(np.argmax(scores))  # the first of equals
        ids, weight = _candidates(scores, p)
        total = np.cumsum(weight)
        return int(ids[np.searchsorted(total, uniform(self.seed, self._index) * total[-1], side="right")])


def _candidates(scores: np.ndarray, p: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """Ids that survive top_k, top_p and min_p, best first, and their unnormalised probabilities."""
    ids = _top(scores, p.top_k) if 0 < p.top_k < len(scores) else np.arange(len(scores))
    if p.top_p < 1 or p.min_p > 0:
        ids = ids[np.argsort(-scores[ids], kind="stable")]
    weight = exp((scores[ids] - scores[ids].max()) / p.temperature)
    if p.top_p < 1:  # the smallest set that reaches top_p: a token stays while those before it fall short
        before = np.cumsum(weight) - weight
        kept = before < p.top_p * (before[-1] + weight[-1])
        ids, weight = ids[kept], weight[kept]
    if p.min_p > 0:
        kept = weight >= p.min_p * weight.max()
        ids, weight = ids[kept], weight[kept]
    return ids, weight


def _top(scores: np.ndarray, k: int) -> np.ndarray:
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

"""Choosing the next token. A choice is a function of the logits, the parameters, the sequence's ids, the seed and the
index of the token in the answer: it can be replayed anywhere. The draw itself is the op set's `choose`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

MASK64 = 2**64 - 1
Choose = Callable[[np.ndarray, float, int, float, float, float], int | None]  # ops.choose


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
    beyond the tokenizer are padding). `choose` is the op set's."""

    def __init__(
        self, params: SamplingParams, prompt_ids: np.ndarray, vocabulary: int, seed: int, choose: Choose
    ) -> None:
        self.params, self.seed = params, seed
        self._choose, self._vocabulary, self._index = choose, vocabulary, 0
        self._seen = np.unique(prompt_ids[prompt_ids < vocabulary])
        self._count = np.zeros(len(self._seen))  # of each seen id in the answer

    def sample(self, logits_Z: np.ndarray) -> int:
        """The next token's id; ValueError when the logits hold NaN (damaged weights), rather than a silent token 0."""
        p, u = self.params, uniform(self.seed, self._index)
        scores_Z = self._penalised(logits_Z[: self._vocabulary])
        token = self._choose(scores_Z, p.temperature, p.top_k, p.top_p, p.min_p, u)
        if token is None:
            raise ValueError(
                "the logits hold NaN: the weights are damaged or overflow\nhint: run with weights='f32' to find out"
            )
        self._index += 1
        if self._penalises:
            self._remember(token)
        return token

    @property
    def _penalises(self) -> bool:
        p = self.params
        return p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0

    def _penalised(self, scores_Z: np.ndarray) -> np.ndarray:
        if not self._penalises:
            return scores_Z
        p, scores_Z = self.params, scores_Z.copy()
        seen = scores_Z[self._seen].astype(np.float64)
        seen = np.where(seen > 0, seen / p.repetition_penalty, seen * p.repetition_penalty)
        seen -= p.presence_penalty * (self._count > 0) + p.frequency_penalty * self._count
        scores_Z[self._seen] = seen
        return scores_Z

    def _remember(self, token: int) -> None:
        at = int(np.searchsorted(self._seen, token))
        if at == len(self._seen) or self._seen[at] != token:
            self._seen, self._count = np.insert(self._seen, at, token), np.insert(self._count, at, 0)
        self._count[at] += 1

"""What changes scores before the draw: bias, penalties, repetitions that are not wanted, tokens that are forbidden.

Each has `apply(scores_Z)`, in place, and `remember(token)`, called with what was chosen. Z ids may be chosen; prompts
may hold others, which count as context only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

FORBIDDEN = -np.inf
HUGE = 1e30  # a penalty beyond every score


class Edit(Protocol):
    """A change of the scores that may depend on what came before."""

    def apply(self, scores_Z: np.ndarray) -> None: ...

    def remember(self, token: int) -> None: ...


class Bias:
    """score += bias of its id (OpenAI's logit_bias)."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids = np.array(list(bias), np.int64)
        self._bias = np.array(list(bias.values()), np.float32)

    def apply(self, scores_Z: np.ndarray) -> None:
        scores_Z[self._ids] += self._bias

    def remember(self, token: int) -> None:
        pass


class Seen:
    """Tokens that came before: score / repetition (score * repetition below 0) for those of prompt and answer, then
    - presence - frequency * count for those of the answer."""

    def __init__(self, repetition: float, presence: float, frequency: float, prompt_ids: np.ndarray, ids: int) -> None:
        self._repetition, self._presence, self._frequency = repetition, presence, frequency
        self._seen = np.unique(prompt_ids[prompt_ids < ids])
        self._count = np.zeros(len(self._seen))  # of each seen id in the answer

    def apply(self, scores_Z: np.ndarray) -> None:
        seen = scores_Z[self._seen].astype(np.float64)
        seen = np.where(seen > 0, seen / self._repetition, seen * self._repetition)
        seen -= self._presence * (self._count > 0) + self._frequency * self._count
        scores_Z[self._seen] = seen

    def remember(self, token: int) -> None:
        at = int(np.searchsorted(self._seen, token))
        if at == len(self._seen) or self._seen[at] != token:
            self._seen, self._count = np.insert(self._seen, at, token), np.insert(self._count, at, 0)
        self._count[at] += 1


class NoRepeatNgram:
    """Forbids the token that would make n tokens in a row which prompt and answer already have (Hugging Face's
    no_repeat_ngram_size)."""

    def __init__(self, size: int, prompt_ids: np.ndarray) -> None:
        self._tail = deque[int](maxlen=size - 1)
        self._followed: dict[tuple[int, ...], set[int]] = {}
        for token in prompt_ids.tolist():
            self.remember(token)

    def apply(self, scores_Z: np.ndarray) -> None:
        followed = self._followed.get(tuple(self._tail), ())
        scores_Z[[i for i in followed if i < len(scores_Z)]] = FORBIDDEN

    def remember(self, token: int) -> None:
        if len(self._tail) == self._tail.maxlen:
            self._followed.setdefault(tuple(self._tail), set()).add(token)
        self._tail.append(token)


class Dry:
    """Against loops: what would lengthen a repetition costs more, the longer it is already ("don't repeat yourself",
    llama.cpp's dry_* parameters).

        score -= multiplier * base ^ (n - allowed_length)

    for a token that followed an earlier copy of the last n >= allowed_length tokens, the longest such n. A copy does
    not reach back over a token that `breaks`.
    """

    def __init__(
        self, multiplier: float, base: float, allowed: int, breaks: Callable[[int], bool], prompt_ids: np.ndarray
    ) -> None:
        self._multiplier, self._base, self._allowed, self._breaks = multiplier, base, allowed, breaks
        self._ids = np.asarray(prompt_ids, np.int64)
        whole = next((n for n, i in enumerate(reversed(self._ids.tolist())) if breaks(i)), len(self._ids))
        # [j]: how many tokens before token j are also the last ones
        self._match = np.minimum(common_suffixes(self._ids.tolist()), whole)

    def apply(self, scores_Z: np.ndarray) -> None:
        at = np.flatnonzero((self._match >= self._allowed) & (self._ids < len(scores_Z)))
        at = at[np.argsort(self._match[at], kind="stable")]
        longest = dict(zip(self._ids[at].tolist(), self._match[at].tolist(), strict=True))  # the last one stays
        for token, length in longest.items():
            scores_Z[token] -= self._multiplier * power(self._base, length - self._allowed)

    def remember(self, token: int) -> None:
        match = np.where((self._ids == token) & (not self._breaks(token)), self._match + 1, 0)
        self._match = np.concatenate([[0], match])
        self._ids = np.append(self._ids, token)


class Forbidden:
    """Never chooses `ids`, nor `until` among the first `tokens`."""

    def __init__(self, ids: Iterable[int], until: Iterable[int], tokens: int) -> None:
        self._always, self._until, self._left = np.array([*ids], int), np.array([*until], int), tokens

    def apply(self, scores_Z: np.ndarray) -> None:
        for ids in (self._always, self._until) if self._left > 0 else (self._always,):
            scores_Z[ids[ids < len(scores_Z)]] = FORBIDDEN

    def remember(self, token: int) -> None:
        self._left -= 1


def power(base: float, exponent: int) -> float:
    """base ** exponent, at most about HUGE, by multiplications alone: every machine gives the same bits. base >= 1."""
    result = 1.0
    for _ in range(exponent if base > 1 else 0):
        result *= base
        if result > HUGE:
            break
    return result


def common_suffixes(ids: list[int]) -> np.ndarray:
    """[j]: the length of the longest common suffix of ids[:j] and all ids; 0 for j = 0. Linear time (Z algorithm)."""
    turned, n = ids[::-1], len(ids)
    z, left, right = [0] * n, 0, 0
    for i in range(1, n):
        k = min(right - i, z[i - left]) if i < right else 0
        while i + k < n and turned[k] == turned[i + k]:
            k += 1
        z[i] = k
        if i + k > right:
            left, right = i, i + k
    return np.array([0, *z[:0:-1]][:n], np.int64)

"""What is asked of the engine, and what it gives: a request, and the tokens of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ingot.engine.eyes import Visual
from ingot.engine.sampler import SamplingParams, never


@dataclass(frozen=True)
class Request:
    """What to continue: `ids` with `position` [3,T] (None: text) and the pictures in them, how to choose, and when to
    stop.

    `n` answers are wanted; answer i draws with the seed of `answer_seed`. None of the `stop_ids` is chosen among the
    first `min_tokens` tokens, none of the `banned_ids` ever. `logprobs`: how many of the likeliest tokens are told
    beside the chosen one; None tells nothing. `breaks` says which ids end a sequence that DRY looks for.
    """

    ids: Sequence[int] | np.ndarray
    position: np.ndarray | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 256
    stop_ids: frozenset[int] = frozenset()
    visuals: Sequence[Visual] = ()
    n: int = 1
    min_tokens: int = 0
    banned_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    breaks: Callable[[int], bool] = never


@dataclass(frozen=True)
class Token:
    """The next token of an answer: the answer's number, the token's id, whether the answer ends with it; with logprobs
    the natural logarithm of its probability, and the likeliest ids with theirs."""

    answer: int
    id: int
    last: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()

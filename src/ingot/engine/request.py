"""What is asked of the engine, and what it gives: a request, and the tokens of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ingot.engine.eyes import Visual
from ingot.engine.sampler import SamplingParams, never


@dataclass(frozen=True)
class Mark:
    """After `position` tokens of a prompt others are likely to go on, so a snapshot is kept. `kind`: "system",
    "breakpoint", "turn" (before an assistant's turn) or "media"."""

    position: int
    kind: str


@dataclass(frozen=True)
class Request:
    """What to continue: `ids` with `position` [3,T] (None: text) and the pictures in them, how to choose, and when to
    stop.

    `n` answers are wanted; answer i draws with the seed of `answer_seed`. None of the `stop_ids` is chosen among the
    first `min_tokens` tokens, none of the `banned_ids` ever. `logprobs`: how many of the likeliest tokens are told
    beside the chosen one; None tells nothing. `breaks` says which ids end a sequence that DRY looks for.

    With `cache` the prompt goes on from what the prefix cache has, and leaves there what it computed, at `marks` and
    where the engine sees fit; those with another `salt` never see it. A lower `priority` begins and reads first.
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
    marks: Sequence[Mark] = ()
    cache: bool = True
    salt: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Reuse:
    """What the prefix cache did for a prompt: it knew the first `matched` tokens, and the first `cached` were not
    computed again, `disk` of them read from disk. `expected`: ids that it knows behind the matched ones."""

    cached: int = 0
    matched: int = 0
    disk: int = 0
    expected: tuple[int, ...] = ()


@dataclass(frozen=True)
class Token:
    """The next token of an answer: the answer's number, the token's id, whether the answer ends with it; with logprobs
    the natural logarithm of its probability, and the likeliest ids with theirs. The first tells what was reused."""

    answer: int
    id: int
    last: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    reuse: Reuse | None = None

"""What a model returns: texts, messages, counts and times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

C = TypeVar("C")
P = TypeVar("P")


@dataclass(frozen=True)
class Prompt:
    """A text or conversation as the engine takes it: token `ids`, M-RoPE `positions`, int32 [3,T], and its pictures:
    each has the `rows` of the tokens it takes, its `grid` and its pixels as `patches`. `marks` are pairs of a number of
    tokens, after which other prompts are likely to go on otherwise, and a kind (`ingot.prompt.marks`)."""

    ids: Sequence[int] | np.ndarray
    positions: np.ndarray
    text: str = ""
    visuals: tuple[Any, ...] = ()
    marks: tuple[tuple[int, str], ...] = ()


@dataclass
class Usage:
    """Tokens counted and seconds spent: `prefill_s` until the first token, `decode_s` from then on. `cached_tokens` of
    the prompt came from the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 before the second token."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer: its text (with U+FFFD where it cuts a character), id, bytes, the natural logarithm of the
    probability that the model gave it, and the likeliest tokens at its place, best first, as OpenAI's
    `logprobs.content`."""

    token: str
    id: int
    logprob: float
    bytes: list[int]
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class Completion:
    """A continued text. `ids` includes the stop id, `text` neither it nor the stop string; finish_reason "stop" or
    "length". `logprobs`, if they were asked for, has one for each id; `seed` is what its draws came from; `reuse` tells
    what the prefix cache did for its prompt (`ingot.engine.Reuse`)."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    logprobs: list[TokenLogprob] | None = None
    seed: int | None = None
    reuse: Any = None


@dataclass
class ChatCompletion:
    """A message. finish_reason is "stop", "length" or "tool_calls"; `reasoning` is None when the model did not think.

    `incomplete_call` is a tool call that the end of the answer cut off: it must not be run. `ids`, `logprobs` (one for
    each id), `seed` and `reuse` as in Completion.
    """

    content: str = ""
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    incomplete_call: dict[str, Any] | None = None
    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    logprobs: list[TokenLogprob] | None = None
    seed: int | None = None
    reuse: Any = None

    @property
    def message(self) -> dict[str, Any]:
        """The turn as an OpenAI-style message, ready to append to the conversation."""
        turn: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            turn["reasoning_content"] = self.reasoning
        if self.tool_calls:
            turn["tool_calls"] = self.tool_calls
        return turn


class Stream(Generic[P, C]):
    """Iterate for the pieces; `completion` fills up meanwhile and is whole at the end. Closing or leaving it early
    frees the model; `completion.finish_reason` is None then.

    Of several answers the pieces are pairs (number of the answer, piece), and `completion` is the list of them.
    """

    def __init__(self, pieces: Iterator[P], completion: C) -> None:
        self._pieces, self.completion = pieces, completion

    def __iter__(self) -> Iterator[P]:
        return self

    def __next__(self) -> P:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generating."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    def finish(self) -> C:
        """The completion, after all pieces."""
        for _ in self._pieces:
            pass
        return self.completion

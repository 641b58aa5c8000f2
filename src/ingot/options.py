"""What a caller of `generate` and `chat` may say about an answer: checked, and completed by the model's own values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ingot.engine import SamplingParams
from ingot.engine.engine import is_count
from ingot.prompt import Tokenizer
from ingot.prompt.outside_text import check_unicode
from ingot.prompt.stop import StopText, checked_stops
from ingot.spec import TextConfig
from ingot.spec.presets import sampling_preset
from ingot.spec.text_file import shown

# What a checkpoint's generation_config.json may set for us; the rest of it configures other libraries.
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
)
SAMPLING = tuple(item.name for item in fields(SamplingParams))
DRY_BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's
MOST_LOGPROBS, MOST_ANSWERS = 20, 128  # OpenAI's limits
MOST_TOKENS = 2**31


@dataclass(frozen=True)
class Options:
    """The parameters that `generate` and `chat` share; ValueError names the parameter, its value and the rule."""

    max_tokens: int
    n: int = 1
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    preset: str | None = None
    dry_sequence_breakers: Sequence[str] = DRY_BREAKERS
    cache_prompt: bool = True
    cache_salt: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_count(self.max_tokens):
            raise ValueError(f"max_tokens is {shown(self.max_tokens)}; it must be a positive number of tokens")
        _whole("n", self.n, 1, MOST_ANSWERS)
        _whole("min_tokens", self.min_tokens, 0, MOST_TOKENS)
        _whole("top_logprobs", self.top_logprobs, 0, MOST_LOGPROBS)
        for name in ("ignore_eos", "logprobs", "cache_prompt"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {shown(getattr(self, name))}; it must be True or False")
        if not isinstance(self.cache_salt, str):
            raise ValueError(f"cache_salt is {shown(self.cache_salt)}; it must be a text")
        check_unicode(self.cache_salt, "cache_salt")
        if self.top_logprobs and not self.logprobs:
            raise ValueError(f"top_logprobs is {self.top_logprobs}, but logprobs is False\nhint: logprobs=True")
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}, more than max_tokens, which is {self.max_tokens}")
        for i in self.stop_token_ids:
            if not isinstance(i, int | np.integer) or isinstance(i, bool):
                raise ValueError(f"stop_token_ids holds {shown(i)}; token ids are integers")
        self.stops()
        _check_breakers(self.dry_sequence_breakers)
        unknown = sorted(set(self.sampling) - set(SAMPLING))
        if unknown:
            raise ValueError(f"{unknown[0]} is not a parameter; sampling takes {', '.join(SAMPLING)}")

    def stops(self) -> StopText:
        """A new search for the stop strings: each answer has its own."""
        return StopText(checked_stops(self.stop))

    def params(self, text: TextConfig, generation_config: Mapping[str, Any], thinking: bool) -> SamplingParams:
        """What the caller gave; for the rest the preset they named, or the checkpoint's generation_config.json, or the
        model card."""
        own = {k: v for k, v in generation_config.items() if k in SAMPLING_FIELDS and v is not None}
        if generation_config.get("do_sample") is False:
            own = {"temperature": 0}
        if self.preset is not None or not own:
            own = sampling_preset(text, thinking, self.preset or "general")
        given = {k: v for k, v in self.sampling.items() if v is not None}
        params = SamplingParams(**{**own, **given})
        if params.seed is None:  # drawn here, so that the answer can say which it was
            params = replace(params, seed=int.from_bytes(os.urandom(8), "little"))
        return params

    def breaks(self, tokenizer: Tokenizer | None) -> Callable[[int], bool]:
        """Whether a token's text holds one of the sequence breakers of DRY."""
        marks = [text.encode() for text in self.dry_sequence_breakers]
        known: dict[int, bool] = {}

        def test(token: int) -> bool:
            if token not in known:
                data = tokenizer.bytes_of([token]) if tokenizer else b""
                known[token] = any(mark in data for mark in marks)
            return known[token]

        return test


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}; it must be an integer from {low} to {high:,}")


def _check_breakers(given: Any) -> None:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(s, str) and s for s in given):
        raise ValueError(
            f"dry_sequence_breakers is {shown(given)}; it must be a list of texts of at least one character"
        )
    for text in given:
        check_unicode(text, "dry_sequence_breakers")

"""Choosing the next token. A choice is a function of the logits, the parameters, the sequence's ids, the seed and the
index of the token in the answer: it can be replayed anywhere. The draw itself is the op set's `choose`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.engine.penalties import FORBIDDEN, Bias, Dry, Edit, Forbidden, NoRepeatNgram, Seen
from ingot.spec.text_file import shown

MASK64 = 2**64 - 1
Choose = Callable[[np.ndarray, float, int, float, float, float], int | None]  # ops.choose


@dataclass(frozen=True)
class SamplingParams:
    """How to choose: temperature 0 is greedy. First logit_bias, then the penalties, DRY and no_repeat_ngram_size, then
    temperature, top_k, top_p, min_p, as in Hugging Face.

    logit_bias adds to the logits of token ids, -100 to 100 (OpenAI; ids may be written as text). presence and frequency
    penalties count the answer's own tokens (OpenAI), repetition_penalty the prompt's too (HF). dry_multiplier above 0
    charges dry_multiplier * dry_base ** (n - dry_allowed_length) for lengthening a repetition of n tokens (llama.cpp);
    no_repeat_ngram_size n forbids n tokens in a row that were there before (HF).
    Raises ValueError naming the parameter, its value and its range.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    no_repeat_ngram_size: int = 0  # 0: off
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    seed: int | None = None  # None: drawn for each request

    def __post_init__(self) -> None:
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))
        for name, range_of in RANGES.items():
            value = getattr(self, name)
            if not (name == "seed" and value is None):
                check_number(name, value, *range_of)


_ABOVE_0 = math.nextafter(0, 1)  # the smallest positive number
# name -> (lowest, highest, the rule in words, whether only whole numbers)
RANGES: dict[str, tuple[float, float, str, bool]] = {
    "temperature": (0, 100, "from 0 (greedy) to 100", False),
    "top_k": (0, 2**31, "0 (all) or a positive count", True),
    "top_p": (_ABOVE_0, 1, "above 0 and at most 1", False),
    "min_p": (0, 1, "from 0 to 1", False),
    "presence_penalty": (-2, 2, "from -2 to 2", False),
    "frequency_penalty": (-2, 2, "from -2 to 2", False),
    "repetition_penalty": (_ABOVE_0, 100, "above 0 and at most 100", False),
    "no_repeat_ngram_size": (0, 2**31, "0 (off) or a positive count of tokens", True),
    "dry_multiplier": (0, 100, "from 0 (off) to 100", False),
    "dry_base": (1, 100, "from 1 to 100", False),
    "dry_allowed_length": (1, 2**31, "a positive count of tokens", True),
    "seed": (-(2**63), MASK64, "a 64-bit integer", True),
}
BIAS = 100.0  # OpenAI's range: enough to force a token, or to forbid it


def check_number(name: str, value: Any, low: float, high: float, rule: str, whole: bool) -> None:
    """ValueError that names the parameter, the value and the rule, unless low <= value <= high."""
    number = isinstance(value, int | np.integer) if whole else isinstance(value, int | float | np.number)
    if not number or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}; it must be {'an integer, ' if whole else ''}{rule}")


def _checked_bias(given: Any) -> dict[int, float]:
    if not isinstance(given, Mapping):
        raise ValueError(f"logit_bias is {shown(given)}; it must be a mapping of token ids to numbers from -100 to 100")
    bias = {}
    for key, value in given.items():
        digits = isinstance(key, str) and key.isascii() and key.isdigit()
        if not digits and (not isinstance(key, int | np.integer) or isinstance(key, bool) or key < 0):
            raise ValueError(f"logit_bias holds {shown(key)}; its keys are token ids, as integers or as text")
        check_number(f"logit_bias[{key}]", value, -BIAS, BIAS, "from -100 to 100", False)
        if int(key) in bias:
            raise ValueError(f"logit_bias holds token {int(key)} twice; one bias an id is needed")
        bias[int(key)] = float(value)
    return bias


def uniform(seed: int, index: int) -> float:
    """A float in [0, 1) that is a function of (seed, index) alone (splitmix64's finaliser over both)."""
    x = _mix((seed & MASK64) + 0x9E3779B97F4A7C15)
    return (_mix(x ^ _mix(index + 0x632BE59BD9B4E019)) >> 11) * 2.0**-53


def _mix(x: int) -> int:
    x &= MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def never(token: int) -> bool:
    """No token ends a sequence that DRY looks for."""
    return False


def answer_seed(seed: int, index: int) -> int:
    """The seed of answer `index` of several to one prompt: seed + index, so that each can be asked for alone."""
    return (seed + index) & MASK64


class Sampler:
    """The sampler of one answer to `prompt_ids`; `vocabulary` ids may be chosen (the rows beyond the tokenizer are
    padding). `choose` is the op set's; `stop_ids`, `min_tokens`, `banned_ids` and `breaks` are the request's."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: np.ndarray,
        vocabulary: int,
        seed: int,
        choose: Choose,
        stop_ids: Iterable[int] = (),
        min_tokens: int = 0,
        banned_ids: Iterable[int] = (),
        breaks: Callable[[int], bool] = never,
    ) -> None:
        self.params, self.seed = params, seed
        self._choose, self._vocabulary, self._index = choose, vocabulary, 0
        self._edits = _edits(params, prompt_ids, vocabulary, breaks)
        if min_tokens or banned_ids:
            self._edits.append(Forbidden(banned_ids, stop_ids, min_tokens))

    def sample(self, logits_Z: np.ndarray) -> int:
        """The next token's id; ValueError when the logits hold NaN (damaged weights), rather than a silent token 0."""
        p, u = self.params, uniform(self.seed, self._index)
        scores_Z = self._edited(logits_Z[: self._vocabulary])
        token = self._choose(scores_Z, p.temperature, p.top_k, p.top_p, p.min_p, u)
        if token is None:
            raise ValueError(
                "the logits hold NaN: the weights are damaged or overflow\nhint: run with weights='f32' to find out"
            )
        if scores_Z[token] == FORBIDDEN and self._edits:
            raise ValueError("every token is forbidden, by no_repeat_ngram_size, min_tokens, ignore_eos or logit_bias")
        self._index += 1
        for edit in self._edits:
            edit.remember(token)
        return token

    def _edited(self, scores_Z: np.ndarray) -> np.ndarray:
        if self._edits:
            scores_Z = scores_Z.copy()
        for edit in self._edits:
            edit.apply(scores_Z)
        return scores_Z


def _edits(p: SamplingParams, prompt_ids: np.ndarray, vocabulary: int, breaks: Callable[[int], bool]) -> list[Edit]:
    edits: list[Edit] = []
    if p.logit_bias:
        edits.append(Bias(p.logit_bias))
    if p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0:
        penalties = p.repetition_penalty, p.presence_penalty, p.frequency_penalty
        edits.append(Seen(*penalties, prompt_ids, vocabulary))
    if p.dry_multiplier:
        edits.append(Dry(p.dry_multiplier, p.dry_base, p.dry_allowed_length, breaks, prompt_ids))
    if p.no_repeat_ngram_size:
        edits.append(NoRepeatNgram(p.no_repeat_ngram_size, prompt_ids))
    return edits

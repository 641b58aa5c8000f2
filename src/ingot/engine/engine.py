"""Tokens in, tokens out: prompts in slices, then one token a step. Knows ids, never text.

How the prompt is sliced changes memory and time, not one bit of the result (native op set).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ingot.engine.eyes import Eyes, Visual
from ingot.engine.prefix_cache import PrefixCache
from ingot.engine.request import Request
from ingot.engine.run import Part
from ingot.engine.scheduler import STEP_TOKENS, Scheduler
from ingot.engine.sequence import StatePool
from ingot.engine.speculate import MOST_DRAFTS, Pace
from ingot.ops import Segments
from ingot.spec import Config
from ingot.spec.config import MAX_YARN
from ingot.spec.cost import window_bytes


class Engine:
    """A model, its op set and the states of its sequences, keys and values in the format `kv`. `vocabulary` ids may be
    generated (rows beyond it are padding); what `available` bytes of memory cannot hold is refused before it runs.
    `load_vision` gives the vision tower, when the first picture comes. The prefix cache keeps `cache_bytes` at most of
    what was computed, for those who go on from there. `speculate` (one of `SPECULATE`) says whether tokens are tried
    before they are known."""

    def __init__(
        self,
        root: Any,
        ops: Any,
        config: Config,
        vocabulary: int | None = None,
        kv: str = "f32",
        available: Callable[[], int | None] = lambda: None,
        load_vision: Callable[[Callable[[], None]], Any] | None = None,
        cache_bytes: int = 0,
        speculate: str = "off",
    ) -> None:
        self.root, self.ops, self.config = root, ops, config
        rows = config.text.vocab_size
        self.vocabulary = rows if vocabulary is None else min(vocabulary, rows)
        self.states = StatePool(ops, config, kv, available)
        self.cache = PrefixCache(self.states, cache_bytes)
        self.eyes = Eyes(ops, config, load_vision)
        self.speculate, self.pace = speculate, Pace()
        self.tried = self.accepted = 0  # drafts, so far
        if speculate != "off":
            self.states.window_bytes = window_bytes(config, MOST_DRAFTS) + 4 * MOST_DRAFTS * rows  # and their logits

    @property
    def context(self) -> int:
        """Most tokens a sequence may have."""
        return self.config.text.context

    def logits(
        self,
        ids: Sequence[int] | np.ndarray,
        position: np.ndarray | None = None,
        chunk: int | None = None,
        visuals: Sequence[Visual] = (),
    ) -> np.ndarray:
        """float32 [T, vocab_size], every token's; `chunk` tokens a pass (1 is decode), None: `STEP_TOKENS`."""
        tokens = self._checked(ids)
        if chunk is not None and not is_count(chunk):
            raise ValueError(f"chunk is {chunk!r}; it must be a positive number of tokens a pass")
        self.states.check(len(tokens))
        sequence = self.states.open()
        try:
            self.states.reserve(sequence, len(tokens))
            passes = [
                self.forward([Part(sequence, part, at, visuals)])
                for part, at in _slices(tokens, position, chunk or STEP_TOKENS)
            ]
        finally:
            self.states.close(sequence)
        return np.concatenate(passes)

    def generate(self, request: Request) -> Iterator[int]:
        """The ids of the answer one by one, the stop id included; ends after it, after max_tokens, or when the context
        is full.

        The request is checked before the first pass; closing the iterator (or Ctrl-C) frees its state.
        """
        scheduler = self.scheduler(1)
        scheduler.add(request)
        return _ids(scheduler)

    def scheduler(self, width: int, slice_s: float | None = None, canary: float = 0.0) -> Scheduler:
        """For requests that run together, `width` answers at a time; the others as `Scheduler` has them."""
        return Scheduler(self, width, slice_s, canary)

    def forward(self, parts: Sequence[Part], rows: np.ndarray | None = None) -> np.ndarray:
        """One pass over the next tokens of several sequences: the logits of the given rows of it (None: of all)."""
        seg = Segments.joined([self.states.segments(p.sequence, p.position, len(p.ids), p.tried) for p in parts])
        logits = self.root(
            self.ops,
            np.concatenate([part.ids for part in parts]),
            seg,
            self.states.pools,
            rows,
            features=self.eyes.of_parts(parts),
        )
        for part in parts:
            self.states.took(part.sequence, len(part.ids) - part.tried)
        out: np.ndarray = self.ops.host(logits)
        return out

    def checked(self, request: Request) -> np.ndarray:
        """The request's ids as the graph takes them; ValueError for what cannot run."""
        ids = self._checked(request.ids)
        for name in ("max_tokens", "n"):
            if not is_count(getattr(request, name)):
                unit = "tokens" if name == "max_tokens" else "answers"
                raise ValueError(f"{name} is {getattr(request, name)!r}; it must be a positive number of {unit}")
        if len(ids) >= self.context:
            raise ValueError(
                f"the prompt has {len(ids):,} tokens; this model's context holds {self.context:,} with the answer"
                f"{self._longer(ids)}"
            )
        bad = [i for i in request.sampling.logit_bias if i >= self.vocabulary]
        if bad:
            raise ValueError(f"logit_bias holds token {bad[0]}; this model's token ids are 0 to {self.vocabulary - 1}")
        return ids

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids)
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"ids has shape {array.shape}; one dimension with at least one token is needed")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"ids are {array.dtype}; token ids are integers")
        limit = self.config.text.vocab_size
        bad = array[(array < 0) | (array >= limit)]
        if bad.size:
            raise ValueError(f"ids holds {int(bad[0])}; this model's token ids are 0 to {limit - 1}")
        if len(array) > self.context:
            raise ValueError(
                f"the prompt has {len(array):,} tokens; this model's context holds {self.context:,}"
                f"{self._longer(array)}"
            )
        return array.astype(np.int32)

    def _longer(self, ids: np.ndarray) -> str:
        """A hint line for a prompt that is too long."""
        factor = len(ids) // self.context + 1
        if self.config.text.rope_parameters.rope_type != "default" or factor > MAX_YARN:
            return "\nhint: shorten it"
        return f"\nhint: shorten it, or load the model with a longer context: yarn={factor} (--yarn {factor})"


def is_count(value: Any) -> bool:
    """Whether it is a positive whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _ids(scheduler: Scheduler) -> Iterator[int]:
    try:
        while scheduler.unfinished:
            for token in scheduler.step():
                yield token.id
    finally:
        scheduler.close()


def _slices(ids: np.ndarray, position: np.ndarray | None, size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    for begin in range(0, len(ids), size):
        yield ids[begin : begin + size], None if position is None else position[:, begin : begin + size]

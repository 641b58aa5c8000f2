"""Tokens in, tokens out: prefill in slices, then one token a step. Knows ids, never text.

How the prompt is sliced changes memory and time, not one bit of the result (native op set).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.engine.eyes import Eyes, Visual
from ingot.engine.sampler import Sampler, SamplingParams
from ingot.engine.sequence import StatePool
from ingot.spec import Config

# Tokens a prefill pass takes at most: it bounds the workspace, and a Ctrl-C waits no longer than one pass (taste; on
# 0.8B the activations of 256 tokens are 33 MB: `ingot.spec.cost.memory`).
STEP_TOKENS = 256


@dataclass(frozen=True)
class Request:
    """What to continue: `ids` with `position` [3,T] (None: text) and the pictures in them, how to choose, and when to
    stop."""

    ids: Sequence[int] | np.ndarray
    position: np.ndarray | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 256
    stop_ids: frozenset[int] = frozenset()
    visuals: Sequence[Visual] = ()


class Engine:
    """A model, its op set and the states of its sequences, keys and values in the format `kv`. `vocabulary` ids may be
    generated (rows beyond it are padding); what `available` bytes of memory cannot hold is refused before it runs.
    `load_vision` gives the vision tower, when the first picture comes."""

    def __init__(
        self,
        root: Any,
        ops: Any,
        config: Config,
        vocabulary: int | None = None,
        kv: str = "f32",
        available: Callable[[], int | None] = lambda: None,
        load_vision: Callable[[], Any] | None = None,
    ) -> None:
        self.root, self.ops, self.config = root, ops, config
        rows = config.text.vocab_size
        self.vocabulary = rows if vocabulary is None else min(vocabulary, rows)
        self.states = StatePool(ops, config, kv, available)
        self.eyes = Eyes(ops, config, load_vision)

    @property
    def context(self) -> int:
        """Most tokens a sequence may have."""
        return self.config.text.max_position_embeddings

    def logits(
        self,
        ids: Sequence[int] | np.ndarray,
        position: np.ndarray | None = None,
        chunk: int | None = None,
        visuals: Sequence[Visual] = (),
    ) -> np.ndarray:
        """float32 [T, vocab_size], every token's; `chunk` tokens a pass (1 is decode), None: `STEP_TOKENS`."""
        tokens = self._checked(ids)
        if chunk is not None and not _is_count(chunk):
            raise ValueError(f"chunk is {chunk!r}; it must be a positive number of tokens a pass")
        self.states.check(len(tokens))
        sequence = self.states.open()
        try:
            self.states.reserve(sequence, len(tokens))
            passes = [
                self._run(sequence, part, at, None, visuals)
                for part, at in _slices(tokens, position, chunk or STEP_TOKENS)
            ]
        finally:
            self.states.close(sequence)
        return np.concatenate(passes)

    def generate(self, request: Request) -> Iterator[int]:
        """The continuation's ids one by one, the stop id included; ends after it, after max_tokens, or when the context
        is full.

        The request is checked before the first pass; closing the iterator (or Ctrl-C) frees its state.
        """
        ids = self._checked(request.ids)
        if not _is_count(request.max_tokens):
            raise ValueError(f"max_tokens is {request.max_tokens!r}; it must be a positive number of tokens")
        if len(ids) >= self.context:
            raise ValueError(
                f"the prompt has {len(ids):,} tokens; this model's context holds {self.context:,} with the answer"
            )
        self.states.check(min(len(ids) + request.max_tokens, self.context))
        return self._generate(request, ids)

    def _generate(self, request: Request, ids: np.ndarray) -> Iterator[int]:
        seed = request.sampling.seed
        seed = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed)
        sampler = Sampler(request.sampling, ids, self.vocabulary, seed, self.ops.choose)
        sequence = self.states.open()
        try:
            # all pages at once: growing would copy them again and again, and memory is taken as they are written
            self.states.reserve(sequence, min(len(ids) + request.max_tokens, self.context))
            for part, at in _slices(ids, request.position, STEP_TOKENS):
                row = self._run(sequence, part, at, np.array([len(part) - 1]), request.visuals)
            if request.position is not None:
                sequence.rope_delta = int(request.position.max()) + 1 - len(ids)
            for left in range(min(request.max_tokens, self.context - len(ids)), 0, -1):
                token = sampler.sample(row[-1])
                yield token
                if token in request.stop_ids or left == 1:
                    return
                row = self._run(sequence, np.array([token]), None, None)
        finally:
            self.states.close(sequence)

    def _run(
        self,
        sequence: Any,
        ids: np.ndarray,
        position: np.ndarray | None,
        rows: np.ndarray | None,
        visuals: Sequence[Visual] = (),
    ) -> np.ndarray:
        features = self.eyes.of_slice(visuals, sequence.length, sequence.length + len(ids))
        seg = self.states.segments(sequence, position, len(ids))
        logits = self.root(self.ops, ids, seg, self.states.pools, rows, features=features)
        sequence.length += len(ids)
        out: np.ndarray = self.ops.host(logits)
        return out

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
            raise ValueError(f"ids has {len(array):,} tokens; this model's context holds {self.context:,}")
        return array.astype(np.int32)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _slices(ids: np.ndarray, position: np.ndarray | None, size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    for begin in range(0, len(ids), size):
        yield ids[begin : begin + size], None if position is None else position[:, begin : begin + size]

"""How fast a loaded model is here, beside what this machine could at most do: the measurements of `ingot bench`.

The limits are the kernels' own: memory read by the pool that computes, and matrices that fit the cache multiplied by
the kernels that multiply the model's. A clone has `python -m bench.limits`, which knows the hardware's peaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ingot.engine import STEP_TOKENS, Engine
from ingot.spec.roof import Limits
from ingot.store import tensor_of

READ_BYTES = (1 << 20, 1 << 29)  # the least and the most to read: 512 MiB are several times the largest cache
SWEEP_BYTES = 1 << 28  # what one timed reading moves at least
SHAPES = ((256, 1024, 1024), (512, 2048, 1024))  # rows, outputs, inputs: they fit a level-2 cache, or nearly
READINGS = 5


def machine_limits(ops: Any, fmt: str, pass_bytes: int) -> Limits:
    """What the op set `ops` can at most do with weights in `fmt` when a pass reads `pass_bytes`: a small model's
    weights stay in a cache, and the bound is then the cache's."""
    return Limits(read_rate(ops, pass_bytes), matrix_rate(ops, fmt), matrix_rate(ops, "f32"))


def read_rate(ops: Any, nbytes: int) -> float:
    """Bytes a second that the op set's threads read, again and again from `nbytes` bytes; the best of five."""
    size = min(max(nbytes, READ_BYTES[0]), READ_BYTES[1]) // 64 * 64
    data = np.ones(size, np.uint8)
    sweeps = max(1, SWEEP_BYTES // size)
    read: Callable[[Any], Any] = getattr(ops, "read_memory", None) or np.bitwise_or.reduce
    words = data if hasattr(ops, "read_memory") else data.view(np.uint64)
    return sweeps * size / min(_timed(lambda: [read(words) for _ in range(sweeps)]) for _ in range(READINGS))


def matrix_rate(ops: Any, fmt: str) -> float:
    """Operations a second of a product that stays in the cache; the best of five, and of two shapes."""
    return max(_matrix_rate(ops, fmt, *shape) for shape in SHAPES)


def _matrix_rate(ops: Any, fmt: str, rows: int, outputs: int, inputs: int) -> float:
    rng = np.random.default_rng(0)
    leaf = ops.matrix(tensor_of(rng.standard_normal((outputs, inputs), np.float32), "F32"), fmt)
    x = rng.standard_normal((rows, inputs), np.float32)
    once = min(_timed(lambda: ops.linears(x, leaf)) for _ in range(READINGS))
    times = max(1, int(0.05 / once))  # 50 ms: longer than a thread takes to wake
    best = min(_timed(lambda: [ops.linears(x, leaf) for _ in range(times)]) for _ in range(READINGS))
    return 2.0 * rows * outputs * inputs * times / best


def prefill_s(engine: Engine, tokens: int) -> float:
    """Seconds from a prompt of `tokens` tokens to its last logits."""
    with _Running(engine) as sequence:
        return _timed(lambda: sequence.feed(tokens))


def step_s(engine: Engine, depth: int, rows: int, steps: int) -> float:
    """Median seconds of a pass of `rows` tokens behind `depth` others, with all its logits: one row is a decoding
    step, more are drafts to verify."""
    with _Running(engine) as sequence:
        sequence.feed(depth)
        sequence.step(rows)  # wakes the pool, takes the pages
        return float(np.median([_timed(lambda: sequence.step(rows)) for _ in range(steps)]))


class _Running:
    """A sequence that is fed arbitrary tokens, and closed at the end."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.states = engine, engine.states

    def __enter__(self) -> _Running:
        self.sequence = self.states.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.states.close(self.sequence)

    def feed(self, tokens: int) -> None:
        """A prompt in the engine's slices, the last logits of each."""
        self.states.reserve(self.sequence, self.sequence.length + tokens)
        for begin in range(0, tokens, STEP_TOKENS):
            count = min(STEP_TOKENS, tokens - begin)
            self._run(count, np.array([count - 1]))

    def step(self, rows: int) -> None:
        self._run(rows, None)

    def _run(self, count: int, rows: Any) -> None:
        ids = (np.arange(count, dtype=np.int32) * 7919 + self.sequence.length) % self.engine.vocabulary
        segments = self.states.segments(self.sequence, None, count)
        ops = self.engine.ops
        ops.host(self.engine.root(ops, ids.astype(np.int32), segments, self.states.pools, rows))
        self.sequence.length += count


def _timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin

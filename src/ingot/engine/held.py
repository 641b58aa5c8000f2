"""Prompts that begin alike and come together: one is read, and those behind it begin where they part from it.

Who is held waits for one run, which is no slower than to read the same tokens beside it: the run is at least as far as
the request would begin, and its priority is no worse. So it is with one that comes from disk, if it will be so far.
Whatever becomes of runs and snapshots, nobody is held for ever: a request is held by those only that came before it,
and by each until it has read so far, or ended. Chains need no rule of their own: a third that shares more with the
second than the second with the first parts from the first where the second does, goes on when it does, and is then
held by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ingot.engine.keys import alike
from ingot.engine.opening import JUNCTION, Opening, Waiting
from ingot.engine.run import Run


def is_held(opening: Opening, waiting: Waiting, runs: Iterable[Run], coming: Iterable[Waiting]) -> bool:
    """Whether a request does well to wait until one of the others has read what both begin with; there a snapshot will
    be kept."""
    reader = waiting.reader
    if reader is None or reader not in [*runs, *coming] or not _reads(reader, 0, waiting.parts):
        waiting.reader = _reader(opening, waiting, runs, coming)
    return waiting.reader is not None


def _reader(opening: Opening, waiting: Waiting, runs: Iterable[Run], coming: Iterable[Waiting]) -> Run | Waiting | None:
    """The one that shares most with a request and has not read it yet."""
    request, cached = waiting.request, opening.match(waiting).cached
    if not request.cache:
        return None
    best, most = None, cached + JUNCTION - 1
    for reader, number, keys in _readers(runs, coming):
        other = reader.request
        if number > waiting.first or other.salt != request.salt or other.priority > request.priority:
            continue
        parts = alike(keys, waiting.keys[:-1])  # the last token gives the logits
        if parts > most and _reads(reader, cached, parts):
            best, most = reader, parts
    if best is not None:
        waiting.parts = best.keep_at(most) if isinstance(best, Run) else most
    return best


def _readers(runs: Iterable[Run], coming: Iterable[Waiting]) -> Iterator[tuple[Run | Waiting, int, np.ndarray]]:
    """Those who read for the prefix cache, their numbers and keys."""
    for run in runs:
        if run.sequence.keys is not None:
            yield run, run.answer, run.sequence.keys[:]
    for other in coming:
        yield other, other.first, other.keys


def _reads(reader: Run | Waiting, begin: int, end: int) -> bool:
    """Whether it has read the first tokens, and is still to read the last ones; or will have, when it has come."""
    if isinstance(reader, Waiting):
        return begin < reader.until <= end
    sequence = reader.sequence
    return not reader.decodes and sequence.keys is not None and begin <= sequence.length < end

"""Prompts that begin alike and come together: one is read, and those behind it begin where they part from it.

Who is held waits for one run, which is no slower than to read the same tokens beside it: the run is at least as far as
the request would begin, and its priority is no worse. Whatever becomes of runs and snapshots, nobody is held for ever:
a request is held by those only that came before it, and by each until it has read so far, or ended. Chains need no
rule of their own: a third that shares more with the second than the second with the first parts from the first where
the second does, goes on when it does, and is then held by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ingot.engine.keys import alike
from ingot.engine.opening import JUNCTION, Opening, Waiting
from ingot.engine.run import Run


def is_held(opening: Opening, waiting: Waiting, runs: Sequence[Run]) -> bool:
    """Whether a request does well to wait until one of the runs has read what both begin with; there a snapshot will be
    kept."""
    reader = waiting.reader
    if reader is None or reader not in runs or not _is_before(reader, waiting.parts):
        waiting.reader = _reader(opening, waiting, runs)
    return waiting.reader is not None


def _reader(opening: Opening, waiting: Waiting, runs: Sequence[Run]) -> Run | None:
    """The run that shares most with a request and has not read it yet."""
    request, cached = waiting.request, opening.match(waiting).cached
    if not request.cache:
        return None
    best, most = None, cached + JUNCTION - 1
    for run in runs:
        other, keys = run.request, run.sequence.keys
        if keys is None or run.answer > waiting.first or run.sequence.length < cached:
            continue
        if other.salt != request.salt or other.priority > request.priority:
            continue
        parts = alike(keys[:], waiting.keys[:-1])  # the last token gives the logits
        if parts > most and _is_before(run, parts):
            best, most = run, parts
    if best is not None:
        waiting.parts = best.keep_at(most)
    return best


def _is_before(run: Run, position: int) -> bool:
    """Whether a run is still to read the token before a position, for the prefix cache."""
    return not run.decodes and run.sequence.keys is not None and run.sequence.length < position

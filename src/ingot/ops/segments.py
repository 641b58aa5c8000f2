"""Which tokens of a forward pass belong together: the only thing about raggedness that the graph and the ops know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Keys a page of the attention cache holds, and the block in which attention reduces. One number on purpose: a block
# must not depend on how the prompt was cut. 64 keys of head dim 256 in fp32 are 64 KiB: a page of K fits the smallest
# L2 (taste).
PAGE = 64


@dataclass(frozen=True)
class Segments:
    """Integer arrays that describe the T tokens of one forward pass as S runs, each of one sequence.

    A run with start 0 begins from zero state, whatever its slot holds. Built once a pass on the host; no op asks an
    array for an item on a device.

    A run may try tokens that are not certain: the state takes the first `commit` of them (None: all), and what the
    others would do to it waits among the slot's drafts. The sequence's next pass says how many were `accepted`, counted
    in its `start` too: the state takes these first.
    """

    offset: np.ndarray  # int32 [S+1]  tokens of run s are offset[s]:offset[s+1]
    start: np.ndarray  # int32 [S]    tokens the sequence had before; 0 in training
    position: np.ndarray  # int32 [3,T]  M-RoPE positions (temporal, height, width)
    slot: np.ndarray  # int32 [S]    row of the state pools; -1: no state
    pages: np.ndarray  # int32 [S,P]  page table: key j of the sequence is row j % PAGE of page pages[s, j // PAGE]
    causal: bool = True  # False: every token of a run sees the whole run
    accepted: np.ndarray | None = None  # int32 [S]  drafts of the slot that the state takes before the run; None: 0
    commit: np.ndarray | None = None  # int32 [S]  tokens of the run that the state takes; the others become drafts

    @property
    def tokens(self) -> int:
        """T, the tokens of the pass."""
        return int(self.offset[-1])

    @staticmethod
    def of_lengths(lengths: Sequence[int], position: np.ndarray | None = None, causal: bool = True) -> Segments:
        """Stateless runs of the given lengths (training, scoring); text positions 0.. in each unless `position` [3,T]
        says."""
        offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        if position is None:
            position = np.tile(np.concatenate([np.arange(0), *map(np.arange, lengths)]), (3, 1)).astype(np.int32)
        runs = len(lengths)
        none = np.full(runs, -1, np.int32)
        return Segments(offset, np.zeros(runs, np.int32), position, none, np.zeros((runs, 0), np.int32), causal)

    @staticmethod
    def joined(parts: Sequence[Segments]) -> Segments:
        """One pass of the runs of several."""
        if len(parts) == 1:
            return parts[0]
        widest, lengths = max(part.pages.shape[1] for part in parts), [np.diff(part.offset) for part in parts]
        accepted = [np.zeros_like(part.start) if part.accepted is None else part.accepted for part in parts]
        commit = [n if part.commit is None else part.commit for part, n in zip(parts, lengths, strict=True)]
        return Segments(
            offset=np.cumsum([0, *(n for each in lengths for n in each)]).astype(np.int32),
            start=np.concatenate([part.start for part in parts]),
            position=np.ascontiguousarray(np.concatenate([part.position for part in parts], axis=1)),
            slot=np.concatenate([part.slot for part in parts]),
            pages=np.concatenate([np.pad(part.pages, ((0, 0), (0, widest - part.pages.shape[1]))) for part in parts]),
            causal=parts[0].causal,
            accepted=None if all(part.accepted is None for part in parts) else np.concatenate(accepted),
            commit=None if all(part.commit is None for part in parts) else np.concatenate(commit),
        )
